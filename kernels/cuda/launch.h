/*
 * launch.h - what starts our CUDA kernels, for C files: pointers are to memory of the device, work is put on the stream
 * and nothing is waited for. What went wrong is told by cudaGetLastError. Contracts: kernels/ops.h.
 *
 *     cuda_attention(&a, stream);
 *
 * All of it may be captured into a graph: launches and nothing else.
 */
#ifndef REFRAIN_KERNELS_CUDA_LAUNCH_H
#define REFRAIN_KERNELS_CUDA_LAUNCH_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *cudaStream_t; /* as in CUDA's own headers, which C files need not have */

/* --- attention ------------------------------------------------------------------------------------------------ */

/* bf16 of up to 256 wide heads without bias, in rows aligned to 16 bytes: tensor cores (attention.cu). Everything else
 * goes to cuda_attention_any. */
void cuda_attention(const struct attention *a, cudaStream_t stream);

/* Any width up to 512, any alignment, bias: float32 arithmetic (attention_any.cu). */
void cuda_attention_any(const struct attention *a, cudaStream_t stream);

/* --- convolution ---------------------------------------------------------------------------------------------- */

/* The kernel's own layout of weights and bias (conv.h): how many floats, and the host making them from a checkpoint's
 * arrays, checked by weights_check_conv. Weights are rounded to tf32. */
size_t cuda_conv_floats(const struct conv_shape *shape);
void cuda_conv_pack(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias, float *packed);

/* residual may be NULL, or y. packed: 256-byte aligned, of the device. */
void cuda_conv(const struct conv_shape *shape, const float *packed, const struct volume *x,
               const struct volume *residual, const struct volume *y, cudaStream_t stream);

void cuda_channel_norm(const struct volume *x, const float *gamma, bool silu, const struct volume *y,
                       cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
