/*
 * ref.c - the scalar backend: it defines what is right. Every op is its formula, summed in double, one row
 * per task.
 *
 * Slow on purpose and free of tricks; other backends are compared with it. Threads: whoever the team sends.
 */
#include <math.h>
#include <stdlib.h>
#include "kernels/backends.h"
#include "kernels/local.h"
#include "kernels/weights.h"

/* ---------------------------------------------------------------------------------------- dense layers */

struct linear {
    int n, k;
    dtype_t dtype;
    void *weights; /* [n, k] of dtype */
    float *bias;   /* [n], zeros where there was none */
    bool part;     /* both are the whole's */
};

static void ref_linear_destroy(struct linear *linear)
{
    if (!linear) return;
    if (!linear->part) {
        free(linear->weights);
        free(linear->bias);
    }
    free(linear);
}

static size_t ref_linear_bytes(const struct linear *linear)
{
    if (linear->part) return 0;
    return (size_t)linear->n * (size_t)linear->k * dtype_bytes(linear->dtype) +
           (size_t)linear->n * sizeof(float);
}

/* bias [n] as float32, zeros for NULL. */
static float *bias_copy(const struct matrix *bias, int n)
{
    float *copy = weights_alloc((size_t)n * sizeof *copy);
    for (int i = 0; copy && bias && i < n; i++) copy[i] = weights_get(bias->data, bias->dtype, i);
    return copy;
}

static status_t ref_linear_create(const struct matrix *w, const struct matrix *bias, struct linear **result,
                                  struct error *error)
{
    status_t status = weights_check_linear(w, bias, error);
    if (status) return status;

    size_t bytes = (size_t)w->rows * (size_t)w->columns * dtype_bytes(w->dtype);
    struct linear *linear = malloc(sizeof *linear);
    if (!linear) goto no_memory;
    *linear = (struct linear){.n = w->rows, .k = w->columns, .dtype = w->dtype};
    linear->weights = weights_alloc(bytes);
    linear->bias = bias_copy(bias, w->rows);
    if (!linear->weights || !linear->bias) goto no_memory;
    memcpy(linear->weights, w->data, bytes);
    *result = linear;
    return STATUS_OK;

no_memory:
    ref_linear_destroy(linear);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a [%d, %d] weight", w->rows, w->columns);
}

static status_t ref_linear_part(const struct linear *whole, int first, int count, struct linear **part,
                                struct error *error)
{
    status_t status = weights_check_part(whole->n, first, count, error);
    if (status) return status;
    struct linear *made = malloc(sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a part of a weight");
    *made = *whole;
    made->n = count;
    made->weights = (char *)whole->weights + (size_t)first * (size_t)whole->k * dtype_bytes(whole->dtype);
    made->bias = whole->bias + first;
    made->part = true;
    *part = made;
    return STATUS_OK;
}

static double sigmoid(double a)
{
    return 1 / (1 + exp(-a));
}

/* The tanh approximation of GELU, as torch's gelu(approximate="tanh"). */
static double gelu_tanh(double a)
{
    return 0.5 * a * (1 + tanh(sqrt(2 / M_PI) * (a + 0.044715 * a * a * a)));
}

static double finish(const struct epilogue *e, double a, int64_t row, int n)
{
    double other = e->other ? e->other[row * e->other_stride + n] : 0;
    switch (e->kind) {
    case EPILOGUE_NONE:
        break;
    case EPILOGUE_GELU:
        return gelu_tanh(a);
    case EPILOGUE_SILU:
        return a * sigmoid(a);
    case EPILOGUE_MULTIPLY:
        return a * other;
    case EPILOGUE_ADD:
        return other + a;
    case EPILOGUE_GATE_ADD:
        return other + a * e->gate[n];
    }
    return a;
}

struct linear_run {
    const struct linear *linear;
    const float *x;
    float *y;
    int64_t x_stride, y_stride;
    struct epilogue epilogue;
};

static void linear_row(void *arguments, int row, void *scratch)
{
    const struct linear_run *run = arguments;
    const struct linear *linear = run->linear;
    const float *x = run->x + row * run->x_stride;
    for (int n = 0; n < linear->n; n++) {
        double a = linear->bias[n];
        int64_t at = (int64_t)n * linear->k;
        for (int k = 0; k < linear->k; k++)
            a += (double)x[k] * weights_get(linear->weights, linear->dtype, at + k);
        run->y[row * run->y_stride + n] = (float)finish(&run->epilogue, a, row, n);
    }
}

static void ref_linear(struct team *team, const struct linear *linear, const void *x, int64_t x_stride,
                       int rows, const struct epilogue *epilogue, void *y, int64_t y_stride)
{
    struct linear_run run = {linear, x, y, x_stride, y_stride, *epilogue};
    team_run(team, rows, linear_row, &run);
}

/* ------------------------------------------------------------------------------------------------ rows */

struct norm_run {
    const float *x;
    float *y;
    int64_t x_stride, y_stride;
    int width;
    float eps, base;
    const float *scale, *shift;   /* [width]; of rms_norm only the first */
    int head_dim;                 /* rope only */
    const float *cosines, *sines; /* [rows, head_dim / 2] */
};

static void layer_norm_row(void *arguments, int row, void *scratch)
{
    const struct norm_run *run = arguments;
    const float *x = run->x + row * run->x_stride;
    float *y = run->y + row * run->y_stride;
    double mean = 0, variance = 0;
    for (int i = 0; i < run->width; i++) mean += x[i];
    mean /= run->width;
    for (int i = 0; i < run->width; i++) variance += (x[i] - mean) * (x[i] - mean);
    double inverse = 1 / sqrt(variance / run->width + run->eps);
    for (int i = 0; i < run->width; i++) {
        double value = (x[i] - mean) * inverse;
        if (run->scale) value = value * ((double)run->base + run->scale[i]);
        if (run->shift) value = value + run->shift[i];
        y[i] = (float)value;
    }
}

static void ref_layer_norm(struct team *team, const float *x, int64_t x_stride, int rows, int width,
                           float eps, float base, const float *scale, const float *shift, void *y,
                           int64_t y_stride, dtype_t y_dtype)
{
    struct norm_run run = {.x = x,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .width = width,
                           .eps = eps,
                           .base = base,
                           .scale = scale,
                           .shift = shift};
    team_run(team, rows, layer_norm_row, &run);
}

static void rms_norm_row(void *arguments, int row, void *scratch)
{
    const struct norm_run *run = arguments;
    const float *x = run->x + row * run->x_stride;
    float *y = run->y + row * run->y_stride;
    double squares = 0;
    for (int i = 0; i < run->width; i++) squares += (double)x[i] * x[i];
    double inverse = 1 / sqrt(squares / run->width + run->eps);
    for (int i = 0; i < run->width; i++) y[i] = (float)(x[i] * inverse * run->scale[i]);
}

static void ref_rms_norm(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                         const float *weight, void *y, int64_t y_stride, dtype_t dtype)
{
    struct norm_run run = {.x = x,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .width = width,
                           .eps = eps,
                           .scale = weight};
    team_run(team, rows, rms_norm_row, &run);
}

static void rms_norm_rope_row(void *arguments, int row, void *scratch)
{
    const struct norm_run *run = arguments;
    rms_norm_row(arguments, row, scratch);
    float *y = run->y + row * run->y_stride;
    int pairs = run->head_dim / 2;
    for (int i = 0; i < run->width; i += 2) {
        int64_t at = (int64_t)row * pairs + i % run->head_dim / 2;
        double a = y[i], b = y[i + 1], c = run->cosines[at], s = run->sines[at];
        y[i] = (float)(a * c - b * s);
        y[i + 1] = (float)(a * s + b * c);
    }
}

static void ref_rms_norm_rope(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                              float eps, const float *weight, const float *cosines, const float *sines,
                              dtype_t dtype)
{
    struct norm_run run = {.x = x,
                           .y = x,
                           .x_stride = x_stride,
                           .y_stride = x_stride,
                           .width = heads * head_dim,
                           .eps = eps,
                           .scale = weight,
                           .head_dim = head_dim,
                           .cosines = cosines,
                           .sines = sines};
    team_run(team, rows, rms_norm_rope_row, &run);
}

/* ------------------------------------------------------------------------------------------- attention */

static double attention_logit(const struct attention *a, int head, int row, int kv)
{
    const float *q = (const float *)a->q + row * a->q_stride + (int64_t)head * a->head_dim;
    const float *k = (const float *)a->k + kv * a->k_stride + (int64_t)head * a->head_dim;
    double dot = 0;
    for (int d = 0; d < a->head_dim; d++) dot += (double)q[d] * k[d];
    dot *= a->scale;
    if (a->bias) dot += a->bias[(int64_t)head * (a->q_rows + a->kv_rows - 1) + kv - row + a->q_rows - 1];
    return kv == a->kv_rows - 1 ? dot + a->last_logit : dot;
}

/* One (head, q row): the largest logit first, then the weighted sum; logits are computed twice rather than
 * stored. */
static void attention_row(void *arguments, int task, void *scratch)
{
    const struct attention *a = arguments;
    int head = task % a->heads, row = task / a->heads;
    double largest = -INFINITY, total = 0;
    double *sum = scratch; /* [head_dim] */
    for (int kv = 0; kv < a->kv_rows; kv++) largest = fmax(largest, attention_logit(a, head, row, kv));
    for (int d = 0; d < a->head_dim; d++) sum[d] = 0;
    for (int kv = 0; kv < a->kv_rows; kv++) {
        const float *v = (const float *)a->v + kv * a->v_stride + (int64_t)head * a->head_dim;
        double p = exp(attention_logit(a, head, row, kv) - largest);
        total += p;
        for (int d = 0; d < a->head_dim; d++) sum[d] += p * v[d];
    }
    float *out = (float *)a->out + row * a->out_stride + (int64_t)head * a->head_dim;
    for (int d = 0; d < a->head_dim; d++) out[d] = (float)(sum[d] / total);
}

static void ref_attention(struct team *team, const struct attention *a)
{
    struct attention copy = *a;
    team_run(team, a->q_rows * a->heads, attention_row, &copy);
}

/* ----------------------------------------------------------------------------------------- convolution */

struct conv {
    struct conv_shape shape;
    float *weights; /* [out, in, kt, ky, kx] */
    float *bias;    /* [out] */
};

static void ref_conv_destroy(struct conv *conv)
{
    if (!conv) return;
    free(conv->weights);
    free(conv->bias);
    free(conv);
}

static size_t conv_elements(const struct conv_shape *s)
{
    return (size_t)s->out_channels * (size_t)s->in_channels *
           (size_t)(s->kernel_t * s->kernel_y * s->kernel_x);
}

static size_t ref_conv_bytes(const struct conv *conv)
{
    return (conv_elements(&conv->shape) + (size_t)conv->shape.out_channels) * sizeof(float);
}

static status_t ref_conv_create(const struct conv_shape *shape, const struct matrix *w,
                                const struct matrix *bias, struct conv **result, struct error *error)
{
    status_t status = weights_check_conv(shape, w, bias, error);
    if (status) return status;

    size_t count = conv_elements(shape);
    struct conv *conv = malloc(sizeof *conv);
    if (!conv) goto no_memory;
    *conv = (struct conv){.shape = *shape,
                          .weights = weights_alloc(count * sizeof(float)),
                          .bias = bias_copy(bias, shape->out_channels)};
    if (!conv->weights || !conv->bias) goto no_memory;
    for (size_t i = 0; i < count; i++) conv->weights[i] = weights_get(w->data, w->dtype, (int64_t)i);
    *result = conv;
    return STATUS_OK;

no_memory:
    ref_conv_destroy(conv);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a convolution of %d -> %d channels",
                     shape->in_channels, shape->out_channels);
}

struct conv_run {
    const struct conv *conv;
    struct volume x, y, residual;
};

/* One output element before bias and residual. */
static double conv_element(const struct conv *conv, const struct volume *x, int t, int row, int column,
                           int out)
{
    const struct conv_shape *s = &conv->shape;
    double sum = 0;
    for (int i = 0; i < s->in_channels; i++)
        for (int a = 0; a < s->kernel_t; a++)
            for (int b = 0; b < s->kernel_y; b++)
                for (int c = 0; c < s->kernel_x; c++) {
                    int in_y = row * s->stride_y + b, in_x = column * s->stride_x + c;
                    if (s->upsample2) {
                        /* Pixel p of the doubled image is pixel p / 2 of the small one; its border of zeros,
                         * p = -1 and p = 2h, falls on the small image's. x->data is pixel -1. */
                        in_y = (in_y + 1) / 2;
                        in_x = (in_x + 1) / 2;
                    }
                    int64_t w = (((int64_t)out * s->in_channels + i) * s->kernel_t + a) * s->kernel_y + b;
                    sum += (double)conv->weights[w * s->kernel_x + c] *
                           x->data[(t * s->stride_t + a) * x->stride_t + in_y * x->stride_y +
                                   in_x * x->stride_x + i];
                }
    return sum;
}

static void conv_row(void *arguments, int task, void *scratch)
{
    const struct conv_run *run = arguments;
    const struct volume *y = &run->y, *r = &run->residual;
    int t = task / y->height, row = task % y->height;
    for (int column = 0; column < y->width; column++)
        for (int out = 0; out < run->conv->shape.out_channels; out++) {
            double a = run->conv->bias[out] + conv_element(run->conv, &run->x, t, row, column, out);
            if (r->data) a += r->data[t * r->stride_t + row * r->stride_y + column * r->stride_x + out];
            y->data[t * y->stride_t + row * y->stride_y + column * y->stride_x + out] = (float)a;
        }
}

static void ref_conv(struct team *team, const struct conv *conv, const struct volume *x,
                     const struct volume *residual, const struct volume *y)
{
    struct conv_run run = {.conv = conv, .x = *x, .y = *y};
    if (residual) run.residual = *residual;
    team_run(team, y->frames * y->height, conv_row, &run);
}

struct channel_run {
    struct volume x, y;
    const float *gamma;
    bool silu;
};

static void channel_norm_row(void *arguments, int task, void *scratch)
{
    const struct channel_run *run = arguments;
    const struct volume *x = &run->x, *y = &run->y;
    int t = task / x->height, row = task % x->height;
    for (int column = 0; column < x->width; column++) {
        const float *in = x->data + t * x->stride_t + row * x->stride_y + column * x->stride_x;
        float *out = y->data + t * y->stride_t + row * y->stride_y + column * y->stride_x;
        double squares = 0;
        for (int c = 0; c < x->channels; c++) squares += (double)in[c] * in[c];
        double factor = sqrt(x->channels) / fmax(sqrt(squares), 1e-12);
        for (int c = 0; c < x->channels; c++) {
            double value = in[c] * factor * run->gamma[c];
            out[c] = (float)(run->silu ? value * sigmoid(value) : value);
        }
    }
}

static void ref_channel_norm(struct team *team, const struct volume *x, const float *gamma, bool silu,
                             const struct volume *y)
{
    struct channel_run run = {*x, *y, gamma, silu};
    team_run(team, x->frames * x->height, channel_norm_row, &run);
}

/* ---------------------------------------------------------------------------------------- element-wise */

/* Float arithmetic here, not double: the op is defined by its roundings, the same bits everywhere. */
static void ref_lincomb(struct team *team, int terms, const float *weights, const float *const *x,
                        int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++) {
        float sum = weights[0] * x[0][i];
        for (int j = 1; j < terms; j++) sum = sum + weights[j] * x[j][i];
        y[i] = sum;
    }
}

static void ref_lincomb_rows(struct team *team, int terms, const float *weights, const unsigned char *group,
                             const float *const *x, int64_t rows, int64_t width, float *y)
{
    for (int64_t i = 0; i < rows * width; i++) {
        const float *own = weights + group[i / width] * terms;
        float sum = own[0] * x[0][i];
        for (int j = 1; j < terms; j++) sum = sum + own[j] * x[j][i];
        y[i] = sum;
    }
}

static void ref_silu(struct team *team, const float *x, int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++) y[i] = (float)(x[i] * sigmoid(x[i]));
}

/* --------------------------------------------------------------------------------------------- caching */

static void ref_reduce2(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                        double *partials)
{
    for (int64_t row = 0; row < rows; row++) {
        double sums[REDUCE_SUMS] = {0};
        for (int64_t i = row * width; i < (row + 1) * width; i++) {
            double x = a[i], y = b[i];
            sums[REDUCE_DIFFERENCE] += fabs(x - y);
            sums[REDUCE_A] += fabs(x);
            sums[REDUCE_B] += fabs(y);
            sums[REDUCE_PRODUCT] += x * y;
            sums[REDUCE_A2] += x * x;
            sums[REDUCE_B2] += y * y;
            sums[REDUCE_DIFFERENCE2] += (x - y) * (x - y);
        }
        memcpy(partials + row * REDUCE_SUMS, sums, sizeof sums);
    }
}

static void ref_mix(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner,
                    const float *x, float *y)
{
    for (int64_t o = 0; o < outer; o++)
        for (int i = 0; i < n; i++)
            for (int64_t c = 0; c < inner; c++) {
                double sum = 0;
                for (int k = 0; k < n; k++) sum += (double)matrix[i * n + k] * x[(o * n + k) * inner + c];
                y[(o * n + i) * inner + c] = (float)sum;
            }
}

const struct ops ops_ref = {
    .name = "ref",
    LOCAL_OPS,
    .linear_create = ref_linear_create,
    .linear_destroy = ref_linear_destroy,
    .linear_bytes = ref_linear_bytes,
    .linear_part = ref_linear_part,
    .linear = ref_linear,
    .layer_norm = ref_layer_norm,
    .rms_norm = ref_rms_norm,
    .rms_norm_rope = ref_rms_norm_rope,
    .attention = ref_attention,
    .conv_create = ref_conv_create,
    .conv_destroy = ref_conv_destroy,
    .conv_bytes = ref_conv_bytes,
    .conv = ref_conv,
    .channel_norm = ref_channel_norm,
    .lincomb = ref_lincomb,
    .lincomb_rows = ref_lincomb_rows,
    .reduce2 = ref_reduce2,
    .mix = ref_mix,
    .silu = ref_silu,
};
