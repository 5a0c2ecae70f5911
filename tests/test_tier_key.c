/*
 * test_tier_key.c - an item's key changes with everything that could change its bytes, and with nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cache/tier/key.h"

/* All facts that any kind has, so that each is changed by the same list. */
struct facts {
    char tenant[KEY_TENANT_MAX + 8], prompt[64], avoid[64], policy[64], method[64];
    struct text_facts text;
    struct first_step_facts first;
    struct run_facts run;
    struct key origin;
    uint32_t step;
    struct residual_facts residual;
    struct table_facts table;
};

static void fill(struct facts *facts, int garbage)
{
    memset(facts, garbage, sizeof *facts);
    strcpy(facts->tenant, "ann");
    strcpy(facts->prompt, "a red star");
    strcpy(facts->avoid, "blurry");
    strcpy(facts->policy, "dbcache:F1B0");
    strcpy(facts->method, "teacache");
    facts->text.encoder = 11;
    facts->text.tokenizer = 12;
    facts->text.numerics = 13;
    facts->text.text = facts->prompt;
    facts->text.bytes = strlen(facts->prompt);
    facts->text.rows = 512;
    facts->text.element = ELEMENT_BF16;
    facts->first.weights = 21;
    facts->first.adapters = 22;
    facts->first.numerics = 23;
    facts->first.text = facts->text;
    facts->first.picture.width = 1280;
    facts->first.picture.height = 720;
    facts->first.picture.frames = 81;
    facts->first.picture.image = 24;
    facts->first.noise.seed = 42;
    facts->first.noise.generator = 1;
    facts->first.sigma = 1;
    facts->first.timestep = 999;
    facts->first.element = ELEMENT_F32;
    facts->run.weights = 21;
    facts->run.adapters = 22;
    facts->run.numerics = 23;
    facts->run.positive = facts->text;
    facts->run.negative = facts->text;
    facts->run.negative.text = facts->avoid;
    facts->run.negative.bytes = strlen(facts->avoid);
    facts->run.picture = facts->first.picture;
    facts->run.noise = facts->first.noise;
    facts->run.solver = 1;
    facts->run.order = 2;
    facts->run.shift = 5;
    facts->run.steps = 50;
    facts->run.guidance = 5;
    facts->run.guidance_2 = 3;
    facts->run.policy = facts->policy;
    facts->run.tables = 25;
    facts->run.origin = NULL;
    facts->run.origin_step = 7;
    facts->run.element = ELEMENT_F32;
    facts->step = 20;
    facts->residual.step = 20;
    facts->residual.branch = 0;
    facts->residual.block_begin = 1;
    facts->residual.block_end = 39;
    facts->table.weights = 21;
    facts->table.adapters = 22;
    facts->table.numerics = 23;
    facts->table.method = facts->method;
    facts->table.prompts = 26;
    facts->table.picture = facts->first.picture;
    facts->table.solver = 1;
    facts->table.order = 2;
    facts->table.steps = 50;
    facts->table.shift = 5;
    facts->table.guidance = 5;
    facts->table.guidance_2 = 4;
    memset(&facts->origin, 0, sizeof facts->origin);
    facts->origin.tenant = 5, facts->origin.low = 6, facts->origin.high = 7;
    facts->origin.kind = ITEM_CHECKPOINT, facts->origin.format = KEY_FORMAT;
}

static struct key key_for(const struct facts *facts, enum item_kind kind)
{
    struct key key, run;
    struct error error = {0};
    assert_int_equal(key_of_latent(facts->tenant, &facts->run, &run, &error), STATUS_OK);
    status_t status = kind == ITEM_TEXT ? key_of_text(facts->tenant, &facts->text, &key, &error)
                      : kind == ITEM_FIRST_STEP
                          ? key_of_first_step(facts->tenant, &facts->first, &key, &error)
                      : kind == ITEM_CHECKPOINT ? key_of_checkpoint(&run, facts->step, &key, &error)
                      : kind == ITEM_LATENT     ? (key = run, STATUS_OK)
                      : kind == ITEM_TABLE      ? key_of_table(facts->tenant, &facts->table, &key, &error)
                                                : key_of_residual(&run, &facts->residual, &key, &error);
    if (status != STATUS_OK) print_error("%s\n", error.text);
    assert_int_equal(status, STATUS_OK);
    return key;
}

/* A field, what to do to it, and the kinds whose key it is in, a bit for each. */
enum change { ADD_ONE, ADD_DOUBLE, LETTER, SHORTER, ORIGIN };
enum {
    TEXT = 1 << ITEM_TEXT,
    FIRST = 1 << ITEM_FIRST_STEP,
    CHECKPOINT = 1 << ITEM_CHECKPOINT,
    LATENT = 1 << ITEM_LATENT,
    TABLE = 1 << ITEM_TABLE,
    RESIDUAL = 1 << ITEM_RESIDUAL,
    RUN = CHECKPOINT | LATENT | RESIDUAL,
    ALL = RUN | TEXT | FIRST | TABLE,
};
#define FIELD(name) #name, offsetof(struct facts, name), sizeof(((struct facts *)0)->name)
static const struct {
    const char *name;
    size_t offset, size;
    enum change change;
    int kinds;
} fields[] = {
    {FIELD(tenant), LETTER, ALL},
    {FIELD(prompt), LETTER, TEXT | FIRST | RUN},
    {FIELD(avoid), LETTER, RUN},
    {FIELD(policy), LETTER, RUN},
    {FIELD(method), LETTER, TABLE},
    {FIELD(text.encoder), ADD_ONE, TEXT},
    {FIELD(text.tokenizer), ADD_ONE, TEXT},
    {FIELD(text.numerics), ADD_ONE, TEXT},
    {FIELD(text.bytes), SHORTER, TEXT},
    {FIELD(text.rows), ADD_ONE, TEXT},
    {FIELD(text.element), ADD_ONE, TEXT},
    {FIELD(first.weights), ADD_ONE, FIRST},
    {FIELD(first.adapters), ADD_ONE, FIRST},
    {FIELD(first.numerics), ADD_ONE, FIRST},
    {FIELD(first.text.encoder), ADD_ONE, FIRST},
    {FIELD(first.text.tokenizer), ADD_ONE, FIRST},
    {FIELD(first.text.numerics), ADD_ONE, FIRST},
    {FIELD(first.text.bytes), SHORTER, FIRST},
    {FIELD(first.text.rows), ADD_ONE, FIRST},
    {FIELD(first.text.element), ADD_ONE, FIRST},
    {FIELD(first.picture.width), ADD_ONE, FIRST},
    {FIELD(first.picture.height), ADD_ONE, FIRST},
    {FIELD(first.picture.frames), ADD_ONE, FIRST},
    {FIELD(first.picture.image), ADD_ONE, FIRST},
    {FIELD(first.noise.seed), ADD_ONE, FIRST},
    {FIELD(first.noise.generator), ADD_ONE, FIRST},
    {FIELD(first.sigma), ADD_DOUBLE, FIRST},
    {FIELD(first.timestep), ADD_DOUBLE, FIRST},
    {FIELD(first.element), ADD_ONE, FIRST},
    {FIELD(run.weights), ADD_ONE, RUN},
    {FIELD(run.adapters), ADD_ONE, RUN},
    {FIELD(run.numerics), ADD_ONE, RUN},
    {FIELD(run.positive.encoder), ADD_ONE, RUN},
    {FIELD(run.positive.tokenizer), ADD_ONE, RUN},
    {FIELD(run.positive.numerics), ADD_ONE, RUN},
    {FIELD(run.positive.bytes), SHORTER, RUN},
    {FIELD(run.positive.rows), ADD_ONE, RUN},
    {FIELD(run.positive.element), ADD_ONE, RUN},
    {FIELD(run.negative.encoder), ADD_ONE, RUN},
    {FIELD(run.negative.tokenizer), ADD_ONE, RUN},
    {FIELD(run.negative.numerics), ADD_ONE, RUN},
    {FIELD(run.negative.bytes), SHORTER, RUN},
    {FIELD(run.negative.rows), ADD_ONE, RUN},
    {FIELD(run.negative.element), ADD_ONE, RUN},
    {FIELD(run.picture.width), ADD_ONE, RUN},
    {FIELD(run.picture.height), ADD_ONE, RUN},
    {FIELD(run.picture.frames), ADD_ONE, RUN},
    {FIELD(run.picture.image), ADD_ONE, RUN},
    {FIELD(run.noise.seed), ADD_ONE, RUN},
    {FIELD(run.noise.generator), ADD_ONE, RUN},
    {FIELD(run.solver), ADD_ONE, RUN},
    {FIELD(run.order), ADD_ONE, RUN},
    {FIELD(run.shift), ADD_DOUBLE, RUN},
    {FIELD(run.steps), ADD_ONE, RUN},
    {FIELD(run.guidance), ADD_DOUBLE, RUN},
    {FIELD(run.guidance_2), ADD_DOUBLE, RUN},
    {FIELD(run.tables), ADD_ONE, RUN},
    {FIELD(run.origin), ORIGIN, RUN},
    {FIELD(run.element), ADD_ONE, RUN},
    {FIELD(step), ADD_ONE, CHECKPOINT},
    {FIELD(residual.step), ADD_ONE, RESIDUAL},
    {FIELD(residual.branch), ADD_ONE, RESIDUAL},
    {FIELD(residual.block_begin), ADD_ONE, RESIDUAL},
    {FIELD(residual.block_end), ADD_ONE, RESIDUAL},
    {FIELD(table.weights), ADD_ONE, TABLE},
    {FIELD(table.adapters), ADD_ONE, TABLE},
    {FIELD(table.numerics), ADD_ONE, TABLE},
    {FIELD(table.prompts), ADD_ONE, TABLE},
    {FIELD(table.picture.width), ADD_ONE, TABLE},
    {FIELD(table.picture.height), ADD_ONE, TABLE},
    {FIELD(table.picture.frames), ADD_ONE, TABLE},
    {FIELD(table.picture.image), ADD_ONE, TABLE},
    {FIELD(table.solver), ADD_ONE, TABLE},
    {FIELD(table.order), ADD_ONE, TABLE},
    {FIELD(table.steps), ADD_ONE, TABLE},
    {FIELD(table.shift), ADD_DOUBLE, TABLE},
    {FIELD(table.guidance), ADD_DOUBLE, TABLE},
    {FIELD(table.guidance_2), ADD_DOUBLE, TABLE},
};
enum { FIELDS = sizeof fields / sizeof *fields };

/* A later field of the structs must come into the list above: texts and policy are changed by what they point to. */
_Static_assert(sizeof(struct text_facts) == 3 * 8 + 8 + 8 + 2 * 4,
               "a field of text_facts is not in the list");
_Static_assert(sizeof(struct picture_facts) == 3 * 4 + 4 + 8, "a field of picture_facts is not in the list");
_Static_assert(sizeof(struct noise_facts) == 8 + 4 + 4, "a field of noise_facts is not in the list");
_Static_assert(sizeof(struct first_step_facts) == 3 * 8 + 48 + 24 + 16 + 2 * 8 + 4 + 4,
               "one of first_step_facts");
_Static_assert(sizeof(struct run_facts) ==
                   3 * 8 + 2 * 48 + 24 + 16 + 2 * 4 + 8 + 4 + 4 + 2 * 8 + 8 + 8 + 8 + 2 * 4,
               "a field of run_facts is not in the list");
_Static_assert(sizeof(struct residual_facts) == 4 * 4, "a field of residual_facts is not in the list");
_Static_assert(sizeof(struct table_facts) == 3 * 8 + 8 + 8 + 24 + 3 * 4 + 4 + 3 * 8, "one of table_facts");

static void change(struct facts *facts, int field)
{
    unsigned char *at = (unsigned char *)facts + fields[field].offset;
    double number;
    switch (fields[field].change) {
    case ADD_ONE:
        at[0]++;
        break;
    case LETTER:
        at[1] ^= 1;
        break;
    case SHORTER:
        (*(size_t *)(void *)at)--;
        break;
    case ORIGIN:
        facts->run.origin = &facts->origin;
        break;
    case ADD_DOUBLE:
        memcpy(&number, at, sizeof number);
        number += 0x1p-40;
        memcpy(at, &number, sizeof number);
        break;
    }
}

static void every_fact_that_matters_changes_the_key_and_no_other_does(void **state)
{
    static struct facts one, other;
    for (int kind = 0; kind < ITEM_KINDS; kind++)
        for (int field = 0; field < FIELDS; field++) {
            fill(&one, 0);
            fill(&other, 0);
            change(&other, field);
            struct key before = key_for(&one, kind), after = key_for(&other, kind);
            bool changed = !key_equal(&before, &after), wanted = fields[field].kinds >> kind & 1;
            if (changed != wanted)
                fail_msg("%s %s the key of kind %s", fields[field].name,
                         changed ? "changes" : "does not change", item_kind_name(kind));
        }
}

static void two_changes_do_not_cancel_out(void **state)
{
    static struct facts facts;
    struct key keys[FIELDS + 1];
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        int count = 0;
        fill(&facts, 0);
        keys[count++] = key_for(&facts, kind);
        for (int field = 0; field < FIELDS; field++) {
            if (!(fields[field].kinds >> kind & 1)) continue;
            fill(&facts, 0);
            change(&facts, field);
            keys[count++] = key_for(&facts, kind);
        }
        for (int i = 0; i < count; i++)
            for (int j = 0; j < i; j++) assert_false(key_equal(&keys[i], &keys[j]));
    }
}

static void gaps_and_addresses_are_not_in_the_key(void **state)
{
    static struct facts one, other;
    struct facts *elsewhere = malloc(sizeof *elsewhere);
    assert_non_null(elsewhere);
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        fill(&one, 0);
        fill(&other, 0xaa);
        fill(elsewhere, 0x55);
        struct key a = key_for(&one, kind), b = key_for(&other, kind), c = key_for(elsewhere, kind);
        assert_true(key_equal(&a, &b));
        assert_true(key_equal(&a, &c));
    }
    free(elsewhere);
}

static void without_guidance_neither_its_scale_nor_the_negative_text_counts(void **state)
{
    static struct facts one, other;
    fill(&one, 0);
    fill(&other, 0);
    one.run.guidance = 1;
    other.run.guidance = 0.5;
    other.run.guidance_2 = 7; /* nor the second expert's */
    other.avoid[0] = 'x';
    struct key a = key_for(&one, ITEM_LATENT), b = key_for(&other, ITEM_LATENT);
    assert_true(key_equal(&a, &b));
    other.prompt[0] = 'x';
    b = key_for(&other, ITEM_LATENT);
    assert_false(key_equal(&a, &b));
}

static void after_an_origin_its_step_counts_and_noise_does_not(void **state)
{
    static struct facts one, other;
    fill(&one, 0);
    fill(&other, 0);
    one.run.origin = &one.origin;
    other.run.origin = &other.origin;
    other.run.noise.seed++;
    struct key a = key_for(&one, ITEM_LATENT), b = key_for(&other, ITEM_LATENT);
    assert_true(key_equal(&a, &b));
    other.run.origin_step++;
    b = key_for(&other, ITEM_LATENT);
    assert_false(key_equal(&a, &b));
    other.run.origin_step--;
    other.origin.low++;
    b = key_for(&other, ITEM_LATENT);
    assert_false(key_equal(&a, &b));
}

static void a_first_step_belongs_to_whatever_branch_has_that_text(void **state)
{
    static struct facts facts;
    fill(&facts, 0);
    facts.first.text = facts.run.negative;
    struct key as_negative = key_for(&facts, ITEM_FIRST_STEP);
    strcpy(facts.prompt, facts.avoid);
    facts.first.text.text = facts.prompt;
    struct key as_positive = key_for(&facts, ITEM_FIRST_STEP);
    assert_true(key_equal(&as_negative, &as_positive));
}

static void only_what_depends_on_a_model_alone_can_be_public(void **state)
{
    static struct facts facts;
    struct key key;
    struct error error;
    fill(&facts, 0);
    assert_int_equal(key_of_text(NULL, &facts.text, &key, &error), STATUS_OK);
    assert_true(key.tenant == KEY_PUBLIC);
    assert_int_equal(key_of_table(NULL, &facts.table, &key, &error), STATUS_OK);
    assert_int_equal(key_of_first_step(NULL, &facts.first, &key, &error), STATUS_DENIED);
    assert_int_equal(key_of_latent(NULL, &facts.run, &key, &error), STATUS_DENIED);
    key = (struct key){.tenant = KEY_PUBLIC, .kind = ITEM_LATENT, .format = KEY_FORMAT};
    assert_int_equal(key_of_checkpoint(&key, 20, &key, &error), STATUS_DENIED);
    assert_int_equal(key_of_residual(&key, &facts.residual, &key, &error), STATUS_DENIED);
    assert_non_null(strstr(error.text, "residual"));
}

static void what_is_out_of_range_is_refused_by_name(void **state)
{
    static struct facts facts;
    struct key key = {.low = 77};
    struct error error;
    fill(&facts, 0);
    facts.text.bytes = KEY_TEXT_MAX + 1;
    assert_int_equal(key_of_text("ann", &facts.text, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "1048577 bytes: at most 1048576"));
    fill(&facts, 0);
    facts.text.rows = 0;
    assert_int_equal(key_of_text("ann", &facts.text, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "rows"));
    fill(&facts, 0);
    memset(facts.tenant, 'x', KEY_TENANT_MAX + 1);
    facts.tenant[KEY_TENANT_MAX + 1] = '\0';
    assert_int_equal(key_of_text(facts.tenant, &facts.text, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "tenant"));
    facts.first.sigma = strtod("nan", NULL);
    assert_int_equal(key_of_first_step("ann", &facts.first, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "sigma"));
    struct key run = {.tenant = 5, .kind = ITEM_LATENT, .format = KEY_FORMAT};
    assert_int_equal(key_of_checkpoint(&run, 10001, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "step is 10001: 1 to 10000"));
    facts.residual.block_end = facts.residual.block_begin;
    assert_int_equal(key_of_residual(&run, &facts.residual, &key, &error), STATUS_INVALID);
    run.kind = ITEM_TEXT;
    assert_int_equal(key_of_checkpoint(&run, 1, &key, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "not by a text's"));
    assert_true(key.low == 77); /* nothing was written */
}

static void a_key_survives_wire_and_text(void **state)
{
    static struct facts facts;
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        uint8_t wire[KEY_BYTES];
        char text[KEY_LETTERS];
        struct key read;
        fill(&facts, 0);
        struct key key = key_for(&facts, kind);
        key_encode(&key, wire);
        assert_int_equal(key_decode(wire, &read, NULL), STATUS_OK);
        assert_true(key_equal(&key, &read));
        key_write(&key, text);
        memset(&read, 0, sizeof read);
        assert_int_equal(key_read(text, &read, NULL), STATUS_OK);
        assert_true(key_equal(&key, &read));
    }
}

static void what_is_no_key_is_not_read_as_one(void **state)
{
    static const char *const texts[] = {
        "",
        "text",
        "text-",
        "text-0123456789abcdef",
        "text-0123456789abcdef-0123456789abcdef0123456789abcde",
        "text-0123456789abcdef-0123456789abcdef0123456789abcdef0",
        "text-0123456789ABCDEF-0123456789abcdef0123456789abcdef",
        "latent-0000000000000000-0123456789abcdef0123456789abcdef", /* cannot be public */
        "words-0123456789abcdef-0123456789abcdef0123456789abcdef",
    };
    struct key key, good = {.tenant = 1, .kind = ITEM_LATENT, .format = KEY_FORMAT};
    struct error error;
    uint8_t wire[KEY_BYTES];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(key_read(texts[i], &key, &error), STATUS_INVALID);
    good.kind = ITEM_KINDS;
    key_encode(&good, wire);
    assert_int_equal(key_decode(wire, &key, &error), STATUS_CORRUPT);
    good.kind = ITEM_LATENT;
    good.format = KEY_FORMAT + 1;
    key_encode(&good, wire);
    assert_int_equal(key_decode(wire, &key, &error), STATUS_CORRUPT);
    assert_non_null(strstr(error.text, "format is 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fact_that_matters_changes_the_key_and_no_other_does),
        cmocka_unit_test(two_changes_do_not_cancel_out),
        cmocka_unit_test(gaps_and_addresses_are_not_in_the_key),
        cmocka_unit_test(without_guidance_neither_its_scale_nor_the_negative_text_counts),
        cmocka_unit_test(after_an_origin_its_step_counts_and_noise_does_not),
        cmocka_unit_test(a_first_step_belongs_to_whatever_branch_has_that_text),
        cmocka_unit_test(only_what_depends_on_a_model_alone_can_be_public),
        cmocka_unit_test(what_is_out_of_range_is_refused_by_name),
        cmocka_unit_test(a_key_survives_wire_and_text),
        cmocka_unit_test(what_is_no_key_is_not_read_as_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
