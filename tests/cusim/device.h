/*
 * device.h - the CUDA C++ that a kernel sees when it is compiled for the CPU; included by kernels/cuda/gpu.h
 * only.
 *
 * Words of the language here, the rest by noun: bf16.h, intrinsics.h (mathematics, atomics), warp.h
 * (shuffles, votes), tensor.h (ldmatrix, mma, asynchronous copies), launch.h.
 */
#ifndef REFRAIN_CUSIM_DEVICE_H
#define REFRAIN_CUSIM_DEVICE_H

#include "tests/fakegpu/include/cuda_runtime.h"
#include "tests/cusim/cusim.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __shared__      static thread_local /* one block at a time on an OS thread */
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#ifndef __restrict__
#define __restrict__ __restrict
#endif

#define threadIdx (cusim_self->index)
#define blockIdx  (cusim_self->block->index)
#define blockDim  (cusim_self->block->dim)
#define gridDim   (cusim_self->block->grid)
#define warpSize  32

#define GPU_DYN_SMEM(type, name) type *name = reinterpret_cast<type *>(cusim_self->block->dynamic_shared)

#define GPU_COUNT_READ(bytes)  cusim_count((uint64_t)(bytes), 0, 0)
#define GPU_COUNT_WRITE(bytes) cusim_count(0, (uint64_t)(bytes), 0)
#define GPU_COUNT_FLOPS(n)     cusim_count(0, 0, (uint64_t)(n))

/* Two last parameters that a caller leaves out: where it is. (Inside one argument, compilers disagree whose
 * line.) */
#define CUSIM_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUSIM_SITE   (cusim_site{file, line})

static inline void __syncthreads(CUSIM_CALLER)
{
    cusim_barrier(0, 0, true, CUSIM_SITE);
}
static inline int __syncthreads_count(int predicate, CUSIM_CALLER)
{
    return cusim_barrier_vote(CUSIM_COUNT, predicate, CUSIM_SITE);
}
static inline int __syncthreads_and(int predicate, CUSIM_CALLER)
{
    return cusim_barrier_vote(CUSIM_AND, predicate, CUSIM_SITE);
}
static inline int __syncthreads_or(int predicate, CUSIM_CALLER)
{
    return cusim_barrier_vote(CUSIM_OR, predicate, CUSIM_SITE);
}
static inline void gpu_barrier_sync(int id, int threads, CUSIM_CALLER)
{
    cusim_barrier(id, threads, true, CUSIM_SITE);
}
static inline void gpu_barrier_arrive(int id, int threads, CUSIM_CALLER)
{
    cusim_barrier(id, threads, false, CUSIM_SITE);
}

#define FAKEGPU_MAKE(type, name)                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                                     \
    {                                                                                                        \
        return name##2 {x, y};                                                                               \
    }                                                                                                        \
    static inline name##3 make_##name##3(type x, type y, type z)                                             \
    {                                                                                                        \
        return name##3 {x, y, z};                                                                            \
    }                                                                                                        \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                                     \
    {                                                                                                        \
        return name##4 {x, y, z, w};                                                                         \
    }
FAKEGPU_MAKE(int, int)
FAKEGPU_MAKE(unsigned int, uint)
FAKEGPU_MAKE(float, float)
FAKEGPU_MAKE(unsigned char, uchar)
FAKEGPU_MAKE(unsigned short, ushort)
#undef FAKEGPU_MAKE

#include "tests/cusim/bf16.h"
#include "tests/cusim/intrinsics.h"
#include "tests/cusim/warp.h"
#include "tests/cusim/tensor.h"
#include "tests/cusim/launch.h"

#endif
