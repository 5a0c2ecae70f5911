/*
 * test_text_encoder.c - UMT5 against transformers' UMT5EncoderModel in float32 (tests/golden/text_encoder_*,
 * made by tools/golden_text.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/ops.h"
#include "kernels/team.h"
#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/model/text_encoder.h"

enum { PATH_BYTES = 512 };

static struct text_config config_of(struct golden *golden)
{
    int64_t count;
    const int64_t *s = golden_i64(golden, "sizes", &count);
    assert_int_equal(count, 8);
    return (struct text_config){.layers = (int)s[0],
                                .heads = (int)s[1],
                                .head_dim = (int)s[2],
                                .width = (int)s[3],
                                .ffn_dim = (int)s[4],
                                .vocabulary = (int)s[5],
                                .buckets = (int)s[6],
                                .max_distance = (int)s[7],
                                .eps = 1e-6f};
}

static struct text_encoder *load(const char *directory, const struct text_config *config,
                                 const struct ops *ops, struct team *team)
{
    char path[PATH_BYTES];
    struct text_encoder *encoder;
    struct error error;
    if (text_encoder_load(golden_path(path, sizeof path, directory), config, ops, team, &encoder, &error) !=
        STATUS_OK)
        fail_msg("%s", error.text);
    return encoder;
}

/* Encodes sequence `index` of the golden. Returns rows [count, width], malloc'ed; NULL: there are no more. */
static float *encode(struct golden *golden, struct text_encoder *encoder, const struct ops *ops,
                     struct team *team, int width, int index, int64_t *floats)
{
    char name[32];
    snprintf(name, sizeof name, "ids_%d", index);
    if (!golden_has(golden, name)) return NULL;
    int64_t count;
    const int64_t *wide = golden_i64(golden, name, &count);
    int32_t ids[512];
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)wide[i];
    float *rows = device_floats(ops, team, NULL, count * width);
    assert_int_equal(text_encoder_encode(encoder, team, ids, (int)count, rows, NULL), STATUS_OK);
    *floats = count * width;
    float *result = device_fetch(ops, team, rows, *floats);
    device_free(ops, team, rows);
    return result;
}

/* On every backend; between the backends nothing but their rounding may differ. */
static void expect_rows(const char *golden_name, const char *directory, double limit)
{
    struct golden *golden = golden_open(golden_name);
    struct text_config config = config_of(golden);
    for (const struct ops *const *ops = guarded_or_all(); *ops != NULL; ops++) {
        struct team *team = device_team(*ops, 2);
        struct text_encoder *encoder = load(directory, &config, *ops, team);
        assert_true(text_encoder_bytes(encoder) > 0);
        int64_t floats;
        float *rows;
        for (int i = 0; (rows = encode(golden, encoder, *ops, team, config.width, i, &floats)) != NULL; i++) {
            char name[32];
            snprintf(name, sizeof name, "rows_%d", i);
            print_message("%-10s %s %s: %.2g\n", (*ops)->name, golden_name, name,
                          golden_relative_l2(rows, golden_f32(golden, name, NULL), floats));
            golden_expect(golden, name, rows, floats, limit);
            free(rows);
        }
        text_encoder_destroy(encoder);
        device_team_free(*ops, team);
    }
    golden_close(golden);
}

static void rows_of_odd_head_sizes_equal_transformers(void **state)
{
    (void)state;
    expect_rows("text_encoder_odd", "tests/golden/text/encoder_odd", 5e-6);
}

static void rows_with_other_position_buckets_and_bf16_weights_equal_transformers(void **state)
{
    (void)state;
    expect_rows("text_encoder_buckets", "tests/golden/text/encoder_buckets", 5e-6);
}

static void rows_with_attention_wider_than_the_feed_forward_and_f16_weights_equal_transformers(void **state)
{
    (void)state;
    expect_rows("text_encoder_wide", "tests/golden/text/encoder_wide", 5e-6);
}

static void rows_of_a_full_prompt_with_many_heads_equal_transformers(void **state)
{
    (void)state;
    expect_rows("text_encoder_many_heads", "tests/golden/text/encoder_many_heads", 5e-6);
}

static void rows_of_the_reference_model_equal_transformers(void **state)
{
    (void)state;
    expect_rows("text_encoder_reference", "models/reference/text_encoder", 5e-6);
}

static void rows_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    struct golden *golden = golden_open("text_encoder_odd");
    struct text_config config = config_of(golden);
    const struct ops *ops = guarded_or(NULL);
    float *first = NULL;
    for (int threads = 1; threads <= 4; threads++) {
        struct team *team = device_team(ops, threads);
        struct text_encoder *encoder = load("tests/golden/text/encoder_odd", &config, ops, team);
        int64_t floats;
        float *rows = encode(golden, encoder, ops, team, config.width, 3, &floats);
        assert_non_null(rows);
        if (first == NULL) {
            first = rows;
        } else {
            assert_memory_equal(first, rows, (size_t)floats * sizeof *rows);
            free(rows);
        }
        text_encoder_destroy(encoder);
        device_team_free(ops, team);
    }
    free(first);
    golden_close(golden);
}

static void impossible_ids_and_counts_are_refused(void **state)
{
    (void)state;
    struct golden *golden = golden_open("text_encoder_wide");
    struct text_config config = config_of(golden);
    struct team *team = device_team(ops_find("ref"), 1);
    struct text_encoder *encoder = load("tests/golden/text/encoder_wide", &config, ops_find("ref"), team);
    int32_t ids[600] = {0};
    float row[16] = {5};
    struct error error;
    assert_int_equal(text_encoder_encode(encoder, team, ids, 0, row, &error), STATUS_INVALID);
    assert_int_equal(text_encoder_encode(encoder, team, ids, 513, row, &error), STATUS_INVALID);
    ids[0] = config.vocabulary;
    assert_int_equal(text_encoder_encode(encoder, team, ids, 1, row, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "vocabulary"));
    ids[0] = -1;
    assert_int_equal(text_encoder_encode(encoder, team, ids, 1, row, &error), STATUS_INVALID);
    assert_true(row[0] == 5);
    text_encoder_destroy(encoder);
    device_team_free(ops_find("ref"), team);
    golden_close(golden);
}

static void a_checkpoint_that_does_not_fit_the_config_is_refused_with_the_tensor(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    golden_path(path, sizeof path, "tests/golden/text/encoder_odd");
    struct golden *golden = golden_open("text_encoder_odd");
    const struct text_config good = config_of(golden);
    golden_close(golden);
    struct error error;
    assert_int_equal(text_encoder_inspect(path, &good, &error), STATUS_OK);

    struct {
        struct text_config config;
        const char *tensor;
    } cases[] = {{good, "shared.weight"},
                 {good, "SelfAttention.q"},
                 {good, "wi_0"},
                 {good, "block.3."},
                 {good, "relative_attention_bias"}};
    cases[0].config.vocabulary++;
    cases[1].config.head_dim++;
    cases[2].config.ffn_dim++;
    cases[3].config.layers++;
    cases[4].config.buckets++;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text_encoder *encoder = NULL;
        status_t inspected = text_encoder_inspect(path, &cases[i].config, &error);
        assert_int_not_equal(inspected, STATUS_OK);
        if (strstr(error.text, cases[i].tensor) == NULL) fail_msg("case %zu says: %s", i, error.text);
        struct team *team = device_team(ops_find("ref"), 1);
        assert_int_equal(text_encoder_load(path, &cases[i].config, ops_find("ref"), team, &encoder, &error),
                         inspected);
        assert_null(encoder);
        device_team_free(ops_find("ref"), team);
    }
}

/* As home does it: a layer of one prompt, then a layer of another; one given up in the middle. */
static void prompts_taken_layer_by_layer_in_turn_are_the_same_as_at_once(void **state)
{
    (void)state;
    struct golden *golden = golden_open("text_encoder_odd");
    const struct text_config config = config_of(golden);
    const struct ops *ops = guarded_or("ref");
    struct team *team = device_team(ops, 1);
    struct text_encoder *encoder = load("tests/golden/text/encoder_odd", &config, ops, team);
    static const int32_t ids[2][5] = {{3, 1, 4, 1, 5}, {2, 7, 1}};
    static const int counts[2] = {5, 3};
    int64_t floats = (int64_t)5 * config.width;
    float *rows = device_floats(ops, team, NULL, 4 * floats),
          *unused = device_floats(ops, team, NULL, floats);
    struct text_run *run[2], *dropped;
    bool done[2] = {false};
    int calls = 0;
    for (int i = 0; i < 2; i++) {
        float *at_once = rows + i * floats, *in_turn = at_once + 2 * floats;
        assert_int_equal(text_encoder_encode(encoder, team, ids[i], counts[i], at_once, NULL), STATUS_OK);
        assert_int_equal(text_encoder_begin(encoder, team, ids[i], counts[i], in_turn, &run[i], NULL),
                         STATUS_OK);
    }
    assert_int_equal(text_encoder_begin(encoder, team, ids[0], 5, unused, &dropped, NULL), STATUS_OK);
    text_encoder_layer(dropped, team);
    for (int i = 0; !done[0] || !done[1]; i = !i, calls++)
        if (!done[i]) done[i] = text_encoder_layer(run[i], team);
    assert_int_equal(calls, 2 * config.layers);
    float *values = device_fetch(ops, team, rows, 4 * floats);
    assert_memory_equal(values, values + 2 * floats, 2 * (size_t)floats * sizeof *values);
    text_encoder_end(dropped);
    for (int i = 0; i < 2; i++) text_encoder_end(run[i]);
    text_encoder_end(NULL);
    device_free(ops, team, unused);
    device_free(ops, team, rows);
    free(values);
    text_encoder_destroy(encoder);
    device_team_free(ops, team);
    golden_close(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_odd_head_sizes_equal_transformers),
        cmocka_unit_test(rows_with_other_position_buckets_and_bf16_weights_equal_transformers),
        cmocka_unit_test(rows_with_attention_wider_than_the_feed_forward_and_f16_weights_equal_transformers),
        cmocka_unit_test(rows_of_a_full_prompt_with_many_heads_equal_transformers),
        cmocka_unit_test(rows_of_the_reference_model_equal_transformers),
        cmocka_unit_test(rows_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(impossible_ids_and_counts_are_refused),
        cmocka_unit_test(prompts_taken_layer_by_layer_in_turn_are_the_same_as_at_once),
        cmocka_unit_test(a_checkpoint_that_does_not_fit_the_config_is_refused_with_the_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
