/*
 * convolution.h - a convolution's weights on the device, in the layout of the kernel that reads them (launch.h).
 *
 *     convolution_make(&shape, &w, &bias, &conv, &error);
 *     int problem = convolution_run(stream, conv, &x, NULL, &y);
 */
#ifndef REFRAIN_KERNELS_CUDA_CONVOLUTION_H
#define REFRAIN_KERNELS_CUDA_CONVOLUTION_H

#include "kernels/ops.h"

/* Contracts: ops->conv_create and its neighbours. */
status_t convolution_make(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                          struct conv **conv, struct error *error);
void convolution_drop(struct conv *conv); /* NULL is fine */
size_t convolution_size(const struct conv *conv);
int convolution_run(void *stream, const struct conv *conv, const struct volume *x,
                    const struct volume *residual, const struct volume *y);

#endif
