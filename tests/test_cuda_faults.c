/*
 * test_cuda_faults.c - what CUDA forbids is found: kernels with one planted fault each (tests/cusim/faults),
 * run in the bare build of the emulator, under AddressSanitizer and UndefinedBehaviorSanitizer, and under
 * the race checker.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/outcome.h"

static const char *build;

static struct outcome run(const char *variant, const char *kernel, const char *n, int seed)
{
    char path[512], seeded[64];
    snprintf(path, sizeof path, "%s/cusim/%s/faults", build, variant);
    snprintf(seeded, sizeof seeded, "REFRAIN_CUSIM_SEED=%d", seed);
    const char *program[] = {path, kernel, n, NULL};
    const char *environment[] = {seeded, "REFRAIN_CUSIM_THREADS=2", "TSAN_OPTIONS=exitcode=66", NULL};
    return outcome_of(program, environment);
}

/* The emulator stops the kernel, names it, and says so; under every seed. */
static void stops(const char *kernel, const char *first, const char *second)
{
    for (int seed = 0; seed < 4; seed++) {
        struct outcome o = run("bare", kernel, "64", seed);
        assert_true(outcome_says(&o, first) && outcome_says(&o, second) && outcome_says(&o, kernel));
        assert_int_equal(o.signal, SIGABRT);
        outcome_free(&o);
    }
}

static void reports(const char *variant, const char *kernel, const char *n, const char *what)
{
    struct outcome o = run(variant, kernel, n, 0);
    assert_true(outcome_says(&o, what) && outcome_says(&o, "faults.cu:"));
    assert_true(o.signal || o.status);
    outcome_free(&o);
}

static void is_clean(const char *variant, const char *kernel, const char *n, const char *printed)
{
    for (int seed = 0; seed < 4; seed++) {
        struct outcome o = run(variant, kernel, n, seed);
        assert_true(outcome_says(&o, printed));
        assert_int_equal(o.signal, 0);
        assert_int_equal(o.status, 0);
        outcome_free(&o);
    }
}

static void a_shuffle_in_a_divergent_branch_is_told_with_its_line(void **state)
{
    stops("divergent_shuffle", "__shfl_xor_sync", "(faults.cu:");
}

static void a_lane_outside_its_own_mask_is_told(void **state)
{
    stops("shuffle_outside_its_mask", "is not in its own mask 0000ffff", "lane ");
}

static void a_mask_with_lanes_that_have_ended_is_told(void **state)
{
    stops("shuffle_of_the_departed", "mask ffffffff", "ended");
}

static void lanes_at_different_shuffles_are_told(void **state)
{
    stops("shuffles_that_differ", "lanes of a warp disagree", "__shfl_up_sync");
}

static void a_thread_that_returns_before_a_barrier_is_told(void **state)
{
    stops("early_return", "__syncthreads", "thread (5,0,0)");
}

static void threads_at_two_different_barriers_are_told_with_both_lines(void **state)
{
    stops("divergent_barrier", "divergent barrier", "faults.cu:");
}

static void a_named_barrier_that_nobody_completes_is_a_deadlock(void **state)
{
    stops("barrier_nobody_completes", "deadlock, 32 of 64 threads", "barrier 1 (faults.cu:");
}

static void a_store_past_dynamic_shared_memory_hits_the_guard(void **state)
{
    stops("dynamic_overrun", "bytes past its 128 bytes of dynamic shared memory", "block (0,0,0)");
}

static void a_forgotten_wait_for_a_copy_is_told_at_the_end_of_the_thread(void **state)
{
    stops("copy_without_wait<false>", "1 asynchronous copies it never waited for", "thread (0,0,0)");
}

/* wait<1> leaves the only group under way. */
static void a_wait_that_leaves_the_group_under_way_is_told(void **state)
{
    stops("copy_without_wait<true>", "1 asynchronous copies it never waited for", "thread (0,0,0)");
}

static void a_store_past_the_end_of_device_memory_is_found_when_it_is_freed(void **state)
{
    struct outcome o = run("bare", "global_overrun", "64", 0);
    assert_true(outcome_says(&o, "past the end of an allocation of 256 bytes"));
    assert_int_equal(o.signal, SIGABRT);
    outcome_free(&o);
}

static void
a_missing_barrier_gives_a_wrong_result_under_some_seed_and_the_right_one_under_another(void **state)
{
    const char *right = "0 0 1 2 3 4 5 6 7 8 9";
    int wrong = 0, good = 0;
    for (int seed = 0; seed < 4; seed++) {
        struct outcome o = run("bare", "neighbour<false>", "64", seed);
        if (strncmp(o.text, right, strlen(right)) == 0)
            good++;
        else
            wrong++;
        outcome_free(&o);
    }
    assert_true(good > 0 && wrong > 0);
    is_clean("bare", "neighbour<true>", "64", right);
}

static void the_race_checker_finds_a_missing_barrier_under_the_seed_that_hides_it(void **state)
{
    reports("tsan", "neighbour<false>", "64", "data race");
}

static void the_race_checker_finds_a_copy_into_a_buffer_that_others_read(void **state)
{
    reports("tsan", "copy_over_a_buffer_in_use<false>", "512", "data race");
}

static void the_race_checker_finds_blocks_that_write_to_the_same_word(void **state)
{
    reports("tsan", "blocks_that_race", "1", "data race");
}

static void the_race_checker_is_silent_about_kernels_that_are_right(void **state)
{
    is_clean("tsan", "neighbour<true>", "64", "0 0 1 2 3");
    is_clean("tsan", "copy_over_a_buffer_in_use<true>", "512", "63 62 61");
    is_clean("tsan", "all_in_order", "1", "258048");
}

static void the_address_sanitizer_finds_a_store_past_device_memory_with_its_line(void **state)
{
    reports("asan", "global_overrun", "64", "heap-buffer-overflow");
}

static void the_address_sanitizer_finds_a_store_past_a_shared_array_with_its_line(void **state)
{
    reports("asan", "static_overrun", "64", "out of bounds");
}

static void the_address_sanitizer_finds_a_misaligned_vector_load_with_its_line(void **state)
{
    reports("asan", "global_misaligned", "64", "misaligned address");
}

static void the_address_sanitizer_is_silent_about_kernels_that_are_right(void **state)
{
    is_clean("asan", "neighbour<true>", "64", "0 0 1 2 3");
    is_clean("asan", "copy_over_a_buffer_in_use<true>", "512", "63 62 61");
    is_clean("asan", "all_in_order", "1", "258048");
}

int main(int count, char **arguments)
{
    static char folder[512]; /* build/tests/test_cuda_faults: the build is two up */
    snprintf(folder, sizeof folder, "%s", arguments[0]);
    for (int up = 0; up < 2; up++) *(strrchr(folder, '/') ? strrchr(folder, '/') : folder) = '\0';
    build = *folder ? folder : ".";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shuffle_in_a_divergent_branch_is_told_with_its_line),
        cmocka_unit_test(a_lane_outside_its_own_mask_is_told),
        cmocka_unit_test(a_mask_with_lanes_that_have_ended_is_told),
        cmocka_unit_test(lanes_at_different_shuffles_are_told),
        cmocka_unit_test(a_thread_that_returns_before_a_barrier_is_told),
        cmocka_unit_test(threads_at_two_different_barriers_are_told_with_both_lines),
        cmocka_unit_test(a_named_barrier_that_nobody_completes_is_a_deadlock),
        cmocka_unit_test(a_store_past_dynamic_shared_memory_hits_the_guard),
        cmocka_unit_test(a_forgotten_wait_for_a_copy_is_told_at_the_end_of_the_thread),
        cmocka_unit_test(a_wait_that_leaves_the_group_under_way_is_told),
        cmocka_unit_test(a_store_past_the_end_of_device_memory_is_found_when_it_is_freed),
        cmocka_unit_test(
            a_missing_barrier_gives_a_wrong_result_under_some_seed_and_the_right_one_under_another),
        cmocka_unit_test(the_race_checker_finds_a_missing_barrier_under_the_seed_that_hides_it),
        cmocka_unit_test(the_race_checker_finds_a_copy_into_a_buffer_that_others_read),
        cmocka_unit_test(the_race_checker_finds_blocks_that_write_to_the_same_word),
        cmocka_unit_test(the_race_checker_is_silent_about_kernels_that_are_right),
        cmocka_unit_test(the_address_sanitizer_finds_a_store_past_device_memory_with_its_line),
        cmocka_unit_test(the_address_sanitizer_finds_a_store_past_a_shared_array_with_its_line),
        cmocka_unit_test(the_address_sanitizer_finds_a_misaligned_vector_load_with_its_line),
        cmocka_unit_test(the_address_sanitizer_is_silent_about_kernels_that_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
