/*
 * vectors.cuh - a few neighbouring elements at once: 16 bytes of memory as floats, and back; guarded element by element
 * where an access of 16 bytes is not allowed. For kernels of passes.h; counts what it moves.
 */
#ifndef REFRAIN_KERNELS_CUDA_VECTORS_CUH
#define REFRAIN_KERNELS_CUDA_VECTORS_CUH

#include "kernels/cuda/gpu.h"

#ifndef __CUDACC__
#define __grid_constant__
#endif

template <class T> struct elements; /* of 16 bytes */

template <> struct elements<float> {
    static constexpr int count = 4;
};
template <> struct elements<__nv_bfloat16> {
    static constexpr int count = 8;
};

static __device__ __forceinline__ float to_float(float x)
{
    return x;
}
static __device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
static __device__ __forceinline__ void from_float(float x, float *to)
{
    *to = x;
}
static __device__ __forceinline__ void from_float(float x, __nv_bfloat16 *to)
{
    *to = __float2bfloat16(x);
}

/* Bits of a pair of bf16, the first in the lower half. */
static __device__ __forceinline__ float low_half(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float high_half(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

static __device__ __forceinline__ void load_whole(const float *x, float (&v)[4])
{
    float4 four = *reinterpret_cast<const float4 *>(x);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}
static __device__ __forceinline__ void load_whole(const float *x, float (&v)[8])
{
    float4 low = *reinterpret_cast<const float4 *>(x), high = *reinterpret_cast<const float4 *>(x + 4);
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
static __device__ __forceinline__ void load_whole(const __nv_bfloat16 *x, float (&v)[8])
{
    uint4 pairs = *reinterpret_cast<const uint4 *>(x);
    v[0] = low_half(pairs.x), v[1] = high_half(pairs.x), v[2] = low_half(pairs.y), v[3] = high_half(pairs.y);
    v[4] = low_half(pairs.z), v[5] = high_half(pairs.z), v[6] = low_half(pairs.w), v[7] = high_half(pairs.w);
}
static __device__ __forceinline__ void store_whole(float *y, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(y) = make_float4(v[0], v[1], v[2], v[3]);
}
static __device__ __forceinline__ void store_whole(__nv_bfloat16 *y, const float (&v)[4])
{
    *reinterpret_cast<uint2 *>(y) = make_uint2(gpu_pack_bf16(v[0], v[1]), gpu_pack_bf16(v[2], v[3]));
}
static __device__ __forceinline__ void store_whole(__nv_bfloat16 *y, const float (&v)[8])
{
    *reinterpret_cast<uint4 *>(y) = make_uint4(gpu_pack_bf16(v[0], v[1]), gpu_pack_bf16(v[2], v[3]),
                                               gpu_pack_bf16(v[4], v[5]), gpu_pack_bf16(v[6], v[7]));
}

/* x[at ..] of a row that ends at `width`; zeros beyond. VECTOR: the whole group is inside and aligned. */
template <bool VECTOR, class T, int G>
static __device__ __forceinline__ void load_group(const T *x, int64_t at, int64_t width, float (&v)[G])
{
    if constexpr (VECTOR) {
        load_whole(x + at, v);
        GPU_COUNT_READ(G * sizeof(T));
    } else {
        GPU_UNROLL for (int e = 0; e < G; e++)
        {
            v[e] = at + e < width ? to_float(x[at + e]) : 0.0f;
            GPU_COUNT_READ(at + e < width ? sizeof(T) : 0);
        }
    }
}

template <bool VECTOR, class T, int G>
static __device__ __forceinline__ void store_group(T *y, int64_t at, int64_t width, const float (&v)[G])
{
    if constexpr (VECTOR) {
        store_whole(y + at, v);
        GPU_COUNT_WRITE(G * sizeof(T));
    } else {
        GPU_UNROLL for (int e = 0; e < G; e++) if (at + e < width)
        {
            from_float(v[e], y + at + e);
            GPU_COUNT_WRITE(sizeof(T));
        }
    }
}

/* Host side: whether rows at `pointer`, `stride` elements of `size` bytes apart, all begin at a multiple of `bytes`. */
static inline bool rows_aligned(const void *pointer, int64_t stride, size_t size, size_t bytes)
{
    return (uintptr_t)pointer % bytes == 0 && (uint64_t)stride * size % bytes == 0;
}

#endif
