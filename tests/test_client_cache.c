/*
 * test_client_cache.c - caching as the client sees it: what it sends, what it shows, the tables it reads,
 * fits and writes; against a scripted coordinator and made-up traces whose right answer is known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "client/calibrate_fit.h"
#include "client/cli.h"
#include "client/strip.h"
#include "tests/client_fixture.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { C = REFRAIN_COMPUTED, R = REFRAIN_REUSED, F = REFRAIN_FORECAST, P = REFRAIN_PARTLY };

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* -------------------------------------------------------------------------------------- strips */

static struct refrain_job job_with(const unsigned char *actions, size_t count)
{
    return (struct refrain_job){
        .state = REFRAIN_RUNNING,
        .progress = {.actions = actions, .action_count = count, .largest_reused = 0.1},
    };
}

static void a_strip_has_a_cell_for_each_step(void **state)
{
    (void)state;
    static const unsigned char actions[] = {C, C, R, F, P, C};
    struct refrain_job job = job_with(actions, sizeof actions);
    struct strip strip = strip_of(&job);
    struct show_style style = {.unicode = true}, plain = {.unicode = false};
    char cells[STRIP_BYTES], words[SHOW_TEXT_BYTES];
    assert_string_equal(strip_cells(&style, &strip, 40, cells), "██▒▓▓█");
    assert_string_equal(strip_cells(&plain, &strip, 40, cells), "##-++#");
    assert_string_equal(strip_cells(&plain, &strip, 3, cells), "#++");
    assert_string_equal(strip_cells(&plain, &strip, -5, cells), "");
    assert_string_equal(strip_words(&style, &strip, words),
                        "3 computed, 1 reused, 1 forecast, 1 partly computed");
    assert_true(strip.largest == 0.1);
}

static void branches_that_differ_make_a_step_partly_computed(void **state)
{
    (void)state;
    static const unsigned char actions[] = {C, C, C, R, R, R, R, F};
    static const float changes[] = {-1, -1, 0.9f, 0.11f, 0.05f, 0.07f, NAN, -1};
    struct refrain_cache_report report = {
        .steps = 4, .branches = 2, .actions = actions, .changes = changes, .seconds_saved = 1.2};
    struct refrain_job job = {.state = REFRAIN_COMPLETED, .cache = &report, .times.denoise = 1};
    struct strip strip = strip_of(&job);
    struct show_style style = {.unicode = true};
    char cells[STRIP_BYTES], words[SHOW_TEXT_BYTES];
    assert_string_equal(strip_cells(&style, &strip, 40, cells), "█▓▒▓");
    assert_string_equal(
        strip_words(&style, &strip, words),
        "1 computed, 1 reused, 1 forecast, 1 partly computed: 2.2× faster than without (estimate)");
    assert_true(fabs(strip.largest - 0.11) < 1e-6); /* the computed branch's change was not let through */
}

static void a_measured_ratio_is_no_estimate_and_slower_is_said(void **state)
{
    (void)state;
    static const unsigned char actions[] = {C, R};
    struct refrain_comparison both = {.cached_seconds = 2, .uncached_seconds = 1};
    struct refrain_cache_report report = {.steps = 2, .branches = 1, .actions = actions, .comparison = &both};
    struct refrain_job job = {.state = REFRAIN_COMPLETED, .cache = &report, .times.denoise = 1};
    struct strip strip = strip_of(&job);
    struct show_style style = {.unicode = false};
    char words[SHOW_TEXT_BYTES];
    assert_string_equal(strip_words(&style, &strip, words), "1 computed, 1 reused: 2x slower than without");
}

static void a_policy_that_never_fired_is_said_to_have_never_fired(void **state)
{
    (void)state;
    static const unsigned char actions[] = {C, C, C};
    struct refrain_cache_report report = {.steps = 3, .branches = 1, .actions = actions};
    struct refrain_job job = {.state = REFRAIN_COMPLETED, .cache = &report};
    struct strip strip = strip_of(&job);
    struct show_style style = {.unicode = true};
    char words[SHOW_TEXT_BYTES];
    assert_string_equal(strip_words(&style, &strip, words), "never reused a step: all 3 computed");
}

/* --------------------------------------------------------------------------------------- verbs */

static const unsigned char four_actions[] = {C, R, R, C}, four_reasons[] = {1, 4, 4, 5};
static const float four_changes[] = {-1, 0.0625f, 0.113f, 0.25f};

static struct fake_script cached_script(const struct client_fixture *fixture)
{
    struct fake_script script = client_script(fixture);
    script.cache = "dbcache:F1B0,threshold=0.12";
    script.caching = (struct fake_caching){
        .branches = 1,
        .actions = four_actions,
        .reasons = four_reasons,
        .changes = four_changes,
        .seconds_saved = 0.9,
    };
    return script;
}

static void the_job_carries_policy_tables_and_compare(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.steps = 4});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    const double values[] = {1, 0.5, 0.25};
    const struct refrain_cache_table table = {
        .kind = "magcache", .name = "mine", .steps = 3, .width = 1, .values = values, .count = 3};
    spec.model = "reference", spec.prompt = "x", spec.cache = "dbcache:F1B0", spec.compare = true;
    spec.cache_tables = &table, spec.cache_table_count = 1;
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    assert_null(job->cache);
    refrain_free(job);
    refrain_close(refrain);
    struct fake_seen seen = fake_stop(fake);
    assert_string_equal(seen.cache, "dbcache:F1B0");
    assert_true(seen.compare);
    assert_int_equal(seen.tables, 1);
    assert_string_equal(seen.table_kind, "magcache");
    assert_true(seen.table_sum == 1.75);
}

static void a_report_comes_back_as_plain_numbers(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    assert_non_null(job->cache);
    assert_string_equal(job->cache->policy, script.cache);
    assert_int_equal(job->cache->steps, 4);
    assert_int_equal(job->cache->branches, 1);
    assert_memory_equal(job->cache->actions, four_actions, sizeof four_actions);
    assert_memory_equal(job->cache->changes, four_changes, sizeof four_changes);
    assert_string_equal(refrain_reason_name(job->cache->reasons[1]), "below");
    assert_null(job->cache->comparison);
    refrain_free(job);
    refrain_close(refrain);
    fake_stop(fake);
}

static void arrays_that_do_not_fit_each_other_are_left_out(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    script.caching.changes = NULL;
    struct fake *fake = fake_start(fixture->endpoint, &script);
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    assert_non_null(job->cache->actions);
    assert_null(job->cache->changes);
    refrain_free(job);
    refrain_close(refrain);
    fake_stop(fake);
}

static void status_tells_policy_strip_and_largest_change(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192];
    const char *words[] = {"1", NULL};
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    assert_non_null(strstr(output, "dbcache:F1B0,threshold=0.12\n"));
    assert_non_null(strstr(output,
                           "█▒▒█   2 computed, 2 reused: 1.9× faster than without (estimate); largest "
                           "change let through 0.113\n"));
    assert_non_null(strstr(output, "kept 19.4 MB, saved about 0.9 s\n"));
}

static void status_json_has_every_verdict(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[16384];
    const char *words[] = {"1", "--json", NULL};
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    json_t *job = json_loads(output, 0, NULL), *cache = json_object_get(job, "cache");
    assert_non_null(cache);
    json_t *actions = json_object_get(cache, "actions"), *changes = json_object_get(cache, "changes");
    assert_int_equal(json_array_size(actions), 4);
    assert_string_equal(json_string_value(json_array_get(json_array_get(actions, 2), 0)), "reused");
    assert_true(json_is_null(json_array_get(json_array_get(changes, 0), 0)));
    assert_true(json_real_value(json_array_get(json_array_get(changes, 1), 0)) == 0.0625);
    json_t *reason = json_array_get(json_array_get(json_object_get(cache, "reasons"), 3), 0);
    assert_string_equal(json_string_value(reason), "above");
    assert_string_equal(json_string_value(json_object_get(json_object_get(job, "spec"), "cache")),
                        script.cache);
    json_decref(job);
}

static void a_pipe_gets_the_strip_once_at_the_end(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192];
    const char *words[] = {"--model", "reference", "--prompt", "x", "--wait", NULL};
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    const char *line =
        strstr(output, "computed █▒▒█   2 computed, 2 reused: 1.9× faster than without (estimate)\n");
    assert_non_null(line);
    assert_null(strstr(line + 1, "computed █"));
}

static void list_names_each_jobs_policy(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[4096];
    const char *words[] = {NULL};
    assert_int_equal(client_run_verb(verb_list, VERB_LIST, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    assert_non_null(strstr(output, "CACHE"));
    assert_non_null(strstr(output, "  dbcache     "));
}

static void compare_fetches_both_sides_and_prints_how_they_differ(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct refrain_comparison both = {31.25, 28, 0.953, 0.012, 1.5, 3.3};
    script.caching.comparison = &both;
    int at = 0;
    while (script.files[at].name) at++;
    script.files[at++] = (struct fake_file){REFRAIN_COMPARISON, (const unsigned char *)"side by side", 12};
    script.files[at++] = (struct fake_file){REFRAIN_COMPARISON_SHEET, (const unsigned char *)"both", 4};
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192], video[128];
    snprintf(video, sizeof video, "%s/star.mp4", fixture->directory);
    const char *words[] = {"--model", "reference", "--prompt", "x", "--output", video, NULL};
    assert_int_equal(client_run_verb(verb_compare, VERB_COMPARE, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    struct fake_seen seen = fake_stop(fake);
    assert_true(seen.compare);
    assert_string_equal(seen.cache, "balanced");
    client_assert_file(video, fixture->video, CLIENT_VIDEO_BYTES);
    client_assert_file(client_path(fixture, "star.compare.mp4"), (const unsigned char *)"side by side", 12);
    client_assert_file(client_path(fixture, "star.compare.png"), (const unsigned char *)"both", 4);
    assert_non_null(strstr(output, "2.20×"));
    assert_non_null(strstr(output, "31.2 dB"));
    assert_non_null(strstr(output, "28.0 dB"));
    assert_non_null(strstr(output, "0.9530"));
}

static void equal_videos_are_called_equal(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = cached_script(fixture);
    struct refrain_comparison both = {INFINITY, INFINITY, 1, 0, 1.5, 3.3};
    script.caching.comparison = &both;
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192];
    const char *words[] = {"1", NULL}, *json[] = {"1", "--json", NULL};
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    assert_non_null(strstr(output, "PSNR equal (worst frame equal), SSIM 1.000"));
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, json),
                     EXIT_CODE_OK);
    assert_non_null(strstr(output, "\"comparison\":{\"ssim\":1"));
    fake_stop(fake);
}

static void an_unknown_policy_is_refused_without_asking_anybody(void **state)
{
    struct client_fixture *fixture = *state;
    char output[1024];
    const char *words[] = {"--prompt", "x", "--cache", "dbcach", NULL};
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_USAGE);
}

static void policies_are_listed_without_a_coordinator(void **state)
{
    struct client_fixture *fixture = *state;
    static char output[1 << 17];
    const char *argv[][4] = {{"policies", NULL}, {"policies", "nothing", NULL}, {"policies", "--json", NULL}};
    const int codes[] = {EXIT_CODE_OK, EXIT_CODE_USAGE, EXIT_CODE_OK};
    for (size_t i = 0; i < 3; i++) {
        struct cli cli = {.signal_fd = -1};
        int argc = argv[i][1] ? 2 : 1;
        assert_int_equal(options_parse(settings_table(), VERB_POLICIES, argc, (char **)(uintptr_t)argv[i],
                                       &cli.settings, &cli.options, &fixture->error),
                         STATUS_OK);
        fflush(stdout);
        FILE *file = tmpfile();
        int kept = dup(STDOUT_FILENO);
        dup2(fileno(file), STDOUT_FILENO);
        assert_int_equal(verb_policies(&cli), codes[i]);
        fflush(stdout);
        dup2(kept, STDOUT_FILENO);
        close(kept);
        rewind(file);
        output[fread(output, 1, sizeof output - 1, file)] = 0;
        fclose(file);
        options_destroy(cli.options);
        assert_int_equal(strstr(output, "dbcache") != NULL, codes[i] == EXIT_CODE_OK);
    }
}

/* -------------------------------------------------------------------------------------- tables */

static void a_table_file_is_read_and_what_is_wrong_with_it_is_named(void **state)
{
    struct client_fixture *fixture = *state;
    char path[128];
    struct tablefile file;
    snprintf(path, sizeof path, "%s/t.json", fixture->directory);
    write_text(path,
               "{\"tables\":[{\"kind\":\"teacache\",\"name\":\"n\",\"layers\":8,\"shift\":3,\"width\":2,"
               "\"values\":[1,2.5,3,-4]}]}");
    assert_int_equal(tablefile_read(path, &file, &fixture->error), STATUS_OK);
    assert_int_equal(file.count, 1);
    assert_string_equal(file.tables[0].kind, "teacache");
    assert_int_equal(file.tables[0].layers, 8);
    assert_int_equal(file.tables[0].steps, 0);
    assert_true(file.tables[0].shift == 3);
    assert_int_equal(file.tables[0].count, 4);
    assert_true(file.tables[0].values[3] == -4);
    tablefile_free(&file);
    static const struct {
        const char *text, *blamed;
    } wrong[] = {
        {"{\"tables\":7}", "tables"},
        {"[]", "tables"},
        {"{", "JSON"},
        {"{\"tables\":[{\"name\":\"n\",\"values\":[1]}]}", "kind"},
        {"{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\"}]}", "values"},
        {"{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\",\"values\":[1,\"2\"]}]}", "number 1"},
        {"{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\",\"values\":[1,2,3],\"width\":2}]}", "width 2"},
        {"{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\",\"values\":[1],\"steps\":-1}]}", "steps"},
        {"{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\",\"values\":[1],\"shift\":\"x\"}]}", "shift"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_text(path, wrong[i].text);
        assert_int_equal(tablefile_read(path, &file, &fixture->error), STATUS_INVALID);
        assert_non_null(strstr(fixture->error.text, path));
        assert_non_null(strstr(fixture->error.text, wrong[i].blamed));
    }
}

static void only_tables_that_the_policy_can_use_are_sent(void **state)
{
    struct client_fixture *fixture = *state;
    char output[2048], path[128];
    snprintf(path, sizeof path, "%s/t.json", fixture->directory);
    write_text(path, "{\"tables\":[{\"kind\":\"l2p\",\"name\":\"n\",\"values\":[1]},"
                     "{\"kind\":\"magcache\",\"name\":\"n\",\"steps\":4,\"values\":[1,0.5,0.25,2]}]}");
    const char *words[] = {"--model", "reference", "--prompt",      "x",  "--steps", "4",
                           "--cache", "magcache",  "--cache-table", path, NULL};
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.steps = 4});
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    struct fake_seen seen = fake_stop(fake);
    assert_int_equal(seen.tables, 1);
    assert_string_equal(seen.table_kind, "magcache");
    assert_true(seen.table_sum == 3.75);
    words[7] = "dbcache"; /* needs none */
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_USAGE);
    words[7] = "teacache"; /* is not there */
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_USAGE);
}

static void merging_replaces_the_same_table_and_keeps_all_others(void **state)
{
    struct client_fixture *fixture = *state;
    char path[128];
    struct tablefile file;
    const double values[] = {1, 0.1, 2};
    struct refrain_cache_table table = {
        .kind = "magcache", .name = "m", .steps = 3, .shift = 5, .width = 1, .values = values, .count = 3};
    snprintf(path, sizeof path, "%s/t.json", fixture->directory);
    assert_int_equal(tablefile_merge(path, &table, 1, &fixture->error), STATUS_OK);
    table.steps = 20;
    assert_int_equal(tablefile_merge(path, &table, 1, &fixture->error), STATUS_OK);
    table.kind = "l2p", table.values = values + 1, table.count = 1;
    assert_int_equal(tablefile_merge(path, &table, 1, &fixture->error), STATUS_OK);
    table.values = values;
    assert_int_equal(tablefile_merge(path, &table, 1, &fixture->error), STATUS_OK);
    assert_int_equal(tablefile_read(path, &file, &fixture->error), STATUS_OK);
    assert_int_equal(file.count, 3);
    assert_string_equal(file.tables[2].kind, "l2p");
    assert_true(file.tables[2].values[0] == 1);
    assert_true(file.tables[0].values[1] == 0.1);
    tablefile_free(&file);
    assert_int_equal(client_entries(fixture->directory), 1); /* nothing half written stays */

    write_text(path, "somebody's other work");
    assert_int_equal(tablefile_merge(path, &table, 1, &fixture->error), STATUS_INVALID);
    client_assert_file(path, (const unsigned char *)"somebody's other work", 21);
}

/* ---------------------------------------------------------------------------------------- fits */

enum { STEPS = 12, LAGS = 5 };

/* A trace of two branches with a schedule; its records are the test's. */
static struct trace *new_trace(void)
{
    struct trace *trace = trace_new(STEPS, 2, LAGS);
    assert_non_null(trace);
    trace->shift = 3;
    trace->model = (struct cache_model){8, 4, 32, 512, 16, 1};
    strcpy(trace->name, "tiny");
    for (int i = 0; i <= STEPS; i++) trace->sigmas[i] = 1 - (double)i / STEPS;
    return trace;
}

static struct sums *put(struct trace *trace, enum trace_tensor tensor, int branch, int step, int lag)
{
    struct trace_record *record = trace_record(trace, branch, step, lag);
    record->known[tensor] = true;
    return &record->sums[tensor];
}

static void magcache_is_the_mean_ratio_of_all_runs(void **state)
{
    struct client_fixture *fixture = *state;
    struct trace *traces[2] = {new_trace(), new_trace()};
    struct calibration made = {0};
    for (int i = 0; i < 2; i++)
        for (int branch = 0; branch < 2; branch++)
            for (int step = 1; step < STEPS; step++)
                put(traces[i], TRACE_RESIDUAL, branch, step, 1)->row_ratio = 1 - 0.01 * step + 0.002 * i;
    put(traces[0], TRACE_RESIDUAL, 0, 3, 1)->row_ratio = NAN; /* is left out */
    assert_int_equal(
        calibration_add(&made, "magcache", (const struct trace *const *)traces, 2, &fixture->error),
        STATUS_OK);
    assert_int_equal(made.count, 1);
    assert_int_equal(made.tables[0].count, STEPS);
    assert_string_equal(made.tables[0].name, "tiny");
    assert_int_equal(made.tables[0].ffn_dim, 512);
    assert_true(made.tables[0].values[0] == 1);
    assert_true(fabs(made.tables[0].values[7] - 0.931) < 1e-12);
    assert_true(fabs(made.tables[0].values[3] - (0.97 + 0.002 * 2 / 3)) < 1e-12);
    calibration_free(&made);
    traces[1]->shift = 5;
    assert_int_equal(
        calibration_add(&made, "magcache", (const struct trace *const *)traces, 2, &fixture->error),
        STATUS_INVALID);
    trace_free(traces[0]);
    trace_free(traces[1]);
}

static void teacache_finds_the_polynomial_that_made_the_changes(void **state)
{
    struct client_fixture *fixture = *state;
    static const double truth[5] = {900, -120, 14, 0.7, 0.02};
    struct trace *trace = new_trace();
    struct calibration made = {0};
    for (int branch = 0; branch < 2; branch++)
        for (int step = 1; step < STEPS; step++) {
            double x = 0.004 * step + 0.001 * branch, y = 0;
            for (int k = 0; k < 5; k++) y = y * x + truth[k];
            *put(trace, TRACE_TIME, branch, step, 1) = (struct sums){.difference = 7 * x, .before = 7};
            *put(trace, TRACE_PROJECTION, branch, step, 1) = (struct sums){.difference = x, .before = 2};
            *put(trace, TRACE_RESIDUAL, branch, step, 1) = (struct sums){.difference = 50 * y, .before = 50};
        }
    const struct trace *one = trace;
    assert_int_equal(calibration_add(&made, "teacache", &one, 1, &fixture->error), STATUS_OK);
    assert_int_equal(made.count, 2);
    assert_string_equal(made.tables[0].kind, "teacache");
    assert_string_equal(made.tables[1].kind, "teacache-retention");
    assert_int_equal(made.tables[0].width, 5);
    for (int k = 0; k < 5; k++) {
        assert_true(fabs(made.tables[0].values[k] / truth[k] - 1) < 1e-6);
        assert_true(fabs(made.tables[1].values[k] / (truth[k] * pow(2, 4 - k)) - 1) < 1e-6);
    }
    calibration_free(&made);
    trace_free(trace);
}

static void teacache_of_too_few_different_changes_stays_finite(void **state)
{
    struct client_fixture *fixture = *state;
    struct trace *trace = new_trace();
    struct calibration made = {0};
    for (int branch = 0; branch < 2; branch++)
        for (int step = 1; step < STEPS; step++) {
            *put(trace, TRACE_TIME, branch, step, 1) = (struct sums){.difference = 0.1, .before = 1};
            *put(trace, TRACE_PROJECTION, branch, step, 1) = (struct sums){.difference = 0.1, .before = 1};
            *put(trace, TRACE_RESIDUAL, branch, step, 1) = (struct sums){.difference = 0.3, .before = 1};
        }
    const struct trace *one = trace;
    assert_int_equal(calibration_add(&made, "teacache", &one, 1, &fixture->error), STATUS_OK);
    double value = 0;
    for (int k = 0; k < 5; k++) value = value * 0.1 + made.tables[0].values[k];
    assert_true(fabs(value - 0.3) < 1e-12);
    calibration_free(&made);
    trace_free(trace);
}

/* Differences that are exactly jx ||x|| + jt |t|, jx and jt depending on the step they start from. */
static struct trace *sensitive_trace(double jt_scale)
{
    struct trace *trace = new_trace();
    for (int c = 0; c < STEPS; c++)
        for (int lag = 1; lag <= LAGS && c + lag < STEPS; lag++) {
            double x = 3 + lag * lag, t = 1000.0 * lag / STEPS;
            double y = (0.5 + 0.1 * c) * x + jt_scale * (0.02 + 0.01 * c) * t;
            put(trace, TRACE_LATENT, 0, c + lag, lag)->difference2 = x * x;
            put(trace, TRACE_OUTPUT, 0, c + lag, lag)->difference2 = y * y;
        }
    return trace;
}

static void sencache_finds_both_sensitivities_and_none_is_negative(void **state)
{
    struct client_fixture *fixture = *state;
    const struct trace *trace = sensitive_trace(1);
    struct calibration made = {0};
    assert_int_equal(calibration_add(&made, "sencache", &trace, 1, &fixture->error), STATUS_OK);
    assert_int_equal(made.tables[0].width, 2);
    const double *values = made.tables[0].values;
    for (int c = 0; c < STEPS - 2; c++) {
        assert_true(fabs(values[2 * c] - (0.5 + 0.1 * c)) < 1e-9);
        assert_true(fabs(values[2 * c + 1] - (0.02 + 0.01 * c)) < 1e-9);
    }
    assert_true(values[2 * STEPS - 2] == values[2 * STEPS - 4]); /* nothing comes after the last step */
    calibration_free(&made);
    trace_free((struct trace *)(uintptr_t)trace);

    trace = sensitive_trace(-0.2);
    assert_int_equal(calibration_add(&made, "sencache", &trace, 1, &fixture->error), STATUS_OK);
    for (size_t i = 0; i < made.tables[0].count; i++) assert_true(made.tables[0].values[i] >= 0);
    assert_true(made.tables[0].values[0] > 0 && made.tables[0].values[1] == 0);
    calibration_free(&made);
    trace_free((struct trace *)(uintptr_t)trace);
}

static void l2p_is_the_mean_normalised_gram_matrix(void **state)
{
    struct client_fixture *fixture = *state;
    struct trace *trace = new_trace();
    struct calibration made = {0};
    /* Residuals a (1, i) and a (1, -i), in two branches of very different size a. */
    for (int branch = 0; branch < 2; branch++)
        for (int i = 0; i < STEPS; i++)
            for (int lag = 0; lag <= LAGS && lag <= i; lag++) {
                double scale = branch ? 1e6 : 1, product = scale * (1 + (double)i * (i - lag));
                struct sums *sums = put(trace, TRACE_RESIDUAL, branch, i, lag);
                if (lag == 0)
                    sums->now2 = product;
                else
                    sums->product = product;
            }
    const struct trace *one = trace;
    assert_int_equal(calibration_add(&made, "l2p", &one, 1, &fixture->error), STATUS_OK);
    assert_int_equal(made.tables[0].count, STEPS * STEPS);
    assert_int_equal(made.tables[0].width, STEPS);
    const double *gram = made.tables[0].values;
    double mean = 0;
    for (int i = 0; i < STEPS; i++) mean += (1 + (double)i * i) / STEPS;
    assert_true(fabs(gram[4 * STEPS + 7] - (1 + 4 * 7) / mean) < 1e-12);
    assert_true(fabs(gram[5 * STEPS + 5] - (1 + 25) / mean) < 1e-12);
    assert_true(gram[7 * STEPS + 4] == 0); /* the lower triangle */
    assert_true(gram[0 * STEPS + 9] == 0); /* further away than was measured */
    calibration_free(&made);
    assert_int_equal(calibration_add(&made, "magcache", &one, 1, &fixture->error), STATUS_OK);
    calibration_free(&made);
    assert_int_equal(calibration_add(&made, "sencache", &one, 1, &fixture->error), STATUS_INVALID);
    assert_int_equal(made.count, 0);
    trace_free(trace);
}

/* ----------------------------------------------------------------------------------- calibrate */

/* trace.json as the ranks write it, 3 steps of one branch. */
static const char *const small_trace =
    "{\"version\":1,\"steps\":3,\"branches\":1,\"shift\":3,\"sigmas\":[1,0.8,0.5,0],"
    "\"model\":{\"layers\":8,\"heads\":4,\"head_dim\":32,\"ffn_dim\":512,\"latent_channels\":16,\"name\":"
    "\"tiny\"},"
    "\"lags\":2,\"records\":["
    "{\"step\":0,\"branch\":0,\"lag\":0,\"residual\":[0,0,0,0,4,0,0,0,10]},"
    "{\"step\":1,\"branch\":0,\"lag\":0,\"residual\":[0,0,0,0,2,0,0,0,10]},"
    "{\"step\":2,\"branch\":0,\"lag\":0,\"residual\":[0,0,0,0,3,0,0,0,10]},"
    "{\"step\":1,\"branch\":0,\"lag\":1,\"residual\":[1,2,3,2.5,2,4,1,0.75,10],\"output\":[1,2,3,4,5,6,7,8,"
    "10]},"
    "{\"step\":2,\"branch\":0,\"lag\":1,\"residual\":[1,2,3,2.25,3,2,1,1.25,10],\"output\":[null,2,3,4,5,6,7,"
    "8,10]},"
    "{\"step\":2,\"branch\":0,\"lag\":2,\"residual\":[1,2,3,1.5,3,4,1,0.5,10]}]}";

static void a_trace_is_read_and_a_broken_one_refused(void **state)
{
    struct client_fixture *fixture = *state;
    char path[128], text[4096];
    struct trace *trace = NULL;
    snprintf(path, sizeof path, "%s/trace.json", fixture->directory);
    write_text(path, small_trace);
    assert_int_equal(trace_read(path, &trace, &fixture->error), STATUS_OK);
    assert_true(trace_at(trace, TRACE_RESIDUAL, 0, 1, 1)->row_ratio == 0.75);
    assert_true(trace_at(trace, TRACE_OUTPUT, 0, 1, 1)->count == 10);
    assert_true(isnan(trace_at(trace, TRACE_OUTPUT, 0, 2, 1)->difference));
    assert_null(trace_at(trace, TRACE_LATENT, 0, 1, 1));
    assert_null(trace_at(trace, TRACE_RESIDUAL, 1, 1, 1));
    assert_null(trace_at(trace, TRACE_RESIDUAL, 0, 2, 3));
    trace_free(trace);
    static const char *const broken[][2] = {
        {"\"version\":1", "\"version\":2"},
        {"\"steps\":3", "\"steps\":300000"},
        {"\"steps\":3", "\"steps\":4"},
        {"\"step\":2", "\"step\":3"},
        {"\"step\":1,\"branch\":0,\"lag\":1", "\"step\":1,\"branch\":0,\"lag\":2"},
        {"\"branch\":0", "\"branch\":1"},
        {"[1,0.8", "[\"1\",0.8"},
        {"0.75,10]", "0.75]"},
        {"\"layers\":8", "\"layers\":-8"}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        const char *at = strstr(small_trace, broken[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - small_trace), small_trace, broken[i][1],
                 at + strlen(broken[i][0]));
        write_text(path, text);
        assert_int_equal(trace_read(path, &trace, &fixture->error), STATUS_CORRUPT);
        assert_non_null(strstr(fixture->error.text, path));
    }
}

static void calibrate_runs_every_prompt_and_writes_the_tables(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    int at = 0;
    while (script.files[at].name) at++;
    script.files[at] =
        (struct fake_file){REFRAIN_TRACE, (const unsigned char *)small_trace, strlen(small_trace)};
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192], tables[128], prompts[128];
    snprintf(tables, sizeof tables, "%s/tables.json", fixture->directory);
    snprintf(prompts, sizeof prompts, "%s/prompts", fixture->directory);
    write_text(prompts, "one thing\n\nanother\r\na third");
    const char *words[] = {"--model",   "reference", "--kind",   "l2p",  "--steps", "3",
                           "--prompts", prompts,     "--output", tables, NULL};
    assert_int_equal(client_run_verb(verb_calibrate, VERB_CALIBRATE, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    struct fake_seen seen = fake_stop(fake);
    assert_int_equal(seen.submits, 3);
    assert_string_equal(seen.prompt, "a third");
    assert_string_equal(seen.cache, "calibrate:F1");
    struct tablefile file;
    assert_int_equal(tablefile_read(tables, &file, &fixture->error), STATUS_OK);
    assert_int_equal(file.count, 1);
    assert_string_equal(file.tables[0].kind, "l2p");
    assert_int_equal(file.tables[0].count, 9);
    const double expected[] = {4, 2.5, 1.5, 0, 2, 2.25, 0, 0, 3};
    for (int i = 0; i < 9; i++) assert_true(fabs(file.tables[0].values[i] - expected[i] / 3) < 1e-9);
    tablefile_free(&file);
    assert_non_null(strstr(output, "l2p"));
    assert_non_null(strstr(output, tables));
}

static void calibrate_does_not_start_over_a_file_of_something_else(void **state)
{
    struct client_fixture *fixture = *state;
    char output[1024], tables[128];
    snprintf(tables, sizeof tables, "%s/tables.json", fixture->directory);
    write_text(tables, "mine");
    const char *words[] = {"--model", "reference", "--output", tables, NULL};
    assert_int_equal(client_run_verb(verb_calibrate, VERB_CALIBRATE, fixture, output, sizeof output, words),
                     EXIT_CODE_USAGE);
    client_assert_file(tables, (const unsigned char *)"mine", 4);
}

int main(void)
{
    /* What the person at the keyboard has set is not part of the test. */
    unsetenv("REFRAIN_KEY");
    unsetenv("REFRAIN_SERVER_KEY");
    unsetenv("REFRAIN_MODEL");
    show_locale();
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_strip_has_a_cell_for_each_step),
        TEST(branches_that_differ_make_a_step_partly_computed),
        TEST(a_measured_ratio_is_no_estimate_and_slower_is_said),
        TEST(a_policy_that_never_fired_is_said_to_have_never_fired),
        TEST(the_job_carries_policy_tables_and_compare),
        TEST(a_report_comes_back_as_plain_numbers),
        TEST(arrays_that_do_not_fit_each_other_are_left_out),
        TEST(status_tells_policy_strip_and_largest_change),
        TEST(status_json_has_every_verdict),
        TEST(a_pipe_gets_the_strip_once_at_the_end),
        TEST(list_names_each_jobs_policy),
        TEST(compare_fetches_both_sides_and_prints_how_they_differ),
        TEST(equal_videos_are_called_equal),
        TEST(an_unknown_policy_is_refused_without_asking_anybody),
        TEST(policies_are_listed_without_a_coordinator),
        TEST(a_table_file_is_read_and_what_is_wrong_with_it_is_named),
        TEST(only_tables_that_the_policy_can_use_are_sent),
        TEST(merging_replaces_the_same_table_and_keeps_all_others),
        TEST(magcache_is_the_mean_ratio_of_all_runs),
        TEST(teacache_finds_the_polynomial_that_made_the_changes),
        TEST(teacache_of_too_few_different_changes_stays_finite),
        TEST(sencache_finds_both_sensitivities_and_none_is_negative),
        TEST(l2p_is_the_mean_normalised_gram_matrix),
        TEST(a_trace_is_read_and_a_broken_one_refused),
        TEST(calibrate_runs_every_prompt_and_writes_the_tables),
        TEST(calibrate_does_not_start_over_a_file_of_something_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
