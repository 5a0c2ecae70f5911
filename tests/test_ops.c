/*
 * test_ops.c - dense layers, norms, attention and element-wise ops of every backend this machine can run;
 * how: trial.h. Convolutions: test_conv.c.
 */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/trial.h"

/* ---------------------------------------------------------------------------------------- dense layers */

struct linear_inputs {
    struct matrix w, bias;
    bool has_bias;
    const float *x, *other, *gate; /* x [rows, k + x_gap], other [rows, n + other_gap], gate [n] */
    int x_gap, other_gap;
    enum epilogue_kind kind;
    bool in_place;  /* y is other */
    bool x_operand; /* x is of the backend's operand */
};

static void *linear_make(const struct ops *ops, const void *inputs)
{
    const struct linear_inputs *in = inputs;
    struct linear *linear = NULL;
    assert_int_equal(ops->linear_create(&in->w, in->has_bias ? &in->bias : NULL, &linear, NULL), STATUS_OK);
    size_t element = dtype_bytes(in->w.dtype);
    if (element > dtype_bytes(ops->operand)) element = dtype_bytes(ops->operand);
    assert_true(ops->linear_bytes(linear) >= (size_t)in->w.rows * (size_t)in->w.columns * element);
    return linear;
}

static void linear_drop(const struct ops *ops, void *made)
{
    ops->linear_destroy(made);
}

static void linear_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                       int count, const struct sheet *out)
{
    const struct linear_inputs *in = inputs;
    int n = in->w.rows, k = in->w.columns;
    int64_t x_stride = k + in->x_gap, other_stride = n + in->other_gap;
    struct epilogue e = {.kind = in->kind,
                         .gate = trial_floats(ops, team, in->gate, n),
                         .other_stride = other_stride,
                         .x_dtype = in->x_operand ? ops->operand : DTYPE_F32,
                         .y_dtype = out->dtype};
    void *y = sheet_row(out, first);
    if (in->kind >= EPILOGUE_MULTIPLY)
        e.other = trial_floats(ops, team, in->other + first * other_stride,
                               count ? count * other_stride - in->other_gap : 0);
    if (in->in_place && e.other) {
        ops->copy_rows(team, y, (size_t)out->stride * 4, e.other, (size_t)other_stride * 4, (size_t)n * 4,
                       count);
        e.other = y;
        e.other_stride = out->stride;
    }
    const void *x = trial_elements(ops, team, in->x + first * x_stride,
                                   count ? count * x_stride - in->x_gap : 0, e.x_dtype);
    ops->linear(team, made, x, x_stride, count, &e, y, out->stride);
}

/* How the rows of a layer's input and output lie. */
struct layout {
    int x_gap, other_gap, y_gap;
    bool in_place, x_operand, y_operand;
};

/* What bf16 makes of it: each rounding is 1.7e-3 of a result's norm at most, and there are up to three, of weights, input
 * and output. */
static const double rounded = 4e-3;

static void check_linear_of(int rows, int n, int k, dtype_t dtype, enum epilogue_kind kind, bool has_bias,
                            const struct layout *layout)
{
    int64_t x_count = (int64_t)rows * (k + layout->x_gap),
            other_count = (int64_t)rows * (n + layout->other_gap);
    void *w = random_weights((int64_t)n * k, dtype, 1, 1), *bias = random_weights(n, dtype, 1, 2);
    float *x = random_floats(x_count, 2, 3), *other = random_floats(other_count, 1, 4);
    float *gate = random_floats(n, 1, 5);
    struct linear_inputs in = {.w = matrix_of(w, dtype, n, k),
                               .bias = matrix_of(bias, dtype, n, 1),
                               .has_bias = has_bias,
                               .x = x,
                               .other = other,
                               .gate = gate,
                               .x_gap = layout->x_gap,
                               .other_gap = layout->other_gap,
                               .kind = kind,
                               .in_place = layout->in_place,
                               .x_operand = layout->x_operand};
    char name[80];
    snprintf(name, sizeof name, "linear %dx%dx%d type %d epilogue %d", rows, n, k, (int)dtype, (int)kind);
    trial_check(&(struct trial){.name = name,
                                .items = rows,
                                .width = n,
                                .gap = layout->y_gap,
                                .run = linear_run,
                                .make = linear_make,
                                .drop = linear_drop,
                                .inputs = &in,
                                .tolerance = layout->y_operand ? rounded : 1e-6,
                                .rounded_tolerance = rounded,
                                .shape_bound = true,
                                .operand = layout->y_operand});
    free(w), free(bias), free(x), free(other), free(gate);
}

static void check_linear(int rows, int n, int k, dtype_t dtype, enum epilogue_kind kind, bool has_bias,
                         bool in_place)
{
    check_linear_of(rows, n, k, dtype, kind, has_bias, &(struct layout){3, 2, 5, in_place, false, false});
}

static void linear_equals_ref_for_every_type_and_epilogue(void **state)
{
    for (int dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++)
        for (int kind = EPILOGUE_NONE; kind <= EPILOGUE_GATE_ADD; kind++)
            check_linear(29, 71, 300, (dtype_t)dtype, (enum epilogue_kind)kind, kind % 2 == 0,
                         dtype == DTYPE_BF16);
}

static void linear_equals_ref_over_odd_shapes(void **state)
{
    static const int shapes[][3] = {/* rows, n, k */
                                    {1, 1, 1},     {1, 200, 1000}, {2, 16, 16},   {3, 17, 255},
                                    {7, 31, 256},  {11, 32, 257},  {12, 33, 512}, {13, 48, 513},
                                    {24, 49, 5},   {25, 64, 600},  {80, 100, 96}, {145, 65, 300},
                                    {300, 40, 70}, {81, 600, 30},  {5, 1030, 40}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_linear(shapes[i][0], shapes[i][1], shapes[i][2], (dtype_t)(i % 3), (enum epilogue_kind)(i % 6),
                     i % 4 != 0, i % 2 == 0);
}

/* What a GPU's library can do itself: rows of 16 bytes, sizes that are multiples of 8, operands in and out. */
static void linear_of_aligned_rows_equals_ref_for_every_epilogue_and_operand(void **state)
{
    for (int kind = EPILOGUE_NONE; kind <= EPILOGUE_GATE_ADD; kind++)
        for (int variant = 0; variant < 8; variant++) {
            bool x_operand = variant & 1, y_operand = variant & 2, in_place = !y_operand && variant & 4;
            check_linear_of(29, 72, 96, DTYPE_BF16, (enum epilogue_kind)kind, variant % 3 != 0,
                            &(struct layout){8, 4, 8, in_place, x_operand, y_operand});
        }
    check_linear_of(9, 71, 93, DTYPE_BF16, EPILOGUE_GELU, true, &(struct layout){3, 2, 5, false, true, true});
    check_linear_of(9, 72, 93, DTYPE_F32, EPILOGUE_NONE, true, &(struct layout){3, 4, 8, false, true, true});
    check_linear_of(3, 72, 96, DTYPE_BF16, EPILOGUE_SILU, true,
                    &(struct layout){8, 4, 8, false, false, true});
    check_linear_of(0, 72, 96, DTYPE_BF16, EPILOGUE_NONE, true, &(struct layout){8, 4, 8, false, true, true});
}

/* The embedding of a time: a few rows of float32 are not rounded. */
static void linear_of_few_rows_of_floats_is_exact_where_weights_are_narrow(void **state)
{
    for (int rows = 1; rows <= 4; rows++)
        for (int kind = EPILOGUE_NONE; kind <= EPILOGUE_GATE_ADD; kind++) {
            int k = rows % 2 ? 264 : 261, n = 37;
            void *w = random_weights((int64_t)n * k, DTYPE_BF16, 1, 1),
                 *bias = random_weights(n, DTYPE_F32, 1, 2);
            float *x = random_floats(rows * k, 2, 3), *other = random_floats(rows * n, 1, 4),
                  *gate = random_floats(n, 1, 5);
            struct linear_inputs in = {.w = matrix_of(w, DTYPE_BF16, n, k),
                                       .bias = matrix_of(bias, DTYPE_F32, n, 1),
                                       .has_bias = true,
                                       .x = x,
                                       .other = other,
                                       .gate = gate,
                                       .kind = (enum epilogue_kind)kind};
            trial_check(&(struct trial){.name = "linear of few rows",
                                        .items = rows,
                                        .width = n,
                                        .gap = 3,
                                        .run = linear_run,
                                        .make = linear_make,
                                        .drop = linear_drop,
                                        .inputs = &in,
                                        .tolerance = 1e-6});
            free(w), free(bias), free(x), free(other), free(gate);
        }
}

static void linear_cut_into_many_tasks_has_the_same_bits(void **state)
{
    check_linear(160, 700, 300, DTYPE_F32, EPILOGUE_NONE, true, false);
}

static void linear_of_a_matrix_that_does_not_fit_is_refused(void **state)
{
    float data[6] = {0};
    struct matrix good = {data, DTYPE_F32, 2, 3}, empty = {data, DTYPE_F32, 0, 3},
                  nothing = {NULL, DTYPE_F32, 2, 3};
    struct matrix strange = {data, (dtype_t)9, 2, 3}, bias = {data, DTYPE_F32, 3, 1};
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        struct linear *linear = NULL;
        struct error error;
        assert_int_equal((*ops)->linear_create(&empty, NULL, &linear, &error), STATUS_INVALID);
        assert_int_equal((*ops)->linear_create(&nothing, NULL, &linear, &error), STATUS_INVALID);
        assert_int_equal((*ops)->linear_create(&strange, NULL, &linear, &error), STATUS_INVALID);
        assert_int_equal((*ops)->linear_create(&good, &bias, &linear, &error), STATUS_INVALID);
        assert_null(linear);
        (*ops)->linear_destroy(NULL);
    }
}

/* A part of a layer beside the layer itself. */
struct part_inputs {
    struct linear_inputs of; /* its w and bias are the part's, from where they lie in the whole's */
    struct matrix whole, whole_bias;
    int first;
};

struct part_made {
    struct linear *whole, *part;
};

static void *part_make(const struct ops *ops, const void *inputs)
{
    const struct part_inputs *in = inputs;
    struct part_made *made = calloc(1, sizeof *made);
    assert_int_equal(ops->linear_create(&in->whole, &in->whole_bias, &made->whole, NULL), STATUS_OK);
    assert_int_equal(ops->linear_part(made->whole, in->first, in->of.w.rows, &made->part, NULL), STATUS_OK);
    assert_int_equal(ops->linear_bytes(made->part), 0);
    return made;
}

static void part_drop(const struct ops *ops, void *made)
{
    struct part_made *p = made;
    ops->linear_destroy(p->part);
    ops->linear_destroy(p->whole);
    free(p);
}

static void part_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                     int count, const struct sheet *out)
{
    const struct part_inputs *in = inputs;
    linear_run(ops, ((struct part_made *)made)->part, team, &in->of, first, count, out);
}

/* Outputs [first, first + count) of n, against `ref` as any op, and where a row's bits are its own, with those of the whole. */
static void check_part(int rows, int n, int first, int count, int k, dtype_t dtype, enum epilogue_kind kind,
                       bool operand)
{
    void *w = random_weights((int64_t)n * k, dtype, 1, 1), *bias = random_weights(n, DTYPE_F32, 1, 2);
    float *x = random_floats((int64_t)rows * k, 2, 3), *other = random_floats((int64_t)rows * n, 1, 4),
          *gate = random_floats(n, 1, 5);
    struct matrix whole = matrix_of(w, dtype, n, k), whole_bias = matrix_of(bias, DTYPE_F32, n, 1);
    struct part_inputs in = {
        .of = {.w = {(const char *)whole.data + (size_t)first * (size_t)k * dtype_bytes(dtype), dtype, count,
                     k},
               .x = x,
               .other = other + first,
               .gate = gate + first,
               .other_gap = n - count,
               .kind = kind,
               .x_operand = operand},
        .whole = whole,
        .whole_bias = whole_bias,
        .first = first};
    char name[80];
    snprintf(name, sizeof name, "linear %dx%d, %d from %d on, type %d epilogue %d", rows, n, count, first,
             (int)dtype, (int)kind);
    trial_check(&(struct trial){.name = name,
                                .items = rows,
                                .width = count,
                                .gap = operand ? 8 : 3,
                                .run = part_run,
                                .make = part_make,
                                .drop = part_drop,
                                .inputs = &in,
                                .tolerance = operand ? rounded : 1e-6,
                                .rounded_tolerance = rounded,
                                .shape_bound = true,
                                .operand = operand});
    struct linear_inputs all = {
        .w = whole, .bias = whole_bias, .has_bias = true, .x = x, .other = other, .gate = gate, .kind = kind};
    in.of.x_operand = false;
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        if (!(*ops)->local) continue;
        struct sheet a = sheet_new(rows, n, n), b = sheet_new(rows, count, count);
        struct team *team;
        assert_int_equal(team_create(2, &team, NULL), STATUS_OK);
        struct part_made *made = part_make(*ops, &in);
        linear_run(*ops, made->whole, team, &all, 0, rows, &a);
        part_run(*ops, made, team, &in, 0, rows, &b);
        for (int row = 0; row < rows; row++)
            if (memcmp((float *)sheet_row(&a, row) + first, sheet_row(&b, row), (size_t)count * 4) != 0)
                fail_msg("%s: %s: row %d is not the whole's", name, (*ops)->name, row);
        part_drop(*ops, made);
        team_destroy(team);
        sheet_free(&a), sheet_free(&b);
    }
    free(w), free(bias), free(x), free(other), free(gate);
}

/* Thirds of layers as of q, k and v of any heads: at, before and behind the edges of panels and of groups of 8. */
static void a_part_of_a_layer_gives_what_the_layer_gives(void **state)
{
    static const int thirds[] = {1, 2, 6, 10, 14, 20, 24, 31, 32, 33, 48, 64, 96, 190};
    for (size_t i = 0; i < sizeof thirds / sizeof *thirds; i++)
        for (int third = 0; third < 3; third++) {
            int n = thirds[i], which = (int)i + third;
            check_part(which % 4 ? 13 : 1, 3 * n, third * n, n, i % 3 ? 24 : 520, (dtype_t)(which % 3),
                       (enum epilogue_kind)(which % 6), false);
        }
    check_part(29, 288, 96, 96, 96, DTYPE_BF16, EPILOGUE_NONE, true);
    check_part(29, 216, 72, 72, 96, DTYPE_BF16, EPILOGUE_GELU, true);
    check_part(29, 60, 20, 20, 24, DTYPE_BF16, EPILOGUE_NONE, true);
    check_part(3, 100, 99, 1, 40, DTYPE_BF16, EPILOGUE_SILU, false);
    check_part(160, 2100, 700, 700, 300, DTYPE_F32, EPILOGUE_NONE, false);
}

static void a_part_that_the_layer_has_not_is_refused(void **state)
{
    float data[6] = {0};
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        static const int bad[][2] = {{-1, 1}, {0, 0}, {0, 4}, {3, 1}, {2, 2}, {1, INT_MAX}};
        struct linear *whole = NULL, *part = NULL;
        struct error error;
        assert_int_equal((*ops)->linear_create(&(struct matrix){data, DTYPE_F32, 3, 2}, NULL, &whole, &error),
                         STATUS_OK);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
            assert_int_equal((*ops)->linear_part(whole, bad[i][0], bad[i][1], &part, &error), STATUS_INVALID);
        assert_null(part);
        (*ops)->linear_destroy(whole);
    }
}

/* ------------------------------------------------------------------------------------------------ rows */

struct norm_inputs {
    int width, heads, gap; /* heads > 0: with rotary embedding */
    float eps, base;
    const float *x, *scale, *shift; /* x [rows, width + gap] */
    const float *cosines, *sines;   /* [rows, head_dim / 2] */
    bool rms, in_place;
};

static void norm_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                     int count, const struct sheet *out)
{
    const struct norm_inputs *in = inputs;
    int64_t x_stride = in->width + in->gap;
    dtype_t x_dtype = in->rms ? out->dtype : DTYPE_F32;
    size_t size = dtype_bytes(x_dtype);
    int64_t elements = count ? count * x_stride - in->gap : 0; /* nothing behind the last row */
    const void *x = trial_elements(ops, team, in->x + first * x_stride, elements, x_dtype);
    const float *scale = trial_floats(ops, team, in->scale, in->width),
                *shift = trial_floats(ops, team, in->shift, in->width);
    void *y = sheet_row(out, first);
    if (in->in_place || in->heads) {
        ops->copy_rows(team, y, (size_t)out->stride * size, x, (size_t)x_stride * size,
                       (size_t)in->width * size, count);
        x = y;
        x_stride = out->stride;
    }
    if (in->heads) {
        int head_dim = in->width / in->heads, pairs = head_dim / 2;
        ops->rms_norm_rope(team, y, out->stride, count, in->heads, head_dim, in->eps, scale,
                           trial_floats(ops, team, in->cosines + first * pairs, (int64_t)count * pairs),
                           trial_floats(ops, team, in->sines + first * pairs, (int64_t)count * pairs),
                           out->dtype);
    } else if (in->rms) {
        ops->rms_norm(team, x, x_stride, count, in->width, in->eps, scale, y, out->stride, out->dtype);
    } else {
        ops->layer_norm(team, x, x_stride, count, in->width, in->eps, in->base, scale, shift, y, out->stride,
                        out->dtype);
    }
}

/* Once with rows that lie anywhere, once with aligned ones; and the latter with operands. */
static void check_norm(const char *name, int rows, int width, int heads, bool rms, bool plain, bool in_place)
{
    enum { ANYWHERE, ALIGNED, OPERAND, LAYOUTS };
    float *x = random_floats((int64_t)rows * (width + 8), 3, 11), *scale = random_floats(width, 1, 12);
    float *shift = random_floats(width, 1, 13), *cosines = random_floats((int64_t)rows * width, 1, 14);
    float *sines = random_floats((int64_t)rows * width, 1, 15);
    for (int64_t i = 0; i < (int64_t)rows * (width + 8); i++) x[i] += 1.5f; /* a mean that matters */
    for (int layout = 0; layout < LAYOUTS; layout++) {
        if (layout == OPERAND && in_place && !rms) continue; /* layer_norm's input is float32 */
        struct norm_inputs in = {.width = width,
                                 .heads = heads,
                                 .gap = layout == ANYWHERE ? 1 : 8 - width % 8,
                                 .eps = 1e-6f,
                                 .base = in_place ? 0 : 1,
                                 .x = x,
                                 .scale = plain ? NULL : scale,
                                 .shift = plain ? NULL : shift,
                                 .cosines = cosines,
                                 .sines = sines,
                                 .rms = rms,
                                 .in_place = in_place};
        trial_check(&(struct trial){.name = name,
                                    .items = rows,
                                    .width = width,
                                    .gap = layout == ANYWHERE ? 5 : 8 - width % 8,
                                    .run = norm_run,
                                    .inputs = &in,
                                    .tolerance = layout == OPERAND ? rounded : 1e-6,
                                    .operand = layout == OPERAND});
    }
    free(x), free(scale), free(shift), free(cosines), free(sines);
}

/* Rows above 16384 do not fit what a GPU's block keeps of one. */
static const int norm_widths[] = {1, 5, 16, 24, 63, 64, 100, 256, 1536, 5120, 16389, 20000};
enum { NORM_WIDTHS = sizeof norm_widths / sizeof *norm_widths };

static int norm_rows(int width)
{
    return width > 10000 ? 3 : 23;
}

static void layer_norm_equals_ref(void **state)
{
    for (int i = 0; i < NORM_WIDTHS; i++)
        for (int variant = 0; variant < 3; variant++)
            if (norm_widths[i] > 1)
                check_norm("layer_norm", norm_rows(norm_widths[i]), norm_widths[i], 0, false, variant == 1,
                           variant == 2);
}

static void rms_norm_equals_ref(void **state)
{
    for (int i = 0; i < NORM_WIDTHS; i++)
        for (int in_place = 0; in_place < 2; in_place++)
            check_norm("rms_norm", norm_rows(norm_widths[i]), norm_widths[i], 0, true, false, in_place);
}

static void rms_norm_rope_equals_ref_for_any_head_size(void **state)
{
    static const int heads[][2] = {{2, 12}, {3, 40}, {4, 64}, {12, 128}, {1, 2}, {5, 10}, {2, 16}, {7, 30}};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        check_norm("rms_norm_rope", 19, heads[i][0] * heads[i][1], heads[i][0], true, false, true);
}

/* ------------------------------------------------------------------------------------------- attention */

static void attention_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                          int count, const struct sheet *out)
{
    struct attention a = *(const struct attention *)inputs;
    /* bias belongs to all q rows: a part of them needs the distances that occur in it */
    float *bias = NULL;
    if (a.bias) {
        int64_t part = count + a.kv_rows - 1, whole = a.q_rows + a.kv_rows - 1;
        bias = malloc((size_t)(a.heads * part) * sizeof *bias);
        assert_non_null(bias);
        for (int head = 0; head < a.heads; head++)
            memcpy(bias + head * part, a.bias + head * whole + a.q_rows - count - first,
                   (size_t)part * sizeof *bias);
        a.bias = trial_floats(ops, team, bias, a.heads * part);
    }
    a.dtype = out->dtype;
    a.q = trial_elements(ops, team, (const float *)a.q + first * a.q_stride, count * a.q_stride, a.dtype);
    a.k = trial_elements(ops, team, a.k, a.kv_rows * a.k_stride, a.dtype);
    a.v = trial_elements(ops, team, a.v, a.kv_rows * a.v_stride, a.dtype);
    a.q_rows = count;
    a.out = sheet_row(out, first);
    a.out_stride = out->stride;
    ops->attention(team, &a);
    assert_int_equal(ops->wait(team, NULL), STATUS_OK); /* bias has been read */
    free(bias);
}

/* size: of the elements of q and k. A logit's rounding error grows with the logit and is the weight's
 * relative error. */
static void check_attention(int q_rows, int kv_rows, int heads, int head_dim, bool with_bias,
                            float last_logit, float size)
{
    int width = heads * head_dim;
    float *q = random_floats((int64_t)q_rows * (width + 1), size, 21),
          *k = random_floats((int64_t)kv_rows * (width + 2), size, 22);
    float *v = random_floats((int64_t)kv_rows * (width + 3), 1, 23);
    float *bias = with_bias ? random_floats((int64_t)heads * (q_rows + kv_rows - 1), 2, 24) : NULL;
    struct attention a = {.q = q,
                          .k = k,
                          .v = v,
                          .q_stride = width + 1,
                          .k_stride = width + 2,
                          .v_stride = width + 3,
                          .q_rows = q_rows,
                          .kv_rows = kv_rows,
                          .heads = heads,
                          .head_dim = head_dim,
                          .scale = 1 / sqrtf((float)head_dim),
                          .last_logit = last_logit,
                          .bias = bias};
    char name[80];
    snprintf(name, sizeof name, "attention %dx%d, %d heads of %d", q_rows, kv_rows, heads, head_dim);
    trial_check(&(struct trial){.name = name,
                                .items = q_rows,
                                .width = width,
                                .gap = 5,
                                .run = attention_run,
                                .inputs = &a,
                                .tolerance = 1e-6 * (1 + size / 3)});
    /* A logit's rounding is the weight's relative error. */
    trial_check(&(struct trial){.name = name,
                                .items = q_rows,
                                .width = width,
                                .gap = 5,
                                .run = attention_run,
                                .inputs = &a,
                                .tolerance = size > 1 ? 0.1 : 8e-3,
                                .operand = true});
    free(q), free(k), free(v), free(bias);
}

static void attention_equals_ref_over_odd_shapes(void **state)
{
    static const int shapes[][4] = {/* q rows, kv rows, heads, head_dim */
                                    {1, 1, 1, 1},       {5, 3, 2, 12},      {13, 17, 3, 40},
                                    {80, 80, 4, 64},    {37, 130, 2, 128},  {50, 129, 1, 256},
                                    {200, 128, 1, 100}, {9, 300, 2, 33},    {26, 513, 1, 64},
                                    {220, 31, 2, 17},   {130, 140, 1, 384}, {70, 20, 1, 512}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int bias = 0; bias < 2; bias++)
            check_attention(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], bias, 0, 1);
}

/* What tensor cores take: operands in rows of a multiple of 16 bytes, heads of up to 256. */
static void check_aligned_attention(int q_rows, int kv_rows, int heads, int head_dim, float last_logit)
{
    int width = heads * head_dim, stride = width + 8;
    float *q = random_floats((int64_t)q_rows * stride, 1, 25),
          *k = random_floats((int64_t)kv_rows * stride, 1, 26),
          *v = random_floats((int64_t)kv_rows * stride, 1, 27);
    struct attention a = {.q = q,
                          .k = k,
                          .v = v,
                          .q_stride = stride,
                          .k_stride = stride,
                          .v_stride = stride,
                          .q_rows = q_rows,
                          .kv_rows = kv_rows,
                          .heads = heads,
                          .head_dim = head_dim,
                          .scale = 1 / sqrtf((float)head_dim),
                          .last_logit = last_logit};
    /* On a real GPU a library may compute it, whose bits depend on the shape; REFRAIN_ATTENTION=own keeps the contract. */
    const char *kind = getenv("REFRAIN_ATTENTION");
    bool shape_bound = getenv("REFRAIN_TEST_GPU") && !(kind && strcmp(kind, "own") == 0);
    char name[80];
    snprintf(name, sizeof name, "aligned attention %dx%d, %d heads of %d", q_rows, kv_rows, heads, head_dim);
    trial_check(&(struct trial){.name = name,
                                .items = q_rows,
                                .width = width,
                                .gap = 8,
                                .run = attention_run,
                                .inputs = &a,
                                .tolerance = 8e-3,
                                .shape_bound = shape_bound,
                                .operand = true});
    free(q), free(k), free(v);
}

static void attention_of_aligned_rows_equals_ref(void **state)
{
    static const int shapes[][4] = {/* q rows, kv rows, heads, head_dim */
                                    {1, 1, 1, 64},    {5, 3, 2, 64},     {130, 65, 1, 64},  {129, 200, 2, 64},
                                    {40, 64, 1, 128}, {131, 63, 2, 128}, {37, 129, 1, 128}, {33, 100, 2, 40},
                                    {20, 70, 1, 96},  {3, 17, 3, 8},     {65, 100, 1, 256}, {20, 31, 2, 192}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_aligned_attention(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], i % 2 ? 3 : 0);
}

/* More blocks than one multiprocessor runs at once: for a GPU, which runs them side by side. */
static void attention_of_many_aligned_rows_equals_ref(void **state)
{
    if (!getenv("REFRAIN_TEST_GPU")) skip();
    check_aligned_attention(700, 900, 3, 128, 0);
    check_aligned_attention(900, 513, 4, 64, 5);
}

static void attention_with_sharp_logits_equals_ref(void **state)
{
    check_attention(40, 300, 2, 64, true, 0, 6);
    check_attention(40, 300, 2, 64, false, -3, 6);
}

/* One call in float32, its result into a host's sheet without gaps. */
static void attend(const struct ops *ops, struct team *team, struct attention a, const struct sheet *out)
{
    size_t bytes = (size_t)(out->rows * out->stride) * sizeof(float);
    a.q = trial_floats(ops, team, a.q, a.q_rows * a.q_stride);
    a.k = trial_floats(ops, team, a.k, a.kv_rows * a.k_stride);
    a.v = trial_floats(ops, team, a.v, a.kv_rows * a.v_stride);
    a.bias = trial_floats(ops, team, a.bias, a.heads * (a.q_rows + a.kv_rows - 1));
    a.out = trial_results(ops, team, out->at, bytes);
    ops->attention(team, &a);
    trial_fetch(ops, team, a.out, out->at, bytes);
}

/* ln(n) on the last row stands for n equal rows: the rule that lets one pad row replace hundreds. */
static void attention_last_logit_stands_for_repeated_rows(void **state)
{
    enum { Q = 9, KV = 70, REPEATS = 200, D = 24 };
    float *q = random_floats(Q * D, 1, 31), *k = random_floats(KV * D, 1, 32),
          *v = random_floats(KV * D, 1, 33);
    float *long_k = malloc(sizeof(float) * (KV + REPEATS) * D),
          *long_v = malloc(sizeof(float) * (KV + REPEATS) * D);
    for (int row = 0; row < KV - 1 + REPEATS; row++) {
        memcpy(long_k + row * D, k + (row < KV ? row : KV - 1) * D, D * 4);
        memcpy(long_v + row * D, v + (row < KV ? row : KV - 1) * D, D * 4);
    }
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        struct sheet one = sheet_new(Q, D, D), many = sheet_new(Q, D, D);
        struct attention a = {.q = q,
                              .k = k,
                              .v = v,
                              .q_stride = D,
                              .k_stride = D,
                              .v_stride = D,
                              .out_stride = D,
                              .q_rows = Q,
                              .kv_rows = KV,
                              .heads = 1,
                              .head_dim = D,
                              .scale = 0.2f,
                              .last_logit = logf(REPEATS)};
        attend(*ops, trial_team(1), a, &one);
        a.k = long_k, a.v = long_v, a.kv_rows = KV - 1 + REPEATS, a.last_logit = 0;
        attend(*ops, trial_team(1), a, &many);
        assert_true(sheet_error(&one, &many) < 2e-6);
        sheet_free(&one), sheet_free(&many);
    }
    free(q), free(k), free(v), free(long_k), free(long_v);
}

static void attention_bias_of_minus_infinity_masks(void **state)
{
    enum { Q = 1, KV = 290, FIRST = 260, D = 16 }; /* the first two kv tiles are masked as a whole */
    float *q = random_floats(Q * D, 1, 41), *k = random_floats(KV * D, 1, 42),
          *v = random_floats(KV * D, 1, 43);
    float bias[KV];
    for (int i = 0; i < KV; i++) bias[i] = i < FIRST ? -INFINITY : 0;
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        struct sheet masked = sheet_new(Q, D, D), cut = sheet_new(Q, D, D);
        struct attention a = {.q = q,
                              .k = k,
                              .v = v,
                              .q_stride = D,
                              .k_stride = D,
                              .v_stride = D,
                              .out_stride = D,
                              .q_rows = Q,
                              .kv_rows = KV,
                              .heads = 1,
                              .head_dim = D,
                              .scale = 0.2f,
                              .bias = bias};
        attend(*ops, trial_team(0), a, &masked);
        a.k = k + FIRST * D, a.v = v + FIRST * D, a.kv_rows -= FIRST, a.bias = NULL;
        attend(*ops, trial_team(0), a, &cut);
        assert_true(sheet_error(&masked, &cut) < 1e-6);
        sheet_free(&masked), sheet_free(&cut);
    }
    free(q), free(k), free(v);
}

/* ---------------------------------------------------------------------------------------- element-wise */

static void silu(const struct ops *ops, struct team *team, const float *x, int64_t count, float *y)
{
    float *results = trial_results(ops, team, y, (size_t)count * sizeof *y);
    ops->silu(team, trial_floats(ops, team, x, count), count, results);
    trial_fetch(ops, team, results, y, (size_t)count * sizeof *y);
}

/* The exponential is seen through SiLU: its largest error over a fine grid, its limits, and NaN. */
static void silu_is_accurate_everywhere(void **state)
{
    enum { COUNT = 1 << 18 };
    float *x = malloc(COUNT * sizeof *x), *first = malloc(COUNT * sizeof *first),
          *y = malloc(COUNT * sizeof *y);
    for (int i = 0; i < COUNT; i++) x[i] = -80 + 160 * ((float)i / COUNT);
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        silu(*ops, trial_team(3), x, COUNT - 3, y);
        double worst = 0;
        for (int i = 0; i < COUNT - 3; i++) {
            double want = x[i] / (1 + exp(-(double)x[i]));
            if (x[i] != 0) worst = fmax(worst, fabs(y[i] - want) / fabs(want));
        }
        assert_true(worst < 3e-7);
        if (ops == trial_backends() + 1) memcpy(first, y, COUNT * sizeof *y);
        if (ops > trial_backends() + 1 && (*ops)->local)
            assert_memory_equal(y, first, (COUNT - 3) * sizeof *y);

        float edges[5] = {-1e30f, -100, 0, 100, NAN}, out[5];
        silu(*ops, trial_team(0), edges, 5, out);
        assert_true(fabsf(out[0]) < 1e-7f && fabsf(out[1]) < 1e-30f && out[2] == 0 && out[3] == 100 &&
                    isnan(out[4]));
    }
    free(x), free(first), free(y);
}

static void ops_are_found_by_name(void **state)
{
    const struct ops *const *ops = ops_available();
    assert_string_equal(ops[0]->name, "ref");
    const struct ops *last = NULL;
    for (; *ops; ops++) {
        assert_ptr_equal(ops_find((*ops)->name), *ops);
        last = *ops;
    }
    const struct ops *gpu = ops_find("cuda");
    assert_ptr_equal(ops_find("auto"), gpu ? gpu : last);
    assert_null(ops_find("cpu-avx1024"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_are_found_by_name),
        cmocka_unit_test(linear_equals_ref_for_every_type_and_epilogue),
        cmocka_unit_test(linear_equals_ref_over_odd_shapes),
        cmocka_unit_test(linear_of_aligned_rows_equals_ref_for_every_epilogue_and_operand),
        cmocka_unit_test(linear_of_few_rows_of_floats_is_exact_where_weights_are_narrow),
        cmocka_unit_test(linear_cut_into_many_tasks_has_the_same_bits),
        cmocka_unit_test(linear_of_a_matrix_that_does_not_fit_is_refused),
        cmocka_unit_test(a_part_of_a_layer_gives_what_the_layer_gives),
        cmocka_unit_test(a_part_that_the_layer_has_not_is_refused),
        cmocka_unit_test(layer_norm_equals_ref),
        cmocka_unit_test(rms_norm_equals_ref),
        cmocka_unit_test(rms_norm_rope_equals_ref_for_any_head_size),
        cmocka_unit_test(attention_equals_ref_over_odd_shapes),
        cmocka_unit_test(attention_of_aligned_rows_equals_ref),
        cmocka_unit_test(attention_of_many_aligned_rows_equals_ref),
        cmocka_unit_test(attention_with_sharp_logits_equals_ref),
        cmocka_unit_test(attention_last_logit_stands_for_repeated_rows),
        cmocka_unit_test(attention_bias_of_minus_infinity_masks),
        cmocka_unit_test(silu_is_accurate_everywhere),
    };
    cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER")); /* a pattern of names */
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
