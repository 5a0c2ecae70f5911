/*
 * conv_pack.c - a checkpoint's convolution weights in the order of conv.h. Pure functions of the host.
 */
#include <math.h>
#include <string.h>
#include "kernels/cuda/conv.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/weights.h"

size_t cuda_conv_floats(const struct conv_shape *shape)
{
    return cuda_conv_size(shape);
}

/* To 10 bits of fraction, ties away from zero, as the kernel rounds pixels. */
static float tf32(double value)
{
    float rounded = (float)value;
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    if (isfinite(rounded)) bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&rounded, &bits, 4);
    return rounded;
}

/* Which of the kernel's taps along an axis are tap `tap` of a part: [*first, *first + *count). With doubling, output 2p
 * sees pixels p-1, p, p of the small image and output 2p+1 sees p, p, p+1. */
static void merged_taps(bool doubled, int parity, int tap, int *first, int *count)
{
    *first = !doubled ? tap : tap == 0 ? 0 : parity == 0 ? 1 : 2;
    *count = doubled && tap != parity ? 2 : 1;
}

/* The weight of one tap of a part; taps that fall together are summed before they are rounded. */
static float part_weight(const struct conv_shape *s, const struct matrix *w, int part, int out, int in, int t,
                         int y, int x)
{
    int first_y, rows, first_x, columns;
    merged_taps(s->upsample2, part / 2, y, &first_y, &rows);
    merged_taps(s->upsample2, part % 2, x, &first_x, &columns);
    double sum = 0;
    for (int b = first_y; b < first_y + rows; b++)
        for (int c = first_x; c < first_x + columns; c++) {
            int64_t at = (((int64_t)out * s->in_channels + in) * s->kernel_t + t) * s->kernel_y + b;
            sum += weights_get(w->data, w->dtype, at * s->kernel_x + c);
        }
    return tf32(sum);
}

void cuda_conv_pack(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                    float *packed)
{
    struct conv_layout layout = conv_layout_of(shape);
    int taps = layout.kernel_t * layout.kernel_y * layout.kernel_x;
    memset(packed, 0, cuda_conv_floats(shape) * sizeof *packed);
    for (int part = 0; part < layout.parts; part++)
        for (int out = 0; out < shape->out_channels; out++) {
            int64_t block = part * layout.column_blocks + out / layout.columns;
            float *to = packed + block * layout.block_floats + out % layout.columns * CONV_STEP;
            for (int in = 0; in < shape->in_channels; in++)
                for (int tap = 0; tap < taps; tap++) {
                    int64_t step = in / CONV_STEP * taps + tap;
                    int x = tap % layout.kernel_x, line = tap / layout.kernel_x;
                    to[step * layout.columns * CONV_STEP + in % CONV_STEP] = part_weight(
                        shape, w, part, out, in, line / layout.kernel_y, line % layout.kernel_y, x);
                }
        }
    float *packed_bias = packed + conv_weight_floats(&layout);
    for (int out = 0; bias && out < shape->out_channels; out++)
        packed_bias[out] = weights_get(bias->data, bias->dtype, out);
}
