/*
 * cpu.h - the functions of the cpu backend, which table.c gathers into an op table. Contracts: kernels/ops.h.
 */
#ifndef REFRAIN_KERNELS_CPU_CPU_H
#define REFRAIN_KERNELS_CPU_CPU_H

#include "kernels/cpu/simd.h"

/* linear.c */
status_t FOR_ISA(linear_create)(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                                struct error *error);
void FOR_ISA(linear_destroy)(struct linear *linear);
size_t FOR_ISA(linear_bytes)(const struct linear *linear);
status_t FOR_ISA(linear_part)(const struct linear *whole, int first, int count, struct linear **part,
                              struct error *error);
void FOR_ISA(linear)(struct team *team, const struct linear *linear, const void *x, int64_t x_stride,
                     int rows, const struct epilogue *epilogue, void *y, int64_t y_stride);

/* rows.c */
void FOR_ISA(layer_norm)(struct team *team, const float *x, int64_t x_stride, int rows, int width, float eps,
                         float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                         dtype_t y_dtype);
void FOR_ISA(rms_norm)(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                       const float *weight, void *y, int64_t y_stride, dtype_t dtype);
void FOR_ISA(rms_norm_rope)(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                            float eps, const float *weight, const float *cosines, const float *sines,
                            dtype_t dtype);
void FOR_ISA(channel_norm)(struct team *team, const struct volume *x, const float *gamma, bool silu,
                           const struct volume *y);

/* attention.c */
void FOR_ISA(attention)(struct team *team, const struct attention *a);

/* conv.c */
status_t FOR_ISA(conv_create)(const struct conv_shape *shape, const struct matrix *w,
                              const struct matrix *bias, struct conv **conv, struct error *error);
void FOR_ISA(conv_destroy)(struct conv *conv);
size_t FOR_ISA(conv_bytes)(const struct conv *conv);
void FOR_ISA(conv)(struct team *team, const struct conv *conv, const struct volume *x,
                   const struct volume *residual, const struct volume *y);

/* elementwise.c */
void FOR_ISA(lincomb)(struct team *team, int terms, const float *weights, const float *const *x,
                      int64_t count, float *y);
void FOR_ISA(lincomb_rows)(struct team *team, int terms, const float *weights, const unsigned char *group,
                           const float *const *x, int64_t rows, int64_t width, float *y);
void FOR_ISA(silu)(struct team *team, const float *x, int64_t count, float *y);

/* caching.c */
void FOR_ISA(reduce2)(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                      double *partials);
void FOR_ISA(mix)(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner, const float *x,
                  float *y);

#endif
