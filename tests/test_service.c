/*
 * test_service.c - the three programs together, as a person uses them: real processes, real ranks under
 * mpirun, real sockets; kills at awkward moments. Runs the binaries of the build that made this test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_fixture.h"

#define CLIP                                                                                                 \
    "--model models/reference --prompt 'a small blue ring moving left on a white background' --seed 5 "      \
    "--steps 6 --guidance 4 --width 48 --height 64 --frames 9"

/* ----------------------------------------------------------------------------------------------- one shot */

static void any_number_of_ranks_makes_the_same_video(void **state)
{
    char text[TEXT_BYTES], one[PATH_BYTES + 32], other[PATH_BYTES + 32];
    snprintf(one, sizeof one, "%s/r1", stand_directory);
    shell_run(text,
              "refrain generate " CLIP " --ranks 1 --threads 2 --output %s.mp4 --save-latents %s.safetensors "
              "--save-frames %s.frames",
              one, one, one);
    for (int ranks = 2; ranks <= 5; ranks++) {
        snprintf(other, sizeof other, "%s/r%d", stand_directory, ranks);
        shell_run(text,
                  "refrain generate " CLIP
                  " --ranks %d --threads 1 --output %s.mp4 --save-latents %s.safetensors "
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

/* glibc fills what it hands out with another byte each time. */
static void a_file_does_not_depend_on_what_memory_held_before(void **state)
{
    static const int fillings[] = {1, 85, 170};
    char text[TEXT_BYTES], first[PATH_BYTES + 32], other[PATH_BYTES + 32];
    snprintf(first, sizeof first, "%s/filled0.mp4", stand_directory);
    for (int i = 0; i < 3; i++) {
        snprintf(other, sizeof other, "%s/filled%d.mp4", stand_directory, i);
        shell_run(
            text,
            "MALLOC_PERTURB_=%d refrain generate --model models/reference --prompt 'a blue disc' --steps 3 "
            "--width 96 --height 64 --frames 17 --ranks 1 --output %s",
            fillings[i], other);
        expect_equal_files(first, other);
    }
}

static void the_mpi_fabric_makes_the_same_video(void **state)
{
    char text[TEXT_BYTES], a[PATH_BYTES + 64], b[PATH_BYTES + 64];
    snprintf(a, sizeof a, "%s/zmq.safetensors", stand_directory);
    snprintf(b, sizeof b, "%s/mpi.safetensors", stand_directory);
    shell_run(text, "refrain generate " CLIP " --ranks 3 --fabric zmq --output %s/v.mp4 --save-latents %s",
              stand_directory, a);
    shell_run(text, "refrain generate " CLIP " --ranks 3 --fabric mpi --output %s/v.mp4 --save-latents %s",
              stand_directory, b);
    expect_equal_files(a, b);
    expect_nothing_left();
}

static void the_video_can_be_played(void **state)
{
    char text[TEXT_BYTES];
    shell_run(text, "refrain generate " CLIP " --ranks 2 --fps 12 --output %s/play.mp4", stand_directory);
    shell_run(text,
              "ffprobe -v error -count_frames -show_entries "
              "stream=codec_name,width,height,nb_read_frames,r_frame_rate "
              "-of csv=p=0 %s/play.mp4",
              stand_directory);
    if (!strstr(text, "h264,48,64,12/1,9")) fail_msg("ffprobe says %s", text);
    shell_run(text, "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 %s/play.png",
              stand_directory);
    assert_non_null(strstr(text, "png"));
}

static void odd_checkpoints_run_over_ranks(void **state)
{
    char text[TEXT_BYTES];
    shell_run(
        text,
        "refrain generate --model tests/models/tiny-b --prompt 'a star' --steps 3 --width 64 --height 48 "
        "--frames 5 "
        "--ranks 2 --output %s/tiny.mp4",
        stand_directory);
    /* more ranks than layers: the rest stay idle */
    shell_run(
        text,
        "refrain generate --model tests/models/tiny-c --prompt 'a star' --steps 3 --width 64 --height 48 "
        "--frames 5 "
        "--ranks 3 --output %s/tiny.mp4",
        stand_directory);
}

static void a_broken_checkpoint_is_refused_with_a_sentence(void **state)
{
    char text[TEXT_BYTES];
    shell_run(text, "cp -r models/reference %s/broken && rm %s/broken/transformer/*-00002-of-*",
              stand_directory, stand_directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/broken --prompt x --width 64 --height 64 --frames 5 "
              "--output %s/no.mp4",
              stand_directory, stand_directory),
        0);
    assert_non_null(strstr(text, "shard 2 of 3 is missing"));
    shell_run(text,
              "rm -rf %s/broken && cp -r models/reference %s/broken && truncate -s -100 "
              "%s/broken/vae/diffusion_pytorch_model-00001-of-00002.safetensors",
              stand_directory, stand_directory, stand_directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/broken --prompt x --width 64 --height 64 --frames 5 "
              "--output %s/no.mp4",
              stand_directory, stand_directory),
        0);
    assert_non_null(strstr(text, "diffusion_pytorch_model-00001-of-00002.safetensors"));
    shell_run(text, "rm -rf %s/broken", stand_directory);
    expect_nothing_left();
}

/* Weights that are numbers but not sensible ones: the step that shows it is named, and the service would stay
 * up. */
static void a_latent_that_is_not_finite_fails_the_job(void **state)
{
    char text[TEXT_BYTES];
    shell_run(
        text,
        "cp -r models/reference %s/nan && printf '\\377\\377\\377\\377' | dd conv=notrunc bs=1 seek=20000 "
        "of=%s/nan/transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        stand_directory, stand_directory);
    assert_int_not_equal(
        shell(text,
              "refrain generate --model %s/nan --prompt x --width 64 --height 64 --frames 5 --steps 3 "
              "--output %s/no.mp4",
              stand_directory, stand_directory),
        0);
    assert_non_null(strstr(text, "not finite"));
    shell_run(text, "rm -rf %s/nan", stand_directory);
}

static void interrupting_generate_leaves_nothing(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGKILL};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        pid_t pid = program_start(
            "refrain generate --model models/reference --prompt x --steps 900 --width 64 --height 64 "
            "--frames 17 --ranks 2 --output %s/never.mp4 >%s/log 2>&1",
            stand_directory, stand_directory);
        usleep(400000 * (useconds_t)(i + 1));
        kill(pid, signals[i]);
        program_wait(pid, 10);
        expect_nothing_left();
    }
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "%s/never.mp4", stand_directory);
    assert_false(file_exists(text));
}

/* ------------------------------------------------------------------------------------------------ service */

static void wait_for_denoising(int job)
{
    char text[TEXT_BYTES];
    for (int i = 0; i < 3000; i++, usleep(20000)) {
        shell(text, "refrain status %d --json", job);
        if (strstr(text, "\"phase\":\"denoise\"")) return;
    }
    fail_msg("job %d does not denoise: %s", job, text);
}

static void jobs_queue_and_each_gets_its_own_video(void **state)
{
    struct stand s;
    char text[TEXT_BYTES];
    pid_t clients[4];
    stand_start(&s, "queue", 2, "");
    shell_run(text, "refrain models add ref models/reference");
    for (int i = 0; i < 4; i++) /* each client waits for its files */
        clients[i] = program_start(
            "refrain submit --model ref --prompt 'a red star' --seed %d --steps 4 --width 48 --height 48 "
            "--frames 5 --output %s/q%d.mp4 --save-latents %s/q%d.safetensors --quiet >/dev/null 2>&1",
            i % 2, stand_directory, i, stand_directory, i);
    for (int i = 0; i < 4; i++) program_wait(clients[i], 60);
    for (int i = 1; i <= 4; i++) shell_run(text, "refrain watch %d", i);
    shell_run(text, "refrain list --json");
    assert_non_null(strstr(text, "completed"));
    for (int i = 1; i <= 4; i++)
        shell_run(text, "refrain result %d --output %s/r%d.mp4", i, stand_directory, i);
    char a[PATH_BYTES + 32], b[PATH_BYTES + 32];
    snprintf(a, sizeof a, "%s/q0.safetensors", stand_directory);
    snprintf(b, sizeof b, "%s/q2.safetensors", stand_directory);
    expect_equal_files(a, b); /* seeds 0, 1, 0, 1 */
    assert_int_not_equal(shell(text, "cmp %s %s/q1.safetensors", a, stand_directory), 0);
    shell_run(text, "refrain stats");
    shell_run(text, "refrain delete 1");
    assert_int_equal(shell(text, "refrain status 1"), 4);
    stand_stop(&s);
}

static void a_job_survives_its_client_and_can_be_cancelled(void **state)
{
    struct stand s;
    char text[TEXT_BYTES];
    stand_start(&s, "cancel", 2, "");
    shell_run(text, "refrain models add ref models/reference");
    pid_t client = program_start(
        "refrain submit --model ref --prompt 'a red star' --steps 1000 --width 64 --height 64 --frames 17 "
        "--wait >/dev/null 2>&1");
    wait_for_denoising(1);
    kill(client, SIGKILL);
    program_wait(client, 5);
    shell_run(text, "refrain status 1");
    assert_non_null(strstr(text, "running"));
    shell_run(text, "refrain cancel 1");
    assert_int_equal(shell(text, "refrain watch 1"), 5);
    assert_non_null(strstr(text, "cancelled"));
    shell_run(text,
              "refrain submit --model ref --prompt 'a red star' --steps 2 --width 48 --height 48 --frames 5 "
              "--wait");
    stand_stop(&s);
}

/* SIGKILL of the coordinator in mid-job: the restarted one knows the job, and it runs to its end. */
static void a_job_survives_the_coordinator(void **state)
{
    struct stand s;
    char text[TEXT_BYTES], a[PATH_BYTES + 32], b[PATH_BYTES + 32];
    snprintf(a, sizeof a, "%s/undisturbed.safetensors", stand_directory);
    snprintf(b, sizeof b, "%s/survived.safetensors", stand_directory);
    stand_start(&s, "survive", 2, "");
    shell_run(text, "refrain models add ref models/reference");
#define LONG_JOB "--model ref --prompt 'a red star' --seed 3 --steps 60 --width 64 --height 64 --frames 17 "
    shell_run(text, "refrain submit " LONG_JOB "--wait --output %s/v.mp4 --save-latents %s", stand_directory,
              a);
    for (int round = 0; round < 3; round++) {
        int job = 2 + round;
        pid_t client = program_start("refrain submit " LONG_JOB
                                     "--save-latents %s --idempotency-key k%d --quiet >/dev/null 2>&1",
                                     b, round);
        wait_for_denoising(job);
        usleep(150000 * (useconds_t)round);
        shell_run(text, "refrain status %d --quiet", job);
        assert_string_equal(text, "running\n");
        kill(s.coordinator, SIGKILL);
        program_wait(s.coordinator, 5);
        stand_start(&s, "survive", 2, "");
        program_wait(client, 240); /* it waited for the coordinator, too */
        expect_equal_files(a, b);
        shell_run(text, "refrain submit " LONG_JOB "--save-latents %s --idempotency-key k%d --quiet", b,
                  round);
        assert_int_equal(atoi(text), job); /* the same job: it was stored before it was acknowledged */
        shell_run(text, "timeout 60 refrain watch %d", job);
        shell_run(text, "refrain result %d --output %s/w.mp4 --save-latents %s", job, stand_directory, b);
        expect_equal_files(a, b);
        unlink(b);
    }
    stand_stop(&s);
}

/* SIGKILL of a rank in mid-job: the group is launched again and the job starts over. */
static void a_job_survives_a_lost_rank(void **state)
{
    struct stand s;
    char text[TEXT_BYTES];
    stand_start(&s, "rank", 3, "");
    shell_run(text, "refrain models add ref models/reference");
    shell_run(text,
              "refrain submit --model ref --prompt 'a red star' --steps 150 --width 64 --height 64 --frames "
              "17 --quiet");
    wait_for_denoising(1);
    kill(stand_last_rank(), SIGKILL);
    shell_run(text, "timeout 90 refrain watch 1");
    shell_run(text, "refrain status 1 --json");
    assert_non_null(strstr(text, "completed"));
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_makes_the_same_video),
        cmocka_unit_test(a_file_does_not_depend_on_what_memory_held_before),
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
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
