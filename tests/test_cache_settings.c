/*
 * test_cache_settings.c - a job's caching as text: the grammar, what is refused and how it is said, plans,
 * and the help text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cache/names.h"
#include "cache/plan.h"

static struct cache_settings read_settings(const char *text)
{
    struct cache_settings settings;
    struct error error;
    if (cache_settings_read(text, &settings, &error) != STATUS_OK) fail_msg("%s: %s", text, error.text);
    return settings;
}

static void expect_refused(const char *text, const char *why)
{
    struct cache_settings settings = {.mask = "untouched"};
    struct error error = {0};
    if (cache_settings_read(text, &settings, &error) == STATUS_OK) fail_msg("'%s' was accepted", text);
    if (strncmp(error.text, "cache", 5) != 0) fail_msg("'%s' does not begin with cache", error.text);
    if (strstr(error.text, why) == NULL) fail_msg("'%s': '%s' does not say '%s'", text, error.text, why);
    assert_string_equal(settings.mask, "untouched"); /* written only on success */
}

static double value_of(const struct cache_settings *s, const char *name)
{
    for (int i = 0; i < s->policy->parameter_count; i++)
        if (strcmp(s->policy->parameters[i].name, name) == 0) return s->value[i];
    fail_msg("%s has no %s", s->policy->name, name);
    return 0;
}

static double forecast_value_of(const struct cache_settings *s, const char *name)
{
    for (int i = 0; i < s->forecast->parameter_count; i++)
        if (strcmp(s->forecast->parameters[i].name, name) == 0) return s->forecast_value[i];
    fail_msg("%s has no %s", s->forecast->name, name);
    return 0;
}

/* ------------------------------------------------------------------------------------------ reading */

static void expect_same(const struct cache_settings *a, const struct cache_settings *b)
{
    assert_ptr_equal(a->policy, b->policy);
    assert_ptr_equal(a->forecast, b->forecast);
    assert_memory_equal(a->value, b->value, sizeof a->value);
    assert_memory_equal(a->forecast_value, b->forecast_value, sizeof a->forecast_value);
    assert_string_equal(a->mask, b->mask);
}

static void expect_reads_back(const struct cache_settings *settings)
{
    char text[CACHE_TEXT_BYTES], again[CACHE_TEXT_BYTES];
    cache_settings_text(settings, text, sizeof text);
    struct cache_settings back = read_settings(text);
    expect_same(settings, &back);
    cache_settings_text(&back, again, sizeof again);
    assert_string_equal(text, again);
}

static void off_and_nothing_are_no_caching(void **state)
{
    static const char *const texts[] = {"off", "", NULL};
    for (int i = 0; i < 3; i++) {
        struct cache_settings s = read_settings(texts[i]);
        char text[16];
        assert_null(s.policy);
        cache_settings_text(&s, text, sizeof text);
        assert_string_equal(text, "off");
    }
}

static void every_policy_forecast_and_preset_reads_back_the_same(void **state)
{
    for (int i = 0; policies[i] != NULL; i++) {
        struct cache_settings s = read_settings(policies[i]->name);
        assert_ptr_equal(s.policy, policies[i]);
        assert_non_null(s.forecast);
        for (int p = 0; p < policies[i]->parameter_count; p++)
            assert_true(s.value[p] == policies[i]->parameters[p].standard);
        expect_reads_back(&s);
    }
    for (int i = 0; forecasts[i] != NULL; i++) {
        char text[128];
        snprintf(text, sizeof text, "interval:forecast=%s", forecasts[i]->name);
        struct cache_settings s = read_settings(text);
        assert_ptr_equal(s.forecast, forecasts[i]);
        expect_reads_back(&s);
    }
    for (int i = 0; cache_presets[i].name != NULL; i++) {
        struct cache_settings s = read_settings(cache_presets[i].name);
        struct cache_settings direct = read_settings(cache_presets[i].text);
        if (s.policy != NULL) expect_same(&s, &direct);
        if (s.policy != NULL) expect_reads_back(&s);
    }
}

static void items_tags_and_authors_names_say_the_same(void **state)
{
    static const char *const texts[] = {
        "dbcache:F=1,B=0,W=4,MC=3,threshold=0.12,forecast=taylor,forecast.order=2",
        "dbcache:F1B0,W4,MC3,R0.12,forecast=taylor2",
        "dbcache:F1B0_W4_MC3_R0.12,forecast=taylor2",
        "dbcache:forecast.order=2,R0.12MC3W4B0F1,forecast=taylor",
        "dbcache:Fn_compute_blocks=1,Bn_compute_blocks=0,max_warmup_steps=4,max_continuous_cached_steps=3,"
        "residual_diff_threshold=1.2e-1,forecast=taylor2",
    };
    struct cache_settings first = read_settings(texts[0]);
    assert_true(value_of(&first, "threshold") == 0.12);
    assert_true(forecast_value_of(&first, "order") == 2);
    for (size_t i = 1; i < sizeof texts / sizeof *texts; i++) {
        struct cache_settings s = read_settings(texts[i]);
        expect_same(&first, &s);
    }
}

static void numbers_read_back_exactly(void **state)
{
    static const char *const numbers[] = {"0.1",    "0.30000000000000004", "1e-300",
                                          "2.5e-5", "123.456789012345",    "-0"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char text[64];
        snprintf(text, sizeof text, "interval:grow=%s", numbers[i]);
        struct cache_settings s = read_settings(text);
        assert_true(value_of(&s, "grow") == strtod(numbers[i], NULL));
        expect_reads_back(&s);
    }
}

static void masks_are_kept_as_written(void **state)
{
    struct cache_settings s = read_settings("mask:mask=0-9+14+19,F=1");
    assert_string_equal(s.mask, "0-9+14+19");
    expect_reads_back(&s);
    struct cache_settings alias = read_settings("mask:F1,steps_computation_mask=0-9+14+19");
    expect_same(&s, &alias);
}

static void flags_are_read_as_people_write_them(void **state)
{
    static const char *const on[] = {"1", "on", "true", "yes"}, *const off[] = {"0", "off", "false", "no"};
    for (int i = 0; i < 4; i++) {
        char text[64];
        snprintf(text, sizeof text, "interval:backwards=%s", on[i]);
        struct cache_settings yes = read_settings(text);
        snprintf(text, sizeof text, "interval:backwards=%s", off[i]);
        struct cache_settings no = read_settings(text);
        assert_true(value_of(&yes, "backwards") == 1 && value_of(&no, "backwards") == 0);
    }
}

static void what_is_not_known_is_refused_with_what_would_be(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"dbcach", "dbcach: unknown; did you mean dbcache?"},
        {"dbcach", "`refrain policies`"},
        {"balancd", "did you mean balanced?"},
        {"quite another word", "character 0x20"},
        {"qqqq", "qqqq: unknown (off"},
        {":F=1", "'': unknown"},
        {"off:F=1", "takes no items"},
        {"safe:W=3", "safe is a preset and takes no items; it stands for seacache:"},
        {"interval:nope=3", "nope: unknown; interval takes N, first"},
        {"interval:Q3", "'Q3': interval takes name=value with N, first"},
        {"interval:F", "'F': interval takes"},
        {"interval:", "an item is empty"},
        {"interval:N=3,,last=1", "an item is empty"},
        {"interval:N=3,", "an item is empty"},
        {"interval:N=3,N=3", "N is given twice"},
        {"interval:N=3,interval=3", "interval is given twice"},
        {"dbcache:F1F2", "F is given twice"},
        {"mask:mask=scm-slow,mask=scm-slow", "mask is given twice"},
        {"mask:mask=scm-slowly", "'scm-slowly': must be 0/1 for each step"},
        {"mask:mask=3-1", "must be 0/1"},
        {"mask:mask=0-5+5", "'5': must be 0/1"},
        {"mask:mask=0+", "must be 0/1"},
        {"mask:mask=2000", "must be 0/1"},
        {"mask:mask=99999999999999999999", "must be 0/1"},
        {"mask:mask=", "must be 0/1"},
        {"interval:forecast=taylr", "forecast taylr: unknown; there are reuse, taylor"},
        {"interval:forecast=", "forecast : unknown"},
        {"interval:forecast=2", "forecast 2: unknown"},
        {"interval:forecast=reuse2", "forecast reuse2: reuse has no order"},
        {"interval:forecast=taylor2,forecast=taylor2", "forecast is given twice"},
        {"interval:forecast=taylor2,forecast.order=1", "forecast.order is given twice"},
        {"interval:forecast=taylor99", "forecast.order 99: must be"},
        {"interval:forecast=taylor,forecast.depth=1",
         "forecast.depth: forecast taylor has the parameters order"},
        {"zeus:forecast=taylor", "zeus makes its own forecast"},
        {"zeus:forecast.order=1", "zeus makes its own forecast"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_refused(cases[i].text, cases[i].why);
}

static void what_is_out_of_range_is_refused_with_the_range(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"interval:N=0", "N 0: must be 1 to 1000"},
        {"interval:N=1001", "N 1001: must be 1 to 1000"},
        {"interval:N=2.5", "N 2.5: must be a whole number, 1 to 1000"},
        {"interval:grow=-1", "grow -1: must be 0 to 1000"},
        {"interval:N=nan", "N 'nan': must be a number"},
        {"interval:N=inf", "must be a number"},
        {"interval:N=1e999", "must be a number"},
        {"interval:N=0x10", "must be a number"},
        {"interval:N=", "must be a number"},
        {"interval:N=3 ", "character 0x20"},
        {"interval:N=3,5", "'5': interval takes"},
        {"interval:N=--3", "must be a number"},
        {"interval:N=00000000000000000000000000000000000000000000003", "must be a number"},
        {"interval:backwards=2", "backwards '2': must be 0 or 1"},
        {"magcache:R1.5", "R 1.5: must be 0 to 1"},
        {"magcache:R0.1.5", "R '0.1.5': must be a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_refused(cases[i].text, cases[i].why);
}

static void texts_that_are_too_long_are_refused(void **state)
{
    char *text = malloc(2 * CACHE_TEXT_BYTES);
    memset(text, 'a', 2 * CACHE_TEXT_BYTES);
    text[2 * CACHE_TEXT_BYTES - 1] = 0;
    expect_refused(text, "longer than 4095 characters");
    text[CACHE_TEXT_BYTES - 1] = 0;
    expect_refused(text, "unknown");
    memset(text, '1', CACHE_TEXT_BYTES);
    memcpy(text, "mask:mask=", 10);
    text[10 + CACHE_STEPS + 64] = 0;
    expect_refused(text, "mask of 1064 characters");
    memset(text, ',', CACHE_TEXT_BYTES);
    memcpy(text, "interval:", 9);
    text[CACHE_TEXT_BYTES - 1] = 0;
    expect_refused(text, "more than 64 items");
    free(text);
}

/* Pieces of valid texts thrown together: nothing may break, and what is accepted must read back the same. */
static void hostile_texts_are_refused_or_read_back_the_same(void **state)
{
    static const char *const pieces[] = {"dbcache",
                                         "interval",
                                         "mask",
                                         "zeus",
                                         ":",
                                         ",",
                                         "=",
                                         "_",
                                         "F1",
                                         "B0",
                                         "MC3",
                                         "R0.12",
                                         "N=3",
                                         "mask=",
                                         "scm-fast",
                                         "0-9+14",
                                         "10110",
                                         "forecast=",
                                         "forecast.",
                                         "taylor2",
                                         "l2p",
                                         "order=1",
                                         "-",
                                         "+",
                                         "1e308",
                                         ".",
                                         "e",
                                         "999999999",
                                         "\x01",
                                         "\xff",
                                         "%s%n",
                                         "grow=.5",
                                         "forecast=taylor",
                                         "threshold=0.1",
                                         "safe",
                                         "meancache:budget=17"};
    const unsigned count = sizeof pieces / sizeof *pieces;
    uint32_t random = 12345;
    int accepted = 0;
    for (int round = 0; round < 60000; round++) {
        char text[512] = "";
        int parts = 1 + (int)(random >> 20) % 8;
        for (int i = 0; i < parts; i++) {
            random = random * 1664525u + 1013904223u;
            strcat(text, pieces[(random >> 8) % count]);
        }
        struct cache_settings settings;
        struct error error = {0};
        if (cache_settings_read(text, &settings, &error) == STATUS_OK) {
            accepted++;
            if (settings.policy != NULL) expect_reads_back(&settings);
        } else if (strncmp(error.text, "cache: ", 7) != 0) {
            fail_msg("'%s' does not begin with cache", error.text);
        }
    }
    assert_true(accepted > 100);
}

static void a_buffer_too_small_cuts_the_text(void **state)
{
    struct cache_settings s = read_settings("balanced");
    for (size_t bytes = 0; bytes < 40; bytes++) {
        char text[64];
        memset(text, '#', sizeof text);
        cache_settings_text(&s, text, bytes);
        assert_int_equal(text[bytes], '#');
        if (bytes > 0) assert_true(strlen(text) < bytes);
    }
}

/* -------------------------------------------------------------------------------------------- plans */

static const struct policy_job small_job = {.steps = 20, .layers = 8, .branches = 2, .shift = 3};

static struct cache_plan plan_of(const char *text, const struct policy_job *job)
{
    struct cache_settings settings = read_settings(text);
    struct cache_plan plan;
    struct error error;
    if (cache_settings_plan(&settings, job, &plan, &error) != STATUS_OK) fail_msg("%s: %s", text, error.text);
    return plan;
}

static void expect_no_plan(const char *text, const struct policy_job *job, const char *why)
{
    struct cache_settings settings = read_settings(text);
    struct cache_plan plan;
    struct error error = {0};
    assert_int_not_equal(cache_settings_plan(&settings, job, &plan, &error), STATUS_OK);
    if (strncmp(error.text, "cache: ", 7) != 0 || strstr(error.text, why) == NULL)
        fail_msg("%s: '%s' does not say '%s'", text, error.text, why);
}

static void a_plan_resolves_the_mask_for_the_job(void **state)
{
    struct cache_plan plan = plan_of("mask:mask=0-4+9+14+19", &small_job);
    assert_true(plan.has_mask);
    assert_int_equal(plan.mask[9], 1);
    assert_int_equal(plan.mask[10], 0);
    assert_int_equal(plan.rings, 2);
    assert_false(plan_of("interval", &small_job).has_mask);
    assert_int_equal(plan_of("zeus", &small_job).rings, 1);
    assert_int_equal(plan_of("off", &small_job).rings, 0);
}

static void a_plan_takes_as_many_slots_as_policy_or_forecast_want(void **state)
{
    assert_int_equal(plan_of("interval", &small_job).slots, 1);
    assert_int_equal(plan_of("interval:forecast=taylor1", &small_job).slots, 2);
    assert_int_equal(plan_of("interval:forecast=taylor2", &small_job).slots, 3);
    assert_int_equal(plan_of("interval:forecast=spectrum", &small_job).slots, CACHE_SLOTS);
    assert_int_equal(plan_of("zeus", &small_job).slots, 2);
    assert_int_equal(plan_of("calibrate", &small_job).slots, CACHE_SLOTS);
}

static void a_job_that_does_not_fit_is_refused(void **state)
{
    struct policy_job many = small_job;
    many.steps = 1001;
    expect_no_plan("interval", &many, "steps 1001: must be 1 to 1000");
    expect_no_plan("mask", &small_job, "mask: missing");
    expect_no_plan("mask:mask=101", &small_job, "mask has 3 steps, the job 20");
    expect_no_plan("interval:F=5,B=3", &small_job,
                   "F 5 and B 3 leave nothing to reuse of the model's 8 blocks");
    expect_no_plan("magcache", &small_job, "no magcache table for this model (0 layers");
    expect_no_plan("magcache", &small_job, "there are ones for wan2.1-t2v-1.3b");
    expect_no_plan("interval:forecast=l2p", &small_job, "l2p");
    expect_no_plan("easycache:forecast=freqca", &small_job, "forecast freqca: works on hidden states");
    expect_no_plan("dbprune:F=1,forecast=taylor1", &small_job, "must be reuse");
    expect_no_plan("meancache", &small_job, "published for 50 steps");
}

static void bytes_follow_from_the_tensors_kept(void **state)
{
    static const struct {
        const char *text;
        uint64_t floats; /* of 10 tokens of 6, latents of 70 */
    } cases[] = {
        {"off", 0},
        {"interval", 2 * 1 * 60},
        {"interval:forecast=taylor2", 2 * 3 * 60},
        {"zeus", 2 * 70},
        {"meancache:mask=0-19", 8 * 70},
        {"interval:forecast=freqca", (2 * 3 + 3) * 60},
        {"calibrate", 2 * (16 * 60 + 32 * 70 + 2 * 70 + 6 + 36)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cache_settings settings = read_settings(cases[i].text);
        struct cache_plan plan = plan_of(cases[i].text, &small_job);
        uint64_t bytes = cache_plan_bytes(&settings, &plan, &small_job, 10, 6, 70);
        if (bytes != 4 * cases[i].floats)
            fail_msg("%s: %ju bytes, not %ju", cases[i].text, (uintmax_t)bytes,
                     (uintmax_t)(4 * cases[i].floats));
    }
}

static void bytes_saturate(void **state)
{
    struct cache_settings settings = read_settings("interval:forecast=spectrum");
    struct cache_plan plan = plan_of("interval:forecast=spectrum", &small_job);
    assert_true(cache_plan_bytes(&settings, &plan, &small_job, INT64_MAX, INT64_MAX, INT64_MAX) ==
                UINT64_MAX);
    assert_true(cache_plan_bytes(&settings, &plan, &small_job, -1, -1, -1) > 0);
}

/* --------------------------------------------------------------------------------------------- help */

static char *help_text(const char *name)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    cache_settings_help(name, out);
    fclose(out);
    return text;
}

static void expect_contains(const char *text, const char *part)
{
    if (part != NULL && strstr(text, part) == NULL) fail_msg("the help text does not have '%s'", part);
}

static void expect_narrow(const char *text)
{
    for (const char *line = text; *line != 0; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > 100) fail_msg("wider than 100: %.*s", (int)strcspn(line, "\n"), line);
}

static void help_tells_everything_there_is(void **state)
{
    char *all = help_text(NULL), *masks = help_text("masks");
    expect_narrow(all);
    for (int i = 0; policies[i] != NULL; i++) {
        const struct policy *p = policies[i];
        char *one = help_text(p->name);
        expect_contains(all, p->name);
        for (int k = 0; k < p->parameter_count; k++) {
            expect_contains(one, p->parameters[k].name);
            expect_contains(one, p->parameters[k].author);
        }
        free(one);
    }
    for (int i = 0; forecasts[i] != NULL; i++) expect_contains(all, forecasts[i]->name);
    for (int i = 0; cache_presets[i].name != NULL; i++) expect_contains(all, cache_presets[i].text);
    for (int i = 0; mask_names()[i] != NULL; i++) expect_contains(masks, mask_names()[i]);
    free(all);
    free(masks);
}

static void help_about_nothing_says_what_is_near(void **state)
{
    char *text = help_text("dbcach");
    expect_contains(text, "no policy, forecast or preset dbcach; did you mean dbcache?");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_and_nothing_are_no_caching),
        cmocka_unit_test(every_policy_forecast_and_preset_reads_back_the_same),
        cmocka_unit_test(items_tags_and_authors_names_say_the_same),
        cmocka_unit_test(numbers_read_back_exactly),
        cmocka_unit_test(masks_are_kept_as_written),
        cmocka_unit_test(flags_are_read_as_people_write_them),
        cmocka_unit_test(what_is_not_known_is_refused_with_what_would_be),
        cmocka_unit_test(what_is_out_of_range_is_refused_with_the_range),
        cmocka_unit_test(texts_that_are_too_long_are_refused),
        cmocka_unit_test(hostile_texts_are_refused_or_read_back_the_same),
        cmocka_unit_test(a_buffer_too_small_cuts_the_text),
        cmocka_unit_test(a_plan_resolves_the_mask_for_the_job),
        cmocka_unit_test(a_plan_takes_as_many_slots_as_policy_or_forecast_want),
        cmocka_unit_test(a_job_that_does_not_fit_is_refused),
        cmocka_unit_test(bytes_follow_from_the_tensors_kept),
        cmocka_unit_test(bytes_saturate),
        cmocka_unit_test(help_tells_everything_there_is),
        cmocka_unit_test(help_about_nothing_says_what_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
