/*
 * test_cuda_costs.c - what the kernels of kernels/cuda/passes.h move and compute, by their own counters, is what the table
 * of docs/gpu.md is made of: each element once, whatever the alignment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "kernels/cuda/lane.h"
#include "kernels/cuda/passes.h"
#include "kernels/plugin.h"
#include "tests/cusim/cusim.h"
#include "tests/trial.h"

extern const struct gpu_plugin refrain_gpu;

#define OPS  (refrain_gpu.ops)
#define TEAM (trial_team(0))

enum { ROWS = 24, WIDTH = 320, COUNT = ROWS * WIDTH, PAIRS = COUNT / 2 };

static float *memory[4]; /* of the device, [COUNT + 1] each */

static void *stream(void)
{
    return ((struct lane *)team_device(TEAM))->stream;
}

/* What one launch of `kernel` counted since the last reset. */
static void check(const char *kernel, uint64_t read_bytes, uint64_t written_bytes, uint64_t flops)
{
    struct error error;
    if (OPS->wait(TEAM, &error) != STATUS_OK) fail_msg("%s: %s", kernel, error.text);
    struct cusim_counts counts = cusim_counted(kernel);
    if (counts.launches != 1 || counts.read_bytes != read_bytes || counts.written_bytes != written_bytes ||
        counts.flops != flops)
        fail_msg("%s: launched %lu times, %lu bytes read instead of %lu, %lu written instead of %lu, %lu "
                 "operations "
                 "instead of %lu",
                 kernel, counts.launches, counts.read_bytes, read_bytes, counts.written_bytes, written_bytes,
                 counts.flops, flops);
    cusim_reset_counts();
}

static void norms_read_a_row_once(void **state)
{
    float **m = memory;
    /* Weights are counted for every row, though they stay in a cache: 8 bytes an element of scale and shift. */
    cuda_layer_norm(stream(), m[0], WIDTH, ROWS, WIDTH, 1e-6f, 1, m[1], m[2], m[3], WIDTH, DTYPE_BF16);
    check("layer_norm_rows<__nv_bfloat16, true, true>", COUNT * (4 + 8), COUNT * 2, COUNT * 9);
    cuda_layer_norm(stream(), m[0] + 1, WIDTH, ROWS, WIDTH, 1e-6f, 1, NULL, NULL, m[3], WIDTH, DTYPE_F32);
    check("layer_norm_rows<float, false, true>", COUNT * 4, COUNT * 4, COUNT * 9);
    struct rms_norm norm = {.x = m[0],
                            .y = m[0],
                            .x_stride = WIDTH,
                            .y_stride = WIDTH,
                            .rows = ROWS,
                            .width = WIDTH,
                            .weight = m[1],
                            .dtype = DTYPE_BF16};
    cuda_rms_norm(stream(), &norm);
    check("rms_norm_rows<__nv_bfloat16, true, true>", COUNT * (2 + 4), COUNT * 2, COUNT * 4);
    norm.head_dim = 64, norm.cosines = m[2], norm.sines = m[3];
    cuda_rms_norm(stream(), &norm);
    check("rms_norm_rows<__nv_bfloat16, true, true>", COUNT * (2 + 4) + PAIRS * 8, COUNT * 2,
          COUNT * 4 + PAIRS * 6);
}

static void dense_layers_passes_touch_each_element_once(void **state)
{
    float **m = memory;
    cuda_round_rows(stream(), m[0], DTYPE_F32, WIDTH, ROWS, WIDTH, WIDTH, m[1]);
    check("round_rows<float, true>", COUNT * 4, COUNT * 2, 0);
    cuda_round_rows(stream(), m[0], DTYPE_BF16, WIDTH - 3, ROWS, WIDTH - 3, WIDTH, m[1]);
    check("round_rows<__nv_bfloat16, false>", (COUNT - 3 * ROWS) * 2, COUNT * 2, 0);
    struct epilogue e = {.kind = EPILOGUE_GATE_ADD, .other = m[1], .other_stride = WIDTH, .gate = m[2]};
    cuda_finish_rows(stream(), m[0], WIDTH, m[3], &e, ROWS, WIDTH, m[1], WIDTH);
    check("finish_rows<float, true>", COUNT * (4 + 4 + 4 + 4), COUNT * 4, COUNT * 3);
    e.kind = EPILOGUE_SILU, e.y_dtype = DTYPE_BF16;
    cuda_finish_rows(stream(), m[0], WIDTH, m[3], &e, ROWS, WIDTH, m[1], WIDTH);
    check("finish_rows<__nv_bfloat16, true>", COUNT * (4 + 4), COUNT * 2, COUNT * 3);
    struct gemv gemv = {.weights = m[0],
                        .bias = m[1],
                        .n = ROWS,
                        .k = WIDTH,
                        .padded = WIDTH,
                        .x = m[2],
                        .x_stride = WIDTH,
                        .rows = 2,
                        .y = m[3],
                        .y_stride = ROWS};
    cuda_gemv(stream(), &gemv);
    check("gemv_rows<true>", COUNT * 2 + 2 * COUNT * 4 + 2 * ROWS * 4, 2 * ROWS * 4, 2 * 2 * COUNT);
}

static void sums_and_forecasts_read_each_term_once(void **state)
{
    const float weights[LINCOMB_TERMS * LINCOMB_GROUPS] = {1, 2, 3};
    const float *x[LINCOMB_TERMS];
    for (int j = 0; j < LINCOMB_TERMS; j++) x[j] = memory[j % 3];
    for (int terms = 1; terms <= LINCOMB_TERMS; terms += 19) {
        cuda_lincomb(stream(), terms, weights, x, COUNT, memory[3]);
        check("lincomb_all<true>", (uint64_t)(terms * COUNT * 4), COUNT * 4,
              (uint64_t)(COUNT * (2 * terms - 1)));
    }
    unsigned char *group = NULL;
    struct error error;
    assert_int_equal(OPS->allocate(MEMORY_SHARED, ROWS, (void **)&group, &error), STATUS_OK);
    cusim_reset_counts();
    cuda_lincomb_rows(stream(), 3, weights, group, x, ROWS, WIDTH, memory[3]);
    check("lincomb_by_rows<true>", 3 * COUNT * 4, COUNT * 4, COUNT * 5);
    OPS->release(MEMORY_SHARED, group);
    cuda_silu(stream(), memory[0], COUNT, memory[0]);
    check("silu_all<true>", COUNT * 4, COUNT * 4, COUNT * 4);
    struct patching p = {
        .channels = 5, .frames = 2, .height = 4, .width = 3, .patch_t = 1, .patch_y = 2, .patch_x = 2};
    int elements = 5 * 2 * 4 * 3 * 4;
    cuda_cut_patches(stream(), &p, memory[0], memory[1], DTYPE_BF16);
    check("cut_patches<__nv_bfloat16>", (uint64_t)elements * 4, (uint64_t)elements * 2, 0);
    cuda_join_patches(stream(), &p, memory[0], memory[1]);
    check("join_patches", (uint64_t)elements * 4, (uint64_t)elements * 4, 0);
}

static void signals_read_both_tensors_once_and_mix_once_for_sixteen_outputs(void **state)
{
    cuda_reduce2(stream(), memory[0], memory[1], ROWS, WIDTH, (double *)(void *)memory[3]);
    check("reduce2_rows", COUNT * 8, ROWS * REDUCE_SUMS * 8, COUNT * 12);
    enum { N = 20, INNER = COUNT / N, BLOCKS = (INNER + 127) / 128, TILES = 2 };
    cuda_mix(stream(), memory[0], 1, N, INNER, memory[1], memory[2]);
    check("mix_columns", TILES * COUNT * 4 + BLOCKS * N * N * 4, COUNT * 4, 2 * N * COUNT);
}

static int prepare(void **state)
{
    if (trial_make_teams(state) != 0) return -1;
    for (int i = 0; i < 4; i++)
        if (OPS->allocate(MEMORY_DEVICE, (COUNT + 1) * sizeof(float), (void **)&memory[i], NULL) != STATUS_OK)
            return -1;
    cusim_reset_counts();
    return 0;
}

static int clear(void **state)
{
    for (int i = 0; i < 4; i++) OPS->release(MEMORY_DEVICE, memory[i]);
    return trial_drop_teams(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_read_a_row_once),
        cmocka_unit_test(dense_layers_passes_touch_each_element_once),
        cmocka_unit_test(sums_and_forecasts_read_each_term_once),
        cmocka_unit_test(signals_read_both_tensors_once_and_mix_once_for_sixteen_outputs),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
