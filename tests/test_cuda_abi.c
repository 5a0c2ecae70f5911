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

static void every_value_size_and_offset_is_that_of_the_real_headers(void **state)
{
    int count = 0, wrong = 0;
    for (; abi_ours[count].name; count++) {
        assert_non_null(abi_real[count].name);
        assert_string_equal(abi_ours[count].name, abi_real[count].name);
        if (abi_ours[count].value == abi_real[count].value) continue;
        print_message("%s: %ld, really %ld\n", abi_ours[count].name, abi_ours[count].value,
                      abi_real[count].value);
        wrong++;
    }
    assert_true(count > 300);
    assert_null(abi_real[count].name);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    if (!abi_real[0].name) {
        puts("CUDA's headers are not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_size_and_offset_is_that_of_the_real_headers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
