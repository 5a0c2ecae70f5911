/*
 * launch.h - the kernels that compute: attention and convolution. Free of CUDA's headers, so that the op table stays C.
 *
 *     int problem = cuda_attention(stream, &a);        0, or a cudaError_t: the launch was refused
 *
 * Contracts are those of the ops of the same name (kernels/ops.h); pointers are to memory of the device, `stream` is a
 * cudaStream_t. Any thread whose current device the stream belongs to; launches return before the work is done, and may be
 * captured into a graph.
 */
#ifndef REFRAIN_KERNELS_CUDA_LAUNCH_H
#define REFRAIN_KERNELS_CUDA_LAUNCH_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- attention.cu, attention_any.cu ----------------------------------------------------------------------------- */

/* bf16, heads of up to 256 in rows aligned to 16 bytes, no bias: tensor cores. Everything else: cuda_attention_any. */
int cuda_attention(void *stream, const struct attention *a);

/* Any width up to 512, any alignment, bias: float32 arithmetic. */
int cuda_attention_any(void *stream, const struct attention *a);

/* --- conv_pack.c, conv.cu ------------------------------------------------------------------------------------------ */

/* The kernel's own layout of weights and bias (conv.h): how many floats, and the host making them from a checkpoint's
 * arrays, which weights_check_conv has seen. Weights are rounded to tf32. */
size_t cuda_conv_floats(const struct conv_shape *shape);
void cuda_conv_pack(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                    float *packed);

/* packed: of the device, 16-byte aligned. residual may be NULL, or y. A pixel's bits do not depend on its place. */
int cuda_conv(void *stream, const struct conv_shape *shape, const float *packed, const struct volume *x,
              const struct volume *residual, const struct volume *y);

/* --- channel_norm.cu ----------------------------------------------------------------------------------------------- */

int cuda_channel_norm(void *stream, const struct volume *x, const float *gamma, bool silu,
                      const struct volume *y);

#ifdef __cplusplus
}
#endif

#endif
