/*
 * test_service_caching.c - caching as a person meets it: coordinator, ranks under mpirun and the client as
 * real processes. What a policy decides may depend on nothing but the job: not on ranks, fabric, other jobs,
 * or on who was killed meanwhile; and what is told about it must be true.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

/* ------------------------------------------------------------------------------------ the same everywhere */

/* One for each site where something is kept, and each skips something in ten steps. */
static const char *const sites[] = {
    "dbcache:F1B0,W2,threshold=0.5,forecast=taylor1",
    "easycache:threshold=0.3,first=3",
    "zeus:first=3,late=0",
    "dbprune:F1,W2,threshold=0.3",
};
enum { SITES = sizeof sites / sizeof *sites };

static void every_site_is_the_same_on_any_ranks_and_fabric(void **state)
{
    static const struct {
        int ranks;
        const char *options;
    } stands[] = {{1, "--threads 2"}, {2, "--threads 1"}, {3, "--threads 1 --fold 2,1"}, {2, "--fabric mpi"}};
    json_t *first[SITES];
    for (int stand = 0; stand < 4; stand++) {
        struct stand s;
        char name[32], one[32];
        snprintf(name, sizeof name, "sites%d", stand);
        stand_start(&s, name, stands[stand].ranks, stands[stand].options);
        shell_run(stand_text, "refrain models add ref models/reference");
        for (int i = 0; i < SITES; i++) {
            snprintf(name, sizeof name, "site%d-%d", i, stand);
            snprintf(one, sizeof one, "site%d-0", i);
            int job = stand_make(name, SMALL "--steps 10 --guidance 4 --cache %s", sites[i]);
            json_t *report = stand_report(job);
            expect_complete(report, 10, 2);
            if (number_at(report, "computed") >= 20) fail_msg("%s: skipped nothing", sites[i]);
            if (stand == 0) {
                first[i] = report;
                continue;
            }
            expect_equal_verdicts(first[i], report, sites[i]);
            if (!latents_are_equal(one, name))
                fail_msg("%s over %d ranks: %s", sites[i], stands[stand].ranks, stand_text);
            json_decref(report);
        }
        stand_stop(&s);
    }
    /* and without a coordinator of one's own */
    shell_run(stand_text,
              "refrain generate --model models/reference " SMALL
              "--steps 10 --guidance 4 --cache %s --ranks 2 --json "
              "--output %s/v.mp4 --save-latents %s/generated.safetensors",
              sites[0], stand_directory, stand_directory);
    assert_true(latents_are_equal("generated", "site0-0"));
    for (int i = 0; i < SITES; i++) json_decref(first[i]);
}

/* Other policies, lengths, sizes and numbers of branches, one after the other and then all at once. */
static void queued_jobs_are_what_each_is_alone(void **state)
{
    static const struct {
        int steps, branches;
        const char *words;
    } jobs[] = {
        {9, 2,
         "--prompt a --steps 9 --guidance 4 --width 32 --height 48 --frames 9 --cache fbcache:threshold=0.4"},
        {5, 2, "--prompt b --steps 5 --guidance 4 --width 32 --height 32 --frames 9 --cache interval:N=2"},
        {12, 1,
         "--prompt c --steps 12 --guidance 1 --width 32 --height 32 --frames 5 --cache layers:every=3"},
        {7, 2,
         "--prompt a --steps 7 --guidance 3 --width 32 --height 32 --frames 9 --cache "
         "easycache:threshold=0.5,first=2"},
        {8, 2,
         "--prompt d --steps 8 --guidance 4 --width 48 --height 32 --frames 9 --cache "
         "meancache:mask=11101001"},
    };
    enum { JOBS = sizeof jobs / sizeof *jobs };
    struct stand s;
    char name[32], other[32];
    json_t *alone[JOBS];
    pid_t clients[JOBS];
    stand_start(&s, "queued", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    for (int i = 0; i < JOBS; i++) {
        snprintf(name, sizeof name, "alone%d", i);
        int job = stand_make(name, "%s", jobs[i].words);
        alone[i] = stand_report(job);
        expect_complete(alone[i], (size_t)jobs[i].steps, (size_t)jobs[i].branches);
    }
    for (int i = JOBS - 1; i >= 0; i--) {
        snprintf(other, sizeof other, "queued%d", i);
        clients[i] = stand_begin(other, jobs[i].words);
    }
    for (int i = 0; i < JOBS; i++) {
        snprintf(name, sizeof name, "alone%d", i);
        snprintf(other, sizeof other, "queued%d", i);
        program_wait(clients[i], 240);
        json_t *report = stand_report(stand_begun(other));
        expect_equal_verdicts(alone[i], report, jobs[i].words);
        if (!latents_are_equal(name, other)) fail_msg("%s", stand_text);
        json_decref(report);
        json_decref(alone[i]);
    }
    stand_stop(&s);
}

/* -------------------------------------------------------------------------------------------------- kills */

#define LONG_JOB LARGE "--steps 120 --guidance 4 --cache dbcache:F1B0,W2,MC2,threshold=2,forecast=taylor1"
enum { LONG_STEPS = 120 };

/* Each live note of a watcher has an action for each step so far, in every attempt and across a pause; the
 * most steps that were seen in each of the attempts. */
static void read_strips(const char *path, size_t most[4])
{
    static char line[TEXT_BYTES];
    size_t attempt = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    memset(most, 0, 4 * sizeof *most);
    while (fgets(line, sizeof line, file)) {
        json_t *event = json_loads(line, 0, NULL);
        if (!event) continue; /* a word on standard error */
        if (json_object_get(event, "attempt")) attempt = (size_t)number_at(event, "attempt");
        assert_true(attempt < 4);
        if (strcmp(string_at(event, "event"), "progress") == 0 &&
            strcmp(string_at(event, "phase"), "denoise") == 0) {
            size_t count = json_array_size(json_object_get(event, "actions"));
            assert_int_equal(count, number_at(event, "step"));
            if (count > most[attempt]) most[attempt] = count;
        }
        json_decref(event);
    }
    fclose(file);
}

/* SIGKILL of a rank, then of the coordinator, each in the middle of the same job. */
static void kills_change_neither_verdicts_nor_latents(void **state)
{
    struct stand s;
    char path[PATH_BYTES + 32];
    size_t most[4];
    stand_start(&s, "kills", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    int job = stand_make("undisturbed", LONG_JOB);
    json_t *undisturbed = stand_report(job);
    expect_complete(undisturbed, LONG_STEPS, 2);
    assert_true(number_at(undisturbed, "forecast") > LONG_STEPS);

    for (int round = 0; round < 2; round++) {
        const char *name = round ? "coordinator" : "rank";
        pid_t client = stand_begin(name, LONG_JOB);
        job = stand_begun(name);
        stand_wait_step(job, 20);
        if (round == 0) {
            kill(stand_last_rank(), SIGKILL);
        } else {
            kill(s.coordinator, SIGKILL);
            program_wait(s.coordinator, 5);
            stand_start(&s, "kills", 2, "--threads 1");
        }
        program_wait(client, 240);
        if (!latents_are_equal("undisturbed", name)) fail_msg("round %d: %s", round, stand_text);
        json_t *object = stand_job(job), *report = json_object_get(object, "cache");
        expect_complete(report, LONG_STEPS, 2);
        expect_equal_verdicts(undisturbed, report, round ? "the coordinator killed" : "a rank killed");
        size_t attempts = (size_t)number_at(object, "attempt");
        assert_int_equal(attempts, round == 0 ? 2 : 1);
        snprintf(path, sizeof path, "%s/%s.log", stand_directory, name);
        read_strips(path, most);
        assert_true(most[1] >= 10 && most[attempts] >= 20);
        json_decref(object);
    }
    json_decref(undisturbed);
    stand_stop(&s);
}

/* ------------------------------------------------------------------------------------------- what is told */

static void the_stored_text_makes_the_same_video_again(void **state)
{
    static const char *const texts[] = {"dbcache:F1B0_W2_R0.5,forecast=hermite", "balanced",
                                        "magcache:threshold=0.5,R=0.2,resample=1", "mask:mask=0-3+5+7"};
    struct stand s;
    char policy[4096];
    stand_start(&s, "again", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int once = stand_make("once", SMALL "--steps 10 --guidance 4 --cache %s", texts[i]);
        json_t *job = stand_job(once);
        snprintf(policy, sizeof policy, "%s", string_at(json_object_get(job, "spec"), "cache"));
        json_decref(job);
        int twice = stand_make("twice", SMALL "--steps 10 --guidance 4 --cache '%s'", policy);
        json_t *a = stand_report(once), *b = stand_report(twice);
        assert_string_equal(string_at(a, "policy"), policy);
        expect_complete(a, 10, 2);
        expect_equal_verdicts(a, b, texts[i]);
        assert_true(number_at(a, "bytes") == number_at(b, "bytes"));
        if (!latents_are_equal("once", "twice")) fail_msg("%s: %s", policy, stand_text);
        json_decref(a);
        json_decref(b);
    }
    stand_stop(&s);
}

static void what_the_client_tells_is_what_happened(void **state)
{
    struct stand s;
    stand_start(&s, "told", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    int fires = stand_make("fires", SMALL "--steps 8 --guidance 4 --cache interval:N=4");
    int never = stand_make("never", SMALL "--steps 8 --guidance 4 --cache dbcache:F1B0,threshold=0");
    int off = stand_make("off", SMALL "--steps 8 --guidance 4 --cache off");
    assert_true(latents_are_equal("never", "off"));
    assert_false(latents_are_equal("fires", "off"));

    json_t *report = stand_report(fires);
    expect_complete(report, 8, 2);
    assert_int_equal(number_at(report, "computed"), 4);
    assert_int_equal(number_at(report, "reused"), 12);
    assert_true(number_at(report, "seconds_saved") > 0);
    assert_true(number_at(report, "computed_seconds") > number_at(report, "reused_seconds"));
    /* What the blocks added, of each branch: 3 x 2 x 2 tokens of 256 floats. */
    assert_true(number_at(report, "bytes") >= 2 * 12 * 256 * 4);
    json_decref(report);
    report = stand_report(never);
    assert_int_equal(number_at(report, "computed"), 16);
    assert_true(number_at(report, "seconds_saved") == 0);
    json_decref(report);
    json_t *job = stand_job(off);
    assert_null(json_object_get(job, "cache"));
    json_decref(job);

    shell_run(stand_text, "refrain status %d", fires);
    assert_true(stand_says("interval:N=4,") && stand_says("█▒▒▒█▒▒▒   2 computed, 6 reused: ") &&
                stand_says("saved about"));
    shell_run(stand_text, "refrain status %d", never);
    assert_true(stand_says("never reused a step: all 8 computed"));
    shell_run(stand_text, "refrain watch %d --json", fires); /* it has ended: the whole story once more */
    json_t *event = stand_object();
    expect_complete(json_object_get(event, "cache"), 8, 2);
    json_decref(event);
    shell_run(stand_text, "refrain list --json");
    assert_true(stand_says("\"cache\":\"interval:N=4,"));
    shell_run(stand_text, "refrain list");
    assert_true(stand_says("interval") && stand_says("dbcache"));
    shell_run(stand_text, "refrain result %d --json --output %s/again.mp4", fires, stand_directory);
    event = stand_object();
    assert_string_equal(string_at(event, "event"), "done");
    json_decref(event);
    stand_stop(&s);
}

static void a_cancelled_job_leaves_nothing(void **state)
{
    struct stand s;
    stand_start(&s, "cancelled", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    pid_t client =
        stand_begin("cancelled-job", LARGE
                    "--steps 1000 --guidance 4 --cache dbcache:F1B0,W2,MC2,threshold=2,forecast=taylor2");
    int job = stand_begun("cancelled-job");
    pid_t other = stand_begin("next", SMALL "--steps 4 --guidance 4 --cache interval:N=2");
    int next = stand_begun("next");
    stand_wait_step(job, 10);
    json_t *object = stand_job(job);
    assert_int_equal(json_array_size(json_object_get(object, "actions")), number_at(object, "step"));
    assert_true(number_at(object, "largest_reused") > 0);
    json_decref(object);
    shell_run(stand_text, "refrain cancel %d", job);
    assert_int_equal(shell(stand_text, "timeout 60 refrain watch %d", job), 5);
    object = stand_job(job);
    assert_string_equal(string_at(object, "state"), "cancelled");
    assert_null(json_object_get(object, "cache"));
    json_decref(object);
    program_wait(client, 10);
    program_wait(other, 60); /* the ranks are at once free for the next */
    json_t *report = stand_report(next);
    expect_complete(report, 4, 2);
    json_decref(report);
    assert_true(latents_are_equal("next", "next"));
    assert_false(latents_are_equal("cancelled-job", "cancelled-job"));
    shell_run(stand_text, "find %s -path '*refrain-worker-*' -type f; find %s/results/%d 2>/dev/null || true",
              stand_directory, s.data, job);
    assert_string_equal(stand_text, "");
    stand_stop(&s);
}

/* -------------------------------------------------------------------------------------------- comparisons */

/* The frames of a file made by --save-frames: f32, the header of JSON before them. */
static float *read_frames(const char *name, size_t *count)
{
    char path[PATH_BYTES + 64];
    unsigned long long header = 0;
    snprintf(path, sizeof path, "%s/%s", stand_directory, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(&header, sizeof header, 1, file), 1);
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file) - sizeof header - header;
    fseek(file, (long)(sizeof header + header), SEEK_SET);
    float *frames = malloc(bytes);
    assert_non_null(frames);
    *count = bytes / sizeof *frames;
    assert_int_equal(fread(frames, sizeof *frames, *count, file), *count);
    fclose(file);
    return frames;
}

static double psnr_of_files(const char *a, const char *b)
{
    size_t count, other;
    double sum = 0;
    float *left = read_frames(a, &count), *right = read_frames(b, &other);
    assert_int_equal(count, other);
    assert_int_equal(count, 9 * 3 * 32 * 32);
    for (size_t i = 0; i < count; i++) {
        double difference = round(255 * fmin(fmax(left[i], 0), 1)) - round(255 * fmin(fmax(right[i], 0), 1));
        sum += difference * difference;
    }
    free(left);
    free(right);
    return 10 * log10(255.0 * 255.0 * (double)count / sum);
}

static void a_comparison_leaves_the_video_alone_and_its_figures_are_right(void **state)
{
    struct stand s;
    char path[PATH_BYTES + 64];
    stand_start(&s, "compare", 2, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
#define COMPARED "--model ref " SMALL "--steps 10 --guidance 4 "
    shell_run(stand_text,
              "refrain submit " COMPARED
              "--cache off --quiet --output %s/off.mp4 --save-frames %s/off.frames",
              stand_directory, stand_directory);
    shell_run(stand_text,
              "refrain submit " COMPARED "--cache interval:N=3 --quiet --output %s/plain.mp4 --save-frames "
              "%s/plain.frames --save-latents %s/plain.safetensors",
              stand_directory, stand_directory, stand_directory);
    shell_run(stand_text,
              "refrain compare --coordinator %s " COMPARED "--cache interval:N=3 --json --output %s/both.mp4 "
              "--save-latents %s/both.safetensors",
              s.endpoint, stand_directory, stand_directory);
    assert_true(stand_says("\"event\":\"comparison\"") && stand_says("both.compare.mp4"));
    if (!latents_are_equal("plain", "both")) fail_msg("%s", stand_text);
    shell_run(stand_text,
              "cd %s && cmp plain.mp4 both.mp4 && test -s both.compare.mp4 && test -s both.compare.png",
              stand_directory);
    json_t *report = stand_report(3), *both = json_object_get(report, "comparison");
    expect_complete(report, 10, 2);
    double psnr = number_at(both, "psnr");
    assert_true(fabs(psnr - psnr_of_files("off.frames", "plain.frames")) < 0.01);
    assert_true(psnr > 5 && psnr < 60 && number_at(both, "psnr_worst") <= psnr);
    assert_true(number_at(both, "ssim") > 0 && number_at(both, "ssim") < 1 &&
                number_at(both, "perceptual") > 0);
    assert_true(number_at(both, "cached_seconds") > 0);
    assert_true(number_at(both, "uncached_seconds") > number_at(both, "cached_seconds"));
    json_decref(report);
    shell_run(stand_text,
              "ffprobe -v error -show_entries stream=width,height,nb_frames -of csv=p=0 %s/both.compare.mp4",
              stand_directory);
    assert_true(stand_says("96,32,9"));
    /* A policy that never fires compares equal. */
    shell_run(stand_text,
              "refrain compare --coordinator %s " COMPARED
              "--cache dbcache:F1B0,threshold=0 --output %s/eq.mp4",
              s.endpoint, stand_directory);
    assert_true(stand_says("equal") && stand_says("never reused a step"));
    report = stand_report(4);
    both = json_object_get(report, "comparison");
    assert_null(json_object_get(both, "psnr"));
    assert_true(number_at(both, "ssim") == 1 && number_at(both, "perceptual") == 0);
    json_decref(report);
    snprintf(path, sizeof path, "%s/no.mp4", stand_directory);
    assert_int_equal(shell(stand_text, "refrain compare --coordinator %s " COMPARED "--cache off --output %s",
                           s.endpoint, path),
                     2);
    assert_false(file_exists(path));
    stand_stop(&s);
}

/* ------------------------------------------------------------------------------------ tables and refusals */

/* The command is refused with this code, naming the field, and with these words in its sentence. */
static void expect_refused(int code, const char *field, const char *words, const char *format, ...)
{
    char command[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    int got = shell(stand_text, "%s --json", command);
    if (got != code || !stand_says(words)) fail_msg("%s\nexit %d: %s", command, got, stand_text);
    json_t *object = stand_object(), *error = json_object_get(object, "error");
    assert_string_equal(string_at(error, "status"), code == 2 ? "invalid" : "out of memory");
    if (!strstr(string_at(error, "field"), field))
        fail_msg("%s\nblames another field: %s", command, stand_text);
    json_decref(object);
}

static void measured_tables_serve_the_jobs_they_fit(void **state)
{
    struct stand s;
    char table[PATH_BYTES + 32];
    snprintf(table, sizeof table, "%s/t.json", stand_directory);
    stand_start(&s, "tables", 2, "--threads 1 --cache-memory 1M");
    shell_run(stand_text, "refrain models add ref models/reference");
    shell_run(stand_text, "printf 'a red star\\na blue ring\\n' >%s/prompts", stand_directory);
    shell_run(stand_text,
              "refrain calibrate --coordinator %s --model ref --kind all --steps 6 --guidance 4 --width 32 "
              "--height 32 "
              "--frames 9 --prompts %s/prompts --output %s --json",
              s.endpoint, stand_directory, table);
    assert_true(stand_says("\"kind\":\"magcache\"") && stand_says("\"kind\":\"teacache-retention\"") &&
                stand_says("\"kind\":\"sencache\"") && stand_says("\"kind\":\"l2p\""));
    json_t *object = stand_job(1), *report = json_object_get(object, "cache");
    expect_complete(report, 6, 2);
    assert_int_equal(number_at(report, "computed"), 12);
    json_decref(object);

#define WITH_TABLE "refrain submit --model ref " SMALL "--guidance 4 --cache-table %s "
    static const char *const served[] = {"magcache:threshold=0.5,R=0.2", "teacache:first=2", "sencache",
                                         "interval:N=2,first=2,forecast=l2p"};
    for (size_t i = 0; i < sizeof served / sizeof *served; i++) {
        shell_run(stand_text, WITH_TABLE "--steps 6 --wait --json --cache '%s'", table, served[i]);
        object = stand_object();
        expect_complete(json_object_get(object, "cache"), 6, 2);
        assert_int_equal(json_array_size(json_object_get(json_object_get(object, "spec"), "cache_tables")),
                         i == 1 ? 2 : 1); /* both modes of teacache are sent */
        json_decref(object);
    }
    /* A file may hold tables of several numbers of steps: those made for just such a job are used. */
    shell_run(
        stand_text,
        "refrain calibrate --coordinator %s --model ref --kind sencache --steps 9 --guidance 4 --width 32 "
        "--height 32 --frames 9 --prompts %s/prompts --output %s --quiet",
        s.endpoint, stand_directory, table);
    shell_run(stand_text, WITH_TABLE "--steps 9 --wait --json --cache sencache", table);
    object = stand_object();
    expect_complete(json_object_get(object, "cache"), 9, 2);
    json_decref(object);
    /* Sensitivities and inner products belong to a number of steps, inner products also to a shift. */
    expect_refused(2, "cache", "6 steps", WITH_TABLE "--steps 9 --cache interval:N=2,first=2,forecast=l2p",
                   table);
    expect_refused(2, "cache", "shift",
                   WITH_TABLE "--steps 6 --shift 5 --cache interval:N=2,first=2,forecast=l2p", table);
    expect_refused(2, "cache", "steps", WITH_TABLE "--steps 7 --cache sencache", table);
    expect_refused(2, "cache", "steps", "refrain submit --model ref " SMALL "--steps 9 --cache sencache");
    expect_refused(2, "cache_tables", "needs no table", WITH_TABLE "--steps 6 --cache dbcache:F1B0", table);
    /* A megabyte is not enough for five tensors of each branch, of 9 x 8 x 8 tokens. */
    expect_refused(1, "cache", "at most 1.0 MiB",
                   "refrain submit --model ref --prompt x --width 128 --height 128 --frames 33 --steps 9 "
                   "--cache dbcache:F1B0,forecast=taylor4");
    expect_refused(2, "cache", "dbcach", "refrain submit --model ref " SMALL "--steps 9 --cache dbcach");
    expect_refused(2, "cache", "threshold",
                   "refrain submit --model ref " SMALL "--cache dbcache:threshold=-1");
    expect_refused(2, "cache", "8 blocks", "refrain submit --model ref " SMALL "--cache dbcache:F6B2");
    expect_refused(2, "cache", "9", "refrain submit --model ref " SMALL "--steps 9 --cache mask:mask=1010");
    shell_run(stand_text, "refrain list --json | wc -l");
    assert_int_equal(atoi(stand_text), 2 * 2 + 4 + 2 + 1); /* nothing that was refused is stored */
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_site_is_the_same_on_any_ranks_and_fabric),
        cmocka_unit_test(queued_jobs_are_what_each_is_alone),
        cmocka_unit_test(kills_change_neither_verdicts_nor_latents),
        cmocka_unit_test(the_stored_text_makes_the_same_video_again),
        cmocka_unit_test(what_the_client_tells_is_what_happened),
        cmocka_unit_test(a_cancelled_job_leaves_nothing),
        cmocka_unit_test(a_comparison_leaves_the_video_alone_and_its_figures_are_right),
        cmocka_unit_test(measured_tables_serve_the_jobs_they_fit),
    };
    if (getenv("REFRAIN_TEST_FILTER")) cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER"));
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
