/*
 * test_policies_golden.c - dynamic caching policies decide as the originals do: DBCache and DBPrune as
 * cache-dit's own classes (tests/golden/cache/rules.json, made by tools/golden_policies.py), TeaCache,
 * EasyCache and DiCache as their authors' code (authors.json, tools/golden_authors.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "tests/golden.h"
#include "tests/policy_driver.h"

extern const struct policy policy_teacache, policy_dbcache, policy_easycache, policy_dicache, policy_dbprune;

/* --------------------------------------------------------------------------- rules of cache-dit's classes */

static json_t *load_cases(const char *file, const char *policy, size_t least)
{
    char name[256], path[512];
    json_error_t why;
    snprintf(name, sizeof name, "tests/golden/cache/%s", file);
    json_t *all_cases = json_load_file(golden_path(path, sizeof path, name), 0, &why);
    if (all_cases == NULL) fail_msg("%s: %s", file, why.text);
    json_t *cases = json_incref(json_object_get(all_cases, policy));
    json_decref(all_cases);
    assert_true(json_array_size(cases) >= least);
    return cases;
}

static void settings_text(const json_t *item, char *text, size_t bytes)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    text[0] = '\0';
    json_object_foreach(json_object_get(item, "settings"), key, value)
    {
        used += (size_t)snprintf(text + used, bytes - used, "%s%s=%.6g", used ? "," : "", key,
                                 json_number_value(value));
        assert_true(used < bytes);
    }
}

static int whole(const json_t *item, const char *key)
{
    return (int)json_integer_value(json_object_get(item, key));
}

static void check_dbcache_case(const json_t *item)
{
    char settings[512];
    unsigned char mask[DRIVER_STEPS];
    const char *mask_text = json_string_value(json_object_get(item, "mask"));
    struct policy_job job = {.steps = whole(item, "steps"), .layers = 8, .branches = 2};
    settings_text(item, settings, sizeof settings);
    for (int i = 0; mask_text != NULL && i < job.steps; i++) mask[i] = mask_text[i] == '1';
    if (mask_text != NULL) job.mask = mask;
    for (int branch = 0; branch < 2; branch++) {
        struct driver d;
        driver_start(&d, &policy_dbcache, settings, &job);
        const json_t *changes = json_array_get(json_object_get(item, "changes"), d.plan.tied ? 0 : branch);
        for (int i = 0; i < job.steps; i++)
            driver_change(&d, SIGNAL_PROBE, json_number_value(json_array_get(changes, i)));
        const char *expected = json_string_value(json_array_get(json_object_get(item, "verdicts"), branch));
        if (strcmp(d.actions, expected) != 0)
            fail_msg("%s mask %s branch %d:\n%s expected\n%s", settings, mask_text ? mask_text : "-", branch,
                     expected, d.actions);
    }
}

static void dbcache_decides_as_cache_dit_does(void **state)
{
    json_t *cases = load_cases("rules.json", "dbcache", 20), *item;
    size_t i;
    json_array_foreach(cases, i, item) check_dbcache_case(item);
    json_decref(cases);
}

static void check_dbprune_case(const json_t *item)
{
    char settings[512], letters[257];
    double changes[256];
    struct policy_job job = {.steps = whole(item, "steps"), .layers = whole(item, "layers"), .branches = 1};
    struct driver d;
    settings_text(item, settings, sizeof settings);
    driver_start(&d, &policy_dbprune, settings, &job);
    for (int i = 0; i < job.steps; i++) {
        const json_t *row = json_array_get(json_object_get(item, "changes"), (size_t)i);
        for (int b = 0; b < job.layers; b++) changes[b] = json_number_value(json_array_get(row, (size_t)b));
        driver_blocks(&d, changes, letters);
        const char *expected =
            json_string_value(json_array_get(json_object_get(item, "verdicts"), (size_t)i));
        if (strcmp(letters, expected) != 0)
            fail_msg("%s step %d:\n%s expected\n%s", settings, i, expected, letters);
    }
}

static void dbprune_decides_as_cache_dit_does(void **state)
{
    json_t *cases = load_cases("rules.json", "dbprune", 20), *item;
    size_t i;
    json_array_foreach(cases, i, item) check_dbprune_case(item);
    json_decref(cases);
}

/* ---------------------------------------------------------------------------------- the authors' own code */

static double real(const json_t *item, const char *key)
{
    return json_number_value(json_object_get(item, key));
}

/* One step of the authors' run as signals. */
typedef void script_row(const json_t *row, struct script *script);

static void script_teacache(const json_t *row, struct script *s)
{
    script_change(s, SIGNAL_TIME, real(row, "time"));
    script_change(s, SIGNAL_PROJECTION, real(row, "time"));
}

static void script_easycache(const json_t *row, struct script *s)
{
    script_change(s, SIGNAL_LATENT, real(row, "latent"));
    script_change(s, SIGNAL_DRIFT, real(row, "drift"));
    script_change(s, SIGNAL_OUTPUT, real(row, "output"));
    s->sums[SIGNAL_OUTPUT].now = real(row, "velocity");
}

static void script_dicache(const json_t *row, struct script *s)
{
    script_change(s, SIGNAL_PROBE_STEP, real(row, "probe"));
    script_change(s, SIGNAL_PROBE_OLDER, real(row, "older"));
    script_change(s, SIGNAL_PROBE_HISTORY, real(row, "between"));
}

static void follow_authors(const struct policy *policy, const char *settings, const struct policy_job *job,
                           const json_t *rows, script_row *script_of)
{
    struct driver d;
    driver_start(&d, policy, settings, job);
    for (int i = 0; i < job->steps; i++) {
        const json_t *row = json_array_get(rows, (size_t)i);
        struct script s = {0};
        script_of(row, &s);
        driver_step(&d, &s);
        bool reused = d.actions[i] == 'R';
        if (reused == (whole(row, "ran") == 1)) fail_msg("%s %s: step %d", policy->name, settings, i);
        if (policy->weights == NULL || !reused || d.history.count < 2) continue;
        assert_float_equal(d.weights[0], real(row, "gamma"), 1e-4);
        assert_float_equal(d.weights[1], 1 - real(row, "gamma"), 1e-4);
    }
}

static void check_authors(const struct policy *policy, const char *const *keys, struct policy_job job,
                          script_row *script_of)
{
    json_t *cases = load_cases("authors.json", policy->name, 4), *item, *rows;
    size_t i, branch;
    json_array_foreach(cases, i, item)
    {
        char settings[256] = "";
        for (int k = 0; keys[k] != NULL; k++) {
            size_t used = strlen(settings);
            snprintf(settings + used, sizeof settings - used, "%s%s=%.9g", k ? "," : "", keys[k],
                     real(item, keys[k]));
        }
        job.steps = whole(item, "steps");
        json_array_foreach(json_object_get(item, "branches"), branch, rows)
            follow_authors(policy, settings, &job, rows, script_of);
    }
    json_decref(cases);
}

static void teacache_decides_as_its_authors_code_does(void **state)
{
    double values[5];
    json_t *polynomial = load_cases("authors.json", "polynomial", 5);
    for (size_t i = 0; i < 5; i++) values[i] = json_number_value(json_array_get(polynomial, i));
    json_decref(polynomial);
    const struct cache_table tables[] = {
        {.kind = "teacache", .name = "test", .width = 5, .count = 5, .values = values},
        {.kind = "teacache-retention", .name = "test", .width = 5, .count = 5, .values = values}};
    const struct policy_job job = {.layers = 2, .branches = 2, .tables = tables, .table_count = 2};
    check_authors(&policy_teacache, (const char *[]){"threshold", "retention", NULL}, job, script_teacache);
}

static void easycache_decides_as_its_authors_code_does(void **state)
{
    const struct policy_job job = {.layers = 2, .branches = 2};
    check_authors(&policy_easycache, (const char *[]){"threshold", "first", NULL}, job, script_easycache);
}

static void dicache_decides_and_weighs_as_its_authors_code_does(void **state)
{
    const struct policy_job job = {.layers = 2, .branches = 2};
    check_authors(&policy_dicache, (const char *[]){"threshold", "retention", NULL}, job, script_dicache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dbcache_decides_as_cache_dit_does),
        cmocka_unit_test(dbprune_decides_as_cache_dit_does),
        cmocka_unit_test(teacache_decides_as_its_authors_code_does),
        cmocka_unit_test(easycache_decides_as_its_authors_code_does),
        cmocka_unit_test(dicache_decides_and_weighs_as_its_authors_code_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
