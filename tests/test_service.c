/*
 * test_service.c - the three programs together, as a person uses them: real processes, real ranks under
 * mpirun, real sockets; kills at awkward moments. Runs the binaries of the build that made this test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/golden.h"

enum { TEXT_BYTES = 65536, PATH_BYTES = 512 };

static char build[PATH_BYTES];     /* where the programs are */
static char directory[PATH_BYTES]; /* of this run: data, results, TMPDIR */

/* ------------------------------------------------------------------------------------------------------------
 * shell */

/* Runs a command line (the programs' directory is on its PATH) and returns its exit code; `output` holds both
 * streams. */
static int shell(char *output, const char *format, ...)
{
    char command[4096], line[4600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    snprintf(line, sizeof line, "{ %s; } 2>&1", command);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    size_t got = fread(output, 1, TEXT_BYTES - 1, pipe);
    output[got] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The same, expected to succeed. */
static void run(char *output, const char *format, ...)
{
    char command[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    int code = shell(output, "%s", command);
    if (code != 0) fail_msg("%s\nexit %d: %s", command, code, output);
}

/* Starts a program that goes on running. */
static pid_t start(const char *format, ...)
{
    char command[4096], line[4200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    snprintf(line, sizeof line, "exec %s", command);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing outlives a test that is stopped */
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void wait_exit(pid_t pid, int seconds)
{
    int64_t deadline_ns = clock_now_ns() + seconds * SECOND_NS;
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (clock_now_ns() > deadline_ns) fail_msg("process %d did not end within %d s", (int)pid, seconds);
        usleep(20000);
    }
}

static bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Processes of ours whose command line mentions this run's directory. */
static int processes_left(void)
{
    int count = 0;
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    assert_non_null(proc);
    while ((entry = readdir(proc))) {
        char path[300], text[4096];
        long pid = strtol(entry->d_name, NULL, 10);
        if (pid <= 0 || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%ld/environ", pid);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        size_t got = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        for (size_t i = 0; i < got; i++)
            if (!text[i]) text[i] = '\n';
        text[got] = 0;
        count += strstr(text, directory) != NULL;
    }
    closedir(proc);
    return count;
}

static void expect_nothing_left(void)
{
    for (int i = 0; i < 250 && processes_left(); i++) usleep(20000); /* 5 s */
    if (processes_left()) fail_msg("%d processes are left behind", processes_left());
}

/* ----------------------------------------------------------------------------------------------------------
 * fixtures */

static int set_up(void **state)
{
    char program[PATH_BYTES], path[2 * PATH_BYTES + 64];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    snprintf(build, sizeof build, "%s/..", dirname(program));
    snprintf(directory, sizeof directory, "/tmp/refrain-service-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s:%s", build, getenv("PATH"));
    setenv("PATH", path, 1);
    setenv("TMPDIR", directory, 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    return 0;
}

static int tear_down(void **state)
{
    char text[TEXT_BYTES];
    shell(text, "rm -rf %s", directory);
    return 0;
}

#define CLIP                                                                                                 \
    "--model models/reference --prompt 'a small blue ring moving left on a white background' --seed 5 "      \
    "--steps 6 --guidance 4 --width 48 --height 64 --frames 9"

static void expect_equal_files(const char *a, const char *b)
{
    char text[TEXT_BYTES];
    if (shell(text, "cmp %s %s", a, b) != 0) fail_msg("%s", text);
}

/* ---------------------------------------------------------------------------------------------------------
 * one shot */

static void any_number_of_ranks_makes_the_same_video(void **state)
{
    char text[TEXT_BYTES], one[PATH_BYTES + 32], other[PATH_BYTES + 32];
    snprintf(one, sizeof one, "%s/r1", directory);
    run(text,
        "refrain generate " CLIP " --ranks 1 --threads 2 --output %s.mp4 --save-latents %s.safetensors "
        "--save-frames %s.frames",
        one, one, one);
    for (int ranks = 2; ranks <= 5; ranks++) {
        snprintf(other, sizeof other, "%s/r%d", directory, ranks);
        run(text,
            "refrain generate " CLIP " --ranks %d --threads 1 --output %s.mp4 --save-latents %s.safetensors "
            "--save-frames %s.frames",
            ranks, other, other, other);
        char a[PATH_BYTES + 64], b[PATH_BYTES + 64];
        static const char *const endings[] = {"safetensors", "frames", "mp4", "png"};
        for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
            snprintf(a, sizeof a, "%s.%s", one, endings[i]);
            snprintf(b, sizeof b, "%s.%s", other, endings[i]);
            expect_equal_files(a, b);
        }
    }
    expect_nothing_left();
}

static void the_mpi_fabric_makes_the_same_video(void **state)
{
    char text[TEXT_BYTES], a[PATH_BYTES + 64], b[PATH_BYTES + 64];
    snprintf(a, sizeof a, "%s/zmq.safetensors", directory);
    snprintf(b, sizeof b, "%s/mpi.safetensors", directory);
    run(text, "refrain generate " CLIP " --ranks 3 --fabric zmq --output %s/v.mp4 --save-latents %s",
        directory, a);
    run(text, "refrain generate " CLIP " --ranks 3 --fabric mpi --output %s/v.mp4 --save-latents %s",
        directory, b);
    expect_equal_files(a, b);
    expect_nothing_left();
}

static void the_video_can_be_played(void **state)
{
    char text[TEXT_BYTES];
    run(text, "refrain generate " CLIP " --ranks 2 --fps 12 --output %s/play.mp4", directory);
    run(text,
        "ffprobe -v error -count_frames -show_entries "
        "stream=codec_name,width,height,nb_read_frames,r_frame_rate "
        "-of csv=p=0 %s/play.mp4",
        directory);
    if (!strstr(text, "h264,48,64,12/1,9")) fail_msg("ffprobe says %s", text);
    run(text, "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 %s/play.png", directory);
    assert_non_null(strstr(text, "png"));
}

static void odd_checkpoints_run_over_ranks(void **state)
{
    char text[TEXT_BYTES];
    run(text,
        "refrain generate --model tests/models/tiny-b --prompt 'a star' --steps 3 --width 64 --height 48 "
        "--frames 5 "
        "--ranks 2 --output %s/tiny.mp4",
        directory);
    /* more ranks than layers: the rest stay idle */
    run(text,
        "refrain generate --model tests/models/tiny-c --prompt 'a star' --steps 3 --width 64 --height 48 "
        "--frames 5 "
        "--ranks 3 --output %s/tiny.mp4",
        directory);
}

static void a_broken_checkpoint_is_refused_with_a_sentence(void **state)
{
    char text[TEXT_BYTES];
    run(text, "cp -r models/reference %s/broken && rm %s/broken/transformer/*-00002-of-*", directory,
        directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/broken --prompt x --width 64 --height 64 --frames 5 "
              "--output %s/no.mp4",
              directory, directory),
        0);
    assert_non_null(strstr(text, "shard 2 of 3 is missing"));
    run(text,
        "rm -rf %s/broken && cp -r models/reference %s/broken && truncate -s -100 "
        "%s/broken/vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        directory, directory, directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/broken --prompt x --width 64 --height 64 --frames 5 "
              "--output %s/no.mp4",
              directory, directory),
        0);
    assert_non_null(strstr(text, "diffusion_pytorch_model-00001-of-00002.safetensors"));
    run(text, "rm -rf %s/broken", directory);
    expect_nothing_left();
}

/* Weights that are numbers but not sensible ones: the step that shows it is named, and the service would stay
 * up. */
static void a_latent_that_is_not_finite_fails_the_job(void **state)
{
    char text[TEXT_BYTES];
    run(text,
        "cp -r models/reference %s/nan && printf '\\377\\377\\377\\377' | dd conv=notrunc bs=1 seek=20000 "
        "of=%s/nan/transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        directory, directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/nan --prompt x --width 64 --height 64 --frames 5 --steps 3 "
              "--output %s/no.mp4",
              directory, directory),
        0);
    assert_non_null(strstr(text, "not finite"));
    run(text, "rm -rf %s/nan", directory);
}

static void interrupting_generate_leaves_nothing(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGKILL};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        pid_t pid =
            start("refrain generate --model models/reference --prompt x --steps 900 --width 64 --height 64 "
                  "--frames 17 --ranks 2 --output %s/never.mp4 >%s/log 2>&1",
                  directory, directory);
        usleep(400000 * (useconds_t)(i + 1));
        kill(pid, signals[i]);
        wait_exit(pid, 10);
        expect_nothing_left();
    }
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "%s/never.mp4", directory);
    assert_false(file_exists(text));
}

/* -----------------------------------------------------------------------------------------------------------
 * service */

struct service {
    pid_t coordinator;
    char data[PATH_BYTES + 16], endpoint[PATH_BYTES + 32];
};

static void service_start(struct service *s, const char *name, int ranks)
{
    char ready[PATH_BYTES + 64];
    snprintf(s->data, sizeof s->data, "%s/%s", directory, name);
    snprintf(s->endpoint, sizeof s->endpoint, "ipc://%s.client", s->data);
    snprintf(ready, sizeof ready, "%s.ready", s->data);
    unlink(ready);
    s->coordinator =
        start("refrain-coordinator --data %s --launch %d --endpoint %s --worker-endpoint ipc://%s.worker "
              "--endpoint-file %s 2>>%s.log",
              s->data, ranks, s->endpoint, s->data, ready, s->data);
    setenv("REFRAIN_COORDINATOR", s->endpoint, 1);
    for (int i = 0; i < 500 && !file_exists(ready); i++) usleep(20000);
    assert_true(file_exists(ready));
}

static void service_stop(struct service *s)
{
    kill(s->coordinator, SIGTERM);
    wait_exit(s->coordinator, 15);
    expect_nothing_left();
}

static void jobs_queue_and_each_gets_its_own_video(void **state)
{
    struct service s;
    char text[TEXT_BYTES];
    service_start(&s, "queue", 2);
    run(text, "refrain models add ref models/reference");
    for (int i = 0; i < 4; i++)
        run(text,
            "refrain submit --model ref --prompt 'a red star' --seed %d --steps 4 --width 48 --height 48 "
            "--frames 5 "
            "--save-latents %s/q%d.safetensors --quiet",
            i % 2, directory, i);
    run(text, "refrain list");
    for (int i = 1; i <= 4; i++) run(text, "refrain watch %d", i);
    run(text, "refrain list --json");
    assert_non_null(strstr(text, "completed"));
    for (int i = 1; i <= 4; i++)
        run(text, "refrain result %d --output %s/q%d.mp4 --save-latents %s/q%d.safetensors", i, directory, i,
            directory, i);
    char a[PATH_BYTES + 32], b[PATH_BYTES + 32];
    snprintf(a, sizeof a, "%s/q1.safetensors", directory);
    snprintf(b, sizeof b, "%s/q3.safetensors", directory);
    expect_equal_files(a, b); /* seeds 0, 1, 0, 1 */
    assert_int_not_equal(shell(text, "cmp %s %s/q2.safetensors", a, directory), 0);
    run(text, "refrain stats");
    run(text, "refrain delete 1");
    assert_int_equal(shell(text, "refrain status 1"), 4);
    service_stop(&s);
}

static void a_job_survives_its_client_and_can_be_cancelled(void **state)
{
    struct service s;
    char text[TEXT_BYTES];
    service_start(&s, "cancel", 2);
    run(text, "refrain models add ref models/reference");
    pid_t client = start(
        "refrain submit --model ref --prompt 'a red star' --steps 1000 --width 64 --height 64 --frames 17 "
        "--wait >/dev/null 2>&1");
    for (int i = 0; i < 200; i++) {
        shell(text, "refrain status 1 --json");
        if (strstr(text, "denoise")) break;
        usleep(50000);
    }
    kill(client, SIGKILL);
    wait_exit(client, 5);
    run(text, "refrain status 1");
    assert_non_null(strstr(text, "running"));
    run(text, "refrain cancel 1");
    assert_int_equal(shell(text, "refrain watch 1"), 5);
    assert_non_null(strstr(text, "cancelled"));
    run(text, "refrain submit --model ref --prompt 'a red star' --steps 2 --width 48 --height 48 --frames 5 "
              "--wait");
    service_stop(&s);
}

/* SIGKILL of the coordinator in mid-job: the restarted one knows the job, and it runs to its end. */
static void a_job_survives_the_coordinator(void **state)
{
    struct service s;
    char text[TEXT_BYTES], a[PATH_BYTES + 32], b[PATH_BYTES + 32];
    snprintf(a, sizeof a, "%s/undisturbed.safetensors", directory);
    snprintf(b, sizeof b, "%s/survived.safetensors", directory);
    service_start(&s, "survive", 2);
    run(text, "refrain models add ref models/reference");
#define LONG_JOB "--model ref --prompt 'a red star' --seed 3 --steps 60 --width 64 --height 64 --frames 17 "
    run(text, "refrain submit " LONG_JOB "--wait --output %s/v.mp4 --save-latents %s", directory, a);
    for (int round = 0; round < 3; round++) {
        run(text, "refrain submit " LONG_JOB "--save-latents %s --idempotency-key k%d --quiet", b, round);
        int job = atoi(text);
        assert_true(job > 1);
        usleep(300000 + 500000 * (useconds_t)round);
        kill(s.coordinator, SIGKILL);
        wait_exit(s.coordinator, 5);
        service_start(&s, "survive", 2);
        run(text, "refrain submit " LONG_JOB "--save-latents %s --idempotency-key k%d --quiet", b, round);
        assert_int_equal(atoi(text), job); /* the same job: it was stored before it was acknowledged */
        run(text, "timeout 60 refrain watch %d", job);
        run(text, "refrain result %d --output %s/w.mp4 --save-latents %s", job, directory, b);
        expect_equal_files(a, b);
        unlink(b);
    }
    service_stop(&s);
}

/* The process of the last rank, as the service itself names it. */
static pid_t last_rank(void)
{
    char text[TEXT_BYTES];
    run(text, "refrain stats --json");
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, "\"pid\":")); at++) found = at;
    assert_non_null(found);
    long pid = strtol(found + strlen("\"pid\":"), NULL, 10);
    assert_true(pid > 1);
    return (pid_t)pid;
}

/* SIGKILL of a rank in mid-job: the group is launched again and the job starts over. */
static void a_job_survives_a_lost_rank(void **state)
{
    struct service s;
    char text[TEXT_BYTES];
    service_start(&s, "rank", 3);
    run(text, "refrain models add ref models/reference");
    run(text, "refrain submit --model ref --prompt 'a red star' --steps 150 --width 64 --height 64 --frames "
              "17 --quiet");
    for (int i = 0; i < 200; i++) {
        shell(text, "refrain status 1 --json");
        if (strstr(text, "denoise")) break;
        usleep(50000);
    }
    kill(last_rank(), SIGKILL);
    run(text, "timeout 90 refrain watch 1");
    run(text, "refrain status 1 --json");
    assert_non_null(strstr(text, "completed"));
    service_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_makes_the_same_video),
        cmocka_unit_test(the_mpi_fabric_makes_the_same_video),
        cmocka_unit_test(the_video_can_be_played),
        cmocka_unit_test(odd_checkpoints_run_over_ranks),
        cmocka_unit_test(a_broken_checkpoint_is_refused_with_a_sentence),
        cmocka_unit_test(a_latent_that_is_not_finite_fails_the_job),
        cmocka_unit_test(interrupting_generate_leaves_nothing),
        cmocka_unit_test(jobs_queue_and_each_gets_its_own_video),
        cmocka_unit_test(a_job_survives_its_client_and_can_be_cancelled),
        cmocka_unit_test(a_job_survives_the_coordinator),
        cmocka_unit_test(a_job_survives_a_lost_rank),
    };
    if (getenv("REFRAIN_TEST_FILTER")) cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER"));
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
