/*
 * test_reuse.c - the caching engine inside the pipeline: whole jobs over rings of ranks.
 *
 * What a policy decides and what comes out may depend on neither ranks nor threads, whatever the policy and
 * however its head and tail lie on the ranks; a hit sends nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/golden.h"
#include "tests/pipeline.h"

enum { STEPS = 12 };

static struct pipeline_run reference_run(const char *cache)
{
    return (struct pipeline_run){.model = "models/reference",
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
    if (run->outcome != STATUS_OK) fail_msg("%s: %s", run->order.cache, run->error.text);
}

static int count_of(const struct pipeline_run *run, int action)
{
    int count = 0;
    for (int i = 0; i < 2 * STEPS; i++) count += run->actions[i] == action;
    return count;
}

/* Each of them skips something in twelve steps, most with a forecast. */
static const char *const policies_at_work[] = {
    "interval:N=3",
    "interval:N=3,forecast=taylor1",
    "interval:N=3,first=3,forecast=freqca",
    "interval:N=3,first=4,forecast=worldcache",
    "interval:N=2,first=4,forecast=dmd",
    "interval:N=3,first=3,forecast=spectrum",
    "interval:N=3,first=3,forecast=foca",
    "mask:mask=110100100100",
    "fbcache:threshold=0.3",
    "dbcache:F1B0,W3,threshold=0.5,forecast=taylor1",
    "dbcache:F3B2,W3,threshold=0.5,forecast=newton2",
    "easycache:threshold=0.3,first=3",
    "dicache:threshold=0.4",
    "seacache:threshold=0.4",
    "dbprune:F1,threshold=0.3",
    "layers:every=3,begin=2,end=6",
    "specache",
    "zeus:first=3,late=0",
    "meancache:mask=111010010011,order=2",
};

static const struct split splits[] = {
    {.members = 2, .head = 4, .run = {0, 4}},
    {.members = 3, .head = 1, .tail = 1, .run = {0, 3, 3}},
    {.members = 5, .head = 2, .run = {0, 2, 2, 1, 1}},
    {.members = 8, .head = 1, .run = {0, 1, 1, 1, 1, 1, 1, 1}},
};

static void verdicts_and_latents_are_the_same_for_any_number_of_ranks(void **state)
{
    for (size_t p = 0; p < sizeof policies_at_work / sizeof *policies_at_work; p++) {
        struct pipeline_run alone = reference_run(policies_at_work[p]);
        execute(&alone);
        int skipped = 2 * STEPS - count_of(&alone, REUSE_COMPUTED);
        if (skipped == 0) fail_msg("%s: skipped nothing", policies_at_work[p]);
        for (size_t s = 0; s < sizeof splits / sizeof *splits; s++) {
            struct pipeline_run run = reference_run(policies_at_work[p]);
            run.split = splits[s];
            run.threads = s == 0 ? 2 : 1;
            execute(&run);
            if (memcmp(run.actions, alone.actions, 2 * STEPS) != 0 ||
                memcmp(run.changes, alone.changes, 2 * STEPS * sizeof(float)) != 0)
                fail_msg("%s over %d ranks: other verdicts", policies_at_work[p], splits[s].members);
            assert_int_equal(run.latent_count, alone.latent_count);
            if (memcmp(run.latents, alone.latents, (size_t)run.latent_count * sizeof(float)) != 0)
                fail_msg("%s over %d ranks: other latents", policies_at_work[p], splits[s].members);
            pipeline_free(&run);
        }
        pipeline_free(&alone);
    }
}

/* OPEN for each branch and stage, CLOSE for each stage, one hop from home for each branch computed. */
static void a_hit_sends_nothing(void **state)
{
    struct pipeline_run run = reference_run("interval:N=3,forecast=taylor1");
    run.split = splits[0];
    execute(&run);
    int computed = count_of(&run, REUSE_COMPUTED);
    assert_int_equal(computed, 2 * 4);
    assert_int_equal(run.tickets[0], 2 + 1 + computed);
    assert_int_equal(run.tickets[1], computed);
    pipeline_free(&run);
}

static void a_policy_that_always_computes_changes_no_bit(void **state)
{
    struct pipeline_run off = reference_run("off"), never = reference_run("dbcache:F1B0,threshold=0");
    execute(&off);
    execute(&never);
    assert_int_equal(count_of(&never, REUSE_COMPUTED), 2 * STEPS);
    assert_memory_equal(off.latents, never.latents, (size_t)off.latent_count * sizeof(float));
    pipeline_free(&off);
    pipeline_free(&never);
}

static void a_comparison_measures_both_videos(void **state)
{
    struct pipeline_run run = reference_run("interval:N=2"), alone = reference_run("interval:N=2");
    run.order.compare = true;
    execute(&run);
    execute(&alone);
    assert_true(run.cache.compared);
    assert_true(run.cache.quality.psnr > 10 && run.cache.quality.psnr < 80);
    assert_true(run.cache.quality.psnr_worst <= run.cache.quality.psnr);
    assert_true(run.cache.quality.ssim > 0 && run.cache.quality.ssim < 1);
    assert_true(run.cache.quality.perceptual > 0);
    assert_memory_equal(run.latents, alone.latents, (size_t)run.latent_count * sizeof(float));
    pipeline_free(&run);
    pipeline_free(&alone);
}

/* Verdicts and latents of a job beside another of other size, policy and length, over three ranks. */
static void a_job_is_the_same_alone_and_in_company(void **state)
{
    static const char *const pairs[][2] = {
        {"dbcache:F1B0,W3,threshold=0.5,forecast=taylor1", "easycache:threshold=0.3,first=3"},
        {"dbprune:F1,threshold=0.3", "interval:N=2,first=4,forecast=dmd"},
        {"zeus:first=3,late=0", "off"},
    };
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        struct pipeline_run alone[2], run = reference_run(pairs[p][0]), beside = reference_run(pairs[p][1]);
        beside.order.job = 2;
        beside.order.steps = STEPS - 3;
        beside.order.width = 48;
        beside.order.seed = 9;
        run.split = beside.split = splits[1];
        alone[0] = run;
        alone[1] = beside;
        execute(&alone[0]);
        execute(&alone[1]);
        run.beside = &beside;
        execute(&run);
        if (beside.outcome != STATUS_OK) fail_msg("%s: %s", pairs[p][1], beside.error.text);
        assert_memory_equal(run.latents, alone[0].latents, (size_t)run.latent_count * sizeof(float));
        assert_memory_equal(beside.latents, alone[1].latents, (size_t)beside.latent_count * sizeof(float));
        assert_memory_equal(run.changes, alone[0].changes, 2 * STEPS * sizeof(float));
        for (int i = 0; i < 2; i++) pipeline_free(&alone[i]);
        pipeline_free(&run);
        pipeline_free(&beside);
    }
}

/* With AddressSanitizer this also says that nothing is left behind, at home and on the stages. */
static void a_cancelled_job_ends_and_the_other_does_not_notice(void **state)
{
    struct pipeline_run alone = reference_run("dbcache:F1B0,W3,threshold=0.5,forecast=taylor1"), run = alone,
                        cancelled = reference_run("dbprune:F1,threshold=0.3");
    alone.split = run.split = splits[2];
    cancelled.cancel_at = 5;
    cancelled.order.job = 2;
    execute(&alone);
    run.beside = &cancelled;
    execute(&run);
    assert_int_equal(cancelled.outcome, STATUS_ABORTED);
    assert_memory_equal(run.latents, alone.latents, (size_t)run.latent_count * sizeof(float));
    pipeline_free(&alone);
    pipeline_free(&run);
    pipeline_free(&cancelled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_policy_that_always_computes_changes_no_bit),
        cmocka_unit_test(a_hit_sends_nothing),
        cmocka_unit_test(verdicts_and_latents_are_the_same_for_any_number_of_ranks),
        cmocka_unit_test(a_comparison_measures_both_videos),
        cmocka_unit_test(a_job_is_the_same_alone_and_in_company),
        cmocka_unit_test(a_cancelled_job_ends_and_the_other_does_not_notice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
