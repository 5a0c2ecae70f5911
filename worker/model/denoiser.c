/*
 * denoiser.c - the forward pass of WanTransformer3DModel; see denoiser.h. Weights are loaded in
 * denoiser_weights.c.
 *
 * Runs on whichever thread calls it (one per rank) and that thread's team. No allocation in the forward.
 *
 * One block, for hidden state x [S, hidden] (transformer_wan.py, WanTransformerBlock; m = table + time
 * modulation):
 *
 *     n = layer_norm(x) (1 + m.scale1) + m.shift1
 *     x = x + m.gate1 * out1(attention(rope(rms(q n)), rope(rms(k n)), v n))
 *     n = affine_layer_norm(x)
 *     x = x + out2(attention(rms(q2 n), text keys, text values))
 *     n = layer_norm(x) (1 + m.scale2) + m.shift2
 *     x = x + m.gate2 * down(gelu(up n))
 */
#include "worker/model/denoiser_weights.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/memory.h"
#include "worker/ulysses.h"

/* Feed-forward rows at a time: bounds the [rows, ffn_dim] buffer. Rows do not influence each other, so no bit
 * changes. */
enum { FFN_ROWS = 4096 };

/* ---------------------------------------------------------------------------------------------- workspace */

void denoiser_work_lay_out(struct arena *arena, const struct denoiser_config *config, dtype_t operand,
                           int most_rows, struct denoiser_work *work)
{
    size_t rows = (size_t)most_rows, hidden = (size_t)config->hidden, element = dtype_bytes(operand);
    int channels = config->in_channels > config->out_channels ? config->in_channels : config->out_channels;
    size_t patch = (size_t)channels * (size_t)(config->patch_t * config->patch_y * config->patch_x);
    work->ffn_rows = rows < FFN_ROWS ? (int)rows : FFN_ROWS;
    work->norm = arena_take(arena, rows * hidden, element);
    work->qkv = arena_take(arena, rows * 3 * hidden, element);
    work->input = work->qkv;
    work->attended = arena_take(arena, rows * hidden, element);
    work->middle = arena_take(arena, (size_t)work->ffn_rows * (size_t)config->ffn_dim, element);
    work->modulation = arena_take(arena, 6 * hidden, sizeof(float));
    work->patches = arena_take(arena, rows * patch, sizeof(float));
}

/* --------------------------------------------------------------------------------------------------- text */

int denoiser_text_rows(int n, int text_length)
{
    return n < text_length ? n + 1 : n;
}

/* The reference attends to text_length rows: the prompt's, then zero rows which text_embedder turns into one
 * and the same vector. One such row with its logit raised by ln(count) has exactly their softmax weight. */
status_t denoiser_text(const struct denoiser *d, struct team *team, const float *rows, int n, int text_length,
                       float *out, struct error *error)
{
    const struct ops *ops = d->ops;
    size_t width = (size_t)d->config.text_dim, hidden = (size_t)d->config.hidden;
    int count = denoiser_text_rows(n, text_length);
    struct epilogue active = {.kind = EPILOGUE_GELU, .y_dtype = ops->operand},
                    plain = {.x_dtype = ops->operand};
    void *padded = NULL, *middle = NULL; /* zeroed as they come, which is the row of padding */
    status_t status = ops->allocate(MEMORY_DEVICE, (size_t)count * width * sizeof(float), &padded, error);
    if (status == STATUS_OK)
        status =
            ops->allocate(MEMORY_DEVICE, (size_t)count * hidden * dtype_bytes(ops->operand), &middle, error);
    if (status == STATUS_OK) {
        ops->copy(team, padded, rows, (size_t)n * width * sizeof(float));
        ops->linear(team, d->text_in, padded, (int64_t)width, count, &active, middle, (int64_t)hidden);
        ops->linear(team, d->text_out, middle, (int64_t)hidden, count, &plain, out, (int64_t)hidden);
        status = ops->wait(team, error);
    } else {
        error_prefix(error, "%d rows of text", count);
    }
    ops->release(MEMORY_DEVICE, middle);
    ops->release(MEMORY_DEVICE, padded);
    return status;
}

static bool is_wanted(const struct denoiser *d, const bool *wanted, int block)
{
    return d->blocks[block] && (!wanted || wanted[block]);
}

status_t denoiser_context_create(const struct denoiser *d, struct team *team, const float *text, int n,
                                 int text_length, struct denoiser_context **context, struct error *error)
{
    return denoiser_context_create_of(d, team, text, n, text_length, NULL, context, error);
}

status_t denoiser_context_create_of(const struct denoiser *d, struct team *team, const float *text, int n,
                                    int text_length, const bool *wanted, struct denoiser_context **context,
                                    struct error *error)
{
    const struct ops *ops = d->ops;
    int64_t hidden = d->config.hidden;
    int layers = d->config.layers, held = 0, rows = denoiser_text_rows(n, text_length);
    for (int i = 0; i < layers; i++) held += is_wanted(d, wanted, i);
    size_t block = (size_t)rows * 2 * (size_t)hidden * dtype_bytes(ops->operand);
    struct denoiser_context *c = calloc(1, sizeof *c + (size_t)layers * sizeof *c->key_value);
    status_t status = c ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory");
    if (status == STATUS_OK && held)
        status = ops->allocate(MEMORY_DEVICE, (size_t)held * block, &c->memory, error);
    if (status != STATUS_OK) {
        free(c);
        error_prefix(error, "keys and values of %d rows of text", rows);
        return status;
    }
    c->denoiser = d;
    c->rows = rows;
    c->last_logit = rows > n ? (float)log((double)(text_length - n)) : 0;
    char *at = c->memory;
    const struct epilogue operands = {.y_dtype = ops->operand};
    for (int i = 0; i < layers; i++) {
        const struct block *b = d->blocks[i];
        if (!is_wanted(d, wanted, i)) continue;
        ops->linear(team, b->text_kv, text, hidden, rows, &operands, at, 2 * hidden);
        ops->rms_norm(team, at, 2 * hidden, rows, (int)hidden, d->config.eps, b->text_norm_k, at, 2 * hidden,
                      ops->operand);
        c->key_value[i] = at;
        at += block;
    }
    *context = c;
    return STATUS_OK;
}

void denoiser_context_destroy(struct denoiser_context *context)
{
    if (!context) return;
    context->denoiser->ops->release(MEMORY_DEVICE, context->memory);
    free(context);
}

const struct denoiser *denoiser_of(const struct denoiser_context *context)
{
    return context->denoiser;
}

/* --------------------------------------------------------------------------------------------------- time */

/* Sinusoid (cosines first, frequencies 10000^(-k/half) in float32 as in get_timestep_embedding), then two
 * layers; a single row, kept in float32 throughout. */
void denoiser_time(const struct denoiser *d, struct team *team, float timestep,
                   const struct denoiser_modulation *out)
{
    int half = d->config.freq_dim / 2;
    int64_t hidden = d->config.hidden;
    float *wave = out->wave, *first = d->time_scratch, *active = first + hidden;
    for (int k = 0; k < half; k++) {
        float exponent = (float)(-log(10000.0)) * (float)k / (float)half;
        float angle = timestep * (float)exp((double)exponent);
        wave[k] = (float)cos((double)angle);
        wave[half + k] = (float)sin((double)angle);
    }
    const struct ops *ops = d->ops;
    ops->linear(team, d->time_in, wave, 2 * half, 1, &(struct epilogue){.kind = EPILOGUE_SILU}, first,
                hidden);
    ops->linear(team, d->time_out, first, hidden, 1, &(struct epilogue){0}, out->output, hidden);
    ops->silu(team, out->output, hidden, active);
    ops->linear(team, d->time_proj, active, hidden, 1, &(struct epilogue){0}, out->blocks, 6 * hidden);
}

/* --------------------------------------------------------------------------------------- input and output */

static struct patching patching_of(const struct denoiser_config *c, const struct token_grid *grid,
                                   int channels)
{
    return (struct patching){channels,   grid->frames, grid->height, grid->width,
                             c->patch_t, c->patch_y,   c->patch_x};
}

void denoiser_embed(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                    const float *latent, float *x)
{
    const struct denoiser_config *c = &d->config;
    const struct patching patching = patching_of(c, &work->grid, c->in_channels);
    int64_t width = (int64_t)c->in_channels * c->patch_t * c->patch_y * c->patch_x;
    d->ops->cut_patches(team, &patching, latent, work->patches, DTYPE_F32);
    d->ops->linear(team, d->patch_embed, work->patches, width, token_count(&work->grid),
                   &(struct epilogue){0}, x, c->hidden);
}

void denoiser_output(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                     const float *modulation, const float *x, float *velocity)
{
    const struct denoiser_config *c = &d->config;
    const struct patching patching = patching_of(c, &work->grid, c->out_channels);
    int rows = token_count(&work->grid), hidden = c->hidden;
    float *shift = work->modulation, *scale = shift + hidden; /* table order: shift, scale */
    const float one[2] = {1, 1};
    d->ops->lincomb(team, 2, one, (const float *[]){d->output_table, modulation}, hidden, shift);
    d->ops->lincomb(team, 2, one, (const float *[]){d->output_table + hidden, modulation}, hidden, scale);
    d->ops->layer_norm(team, x, hidden, rows, hidden, c->eps, 1, scale, shift, work->norm, hidden,
                       d->ops->operand);
    int64_t width = (int64_t)c->out_channels * c->patch_t * c->patch_y * c->patch_x;
    d->ops->linear(team, d->output, work->norm, hidden, rows, &(struct epilogue){.x_dtype = d->ops->operand},
                   work->patches, width);
    d->ops->join_patches(team, &patching, work->patches, velocity);
}

/* ------------------------------------------------------------------------------------------------- blocks */

/* Where q, k and v of a block lie, and the rotary tables of their rows. */
struct qkv {
    void *q, *k, *v;
    int64_t stride;
    const float *cosines, *sines;
};

static struct qkv qkv_of(const struct denoiser *d, const struct denoiser_work *work)
{
    int64_t hidden = d->config.hidden, first = (int64_t)work->first_row * d->config.head_dim / 2;
    return (struct qkv){.q = work->qkv,
                        .k = memory_at(work->qkv, d->ops->operand, hidden),
                        .v = memory_at(work->qkv, d->ops->operand, 2 * hidden),
                        .stride = 3 * hidden,
                        .cosines = work->cosines + first,
                        .sines = work->sines + first};
}

static void project(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                    const struct linear *linear, void *y)
{
    const struct epilogue operands = {.x_dtype = d->ops->operand, .y_dtype = d->ops->operand};
    d->ops->linear(team, linear, work->norm, d->config.hidden, work->rows, &operands, y,
                   3 * (int64_t)d->config.hidden);
}

static void turn(const struct denoiser *d, struct team *team, const struct qkv *t, int rows, void *x,
                 const float *norm)
{
    const struct denoiser_config *c = &d->config;
    d->ops->rms_norm_rope(team, x, t->stride, rows, c->heads, c->head_dim, c->eps, norm, t->cosines, t->sines,
                          d->ops->operand);
}

/* Of a shard of the rows each leaves as soon as it is there, while the next one is computed. v first, as it can go as the
 * product leaves it; k last, of which attention can begin with a part. */
static void give_qkv(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                     const struct block *b, const struct qkv *t)
{
    project(d, team, work, b->v, t->v);
    ulysses_give(work->ulysses, team, ULYSSES_V, t->v, t->stride);
    project(d, team, work, b->q, t->q);
    turn(d, team, t, work->rows, t->q, b->norm_q);
    ulysses_give(work->ulysses, team, ULYSSES_Q, t->q, t->stride);
    project(d, team, work, b->k, t->k);
    turn(d, team, t, work->rows, t->k, b->norm_k);
    ulysses_give(work->ulysses, team, ULYSSES_K, t->k, t->stride);
}

/* The own heads over all rows, group by group, of which each leaves while the next one is attended for. */
static void attend_for_heads(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                             struct attention *attention)
{
    struct ulysses *u = work->ulysses;
    for (int group = 0; group < ulysses_groups(u); group++) {
        ulysses_heads(u, team, group, attention);
        d->ops->attention(team, attention);
        ulysses_back(u, group);
    }
    ulysses_rows(u, team, work->attended, d->config.hidden);
}

static void self_attention(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                           const struct block *b, int rows, const float *gate, float *x)
{
    const struct denoiser_config *c = &d->config;
    const struct ops *ops = d->ops;
    const struct qkv t = qkv_of(d, work);
    int64_t hidden = c->hidden;
    struct attention attention = {.q = t.q,
                                  .k = t.k,
                                  .v = t.v,
                                  .out = work->attended,
                                  .dtype = ops->operand,
                                  .q_stride = t.stride,
                                  .k_stride = t.stride,
                                  .v_stride = t.stride,
                                  .out_stride = hidden,
                                  .q_rows = rows,
                                  .kv_rows = rows,
                                  .heads = c->heads,
                                  .head_dim = c->head_dim,
                                  .scale = d->attention_scale};
    if (work->ulysses) {
        give_qkv(d, team, work, b, &t);
        attend_for_heads(d, team, work, &attention);
    } else {
        project(d, team, work, b->qkv, t.q);
        turn(d, team, &t, rows, t.q, b->norm_q);
        turn(d, team, &t, rows, t.k, b->norm_k);
        ops->attention(team, &attention);
    }
    struct epilogue gated = {
        .kind = EPILOGUE_GATE_ADD, .other = x, .other_stride = hidden, .gate = gate, .x_dtype = ops->operand};
    ops->linear(team, b->out, work->attended, hidden, rows, &gated, x, hidden);
}

/* input: of the type input_dtype. */
static void cross_attention(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                            const struct block *b, const struct denoiser_context *context,
                            const void *key_value, int rows, const void *input, dtype_t input_dtype, float *x)
{
    const struct denoiser_config *c = &d->config;
    const struct ops *ops = d->ops;
    int64_t hidden = c->hidden;
    void *q = work->qkv;
    ops->linear(team, b->text_q, input, hidden, rows,
                &(struct epilogue){.x_dtype = input_dtype, .y_dtype = ops->operand}, q, hidden);
    ops->rms_norm(team, q, hidden, rows, c->hidden, c->eps, b->text_norm_q, q, hidden, ops->operand);
    ops->attention(team, &(struct attention){.q = q,
                                             .k = key_value,
                                             .v = memory_at(key_value, ops->operand, hidden),
                                             .out = work->attended,
                                             .dtype = ops->operand,
                                             .q_stride = hidden,
                                             .k_stride = 2 * hidden,
                                             .v_stride = 2 * hidden,
                                             .out_stride = hidden,
                                             .q_rows = rows,
                                             .kv_rows = context->rows,
                                             .heads = c->heads,
                                             .head_dim = c->head_dim,
                                             .scale = d->attention_scale,
                                             .last_logit = context->last_logit});
    struct epilogue add = {.kind = EPILOGUE_ADD, .other = x, .other_stride = hidden, .x_dtype = ops->operand};
    ops->linear(team, b->text_result, work->attended, hidden, rows, &add, x, hidden);
}

static void feed_forward(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                         const struct block *b, int rows, const float *gate, float *x)
{
    int64_t hidden = d->config.hidden, wide = d->config.ffn_dim;
    dtype_t operand = d->ops->operand;
    const struct epilogue active = {.kind = EPILOGUE_GELU, .x_dtype = operand, .y_dtype = operand};
    for (int row = 0; row < rows; row += work->ffn_rows) {
        int count = rows - row < work->ffn_rows ? rows - row : work->ffn_rows;
        float *part = x + row * hidden;
        d->ops->linear(team, b->up, memory_at(work->norm, operand, row * hidden), hidden, count, &active,
                       work->middle, wide);
        struct epilogue gated = {.kind = EPILOGUE_GATE_ADD,
                                 .other = part,
                                 .other_stride = hidden,
                                 .gate = gate,
                                 .x_dtype = operand};
        d->ops->linear(team, b->down, work->middle, wide, count, &gated, part, hidden);
    }
}

static void run_block(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                      const struct denoiser_context *context, const float *modulation, float *x, int index)
{
    const struct block *b = d->blocks[index];
    const struct ops *ops = d->ops;
    int rows = work->rows, hidden = d->config.hidden;
    float eps = d->config.eps, *m = work->modulation;
    const float *shift1 = m, *scale1 = m + hidden, *gate1 = m + 2 * hidden;
    const float *shift2 = m + 3 * hidden, *scale2 = m + 4 * hidden, *gate2 = m + 5 * hidden;

    ops->lincomb(team, 2, (const float[]){1, 1}, (const float *[]){b->table, modulation}, 6 * (int64_t)hidden,
                 m);
    ops->layer_norm(team, x, hidden, rows, hidden, eps, 1, scale1, shift1, work->norm, hidden, ops->operand);
    self_attention(d, team, work, b, rows, gate1, x);

    const void *input = x;
    if (b->norm_scale) {
        ops->layer_norm(team, x, hidden, rows, hidden, eps, 0, b->norm_scale, b->norm_shift, work->norm,
                        hidden, ops->operand);
        input = work->norm;
    }
    cross_attention(d, team, work, b, context, context->key_value[index], rows, input,
                    b->norm_scale ? ops->operand : DTYPE_F32, x);

    ops->layer_norm(team, x, hidden, rows, hidden, eps, 1, scale2, shift2, work->norm, hidden, ops->operand);
    feed_forward(d, team, work, b, rows, gate2, x);
}

void denoiser_first_input(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                          const float *modulation, const float *x)
{
    int hidden = d->config.hidden;
    float *m = work->modulation;
    d->ops->lincomb(team, 2, (const float[]){1, 1}, (const float *[]){d->input_table, modulation},
                    2 * (int64_t)hidden, m);
    d->ops->layer_norm(team, x, hidden, token_count(&work->grid), hidden, d->config.eps, 1, m + hidden, m,
                       work->input, hidden, DTYPE_F32);
}

void denoiser_blocks(const struct denoiser *d, struct team *team, const struct denoiser_work *work,
                     const struct denoiser_context *context, const float *modulation, float *x, int first,
                     int count, _Atomic uint64_t *progress)
{
    for (int i = first; i < first + count && !(work->ulysses && ulysses_failed(work->ulysses)); i++) {
        run_block(d, team, work, context, modulation, x, i);
        if (progress) atomic_fetch_add_explicit(progress, 1, memory_order_relaxed);
    }
}
