/*
 * weights.h - what every backend does with a checkpoint's weights before it lays them out: check, widen,
 * round up.
 *
 *     status = weights_check_linear(w, bias, error);
 *     float value = weights_get(w->data, w->dtype, i);       element i as float32, whatever its type
 *
 * Pure functions; any thread.
 */
#ifndef REFRAIN_KERNELS_WEIGHTS_H
#define REFRAIN_KERNELS_WEIGHTS_H

#include <string.h>
#include "kernels/ops.h"

/* No dimension of a weight may exceed this, so that products of a dimension and a small tile stay in range of
 * int. */
enum { WEIGHTS_MAX_DIMENSION = 1 << 24, CONV_MAX_KERNEL = 7, CONV_MAX_STRIDE = 8 };

/* IEEE half precision to single, exactly; subnormals included. */
static inline float float_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t magnitude = half & 0x7fff;
    float value;
    uint32_t bits;
    if (magnitude >= 0x7c00) {
        bits = 0x7f800000 | (magnitude & 0x3ff) << 13; /* infinity, or a NaN with its payload */
    } else {
        /* Shifted into place the number is 2^112 too small, subnormal or not: one exact multiplication mends
         * both. */
        bits = magnitude << 13;
        memcpy(&value, &bits, 4);
        value *= 0x1p112f;
        memcpy(&bits, &value, 4);
    }
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float float_from_bf16(uint16_t brain)
{
    uint32_t bits = (uint32_t)brain << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Rounded to nearest, ties to even; a NaN stays one. */
static inline uint16_t bf16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Element i of a contiguous, perhaps unaligned tensor. */
static inline float weights_get(const void *data, dtype_t dtype, int64_t i)
{
    const char *at = (const char *)data + i * (int64_t)dtype_bytes(dtype);
    if (dtype == DTYPE_F32) {
        float value;
        memcpy(&value, at, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, at, 2);
    return dtype == DTYPE_BF16 ? float_from_bf16(half) : float_from_f16(half);
}

/* STATUS_INVALID with a sentence where sizes are out of range or do not fit together. bias may be NULL. */
status_t weights_check_linear(const struct matrix *w, const struct matrix *bias, struct error *error);
status_t weights_check_conv(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                            struct error *error);

/* Whether outputs [first, first + count) are some of n. */
status_t weights_check_part(int n, int first, int count, struct error *error);

/* `bytes` of memory aligned to a cache line, filled with zeros, in huge pages where it is large; release with
 * free(). NULL when there is none. */
void *weights_alloc(size_t bytes);

#endif
