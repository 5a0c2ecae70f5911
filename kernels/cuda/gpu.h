/*
 * gpu.h - the one header a .cu file of ours includes.
 *
 *     __global__ void scale(float *x, int n, float by)
 *     {
 *         int i = blockIdx.x * blockDim.x + threadIdx.x;
 *         if (i < n) x[i] *= by;
 *         GPU_COUNT_FLOPS(i < n);
 *     }
 *     GPU_LAUNCH(scale, blocks, 256, 0, stream, x, n, 0.5f);
 *
 * Under nvcc it is CUDA and thin wrappers of PTX. Under g++ or clang++ with REFRAIN_CUSIM defined the same
 * source runs on the CPU, one fiber per CUDA thread (tests/cusim), and no CUDA header is needed.
 *
 * What a kernel must keep to so that both work (docs/gpu.md, "Running without a GPU"):
 * - kernels have external linkage; GPU_LAUNCH names the kernel itself, a template in parentheses:
 *   GPU_LAUNCH((attention<64, true>), ...);
 * - arguments are plain values, never a local array; no cudaMemcpyToSymbol;
 * - shared memory is declared as  __shared__ float a[32];  __shared__ __align__(16) T b[64];  or
 * GPU_DYN_SMEM;
 * - no spinning on another thread or block; grid-wide order comes from launches;
 * - no wgmma, TMA, clusters: mma.sync and cp.async run from sm_80 to sm_120.
 */
#ifndef REFRAIN_KERNELS_CUDA_GPU_H
#define REFRAIN_KERNELS_CUDA_GPU_H

#include <stdint.h>

/* Before a loop: nvcc writes it out, wholly or n times. */
#ifdef __CUDACC__
#define GPU_PRAGMA(text)  _Pragma(#text)
#define GPU_UNROLL        GPU_PRAGMA(unroll)
#define GPU_UNROLL_BY(n)  GPU_PRAGMA(unroll n)
#else
#define GPU_UNROLL
#define GPU_UNROLL_BY(n)
#endif

#ifdef REFRAIN_CUSIM
#include "tests/cusim/device.h"
#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* Starts a kernel; what went wrong is told by cudaGetLastError, as after <<<>>>. */
#define GPU_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                             \
    kernel<<<(grid), (block), (smem_bytes), (stream)>>>(__VA_ARGS__)

/* `type *name`: the dynamic shared memory of the launch, 16-byte aligned. Twice in a kernel: the same
 * memory. */
#define GPU_DYN_SMEM(type, name)                                                                             \
    extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[];                                      \
    type *name = reinterpret_cast<type *>(gpu_dynamic_shared)

/* What this thread moves to and from global memory and computes, in bytes and operations, for the costs on
 * paper (docs/gpu.md). Counted in emulation only. */
#define GPU_COUNT_READ(bytes)  ((void)0)
#define GPU_COUNT_WRITE(bytes) ((void)0)
#define GPU_COUNT_FLOPS(n)     ((void)0)

static __device__ __forceinline__ uint32_t gpu_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* --- asynchronous copies: 16 bytes, global to shared, both aligned to 16; zeros when not valid ---------- */

static __device__ __forceinline__ void gpu_cp_async16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(gpu_shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

/* The copies of this thread since the last commit become a group. */
static __device__ __forceinline__ void gpu_cp_async_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Until at most N groups of this thread are under way. Other threads' copies need a barrier after it. */
template <int N> static __device__ __forceinline__ void gpu_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* --- tensor cores: the whole warp calls ----------------------------------------------------------------- */

/* Loads four (two) 8x8 matrices of 16-bit elements; lane 8 i + r gives the address of row r of matrix i,
 * 16-byte aligned; lane l gets row l / 4, elements 2 (l % 4) and the next, of matrix i in out[i]. x2 uses
 * lanes 0 to 15. */
#define GPU_LDMATRIX_X4(name, suffix)                                                                        \
    static __device__ __forceinline__ void name(uint32_t out[4], const void *row)                            \
    {                                                                                                        \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" suffix ".shared.b16 {%0,%1,%2,%3}, [%4];\n"             \
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])                                \
                     : "r"(gpu_shared_address(row))                                                          \
                     : "memory");                                                                            \
    }
#define GPU_LDMATRIX_X2(name, suffix)                                                                        \
    static __device__ __forceinline__ void name(uint32_t out[2], const void *row)                            \
    {                                                                                                        \
        asm volatile("ldmatrix.sync.aligned.m8n8.x2" suffix ".shared.b16 {%0,%1}, [%2];\n"                   \
                     : "=r"(out[0]), "=r"(out[1])                                                            \
                     : "r"(gpu_shared_address(row))                                                          \
                     : "memory");                                                                            \
    }
GPU_LDMATRIX_X4(gpu_ldmatrix_x4, "")
GPU_LDMATRIX_X4(gpu_ldmatrix_x4_trans, ".trans")
GPU_LDMATRIX_X2(gpu_ldmatrix_x2, "")
GPU_LDMATRIX_X2(gpu_ldmatrix_x2_trans, ".trans")
#undef GPU_LDMATRIX_X4
#undef GPU_LDMATRIX_X2

/* d = a b + c, a [16, 16] row-major, b [16, 8] column-major, in the fragments of the PTX manual; d may be
 * c. */
static __device__ __forceinline__ void gpu_mma_bf16_m16n8k16(float d[4], const uint32_t a[4],
                                                             const uint32_t b[2], const float c[4])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};\n"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                   "f"(c[2]), "f"(c[3]));
}

/* The same with a [16, 8] and b [8, 8] of tf32, as gpu_tf32 makes them. */
static __device__ __forceinline__ void gpu_mma_tf32_m16n8k8(float d[4], const uint32_t a[4],
                                                            const uint32_t b[2], const float c[4])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};\n"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                   "f"(c[2]), "f"(c[3]));
}

/* x rounded to tf32: 10 bits of fraction, ties away from zero. */
static __device__ __forceinline__ uint32_t gpu_tf32(float x)
{
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return bits;
}

/* --- the rest that CUDA has no plain name for ----------------------------------------------------------- */

/* Barrier `id` (1 to 15) of `threads` threads, whole warps: waits, or only says that this thread has come. */
static __device__ __forceinline__ void gpu_barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void gpu_barrier_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/* 2^x of the special function unit, within 2 ulp. */
static __device__ __forceinline__ float gpu_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* Two floats as bf16, round to nearest even, `low` in the lower half: an element pair of a fragment. */
static __device__ __forceinline__ uint32_t gpu_pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

#endif
#endif
