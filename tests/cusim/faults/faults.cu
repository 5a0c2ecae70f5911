/* faults.cu - kernels that are wrong, one fault each, and some that are right; run by main.c, judged by
 * tests/test_cuda_faults.c. */
#include "kernels/cuda/gpu.h"
#include "tests/cusim/faults/faults.h"

/* out[i] = what thread i - 1 wrote to shared memory. Without the barrier that is right when threads happen to
 * run in ascending order. */
template <bool BARRIER> __global__ void neighbour(int *out)
{
    __shared__ int value[64];
    int i = threadIdx.x;
    value[i] = i;
    if (BARRIER) __syncthreads();
    out[i] = i ? value[i - 1] : 0;
}

__global__ void global_overrun(int *out, int n)
{
    if ((int)threadIdx.x <= n) out[threadIdx.x] = 1;
}

__global__ void global_misaligned(const int *in, int *out)
{
    uint4 loaded = *reinterpret_cast<const uint4 *>(in + 1);
    out[0] = (int)loaded.x;
}

__global__ void dynamic_overrun(int *out)
{
    GPU_DYN_SMEM(int, value);
    value[threadIdx.x] = out[0];
}

__global__ void static_overrun(int *out, int at)
{
    __shared__ int value[32];
    value[at] = 1;
    out[0] = value[threadIdx.x];
}

__global__ void divergent_shuffle(int *out)
{
    int lane = threadIdx.x, x = lane;
    if (lane < 16) x = __shfl_xor_sync(0xffffffffu, x, 1);
    out[lane] = x;
}

__global__ void shuffle_outside_its_mask(int *out)
{
    out[threadIdx.x] = __shfl_sync(0x0000ffffu, (int)threadIdx.x, 0);
}

__global__ void shuffle_of_the_departed(int *out)
{
    if (threadIdx.x < 8) return;
    out[threadIdx.x] = __shfl_sync(0xffffffffu, (int)threadIdx.x, 0);
}

__global__ void shuffles_that_differ(int *out)
{
    int lane = threadIdx.x, x = lane;
    if (lane % 2)
        x = __shfl_up_sync(0xffffffffu, x, 1);
    else
        x = __shfl_down_sync(0xffffffffu, x, 1);
    out[lane] = x;
}

__global__ void early_return(int *out)
{
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void divergent_barrier(int *out)
{
    if (threadIdx.x < 32) {
        out[threadIdx.x] = 1;
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__global__ void barrier_nobody_completes(int *out)
{
    if (threadIdx.x < 32) gpu_barrier_sync(1, 64);
    out[threadIdx.x] = 1;
}

template <bool WAIT> __global__ void copy_without_wait(const int *in, int *out)
{
    __shared__ __align__(16) int staged[4];
    gpu_cp_async16(staged, in, true);
    gpu_cp_async_commit();
    if (WAIT) gpu_cp_async_wait<1>();
    for (int i = 0; i < 4; i++) out[i] = staged[i];
}

/* Right but for one thing: the second copy may land while others still read the first. */
template <bool BARRIER> __global__ void copy_over_a_buffer_in_use(const int *in, int *out)
{
    __shared__ __align__(16) int staged[256];
    int thread = threadIdx.x;
    for (int round = 0; round < 2; round++) {
        gpu_cp_async16(&staged[thread * 4], in + round * 256 + thread * 4, true);
        gpu_cp_async_commit();
        gpu_cp_async_wait<0>();
        __syncthreads();
        for (int i = 0; i < 4; i++) out[round * 256 + i * 64 + thread] = staged[i * 64 + 63 - thread];
        if (BARRIER) __syncthreads();
    }
}

/* All blocks add to one word without an atomic. */
__global__ void blocks_that_race(int *out)
{
    out[0] += 1;
}

/* Everything at once, rightly: for the race checker, which must have nothing to say. */
__global__ void all_in_order(const int *in, int *out)
{
    __shared__ __align__(16) int staged[64 * 4];
    __shared__ int sums[2];
    int thread = threadIdx.x, lane = thread % 32;
    gpu_cp_async16(&staged[thread * 4], in + thread * 4, true);
    gpu_cp_async_commit();
    gpu_cp_async_wait<0>();
    __syncthreads();
    int x = staged[(63 - thread) * 4];
    for (int by = 16; by; by /= 2) x += __shfl_down_sync(0xffffffffu, x, by);
    if (lane == 0) sums[thread / 32] = x;
    int all = __syncthreads_and(1);
    uint32_t fragment[4];
    gpu_ldmatrix_x4(fragment, &staged[lane * 4]);
    if (thread == 0) atomicAdd(out, sums[0] + sums[1] + all - 1 + (fragment[0] == 0xffffffffu));
    __syncthreads();
    staged[thread] = lane;
    __syncwarp();
    if (staged[thread ^ 1] != (lane ^ 1)) atomicAdd(out, 1000000);
}

extern "C" bool fault_launch(const char *name, cudaStream_t stream, const int *in, int *out, int n)
{
#define FAULT(kernel, grid, block, smem, ...)                                                                \
    if (strcmp(name, #kernel) == 0) {                                                                        \
        GPU_LAUNCH(kernel, grid, block, smem, stream, __VA_ARGS__);                                          \
        return true;                                                                                         \
    }
    FAULT(neighbour<false>, 1, 64, 0, out)
    FAULT(neighbour<true>, 1, 64, 0, out)
    FAULT(global_overrun, 1, n + 1, 0, out, n)
    FAULT(global_misaligned, 1, 1, 0, in, out)
    FAULT(dynamic_overrun, 1, 33, 32 * sizeof(int), out)
    FAULT(static_overrun, 1, 32, 0, out, 32)
    FAULT(divergent_shuffle, 1, 32, 0, out)
    FAULT(shuffle_outside_its_mask, 1, 32, 0, out)
    FAULT(shuffle_of_the_departed, 1, 32, 0, out)
    FAULT(shuffles_that_differ, 1, 32, 0, out)
    FAULT(early_return, 1, 64, 0, out)
    FAULT(divergent_barrier, 1, 64, 0, out)
    FAULT(barrier_nobody_completes, 1, 64, 0, out)
    FAULT(copy_without_wait<false>, 1, 1, 0, in, out)
    FAULT(copy_without_wait<true>, 1, 1, 0, in, out)
    FAULT(copy_over_a_buffer_in_use<false>, 1, 64, 0, in, out)
    FAULT(copy_over_a_buffer_in_use<true>, 1, 64, 0, in, out)
    FAULT(blocks_that_race, 64, 1, 0, out)
    FAULT(all_in_order, 32, 64, 0, in, out)
#undef FAULT
    return false;
}
