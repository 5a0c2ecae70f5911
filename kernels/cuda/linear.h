/*
 * linear.h - dense layers: weights in bf16 on the device, products by cuBLASLt, with its epilogues where it has them.
 *
 *     linear_make(&w, &bias, &linear, &error);
 *     linear_run(lane, linear, x, k, rows, &(struct epilogue){.kind = EPILOGUE_GELU, ...}, y, n);
 *
 * cuBLASLt is asked once for each shape which of its algorithms is best; the answer is kept in the lane, so that equal
 * shapes give equal bits. Algorithms that split the sum over k are not admitted. It sees multiples of 8 only, in rows of
 * 16 bytes, on the device: weights are padded with zeros, and inputs and outputs that do not fit go through the workspace, as do inputs
 * of float32 (rounded) and epilogues that it does not have (finished by a pass of ours), a piece of rows at a time. So do
 * parts of a layer that do not begin and end at multiples of 8: the groups of 8 around them are computed.
 *
 * Up to GEMV_ROWS rows of float32 are a kernel of ours that does not round them: the embedding of a time.
 */
#ifndef REFRAIN_KERNELS_CUDA_LINEAR_H
#define REFRAIN_KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/lane.h"

status_t linear_make(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                     struct error *error);
void linear_drop(struct linear *linear); /* NULL is fine */
size_t linear_size(const struct linear *linear);
/* Contract: ops->linear_part. */
status_t linear_cut(const struct linear *whole, int first, int count, struct linear **part,
                    struct error *error);

/* Contract: ops->linear. */
void linear_run(struct lane *lane, const struct linear *linear, const void *x, int64_t x_stride, int rows,
                const struct epilogue *epilogue, void *y, int64_t y_stride);

/* --- algorithms by shape -------------------------------------------------------------------------------------- */

status_t linear_plans_create(struct linear_plans **plans, struct error *error);
void linear_plans_destroy(struct linear_plans *plans); /* NULL is fine */

struct linear_choices {
    int shapes, asked;    /* kept; questions to cuBLASLt so far */
    uint64_t fingerprint; /* of shapes and algorithms; the order in which they came does not matter */
};
struct linear_choices linear_plans_choices(const struct linear_plans *plans);

#endif
