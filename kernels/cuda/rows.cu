/*
 * rows.cu - layer norm, RMS norm and rotary embedding: a block a row, the row read once and kept in registers, statistics
 * in float32.
 *
 * Order of sums over a row: a thread adds its groups of 4 floats (8 bf16) in order, 16 elements at most; the lanes of a
 * warp are added in a butterfly, the warps in order. It depends on the width alone. Rows above 16384 are read again for
 * every pass (from the second-level cache), in the same order.
 */
#include "kernels/cuda/passes.h"
#include "kernels/cuda/vectors.cuh"

enum { PER_THREAD = 16, MOST_THREADS = 1024, WARPS = MOST_THREADS / 32 };

/* What a thread has of a row: groups threadIdx.x, threadIdx.x + blockDim.x, ... KEPT: in registers. */
template <class T, bool VECTOR, bool KEPT> struct row_part {
    static constexpr int G = elements<T>::count, GROUPS = KEPT ? PER_THREAD / G : 1;
    const T *x;
    int width;
    float kept[GROUPS][G];

    __device__ __forceinline__ row_part(const T *row, int row_width) : x(row), width(row_width)
    {
        if constexpr (KEPT) {
            GPU_UNROLL for (int i = 0; i < GROUPS; i++)
            {
                int at = (int)(threadIdx.x + i * blockDim.x) * G;
                if (at < width) load_group<VECTOR>(x, at, width, kept[i]);
            }
        }
    }

    /* each(at, values) for every group; `inside` tells which of its elements exist. */
    template <class F> __device__ __forceinline__ void each(F f) const
    {
        if constexpr (KEPT) {
            GPU_UNROLL for (int i = 0; i < GROUPS; i++)
            {
                int at = (int)(threadIdx.x + i * blockDim.x) * G;
                if (at < width) f(at, kept[i]);
            }
        } else {
            for (int at = (int)threadIdx.x * G; at < width; at += (int)blockDim.x * G) {
                float values[G];
                load_group<VECTOR>(x, at, width, values);
                f(at, values);
            }
        }
    }
    __device__ __forceinline__ bool inside(int at) const { return VECTOR || at < width; }
};

/* The sum over all threads, in every thread. `warps`: memory of this sum alone. */
static __device__ __forceinline__ float block_sum(float value, float (&warps)[WARPS])
{
    for (int with = 16; with > 0; with /= 2) value += __shfl_xor_sync(0xffffffffu, value, with);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += warps[warp];
    return sum;
}

struct layer_norm_arguments {
    const float *x, *scale, *shift;
    void *y;
    int64_t x_stride, y_stride;
    int width;
    float eps, base;
};

template <class T, bool VECTOR, bool KEPT>
__global__ void __launch_bounds__(MOST_THREADS) layer_norm_rows(layer_norm_arguments a)
{
    __shared__ float sums[WARPS], squares[WARPS];
    constexpr int G = elements<float>::count;
    row_part<float, VECTOR, KEPT> part(a.x + blockIdx.x * a.x_stride, a.width);
    T *y = static_cast<T *>(a.y) + blockIdx.x * a.y_stride;

    float sum = 0, square = 0;
    part.each([&](int at, const float(&v)[G]) { GPU_UNROLL for (int e = 0; e < G; e++) sum += v[e]; });
    float mean = block_sum(sum, sums) / (float)a.width;
    part.each([&](int at, const float(&v)[G]) {
        GPU_UNROLL for (int e = 0; e < G; e++) if (part.inside(at + e)) square +=
            (v[e] - mean) * (v[e] - mean);
    });
    float inverse = 1.0f / sqrtf(block_sum(square, squares) / (float)a.width + a.eps);
    part.each([&](int at, const float(&v)[G]) {
        float scale[G], shift[G], out[G];
        if (a.scale) load_group<VECTOR>(a.scale, at, a.width, scale);
        if (a.shift) load_group<VECTOR>(a.shift, at, a.width, shift);
        GPU_UNROLL for (int e = 0; e < G; e++)
        {
            out[e] = (v[e] - mean) * inverse;
            if (a.scale) out[e] *= a.base + scale[e];
            if (a.shift) out[e] += shift[e];
        }
        store_group<VECTOR>(y, at, a.width, out);
        GPU_COUNT_FLOPS(9 * G);
    });
}

struct rms_norm_arguments {
    const void *x;
    void *y;
    const float *weight, *cosines, *sines;
    int64_t x_stride, y_stride;
    int width, head_dim;
    float eps;
};

/* (a, b) -> (a c - b s, a s + b c), adjacent pairs of a group that begins at column `at` of the row. */
template <bool VECTOR, int G>
static __device__ __forceinline__ void rotate(const rms_norm_arguments &a, int at, float (&v)[G])
{
    int pairs = a.head_dim / 2;
    const float *cosines = a.cosines + (int64_t)blockIdx.x * pairs,
                *sines = a.sines + (int64_t)blockIdx.x * pairs;
    int first = at % a.head_dim / 2; /* VECTOR: a group lies within one head */
    GPU_UNROLL for (int e = 0; e < G; e += 2)
    {
        int pair = VECTOR ? first + e / 2 : (at + e) % a.head_dim / 2;
        if (VECTOR || at + e < a.width) {
            float c = cosines[pair], s = sines[pair], x = v[e], y = v[e + 1];
            v[e] = x * c - y * s;
            v[e + 1] = x * s + y * c;
            GPU_COUNT_READ(2 * sizeof(float));
            GPU_COUNT_FLOPS(6);
        }
    }
}

template <class T, bool VECTOR, bool KEPT>
__global__ void __launch_bounds__(MOST_THREADS) rms_norm_rows(rms_norm_arguments a)
{
    __shared__ float squares[WARPS];
    constexpr int G = elements<T>::count;
    row_part<T, VECTOR, KEPT> part(static_cast<const T *>(a.x) + blockIdx.x * a.x_stride, a.width);
    T *y = static_cast<T *>(a.y) + blockIdx.x * a.y_stride;

    float square = 0;
    part.each(
        [&](int at, const float(&v)[G]) { GPU_UNROLL for (int e = 0; e < G; e++) square += v[e] * v[e]; });
    float inverse = 1.0f / sqrtf(block_sum(square, squares) / (float)a.width + a.eps);
    part.each([&](int at, const float(&v)[G]) {
        float weight[G], out[G];
        load_group<VECTOR>(a.weight, at, a.width, weight);
        GPU_UNROLL for (int e = 0; e < G; e++) out[e] = v[e] * inverse * weight[e];
        if (a.head_dim) rotate<VECTOR>(a, at, out);
        store_group<VECTOR>(y, at, a.width, out);
        GPU_COUNT_FLOPS(4 * G);
    });
}

/* ------------------------------------------------------------------------------------------------------ launches */

static int threads_for(int width)
{
    int threads = (width + PER_THREAD - 1) / PER_THREAD;
    threads = (threads + 31) / 32 * 32;
    return threads < MOST_THREADS ? threads : MOST_THREADS;
}

template <class T>
static int launch_layer_norm(cudaStream_t stream, int rows, bool vector, layer_norm_arguments a)
{
    int threads = threads_for(a.width);
    bool kept = a.width <= PER_THREAD * MOST_THREADS;
    if (vector && kept)
        GPU_LAUNCH((layer_norm_rows<T, true, true>), rows, threads, 0, stream, a);
    else if (vector)
        GPU_LAUNCH((layer_norm_rows<T, true, false>), rows, threads, 0, stream, a);
    else if (kept)
        GPU_LAUNCH((layer_norm_rows<T, false, true>), rows, threads, 0, stream, a);
    else
        GPU_LAUNCH((layer_norm_rows<T, false, false>), rows, threads, 0, stream, a);
    return (int)cudaGetLastError();
}

extern "C" int cuda_layer_norm(void *stream, const float *x, int64_t x_stride, int rows, int width, float eps,
                               float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                               dtype_t y_dtype)
{
    layer_norm_arguments a = {x, scale, shift, y, x_stride, y_stride, width, eps, base};
    size_t size = dtype_bytes(y_dtype);
    bool vector = width % 4 == 0 && rows_aligned(x, x_stride, 4, 16) &&
                  rows_aligned(y, y_stride, size, 4 * size) && rows_aligned(scale, 0, 4, 16) &&
                  rows_aligned(shift, 0, 4, 16);
    if (rows < 1) return 0;
    return y_dtype == DTYPE_BF16 ? launch_layer_norm<__nv_bfloat16>((cudaStream_t)stream, rows, vector, a)
                                 : launch_layer_norm<float>((cudaStream_t)stream, rows, vector, a);
}

template <class T>
static int launch_rms_norm(cudaStream_t stream, int rows, bool vector, rms_norm_arguments a)
{
    int threads = threads_for(a.width);
    bool kept = a.width <= PER_THREAD * MOST_THREADS;
    if (vector && kept)
        GPU_LAUNCH((rms_norm_rows<T, true, true>), rows, threads, 0, stream, a);
    else if (vector)
        GPU_LAUNCH((rms_norm_rows<T, true, false>), rows, threads, 0, stream, a);
    else if (kept)
        GPU_LAUNCH((rms_norm_rows<T, false, true>), rows, threads, 0, stream, a);
    else
        GPU_LAUNCH((rms_norm_rows<T, false, false>), rows, threads, 0, stream, a);
    return (int)cudaGetLastError();
}

extern "C" int cuda_rms_norm(void *stream, const struct rms_norm *n)
{
    rms_norm_arguments a = {n->x,        n->y,        n->weight, n->cosines,  n->sines,
                            n->x_stride, n->y_stride, n->width,  n->head_dim, n->eps};
    size_t size = dtype_bytes(n->dtype);
    int group = (int)(16 / size);
    bool vector = n->width % group == 0 && n->head_dim % group == 0 &&
                  rows_aligned(n->x, n->x_stride, size, 16) && rows_aligned(n->y, n->y_stride, size, 16) &&
                  rows_aligned(n->weight, 0, 4, 16);
    if (n->rows < 1) return 0;
    return n->dtype == DTYPE_BF16 ? launch_rms_norm<__nv_bfloat16>((cudaStream_t)stream, n->rows, vector, a)
                                  : launch_rms_norm<float>((cudaStream_t)stream, n->rows, vector, a);
}
