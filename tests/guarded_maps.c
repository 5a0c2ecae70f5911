/* guarded_maps.c - see guarded_ops.c: the ops that know float32 alone. */
#include <stdlib.h>
#include <string.h>

#include "tests/guarded_state.h"

struct guarded_conv {
    struct conv *inner;
    struct conv_shape shape;
};

static size_t volume_bytes(const struct volume *v, int64_t t, int64_t y, int64_t x, int64_t channels)
{
    return (size_t)((t - 1) * v->stride_t + (y - 1) * v->stride_y + (x - 1) * v->stride_x + channels) * 4;
}

/* ------------------------------------------------------------------------------------------- convolution */

static status_t conv_create(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                            struct conv **conv, struct error *error)
{
    struct guarded_conv *made = malloc(sizeof *made);
    made->shape = *shape;
    status_t status = guarded_inner()->conv_create(shape, w, bias, &made->inner, error);
    if (status == STATUS_OK)
        *conv = (struct conv *)(void *)made;
    else
        free(made);
    return status;
}

static void conv_destroy(struct conv *conv)
{
    struct guarded_conv *c = (struct guarded_conv *)(void *)conv;
    if (c) guarded_inner()->conv_destroy(c->inner);
    free(c);
}

static size_t conv_bytes(const struct conv *conv)
{
    return guarded_inner()->conv_bytes(((const struct guarded_conv *)(const void *)conv)->inner);
}

struct conv_call {
    struct command command;
    struct guarded_conv conv;
    struct volume x, residual, y;
    bool has_residual, silu;
    const float *gamma;
};

static void run_conv(struct command *command, struct team *team)
{
    struct conv_call *c = (struct conv_call *)command;
    guarded_inner()->conv(team, c->conv.inner, &c->x, c->has_residual ? &c->residual : NULL, &c->y);
}

static void conv(struct team *team, const struct conv *weights, const struct volume *x,
                 const struct volume *residual, const struct volume *y)
{
    struct lane *lane = guarded_lane(team, "conv");
    struct conv_call *c = guarded_command(sizeof *c, run_conv);
    c->conv = *(const struct guarded_conv *)(const void *)weights;
    const struct conv_shape *s = &c->conv.shape;
    c->x = *x;
    c->y = *y;
    int64_t t = (int64_t)(y->frames - 1) * s->stride_t + s->kernel_t;
    int64_t rows = s->upsample2 ? y->height / 2 + 2 : (int64_t)(y->height - 1) * s->stride_y + s->kernel_y;
    int64_t columns = s->upsample2 ? y->width / 2 + 2 : (int64_t)(y->width - 1) * s->stride_x + s->kernel_x;
    c->x.data = guarded_at(lane, "conv", x->data, volume_bytes(x, t, rows, columns, s->in_channels), READS);
    if (residual) {
        c->has_residual = true;
        c->residual = *residual;
        c->residual.data =
            guarded_at(lane, "conv", residual->data,
                       volume_bytes(residual, y->frames, y->height, y->width, s->out_channels), READS);
    }
    c->y.data = guarded_at(lane, "conv", y->data,
                           volume_bytes(y, y->frames, y->height, y->width, s->out_channels), WRITES);
    guarded_enqueue(lane, c);
}

static void run_channel_norm(struct command *command, struct team *team)
{
    struct conv_call *c = (struct conv_call *)command;
    guarded_inner()->channel_norm(team, &c->x, c->gamma, c->silu, &c->y);
}

static void channel_norm(struct team *team, const struct volume *x, const float *gamma, bool silu,
                         const struct volume *y)
{
    struct lane *lane = guarded_lane(team, "channel_norm");
    struct conv_call *c = guarded_command(sizeof *c, run_channel_norm);
    c->x = *x;
    c->y = *y;
    c->silu = silu;
    c->gamma = guarded_at(lane, "channel_norm", gamma, (size_t)x->channels * 4, READS);
    c->x.data = guarded_at(lane, "channel_norm", x->data,
                           volume_bytes(x, x->frames, x->height, x->width, x->channels), READS);
    c->y.data = guarded_at(lane, "channel_norm", y->data,
                           volume_bytes(y, x->frames, x->height, x->width, x->channels), WRITES);
    guarded_enqueue(lane, c);
}

/* ------------------------------------------------------------------------------------------ element-wise */

struct sum_call {
    struct command command;
    float weights[LINCOMB_GROUPS * LINCOMB_TERMS];
    const float *x[LINCOMB_TERMS];
    const unsigned char *group;
    int terms;
    int64_t rows, width;
    float *y;
};

static void run_lincomb(struct command *command, struct team *team)
{
    struct sum_call *c = (struct sum_call *)command;
    if (c->group)
        guarded_inner()->lincomb_rows(team, c->terms, c->weights, c->group, c->x, c->rows, c->width, c->y);
    else
        guarded_inner()->lincomb(team, c->terms, c->weights, c->x, c->width, c->y);
}

static void call_lincomb(struct team *team, int terms, const float *weights, int groups,
                         const unsigned char *group, const float *const *x, int64_t rows, int64_t width,
                         float *y)
{
    struct lane *lane = guarded_lane(team, "lincomb");
    struct sum_call *c = guarded_command(sizeof *c, run_lincomb);
    size_t bytes = (size_t)(rows * width) * sizeof *y;
    if (terms < 1 || terms > LINCOMB_TERMS) guarded_die("lincomb", "so many terms there cannot be");
    *c = (struct sum_call){.command = c->command, .terms = terms, .rows = rows, .width = width};
    memcpy(c->weights, weights, (size_t)(groups * terms) * sizeof *weights);
    for (int i = 0; i < terms; i++) c->x[i] = guarded_at(lane, "lincomb", x[i], bytes, READS);
    c->group = guarded_at(lane, "lincomb", group, (size_t)rows, READS);
    c->y = guarded_at(lane, "lincomb", y, bytes, WRITES);
    guarded_enqueue(lane, c);
}

static void lincomb(struct team *team, int terms, const float *weights, const float *const *x, int64_t count,
                    float *y)
{
    call_lincomb(team, terms, weights, 1, NULL, x, 1, count, y);
}

static void lincomb_rows(struct team *team, int terms, const float *weights, const unsigned char *group,
                         const float *const *x, int64_t rows, int64_t width, float *y)
{
    call_lincomb(team, terms, weights, LINCOMB_GROUPS, group, x, rows, width, y);
}

struct map_call {
    struct command command;
    const float *a, *b;
    int64_t outer, n, inner;
    void *y;
};

static void run_reduce2(struct command *command, struct team *team)
{
    struct map_call *c = (struct map_call *)command;
    guarded_inner()->reduce2(team, c->a, c->b, c->outer, c->inner, c->y);
}

static void reduce2(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                    double *partials)
{
    struct lane *lane = guarded_lane(team, "reduce2");
    struct map_call *c = guarded_command(sizeof *c, run_reduce2);
    size_t bytes = (size_t)(rows * width) * sizeof *a;
    c->outer = rows;
    c->inner = width;
    c->a = guarded_at(lane, "reduce2", a, bytes, READS);
    c->b = guarded_at(lane, "reduce2", b, bytes, READS);
    c->y = guarded_at(lane, "reduce2", partials, (size_t)rows * REDUCE_SUMS * sizeof *partials, WRITES);
    guarded_enqueue(lane, c);
}

static void run_mix(struct command *command, struct team *team)
{
    struct map_call *c = (struct map_call *)command;
    guarded_inner()->mix(team, c->a, c->outer, (int)c->n, c->inner, c->b, c->y);
}

static void mix(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner, const float *x,
                float *y)
{
    struct lane *lane = guarded_lane(team, "mix");
    struct map_call *c = guarded_command(sizeof *c, run_mix);
    size_t bytes = (size_t)(outer * n * inner) * sizeof *x;
    c->outer = outer;
    c->n = n;
    c->inner = inner;
    c->a = guarded_at(lane, "mix", matrix, (size_t)n * (size_t)n * sizeof *matrix, READS);
    c->b = guarded_at(lane, "mix", x, bytes, READS);
    c->y = guarded_at(lane, "mix", y, bytes, WRITES);
    guarded_enqueue(lane, c);
}

static void run_silu(struct command *command, struct team *team)
{
    struct map_call *c = (struct map_call *)command;
    guarded_inner()->silu(team, c->a, c->inner, c->y);
}

static void silu(struct team *team, const float *x, int64_t count, float *y)
{
    struct lane *lane = guarded_lane(team, "silu");
    struct map_call *c = guarded_command(sizeof *c, run_silu);
    c->inner = count;
    c->a = guarded_at(lane, "silu", x, (size_t)count * sizeof *x, READS);
    c->y = guarded_at(lane, "silu", y, (size_t)count * sizeof *y, WRITES);
    guarded_enqueue(lane, c);
}

void guarded_fill_maps(struct ops *ops)
{
    ops->conv_create = conv_create;
    ops->conv_destroy = conv_destroy;
    ops->conv_bytes = conv_bytes;
    ops->conv = conv;
    ops->channel_norm = channel_norm;
    ops->lincomb = lincomb;
    ops->lincomb_rows = lincomb_rows;
    ops->reduce2 = reduce2;
    ops->mix = mix;
    ops->silu = silu;
}
