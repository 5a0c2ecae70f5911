/* test_forecasts_fitted.c - forecasts that are fitted, learned or differ by token, and all of them against
 * the reference implementations (tests/golden/cache/forecasts.json, made by tools/golden_forecasts.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "tests/forecast_rig.h"
#include "tests/golden.h"

/* ---------------------------------------------------------------------------------------------------- dmd */

/* Two turning modes and a decaying one, a sum that dmd must continue exactly; and a line, its defective case.
 */
static void dmd_continues_exponentials_and_lines(void **state)
{
    struct rig rig;
    rig_open(&rig, "dmd");
    double x[WIDTH];
    for (int step = 0; step <= 20; step += 4) {
        for (int k = 0; k < WIDTH; k++)
            x[k] = exp(-0.05 * step) * cos(0.2 * step + k) + 0.5 * pow(0.97, step) * (k + 1);
        rig_compute(&rig, step, x);
    }
    for (int step = 21; step < 26; step++) {
        rig_weights(&rig, step);
        for (int k = 0; k < WIDTH; k++)
            assert_near(rig_said(&rig, 0, k),
                        exp(-0.05 * step) * cos(0.2 * step + k) + 0.5 * pow(0.97, step) * (k + 1), 1e-5);
    }

    rig_open(&rig, "dmd");
    for (int step = 0; step <= 20; step += 4) {
        for (int k = 0; k < WIDTH; k++) x[k] = k * k - 5 + (0.1 * k - 0.3) * step;
        rig_compute(&rig, step, x);
    }
    rig_weights(&rig, 23);
    for (int k = 0; k < WIDTH; k++) assert_near(rig_said(&rig, 0, k), k * k - 5 + (0.1 * k - 0.3) * 23, 1e-4);
}

static void dmd_without_an_answer_reuses(void **state)
{
    struct rig rig;
    rig_open(&rig, "dmd");
    for (int step = 0; step < 5; step++) rig_compute(&rig, step, (const double[WIDTH]){0});
    rig_weights(&rig, 5); /* all zero: no singular value */
    assert_near(rig.weights[0][0], 1, 0);
    assert_near(rig.weights[0][1], 0, 0);
    rig.history.gram[0][2] = rig.history.gram[2][0] = NAN;
    rig_weights(&rig, 5);
    assert_near(rig.weights[0][0], 1, 0);
}

/* ---------------------------------------------------------------------------------------------------- l2p */

enum { L2P_STEPS = 10 };

/* F_i = r^i with random r: averaged products are E r^(i + j), here of r in {-1, 0.5, 2} with shares. */
static void l2p_table(double values[L2P_STEPS * L2P_STEPS])
{
    for (int i = 0; i < L2P_STEPS; i++)
        for (int j = 0; j < L2P_STEPS; j++)
            values[i * L2P_STEPS + j] =
                j < i ? 0 : 0.5 * pow(-1, i + j) + 0.3 * pow(0.5, i + j) + 0.2 * pow(1.2, i + j);
}

static void l2p_open(struct rig *rig, const char *text, struct cache_table *table, const double *values)
{
    *table = (struct cache_table){.kind = "l2p",
                                  .name = "synthetic",
                                  .steps = L2P_STEPS,
                                  .shift = 3,
                                  .width = L2P_STEPS,
                                  .count = L2P_STEPS * L2P_STEPS,
                                  .values = values};
    rig_open(rig, text);
    rig->job.steps = L2P_STEPS;
    rig->job.tables = table;
    rig->job.table_count = 1;
}

static void l2p_finds_the_weights_that_made_its_table(void **state)
{
    double values[L2P_STEPS * L2P_STEPS];
    struct cache_table table;
    struct rig rig;
    l2p_table(values);
    l2p_open(&rig, "l2p:ridge=0", &table, values);
    /* Three rates and three anchors: r^7 is exactly a sum of r^5, r^3, r^2 at all of -1, 0.5, 1.2. */
    for (int i = 0; i < 3; i++) rig_compute(&rig, (int[]){2, 3, 5}[i], (const double[WIDTH]){0});
    rig_weights(&rig, 7);
    for (int k = 0; k < 3; k++) {
        double r = (double[]){-1, 0.5, 1.2}[k];
        double said =
            rig.weights[0][0] * pow(r, 5) + rig.weights[0][1] * pow(r, 3) + rig.weights[0][2] * pow(r, 2);
        assert_near(said, pow(r, 7), 1e-7);
    }
}

static void l2p_with_a_strong_pull_reuses(void **state)
{
    double values[L2P_STEPS * L2P_STEPS];
    struct cache_table table;
    struct rig rig;
    l2p_table(values);
    l2p_open(&rig, "l2p:ridge=1", &table, values);
    rig.value[1] = 1e6;
    rig_compute(&rig, 2, (const double[WIDTH]){0});
    rig_compute(&rig, 5, (const double[WIDTH]){0});
    rig_weights(&rig, 7);
    assert_near(rig.weights[0][0], 1, 1e-5);
    assert_near(rig.weights[0][1], 0, 1e-5);
}

static void l2p_reuses_where_its_table_was_not_measured(void **state)
{
    double values[L2P_STEPS * L2P_STEPS];
    struct cache_table table;
    struct rig rig;
    l2p_table(values);
    for (int j = 0; j < L2P_STEPS; j++) values[3 * L2P_STEPS + j] = values[j * L2P_STEPS + 3] = 0;
    l2p_open(&rig, "l2p", &table, values);
    rig_compute(&rig, 3, (const double[WIDTH]){0});
    rig_weights(&rig, 4);
    assert_near(rig.weights[0][0], 1, 0);
    rig_compute(&rig, 5, (const double[WIDTH]){0}); /* step 3 still does not count */
    rig_weights(&rig, 6);
    assert_near(rig.weights[0][0], values[5 * L2P_STEPS + 6] / values[5 * L2P_STEPS + 5], 1e-4);
    assert_near(rig.weights[0][1], 0, 0);
}

static void l2p_refuses_a_table_of_other_steps_shift_or_model(void **state)
{
    double values[L2P_STEPS * L2P_STEPS];
    struct cache_table table;
    struct rig rig;
    struct error error = {0};
    l2p_table(values);
    l2p_open(&rig, "l2p", &table, values);
    status_t (*plan)(const double *, const struct policy_job *, struct error *) = rig.forecast->plan;
    assert_int_equal(plan(rig.value, &rig.job, &error), STATUS_OK);
    rig.job.steps = 20;
    assert_int_equal(plan(rig.value, &rig.job, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "10 steps"));
    assert_non_null(strstr(error.text, "20"));
    rig.job.steps = L2P_STEPS;
    rig.job.shift = 5;
    assert_int_equal(plan(rig.value, &rig.job, &error), STATUS_INVALID);
    rig.job.shift = 3;
    table.model.layers = 30;
    assert_int_equal(plan(rig.value, &rig.job, &error), STATUS_NOT_FOUND);
    rig.job.table_count = 0;
    assert_int_equal(plan(rig.value, &rig.job, &error), STATUS_NOT_FOUND);
}

/* --------------------------------------------------------------------------------------------- worldcache */

static void tokens_are_grouped_at_the_quantiles_of_their_curvature(void **state)
{
    const struct forecast *f = rig_find("worldcache", 10);
    double value[POLICY_PARAMETERS], curvature[101];
    unsigned char group[101];
    for (int i = 0; i < f->parameter_count; i++) value[i] = f->parameters[i].standard;
    for (int i = 0; i < 101; i++) curvature[i] = (double)(i * 37 % 101) * 1e-3; /* ranks in disorder */
    worldcache_groups(value, curvature, 101, 20, group);
    for (int i = 0; i < 101; i++) {
        int rank = i * 37 % 101;
        assert_int_equal(group[i], rank < 25 ? 0 : rank >= 70 ? 2 : 1);
    }
    /* between ranks, as torch.quantile: 0.25 of {0, 1, 2, 3} is 0.75, 0.7 is 2.1 */
    worldcache_groups(value, (const double[]){3, 0, 1, 2}, 4, 2, group);
    assert_memory_equal(group, ((const unsigned char[]){2, 0, 1, 1}), 4);
    /* what is not finite counts as the fastest */
    worldcache_groups(value, (const double[]){NAN, 0, 1, 2}, 4, 2, group);
    assert_memory_equal(group, ((const unsigned char[]){2, 0, 1, 1}), 4);
}

static void frames_are_grouped_whole(void **state)
{
    const struct forecast *f = rig_find("worldcache", 10);
    double value[POLICY_PARAMETERS];
    for (int i = 0; i < f->parameter_count; i++)
        value[i] = strcmp(f->parameters[i].name, "frames") == 0 ? 1 : f->parameters[i].standard;
    const double curvature[] = {9, 0, 0, /* 3 */ 1, 1, 1, /* 1 */ 0, 1, 0.5, /* 0.5 */ 2, 2, 2 /* 2 */};
    unsigned char group[12];
    worldcache_groups(value, curvature, 12, 3, group);
    assert_memory_equal(group, ((const unsigned char[]){2, 2, 2, 1, 1, 1, 0, 0, 0, 1, 1, 1}), 12);
}

static void worldcache_refuses_quantiles_in_the_wrong_order(void **state)
{
    struct rig rig;
    struct error error = {0};
    rig_open(&rig, "worldcache:still=0.5,fast=0.4");
    assert_int_equal(rig.forecast->plan(rig.value, &rig.job, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "still 0.5"));
}

/* ----------------------------------------------------------------------------------------- the reference */

static double at(const json_t *rows, size_t row, size_t column)
{
    return json_number_value(json_array_get(json_array_get(rows, row), column));
}

static void expect_case(const json_t *golden, const json_t *item)
{
    const char *name = json_string_value(json_object_get(item, "name"));
    const json_t *all = json_object_get(golden, "trajectories"), *said = json_object_get(item, "said");
    const json_t *rows = json_object_get(all, json_string_value(json_object_get(item, "trajectory")));
    const json_t *computed = json_object_get(item, "computed");
    int set = (int)json_integer_value(json_object_get(item, "set"));
    struct rig rig;
    rig_open(&rig, json_string_value(json_object_get(item, "forecast")));
    rig.job.steps = (int)json_integer_value(json_object_get(golden, "steps"));
    size_t next = 0, reused = 0;
    for (int step = 0; step < rig.job.steps; step++) {
        double x[WIDTH];
        for (int k = 0; k < WIDTH; k++) x[k] = at(rows, (size_t)step, (size_t)k);
        if (step == json_integer_value(json_array_get(computed, next)) && next < json_array_size(computed)) {
            rig_compute(&rig, step, x);
            next++;
            continue;
        }
        rig_weights(&rig, step);
        for (int k = 0; k < 2; k++) {
            double want = at(said, reused, (size_t)k), ours = rig_said(&rig, set, k);
            if (!(fabs(ours - want) <= 1e-8 * (1 + fabs(want))))
                fail_msg("%s, step %d: %.12g, not %.12g", name, step, ours, want);
        }
        reused++;
    }
    assert_int_equal(reused, json_array_size(said));
}

static void forecasts_are_those_of_cache_dit_and_the_papers(void **state)
{
    char path[512];
    json_error_t why;
    json_t *golden =
        json_load_file(golden_path(path, sizeof path, "tests/golden/cache/forecasts.json"), 0, &why);
    if (golden == NULL) fail_msg("forecasts.json: %s", why.text);
    const json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) >= 50);
    for (size_t i = 0; i < json_array_size(cases); i++) expect_case(golden, json_array_get(cases, i));
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dmd_continues_exponentials_and_lines),
        cmocka_unit_test(dmd_without_an_answer_reuses),
        cmocka_unit_test(l2p_finds_the_weights_that_made_its_table),
        cmocka_unit_test(l2p_with_a_strong_pull_reuses),
        cmocka_unit_test(l2p_reuses_where_its_table_was_not_measured),
        cmocka_unit_test(l2p_refuses_a_table_of_other_steps_shift_or_model),
        cmocka_unit_test(tokens_are_grouped_at_the_quantiles_of_their_curvature),
        cmocka_unit_test(frames_are_grouped_whole),
        cmocka_unit_test(worldcache_refuses_quantiles_in_the_wrong_order),
        cmocka_unit_test(forecasts_are_those_of_cache_dit_and_the_papers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
