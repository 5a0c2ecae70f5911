/*
 * weights.c - checks shared by all backends' constructors. Any thread, no state.
 */
#include "kernels/weights.h"
#include <stdlib.h>
#include <sys/mman.h>

static bool dtype_known(dtype_t dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

/* What both kinds of layer ask of their matrices. */
static status_t check(const struct matrix *w, const struct matrix *bias, struct error *error)
{
    if (!w || !w->data || !dtype_known(w->dtype))
        return error_set(error, STATUS_INVALID, "weight: no data, or a type that is not f32, bf16 or f16");
    if (w->rows < 1 || w->columns < 1 || w->rows > WEIGHTS_MAX_DIMENSION ||
        w->columns > WEIGHTS_MAX_DIMENSION)
        return error_set(error, STATUS_INVALID, "weight: [%d, %d] is not within [1..%d, 1..%d]", w->rows,
                         w->columns, WEIGHTS_MAX_DIMENSION, WEIGHTS_MAX_DIMENSION);
    if (!bias) return STATUS_OK;
    if (!bias->data || !dtype_known(bias->dtype))
        return error_set(error, STATUS_INVALID, "bias: no data, or a type that is not f32, bf16 or f16");
    if (bias->rows != w->rows || bias->columns != 1)
        return error_set(error, STATUS_INVALID, "bias: [%d, %d] does not fit a weight of %d rows", bias->rows,
                         bias->columns, w->rows);
    return STATUS_OK;
}

status_t weights_check_linear(const struct matrix *w, const struct matrix *bias, struct error *error)
{
    return check(w, bias, error);
}

status_t weights_check_part(int n, int first, int count, struct error *error)
{
    if (first >= 0 && count >= 1 && first < n && count <= n - first) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "part of a weight: %d rows from %d on, of %d", count, first, n);
}

static bool within(int value, int limit)
{
    return value >= 1 && value <= limit;
}

status_t weights_check_conv(const struct conv_shape *s, const struct matrix *w, const struct matrix *bias,
                            struct error *error)
{
    status_t status = check(w, bias, error);
    if (status) return status;
    if (!within(s->kernel_t, CONV_MAX_KERNEL) || !within(s->kernel_y, CONV_MAX_KERNEL) ||
        !within(s->kernel_x, CONV_MAX_KERNEL))
        return error_set(error, STATUS_UNSUPPORTED, "convolution: kernel %dx%dx%d is not within 1..%d",
                         s->kernel_t, s->kernel_y, s->kernel_x, CONV_MAX_KERNEL);
    if (!within(s->stride_t, CONV_MAX_STRIDE) || !within(s->stride_y, CONV_MAX_STRIDE) ||
        !within(s->stride_x, CONV_MAX_STRIDE))
        return error_set(error, STATUS_UNSUPPORTED, "convolution: stride %dx%dx%d is not within 1..%d",
                         s->stride_t, s->stride_y, s->stride_x, CONV_MAX_STRIDE);
    if (s->upsample2 &&
        (s->stride_t != 1 || s->stride_y != 1 || s->stride_x != 1 || s->kernel_y != 3 || s->kernel_x != 3))
        return error_set(error, STATUS_UNSUPPORTED,
                         "convolution: doubling wants strides of 1 and a 3x3 kernel");
    int64_t taps = (int64_t)s->kernel_t * s->kernel_y * s->kernel_x;
    if (!within(s->in_channels, WEIGHTS_MAX_DIMENSION) || s->out_channels != w->rows ||
        s->in_channels * taps != w->columns)
        return error_set(error, STATUS_INVALID,
                         "convolution: %d -> %d channels with %d taps does not fit a weight [%d, %d]",
                         s->in_channels, s->out_channels, (int)taps, w->rows, w->columns);
    return STATUS_OK;
}

void *weights_alloc(size_t bytes)
{
    enum { LINE = 64, HUGE_PAGE = 2 << 20 };
    /* Weights are walked panel by panel in every step: with 4 KB pages a large model spends its time in page
     * tables. */
    size_t unit = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : LINE;
    if (bytes > SIZE_MAX - unit) return NULL;
    size_t rounded = (bytes + unit - 1) / unit * unit;
    void *memory = aligned_alloc(unit, rounded ? rounded : unit);
    if (!memory) return NULL;
    if (unit == HUGE_PAGE) madvise(memory, rounded, MADV_HUGEPAGE);
    return memset(memory, 0, rounded ? rounded : unit);
}
