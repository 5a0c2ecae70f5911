/*
 * test_caching.c - a job's caching in messages: its limits, what is filled in, its budget, what a worker
 * reports.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "proto/caching.h"
#include "proto/validate.h"
#include "proto/wire.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

/* A spec as it comes off the wire, freed by free_spec. */
static Refrain__JobSpec *make_spec(const char *cache)
{
    Refrain__JobSpec *spec = malloc(sizeof *spec);
    assert_non_null(spec);
    refrain__job_spec__init(spec);
    spec->prompt = strdup("x");
    if (cache) spec->cache = strdup(cache);
    return spec;
}

static void free_spec(Refrain__JobSpec *spec)
{
    refrain__job_spec__free_unpacked(spec, NULL);
}

/* A table of `count` values, all `value`, for the architecture of small_card. */
static Refrain__CacheTable *make_table(const char *kind, uint32_t steps, size_t count, double value)
{
    Refrain__CacheTable *table = malloc(sizeof *table);
    assert_non_null(table);
    refrain__cache_table__init(table);
    table->kind = strdup(kind);
    table->name = strdup("test");
    SET(*table, layers, 8);
    SET(*table, heads, 3);
    SET(*table, head_dim, 40);
    SET(*table, ffn_dim, 256);
    SET(*table, latent_channels, 16);
    SET(*table, steps, steps);
    SET(*table, width, 1);
    table->values = malloc(count * sizeof *table->values + 1);
    table->n_values = count;
    for (size_t i = 0; i < count; i++) table->values[i] = value;
    return table;
}

static void give_table(Refrain__JobSpec *spec, Refrain__CacheTable *table)
{
    spec->cache_tables = realloc(spec->cache_tables, (spec->n_cache_tables + 1) * sizeof *spec->cache_tables);
    spec->cache_tables[spec->n_cache_tables++] = table;
}

static Refrain__ModelCard small_card(void)
{
    Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
    card.name = (char *)"small";
    card.pipeline = (char *)"WanPipeline";
    card.layers = 8;
    card.heads = 3;
    card.head_dim = 40;
    card.ffn_dim = 256;
    card.latent_channels = 16;
    card.size_multiple = 16;
    card.frame_multiple = 4;
    card.solver = REFRAIN__SOLVER__SOLVER_EULER;
    card.shift = 3;
    card.default_width = card.default_height = 64;
    card.default_frames = 17;
    card.max_position = 1024;
    card.vae_scale = 8;
    card.patch = 2;
    return card;
}

static void assert_refused(Refrain__JobSpec *spec, const char *blamed, const char *sentence)
{
    struct error error;
    const char *field = "";
    assert_int_equal(validate_spec(spec, &field, &error), STATUS_INVALID);
    if (!strstr(error.text, sentence)) fail_msg("\"%s\" does not say \"%s\"", error.text, sentence);
    assert_string_equal(field, blamed);
    free_spec(spec);
}

/* ------------------------------------------------------------------------------------------------- limits */

static void a_cache_text_is_checked_where_everything_else_is(void **state)
{
    char *text = malloc(CACHE_TEXT_BYTES + 1);
    memset(text, 'x', CACHE_TEXT_BYTES);
    text[CACHE_TEXT_BYTES] = '\0';
    assert_refused(make_spec(text), "cache", "cache of 4096 bytes: at most 4095 bytes are allowed");
    free(text);
    assert_refused(make_spec("a\x80"), "cache", "cache: byte 1 (0x80) is not valid UTF-8");
    assert_refused(make_spec("nosuchpolicy"), "cache", "nosuchpolicy");
    assert_refused(make_spec("dbcache:threshold=nan"), "cache", "threshold");
    assert_refused(make_spec("dbcache:threshold=-1"), "cache", "threshold");
    assert_refused(make_spec("dbcache:nosuchitem=1"), "cache", "nosuchitem");
    assert_refused(make_spec("dbcache:forecast=nosuchforecast"), "cache", "nosuchforecast");
    for (size_t i = 0; i < 4; i++) {
        const char *const good[] = {NULL, "", "off", "dbcache:F1B0,threshold=0.12,forecast=taylor1"};
        Refrain__JobSpec *spec = make_spec(good[i]);
        struct error error;
        if (validate_spec(spec, NULL, &error) != STATUS_OK) fail_msg("%s", error.text);
        assert_true(caching_on(spec) == (i == 3));
        free_spec(spec);
    }
}

static void a_comparison_needs_caching(void **state)
{
    Refrain__JobSpec *spec = make_spec("off");
    SET(*spec, compare, 1);
    assert_refused(spec, "compare", "compare: needs caching to compare with, and cache is off");
    spec = make_spec("dbcache:F1B0");
    SET(*spec, compare, 1);
    assert_int_equal(validate_spec(spec, NULL, NULL), STATUS_OK);
    free_spec(spec);
}

static void tables_have_known_kinds_complete_rows_and_finite_numbers(void **state)
{
#define TABLE_REFUSED(sentence, ...)                                                                         \
    do {                                                                                                     \
        Refrain__JobSpec *spec = make_spec("off");                                                           \
        Refrain__CacheTable *table = make_table("magcache", 50, 6, 1);                                       \
        give_table(spec, table);                                                                             \
        __VA_ARGS__;                                                                                         \
        assert_refused(spec, "cache_tables", sentence);                                                      \
    } while (0)
    TABLE_REFUSED("cache_tables[0]: kind is weather; must be one of ", free(table->kind),
                  table->kind = strdup("weather"));
    TABLE_REFUSED("cache_tables[0]: kind is missing; must be one of ", free(table->kind), table->kind = NULL);
    TABLE_REFUSED("cache_tables[0]: has 6 values; must be rows of 4", table->width = 4);
    TABLE_REFUSED("cache_tables[0]: has 0 values; must be rows of 1", table->n_values = 0);
    TABLE_REFUSED("cache_tables[0]: width is 0; must be 1 to 262144", table->width = 0);
    TABLE_REFUSED("cache_tables[0]: values[3] is nan; must be finite", table->values[3] = (double)NAN);
    TABLE_REFUSED("cache_tables[0]: values[5] is -inf; must be finite", table->values[5] = (double)-INFINITY);
    TABLE_REFUSED("cache_tables[0]: shift is nan; must be 0 to 100", SET(*table, shift, (double)NAN));
    TABLE_REFUSED("cache_tables[0]: steps is 1001; must be 0 to 1000", table->steps = 1001);
    TABLE_REFUSED("cache_tables: are 9, at most 8 are allowed",
                  for (int i = 0; i < 8; i++) give_table(spec, make_table("magcache", 50, 6, 1)));
    TABLE_REFUSED("cache_tables: have 262146 values in all, at most 262144 are allowed",
                  give_table(spec, make_table("magcache", 0, LIMIT_TABLE_VALUES - 4, 1)));
#undef TABLE_REFUSED
}

static void the_largest_tables_fit_a_frame(void **state)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__JobSpec *spec = make_spec("off");
    zmq_msg_t frame;
    give_table(spec, make_table("magcache", 0, LIMIT_TABLE_VALUES, 1.0 / 3));
    assert_int_equal(validate_spec(spec, NULL, NULL), STATUS_OK);
    submit.spec = spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    wire_stamp(request);
    assert_int_equal(wire_pack(&request.base, &frame, NULL), STATUS_OK);
    Refrain__Request *again;
    uint64_t id = 0;
    assert_int_equal(wire_unpack_request(zmq_msg_data(&frame), zmq_msg_size(&frame), &again, &id, NULL),
                     STATUS_OK);
    assert_true(again->submit->spec->cache_tables[0]->values[LIMIT_TABLE_VALUES - 1] == 1.0 / 3);
    refrain__request__free_unpacked(again, NULL);
    zmq_msg_close(&frame);
    free_spec(spec);
}

/* --------------------------------------------------------------------------------------------- filling in */

static void a_stored_text_says_every_parameter_and_reads_back_the_same(void **state)
{
    struct error error;
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec *spec = make_spec("dbcache:F2B1,R0.12,forecast=taylor1");
    struct cache_settings asked, stored;
    assert_int_equal(cache_settings_read(spec->cache, &asked, &error), STATUS_OK);
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_true(strlen(spec->cache) > strlen("dbcache:F2B1,R0.12,forecast=taylor1"));
    assert_int_equal(cache_settings_read(spec->cache, &stored, &error), STATUS_OK);
    assert_ptr_equal(asked.policy, stored.policy);
    assert_ptr_equal(asked.forecast, stored.forecast);
    for (int i = 0; i < asked.policy->parameter_count; i++) assert_true(asked.value[i] == stored.value[i]);
    for (int i = 0; i < asked.forecast->parameter_count; i++)
        assert_true(asked.forecast_value[i] == stored.forecast_value[i]);
    char *first = strdup(spec->cache);
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_string_equal(spec->cache, first);
    free(first);
    free_spec(spec);
}

static void the_card_table_made_for_the_jobs_steps_travels_with_it(void **state)
{
    struct error error;
    const char *field;
    Refrain__ModelCard card = small_card();
    Refrain__CacheTable *of_card[] = {make_table("magcache", 20, 20, 1.25),
                                      make_table("magcache", 50, 50, 1.5),
                                      make_table("magcache", 30, 30, 1.75)};
    card.n_tables = 3;
    card.tables = of_card;
    Refrain__JobSpec *spec = make_spec("magcache");
    SET(*spec, steps, 50);
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_int_equal(spec->n_cache_tables, 1);
    assert_int_equal(spec->cache_tables[0]->steps, 50);
    assert_int_equal(spec->cache_tables[0]->n_values, 50);
    assert_true(spec->cache_tables[0]->values[49] == 1.5);
    assert_int_equal(spec->cache_tables[0]->latent_channels, 16);
    if (validate_spec(spec, &field, &error) != STATUS_OK ||
        validate_spec_for_model(spec, &card, &field, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK); /* there already: not twice */
    assert_int_equal(spec->n_cache_tables, 1);
    free_spec(spec);

    spec = make_spec("magcache"); /* what the client brings is not replaced */
    give_table(spec, make_table("magcache", 50, 50, 2));
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_int_equal(spec->n_cache_tables, 1);
    assert_true(spec->cache_tables[0]->values[0] == 2);
    free_spec(spec);

    spec = make_spec("dbcache:F1B0"); /* needs none */
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_int_equal(spec->n_cache_tables, 0);
    free_spec(spec);
    for (int i = 0; i < 3; i++) refrain__cache_table__free_unpacked(of_card[i], NULL);
}

/* ------------------------------------------------------------------------------------------- with a model */

static void what_only_the_model_can_refuse_names_the_field_cache(void **state)
{
    struct error error;
    const char *const texts[] = {"dbcache:F9B0",          /* more blocks than there are */
                                 "magcache",              /* no table for this architecture */
                                 "mask:mask=1110000000"}; /* of another length */
    for (size_t i = 0; i < 3; i++) {
        const char *field = "";
        Refrain__ModelCard card = small_card();
        Refrain__JobSpec *spec = make_spec(texts[i]);
        if (validate_spec(spec, &field, &error) != STATUS_OK) fail_msg("%s", error.text);
        if (validate_spec_for_model(spec, &card, &field, &error) == STATUS_OK)
            fail_msg("%s was accepted", texts[i]);
        assert_string_equal(field, "cache");
        assert_ptr_equal(strstr(error.text, "cache"), error.text);
        free_spec(spec);
    }
}

static void a_card_of_an_earlier_version_refuses_caching_and_nothing_else(void **state)
{
    struct error error;
    const char *field;
    Refrain__ModelCard card = small_card();
    card.latent_channels = 0;
    Refrain__JobSpec *spec = make_spec("dbcache:F1B0");
    assert_int_equal(validate_spec_for_model(spec, &card, &field, &error), STATUS_UNSUPPORTED);
    assert_string_equal(error.text,
                        "cache: model small was added by an earlier version; add it once more with "
                        "`refrain models add`");
    free_spec(spec);
    spec = make_spec("off");
    assert_int_equal(validate_spec_for_model(spec, &card, &field, &error), STATUS_OK);
    free_spec(spec);
}

static void a_budget_too_small_for_the_ring_says_what_would_fit(void **state)
{
    struct error error;
    const char *field;
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec *spec = make_spec("dbcache:F1B0,forecast=taylor2");
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    /* 5 latent frames of 4x4 tokens, 3 heads of 40. Three slots, two branches: at least 6 rings' tensors. */
    assert_int_equal(caching_check_bytes(spec, &card, 6 * 80 * 120 * 4 - 1, &field, &error),
                     STATUS_NO_MEMORY);
    assert_string_equal(field, "cache");
    if (!strstr(error.text, "cache: keeping 3 slots of 80x120 for 2 branches takes ") ||
        !strstr(error.text, " at most 225 KiB is allowed (fewer slots: forecast=taylor1 keeps 2, "
                            "forecast=reuse 1)"))
        fail_msg("%s", error.text);
    assert_int_equal(caching_check_bytes(spec, &card, UINT64_C(8) << 30, &field, &error), STATUS_OK);
    free_spec(spec);
    spec = make_spec("off");
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_int_equal(caching_check_bytes(spec, &card, 0, &field, &error), STATUS_OK);
    free_spec(spec);
}

/* With AddressSanitizer this also says that no table is read or written past the last. */
static void as_many_tables_as_are_allowed_of_job_and_card_fit_together(void **state)
{
    struct error error;
    const char *field;
    Refrain__CacheTable *tables[LIMIT_CARD_TABLES];
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec *spec = make_spec("magcache");
    for (int i = 0; i < LIMIT_JOB_TABLES; i++) give_table(spec, make_table("magcache", 0, 3, 1));
    for (int i = 0; i < LIMIT_CARD_TABLES; i++) tables[i] = make_table("magcache", 0, 3, 1);
    card.tables = tables;
    card.n_tables = LIMIT_CARD_TABLES;
    assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
    assert_int_equal(spec->n_cache_tables, LIMIT_JOB_TABLES);
    assert_int_equal(caching_check_for_model(spec, &card, &field, &error), STATUS_OK);
    for (int i = 0; i < LIMIT_CARD_TABLES; i++) refrain__cache_table__free_unpacked(tables[i], NULL);
    free_spec(spec);
}

/* Where the policy makes its own forecast, naming another would be refused. */
static void a_budget_too_small_never_advises_what_would_be_refused(void **state)
{
    static const char *const own[] = {"zeus", "dicache", "calibrate"};
    struct error error;
    const char *field;
    Refrain__ModelCard card = small_card();
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        Refrain__JobSpec *spec = make_spec(own[i]);
        assert_int_equal(validate_fill(spec, &card, &error), STATUS_OK);
        assert_int_equal(caching_check_bytes(spec, &card, 1, &field, &error), STATUS_NO_MEMORY);
        if (strstr(error.text, "forecast=") || !strstr(error.text, "a smaller or shorter video keeps less"))
            fail_msg("%s: %s", own[i], error.text);
        free_spec(spec);
    }
}

/* ------------------------------------------------------------------------------------------------ reports */

/* Of 3 steps and 2 branches. */
struct reported {
    Refrain__CacheReport report;
    uint8_t actions[6], reasons[6];
    float changes[6];
    uint32_t blocks[2][8];
};

static void fill_report(struct reported *r)
{
    *r = (struct reported){.report = REFRAIN__CACHE_REPORT__INIT};
    Refrain__CacheReport *report = &r->report;
    report->policy = (char *)"dbcache";
    SET(*report, branches, 2);
    SET(*report, computed, 4);
    SET(*report, reused, 2);
    SET(*report, actions, ((ProtobufCBinaryData){6, r->actions}));
    SET(*report, reasons, ((ProtobufCBinaryData){6, r->reasons}));
    report->n_changes = 6;
    report->changes = r->changes;
}

static void a_report_must_fit_its_job(void **state)
{
    Refrain__JobSpec *spec = make_spec("dbcache:F1B0");
    SET(*spec, steps, 3);
    SET(*spec, guidance, 5);
    struct error error;
    struct reported r;
    fill_report(&r);
    assert_int_equal(caching_check_report(&r.report, spec, &error), STATUS_OK);
#define REPORT_REFUSED(what, ...)                                                                            \
    do {                                                                                                     \
        fill_report(&r);                                                                                     \
        __VA_ARGS__;                                                                                         \
        assert_int_equal(caching_check_report(&r.report, spec, &error), STATUS_CORRUPT);                     \
        assert_string_equal(error.text,                                                                      \
                            "cache report: its " what " do not fit a job of 3 steps and 2 branches");        \
    } while (0)
    REPORT_REFUSED("branches", r.report.branches = 0);
    REPORT_REFUSED("branches", r.report.branches = 3);
    REPORT_REFUSED("counts", r.report.computed = 5);
    REPORT_REFUSED("counts", r.report.computed = UINT32_MAX);
    REPORT_REFUSED("actions", r.report.actions.len = 5);
    REPORT_REFUSED("actions", r.actions[5] = 4);
    REPORT_REFUSED("reasons", r.report.reasons.len = 0);
    REPORT_REFUSED("reasons", r.reasons[0] = REASONS);
    REPORT_REFUSED("changes", r.report.n_changes = 3);
    REPORT_REFUSED("blocks", r.report.n_block_computed = 8, r.report.block_computed = r.blocks[0]);
    REPORT_REFUSED("blocks", r.report.n_block_computed = r.report.n_block_reused = 8,
                   r.report.block_computed = r.blocks[0], r.report.block_reused = r.blocks[1],
                   r.blocks[1][7] = 7);
    REPORT_REFUSED("seconds", SET(r.report, reused_seconds, -1));
    REPORT_REFUSED("seconds", SET(r.report, seconds_saved, (double)NAN));
    Refrain__Comparison comparison = REFRAIN__COMPARISON__INIT;
    SET(comparison, psnr, (double)NAN);
    REPORT_REFUSED("comparison", r.report.comparison = &comparison);
#undef REPORT_REFUSED
    SET(comparison, psnr, (double)INFINITY); /* equal videos */
    fill_report(&r);
    r.report.comparison = &comparison;
    r.changes[2] = NAN;
    r.changes[3] = 0.25f;
    assert_int_equal(caching_check_report(&r.report, spec, &error), STATUS_OK);
    assert_true(r.changes[2] == CHANGE_NONE && r.changes[3] == 0.25f);
    free_spec(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_text_is_checked_where_everything_else_is),
        cmocka_unit_test(a_comparison_needs_caching),
        cmocka_unit_test(tables_have_known_kinds_complete_rows_and_finite_numbers),
        cmocka_unit_test(the_largest_tables_fit_a_frame),
        cmocka_unit_test(a_stored_text_says_every_parameter_and_reads_back_the_same),
        cmocka_unit_test(the_card_table_made_for_the_jobs_steps_travels_with_it),
        cmocka_unit_test(what_only_the_model_can_refuse_names_the_field_cache),
        cmocka_unit_test(a_card_of_an_earlier_version_refuses_caching_and_nothing_else),
        cmocka_unit_test(a_budget_too_small_for_the_ring_says_what_would_fit),
        cmocka_unit_test(as_many_tables_as_are_allowed_of_job_and_card_fit_together),
        cmocka_unit_test(a_budget_too_small_never_advises_what_would_be_refused),
        cmocka_unit_test(a_report_must_fit_its_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
