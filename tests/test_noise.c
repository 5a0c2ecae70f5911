/* test_noise.c - noise against torch.randn (tests/golden/noise.json, made by tools/golden_solver.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "tests/golden.h"
#include "worker/model/noise.h"

static int setup(void **state)
{
    char path[512];
    json_error_t why;
    *state = json_load_file(golden_path(path, sizeof path, "tests/golden/noise.json"), 0, &why);
    if (*state == NULL) print_error("noise.json: %s\n", why.text);
    return *state == NULL;
}

static int teardown(void **state)
{
    json_decref(*state);
    return 0;
}

/* FNV-1a over 32-bit words, as in the golden maker. */
static uint64_t hash_words(const uint32_t *words, size_t count)
{
    uint64_t value = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < count; i++) value = (value ^ words[i]) * UINT64_C(0x100000001b3);
    return value;
}

static const char *text_of(const json_t *item, const char *key)
{
    return json_string_value(json_object_get(item, key));
}

/* Calls `each` with the noise of every golden item that has `key`. The bits are [count], malloc'ed, freed
 * here. */
static void with_items(void **state, const char *key,
                       void (*each)(const json_t *item, const uint32_t *bits, size_t count))
{
    size_t index, used = 0;
    json_t *item;
    json_array_foreach((json_t *)*state, index, item)
    {
        if (json_object_get(item, key) == NULL) continue;
        size_t count = (size_t)json_integer_value(json_object_get(item, "count"));
        float *noise = malloc(count * sizeof *noise);
        assert_non_null(noise);
        noise_fill(strtoull(text_of(item, "seed"), NULL, 10), noise, (int64_t)count);
        uint32_t *bits = malloc(count * sizeof *bits);
        assert_non_null(bits);
        memcpy(bits, noise, count * sizeof *bits);
        each(item, bits, count);
        free(bits);
        free(noise);
        used++;
    }
    assert_true(used > 0);
}

static void same_bits(const json_t *item, const uint32_t *bits, size_t count)
{
    const json_t *expected = json_object_get(item, "bits");
    assert_int_equal(json_array_size(expected), count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(bits[i], json_integer_value(json_array_get(expected, i)));
}

static void same_hash(const json_t *item, const uint32_t *bits, size_t count)
{
    if (hash_words(bits, count) != strtoull(text_of(item, "hash"), NULL, 16))
        fail_msg("seed %s, %zu values: the bits differ from torch's", text_of(item, "seed"), count);
}

static void short_noise_has_torchs_bits(void **state)
{
    with_items(state, "bits", same_bits);
}

static void noise_of_every_length_remainder_and_seed_has_torchs_bits(void **state)
{
    with_items(state, "hash", same_hash);
}

static void nothing_is_written_beyond_the_count(void **state)
{
    (void)state;
    for (int count = 0; count <= 40; count++) {
        float noise[48];
        for (int i = 0; i < 48; i++) noise[i] = 1e30f;
        noise_fill(9, noise, count);
        for (int i = 0; i < 48; i++) assert_true((noise[i] == 1e30f) == (i >= count));
    }
}

static void only_the_low_32_bits_of_a_seed_matter(void **state)
{
    (void)state;
    float a[64], b[64], c[64];
    noise_fill(77, a, 64);
    noise_fill(77 + (UINT64_C(5) << 32), b, 64);
    noise_fill(78, c, 64);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_noise_has_torchs_bits),
        cmocka_unit_test(noise_of_every_length_remainder_and_seed_has_torchs_bits),
        cmocka_unit_test(nothing_is_written_beyond_the_count),
        cmocka_unit_test(only_the_low_32_bits_of_a_seed_matter),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
