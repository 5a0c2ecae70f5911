/*
 * test_guarded.c - a whole worker on a device that is not the host (tests/guarded.h): the same bits as on the host,
 * with operands of 2 bytes close to it; few waits; and what happens when the device fails.
 *
 * REFRAIN_GUARDED=1 in the environment lets most other tests of the worker run on it, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "tests/pipeline.h"

enum { STEPS = 6 };

/* Relative L2 of the last latents: 8 bits of mantissa at every store of an operand, over all blocks and steps. */
#define BF16_LIMIT 0.1

static struct pipeline_run small_run(const struct ops *ops, const char *model, const char *cache)
{
    return (struct pipeline_run){.ops = ops,
                                 .model = model,
                                 .order = {.job = 1,
                                           .attempt = 1,
                                           .prompt = "a red square drifting right on a white background",
                                           .seed = 3,
                                           .steps = STEPS,
                                           .width = 32,
                                           .height = 32,
                                           .frames = 9,
                                           .fps = 8,
                                           .guidance = 4,
                                           .shift = 3,
                                           .cache = cache}};
}

static void execute(struct pipeline_run *run)
{
    pipeline_execute(run);
    if (run->outcome != STATUS_OK) fail_msg("%s, %s: %s", run->model, run->order.cache, run->error.text);
}

/* ----------------------------------------------------------------------------------------------------- results */

static const char *const models[] = {"tests/models/tiny-a", "tests/models/tiny-b", "tests/models/tiny-c",
                                     "models/reference"};

/* Each of them uses other ops of the caching engine, or another site. */
static const char *const settings[] = {NULL,
                                       "interval:N=2,first=3,forecast=freqca",
                                       "interval:N=2,first=4,forecast=worldcache",
                                       "interval:N=2,first=3,forecast=dmd",
                                       "dbcache:F3B2,W2,threshold=0.5,forecast=newton2",
                                       "easycache:threshold=0.3,first=2",
                                       "dicache:threshold=0.4",
                                       "seacache:threshold=0.4",
                                       "dbprune:F1,threshold=0.3",
                                       "specache",
                                       "zeus:first=3,late=0",
                                       "calibrate"};

static void expect_same_bits(struct pipeline_run guarded)
{
    struct pipeline_run plain = guarded;
    plain.ops = ops_find("auto");
    plain.decode_memory = 0;
    execute(&plain);
    execute(&guarded);
    const char *name = guarded.order.cache ? guarded.order.cache : guarded.model;
    assert_int_equal(guarded.latent_count, plain.latent_count);
    if (memcmp(guarded.latents, plain.latents, (size_t)plain.latent_count * sizeof(float)) != 0)
        fail_msg("%s: other latents", name);
    if (memcmp(guarded.frames, plain.frames, (size_t)plain.frame_count * sizeof(float)) != 0)
        fail_msg("%s: other frames", name);
    if (plain.actions) {
        size_t cells = (size_t)guarded.order.steps * 2;
        assert_memory_equal(guarded.actions, plain.actions, cells);
        assert_memory_equal(guarded.changes, plain.changes, cells * sizeof(float));
        assert_true(guarded.cache.quality.perceptual == plain.cache.quality.perceptual);
    }
    pipeline_free(&plain);
    pipeline_free(&guarded);
}

static void a_video_of_any_model_has_the_bits_of_the_host(void **state)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        expect_same_bits(small_run(guarded_ops(DTYPE_F32), models[i], NULL));
}

static void so_has_one_with_any_caching_and_a_comparison(void **state)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "models/reference", settings[i]);
        run.order.compare = settings[i] && i % 4 == 1;
        expect_same_bits(run);
    }
}

static void so_has_a_comparison_within_a_limit(void **state)
{
    struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "models/reference", settings[1]);
    run.order.width = 16;
    run.order.height = 560;
    run.order.frames = 5;
    run.order.compare = true;
    run.decode_memory = 20 << 20; /* both encoders would take 60 MB: five bands */
    expect_same_bits(run);
}

static void so_has_one_made_by_several_ranks(void **state)
{
    static const struct split splits[] = {{.members = 2, .head = 4, .run = {0, 4}},
                                          {.members = 3, .head = 1, .tail = 1, .run = {0, 3, 3}}};
    static const char *const some[] = {NULL, "dbprune:F1,threshold=0.3", "seacache:threshold=0.4"};
    for (int i = 0; i < 6; i++) {
        struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "models/reference", some[i % 3]);
        run.split = splits[i / 3];
        expect_same_bits(run);
    }
}

static void operands_of_two_bytes_make_nearly_the_same_video(void **state)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct pipeline_run plain = small_run(ops_find("auto"), models[i], NULL), narrow = plain;
        narrow.ops = guarded_ops(DTYPE_BF16);
        execute(&plain);
        execute(&narrow);
        double distance = golden_relative_l2(narrow.latents, plain.latents, plain.latent_count);
        print_message("%-22s latents %.1e\n", models[i], distance);
        assert_true(distance > 0 && distance < BF16_LIMIT);
        pipeline_free(&plain);
        pipeline_free(&narrow);
    }
}

/* ------------------------------------------------------------------------------------------------------- waits */

static long waits_of(const char *cache, int steps)
{
    struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "tests/models/tiny-c", cache);
    run.order.steps = steps;
    long before = guarded_waits();
    execute(&run);
    long waits = guarded_waits() - before;
    pipeline_free(&run);
    return waits;
}

/* What does not depend on the number of steps is not of interest. */
static void a_step_waits_once_and_once_more_for_each_verdict(void **state)
{
    static const char verdicts[] = "easycache:threshold=0,first=0";
    assert_int_equal(waits_of(NULL, 12) - waits_of(NULL, 4), 8);
    /* One branch decides for both: when it begins, and when its velocity is there. */
    assert_int_equal(waits_of(verdicts, 12) - waits_of(verdicts, 4), 8 * (1 + 2));
}

/* ---------------------------------------------------------------------------------------------------- failures */

static void a_device_that_fails_at_any_time_fails_the_job_with_its_sentence(void **state)
{
    status_t outcome = STATUS_INTERNAL;
    int failures = 0;
    for (int after = 0; outcome != STATUS_OK; after = after * 4 / 3 + 7) {
        struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "tests/models/tiny-c", "easycache");
        guarded_fail_after(after);
        pipeline_execute(&run);
        guarded_fail_after(-1);
        outcome = run.outcome;
        pipeline_free(&run);
        failures += outcome != STATUS_OK;
        if (outcome != STATUS_OK && !strstr(run.error.text, guarded_sentence))
            fail_msg("after %d ops: %s", after, run.error.text);
    }
    assert_true(failures > 10);
}

static void a_stage_whose_device_fails_says_so_and_sends_nothing(void **state)
{
    struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "models/reference", NULL);
    run.split = (struct split){.members = 2, .head = 0, .run = {0, 8}};
    for (int after = 300; after < 1000; after += 300) {
        guarded_fail_after(after);
        pipeline_execute(&run);
        guarded_fail_after(-1);
        assert_int_not_equal(run.outcome, STATUS_OK);
        if (!strstr(run.error.text, guarded_sentence))
            assert_non_null(strstr(run.broken.text, guarded_sentence));
    }
}

static void memory_that_cannot_be_had_is_said(void **state)
{
    int refused = 0;
    for (int after = 0; after < 200; after = after * 5 / 4 + 1) {
        struct pipeline_run run = small_run(guarded_ops(DTYPE_F32), "tests/models/tiny-c", "seacache");
        guarded_refuse_after(after);
        pipeline_execute(&run);
        guarded_refuse_after(-1);
        pipeline_free(&run);
        if (run.outcome == STATUS_OK) break;
        refused++;
        assert_int_equal(run.outcome, STATUS_NO_MEMORY);
        if (!strstr(run.error.text, "cannot be had")) fail_msg("after %d: %s", after, run.error.text);
    }
    assert_in_range(refused, 10, 25);
}

/* ------------------------------------------------------------------------------------------- the guard himself */

static const struct ops *ops;
static struct team *team;

static float *touch_device(float *device, float *shared)
{
    device[0] = 1;
    return device;
}

static float *give_host_memory(float *device, float *shared)
{
    float host[8] = {0};
    ops->silu(team, host, 8, device);
    return device;
}

static float *give_too_much(float *device, float *shared)
{
    ops->silu(team, device, 9, device);
    return device;
}

static float *change_shared(float *device, float *shared)
{
    ops->silu(team, shared, 8, device);
    shared[3] = 5;
    ops->wait(team, NULL);
    return device;
}

static float *change_source(float *device, float *shared)
{
    float host[8] = {0};
    ops->copy(team, device, host, sizeof host);
    host[3] = 5;
    ops->wait(team, NULL);
    return device;
}

static float *give_back_early(float *device, float *shared)
{
    ops->silu(team, device, 8, device);
    ops->release(MEMORY_DEVICE, device);
    return device;
}

static void expect_death(float *(*mistake)(float *device, float *shared), int expected)
{
    pid_t child = fork();
    int status;
    if (child == 0) {
        void *device, *shared;
        struct team *own;
        signal(SIGSEGV, SIG_DFL); /* cmocka would go on with the next test */
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        if (team_create(1, &own, NULL) || ops->open(own, NULL)) _exit(1);
        team = own;
        if (ops->allocate(MEMORY_DEVICE, 32, &device, NULL) ||
            ops->allocate(MEMORY_SHARED, 32, &shared, NULL))
            _exit(1);
        mistake(device, shared);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == expected);
}

static void every_mistake_is_fatal(void **state)
{
    ops = guarded_ops(DTYPE_F32);
    expect_death(touch_device, SIGSEGV);
    expect_death(give_host_memory, SIGABRT);
    expect_death(give_too_much, SIGABRT);
    expect_death(change_shared, SIGABRT);
    expect_death(change_source, SIGABRT);
    expect_death(give_back_early, SIGABRT);
}

static void who_reads_before_the_wait_reads_nan(void **state)
{
    static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    ops = guarded_ops(DTYPE_F32);
    team = device_team(ops, 1);
    float *device = device_floats(ops, team, ones, 8), *shared = device_shared(ops, 8);
    ops->copy(team, shared, device, sizeof ones);
    assert_true(shared[0] != shared[0]);
    device_wait(ops, team);
    assert_memory_equal(shared, ones, sizeof ones);
    device_free(ops, team, device);
    device_free_shared(ops, team, shared);
    device_team_free(ops, team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mistake_is_fatal),
        cmocka_unit_test(who_reads_before_the_wait_reads_nan),
        cmocka_unit_test(a_video_of_any_model_has_the_bits_of_the_host),
        cmocka_unit_test(so_has_one_with_any_caching_and_a_comparison),
        cmocka_unit_test(so_has_a_comparison_within_a_limit),
        cmocka_unit_test(so_has_one_made_by_several_ranks),
        cmocka_unit_test(operands_of_two_bytes_make_nearly_the_same_video),
        cmocka_unit_test(a_step_waits_once_and_once_more_for_each_verdict),
        cmocka_unit_test(a_device_that_fails_at_any_time_fails_the_job_with_its_sentence),
        cmocka_unit_test(a_stage_whose_device_fails_says_so_and_sends_nothing),
        cmocka_unit_test(memory_that_cannot_be_had_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
