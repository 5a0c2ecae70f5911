/* test_policies_dynamic.c - the dynamic caching policies over scripted signals (tests/policy_driver.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "tests/policy_driver.h"

extern const struct policy policy_teacache, policy_fbcache, policy_dbcache, policy_easycache, policy_dicache,
    policy_seacache, policy_sencache, policy_dbprune, policy_layers, policy_specache;

static const struct policy_job job_of_12 = {.steps = 12, .layers = 8, .branches = 2};

static void expect_reasons(const struct driver *d, const enum reason *reasons)
{
    for (int i = 0; i < d->step; i++)
        if (d->reasons[i] != reasons[i])
            fail_msg("step %d: reason %d, expected %d", i, (int)d->reasons[i], (int)reasons[i]);
}

static void run_changes(struct driver *d, enum signal signal, const double *changes, int count)
{
    for (int i = 0; i < count; i++) driver_change(d, signal, changes[i]);
}

/* ------------------------------------------------------------------------------------------ every policy */

static const struct policy *const all[] = {
    &policy_teacache, &policy_fbcache,  &policy_dbcache, &policy_easycache, &policy_dicache,
    &policy_seacache, &policy_sencache, &policy_dbprune, &policy_layers,    &policy_specache};

static void every_default_is_in_its_range_and_named_once(void **state)
{
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct policy *p = all[i];
        assert_true(p->parameter_count <= POLICY_PARAMETERS && p->state_bytes <= POLICY_STATE_BYTES);
        assert_true(p->summary[0] != '\0' && p->source[0] != '\0');
        for (int a = 0; a < p->parameter_count; a++) {
            const struct parameter *q = &p->parameters[a];
            assert_true(q->standard >= q->min && q->standard <= q->max);
            assert_true(q->type == PARAMETER_REAL || q->standard == floor(q->standard));
            assert_non_null(q->help);
            for (int b = 0; b < a; b++) assert_string_not_equal(q->name, p->parameters[b].name);
        }
    }
}

static void a_signal_that_is_not_finite_computes_and_does_not_stay_in_sums(void **state)
{
    static const enum signal signals[] = {SIGNAL_FILTERED, SIGNAL_PROBE_STEP, SIGNAL_PROBE};
    static const struct policy *const judged[] = {&policy_seacache, &policy_dicache, &policy_dbcache};
    static const char *const settings[] = {"threshold=0.5", "threshold=0.5,retention=0",
                                           "threshold=0.5,F=1,W=1"};
    for (int i = 0; i < 3; i++) {
        struct driver d;
        driver_start(&d, judged[i], settings[i], &job_of_12);
        run_changes(&d, signals[i], (double[]){0.1, 0.1, NAN, 0.1}, 4);
        assert_string_equal(d.actions, "CRCR");
        assert_int_equal(d.reasons[2], REASON_NON_FINITE);
        assert_float_equal(d.changes[3], 0.1, 1e-6);
    }
}

static void a_step_mask_computes_its_ones_in_every_policy(void **state)
{
    static const unsigned char ones[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const double zeros[24] = {0};
    const struct cache_table tables[] = {
        {.kind = "teacache", .name = "test", .width = 5, .count = 5, .values = zeros},
        {.kind = "sencache", .name = "test", .width = 2, .count = 24, .values = zeros}};
    struct policy_job job = job_of_12;
    job.mask = ones, job.tables = tables, job.table_count = 2;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const double quiet[8] = {0};
        char letters[9];
        struct driver d;
        bool sized = all[i] == &policy_dbcache || all[i] == &policy_dbprune;
        driver_start(&d, all[i], sized ? "F=1" : "", &job);
        for (int s = 0; s < 12; s++)
            if (d.plan.site == SITE_BLOCKS)
                driver_blocks(&d, quiet, letters);
            else
                driver_step(&d, &(struct script){0});
        assert_string_equal(d.actions, "CCCCCCCCCCCC");
    }
}

/* ---------------------------------------------------------------------------------------------- TeaCache */

static const double doubling[] = {0, 0, 0, 2, 0}; /* p(x) = 2 x, highest power first */
static const struct cache_table teacache_tables[] = {
    {.kind = "teacache", .name = "test", .width = 5, .count = 5, .values = doubling},
    {.kind = "teacache-retention", .name = "test", .width = 5, .count = 5, .values = doubling}};

static struct policy_job teacache_job(void)
{
    struct policy_job job = job_of_12;
    job.tables = teacache_tables;
    job.table_count = 2;
    return job;
}

static void teacache_adds_up_polynomials_and_protects_one_step_at_each_end(void **state)
{
    struct policy_job job = teacache_job();
    struct driver d;
    driver_start(&d, &policy_teacache, "threshold=0.25", &job);
    assert_int_equal(d.plan.signals, SIGNAL_BIT(SIGNAL_TIME));
    run_changes(&d, SIGNAL_TIME, (double[]){0, .05, .05, .05, .05, 0, .2, .01, .01, .01, .01, 0}, 12);
    /* sums: .1 .2 .3 (computed) .1 .1 .5 (computed) .02 .04 .06 .08 last */
    assert_string_equal(d.actions, "CRRCRRCRRRRC");
    assert_float_equal(d.changes[3], 0.3, 1e-6);
    assert_int_equal(d.reasons[0], REASON_WARMUP);
    assert_int_equal(d.reasons[11], REASON_LAST);
}

static void teacache_with_retention_keeps_five_steps_and_no_tail(void **state)
{
    struct policy_job job = teacache_job();
    struct driver d;
    driver_start(&d, &policy_teacache, "threshold=0.25,retention=1", &job);
    assert_int_equal(d.plan.signals, SIGNAL_BIT(SIGNAL_PROJECTION));
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_PROJECTION, 0.05);
    assert_string_equal(d.actions, "CCCCCRRCRRCR");
}

static void teacache_lets_a_negative_polynomial_take_the_sum_down(void **state)
{
    static const double shifted[] = {0, 0, 0, 1, -0.1};
    const struct cache_table table = {
        .kind = "teacache", .name = "test", .width = 5, .count = 5, .values = shifted};
    struct policy_job job = job_of_12;
    struct driver d;
    job.tables = &table, job.table_count = 1;
    driver_start(&d, &policy_teacache, "threshold=0.1", &job);
    run_changes(&d, SIGNAL_TIME, (double[]){0, 0, .25, .2}, 4);
    assert_string_equal(d.actions, "CRRC"); /* -.1, .05, .15 */
    assert_float_equal(d.changes[2], 0.05, 1e-6);
}

static void teacache_without_a_polynomial_for_the_model_is_refused(void **state)
{
    struct policy_job job = teacache_job();
    job.table_count = 1;
    driver_refused(&policy_teacache, "retention=1", &job, "no teacache-retention table");
    job.table_count = 0;
    driver_refused(&policy_teacache, "", &job, "no teacache table");
}

/* ----------------------------------------------------------------------------------------------- FBCache */

static void fbcache_reuses_strictly_below_and_protects_nothing(void **state)
{
    struct driver d;
    driver_start(&d, &policy_fbcache, "threshold=0.125", &job_of_12);
    assert_int_equal(d.plan.head, 1);
    run_changes(&d, SIGNAL_PROBE, (double[]){0, .1, .125, .1249}, 4);
    assert_string_equal(d.actions, "CRCR");
    expect_reasons(&d, (enum reason[]){REASON_NO_HISTORY, REASON_BELOW, REASON_ABOVE, REASON_BELOW});
}

static void fbcache_may_protect_both_ends(void **state)
{
    struct driver d;
    driver_start(&d, &policy_fbcache, "first=2,last=3", &job_of_12);
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_PROBE, 0.0);
    assert_string_equal(d.actions, "CCRRRRRRRCCC");
}

static void fbcache_needs_two_blocks(void **state)
{
    driver_refused(&policy_fbcache, "", &(struct policy_job){.steps = 4, .layers = 1, .branches = 1},
                   "fbcache");
}

/* ----------------------------------------------------------------------------------------------- DBCache */

static void dbcache_limits_a_run_that_any_computed_step_clears(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dbcache, "F=1,W=1,MC=2,threshold=0.1", &job_of_12);
    run_changes(&d, SIGNAL_PROBE, (double[]){0, 0, .2, 0, .2, 0, 0, 0, 0}, 9);
    assert_string_equal(d.actions, "CRCRCRRCR");
    assert_int_equal(d.reasons[7], REASON_RUN);
}

static void dbcache_limits_all_reused_steps(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dbcache, "F=1,W=1,M=3,threshold=0.1", &job_of_12);
    for (int i = 0; i < 7; i++) driver_change(&d, SIGNAL_PROBE, 0.0);
    assert_string_equal(d.actions, "CRRRCCC");
    assert_int_equal(d.reasons[4], REASON_TOTAL);
}

static void dbcache_without_limits_in_its_tag_has_no_limits(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dbcache, "F=1,W=1,M=0,MC=0,threshold=0.1", &job_of_12);
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_PROBE, 0.0);
    assert_string_equal(d.actions, "CRRRRRRRRRRR");
}

static void dbcache_accumulates_what_it_let_through_and_starts_again(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dbcache, "F=1,W=1,max_accumulated=0.1,threshold=0.08", &job_of_12);
    run_changes(&d, SIGNAL_PROBE, (double[]){0, .06, .06, 0, .06, .5, .06, .06, .06}, 9);
    /* .12 stops step 3; the .5 of step 5 is not let through and so not counted */
    assert_string_equal(d.actions, "CRRCRCRRC");
    assert_int_equal(d.reasons[3], REASON_ACCUMULATED);
    assert_int_equal(d.reasons[5], REASON_ABOVE);
    assert_int_equal(d.reasons[8], REASON_ACCUMULATED);
}

static void dbcache_follows_masks_dynamically_or_statically(void **state)
{
    static const unsigned char mask[12] = {1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1};
    struct policy_job job = job_of_12;
    struct driver d;
    job.mask = mask;
    driver_start(&d, &policy_dbcache, "F=1,W=8,threshold=0.1", &job);
    run_changes(&d, SIGNAL_PROBE, (double[]){0, 0, 0, .5, 0, 0, 0, .5, 0, .5, 0, 0}, 12);
    assert_string_equal(d.actions, "CCRCCRRCCCRC");
    assert_int_equal(d.reasons[1], REASON_WARMUP); /* of 8 as many as the mask begins with ones */
    assert_int_equal(d.reasons[4], REASON_MASK);
    driver_start(&d, &policy_dbcache, "F=1,W=8,threshold=0.1,static=1", &job);
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_PROBE, 0.5);
    assert_string_equal(d.actions, "CCRRCRRRCRRC");
    assert_int_equal(d.reasons[2], REASON_MASK);
}

static void dbcache_that_does_not_fit_is_refused(void **state)
{
    driver_refused(&policy_dbcache, "", &job_of_12, "F 8: with B 0 it must stay below the model's 8 blocks");
    driver_refused(&policy_dbcache, "F=4,B=4", &job_of_12, "F 4: with B 4");
    driver_refused(&policy_dbcache, "F=1,static=1", &job_of_12, "static 1: needs a mask");
}

static void dbcache_may_let_the_conditional_branch_decide(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dbcache, "F=2,B=1,separate=0", &job_of_12);
    assert_true(d.plan.tied && d.plan.head == 2 && d.plan.tail == 1);
}

/* --------------------------------------------------------------------------------------------- EasyCache */

/* Velocity of absolute sum `v`, `dv` away from that of the last computed step; latent `dx` from the previous
 * step, `drift` from the last computed one. */
static void easy_step(struct driver *d, double v, double dv, double dx, double drift)
{
    struct script s = {0};
    script_change(&s, SIGNAL_LATENT, dx);
    script_change(&s, SIGNAL_DRIFT, drift);
    script_change(&s, SIGNAL_OUTPUT, dv);
    s.sums[SIGNAL_OUTPUT].now = v;
    driver_step(d, &s);
}

static void easycache_multiplies_the_latents_change_with_the_measured_gain(void **state)
{
    struct driver d;
    driver_start(&d, &policy_easycache, "threshold=0.125,first=3", &job_of_12);
    assert_true(d.plan.tied && d.plan.site == SITE_OUTPUT);
    for (int i = 0; i < 2; i++) easy_step(&d, 1, 0.3, 0.1, 0.1);
    easy_step(&d, 2, 0.2, 0.1, 0.1); /* gain 2, |v| 2: as much as the latent's own change */
    easy_step(&d, 9, 9, 0.05, 0.05);
    easy_step(&d, 9, 9, 0.05, 0.1);
    easy_step(&d, 4, 0.6, 0.05, 0.15); /* 0.15: computed; gain 4, |v| 4 */
    easy_step(&d, 9, 9, 0.0625, 0.0625);
    easy_step(&d, 4, 0, 0.0625, 0.125); /* 0.125 is not below */
    assert_string_equal(d.actions, "CCCRRCRC");
    assert_float_equal(d.changes[4], 0.1, 1e-6);
    assert_float_equal(d.changes[6], 0.0625, 1e-6);
    assert_int_equal(d.reasons[2], REASON_WARMUP);
}

static void easycache_computes_until_it_has_a_gain_and_at_the_end(void **state)
{
    struct driver d;
    driver_start(&d, &policy_easycache, "first=1", &job_of_12);
    for (int i = 0; i < 12; i++) easy_step(&d, 1, 0.001, 0.001, 0.001);
    assert_string_equal(d.actions, "CCRRRRRRRRRC");
    assert_int_equal(d.reasons[1], REASON_NO_HISTORY);
}

static void easycache_keeps_its_gain_when_the_latent_stood_still(void **state)
{
    struct driver d;
    driver_start(&d, &policy_easycache, "first=3,threshold=0.5", &job_of_12);
    for (int i = 0; i < 2; i++) easy_step(&d, 1, 0.1, 0.1, 0.1);
    easy_step(&d, 1, 0.1, 0, 0);
    easy_step(&d, 1, 0.1, 0.1, 0.1);
    assert_string_equal(d.actions, "CCCR");
    assert_float_equal(d.changes[3], 0.1, 1e-6);
}

/* ----------------------------------------------------------------------------------------------- DiCache */

static void dicache_adds_up_the_probes_changes_after_a_fifth_of_the_steps(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dicache, "", &job_of_12);
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_PROBE_STEP, 0.03);
    /* 24 calls, the first 4 computed: 2 steps; .03 .06 .09 */
    assert_string_equal(d.actions, "CCRRCRRCRRCR");
    assert_float_equal(d.changes[4], 0.09, 1e-6);
}

static void dicache_may_subtract_the_embeddings_change(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dicache, "delta_minus=1,retention=0", &job_of_12);
    for (int i = 0; i < 5; i++) {
        struct script s = {0};
        script_change(&s, SIGNAL_PROBE_STEP, 0.02);
        script_change(&s, SIGNAL_EMBED, 0.05);
        driver_step(&d, &s);
    }
    assert_string_equal(d.actions, "CRRCR");
    assert_int_equal(d.reasons[0], REASON_NO_HISTORY);
}

static void dicache_weighs_two_residuals_by_the_probes_path(void **state)
{
    /* |q - q_2| over |q_1 - q_2| = 1, and the weights expected with gamma up to 2 */
    static const double older[] = {1.5, 0.5, 3, INFINITY}, gamma[] = {1.5, 1, 2, 1};
    struct driver d;
    driver_start(&d, &policy_dicache, "threshold=9", &job_of_12);
    for (int i = 0; i < 6; i++) {
        struct script s = {0};
        script_change(&s, SIGNAL_PROBE_STEP, 0.01);
        if (i >= 2) {
            script_change(&s, SIGNAL_PROBE_HISTORY, isinf(older[i - 2]) ? 1e-300 : 1);
            script_change(&s, SIGNAL_PROBE_OLDER, isinf(older[i - 2]) ? 1e300 : older[i - 2]);
        }
        driver_step(&d, &s);
        if (i < 2) continue;
        assert_float_equal(d.weights[0], gamma[i - 2], 1e-12);
        assert_float_equal(d.weights[0] + d.weights[1], 1, 1e-12);
    }
}

static void dicache_with_one_residual_repeats_it(void **state)
{
    struct driver d;
    driver_start(&d, &policy_dicache, "retention=0,m=3", &job_of_12);
    assert_int_equal(d.plan.head, 3);
    run_changes(&d, SIGNAL_PROBE_STEP, (double[]){0, 0.01}, 2);
    assert_string_equal(d.actions, "CR");
    assert_float_equal(d.weights[0], 1, 0);
    driver_refused(&policy_dicache, "m=8", &job_of_12, "m 8: must be below the model's 8 blocks");
}

/* ----------------------------------------------------------------------------------------------- SeaCache */

static void seacache_adds_up_filtered_changes(void **state)
{
    struct driver d;
    driver_start(&d, &policy_seacache, "threshold=0.125", &job_of_12);
    assert_float_equal(d.plan.filter_power, 3, 0);
    for (int i = 0; i < 12; i++) driver_change(&d, SIGNAL_FILTERED, 0.0625);
    assert_string_equal(d.actions, "CRCRCRCRCRCC");
    assert_int_equal(d.reasons[11], REASON_LAST);
}

/* ----------------------------------------------------------------------------------------------- SenCache */

static void drift(struct driver *d, double distance)
{
    struct script s = {0};
    script_change(&s, SIGNAL_DRIFT, 0.1);
    s.sums[SIGNAL_DRIFT].count = 4;
    s.sums[SIGNAL_DRIFT].difference2 = distance * distance;
    driver_step(d, &s);
}

static void sencache_bounds_the_change_by_sensitivities_of_the_last_computed_step(void **state)
{
    static const double sigmas[] = {1, 0.99, 0.98, 0.97, 0.96, 0.95};
    static const double rows[] = {2, 0.1, 2, 0.1, 2, 0.1, 4, 0, 2, 0.1};
    const struct cache_table table = {
        .kind = "sencache", .name = "test", .steps = 5, .width = 2, .count = 10, .values = rows};
    struct policy_job job = {
        .steps = 5, .layers = 8, .branches = 2, .sigmas = sigmas, .tables = &table, .table_count = 1};
    struct driver d;
    driver_start(&d, &policy_sencache, "threshold=1.6,early=1.6", &job);
    assert_true(d.plan.tied);
    drift(&d, 1);
    drift(&d, 1);   /* (2 * 1 + 0.1 * 10) / sqrt(4) = 1.5 */
    drift(&d, 0.5); /* (1 + 0.1 * 20) / 2 = 1.5 */
    drift(&d, 0.5); /* (1 + 3) / 2: computed */
    drift(&d, 0.7); /* (4 * 0.7) / 2 = 1.4 with the new step's row */
    assert_string_equal(d.actions, "CRRCR");
    assert_float_equal(d.changes[1], 1.5, 1e-5);
    assert_float_equal(d.changes[3], 2.0, 1e-5);
    assert_float_equal(d.changes[4], 1.4, 1e-5);
    job.steps = 4;
    driver_refused(&policy_sencache, "", &job, "sencache table 'test' has 10 values");
}

static void sencache_is_strict_early_and_limits_runs(void **state)
{
    static const double sigmas[13] = {0}, rows[24] = {[0] = 1, [2] = 1, [4] = 1, [6] = 1, [8] = 1, [10] = 1};
    const struct cache_table table = {
        .kind = "sencache", .name = "test", .width = 2, .count = 24, .values = rows};
    struct policy_job job = job_of_12;
    struct driver d;
    job.sigmas = sigmas, job.tables = &table, job.table_count = 1;
    driver_start(&d, &policy_sencache, "", &job); /* round(24 * 0.2) = 5 calls: steps 0..2 are early */
    for (int i = 0; i < 8; i++) drift(&d, 1);
    assert_string_equal(d.actions, "CCCRRRCR");
    assert_int_equal(d.reasons[1], REASON_ABOVE);
    assert_int_equal(d.reasons[6], REASON_RUN);
}

/* ---------------------------------------------------------------------------------------------- SpeCache */

static void specache_forces_the_step_after_a_failed_check(void **state)
{
    struct driver d;
    driver_start(&d, &policy_specache, "base=0.5,decay=1", &job_of_12);
    assert_int_equal(d.plan.tail, 1);
    run_changes(&d, SIGNAL_VERIFY, (double[]){0, 0, 0, 9, 9, .4, .6, 0, 9, 9, .6, 0}, 12);
    /* drafts 3 and 4 are not judged, 5 passes, 6 fails: 7 is computed; 10 fails: 11 is */
    assert_string_equal(d.actions, "CCCRRRRCRRRC");
    expect_reasons(&d, (enum reason[]){REASON_WARMUP, REASON_WARMUP, REASON_WARMUP, REASON_MASK, REASON_MASK,
                                       REASON_MASK, REASON_BELOW, REASON_VERIFY, REASON_MASK, REASON_MASK,
                                       REASON_MASK, REASON_VERIFY});
    assert_float_equal(d.changes[7], 0.6, 1e-6);
}

static void specache_lowers_its_threshold_to_a_floor_and_limits_runs(void **state)
{
    struct driver d;
    driver_start(&d, &policy_specache, "base=1,decay=0.01,floor=0.4,k_min=0,k_max=3,first=1", &job_of_12);
    /* allowed: step 2 .464, 3 .316 -> .4 */
    run_changes(&d, SIGNAL_VERIFY, (double[]){0, .45, .42, 0, .39, .39, .39, 0}, 8);
    assert_string_equal(d.actions, "CRRCRRRC");
    assert_int_equal(d.reasons[3], REASON_VERIFY);
    assert_int_equal(d.reasons[7], REASON_RUN);
    driver_refused(&policy_specache, "k_min=4,k_max=3", &job_of_12, "k_min 4");
}

static void specache_takes_a_check_that_is_no_number_as_failed(void **state)
{
    struct driver d;
    driver_start(&d, &policy_specache, "k_min=0,first=1", &job_of_12);
    for (int i = 0; i < 3; i++) {
        struct script s = {0};
        script_change(&s, SIGNAL_VERIFY, 0.01);
        if (i == 1) s.sums[SIGNAL_VERIFY].now = NAN;
        driver_step(&d, &s);
    }
    assert_string_equal(d.actions, "CRC");
    assert_int_equal(d.reasons[2], REASON_NON_FINITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_default_is_in_its_range_and_named_once),
        cmocka_unit_test(a_signal_that_is_not_finite_computes_and_does_not_stay_in_sums),
        cmocka_unit_test(a_step_mask_computes_its_ones_in_every_policy),
        cmocka_unit_test(teacache_adds_up_polynomials_and_protects_one_step_at_each_end),
        cmocka_unit_test(teacache_with_retention_keeps_five_steps_and_no_tail),
        cmocka_unit_test(teacache_lets_a_negative_polynomial_take_the_sum_down),
        cmocka_unit_test(teacache_without_a_polynomial_for_the_model_is_refused),
        cmocka_unit_test(fbcache_reuses_strictly_below_and_protects_nothing),
        cmocka_unit_test(fbcache_may_protect_both_ends),
        cmocka_unit_test(fbcache_needs_two_blocks),
        cmocka_unit_test(dbcache_limits_a_run_that_any_computed_step_clears),
        cmocka_unit_test(dbcache_limits_all_reused_steps),
        cmocka_unit_test(dbcache_without_limits_in_its_tag_has_no_limits),
        cmocka_unit_test(dbcache_accumulates_what_it_let_through_and_starts_again),
        cmocka_unit_test(dbcache_follows_masks_dynamically_or_statically),
        cmocka_unit_test(dbcache_that_does_not_fit_is_refused),
        cmocka_unit_test(dbcache_may_let_the_conditional_branch_decide),
        cmocka_unit_test(easycache_multiplies_the_latents_change_with_the_measured_gain),
        cmocka_unit_test(easycache_computes_until_it_has_a_gain_and_at_the_end),
        cmocka_unit_test(easycache_keeps_its_gain_when_the_latent_stood_still),
        cmocka_unit_test(dicache_adds_up_the_probes_changes_after_a_fifth_of_the_steps),
        cmocka_unit_test(dicache_may_subtract_the_embeddings_change),
        cmocka_unit_test(dicache_weighs_two_residuals_by_the_probes_path),
        cmocka_unit_test(dicache_with_one_residual_repeats_it),
        cmocka_unit_test(seacache_adds_up_filtered_changes),
        cmocka_unit_test(sencache_bounds_the_change_by_sensitivities_of_the_last_computed_step),
        cmocka_unit_test(sencache_is_strict_early_and_limits_runs),
        cmocka_unit_test(specache_forces_the_step_after_a_failed_check),
        cmocka_unit_test(specache_lowers_its_threshold_to_a_floor_and_limits_runs),
        cmocka_unit_test(specache_takes_a_check_that_is_no_number_as_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
