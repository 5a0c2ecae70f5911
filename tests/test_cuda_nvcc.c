/*
 * test_cuda_nvcc.c - a program that nvcc built (tests/cusim/semantics/program.cu) runs unchanged over the
 * stand-in libraries and the emulated kernels, and meets their faults. Skipped where there is no nvcc, and in
 * builds with a sanitizer, which a program of others cannot load.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/outcome.h"

static char program[512], libraries[600], kernels[600];

static struct outcome run(const char *setting)
{
    return outcome_of((const char *[]){program, NULL}, (const char *[]){libraries, kernels, setting, NULL});
}

static void ends(const char *setting, const char *says, int status)
{
    struct outcome o = run(setting);
    if (o.status != status || o.signal) print_message("%s\n", o.text);
    assert_true(outcome_says(&o, says));
    assert_int_equal(o.signal, 0);
    assert_int_equal(o.status, status);
    outcome_free(&o);
}

static void its_kernels_graphs_and_library_calls_give_the_right_results_under_every_seed(void **state)
{
    ends("REFRAIN_CUSIM_SEED=0", "kernels in a graph: right", 0);
    ends("REFRAIN_CUSIM_SEED=1", "our product equals cuBLASLt's: right", 0);
    ends("REFRAIN_CUSIM_SEED=2", "sm_90, 4096 MiB", 0);
}

static void it_gives_everything_back(void **state)
{
    ends("REFRAIN_FAKEGPU_LINT=leaks", "kernels in a graph: right", 0);
}

static void it_meets_missing_devices_old_drivers_and_failing_kernels(void **state)
{
    ends("REFRAIN_FAKEGPU_DEVICES=0", "no CUDA-capable device", 3);
    ends("REFRAIN_FAKEGPU_DRIVER=12000", "driver version is insufficient", 3);
    ends("REFRAIN_FAKEGPU_CAPABILITY=7.5", "no kernel image", 3);
    ends("REFRAIN_FAKEGPU_FAIL=kernel:3", "illegal memory access", 3);
    ends("REFRAIN_FAKEGPU_FAIL=cudaLaunchKernel:1", "too many resources", 3);
    ends("REFRAIN_FAKEGPU_KERNELS=", "REFRAIN_FAKEGPU_KERNELS names no shared object", 3);
}

int main(int count, char **arguments)
{
    char *slash, build[480];
    snprintf(build, sizeof build, "%s", arguments[0]);
    for (int up = 0; up < 2; up++)
        if ((slash = strrchr(build, '/'))) *slash = '\0';
    snprintf(program, sizeof program, "%s/cusim/program", build);
    snprintf(libraries, sizeof libraries, "LD_LIBRARY_PATH=%s/fakegpu", build);
    snprintf(kernels, sizeof kernels, "REFRAIN_FAKEGPU_KERNELS=%s/cusim/libsemantics.so", build);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    puts("a program without a sanitizer cannot load libraries with one");
    return 77;
#endif
    if (access(program, X_OK) != 0) {
        puts("there is no nvcc");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_kernels_graphs_and_library_calls_give_the_right_results_under_every_seed),
        cmocka_unit_test(it_gives_everything_back),
        cmocka_unit_test(it_meets_missing_devices_old_drivers_and_failing_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
