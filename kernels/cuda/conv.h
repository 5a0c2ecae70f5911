/*
 * conv.h - how a convolution's weights lie for its CUDA kernel; known to conv_pack.c, which makes them, and conv.cu.
 *
 * A convolution is a product: rows are output pixels, columns output channels, and the sum runs over steps of 16 input
 * channels of one tap. Packed weights are [part][column block][step][column][16 channels] of tf32, zeros where there is
 * no channel, then bias [column blocks * columns]. Steps: 16 channels after 16 channels, of each all taps in order of
 * t, y, x: neighbouring taps read nearly the same pixels while these are in the cache.
 *
 * Doubling (upsample2): the doubled image repeats every pixel, so a 3x3 kernel meets only 2x2 different pixels; which of
 * its taps fall together depends on the output's row and column being even or odd: four parts with 2x2 kernels of
 * summed weights, 4/9 of the multiplications.
 */
#ifndef REFRAIN_KERNELS_CUDA_CONV_H
#define REFRAIN_KERNELS_CUDA_CONV_H

#include "kernels/ops.h"

enum { CONV_STEP = 16 }; /* input channels: 64 bytes of a pixel */

struct conv_layout {
    int parts, kernel_t, kernel_y, kernel_x; /* 1 part, or 4 with kernels of 2x2 */
    int columns, column_blocks;              /* output channels of a block of threads; blocks of them */
    int steps;
    int64_t block_floats; /* of one column block of one part */
};

/* The width of 16, 64, 96 or 128 columns that computes the fewest zeros; of equals the widest. */
static inline int conv_columns(int out_channels)
{
    if (out_channels <= 16) return 16;
    int best = 128;
    for (int columns = 96; columns >= 64; columns -= 32) {
        int padded = (out_channels + columns - 1) / columns * columns;
        if (padded < (out_channels + best - 1) / best * best) best = columns;
    }
    return best;
}

static inline struct conv_layout conv_layout_of(const struct conv_shape *shape)
{
    struct conv_layout layout;
    layout.parts = shape->upsample2 ? 4 : 1;
    layout.kernel_t = shape->kernel_t;
    layout.kernel_y = shape->upsample2 ? 2 : shape->kernel_y;
    layout.kernel_x = shape->upsample2 ? 2 : shape->kernel_x;
    layout.columns = conv_columns(shape->out_channels);
    layout.column_blocks = (shape->out_channels + layout.columns - 1) / layout.columns;
    layout.steps = (shape->in_channels + CONV_STEP - 1) / CONV_STEP * layout.kernel_t * layout.kernel_y *
                   layout.kernel_x;
    layout.block_floats = (int64_t)layout.steps * layout.columns * CONV_STEP;
    return layout;
}

/* Floats of all weights. */
static inline int64_t conv_weight_floats(const struct conv_layout *layout)
{
    return layout->parts * layout->column_blocks * layout->block_floats;
}

#endif
