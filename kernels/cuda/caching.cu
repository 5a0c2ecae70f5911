/*
 * caching.cu - what caching policies measure with (reduce2) and what frequency bands and filters are made with (mix).
 */
#include "kernels/cuda/passes.h"
#include "kernels/cuda/vectors.cuh"

/* ------------------------------------------------------------------------------------------------------- reduce2 */

enum { LANES = 16, COLUMNS = 1024, REDUCE_THREADS = 256, REDUCE_ROWS = REDUCE_THREADS / LANES };

/* Sixteen threads a row, one for each lane of the documented order, so that the bits are those of the CPU backends: the
 * same fused multiply-adds in float32 over at most 1024 columns, then lane l + lane l + 8, + 4, + 2, + 1 in double. */
__global__ void __launch_bounds__(REDUCE_THREADS)
    reduce2_rows(const float *a, const float *b, int64_t rows, int64_t width, double *partials)
{
    int64_t own = (int64_t)blockIdx.x * REDUCE_ROWS + threadIdx.x / LANES;
    int64_t row = own < rows ? own : rows - 1; /* all lanes of a warp take part in its shuffles */
    int lane = (int)(threadIdx.x % LANES);
    a += row * width;
    b += row * width;
    double total[REDUCE_SUMS] = {0};
    for (int64_t begin = 0; begin < width; begin += COLUMNS) {
        int64_t end = begin + COLUMNS < width ? begin + COLUMNS : width;
        float sum[REDUCE_SUMS] = {0};
        GPU_UNROLL_BY(4)
        for (int64_t i = begin + lane; i < end; i += LANES) {
            float x = a[i], y = b[i], difference = __fsub_rn(x, y);
            sum[REDUCE_DIFFERENCE] = __fadd_rn(sum[REDUCE_DIFFERENCE], fabsf(difference));
            sum[REDUCE_A] = __fadd_rn(sum[REDUCE_A], fabsf(x));
            sum[REDUCE_B] = __fadd_rn(sum[REDUCE_B], fabsf(y));
            sum[REDUCE_PRODUCT] = __fmaf_rn(x, y, sum[REDUCE_PRODUCT]);
            sum[REDUCE_A2] = __fmaf_rn(x, x, sum[REDUCE_A2]);
            sum[REDUCE_B2] = __fmaf_rn(y, y, sum[REDUCE_B2]);
            sum[REDUCE_DIFFERENCE2] = __fmaf_rn(difference, difference, sum[REDUCE_DIFFERENCE2]);
            GPU_COUNT_READ(own < rows ? 2 * sizeof(float) : 0);
            GPU_COUNT_FLOPS(own < rows ? 12 : 0);
        }
        GPU_UNROLL for (int s = 0; s < REDUCE_SUMS; s++)
        {
            double wide = sum[s];
            for (int with = LANES / 2; with > 0; with /= 2) wide += __shfl_xor_sync(0xffffffffu, wide, with);
            total[s] += wide;
        }
    }
    if (own >= rows || lane != 0) return;
    GPU_UNROLL for (int s = 0; s < REDUCE_SUMS; s++) partials[row * REDUCE_SUMS + s] = total[s];
    GPU_COUNT_WRITE(REDUCE_SUMS * sizeof(double));
}

extern "C" int cuda_reduce2(void *stream, const float *a, const float *b, int64_t rows, int64_t width,
                            double *partials)
{
    if (rows < 1) return 0;
    unsigned blocks = (unsigned)((rows + REDUCE_ROWS - 1) / REDUCE_ROWS);
    GPU_LAUNCH(reduce2_rows, blocks, REDUCE_THREADS, 0, (cudaStream_t)stream, a, b, rows, width, partials);
    return (int)cudaGetLastError();
}

/* ----------------------------------------------------------------------------------------------------------- mix */

enum { MIX_THREADS = 128, MIX_OUTPUTS = 16, MIX_STEP = 64 };

/* A thread a column (o, c) and MIX_OUTPUTS outputs along the axis; the matrix goes through shared memory, transposed, in
 * steps of k. */
__global__ void __launch_bounds__(MIX_THREADS)
    mix_columns(const float *matrix, int64_t columns, int n, int64_t inner, const float *x, float *y)
{
    __shared__ __align__(16) float step[MIX_STEP][MIX_OUTPUTS];
    int64_t column = (int64_t)blockIdx.x * MIX_THREADS + threadIdx.x;
    bool inside = column < columns;
    int64_t at = inside ? column / inner * n * inner + column % inner : 0;
    int first = (int)blockIdx.y * MIX_OUTPUTS, outputs = n - first < MIX_OUTPUTS ? n - first : MIX_OUTPUTS;
    float sum[MIX_OUTPUTS] = {0};
    for (int begin = 0; begin < n; begin += MIX_STEP) {
        int count = n - begin < MIX_STEP ? n - begin : MIX_STEP;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < count * MIX_OUTPUTS; i += MIX_THREADS) {
            int output = i / count, k = i % count;
            step[k][output] = output < outputs ? matrix[(int64_t)(first + output) * n + begin + k] : 0;
            GPU_COUNT_READ(output < outputs ? sizeof(float) : 0);
        }
        __syncthreads();
        for (int k = 0; inside && k < count; k++) {
            float value = x[at + (begin + k) * inner];
            GPU_UNROLL for (int i = 0; i < MIX_OUTPUTS; i++) sum[i] = __fmaf_rn(step[k][i], value, sum[i]);
            GPU_COUNT_READ(sizeof(float));
            GPU_COUNT_FLOPS(2 * outputs);
        }
    }
    if (!inside) return;
    GPU_UNROLL for (int i = 0; i < MIX_OUTPUTS; i++) if (i < outputs) y[at + (first + i) * inner] = sum[i];
    GPU_COUNT_WRITE(outputs * sizeof(float));
}

extern "C" int cuda_mix(void *stream, const float *matrix, int64_t outer, int n, int64_t inner,
                        const float *x, float *y)
{
    int64_t columns = outer * inner;
    if (columns < 1) return 0;
    dim3 grid((unsigned)((columns + MIX_THREADS - 1) / MIX_THREADS),
              (unsigned)((n + MIX_OUTPUTS - 1) / MIX_OUTPUTS));
    GPU_LAUNCH(mix_columns, grid, MIX_THREADS, 0, (cudaStream_t)stream, matrix, columns, n, inner, x, y);
    return (int)cudaGetLastError();
}
