/*
 * test_hitrate.c - what is foreseen of a job's caching: rehearsed policies against whole jobs that ran,
 * learnt rates against reports.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "coordinator/foresight/hitrate.h"
#include "proto/caching.h"
#include "tests/pipeline.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { STEPS = 12 };

static struct hitrates rates;

static int set_up(void **state)
{
    rates = (struct hitrates){0};
    return 0;
}

/* Of models/reference. */
static Refrain__ModelCard reference_card(void)
{
    Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
    card.name = (char *)"reference";
    SET(card, layers, 8);
    SET(card, heads, 4);
    SET(card, head_dim, 64);
    SET(card, ffn_dim, 1024);
    SET(card, latent_channels, 16);
    SET(card, shift, 3);
    return card;
}

static Refrain__JobSpec job_of(const char *cache, uint32_t steps)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.model = (char *)"reference";
    spec.cache = (char *)(uintptr_t)cache;
    SET(spec, steps, steps);
    SET(spec, guidance, 4);
    SET(spec, shift, 3);
    SET(spec, compare, 0);
    return spec;
}

static struct plan_mix foresee(const char *cache, uint32_t steps)
{
    Refrain__JobSpec spec = job_of(cache, steps);
    Refrain__ModelCard card = reference_card();
    struct plan_mix mix = {.home_work = 0.25, .hop = 0.125};
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_true(mix.home_work == 0.25 && mix.hop == 0.125);
    return mix;
}

static void learn(const char *cache, uint32_t steps, uint32_t computed, uint32_t reused, uint32_t forecast)
{
    Refrain__JobSpec spec = job_of(cache, steps);
    Refrain__ModelCard card = reference_card();
    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    SET(report, computed, computed);
    SET(report, reused, reused);
    SET(report, forecast, forecast);
    hitrates_learn(&rates, &spec, &card, &report);
}

static void expect(const char *cache, uint32_t steps, uint32_t head, uint32_t tail, double rate)
{
    struct plan_mix mix = foresee(cache, steps);
    if (mix.branches != 2 || mix.head != head || mix.tail != tail || fabs(mix.hit_rate - rate) > 1e-9)
        fail_msg("%s: %u branches, F %u, B %u, rate %g; expected F %u, B %u, rate %g", cache, mix.branches,
                 mix.head, mix.tail, mix.hit_rate, head, tail, rate);
}

/* ---------------------------------------------------------------------------------------------- rehearsed */

/* The share of a job's branch-steps in which its policy really skipped something. */
static double skipped_by_a_job(const char *cache)
{
    struct pipeline_run run = {.model = "models/reference",
                               .order = {.job = 1,
                                         .attempt = 1,
                                         .prompt = "a red square",
                                         .seed = 3,
                                         .steps = STEPS,
                                         .width = 16,
                                         .height = 16,
                                         .frames = 1,
                                         .fps = 8,
                                         .guidance = 4,
                                         .shift = 3,
                                         .cache = cache}};
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%s: %s", cache, run.error.text);
    int skipped = 0;
    for (int i = 0; i < 2 * STEPS; i++) skipped += run.actions[i] != REFRAIN__CACHE_ACTION__CACHE_COMPUTED;
    pipeline_free(&run);
    return skipped / (2.0 * STEPS);
}

static void a_rehearsal_says_what_the_job_then_does(void **state)
{
    static const char *const texts[] = {
        "interval:N=3",
        "interval:N=3,first=4,last=2,forecast=taylor1",
        "interval:N=2,first=3,grow=0.75,forecast=spectrum",
        "interval:N=4,backwards=1",
        "interval:N=5,F=2,B=1",
        "mask:mask=111010010011",
        "mask:mask=011010010011", /* the first is computed all the same: nothing has been kept */
        "zeus:first=3,late=0",
        "zeus:first=2,last=1,max_interval=1",
        "meancache:mask=111010010011,order=2",
        "layers:every=3,begin=2,end=6",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct plan_mix mix = foresee(texts[i], STEPS);
        double skipped = skipped_by_a_job(texts[i]);
        if (fabs(mix.hit_rate - skipped) > 1e-9)
            fail_msg("%s: %g was rehearsed, %g was skipped", texts[i], mix.hit_rate, skipped);
        assert_true(skipped > 0.2);
    }
}

static void what_is_certain_is_not_learnt(void **state)
{
    expect("off", STEPS, 0, 0, 0);
    expect("interval:N=2,first=0,F=2,B=1", STEPS, 2, 1, 0.5);
    learn("interval:N=2,first=0,F=2,B=1", STEPS, 24, 0, 0);
    expect("interval:N=2,first=0,F=2,B=1", STEPS, 2, 1, 0.5);
    expect("mask:mask=111010010011", STEPS, 0, 0, 5 / 12.0);
    expect("calibrate", STEPS, 0, 0, 0); /* computes every step */
    assert_int_equal(rates.uses, 0);
}

/* Which block is skipped may change over the steps. */
static void blocks_are_rehearsed_one_by_one(void **state)
{
    expect("layers:every=3,begin=2,end=6", STEPS, 2, 2, 8 / 12.0);
    /* The last two of eight in the first half, the first two in the second: 2 of 8 blocks in 8 of 12 steps.
     */
    expect("layers:every=3,begin=0,end=2,boundary=0.5", STEPS, 0, 0, 8 / 12.0 * 2 / 8);
}

/* ------------------------------------------------------------------------------------------------- learnt */

static void a_rate_that_only_measuring_tells_is_learnt(void **state)
{
    const char *text = "dbcache:F1B0,threshold=0.12";
    expect(text, 50, 1, 0, 0.5);
    learn(text, 50, 40, 50, 10);
    expect(text, 50, 1, 0, 0.6);
    learn(text, 50, 100, 0, 0);
    expect(text, 50, 1, 0, 0.45);
    for (int i = 0; i < 40; i++) learn(text, 50, 20, 80, 0);
    assert_true(fabs(foresee(text, 50).hit_rate - 0.8) < 1e-4);
    assert_true(fabs(foresee(text, 20).hit_rate - 0.8) <
                1e-4); /* another length, as long as nothing is known of that */
    learn(text, 20, 50, 50, 0);
    expect(text, 20, 1, 0, 0.5);
    assert_true(fabs(foresee(text, 50).hit_rate - 0.8) < 1e-4);
    expect("dbcache:F1B0,threshold=0.13", 50, 1, 0, 0.5); /* another setting */
}

/* Six steps of the first expert, four of which were skipped in both branches, and four of the second, of which one was. */
static void experts_have_rates_of_their_own(void **state)
{
    Refrain__JobSpec spec = job_of("dbcache:F1B0,threshold=0.12", 10);
    Refrain__ModelCard card = reference_card();
    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    struct plan_mix mix = {0};
    uint8_t actions[20] = {[4] = 1, 1, 2, 2, 1, 1, 2, 2, [18] = 1, 1};
    SET(card, experts, 2);
    SET(card, train_steps, 1000);
    SET(card, boundary, 0.875);
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_true(mix.experts == 2 && mix.expert_hits[0] == 0.5 && mix.expert_hits[1] == 0.5);
    SET(report, computed, 10);
    SET(report, reused, 10);
    SET(report, branches, 2);
    SET(report, switch_at, 6);
    SET(report, actions, ((ProtobufCBinaryData){sizeof actions, actions}));
    hitrates_learn(&rates, &spec, &card, &report);
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_true(fabs(mix.expert_hits[0] - 4.0 / 6) < 1e-9 && fabs(mix.expert_hits[1] - 0.25) < 1e-9);
    report.actions.len = 3; /* it does not say: both as the whole */
    hitrates_learn(&rates, &spec, &card, &report);
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_true(fabs(mix.expert_hits[0] - (0.75 * 4 / 6 + 0.25 * 0.5)) < 1e-9);
    card.experts = 1;
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_true(mix.expert_hits[0] == 0 && mix.expert_hits[1] == 0);
}

static void policies_by_blocks_learn_from_the_blocks_they_may_skip(void **state)
{
    Refrain__JobSpec spec = job_of("dbprune:F1,threshold=0.3", STEPS);
    Refrain__ModelCard card = reference_card();
    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    uint32_t computed[8] = {24, 12, 12, 12, 12, 12, 12, 12}, reused[8] = {0, 12, 12, 12, 12, 12, 12, 12};
    report.n_block_computed = report.n_block_reused = 8;
    report.block_computed = computed;
    report.block_reused = reused;
    assert_int_equal(foresee(spec.cache, STEPS).head, 1);
    for (int i = 1; i < 8; i++) computed[i] = 6, reused[i] = 18;
    hitrates_learn(&rates, &spec, &card, &report);
    expect(spec.cache, STEPS, 1, 0, 0.75);
}

static void a_comparison_runs_once_without_its_cache(void **state)
{
    Refrain__JobSpec spec = job_of("interval:N=2,first=0", STEPS);
    Refrain__ModelCard card = reference_card();
    struct plan_mix mix = {0};
    SET(spec, compare, 1);
    SET(spec, guidance, 1);
    hitrates_of(&rates, &spec, &card, &mix, NULL);
    assert_int_equal(mix.branches, 1);
    assert_true(fabs(mix.hit_rate - 0.25) < 1e-9);
}

static void what_was_not_used_for_longest_is_forgotten_first(void **state)
{
    char text[64];
    for (int i = 0; i < HITRATES_KEPT / 2 + 2; i++) { /* each is kept for its steps, and for any */
        snprintf(text, sizeof text, "dbcache:F1B0,threshold=0.%04d", i + 1000);
        learn(text, 50, 0, 100, 0);
        expect("dbcache:F1B0,threshold=0.1000", 50, 1, 0, 1); /* used all the time */
    }
    expect("dbcache:F1B0,threshold=0.1001", 50, 1, 0, 0.5);
    expect("dbcache:F1B0,threshold=0.1002", 50, 1, 0, 1);
}

static void nonsense_counts_as_uncached_and_teaches_nothing(void **state)
{
    expect("dbcache:F9", STEPS, 0, 0, 0); /* of eight blocks */
    expect("no such policy", STEPS, 0, 0, 0);
    learn("dbcache:F9", STEPS, 1, 1, 1);
    learn("dbcache:F1B0", STEPS, 0, 0, 0); /* an empty report */
    expect("dbcache:F1B0", STEPS, 1, 0, 0.5);
    Refrain__JobSpec spec = job_of("dbcache:F1B0", STEPS);
    Refrain__ModelCard card = reference_card();
    hitrates_learn(&rates, &spec, &card, NULL);
    expect("dbcache:F1B0", STEPS, 1, 0, 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_rehearsal_says_what_the_job_then_does, set_up),
        cmocka_unit_test_setup(what_is_certain_is_not_learnt, set_up),
        cmocka_unit_test_setup(blocks_are_rehearsed_one_by_one, set_up),
        cmocka_unit_test_setup(a_rate_that_only_measuring_tells_is_learnt, set_up),
        cmocka_unit_test_setup(experts_have_rates_of_their_own, set_up),
        cmocka_unit_test_setup(policies_by_blocks_learn_from_the_blocks_they_may_skip, set_up),
        cmocka_unit_test_setup(a_comparison_runs_once_without_its_cache, set_up),
        cmocka_unit_test_setup(what_was_not_used_for_longest_is_forgotten_first, set_up),
        cmocka_unit_test_setup(nonsense_counts_as_uncached_and_teaches_nothing, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
