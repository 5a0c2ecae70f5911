/*
 * dense.cu - what a dense layer does beside the matrix product: rounding its input, its epilogue where the product cannot
 * do it, and the whole layer for a few rows of float32 (the embedding of a time).
 */
#include "kernels/cuda/passes.h"
#include "kernels/cuda/vectors.cuh"

enum { THREADS = 256 };

/* Blocks are numbered over rows of `pieces` blocks each. */
struct row_place {
    int64_t row;
    int at; /* first element of this thread */
};

template <int G> static __device__ __forceinline__ row_place place_of(int pieces)
{
    return {blockIdx.x / pieces, (int)(blockIdx.x % pieces * blockDim.x + threadIdx.x) * G};
}

struct row_grid {
    int pieces, threads;
    unsigned blocks;
};

static row_grid grid_of(int64_t rows, int width, int group)
{
    int groups = (width + group - 1) / group, threads = (groups + 31) / 32 * 32;
    if (threads > THREADS) threads = THREADS;
    int pieces = (groups + threads - 1) / threads;
    return {pieces, threads, (unsigned)(rows * pieces)};
}

/* ------------------------------------------------------------------------------------------------------ rounding */

struct round_arguments {
    const void *x;
    __nv_bfloat16 *to;
    int64_t x_stride;
    int width, padded, pieces;
};

template <class T, bool VECTOR> __global__ void __launch_bounds__(THREADS) round_rows(round_arguments a)
{
    enum { G = 8 };
    row_place place = place_of<G>(a.pieces);
    if (place.at >= a.padded) return;
    float v[G];
    load_group<VECTOR>(static_cast<const T *>(a.x) + place.row * a.x_stride, place.at, a.width, v);
    store_group<true>(a.to + place.row * a.padded, place.at, a.padded, v);
}

extern "C" int cuda_round_rows(void *stream, const void *x, dtype_t dtype, int64_t x_stride, int64_t rows,
                               int width, int padded, void *to)
{
    row_grid grid = grid_of(rows, padded, 8);
    round_arguments a = {x, static_cast<__nv_bfloat16 *>(to), x_stride, width, padded, grid.pieces};
    cudaStream_t on = (cudaStream_t)stream;
    bool vector = width == padded && rows_aligned(x, x_stride, dtype_bytes(dtype), 16);
    if (rows < 1) return 0;
    if (dtype == DTYPE_BF16 && vector)
        GPU_LAUNCH((round_rows<__nv_bfloat16, true>), grid.blocks, grid.threads, 0, on, a);
    else if (dtype == DTYPE_BF16)
        GPU_LAUNCH((round_rows<__nv_bfloat16, false>), grid.blocks, grid.threads, 0, on, a);
    else if (vector)
        GPU_LAUNCH((round_rows<float, true>), grid.blocks, grid.threads, 0, on, a);
    else
        GPU_LAUNCH((round_rows<float, false>), grid.blocks, grid.threads, 0, on, a);
    return (int)cudaGetLastError();
}

/* ----------------------------------------------------------------------------------------------------- epilogues */

/* gelu_tanh(a) = a / (1 + exp(-2 u)), u = sqrt(2 / pi) (a + 0.044715 a^3): (1 + tanh u) / 2 is the sigmoid of 2 u. */
static __device__ __forceinline__ float gelu(float a)
{
    float u = 0.7978845608028654f * (a + 0.044715f * a * a * a);
    return a / (1.0f + expf(-2.0f * u));
}

static __device__ __forceinline__ float finish(int kind, float a, float other, float gate)
{
    switch (kind) {
    case EPILOGUE_GELU:
        return gelu(a);
    case EPILOGUE_SILU:
        return a / (1.0f + expf(-a));
    case EPILOGUE_MULTIPLY:
        return a * other;
    case EPILOGUE_ADD:
        return other + a;
    case EPILOGUE_GATE_ADD:
        return other + a * gate;
    default:
        return a;
    }
}

static __device__ __forceinline__ bool reads_other(int kind)
{
    return kind >= EPILOGUE_MULTIPLY;
}

struct finish_arguments {
    const float *sums, *bias, *other, *gate;
    void *y;
    int64_t sums_stride, other_stride, y_stride;
    int n, pieces, kind;
};

template <class T, bool VECTOR> __global__ void __launch_bounds__(THREADS) finish_rows(finish_arguments a)
{
    enum { G = 4 };
    row_place place = place_of<G>(a.pieces);
    if (place.at >= a.n) return;
    float v[G], bias[G], other[G] = {0, 0, 0, 0}, gate[G] = {0, 0, 0, 0};
    load_group<VECTOR>(a.sums + place.row * a.sums_stride, place.at, a.n, v);
    load_group<VECTOR>(a.bias, place.at, a.n, bias);
    if (reads_other(a.kind)) load_group<VECTOR>(a.other + place.row * a.other_stride, place.at, a.n, other);
    if (a.kind == EPILOGUE_GATE_ADD) load_group<VECTOR>(a.gate, place.at, a.n, gate);
    GPU_UNROLL for (int e = 0; e < G; e++) v[e] = finish(a.kind, v[e] + bias[e], other[e], gate[e]);
    store_group<VECTOR>(static_cast<T *>(a.y) + place.row * a.y_stride, place.at, a.n, v);
    GPU_COUNT_FLOPS(3 * G);
}

extern "C" int cuda_finish_rows(void *stream, const float *sums, int64_t sums_stride, const float *bias,
                                const struct epilogue *e, int64_t rows, int n, void *y, int64_t y_stride)
{
    row_grid grid = grid_of(rows, n, 4);
    finish_arguments a = {sums,     bias, e->other,    e->gate, y, sums_stride, e->other_stride,
                          y_stride, n,    grid.pieces, e->kind};
    cudaStream_t on = (cudaStream_t)stream;
    size_t size = dtype_bytes(e->y_dtype);
    bool vector = n % 4 == 0 && rows_aligned(y, y_stride, size, 4 * size) && rows_aligned(bias, 0, 4, 16) &&
                  rows_aligned(sums, sums_stride, 4, 16) &&
                  (e->kind < EPILOGUE_MULTIPLY || rows_aligned(e->other, e->other_stride, 4, 16)) &&
                  (e->kind != EPILOGUE_GATE_ADD || rows_aligned(e->gate, 0, 4, 16));
    if (rows < 1) return 0;
    if (e->y_dtype == DTYPE_BF16 && vector)
        GPU_LAUNCH((finish_rows<__nv_bfloat16, true>), grid.blocks, grid.threads, 0, on, a);
    else if (e->y_dtype == DTYPE_BF16)
        GPU_LAUNCH((finish_rows<__nv_bfloat16, false>), grid.blocks, grid.threads, 0, on, a);
    else if (vector)
        GPU_LAUNCH((finish_rows<float, true>), grid.blocks, grid.threads, 0, on, a);
    else
        GPU_LAUNCH((finish_rows<float, false>), grid.blocks, grid.threads, 0, on, a);
    return (int)cudaGetLastError();
}

/* ------------------------------------------------------------------------------------------------------ few rows */

enum { GEMV_WARPS = 4 };

/* A warp an output n, for all rows: lane l adds k = 8 l .. 8 l + 7, 256 further, ... in order; then a butterfly. A row's
 * bits do not depend on the others. */
template <bool VECTOR> __global__ void __launch_bounds__(GEMV_WARPS * 32) gemv_rows(gemv g)
{
    enum { G = 8 };
    int n = (int)(blockIdx.x * GEMV_WARPS + threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    if (n >= g.n) return; /* the whole warp */
    const __nv_bfloat16 *weights = static_cast<const __nv_bfloat16 *>(g.weights) + (int64_t)n * g.padded;
    float sums[GEMV_ROWS] = {0};
    for (int k = lane * G; k < g.k; k += 32 * G) {
        float w[G], x[G];
        load_group<true>(weights, k, g.padded, w);
        GPU_UNROLL for (int row = 0; row < GEMV_ROWS; row++) if (row < g.rows)
        {
            load_group<VECTOR>(g.x + row * g.x_stride, k, g.k, x);
            GPU_UNROLL for (int e = 0; e < G; e++) sums[row] = __fmaf_rn(w[e], x[e], sums[row]);
            GPU_COUNT_FLOPS(2 * G);
        }
    }
    GPU_UNROLL for (int row = 0; row < GEMV_ROWS; row++)
    {
        for (int with = 16; with > 0; with /= 2) sums[row] += __shfl_xor_sync(0xffffffffu, sums[row], with);
        if (row < g.rows && lane == 0) {
            const struct epilogue &e = g.epilogue;
            float other = reads_other(e.kind) ? e.other[row * e.other_stride + n] : 0;
            float gate = e.kind == EPILOGUE_GATE_ADD ? e.gate[n] : 0;
            float value = finish(e.kind, sums[row] + g.bias[n], other, gate);
            int64_t at = row * g.y_stride + n;
            if (e.y_dtype == DTYPE_BF16)
                from_float(value, static_cast<__nv_bfloat16 *>(g.y) + at);
            else
                from_float(value, static_cast<float *>(g.y) + at);
            GPU_COUNT_READ(4 + (reads_other(e.kind) ? 4 : 0) + (e.kind == EPILOGUE_GATE_ADD ? 4 : 0));
            GPU_COUNT_WRITE(dtype_bytes(e.y_dtype));
        }
    }
}

extern "C" int cuda_gemv(void *stream, const struct gemv *g)
{
    unsigned blocks = (unsigned)((g->n + GEMV_WARPS - 1) / GEMV_WARPS);
    if (g->k % 8 == 0 && rows_aligned(g->x, g->x_stride, 4, 16))
        GPU_LAUNCH((gemv_rows<true>), blocks, GEMV_WARPS * 32, 0, (cudaStream_t)stream, *g);
    else
        GPU_LAUNCH((gemv_rows<false>), blocks, GEMV_WARPS * 32, 0, (cudaStream_t)stream, *g);
    return (int)cudaGetLastError();
}
