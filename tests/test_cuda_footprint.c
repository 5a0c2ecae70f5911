/* test_cuda_footprint.c - memory as predicted on paper against what the cuda backend allocates, weights included: whole jobs
 * over the stand-in GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/plugin.h"
#include "tests/footprint_rig.h"

extern const struct gpu_plugin refrain_gpu;

static void weights_and_all_else_are_those_of_the_prediction(void **state)
{
    static const struct split splits[] = {{.members = 1, .head = 2}, {.members = 3, .run = {0, 1, 1}}};
    static const char *const cachings[] = {"interval:N=2,forecast=taylor1", "layers:every=2,begin=0,end=1"};
    for (int i = 0; i < 2; i++)
        footprint_expect_equal(&(struct footprint_case){.model = "tests/models/tiny-a",
                                                        .split = splits[i],
                                                        .width = 32,
                                                        .height = 32,
                                                        .frames = 5,
                                                        .steps = 2,
                                                        .guidance = 2,
                                                        .cache = cachings[i]},
                               refrain_gpu.ops, true);
}

int main(void)
{
    setenv("REFRAIN_GPU", "0", 1); /* whatever runs beside this test */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_and_all_else_are_those_of_the_prediction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
