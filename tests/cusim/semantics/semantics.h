/*
 * semantics.h - small kernels, each of which shows one rule of CUDA; launched by tests/test_cusim.c, and,
 * compiled by nvcc, by nvcc_program.cu. Pointers are memory a kernel can reach. Every launch returns
 * cudaGetLastError().
 */
#ifndef REFRAIN_CUSIM_SEMANTICS_H
#define REFRAIN_CUSIM_SEMANTICS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[0] += sum x[0 ... n): shared memory, barriers, shuffles, an atomic per block. */
cudaError_t semantics_sum(cudaStream_t stream, const float *x, float *out, int n, int blocks, int threads);

/* out[thread] = blockIdx, threadIdx and their extents as one number; over a grid and a block of three
 * dimensions. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline uint64_t
    semantics_place(const unsigned block[3], const unsigned thread[3])
{
    uint64_t place = 0;
    for (int i = 0; i < 3; i++) place = place * 100 + block[i];
    for (int i = 0; i < 3; i++) place = place * 100 + thread[i];
    return place;
}
cudaError_t semantics_places(cudaStream_t stream, uint64_t *out, const unsigned grid[3],
                             const unsigned block[3]);

/* One warp. out[operation][lane], from value[lane]; groups of `width` lanes. */
enum shuffle { SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, SHUFFLES };
cudaError_t semantics_shuffles(cudaStream_t stream, const float *value, float *out, int by, int width);

/* One warp: __ballot, __any, __all, __match_any, __reduce_add of value[lane]; out[5][lane]. */
cudaError_t semantics_votes(cudaStream_t stream, const int *value, unsigned *out);

/* One block: __syncthreads_count, _and, _or of value[thread] != 0; out[3][thread]. */
cudaError_t semantics_block_votes(cudaStream_t stream, const int *value, int *out, int threads);

/* 64 threads: 32 write, then arrive; 32 wait at a named barrier, then read: out[i] = 2 x[i], `rounds` times
 * over. */
cudaError_t semantics_handover(cudaStream_t stream, const int *x, int *out, int rounds);

/* One warp, through ldmatrix: d[16, 8] = a[16, 16] b + c. b is [16, 8], or [8, 16] when transposed. bf16
 * in. */
cudaError_t semantics_mma_bf16(cudaStream_t stream, const uint16_t *a, const uint16_t *b, const float *c,
                               float *d, int b_transposed);

/* d[16, 8] = a[16, 8] b[8, 8] + c in tf32. */
cudaError_t semantics_mma_tf32(cudaStream_t stream, const float *a, const float *b, const float *c, float *d);

/* One warp: out[pair of matrices as ldmatrix variants give them]; x4 and x4.trans of 32 rows of 8
 * elements. */
cudaError_t semantics_ldmatrix(cudaStream_t stream, const uint16_t *rows, uint32_t *plain,
                               uint32_t *transposed);

/* 128 threads: y[i] = x[i] for i < valid, 0 beyond, in 16-byte pieces through cp.async, two groups under
 * way. */
cudaError_t semantics_copy(cudaStream_t stream, const float *x, float *y, int n, int valid);

/* `blocks` blocks read shared memory that nobody wrote (static, dynamic), then write it. out[block][2]. */
cudaError_t semantics_unwritten(cudaStream_t stream, uint32_t *out, int blocks);

/* All threads: integer and float sums, maximum, minimum, exchange-and-count in counters[5]. */
cudaError_t semantics_atomics(cudaStream_t stream, int *counters, float *sum, double *precise, int blocks,
                              int threads);

/* out[i] = bf16 of x[i]; back[i] = that as float32. */
cudaError_t semantics_bf16(cudaStream_t stream, const float *x, uint16_t *out, float *back, int n);

/* c[m, n] = a[m, k] b[n, k]^T; m, n multiples of 64, k of 32. bf16 in, float32 out: cp.async, ldmatrix,
 * mma. */
cudaError_t semantics_gemm(cudaStream_t stream, const uint16_t *a, const uint16_t *b, float *c, int m, int n,
                           int k);

/* x[i] = x[i] * by, one thread each. `by` is a template argument as well as a value, for the name's sake. */
cudaError_t semantics_scale(cudaStream_t stream, float *x, int n, float by);

#ifdef __cplusplus
}
#endif

#endif
