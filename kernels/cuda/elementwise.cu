/*
 * elementwise.cu - weighted sums, SiLU, and latents cut into tokens and joined again: every element on its own, memory
 * read and written once.
 */
#include "kernels/cuda/passes.h"
#include "kernels/cuda/vectors.cuh"

enum { THREADS = 256, G = 4 };

/* ------------------------------------------------------------------------------------------------- weighted sums */

/* In order of terms, each product and each sum rounded (kernels/ops.h): never a fused multiply-add. */
template <bool VECTOR>
static __device__ __forceinline__ void combine(int terms, const float *weights, const float *const *x,
                                               int64_t at, int64_t end, float *y)
{
    float sum[G], v[G];
    load_group<VECTOR>(x[0], at, end, v);
    GPU_UNROLL for (int e = 0; e < G; e++) sum[e] = __fmul_rn(weights[0], v[e]);
    GPU_UNROLL_BY(4)
    for (int j = 1; j < terms; j++) {
        load_group<VECTOR>(x[j], at, end, v);
        GPU_UNROLL for (int e = 0; e < G; e++) sum[e] = __fadd_rn(sum[e], __fmul_rn(weights[j], v[e]));
    }
    store_group<VECTOR>(y, at, end, sum);
    GPU_COUNT_FLOPS(G * (2 * terms - 1));
}

struct lincomb_arguments {
    const float *x[LINCOMB_TERMS];
    float weights[LINCOMB_TERMS];
    float *y; /* may be one of x */
    int64_t count;
    int terms;
};

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS) lincomb_all(const __grid_constant__ lincomb_arguments a)
{
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * G;
    if (at < a.count) combine<VECTOR>(a.terms, a.weights, a.x, at, a.count, a.y);
}

extern "C" int cuda_lincomb(void *stream, int terms, const float *weights, const float *const *x,
                            int64_t count, float *y)
{
    lincomb_arguments a = {};
    bool vector = count % G == 0 && rows_aligned(y, 0, 4, 16);
    for (int j = 0; j < terms; j++) {
        a.x[j] = x[j];
        a.weights[j] = weights[j];
        vector = vector && rows_aligned(x[j], 0, 4, 16);
    }
    a.y = y;
    a.count = count;
    a.terms = terms;
    if (count < 1) return 0;
    unsigned blocks = (unsigned)((count + THREADS * G - 1) / (THREADS * G));
    if (vector)
        GPU_LAUNCH((lincomb_all<true>), blocks, THREADS, 0, (cudaStream_t)stream, a);
    else
        GPU_LAUNCH((lincomb_all<false>), blocks, THREADS, 0, (cudaStream_t)stream, a);
    return (int)cudaGetLastError();
}

struct lincomb_rows_arguments {
    const float *x[LINCOMB_TERMS];
    float weights[LINCOMB_GROUPS * LINCOMB_TERMS]; /* [LINCOMB_GROUPS][terms] */
    float *y;
    const unsigned char *group;
    int64_t width;
    int terms, pieces;
};

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS) lincomb_by_rows(const __grid_constant__ lincomb_rows_arguments a)
{
    int64_t row = blockIdx.x / a.pieces, begin = row * a.width, end = begin + a.width;
    int64_t at = begin + ((int64_t)(blockIdx.x % a.pieces) * blockDim.x + threadIdx.x) * G;
    if (at < end) combine<VECTOR>(a.terms, a.weights + a.group[row] * a.terms, a.x, at, end, a.y);
}

extern "C" int cuda_lincomb_rows(void *stream, int terms, const float *weights, const unsigned char *group,
                                 const float *const *x, int64_t rows, int64_t width, float *y)
{
    lincomb_rows_arguments a = {};
    bool vector = width % G == 0 && rows_aligned(y, 0, 4, 16);
    for (int j = 0; j < terms; j++) {
        a.x[j] = x[j];
        vector = vector && rows_aligned(x[j], 0, 4, 16);
    }
    for (int i = 0; i < LINCOMB_GROUPS * terms; i++) a.weights[i] = weights[i];
    a.y = y;
    a.group = group;
    a.width = width;
    a.terms = terms;
    if (rows < 1) return 0;
    int64_t vectors = (width + G - 1) / G;
    int threads = vectors < THREADS ? (int)(vectors + 31) / 32 * 32 : THREADS;
    a.pieces = (int)((vectors + threads - 1) / threads);
    unsigned blocks = (unsigned)(rows * a.pieces);
    if (vector)
        GPU_LAUNCH((lincomb_by_rows<true>), blocks, threads, 0, (cudaStream_t)stream, a);
    else
        GPU_LAUNCH((lincomb_by_rows<false>), blocks, threads, 0, (cudaStream_t)stream, a);
    return (int)cudaGetLastError();
}

/* ---------------------------------------------------------------------------------------------------------- silu */

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS) silu_all(const float *x, int64_t count, float *y)
{
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * G;
    float v[G];
    if (at >= count) return;
    load_group<VECTOR>(x, at, count, v);
    GPU_UNROLL for (int e = 0; e < G; e++) v[e] = v[e] / (1.0f + expf(-v[e]));
    store_group<VECTOR>(y, at, count, v);
    GPU_COUNT_FLOPS(4 * G);
}

extern "C" int cuda_silu(void *stream, const float *x, int64_t count, float *y)
{
    if (count < 1) return 0;
    unsigned blocks = (unsigned)((count + THREADS * G - 1) / (THREADS * G));
    if (count % G == 0 && rows_aligned(x, 0, 4, 16) && rows_aligned(y, 0, 4, 16))
        GPU_LAUNCH((silu_all<true>), blocks, THREADS, 0, (cudaStream_t)stream, x, count, y);
    else
        GPU_LAUNCH((silu_all<false>), blocks, THREADS, 0, (cudaStream_t)stream, x, count, y);
    return (int)cudaGetLastError();
}

/* ---------------------------------------------------------------------------------------------------------- zero */

__global__ void __launch_bounds__(THREADS) zero_all(unsigned char *memory, size_t bytes)
{
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * sizeof(uint4);
    if (at >= bytes) return;
    if ((uintptr_t)memory % sizeof(uint4) == 0 && bytes - at >= sizeof(uint4))
        *reinterpret_cast<uint4 *>(memory + at) = make_uint4(0, 0, 0, 0);
    else
        for (size_t end = bytes - at < sizeof(uint4) ? bytes : at + sizeof(uint4); at < end; at++)
            memory[at] = 0;
}

extern "C" int cuda_zero(void *stream, void *memory, size_t bytes)
{
    enum { PER_BLOCK = THREADS * sizeof(uint4) };
    if (bytes < 1) return 0;
    GPU_LAUNCH(zero_all, (unsigned)((bytes + PER_BLOCK - 1) / PER_BLOCK), THREADS, 0, (cudaStream_t)stream,
               static_cast<unsigned char *>(memory), bytes);
    return (int)cudaGetLastError();
}

/* ------------------------------------------------------------------------------------------------------- patches */

/* Of a latent element: its place within its patch, and its token. */
struct patch_place {
    int channel, t, y, x;
    int64_t token;
};

static __device__ __forceinline__ patch_place place_in_patch(const struct patching &p, int64_t element)
{
    int x = (int)(element % (p.width * p.patch_x));
    element /= p.width * p.patch_x;
    int y = (int)(element % (p.height * p.patch_y));
    element /= p.height * p.patch_y;
    int t = (int)(element % (p.frames * p.patch_t)), channel = (int)(element / (p.frames * p.patch_t));
    int64_t token = ((int64_t)(t / p.patch_t) * p.height + y / p.patch_y) * p.width + x / p.patch_x;
    return {channel, t % p.patch_t, y % p.patch_y, x % p.patch_x, token};
}

static __host__ __device__ __forceinline__ int64_t latent_count(const struct patching &p)
{
    return (int64_t)p.channels * p.frames * p.patch_t * p.height * p.patch_y * p.width * p.patch_x;
}

/* A thread a latent element, neighbours along x. */
template <class T>
__global__ void __launch_bounds__(THREADS) cut_patches(struct patching p, const float *latent, T *rows)
{
    int64_t element = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (element >= latent_count(p)) return;
    patch_place at = place_in_patch(p, element);
    int64_t column = ((at.channel * p.patch_t + at.t) * p.patch_y + at.y) * p.patch_x + at.x;
    int64_t width = (int64_t)p.channels * p.patch_t * p.patch_y * p.patch_x;
    from_float(latent[element], rows + at.token * width + column);
    GPU_COUNT_READ(sizeof(float));
    GPU_COUNT_WRITE(sizeof(T));
}

__global__ void __launch_bounds__(THREADS) join_patches(struct patching p, const float *rows, float *latent)
{
    int64_t element = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (element >= latent_count(p)) return;
    patch_place at = place_in_patch(p, element);
    int64_t column = ((at.t * p.patch_y + at.y) * p.patch_x + at.x) * p.channels + at.channel;
    int64_t width = (int64_t)p.channels * p.patch_t * p.patch_y * p.patch_x;
    latent[element] = rows[at.token * width + column];
    GPU_COUNT_READ(sizeof(float));
    GPU_COUNT_WRITE(sizeof(float));
}

extern "C" int cuda_cut_patches(void *stream, const struct patching *p, const float *latent, void *rows,
                                dtype_t dtype)
{
    unsigned blocks = (unsigned)((latent_count(*p) + THREADS - 1) / THREADS);
    cudaStream_t on = (cudaStream_t)stream;
    if (dtype == DTYPE_BF16)
        GPU_LAUNCH((cut_patches<__nv_bfloat16>), blocks, THREADS, 0, on, *p, latent,
                   static_cast<__nv_bfloat16 *>(rows));
    else
        GPU_LAUNCH((cut_patches<float>), blocks, THREADS, 0, on, *p, latent, static_cast<float *>(rows));
    return (int)cudaGetLastError();
}

extern "C" int cuda_join_patches(void *stream, const struct patching *p, const float *rows, float *latent)
{
    unsigned blocks = (unsigned)((latent_count(*p) + THREADS - 1) / THREADS);
    GPU_LAUNCH(join_patches, blocks, THREADS, 0, (cudaStream_t)stream, *p, rows, latent);
    return (int)cudaGetLastError();
}
