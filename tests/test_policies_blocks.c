/* test_policies_blocks.c - policies that decide block by block, over scripted changes
 * (tests/policy_driver.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "tests/policy_driver.h"

extern const struct policy policy_dbprune, policy_layers;

static const struct policy_job job_of_12 = {.steps = 12, .layers = 8, .branches = 2};

/* ----------------------------------------------------------------------------------------------- DBPrune */

static void dbprune_reuses_quiet_blocks_between_protected_ones(void **state)
{
    const struct policy_job job = {.steps = 4, .layers = 5, .branches = 1};
    char letters[6];
    struct driver d;
    driver_start(&d, &policy_dbprune, "F=1,B=1,W=1,threshold=0.1", &job);
    assert_true(d.plan.site == SITE_BLOCKS && d.plan.block_signal);
    driver_blocks(&d, (double[]){0, 0, 0, 0, 0}, letters);
    assert_string_equal(letters, "CCCCC");
    driver_blocks(&d, (double[]){0, .05, .2, .09, 0}, letters);
    assert_string_equal(letters, "CRCRC");
    driver_blocks(&d, (double[]){0, .5, NAN, .5, 0}, letters);
    assert_string_equal(letters, "CCCCC");
    assert_string_equal(d.actions, "CRC");
}

static void dbprune_counts_each_blocks_reuses_in_all_and_in_a_row(void **state)
{
    const struct policy_job job = {.steps = 8, .layers = 3, .branches = 1};
    static const char *const expected[] = {"CCC", "CRC", "CRR", "CCR", "CRC", "CRR", "CCC", "CCR"};
    char letters[4];
    struct driver d;
    driver_start(&d, &policy_dbprune, "F=1,W=1,MC=2,M=4", &job);
    for (int i = 0; i < 8; i++) {
        driver_blocks(&d, (double[]){0, 0, i == 1 || i == 6 ? 1 : 0}, letters);
        assert_string_equal(letters, expected[i]);
    }
    driver_refused(&policy_dbprune, "F=3,B=1", &job, "F 3: with B 1");
}

/* ------------------------------------------------------------------------------------------------ layers */

static void run_layers(const char *settings, const char *const *expected)
{
    const struct policy_job job = {.steps = 6, .layers = 4, .branches = 1};
    char letters[5];
    struct driver d;
    driver_start(&d, &policy_layers, settings, &job);
    for (int i = 0; i < job.steps; i++) {
        driver_blocks(&d, (double[4]){0}, letters);
        if (strcmp(letters, expected[i]) != 0) fail_msg("%s: step %d: %s", settings, i, letters);
    }
}

static void layers_reuses_a_range_between_whole_steps(void **state)
{
    run_layers("begin=1,end=3,every=3", (const char *[]){"CCCC", "CRRC", "CRRC", "CCCC", "CRRC", "CRRC"});
    run_layers("begin=2,first=3,last=1", (const char *[]){"CCCC", "CCCC", "CCCC", "CCRR", "CCCC", "CCCC"});
}

static void layers_skips_back_blocks_before_the_boundary_and_front_ones_after(void **state)
{
    run_layers("end=2,every=2,boundary=0.5",
               (const char *[]){"CCCC", "CCRR", "CCCC", "RRCC", "CCCC", "RRCC"});
}

static void layers_outside_the_model_are_refused(void **state)
{
    driver_refused(&policy_layers, "end=9", &job_of_12, "end 9: the model has 8 blocks");
    driver_refused(&policy_layers, "begin=3,end=3", &job_of_12, "begin 3: must be below end 3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dbprune_reuses_quiet_blocks_between_protected_ones),
        cmocka_unit_test(dbprune_counts_each_blocks_reuses_in_all_and_in_a_row),
        cmocka_unit_test(layers_reuses_a_range_between_whole_steps),
        cmocka_unit_test(layers_skips_back_blocks_before_the_boundary_and_front_ones_after),
        cmocka_unit_test(layers_outside_the_model_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
