/*
 * winograd.h - wide 3x3 convolutions with fewer multiplications; conv.c decides and calls. See winograd.c.
 */
#ifndef REFRAIN_KERNELS_CPU_WINOGRAD_H
#define REFRAIN_KERNELS_CPU_WINOGRAD_H

#include "kernels/cpu/simd.h"

struct winograd;

/* Whether a convolution of this shape is computed here: decided by the shape alone, so that bits never depend
 * on sizes. */
bool FOR_ISA(winograd_suits)(const struct conv_shape *shape);

/* As conv_create, for a shape that suits; bias is added by `winograd`, borrowed: [out rounded up to a panel
 * of 32]. */
status_t FOR_ISA(winograd_create)(const struct conv_shape *shape, const struct matrix *w,
                                  struct winograd **winograd, struct error *error);
void FOR_ISA(winograd_destroy)(struct winograd *winograd); /* NULL is fine */
size_t FOR_ISA(winograd_bytes)(const struct winograd *winograd);

/* As ops->conv; residual may be NULL. */
void FOR_ISA(winograd)(struct team *team, const struct winograd *winograd, const float *bias,
                       const struct volume *x, const struct volume *residual, const struct volume *y);

#endif
