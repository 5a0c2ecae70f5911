/*
 * sizes.h - bytes that the cuda backend takes for weights and for itself: known to it, and to who plans memory without
 * it (kernels/paper.h). Convolutions: conv.h. Pure functions.
 */
#ifndef REFRAIN_KERNELS_CUDA_SIZES_H
#define REFRAIN_KERNELS_CUDA_SIZES_H

#include "kernels/cuda/conv.h"

enum {
    /* Of a team's workspace the first part is cuBLASLt's, the size its documentation advises for Hopper; the rest holds
     * pieces of a dense layer, unless REFRAIN_GPU_WORKSPACE_MB says else. */
    LANE_CUBLAS_BYTES = 32 << 20,
    LANE_PIECE_MEGABYTES = 128,
    LANE_STAGES = 4,
    LANE_STAGE_BYTES = 2 << 20, /* pinned */
};

enum { LINEAR_GROUP = 8 }; /* elements of bf16 in 16 bytes */

/* A dense layer: weights [padded n, padded k] of bf16, then the biases, in float32 and in bf16. */
struct linear_sizes {
    int padded_n, padded_k;
    size_t weights, bias, bytes; /* of the first two, and of all */
};

static inline size_t cuda_whole(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static inline struct linear_sizes cuda_linear_sizes(int n, int k)
{
    struct linear_sizes s = {.padded_n = (n + LINEAR_GROUP - 1) / LINEAR_GROUP * LINEAR_GROUP,
                             .padded_k = (k + LINEAR_GROUP - 1) / LINEAR_GROUP * LINEAR_GROUP};
    s.weights = cuda_whole((size_t)s.padded_n * (size_t)s.padded_k * 2);
    s.bias = cuda_whole((size_t)s.padded_n * sizeof(float));
    s.bytes = s.weights + s.bias + cuda_whole((size_t)s.padded_n * 2);
    return s;
}

/* Packed weights and bias of a convolution. */
static inline size_t cuda_conv_size(const struct conv_shape *shape)
{
    struct conv_layout layout = conv_layout_of(shape);
    return (size_t)conv_weight_floats(&layout) + (size_t)layout.column_blocks * (size_t)layout.columns;
}

#endif
