/*
 * rows.c - what is done to a row at a time: layer norm, RMS norm, rotary embedding, the VAE's channel norm.
 *
 * Order of sums over a row: vectors of 16 are dealt to four running sums while four whole ones are left, the
 * rest go to the first; ((s0 + s1) + (s2 + s3)), then the fixed tree of v16_sum. It depends on the width
 * alone.
 *
 * A task is as many rows as make its hand-out worth while; a row is read from memory once and stays in the
 * first-level cache for its second pass.
 */
#include <math.h>
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"

enum { TASK_FLOATS = 8192, SUMS = 4 };

/* Rows of `width` floats for one task. */
static int rows_per_task(int width)
{
    return width >= TASK_FLOATS ? 1 : TASK_FLOATS / width;
}

/* sum of (x[i] - mean)^power over a row; power 1 or 2, a constant at each call */
INLINE float row_sum(const float *x, int width, const int power, float mean)
{
    v16 sums[SUMS], center = v16_set1(mean);
    for (int j = 0; j < SUMS; j++) sums[j] = v16_zero();
    int i = 0;
    for (; i + SUMS * LANES <= width; i += SUMS * LANES)
        for (int j = 0; j < SUMS; j++) {
            v16 d = v16_sub(v16_load(x + i + j * LANES), center);
            sums[j] = power == 2 ? v16_fma(d, d, sums[j]) : v16_add(sums[j], d);
        }
    for (; i < width; i += LANES) {
        /* lanes beyond the row must add 0, also where the mean is not 0 */
        v16 d = v16_first_n(v16_sub(v16_load_n(x + i, width - i), center), v16_zero(), width - i);
        sums[0] = power == 2 ? v16_fma(d, d, sums[0]) : v16_add(sums[0], d);
    }
    return v16_sum(v16_add(v16_add(sums[0], sums[1]), v16_add(sums[2], sums[3])));
}

/* ----------------------------------------------------------------------------------------------- norms */

struct norm_run {
    const float *x;
    float *y; /* may be x */
    int64_t x_stride, y_stride;
    int rows, width, rows_per_task;
    float eps, base;
    const float *scale, *shift;   /* [width] or NULL */
    int head_dim;                 /* rope only */
    const float *cosines, *sines; /* [rows, head_dim / 2] */
};

typedef void row_fn(const struct norm_run *run, int row);

/* Calls `each` for the rows of a task. */
INLINE void each_row(const struct norm_run *run, int task, row_fn *each)
{
    int begin = task * run->rows_per_task, end = begin + run->rows_per_task;
    for (int row = begin; row < end && row < run->rows; row++) each(run, row);
}

static void run_rows(struct team *team, struct norm_run *run, team_task_fn *task)
{
    run->rows_per_task = rows_per_task(run->width);
    team_run(team, divide_up(run->rows, run->rows_per_task), task, run);
}

INLINE void layer_norm_row(const struct norm_run *run, int row)
{
    const float *x = run->x + row * run->x_stride;
    float *y = run->y + row * run->y_stride;
    float mean = row_sum(x, run->width, 1, 0) / (float)run->width;
    float variance = row_sum(x, run->width, 2, mean) / (float)run->width;
    v16 inverse = v16_set1(1 / sqrtf(variance + run->eps)), center = v16_set1(mean),
        base = v16_set1(run->base);
    for (int i = 0; i < run->width; i += LANES) {
        int lanes = run->width - i;
        v16 value = v16_mul(v16_sub(v16_load_n(x + i, lanes), center), inverse);
        if (run->scale) value = v16_mul(value, v16_add(base, v16_load_n(run->scale + i, lanes)));
        if (run->shift) value = v16_add(value, v16_load_n(run->shift + i, lanes));
        v16_store_n(y + i, value, lanes);
    }
}

static void layer_norm_task(void *arguments, int task, void *scratch)
{
    each_row(arguments, task, layer_norm_row);
}

void FOR_ISA(layer_norm)(struct team *team, const float *x, int64_t x_stride, int rows, int width, float eps,
                         float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                         dtype_t y_dtype)
{
    struct norm_run run = {.x = x,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .rows = rows,
                           .width = width,
                           .eps = eps,
                           .base = base,
                           .scale = scale,
                           .shift = shift};
    run_rows(team, &run, layer_norm_task);
}

/* 1 / sqrt(mean of squares + eps) */
INLINE float rms_inverse(const struct norm_run *run, const float *x)
{
    return 1 / sqrtf(row_sum(x, run->width, 2, 0) / (float)run->width + run->eps);
}

INLINE void rms_norm_row(const struct norm_run *run, int row)
{
    const float *x = run->x + row * run->x_stride;
    float *y = run->y + row * run->y_stride;
    v16 inverse = v16_set1(rms_inverse(run, x));
    for (int i = 0; i < run->width; i += LANES) {
        int lanes = run->width - i;
        v16 value = v16_mul(v16_load_n(x + i, lanes), inverse);
        v16_store_n(y + i, v16_mul(value, v16_load_n(run->scale + i, lanes)), lanes);
    }
}

static void rms_norm_task(void *arguments, int task, void *scratch)
{
    each_row(arguments, task, rms_norm_row);
}

void FOR_ISA(rms_norm)(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                       const float *weight, void *y, int64_t y_stride, dtype_t dtype)
{
    struct norm_run run = {.x = x,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .rows = rows,
                           .width = width,
                           .eps = eps,
                           .scale = weight};
    run_rows(team, &run, rms_norm_task);
}

/* Normalises and rotates in one pass, head by head: pairs never straddle vectors, since heads are even. */
INLINE void rms_norm_rope_row(const struct norm_run *run, int row)
{
    float *x = run->y + row * run->y_stride;
    const float *cosines = run->cosines + (int64_t)row * (run->head_dim / 2);
    const float *sines = run->sines + (int64_t)row * (run->head_dim / 2);
    v16 inverse = v16_set1(rms_inverse(run, x));
    for (int head = 0; head < run->width; head += run->head_dim)
        for (int d = 0; d < run->head_dim; d += LANES) {
            int lanes = run->head_dim - d, at = head + d;
            v16 value = v16_mul(v16_load_n(x + at, lanes), inverse);
            value = v16_mul(value, v16_load_n(run->scale + at, lanes));
            v16 c = v16_load_twice_n(cosines + d / 2, lanes / 2),
                s = v16_load_twice_n(sines + d / 2, lanes / 2);
            /* even lanes a c - b s, odd lanes b c + a s */
            v16_store_n(x + at, v16_fmaddsub(value, c, v16_mul(v16_swap_pairs(value), s)), lanes);
        }
}

static void rms_norm_rope_task(void *arguments, int task, void *scratch)
{
    each_row(arguments, task, rms_norm_rope_row);
}

void FOR_ISA(rms_norm_rope)(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                            float eps, const float *weight, const float *cosines, const float *sines,
                            dtype_t dtype)
{
    struct norm_run run = {.x = x,
                           .y = x,
                           .x_stride = x_stride,
                           .y_stride = x_stride,
                           .rows = rows,
                           .width = heads * head_dim,
                           .eps = eps,
                           .scale = weight,
                           .head_dim = head_dim,
                           .cosines = cosines,
                           .sines = sines};
    run_rows(team, &run, rms_norm_rope_task);
}

/* -------------------------------------------------------------------------------------------- channels */

struct channel_run {
    struct volume x, y;
    const float *gamma; /* [channels] */
    float root;         /* sqrt(channels) */
    bool silu;
    int lines_per_task; /* a line is one row of pixels of one frame */
};

INLINE void normalise_pixel(const struct channel_run *run, const float *x, float *y, const bool silu)
{
    int channels = run->x.channels;
    float norm = sqrtf(row_sum(x, channels, 2, 0));
    v16 factor = v16_set1(run->root / (norm < 1e-12f ? 1e-12f : norm));
    for (int c = 0; c < channels; c += LANES) {
        v16 value = v16_mul(v16_mul(v16_load_n(x + c, channels - c), factor),
                            v16_load_n(run->gamma + c, channels - c));
        v16_store_n(y + c, silu ? v16_silu(value) : value, channels - c);
    }
}

static void channel_norm_task(void *arguments, int task, void *scratch)
{
    const struct channel_run *run = arguments;
    const struct volume *x = &run->x, *y = &run->y;
    int begin = task * run->lines_per_task, end = begin + run->lines_per_task;
    for (int line = begin; line < end && line < x->frames * x->height; line++) {
        int t = line / x->height, row = line % x->height;
        const float *from = x->data + t * x->stride_t + row * x->stride_y;
        float *to = y->data + t * y->stride_t + row * y->stride_y;
        if (run->silu)
            for (int i = 0; i < x->width; i++)
                normalise_pixel(run, from + i * x->stride_x, to + i * y->stride_x, true);
        else
            for (int i = 0; i < x->width; i++)
                normalise_pixel(run, from + i * x->stride_x, to + i * y->stride_x, false);
    }
}

void FOR_ISA(channel_norm)(struct team *team, const struct volume *x, const float *gamma, bool silu,
                           const struct volume *y)
{
    struct channel_run run = {.x = *x,
                              .y = *y,
                              .gamma = gamma,
                              .root = sqrtf((float)x->channels),
                              .silu = silu,
                              .lines_per_task = rows_per_task(x->width * x->channels)};
    team_run(team, divide_up((int64_t)x->frames * x->height, run.lines_per_task), channel_norm_task, &run);
}
