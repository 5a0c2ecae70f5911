/*
 * passes.h - the kernels that go over rows and elements once: what a GPU's memory bounds. Free of CUDA's headers, so that
 * the op table stays C.
 *
 *     int problem = cuda_silu(stream, x, count, y);        0, or a cudaError_t: the launch was refused
 *
 * Contracts are those of the ops of the same name (kernels/ops.h); `stream` is a cudaStream_t. Any thread whose current
 * device the stream belongs to; launches return before the work is done. Each picks 16-byte accesses where all of its
 * pointers and strides allow them and single elements otherwise; the bits of a result do not depend on which.
 */
#ifndef REFRAIN_KERNELS_CUDA_PASSES_H
#define REFRAIN_KERNELS_CUDA_PASSES_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- rows.cu -------------------------------------------------------------------------------------------------- */

int cuda_layer_norm(void *stream, const float *x, int64_t x_stride, int rows, int width, float eps,
                    float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                    dtype_t y_dtype);

/* head_dim 0: no rotation, and neither cosines nor sines. */
struct rms_norm {
    const void *x;
    void *y; /* may be x */
    int64_t x_stride, y_stride;
    int rows, width, head_dim;
    float eps;
    const float *weight, *cosines, *sines;
    dtype_t dtype;
};
int cuda_rms_norm(void *stream, const struct rms_norm *norm);

/* --- dense.cu: what a dense layer does beside the matrix product ------------------------------------------------ */

/* to [rows, padded] in bf16: x [rows, width] of `dtype`, then zeros. padded is a multiple of 8, `to` 16-byte aligned. */
int cuda_round_rows(void *stream, const void *x, dtype_t dtype, int64_t x_stride, int64_t rows, int width,
                    int padded, void *to);

/* y = epilogue(sums + bias): sums [rows, n] at distance sums_stride, a multiple of 4, 16-byte aligned. */
int cuda_finish_rows(void *stream, const float *sums, int64_t sums_stride, const float *bias,
                     const struct epilogue *epilogue, int64_t rows, int n, void *y, int64_t y_stride);

/* A whole dense layer of up to GEMV_ROWS rows of float32: weights [n, padded] in bf16, zeros beyond k. */
enum { GEMV_ROWS = 4 };
struct gemv {
    const void *weights;
    const float *bias; /* [n] */
    int n, k, padded;
    const float *x; /* [rows, k] */
    int64_t x_stride;
    int rows;
    struct epilogue epilogue;
    void *y;
    int64_t y_stride;
};
int cuda_gemv(void *stream, const struct gemv *gemv);

/* --- elementwise.cu ------------------------------------------------------------------------------------------- */

int cuda_lincomb(void *stream, int terms, const float *weights, const float *const *x, int64_t count,
                 float *y);
int cuda_lincomb_rows(void *stream, int terms, const float *weights, const unsigned char *group,
                      const float *const *x, int64_t rows, int64_t width, float *y);
int cuda_silu(void *stream, const float *x, int64_t count, float *y);
int cuda_zero(void *stream, void *memory, size_t bytes); /* also of pinned host memory */
int cuda_cut_patches(void *stream, const struct patching *patching, const float *latent, void *rows,
                     dtype_t dtype);
int cuda_join_patches(void *stream, const struct patching *patching, const float *rows, float *latent);

/* --- caching.cu ----------------------------------------------------------------------------------------------- */

int cuda_reduce2(void *stream, const float *a, const float *b, int64_t rows, int64_t width, double *partials);
int cuda_mix(void *stream, const float *matrix, int64_t outer, int n, int64_t inner, const float *x,
             float *y);

#ifdef __cplusplus
}
#endif

#endif
