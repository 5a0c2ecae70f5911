/*
 * text_encoder.c - UMT5 encoder over the op table.
 *
 * One thread at a time encodes (its team does the work); weights are read-only after loading. Tensors and
 * formulas are those of transformers' models/umt5/modeling_umt5.py. What is easy to get wrong: logits are not
 * scaled by 1/sqrt(d), the position bias belongs to every layer (in T5 only to the first), GELU is the tanh
 * kind, embeddings are not scaled, and there is no bias vector anywhere.
 *
 * The embedding table is the larger part of a small encoder and two of eleven GB of the real one. It stays in
 * the mapped checkpoint, and a prompt touches only its own rows: the host gathers them, and the position bias,
 * and brings both to the device at once.
 */
#include "worker/model/text_encoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "kernels/memory.h"
#include "worker/model/checkpoint.h"
#include "worker/model/vector.h"

enum { MAX_TOKENS = 512, NAME_BYTES = 96 };

/* A layer's matrices and its plain arrays. inner = heads * head_dim. */
enum { Q, K, V, O, WI_0, WI_1, WO, LINEARS };             /* q, k, v, wi_*: [.., width]; wi_0 is the gate */
enum { ATTENTION_NORM, FFN_NORM, POSITION_BIAS, FLOATS }; /* [width], [width], [buckets, heads] */

struct text_layer {
    struct linear *linear[LINEARS];
    float *floats[FLOATS]; /* norms are on the device, the bias is the host's */
};

struct text_encoder {
    const struct ops *ops;
    struct text_config config;
    struct checkpoint *checkpoint; /* open as long as the encoder: the embedding is read from it */
    struct tensor embedding;       /* [vocabulary, width] */
    struct text_layer *layers;     /* [config.layers] */
    float *final_norm;             /* [width], on the device */
    size_t bytes;
};

/* ------------------------------------------------------------------------------------------------ loading */

/* What the shapes of tensors are made of. */
enum dimension { DIM_NONE, DIM_INNER, DIM_WIDTH, DIM_FFN, DIM_BUCKETS, DIM_HEADS };

/* The tensors of a layer, and where they go. */
static const struct layer_tensor {
    const char *name;
    enum dimension rows, columns; /* columns DIM_NONE: a vector */
    bool is_linear;
    int index; /* into struct text_layer's linear or floats */
} layer_tensors[] = {
    {"layer.0.SelfAttention.q", DIM_INNER, DIM_WIDTH, true, Q},
    {"layer.0.SelfAttention.k", DIM_INNER, DIM_WIDTH, true, K},
    {"layer.0.SelfAttention.v", DIM_INNER, DIM_WIDTH, true, V},
    {"layer.0.SelfAttention.o", DIM_WIDTH, DIM_INNER, true, O},
    {"layer.0.SelfAttention.relative_attention_bias", DIM_BUCKETS, DIM_HEADS, false, POSITION_BIAS},
    {"layer.0.layer_norm", DIM_WIDTH, DIM_NONE, false, ATTENTION_NORM},
    {"layer.1.DenseReluDense.wi_0", DIM_FFN, DIM_WIDTH, true, WI_0},
    {"layer.1.DenseReluDense.wi_1", DIM_FFN, DIM_WIDTH, true, WI_1},
    {"layer.1.DenseReluDense.wo", DIM_WIDTH, DIM_FFN, true, WO},
    {"layer.1.layer_norm", DIM_WIDTH, DIM_NONE, false, FFN_NORM},
};
enum { LAYER_TENSORS = sizeof layer_tensors / sizeof *layer_tensors };

static int64_t dimension_of(const struct text_config *c, enum dimension dimension)
{
    switch (dimension) {
    case DIM_INNER:
        return (int64_t)c->heads * c->head_dim;
    case DIM_WIDTH:
        return c->width;
    case DIM_FFN:
        return c->ffn_dim;
    case DIM_BUCKETS:
        return c->buckets;
    case DIM_HEADS:
        return c->heads;
    default:
        return 0;
    }
}

static status_t layer_tensor(const struct checkpoint *checkpoint, const struct text_config *config, int layer,
                             const struct layer_tensor *what, struct tensor *tensor, struct error *error)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "encoder.block.%d.%s.weight", layer, what->name);
    int64_t shape[] = {dimension_of(config, what->rows), dimension_of(config, what->columns)};
    return checkpoint_tensor(checkpoint, name, what->columns == DIM_NONE ? 1 : 2, shape, tensor, error);
}

/* Tied under two names; either is published. */
static status_t embedding_tensor(const struct checkpoint *checkpoint, const struct text_config *config,
                                 struct tensor *tensor, struct error *error)
{
    const char *name = "shared.weight", *other = "encoder.embed_tokens.weight";
    if (!checkpoint_has(checkpoint, name) && checkpoint_has(checkpoint, other)) name = other;
    return checkpoint_tensor(checkpoint, name, 2, (int64_t[]){config->vocabulary, config->width}, tensor,
                             error);
}

static status_t final_norm_tensor(const struct checkpoint *checkpoint, const struct text_config *config,
                                  struct tensor *tensor, struct error *error)
{
    return checkpoint_tensor(checkpoint, "encoder.final_layer_norm.weight", 1, (int64_t[]){config->width},
                             tensor, error);
}

status_t text_encoder_inspect(const char *directory, const struct text_config *config, struct error *error)
{
    struct checkpoint *checkpoint;
    struct tensor tensor;
    status_t status = checkpoint_open(directory, &checkpoint, error);
    if (status != STATUS_OK) return status;
    status = embedding_tensor(checkpoint, config, &tensor, error);
    if (status == STATUS_OK) status = final_norm_tensor(checkpoint, config, &tensor, error);
    for (int i = 0; i < config->layers; i++)
        for (int k = 0; k < LAYER_TENSORS && status == STATUS_OK; k++)
            status = layer_tensor(checkpoint, config, i, &layer_tensors[k], &tensor, error);
    checkpoint_close(checkpoint);
    return status;
}

/* *floats: [tensor->count], the host's, owned by the caller. */
static status_t load_floats(struct text_encoder *e, const struct tensor *tensor, float **floats,
                            struct error *error)
{
    *floats = malloc((size_t)tensor->count * sizeof **floats);
    if (*floats == NULL)
        return error_set(error, STATUS_NO_MEMORY, "text encoder: %lld weights do not fit in memory",
                         (long long)tensor->count);
    tensor_to_f32(tensor, *floats);
    e->bytes += (size_t)tensor->count * sizeof **floats;
    return STATUS_OK;
}

static status_t load_norm(struct text_encoder *e, struct team *team, const struct tensor *tensor,
                          float **norm, struct error *error)
{
    e->bytes += (size_t)tensor->count * sizeof **norm;
    return vector_load(e->ops, team, tensor, norm, error);
}

static status_t load_layer(struct text_encoder *e, struct team *team, int index, struct error *error)
{
    struct text_layer *layer = &e->layers[index];
    for (int k = 0; k < LAYER_TENSORS; k++) {
        const struct layer_tensor *what = &layer_tensors[k];
        struct tensor t;
        status_t status = layer_tensor(e->checkpoint, &e->config, index, what, &t, error);
        if (status != STATUS_OK) return status;
        if (what->is_linear) {
            const struct matrix w = {t.data, t.dtype, (int)t.shape[0], (int)t.shape[1]};
            status = e->ops->linear_create(&w, NULL, &layer->linear[what->index], error);
            if (status == STATUS_OK) e->bytes += e->ops->linear_bytes(layer->linear[what->index]);
        } else if (what->index == POSITION_BIAS) {
            status = load_floats(e, &t, &layer->floats[what->index], error);
        } else {
            status = load_norm(e, team, &t, &layer->floats[what->index], error);
        }
        if (status != STATUS_OK) return status;
        checkpoint_forget(e->checkpoint, &t);
    }
    return STATUS_OK;
}

status_t text_encoder_load(const char *directory, const struct text_config *config, const struct ops *ops,
                           struct team *team, struct text_encoder **encoder, struct error *error)
{
    struct tensor norm;
    status_t status = STATUS_OK;
    struct text_encoder *e = calloc(1, sizeof *e);
    if (e != NULL) e->layers = calloc((size_t)config->layers, sizeof *e->layers);
    if (e == NULL || e->layers == NULL) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: a text encoder does not fit in memory", directory);
        goto fail;
    }
    e->ops = ops;
    e->config = *config;
    status = checkpoint_open(directory, &e->checkpoint, error);
    if (status == STATUS_OK) status = embedding_tensor(e->checkpoint, config, &e->embedding, error);
    if (status == STATUS_OK) status = final_norm_tensor(e->checkpoint, config, &norm, error);
    if (status == STATUS_OK) status = load_norm(e, team, &norm, &e->final_norm, error);
    for (int i = 0; i < config->layers && status == STATUS_OK; i++) status = load_layer(e, team, i, error);
    if (status != STATUS_OK) goto fail;
    *encoder = e;
    return STATUS_OK;

fail:
    text_encoder_destroy(e);
    return status;
}

void text_encoder_destroy(struct text_encoder *encoder)
{
    if (encoder == NULL) return;
    for (int i = 0; encoder->layers != NULL && i < encoder->config.layers; i++) {
        for (int k = 0; k < LINEARS; k++)
            if (encoder->layers[i].linear[k] != NULL)
                encoder->ops->linear_destroy(encoder->layers[i].linear[k]);
        encoder->ops->release(MEMORY_DEVICE, encoder->layers[i].floats[ATTENTION_NORM]);
        encoder->ops->release(MEMORY_DEVICE, encoder->layers[i].floats[FFN_NORM]);
        free(encoder->layers[i].floats[POSITION_BIAS]);
    }
    if (encoder->ops) encoder->ops->release(MEMORY_DEVICE, encoder->final_norm);
    free(encoder->layers);
    checkpoint_close(encoder->checkpoint);
    free(encoder);
}

size_t text_encoder_bytes(const struct text_encoder *encoder)
{
    return encoder->bytes;
}

/* ----------------------------------------------------------------------------------------------- encoding */

/* Working memory of one prompt, on the device. n: its tokens; inner: heads * head_dim. */
struct scratch {
    float *normed;    /* [n, width] */
    float *q, *k, *v; /* [n, inner] */
    float *wide;      /* [n, inner] the attention's output, then [n, ffn] the hidden values */
    float *bias;      /* [layers, heads, 2 n - 1]: by the distance key - query, -(n - 1) ... n - 1 */
};

/* Distances get buckets of their own up to a quarter of them, then logarithmically wider ones; keys behind
 * the query use the upper half. float32, as the reference: the borders depend on it. */
static int bucket_of(const struct text_config *c, int distance)
{
    int half = c->buckets / 2, exact = half / 2, size = abs(distance);
    int side = distance > 0 ? half : 0;
    if (size < exact) return side + size;
    float ratio = (float)log((float)size / (float)exact) / (float)log((double)c->max_distance / exact);
    int wide = exact + (int)(ratio * (float)(half - exact));
    return side + (wide < half ? wide : half - 1);
}

static size_t bias_floats(const struct text_config *c, int count)
{
    return (size_t)c->layers * (size_t)c->heads * (size_t)(2 * count - 1);
}

static void lay_out(struct arena *arena, const struct text_config *c, int count, struct scratch *s)
{
    size_t n = (size_t)count, inner = (size_t)c->heads * (size_t)c->head_dim, ffn = (size_t)c->ffn_dim;
    s->normed = arena_take(arena, n * (size_t)c->width, sizeof(float));
    s->q = arena_take(arena, n * inner, sizeof(float));
    s->k = arena_take(arena, n * inner, sizeof(float));
    s->v = arena_take(arena, n * inner, sizeof(float));
    s->wide = arena_take(arena, n * (ffn > inner ? ffn : inner), sizeof(float));
    s->bias = arena_take(arena, bias_floats(c, count), sizeof(float));
}

/* Every layer has a table [buckets, heads] of its own. */
static void bias_fill(const struct text_encoder *e, int count, float *bias)
{
    int heads = e->config.heads;
    for (int layer = 0; layer < e->config.layers; layer++)
        for (int h = 0; h < heads; h++)
            for (int distance = 1 - count; distance < count; distance++)
                *bias++ = e->layers[layer].floats[POSITION_BIAS][bucket_of(&e->config, distance) * heads + h];
}

/* rows += layer(rows); rows: [count, width]. */
static void run_layer(const struct text_encoder *e, int index, struct team *team, int count,
                      const struct scratch *s, float *rows)
{
    const struct text_config *c = &e->config;
    const struct text_layer *layer = &e->layers[index];
    const struct ops *ops = e->ops;
    int64_t width = c->width, inner = (int64_t)c->heads * c->head_dim, ffn = c->ffn_dim;
    const struct epilogue add = {.kind = EPILOGUE_ADD, .other = rows, .other_stride = width};
    const struct epilogue gate = {.kind = EPILOGUE_GELU};
    const struct epilogue times = {.kind = EPILOGUE_MULTIPLY, .other = s->wide, .other_stride = ffn};
    const struct epilogue plain = {.kind = EPILOGUE_NONE};

    ops->rms_norm(team, rows, width, count, c->width, c->eps, layer->floats[ATTENTION_NORM], s->normed, width,
                  DTYPE_F32);
    ops->linear(team, layer->linear[Q], s->normed, width, count, &plain, s->q, inner);
    ops->linear(team, layer->linear[K], s->normed, width, count, &plain, s->k, inner);
    ops->linear(team, layer->linear[V], s->normed, width, count, &plain, s->v, inner);
    const struct attention attention = {
        .q = s->q,
        .k = s->k,
        .v = s->v,
        .out = s->wide,
        .q_stride = inner,
        .k_stride = inner,
        .v_stride = inner,
        .out_stride = inner,
        .q_rows = count,
        .kv_rows = count,
        .heads = c->heads,
        .head_dim = c->head_dim,
        .scale = 1.0f,
        .bias = s->bias + (int64_t)index * c->heads * (2 * count - 1),
    };
    ops->attention(team, &attention);
    ops->linear(team, layer->linear[O], s->wide, inner, count, &add, rows, width);

    ops->rms_norm(team, rows, width, count, c->width, c->eps, layer->floats[FFN_NORM], s->normed, width,
                  DTYPE_F32);
    ops->linear(team, layer->linear[WI_0], s->normed, width, count, &gate, s->wide, ffn);
    ops->linear(team, layer->linear[WI_1], s->normed, width, count, &times, s->wide, ffn);
    ops->linear(team, layer->linear[WO], s->wide, ffn, count, &add, rows, width);
}

/* out: [width], row `id` of the embedding. */
static void embed(const struct text_encoder *e, int32_t id, float *out)
{
    struct tensor row = e->embedding;
    row.data = (const char *)row.data + (size_t)id * (size_t)e->config.width * dtype_bytes(row.dtype);
    row.rank = 1;
    row.shape[0] = row.count = e->config.width;
    tensor_to_f32(&row, out);
}

struct text_run {
    const struct text_encoder *encoder;
    struct arena arena; /* of the scratch */
    struct scratch scratch;
    float *
        gathered; /* the host's: rows [count, width] as they begin, then the bias; read until the next wait */
    float *rows;  /* [count, width], the caller's */
    int count, layer;
};

static status_t check_ids(const struct text_config *c, const int32_t *ids, int count, struct error *error)
{
    if (count < 1 || count > MAX_TOKENS)
        return error_set(error, STATUS_INVALID, "text encoder: %d tokens, must be 1 to %d", count,
                         MAX_TOKENS);
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= c->vocabulary)
            return error_set(error, STATUS_INVALID, "text encoder: token %d has id %d, the vocabulary has %d",
                             i, ids[i], c->vocabulary);
    return STATUS_OK;
}

/* Embedding and bias, gathered by the host, are on their way to the device. */
static void bring(const struct text_run *r, struct team *team, const int32_t *ids)
{
    const struct text_encoder *e = r->encoder;
    const struct text_config *c = &e->config;
    size_t floats = (size_t)r->count * (size_t)c->width;
    float *bias = r->gathered + floats;
    for (int i = 0; i < r->count; i++) embed(e, ids[i], r->gathered + (int64_t)i * c->width);
    bias_fill(e, r->count, bias);
    e->ops->copy(team, r->rows, r->gathered, floats * sizeof(float));
    e->ops->copy(team, r->scratch.bias, bias, bias_floats(c, r->count) * sizeof(float));
}

status_t text_encoder_begin(const struct text_encoder *encoder, struct team *team, const int32_t *ids,
                            int count, float *rows, struct text_run **run, struct error *error)
{
    const struct text_config *c = &encoder->config;
    status_t status = check_ids(c, ids, count, error);
    if (status != STATUS_OK) return status;
    struct text_run *r = calloc(1, sizeof *r);
    size_t floats = (size_t)count * (size_t)c->width + bias_floats(c, count);
    if (r != NULL) r->gathered = malloc(floats * sizeof *r->gathered);
    if (r == NULL || r->gathered == NULL) {
        free(r);
        return error_set(error, STATUS_NO_MEMORY, "text encoder: no memory for a prompt of %d tokens", count);
    }
    r->encoder = encoder;
    r->rows = rows;
    r->count = count;
    lay_out(&r->arena, c, count, &r->scratch);
    status = memory_arena(encoder->ops, MEMORY_DEVICE, &r->arena, error);
    if (status != STATUS_OK) {
        error_prefix(error, "text encoder: %d tokens", count);
        text_encoder_end(r);
        return status;
    }
    lay_out(&r->arena, c, count, &r->scratch);
    bring(r, team, ids);
    *run = r;
    return STATUS_OK;
}

bool text_encoder_layer(struct text_run *r, struct team *team)
{
    const struct text_encoder *e = r->encoder;
    const struct text_config *c = &e->config;
    if (r->layer < c->layers) run_layer(e, r->layer++, team, r->count, &r->scratch, r->rows);
    if (r->layer < c->layers) return false;
    e->ops->rms_norm(team, r->rows, c->width, r->count, c->width, c->eps, e->final_norm, r->rows, c->width,
                     DTYPE_F32);
    return true;
}

void text_encoder_end(struct text_run *run)
{
    if (run == NULL) return;
    memory_give_back(run->encoder->ops, MEMORY_DEVICE, &run->arena);
    free(run->gathered);
    free(run);
}

status_t text_encoder_encode(const struct text_encoder *encoder, struct team *team, const int32_t *ids,
                             int count, float *rows, struct error *error)
{
    struct text_run *run;
    status_t status = text_encoder_begin(encoder, team, ids, count, rows, &run, error);
    if (status != STATUS_OK) return status;
    while (!text_encoder_layer(run, team)) continue;
    status = encoder->ops->wait(team, error);
    text_encoder_end(run);
    return status;
}
