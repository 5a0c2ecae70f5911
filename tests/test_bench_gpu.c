/*
 * test_bench_gpu.c - what waits for a GPU (`make test-gpu`, `make bench-gpu`; docs/gpu.md) runs where there is none: the
 * programs themselves, small, with the emulated plug-in over the stand-ins for CUDA's libraries; and without any device
 * they say so. With REFRAIN_TEST_CUDA=all whole forwards and services too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

enum { SKIPPED = 77 };

static char build[PATH_BYTES];

static int set_up(void **state)
{
    char program[PATH_BYTES], path[2 * PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    snprintf(build, sizeof build, "%s", dirname(dirname(program)));
    snprintf(path, sizeof path, "%s/emulated", build);
    setenv("REFRAIN_PLUGINS", path, 1);
    snprintf(path, sizeof path, "%s/fakegpu", build);
    setenv("LD_LIBRARY_PATH", path, 1);
    snprintf(path, sizeof path, "%s/fakegpu/libkernels.so", build);
    setenv("REFRAIN_FAKEGPU_KERNELS", path, 1);
    int status = stand_set_up(state);
    setenv("REFRAIN_GPU_LOCKS", stand_directory, 1);
    return status;
}

static int lines_with(const char *words)
{
    int count = 0;
    for (const char *at = stand_text; (at = strstr(at, words)); at++) count++;
    return count;
}

static void every_op_is_measured_against_the_peak_of_the_gpu(void **state)
{
    shell_run(stand_text, "%s/tools/bench_gpu --tiny --tflops 1e-3 --gbs 1", build);
    assert_true(stand_says("stand-in GPU sm_90, sm_90, "));
    assert_true(stand_says("peak 0.001 TFLOP/s in bf16, 1 GB/s (as given)"));
    static const char *const ops[] = {
        "\nlinear 40x64x96 gelu ",
        "\nlinear 1x64x96 ",
        "\nattention 2 heads of 128, 70x90 ",
        ", padded ",
        "\nlayer_norm ",
        "\nrms_norm in",
        "\nrms_norm_rope ",
        "\nlincomb of 3 ",
        "\nlincomb_rows of 3 ",
        "\nreduce2 ",
        "\nsilu ",
        "\nconv 3x3x3 16->16 on 4x6x8 ",
        "\nconv doubled 3x3 16->16 ",
        "\nchannel_norm+silu ",
        "\ndense layers ",
    };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!stand_says(ops[i])) fail_msg("no%s in\n%s", ops[i], stand_text);
    assert_int_equal(lines_with(" TFLOP/s  ") + lines_with(" GB/s     "), lines_with(" % of peak, best "));
    assert_null(strstr(stand_text, "nan"));
}

/* Work over time over peak: the columns of a line agree. */
static void the_share_is_of_the_peak_that_was_given(void **state)
{
    double microseconds, rate, share;
    shell_run(stand_text, "%s/tools/bench_gpu --tiny --only lincomb_rows --tflops 1 --gbs 1", build);
    const char *line = strstr(stand_text, "\nlincomb_rows of 3 20x256 ");
    assert_non_null(line);
    assert_int_equal(sscanf(line + 26, "%lf us %lf GB/s %lf %%", &microseconds, &rate, &share), 3);
    double bytes = 4 * 20 * 256 * 4;
    assert_true(rate > 0.9e-3 * bytes / microseconds && rate < 1.1e-3 * bytes / microseconds);
    assert_true(share > 95 * rate - 0.1 && share < 105 * rate + 0.1);
}

static void peaks_come_from_the_compute_capability_where_the_name_is_unknown(void **state)
{
    shell_run(stand_text, "REFRAIN_FAKEGPU_CAPABILITY=8.0 %s/tools/bench_gpu --tiny --only silu", build);
    assert_true(stand_says("peak 312 TFLOP/s in bf16, 1555 GB/s (of a GPU of that compute capability"));
    shell_run(stand_text, "REFRAIN_FAKEGPU_CAPABILITY=7.9 %s/tools/bench_gpu --tiny --only silu || true",
              build);
    assert_true(stand_says("8.0 is the oldest"));
}

static void a_shape_beyond_the_memory_of_the_gpu_is_named_and_left_out(void **state)
{
    shell_run(stand_text, "REFRAIN_FAKEGPU_MEMORY_MB=280 %s/tools/bench_gpu --only 32760x32760", build);
    assert_true(stand_says("attention 12 heads of 128, 32760x32760"));
    assert_true(stand_says("left out: 0.4 GB of memory, and there are 0.2"));
}

static void a_gpu_that_fails_ends_the_benchmark_with_its_sentence(void **state)
{
    assert_int_equal(
        shell(stand_text, "REFRAIN_FAKEGPU_FAIL=kernel:9 %s/tools/bench_gpu --tiny --only attention", build),
        1);
    assert_true(stand_says("bench_gpu: ") && stand_says("attention"));
}

static void without_a_gpu_both_say_what_is_missing(void **state)
{
    setenv("REFRAIN_FAKEGPU_DEVICES", "0", 1);
    assert_int_equal(shell(stand_text, "tools/test_gpu.sh %s", build), SKIPPED);
    assert_true(stand_says("no GPU is visible to this process"));
    assert_int_equal(shell(stand_text, "tools/bench_gpu.sh %s", build), SKIPPED);
    assert_true(stand_says("no GPU is visible to this process"));
    assert_int_equal(shell(stand_text, "%s/tools/bench_gpu", build), SKIPPED);
    assert_true(stand_says("no GPU is visible to this process"));
    unsetenv("REFRAIN_FAKEGPU_DEVICES");
}

static void forwards_and_services_are_measured_too(void **state)
{
    const char *wanted = getenv("REFRAIN_TEST_CUDA");
    if (!wanted || strcmp(wanted, "all") != 0) skip();
    shell_run(stand_text,
              "REFRAIN_FAKEGPU_DEVICES=2 REFRAIN_GPUS=2 BENCH_GPU_OPTIONS='--tiny --only silu' "
              "BENCH_GPU_JOBS='2 1 1' tools/bench_gpu.sh %s tests/models/tiny-a 32x32x5",
              build);
    assert_true(stand_says("   forward 0."));
    assert_true(stand_says("median: 1 rank(s), zmq  "));
    assert_true(stand_says("median: 2 rank(s), nccl "));
    assert_true(stand_says(" of zmq's\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_is_measured_against_the_peak_of_the_gpu),
        cmocka_unit_test(the_share_is_of_the_peak_that_was_given),
        cmocka_unit_test(peaks_come_from_the_compute_capability_where_the_name_is_unknown),
        cmocka_unit_test(a_shape_beyond_the_memory_of_the_gpu_is_named_and_left_out),
        cmocka_unit_test(a_gpu_that_fails_ends_the_benchmark_with_its_sentence),
        cmocka_unit_test(without_a_gpu_both_say_what_is_missing),
        cmocka_unit_test(forwards_and_services_are_measured_too),
    };
    return cmocka_run_group_tests(tests, set_up, stand_tear_down);
}
