/*
 * test_policies_static.c - policies whose steps are known beforehand, against the schedules and formulas of
 * their authors. Expected steps are theirs or were generated from their rule and published table, not by this
 * code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "cache/names.h"
#include "tests/policy_driver.h"

enum { MANY = 50 };

static const struct cache_model wan_1_3b = {30, 12, 128, 8960, 16, 1}, wan_14b = {40, 40, 128, 13824, 16, 1};

static const struct policy_job job_of_50 = {
    .steps = MANY, .layers = 30, .branches = 1, .model = {30, 12, 128, 8960, 16}};

/* Runs the whole job without any signal. */
static void run(struct driver *d, const char *name, const char *settings, const struct policy_job *job)
{
    const struct script nothing = {0};
    driver_start(d, policy_find(name), settings, job);
    for (int i = 0; i < job->steps; i++) driver_step(d, &nothing);
}

/* Steps are as in a mask's text: "0-9+14". */
static void expect_computed(const struct driver *d, const char *steps)
{
    unsigned char mask[DRIVER_STEPS];
    char expected[DRIVER_STEPS + 1] = "";
    struct error error;
    if (mask_resolve(steps, d->step, mask, &error) != STATUS_OK) fail_msg("%s", error.text);
    for (int i = 0; i < d->step; i++) expected[i] = mask[i] ? 'C' : 'R';
    assert_string_equal(d->actions, expected);
}

static void refused(const char *name, const char *settings, const struct policy_job *job, const char *why)
{
    const struct policy *policy = policy_find(name);
    struct policy_plan plan = {0};
    struct error error = {0};
    double value[POLICY_PARAMETERS];
    driver_values(policy, settings, value);
    assert_int_not_equal(policy->plan(value, job, &plan, &error), STATUS_OK);
    if (strstr(error.text, why) == NULL) fail_msg("'%s' does not say '%s'", error.text, why);
}

/* -------------------------------------------------------------------------------------------- interval */

static void interval_computes_the_steps_of_taylorseer_freqca_and_spectrum(void **state)
{
    static const struct {
        const char *settings, *computed;
    } cases[] = {
        {"N=6,first=3", "0-2+8+14+20+26+32+38+44"},
        {"N=5,first=1", "0+5+10+15+20+25+30+35+40+45"},
        {"N=5,first=3", "0-2+7+12+17+22+27+32+37+42+47"},
        {"N=4,first=1", "0+4+8+12+16+20+24+28+32+36+40+44+48"},
        {"N=9,first=3", "0-2+11+20+29+38+47"},
        {"N=2,first=5,grow=0.75", "0-4+6+8+11+15+20+25+31+38+46"},
        {"N=2,first=5,grow=3", "0-4+6+11+19+30+44"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct driver d;
        run(&d, "interval", cases[i].settings, &job_of_50);
        expect_computed(&d, cases[i].computed);
    }
}

static void interval_of_one_computes_everything(void **state)
{
    struct driver d;
    run(&d, "interval", "N=1,first=0", &job_of_50);
    expect_computed(&d, "0-49");
}

/* FORA: full where S - 1 - i is a multiple of N, and the first step. */
static void interval_backwards_ends_with_a_computed_step(void **state)
{
    struct driver d;
    run(&d, "interval", "N=3,backwards=1", &job_of_50);
    expect_computed(&d, "0+1+4+7+10+13+16+19+22+25+28+31+34+37+40+43+46+49");
    refused("interval", "N=3,backwards=1,grow=1", &job_of_50, "grow");
}

static void interval_gives_its_reasons(void **state)
{
    struct driver d;
    run(&d, "interval", "N=4,first=2,last=3", &job_of_50);
    assert_int_equal(d.reasons[1], REASON_WARMUP);
    assert_int_equal(d.reasons[2], REASON_MASK);
    assert_int_equal(d.reasons[47], REASON_LAST);
    assert_float_equal(d.changes[2], CHANGE_NONE, 0);
}

static void interval_computes_what_a_mask_adds(void **state)
{
    unsigned char mask[MANY] = {[2] = 1};
    struct policy_job job = job_of_50;
    job.mask = mask;
    job.steps = 9;
    struct driver d;
    run(&d, "interval", "N=4", &job);
    expect_computed(&d, "0+2+6");
}

/* ------------------------------------------------------------------------------------------------ mask */

static void mask_does_what_the_mask_says(void **state)
{
    unsigned char mask[MANY];
    struct policy_job job = job_of_50;
    assert_int_equal(mask_resolve("lemica-wan2.1-1.3b-14", MANY, mask, NULL), STATUS_OK);
    job.mask = mask;
    struct driver d;
    run(&d, "mask", "F=1,B=2", &job);
    expect_computed(&d, "0-5+7+10+16+23+30+37+44+49");
    assert_int_equal(d.plan.head, 1);
    assert_int_equal(d.plan.tail, 2);
    assert_int_equal(d.plan.site, SITE_SPAN);
}

static void mask_without_a_mask_is_refused(void **state)
{
    refused("mask", "", &job_of_50, "mask: missing");
}

/* -------------------------------------------------------------------------------------------- magcache */

static const struct cache_table *published(const char *kind, const char *name)
{
    for (const struct cache_table *t = tables_published; t->kind != NULL; t++)
        if (strcmp(t->kind, kind) == 0 && strcmp(t->name, name) == 0) return t;
    fail_msg("no table %s %s", kind, name);
    return NULL;
}

static void magcache_computes_the_published_steps_of_wan(void **state)
{
    static const struct {
        const char *table, *settings, *computed;
        int steps;
    } cases[] = {
        {"wan2.1-t2v-14b", "threshold=0.24,K=6", "0-9+16+23+30+36+41+44+47+49", 50},
        {"wan2.1-t2v-1.3b", "threshold=0.12,K=4", "0-9+14+19+24+29+34+38+41+44+46+48+49", 50},
        {"wan2.1-i2v-480p", "threshold=0.24,K=6", "0-7+14+20+25+30+34+37+39", 40},
        {"wan2.1-i2v-720p", "threshold=0.24,K=6", "0-7+14+21+27+32+35+38", 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct cache_table *table = published("magcache", cases[i].table);
        struct policy_job job = {.steps = cases[i].steps,
                                 .layers = table->model.layers,
                                 .branches = 2,
                                 .model = table->model,
                                 .tables = table,
                                 .table_count = 1};
        struct driver d;
        run(&d, "magcache", cases[i].settings, &job);
        expect_computed(&d, cases[i].computed);
    }
}

/* numpy rounds halves to even: 3 entries over 5 steps are taken at 0, 0.5, 1, 1.5, 2, so 0 0 1 2 2. */
static void magcache_takes_the_nearest_entries_for_other_step_counts(void **state)
{
    const double ratios[] = {1.0, 1.25, 1.5};
    const struct cache_table own = {
        .kind = "magcache", .name = "own", .steps = 3, .width = 1, .count = 3, .values = ratios};
    const struct policy_job job = {.steps = 5, .layers = 4, .branches = 1, .tables = &own, .table_count = 1};
    struct driver d;
    refused("magcache", "threshold=100", &job, "was made at 3 steps, the job has 5");
    run(&d, "magcache", "threshold=100,K=100,R=0.2,resample=1", &job);
    assert_string_equal(d.actions, "CRRRR");
    assert_float_equal(d.changes[1], 0.0, 1e-6);
    assert_float_equal(d.changes[2], 0.25, 1e-6);
    assert_float_equal(d.changes[3], 0.25 + 0.875, 1e-6);
    assert_float_equal(d.changes[4], 0.25 + 0.875 + 1.8125, 1e-6);
}

static void magcache_says_why_it_computes(void **state)
{
    struct policy_job job = job_of_50;
    struct driver d;
    run(&d, "magcache", "threshold=0.12,K=4,R=0.2", &job);
    assert_int_equal(d.reasons[9], REASON_WARMUP);
    assert_int_equal(d.reasons[10], REASON_BELOW);
    assert_int_equal(d.reasons[14], REASON_RUN); /* error still below: the fifth in a row */
    assert_int_equal(d.reasons[49], REASON_ABOVE);
}

static void magcache_without_a_table_for_the_model_is_refused(void **state)
{
    struct policy_job job = job_of_50;
    job.model.layers = 31;
    refused("magcache", "", &job, "no magcache table for this model (31 layers");
    refused("magcache", "", &job, "refrain calibrate");
}

static void published_tables_fit_their_architecture(void **state)
{
    const struct cache_table *table;
    assert_int_equal(table_find("teacache", NULL, 0, &wan_1_3b, &table, NULL), STATUS_OK);
    assert_string_equal(table->name, "wan2.1-t2v-1.3b-normal");
    assert_int_equal(table_find("teacache-retention", NULL, 0, &wan_14b, &table, NULL), STATUS_OK);
    assert_string_equal(table->name, "wan2.1-t2v-14b-retention");
    assert_int_equal(table_find("magcache", NULL, 0, &wan_14b, &table, NULL), STATUS_OK);
    assert_string_equal(table->name, "wan2.1-t2v-14b");
    struct cache_model wan_a14b = wan_14b;
    wan_a14b.experts = 2;
    assert_int_equal(table_find("magcache", NULL, 0, &wan_a14b, &table, NULL), STATUS_OK);
    assert_string_equal(table->name, "wan2.2-t2v-a14b");
    assert_true(table->count == 40 && table->values[26] == 0.65523); /* where the second expert takes over */
    assert_int_equal(table_find("teacache", NULL, 0, &wan_a14b, &table, NULL), STATUS_NOT_FOUND);
    const struct cache_table own = {.kind = "magcache", .name = "own", .model = wan_14b, .width = 1};
    assert_int_equal(table_find("magcache", &own, 1, &wan_14b, &table, NULL), STATUS_OK);
    assert_ptr_equal(table, &own);
}

/* ------------------------------------------------------------------------------------------- calibrate */

static void calibrate_computes_every_step_and_traces(void **state)
{
    struct driver d;
    run(&d, "calibrate", "", &job_of_50);
    expect_computed(&d, "0-49");
    assert_true(d.plan.trace);
    assert_int_equal(d.plan.slots, CACHE_SLOTS);
    unsigned char mask[MANY] = {1};
    struct policy_job job = job_of_50;
    job.mask = mask;
    refused("calibrate", "", &job, "mask");
}

/* ------------------------------------------------------------------------------------------------ zeus */

/* The steps of wan2_demo.py, of apply_patch's defaults, and of flux_demo.py, by their solver's own
 * conditions. */
static void zeus_skips_the_steps_of_the_released_demos(void **state)
{
    static const struct {
        const char *settings, *computed;
    } cases[] = {
        {"", "0-9+12+15+18+21+24+25+29+33+37+41+45+48+49"},
        {"denominator=2,skip=1,phase=1,first=11,last=2,late=0,max_interval=4",
         "0-11+13+15+17+19+21+23+25+27+29+31+33+35+37+39+41+43+45+47-49"},
        {"first=11,last=4,late_interval=6", "0-10+12+15+18+21+24+25+31+37+43+46-49"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct driver d;
        run(&d, "zeus", cases[i].settings, &job_of_50);
        expect_computed(&d, cases[i].computed);
    }
}

static void zeus_never_skips_more_than_max_interval(void **state)
{
    struct driver d;
    run(&d, "zeus", "late_interval=12,max_interval=3,first=9", &job_of_50);
    assert_null(strstr(d.actions, "RRRR"));
    assert_int_equal(d.reasons[29], REASON_RUN);
}

static void zeus_alternates_between_extrapolation_and_reuse(void **state)
{
    struct driver d;
    const struct script nothing = {0};
    driver_start(&d, policy_find("zeus"), "", &job_of_50);
    assert_int_equal(d.plan.site, SITE_VELOCITY);
    assert_int_equal(d.plan.slots, 2);
    int seen = 0;
    for (int i = 0; i < MANY; i++) {
        driver_step(&d, &nothing);
        if (d.actions[i] != 'R') continue;
        bool odd = d.actions[i - 1] == 'C' || (i > 2 && d.actions[i - 2] == 'R' && d.actions[i - 3] == 'C');
        assert_float_equal(d.weights[0], odd ? 2 : 1, 0);
        assert_float_equal(d.weights[1], odd ? -1 : 0, 0);
        seen++;
    }
    assert_int_equal(seen, 27);
}

static void zeus_refuses_patterns_that_skip_everything(void **state)
{
    refused("zeus", "denominator=3,skip=3", &job_of_50, "skip 3: must be below denominator, 3");
    refused("zeus", "denominator=3,phase=3", &job_of_50, "phase 3");
}

/* ------------------------------------------------------------------------------------------- meancache */

/* A curved scalar flow, so that every order gives another velocity. */
static double velocity(double x, double sigma)
{
    return 0.7 * x + sin(3 * sigma) - 0.3 * x * x * sigma;
}

/* One run with the authors' own formula over latents and Euler steps (MeanCache4Qwen-Image,
 * compute_current_jvp), beside it the policy's weights over the velocities it has computed. orders: of each
 * step, NULL: 1. */
static void compare_with_the_authors(const char *settings, const struct policy_job *job, const int *orders)
{
    struct driver d;
    const struct script nothing = {0};
    double x[MANY + 1] = {0.9}, v[MANY], computed[MANY];
    int count = 0;
    driver_start(&d, policy_find("meancache"), settings, job);
    for (int i = 0; i < job->steps; i++) {
        const double *s = job->sigmas;
        driver_step(&d, &nothing);
        if (d.actions[i] == 'C') {
            v[i] = velocity(x[i], s[i]);
            computed[count++] = v[i];
        } else {
            int order = orders != NULL ? orders[i] : 1, from = i - (order < i ? order : i);
            double mean = (x[i] - x[from]) / (s[i] - s[from]), jvp = (v[from] - mean) / (s[i] - s[from]);
            double ours = 0, total = 0;
            v[i] = v[i - 1] - jvp * (s[i + 1] - s[i]);
            for (int j = 0; j < d.plan.slots && j < count; j++) {
                ours += d.weights[j] * computed[count - 1 - j];
                total += d.weights[j];
            }
            assert_float_equal(ours, v[i], 1e-9);
            assert_float_equal(total, 1.0, 1e-9);
        }
        x[i + 1] = x[i] + v[i] * (s[i + 1] - s[i]);
    }
}

static void shifted_sigmas(double *sigma, int steps, double shift)
{
    for (int i = 0; i <= steps; i++) {
        double t = 1.0 - (double)i / steps;
        sigma[i] = shift * t / (1 + (shift - 1) * t);
    }
}

static void meancache_is_the_authors_formula_as_weights(void **state)
{
    static const struct {
        int budget;
        const char *computed;
        struct {
            int first, last, order;
        } gaps[9]; /* steps skipped and their order */
    } cases[] = {
        {25,
         "0-16+24+32+40+43+45+47-49",
         {{17, 23, 1}, {25, 31, 1}, {33, 39, 1}, {41, 42, 5}, {44, 44, 5}, {46, 46, 5}}},
        {17,
         "0-8+10+17+24+31+38+45+48+49",
         {{9, 9, 2}, {11, 16, 1}, {18, 23, 1}, {25, 30, 1}, {32, 37, 1}, {39, 44, 1}, {46, 47, 4}}},
        {10,
         "0+1+3+7+14+21+28+35+42+49",
         {{2, 2, 2}, {4, 6, 1}, {8, 13, 1}, {15, 20, 1}, {22, 27, 1}, {29, 34, 1}, {36, 41, 1}, {43, 48, 4}}},
    };
    double sigma[MANY + 1];
    struct policy_job job = job_of_50;
    shifted_sigmas(sigma, MANY, 3);
    job.sigmas = sigma;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int orders[MANY] = {0};
        char settings[32];
        struct driver d;
        for (int g = 0; g < 9; g++)
            for (int s = cases[i].gaps[g].first; s > 0 && s <= cases[i].gaps[g].last; s++)
                orders[s] = cases[i].gaps[g].order;
        snprintf(settings, sizeof settings, "budget=%d", cases[i].budget);
        run(&d, "meancache", settings, &job);
        expect_computed(&d, cases[i].computed);
        compare_with_the_authors(settings, &job, orders);
    }
}

static void meancache_takes_any_mask_with_one_order(void **state)
{
    unsigned char mask[20];
    double sigma[21];
    struct policy_job job = {.steps = 20, .layers = 4, .branches = 2, .sigmas = sigma, .mask = mask};
    shifted_sigmas(sigma, 20, 5);
    assert_int_equal(mask_resolve("0-2+5+9+13+17+19", 20, mask, NULL), STATUS_OK);
    for (int order = 1; order <= 6; order++) {
        int orders[20];
        char settings[32];
        for (int i = 0; i < 20; i++) orders[i] = order;
        snprintf(settings, sizeof settings, "order=%d", order);
        compare_with_the_authors(settings, &job, orders);
    }
}

static void meancache_refuses_what_nobody_planned(void **state)
{
    struct policy_job job = job_of_50;
    job.steps = 30;
    refused("meancache", "", &job, "published for 50 steps, the job has 30");
    refused("meancache", "budget=12", &job_of_50, "must be 25, 17 or 10");
}

static void states_fit_what_the_engine_keeps(void **state)
{
    for (int i = 0; policies[i] != NULL; i++) {
        assert_true(policies[i]->state_bytes <= POLICY_STATE_BYTES);
        assert_true(policies[i]->parameter_count <= POLICY_PARAMETERS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interval_computes_the_steps_of_taylorseer_freqca_and_spectrum),
        cmocka_unit_test(interval_of_one_computes_everything),
        cmocka_unit_test(interval_backwards_ends_with_a_computed_step),
        cmocka_unit_test(interval_gives_its_reasons),
        cmocka_unit_test(interval_computes_what_a_mask_adds),
        cmocka_unit_test(mask_does_what_the_mask_says),
        cmocka_unit_test(mask_without_a_mask_is_refused),
        cmocka_unit_test(magcache_computes_the_published_steps_of_wan),
        cmocka_unit_test(magcache_takes_the_nearest_entries_for_other_step_counts),
        cmocka_unit_test(magcache_says_why_it_computes),
        cmocka_unit_test(magcache_without_a_table_for_the_model_is_refused),
        cmocka_unit_test(published_tables_fit_their_architecture),
        cmocka_unit_test(calibrate_computes_every_step_and_traces),
        cmocka_unit_test(zeus_skips_the_steps_of_the_released_demos),
        cmocka_unit_test(zeus_never_skips_more_than_max_interval),
        cmocka_unit_test(zeus_alternates_between_extrapolation_and_reuse),
        cmocka_unit_test(zeus_refuses_patterns_that_skip_everything),
        cmocka_unit_test(meancache_is_the_authors_formula_as_weights),
        cmocka_unit_test(meancache_takes_any_mask_with_one_order),
        cmocka_unit_test(meancache_refuses_what_nobody_planned),
        cmocka_unit_test(states_fit_what_the_engine_keeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
