/*
 * test_masks.c - step masks, published and as text. SCM against cache-dit (tests/golden/cache/masks.json,
 * made by tools/golden_masks.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "cache/masks.h"
#include "cache/policy.h"
#include "tests/golden.h"

static void scm_masks_are_those_of_cache_dit_for_every_step_count(void **state)
{
    char path[512];
    json_error_t why;
    json_t *golden = json_load_file(golden_path(path, sizeof path, "tests/golden/cache/masks.json"), 0, &why);
    if (golden == NULL) fail_msg("masks.json: %s", why.text);
    const char *name, *steps;
    json_t *counts, *expected;
    int compared = 0;
    json_object_foreach(golden, name, counts) json_object_foreach(counts, steps, expected)
    {
        unsigned char mask[CACHE_STEPS];
        char text[CACHE_STEPS + 1] = "";
        int n = atoi(steps);
        assert_int_equal(mask_resolve(name, n, mask, NULL), STATUS_OK);
        for (int i = 0; i < n; i++) text[i] = (char)('0' + mask[i]);
        if (strcmp(text, json_string_value(expected)) != 0)
            fail_msg("%s, %s steps: %s, not %s", name, steps, text, json_string_value(expected));
        compared++;
    }
    assert_int_equal(compared, 4 * 120);
    json_decref(golden);
}

static void published_masks_compute_as_many_steps_as_their_name_says(void **state)
{
    const char *const *names = mask_names();
    for (int i = 0; names[i] != NULL; i++) {
        int steps, computed = 0;
        unsigned char mask[CACHE_STEPS];
        const char *number = strrchr(names[i], '-') + 1;
        mask_about(i, &steps);
        assert_int_equal(mask_check(names[i], NULL), STATUS_OK);
        if (steps == 0 || *number < '0' || *number > '9') continue;
        assert_int_equal(mask_resolve(names[i], steps, mask, NULL), STATUS_OK);
        for (int s = 0; s < steps; s++) computed += mask[s];
        if (computed != atoi(number)) fail_msg("%s computes %d", names[i], computed);
        assert_true(mask[0] && mask[steps - 1]);
    }
}

static void expect_mask(const char *text, int steps, const char *expected)
{
    unsigned char mask[CACHE_STEPS];
    assert_int_equal(mask_resolve(text, steps, mask, NULL), STATUS_OK);
    for (int i = 0; i < steps; i++) assert_int_equal(mask[i], expected[i] - '0');
}

static void masks_as_digits_and_as_lists_are_the_same(void **state)
{
    expect_mask("1101001", 7, "1101001");
    expect_mask("0-1+3+6", 7, "1101001");
    expect_mask("7", 8, "00000001");
    expect_mask("1", 1, "1");
}

static void masks_of_another_length_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
        int steps;
    } cases[] = {
        {"1111111111111111111111111111111111111111", "mask has 40 steps, the job 50", 50},
        {"0-9+50", "mask has step 50, the last of the job is 49", 50},
        {"lemica-wan2.1-1.3b-25", "mask lemica-wan2.1-1.3b-25: is made for 50 steps, the job has 40", 40},
        {"scm-fast", "mask scm-fast: is made for 4, 6 or at least 8 steps, the job has 5", 5},
        {"11", "must be 1 to 1000", 0},
        {"11", "must be 1 to 1000", 1001},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char mask[CACHE_STEPS] = {9};
        struct error error = {0};
        assert_int_equal(mask_resolve(cases[i].text, cases[i].steps, mask, &error), STATUS_INVALID);
        if (strstr(error.text, cases[i].why) == NULL) fail_msg("'%s'", error.text);
        assert_int_equal(mask[0], 9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scm_masks_are_those_of_cache_dit_for_every_step_count),
        cmocka_unit_test(published_masks_compute_as_many_steps_as_their_name_says),
        cmocka_unit_test(masks_as_digits_and_as_lists_are_the_same),
        cmocka_unit_test(masks_of_another_length_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
