/*
 * test_cuda_abi.c - what our own CUDA headers state is what the real ones state: values, sizes, offsets (the
 * table of tests/fakegpu/abi). That prototypes agree is checked by the build, which compiles the stand-ins
 * against the real headers too. Skipped where CUDA's headers are not installed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "tests/fakegpu/abi/abi.h"

static void same_facts(const struct abi_fact *ours, const struct abi_fact *real, int least)
{
    int count = 0, wrong = 0;
    for (; ours[count].name; count++) {
        assert_non_null(real[count].name);
        assert_string_equal(ours[count].name, real[count].name);
        if (ours[count].value == real[count].value) continue;
        print_message("%s: %ld, really %ld\n", ours[count].name, ours[count].value, real[count].value);
        wrong++;
    }
    assert_true(count > least);
    assert_null(real[count].name);
    assert_int_equal(wrong, 0);
}

static void every_value_size_and_offset_is_that_of_the_real_headers(void **state)
{
    same_facts(abi_ours, abi_real, 300);
}

static void every_value_of_cudnn_is_that_of_its_real_header(void **state)
{
    if (!cudnn_real[0].name) {
        puts("cuDNN's headers are not installed");
        skip();
    }
    same_facts(cudnn_ours, cudnn_real, 70);
}

int main(void)
{
    if (!abi_real[0].name) {
        puts("CUDA's headers are not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_size_and_offset_is_that_of_the_real_headers),
        cmocka_unit_test(every_value_of_cudnn_is_that_of_its_real_header)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
