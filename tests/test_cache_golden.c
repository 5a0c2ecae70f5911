/*
 * test_cache_golden.c - cached runs against other people's programs on the same checkpoints: cache-dit, diffusers'
 * own hooks, the authors' rules (tests/golden/cache/runs.json, made by tools/golden_cache.py).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "cache/reuse.h"
#include "tests/golden.h"
#include "tests/pipeline.h"

/* Relative L2 of the last latents beyond what the uncached run of the same job is off: skipped steps carry the error
 * of the step they were made from, forecasts amplify it. */
#define LATENT_LIMIT 2e-5
/* What is compared with a threshold is a ratio of sums of such values. */
#define CHANGE_LIMIT 1e-4

enum { MOST_TABLES = 4 };

static double number(json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text(json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static json_t *load_runs(void)
{
    char path[512];
    json_error_t problem;
    json_t *root = json_load_file(golden_path(path, sizeof path, "tests/golden/cache/runs.json"), 0, &problem);
    if (!root) fail_msg("cache/runs.json: %s", problem.text);
    return root;
}

static struct pipeline_run read_run(json_t *description)
{
    struct pipeline_run run = {.model = text(description, "model"), .threads = 2};
    run.order = (struct job_order){.job = 1,
                                   .attempt = 1,
                                   .fps = 16,
                                   .prompt = text(description, "prompt"),
                                   .negative = text(description, "negative"),
                                   .seed = (uint64_t)json_integer_value(json_object_get(description, "seed")),
                                   .steps = (int)number(description, "steps"),
                                   .width = (int)number(description, "width"),
                                   .height = (int)number(description, "height"),
                                   .frames = (int)number(description, "frames"),
                                   .guidance = number(description, "guidance"),
                                   .shift = number(description, "shift")};
    bool euler = strcmp(text(description, "solver"), "euler") == 0;
    run.order.solver = euler ? SOLVER_EULER : SOLVER_UNIPC;
    return run;
}

/* tables: [MOST_TABLES]; their values are freed by free_tables. */
static int read_tables(json_t *description, struct cache_table *tables)
{
    json_t *list = json_object_get(description, "tables"), *table, *value;
    size_t count, i;
    json_array_foreach(list, count, table)
    {
        json_t *from = json_object_get(table, "values");
        double *values = malloc(json_array_size(from) * sizeof *values);
        assert_true(count < MOST_TABLES);
        json_array_foreach(from, i, value) values[i] = json_number_value(value);
        tables[count] = (struct cache_table){.kind = text(table, "kind"),
                                             .name = "golden",
                                             .width = (int)number(table, "width"),
                                             .count = (int)json_array_size(from),
                                             .values = values};
    }
    return list ? (int)json_array_size(list) : 0;
}

static void free_tables(struct cache_table *tables, int count)
{
    for (int i = 0; i < count; i++) free((double *)tables[i].values);
}

/* "CCCRRC", allocated: what one branch's steps were. */
static char *verdicts_of(const struct pipeline_run *run, int branches, int branch)
{
    char *verdicts = calloc((size_t)run->order.steps + 1, 1);
    for (int i = 0; i < run->order.steps; i++)
        verdicts[i] = run->actions[i * branches + branch] == REUSE_COMPUTED ? 'C' : 'R';
    return verdicts;
}

/* Equal verdicts; of a run where we depart, equal before that step and not at it. */
static void expect_verdicts(json_t *description, const struct pipeline_run *run, int branches)
{
    const char *name = text(description, "name");
    json_t *departure = json_object_get(description, "differs");
    int differs = departure ? (int)json_integer_value(departure) : run->order.steps;
    bool differed = false;
    for (int b = 0; b < branches; b++) {
        const char *want = json_string_value(json_array_get(json_object_get(description, "verdicts"), (size_t)b));
        char *have = verdicts_of(run, branches, b);
        if (strncmp(want, have, (size_t)differs) != 0)
            fail_msg("%s, branch %d: verdicts\n  theirs %s\n  ours   %s", name, b, want, have);
        differed |= departure && want[differs] != have[differs];
        free(have);
    }
    if (departure && !differed) fail_msg("%s: no departure at step %d any more", name, differs);
}

/* Returns the largest difference between what was compared with the threshold, ours and theirs. */
static double expect_changes(json_t *description, const struct pipeline_run *run, int branches)
{
    json_t *rows = json_object_get(description, "changes");
    double largest = 0;
    for (int i = 0; i < run->order.steps * branches; i++) {
        json_t *theirs = json_array_get(json_array_get(rows, (size_t)(i % branches)), (size_t)(i / branches));
        double ours = (double)run->changes[i];
        if (!json_is_number(theirs) || ours < 0) continue;
        double off = fabs(ours - json_number_value(theirs));
        if (!(off <= CHANGE_LIMIT))
            fail_msg("%s, step %d, branch %d: measured %g, they %g", text(description, "name"), i / branches,
                     i % branches, ours, json_number_value(theirs));
        if (off > largest) largest = off;
    }
    return largest;
}

/* How far our uncached run of the same job is off; asked once per request, in the order of the file. */
static double uncached_distance(struct golden *g, json_t *description)
{
    static char asked[64];
    static double distance;
    const char *name = text(description, "uncached");
    struct pipeline_run run = read_run(description);
    int64_t count;
    if (strcmp(asked, name) == 0) return distance;
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%s: %s", name, run.error.text);
    const float *latents = golden_f32(g, name, &count);
    assert_int_equal(count, run.latent_count);
    distance = golden_relative_l2(run.latents, latents, count);
    snprintf(asked, sizeof asked, "%s", name);
    pipeline_free(&run);
    return distance;
}

static void check_run(struct golden *g, json_t *description)
{
    const char *name = text(description, "name");
    struct cache_table tables[MOST_TABLES];
    struct pipeline_run run = read_run(description);
    int branches = run.order.guidance > 1 ? 2 : 1;
    bool departs = json_object_get(description, "differs") != NULL;
    run.order.cache = text(description, "cache");
    run.order.tables = tables;
    run.order.table_count = read_tables(description, tables);
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%s: %s", name, run.error.text);
    assert_non_null(run.actions);
    expect_verdicts(description, &run, branches);
    if (departs) {
        print_message("%-22s departs at step %d, as said\n", name, (int)number(description, "differs"));
    } else {
        int64_t count;
        double changes = expect_changes(description, &run, branches), plain = uncached_distance(g, description);
        const float *latents = golden_f32(g, name, &count);
        assert_int_equal(count, run.latent_count);
        double distance = golden_relative_l2(run.latents, latents, count);
        print_message("%-22s latents %.1e (uncached %.1e)  changes %.1e\n", name, distance, plain, changes);
        if (!(distance <= plain + LATENT_LIMIT)) fail_msg("%s: latents differ by %.2e", name, distance);
    }
    free_tables(tables, run.order.table_count);
    pipeline_free(&run);
}

static void verdicts_and_latents_equal_those_of_the_rivals(void **state)
{
    json_t *root = load_runs(), *run;
    struct golden *g = golden_open("cache/runs");
    const char *only = getenv("REFRAIN_ONLY");
    size_t index;
    json_array_foreach(json_object_get(root, "runs"), index, run)
    {
        if (!only || strcmp(only, text(run, "name")) == 0) check_run(g, run);
    }
    assert_true(index >= 20);
    golden_close(g);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(verdicts_and_latents_equal_those_of_the_rivals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
