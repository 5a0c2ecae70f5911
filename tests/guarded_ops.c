/*
 * guarded_ops.c - see guarded.h: what a denoiser computes with. Each op checks its arguments when it is called, copies those that
 * are the host's, and runs the host's backend later. Operands of 2 bytes are widened before and rounded after.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/weights.h"
#include "tests/guarded_state.h"

/* With room for what a check needs to know. */
struct guarded_linear {
    struct linear *inner;
    int n, k;
};

static size_t rows_bytes(int64_t rows, int64_t stride, int64_t width, dtype_t dtype)
{
    return rows < 1 ? 0 : (size_t)((rows - 1) * stride + width) * dtype_bytes(dtype);
}

/* A type there is: float32, or bf16 where the table that was called says so. Ops do not know their table, so bf16
 * is taken from whoever names it; a worker that names it wrongly reads nonsense, which tests see. */
static void check_dtype(const char *op, dtype_t dtype)
{
    if (dtype != DTYPE_F32 && dtype != DTYPE_BF16) guarded_die(op, "a type that no operand has");
}

/* ------------------------------------------------------------------------------------------------- bf16 */

static uint16_t round_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Rows as float32: those themselves, or a copy, with *stride its own. */
static float *widen(void *from, dtype_t dtype, int64_t rows, int64_t width, int64_t *stride)
{
    if (dtype == DTYPE_F32) return from;
    float *wide = malloc((size_t)(rows * width) * sizeof *wide);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < width; i++)
            wide[row * width + i] = float_from_bf16(((uint16_t *)from)[row * *stride + i]);
    *stride = width;
    return wide;
}

/* And back: frees the copy. */
static void narrow(float *wide, void *to, dtype_t dtype, int64_t rows, int64_t width, int64_t stride)
{
    if (dtype == DTYPE_F32) return;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < width; i++)
            ((uint16_t *)to)[row * stride + i] = round_bf16(wide[row * width + i]);
    free(wide);
}

static void drop(float *wide, dtype_t dtype)
{
    if (dtype != DTYPE_F32) free(wide);
}

/* ------------------------------------------------------------------------------------------------ linear */

static status_t linear_create(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                              struct error *error)
{
    struct guarded_linear *made = malloc(sizeof *made);
    *made = (struct guarded_linear){.n = w->rows, .k = w->columns};
    status_t status = guarded_inner()->linear_create(w, bias, &made->inner, error);
    if (status == STATUS_OK)
        *linear = (struct linear *)(void *)made;
    else
        free(made);
    return status;
}

static status_t linear_part(const struct linear *whole, int first, int count, struct linear **part,
                            struct error *error)
{
    const struct guarded_linear *of = (const struct guarded_linear *)(const void *)whole;
    struct guarded_linear *made = malloc(sizeof *made);
    *made = (struct guarded_linear){.n = count, .k = of->k};
    status_t status = guarded_inner()->linear_part(of->inner, first, count, &made->inner, error);
    if (status == STATUS_OK)
        *part = (struct linear *)(void *)made;
    else
        free(made);
    return status;
}

static void linear_destroy(struct linear *linear)
{
    struct guarded_linear *l = (struct guarded_linear *)(void *)linear;
    if (l) guarded_inner()->linear_destroy(l->inner);
    free(l);
}

static size_t linear_bytes(const struct linear *linear)
{
    return guarded_inner()->linear_bytes(((const struct guarded_linear *)(const void *)linear)->inner);
}

struct linear_call {
    struct command command;
    struct guarded_linear linear;
    struct epilogue epilogue;
    void *x, *y;
    int64_t x_stride, y_stride;
    int rows;
};

static void run_linear(struct command *command, struct team *team)
{
    struct linear_call *c = (struct linear_call *)command;
    dtype_t x_dtype = c->epilogue.x_dtype, y_dtype = c->epilogue.y_dtype;
    int64_t x_stride = c->x_stride, y_stride = c->y_stride;
    float *x = widen(c->x, x_dtype, c->rows, c->linear.k, &x_stride);
    float *y = widen(c->y, y_dtype, c->rows, c->linear.n, &y_stride);
    struct epilogue epilogue = c->epilogue;
    epilogue.x_dtype = epilogue.y_dtype = DTYPE_F32;
    guarded_inner()->linear(team, c->linear.inner, x, x_stride, c->rows, &epilogue, y, y_stride);
    drop(x, x_dtype);
    narrow(y, c->y, y_dtype, c->rows, c->linear.n, c->y_stride);
}

static void linear(struct team *team, const struct linear *weights, const void *x, int64_t x_stride, int rows,
                   const struct epilogue *epilogue, void *y, int64_t y_stride)
{
    struct lane *lane = guarded_lane(team, "linear");
    struct linear_call *c = guarded_command(sizeof *c, run_linear);
    c->linear = *(const struct guarded_linear *)(const void *)weights;
    c->epilogue = *epilogue;
    c->rows = rows;
    c->x_stride = x_stride;
    c->y_stride = y_stride;
    check_dtype("linear", epilogue->x_dtype);
    check_dtype("linear", epilogue->y_dtype);
    c->x = guarded_at(lane, "linear", x, rows_bytes(rows, x_stride, c->linear.k, epilogue->x_dtype), READS);
    if (epilogue->kind >= EPILOGUE_MULTIPLY)
        c->epilogue.other =
            guarded_at(lane, "linear", epilogue->other,
                       rows_bytes(rows, epilogue->other_stride, c->linear.n, DTYPE_F32), READS);
    if (epilogue->kind == EPILOGUE_GATE_ADD)
        c->epilogue.gate = guarded_at(lane, "linear", epilogue->gate, (size_t)c->linear.n * 4, READS);
    c->y = guarded_at(lane, "linear", y, rows_bytes(rows, y_stride, c->linear.n, epilogue->y_dtype), WRITES);
    if (c->epilogue.other == c->y && epilogue->y_dtype != DTYPE_F32 && epilogue->kind >= EPILOGUE_MULTIPLY)
        guarded_die("linear", "y is the other operand but not float32");
    guarded_enqueue(lane, c);
}

/* -------------------------------------------------------------------------------------------------- rows */

struct norm_call {
    struct command command;
    void *x, *y;
    const float *scale, *shift, *cosines, *sines;
    int64_t x_stride, y_stride;
    int rows, width, heads;
    float eps, base;
    dtype_t x_dtype, y_dtype;
};

static void run_layer_norm(struct command *command, struct team *team)
{
    struct norm_call *c = (struct norm_call *)command;
    int64_t y_stride = c->y_stride;
    float *y = widen(c->y, c->y_dtype, c->rows, c->width, &y_stride);
    guarded_inner()->layer_norm(team, c->x, c->x_stride, c->rows, c->width, c->eps, c->base, c->scale,
                                c->shift, y, y_stride, DTYPE_F32);
    narrow(y, c->y, c->y_dtype, c->rows, c->width, c->y_stride);
}

static void layer_norm(struct team *team, const float *x, int64_t x_stride, int rows, int width, float eps,
                       float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                       dtype_t y_dtype)
{
    struct lane *lane = guarded_lane(team, "layer_norm");
    struct norm_call *c = guarded_command(sizeof *c, run_layer_norm);
    *c = (struct norm_call){.command = c->command,
                            .x_stride = x_stride,
                            .y_stride = y_stride,
                            .rows = rows,
                            .width = width,
                            .eps = eps,
                            .base = base,
                            .y_dtype = y_dtype};
    check_dtype("layer_norm", y_dtype);
    if (!scale != !shift) guarded_die("layer_norm", "scale without shift, or shift without scale");
    c->x = guarded_at(lane, "layer_norm", x, rows_bytes(rows, x_stride, width, DTYPE_F32), READS);
    c->scale = guarded_at(lane, "layer_norm", scale, (size_t)width * 4, READS);
    c->shift = guarded_at(lane, "layer_norm", shift, (size_t)width * 4, READS);
    c->y = guarded_at(lane, "layer_norm", y, rows_bytes(rows, y_stride, width, y_dtype), WRITES);
    guarded_enqueue(lane, c);
}

static void run_rms_norm(struct command *command, struct team *team)
{
    struct norm_call *c = (struct norm_call *)command;
    int64_t x_stride = c->x_stride, y_stride = c->y_stride;
    float *x = widen(c->x, c->x_dtype, c->rows, c->width, &x_stride);
    float *y = widen(c->y, c->x_dtype, c->rows, c->width, &y_stride);
    guarded_inner()->rms_norm(team, x, x_stride, c->rows, c->width, c->eps, c->scale, y, y_stride, DTYPE_F32);
    drop(x, c->x_dtype);
    narrow(y, c->y, c->x_dtype, c->rows, c->width, c->y_stride);
}

static void rms_norm(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                     const float *weight, void *y, int64_t y_stride, dtype_t dtype)
{
    struct lane *lane = guarded_lane(team, "rms_norm");
    struct norm_call *c = guarded_command(sizeof *c, run_rms_norm);
    *c = (struct norm_call){.command = c->command,
                            .x_stride = x_stride,
                            .y_stride = y_stride,
                            .rows = rows,
                            .width = width,
                            .eps = eps,
                            .x_dtype = dtype};
    check_dtype("rms_norm", dtype);
    c->x = guarded_at(lane, "rms_norm", x, rows_bytes(rows, x_stride, width, dtype), READS);
    c->scale = guarded_at(lane, "rms_norm", weight, (size_t)width * 4, READS);
    c->y = guarded_at(lane, "rms_norm", y, rows_bytes(rows, y_stride, width, dtype), WRITES);
    guarded_enqueue(lane, c);
}

static void run_rms_norm_rope(struct command *command, struct team *team)
{
    struct norm_call *c = (struct norm_call *)command;
    int64_t stride = c->x_stride, width = (int64_t)c->heads * c->width;
    float *x = widen(c->x, c->x_dtype, c->rows, width, &stride);
    guarded_inner()->rms_norm_rope(team, x, stride, c->rows, c->heads, c->width, c->eps, c->scale, c->cosines,
                                   c->sines, DTYPE_F32);
    narrow(x, c->x, c->x_dtype, c->rows, width, c->x_stride);
}

static void rms_norm_rope(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                          float eps, const float *weight, const float *cosines, const float *sines,
                          dtype_t dtype)
{
    struct lane *lane = guarded_lane(team, "rms_norm_rope");
    struct norm_call *c = guarded_command(sizeof *c, run_rms_norm_rope);
    int64_t width = (int64_t)heads * head_dim;
    size_t table = rows_bytes(rows, head_dim / 2, head_dim / 2, DTYPE_F32);
    *c = (struct norm_call){.command = c->command,
                            .x_stride = x_stride,
                            .rows = rows,
                            .width = head_dim,
                            .heads = heads,
                            .eps = eps,
                            .x_dtype = dtype};
    check_dtype("rms_norm_rope", dtype);
    c->scale = guarded_at(lane, "rms_norm_rope", weight, (size_t)width * 4, READS);
    c->cosines = guarded_at(lane, "rms_norm_rope", cosines, table, READS);
    c->sines = guarded_at(lane, "rms_norm_rope", sines, table, READS);
    c->x = guarded_at(lane, "rms_norm_rope", x, rows_bytes(rows, x_stride, width, dtype), WRITES);
    guarded_enqueue(lane, c);
}

/* ------------------------------------------------------------------------------------------------ tokens */

struct patch_call {
    struct command command;
    struct patching patching;
    void *latent, *rows;
    dtype_t dtype;
};

static int64_t patch_floats(const struct patching *p)
{
    return (int64_t)p->channels * p->patch_t * p->patch_y * p->patch_x;
}

static int64_t token_rows(const struct patching *p)
{
    return (int64_t)p->frames * p->height * p->width;
}

static void run_cut(struct command *command, struct team *team)
{
    struct patch_call *c = (struct patch_call *)command;
    int64_t count = token_rows(&c->patching), width = patch_floats(&c->patching), stride = width;
    float *rows = widen(c->rows, c->dtype, count, width, &stride);
    guarded_inner()->cut_patches(team, &c->patching, c->latent, rows, DTYPE_F32);
    narrow(rows, c->rows, c->dtype, count, width, width);
}

static void run_join(struct command *command, struct team *team)
{
    struct patch_call *c = (struct patch_call *)command;
    guarded_inner()->join_patches(team, &c->patching, c->rows, c->latent);
}

static void cut_patches(struct team *team, const struct patching *p, const float *latent, void *rows,
                        dtype_t dtype)
{
    struct lane *lane = guarded_lane(team, "cut_patches");
    struct patch_call *c = guarded_command(sizeof *c, run_cut);
    size_t count = (size_t)(token_rows(p) * patch_floats(p));
    check_dtype("cut_patches", dtype);
    c->patching = *p;
    c->dtype = dtype;
    c->latent = guarded_at(lane, "cut_patches", latent, count * 4, READS);
    c->rows = guarded_at(lane, "cut_patches", rows, count * dtype_bytes(dtype), WRITES);
    guarded_enqueue(lane, c);
}

static void join_patches(struct team *team, const struct patching *p, const float *rows, float *latent)
{
    struct lane *lane = guarded_lane(team, "join_patches");
    struct patch_call *c = guarded_command(sizeof *c, run_join);
    size_t bytes = (size_t)(token_rows(p) * patch_floats(p)) * 4;
    c->patching = *p;
    c->rows = guarded_at(lane, "join_patches", rows, bytes, READS);
    c->latent = guarded_at(lane, "join_patches", latent, bytes, WRITES);
    guarded_enqueue(lane, c);
}

/* --------------------------------------------------------------------------------------------- attention */

struct attention_call {
    struct command command;
    struct attention a;
    void *q, *k, *v;
};

static void run_attention(struct command *command, struct team *team)
{
    struct attention_call *c = (struct attention_call *)command;
    struct attention a = c->a;
    int64_t width = (int64_t)a.heads * a.head_dim;
    a.dtype = DTYPE_F32;
    float *q = widen(c->q, c->a.dtype, a.q_rows, width, &a.q_stride);
    float *k = widen(c->k, c->a.dtype, a.kv_rows, width, &a.k_stride);
    float *v = widen(c->v, c->a.dtype, a.kv_rows, width, &a.v_stride);
    float *out = widen(c->a.out, c->a.dtype, a.q_rows, width, &a.out_stride);
    a.q = q, a.k = k, a.v = v, a.out = out;
    guarded_inner()->attention(team, &a);
    drop(q, c->a.dtype), drop(k, c->a.dtype), drop(v, c->a.dtype);
    narrow(out, c->a.out, c->a.dtype, a.q_rows, width, c->a.out_stride);
}

static void attention(struct team *team, const struct attention *a)
{
    struct lane *lane = guarded_lane(team, "attention");
    struct attention_call *c = guarded_command(sizeof *c, run_attention);
    int64_t width = (int64_t)a->heads * a->head_dim;
    check_dtype("attention", a->dtype);
    c->a = *a;
    c->q = guarded_at(lane, "attention", a->q, rows_bytes(a->q_rows, a->q_stride, width, a->dtype), READS);
    c->k = guarded_at(lane, "attention", a->k, rows_bytes(a->kv_rows, a->k_stride, width, a->dtype), READS);
    c->v = guarded_at(lane, "attention", a->v, rows_bytes(a->kv_rows, a->v_stride, width, a->dtype), READS);
    c->a.bias = guarded_at(lane, "attention", a->bias,
                           (size_t)a->heads * (size_t)(a->q_rows + a->kv_rows - 1) * 4, READS);
    c->a.out =
        guarded_at(lane, "attention", a->out, rows_bytes(a->q_rows, a->out_stride, width, a->dtype), WRITES);
    guarded_enqueue(lane, c);
}

void guarded_fill(struct ops *ops)
{
    *ops = (struct ops){.linear_create = linear_create,
                        .linear_destroy = linear_destroy,
                        .linear_bytes = linear_bytes,
                        .linear_part = linear_part,
                        .linear = linear,
                        .layer_norm = layer_norm,
                        .rms_norm = rms_norm,
                        .rms_norm_rope = rms_norm_rope,
                        .cut_patches = cut_patches,
                        .join_patches = join_patches,
                        .attention = attention};
    guarded_fill_maps(ops);
}
