/*
 * lane.h - what a lane brings to an operation of its warp: filled in by warp.h and tensor.h (in kernels),
 * resolved by warp.c and tensor.c.
 */
#ifndef REFRAIN_CUSIM_LANE_H
#define REFRAIN_CUSIM_LANE_H

#include "tests/cusim/cusim.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lane { /* shuffles, votes */
    uint64_t value, result;
    int argument, width;
};
extern const struct cusim_warp_op cusim_shfl, cusim_shfl_up, cusim_shfl_down, cusim_shfl_xor;
extern const struct cusim_warp_op cusim_ballot, cusim_match_any, cusim_syncwarp;

struct ldmatrix_lane {
    uint32_t row[4]; /* what this lane's address holds; zeros where its address is not used */
    uint32_t *out;
};
extern const struct cusim_warp_op cusim_ldmatrix_x4, cusim_ldmatrix_x4_trans, cusim_ldmatrix_x2,
    cusim_ldmatrix_x2_trans;

struct mma_lane {
    float *d;
    const uint32_t *a, *b;
    const float *c;
};
extern const struct cusim_warp_op cusim_mma_bf16, cusim_mma_tf32;

#ifdef __cplusplus
}
#endif

#endif
