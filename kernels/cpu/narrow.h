/*
 * narrow.h - convolutions to a few channels (a decoder's last layer has three): the output pixel as a dot
 * product.
 *
 * The tiles of tile.h put output channels into vectors; with three of them thirteen lanes of sixteen would
 * idle. Here the lanes are input channels instead, and each output is folded at the end.
 *
 * Order of sums of one output: lane l adds channels l, l + 16, ... of every tap, taps in order of t, y, x, as
 * one chain of fused multiply-adds; then the fixed tree of v16_sum. It depends on nothing but the layer.
 */
#ifndef REFRAIN_KERNELS_CPU_NARROW_H
#define REFRAIN_KERNELS_CPU_NARROW_H

#include "kernels/cpu/simd.h"

/* More outputs, or fewer inputs, and the tiles are faster. */
enum { NARROW_OUTPUTS = 4, NARROW_INPUTS = 12 };

struct narrow {
    int outputs, channels; /* 1..NARROW_OUTPUTS; input channels */
    int taps_t, taps_y, taps_x;
    const float *weights;  /* [tap][channels / 16 rounded up][outputs][16], zeros beyond `channels` */
    const float *x;        /* first tap of the first pixel */
    int64_t x_t, x_y, x_x; /* floats between taps */
    int64_t pixel;         /* floats between the first taps of neighbouring pixels */
    int pixels;
    float *sums; /* [pixels] at distance sums_pixel, `outputs` each */
    int64_t sums_pixel;
};

void FOR_ISA(narrow_run)(const struct narrow *narrow);

#endif
