/*
 * plans.h - which algorithm of cuBLASLt computes which shape: asked once, then kept. Used by linear.c alone; a lane's, so
 * one thread at a time. What callers see of it is in linear.h.
 */
#ifndef REFRAIN_KERNELS_CUDA_PLANS_H
#define REFRAIN_KERNELS_CUDA_PLANS_H

#include <cublasLt.h>
#include "kernels/ops.h"

struct linear_plans;

enum { PLAN_ALIGNMENT = 16 }; /* bytes, of every pointer and row */

/* Everything an algorithm depends on. Compared byte by byte: no padding between the members. */
struct plan_shape {
    int64_t x_stride, other_stride, y_stride; /* elements */
    int rows, n, k;
    int32_t y_dtype;
    uint8_t bias, gelu, add, unused[5];
};

enum { PLAN_W, PLAN_X, PLAN_OTHER, PLAN_Y, PLAN_LAYOUTS };

struct plan {
    struct plan_shape shape;
    bool found; /* false: cuBLASLt has no algorithm for it */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t layout[PLAN_LAYOUTS];
    cublasLtMatmulAlgo_t algorithm;
};

cublasLtHandle_t plans_handle(const struct linear_plans *plans);

/* NULL after a failure, which the device then knows. */
struct plan *plans_find(struct linear_plans *plans, const struct plan_shape *shape, size_t workspace_bytes);

#endif
