/* test_cuda_tier.c - a level of the cache tier in the memory of a (stand-in) GPU: whole jobs through the cuda backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/plugin.h"
#include "tests/tier_device.h"

extern const struct gpu_plugin refrain_gpu;

static void jobs_find_on_the_gpu_what_was_made_there(void **state)
{
    tier_device_check(refrain_gpu.ops);
}

int main(void)
{
    setenv("REFRAIN_GPU", "0", 1); /* whatever runs beside this test */
    setenv("REFRAIN_FAKEGPU_PROTECT", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_find_on_the_gpu_what_was_made_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
