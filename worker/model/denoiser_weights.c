/*
 * denoiser_weights.c - loads and checks the tensors of WanTransformer3DModel. Runs once per model on the
 * compute thread.
 *
 * One table of names and shapes per part of the model drives both loading and inspection, so that a model
 * that was inspected is a model that loads. A rank opens every shard's header but touches data of its own
 * blocks only; the mapped pages of a tensor are given back as soon as the backend has its own copy.
 */
#include "worker/model/denoiser_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/checkpoint.h"
#include "worker/model/vector.h"

enum { NAME_BYTES = 160 };

struct loader {
    const struct checkpoint *checkpoint;
    struct denoiser *d; /* NULL: inspect only */
    struct team *team;
    const char *prefix; /* "" or "blocks.7." */
    struct error *error;
};

static status_t find(const struct loader *l, const char *name, int rank, const int64_t *shape,
                     struct tensor *tensor)
{
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "%s%s", l->prefix, name);
    return checkpoint_tensor(l->checkpoint, full, rank, shape, tensor, l->error);
}

/* A float32 vector of `count` values, whatever the tensor's rank: shape gives it. */
static status_t load_vector(const struct loader *l, const char *name, int rank, const int64_t *shape,
                            float **out)
{
    struct tensor tensor;
    status_t status = find(l, name, rank, shape, &tensor);
    if (status != STATUS_OK || !l->d) return status;
    status = vector_load(l->d->ops, l->team, &tensor, out, l->error);
    if (status != STATUS_OK) {
        error_prefix(l->error, "%s%s", l->prefix, name);
        return status;
    }
    checkpoint_forget(l->checkpoint, &tensor);
    l->d->bytes += (size_t)tensor.count * sizeof(float);
    return STATUS_OK;
}

/* Stacks the rows of several tensors of equal type and width into one; `joined` is malloc'ed. */
static status_t stack(const struct loader *l, const struct tensor *parts, int count, int columns,
                      struct matrix *joined)
{
    size_t element = dtype_bytes(parts[0].dtype);
    int64_t total = 0;
    bool mixed = false;
    for (int i = 0; i < count; i++) total += parts[i].count, mixed |= parts[i].dtype != parts[0].dtype;
    if (mixed) element = sizeof(float);
    char *memory = malloc((size_t)total * element), *at = memory;
    if (!memory) return error_set(l->error, STATUS_NO_MEMORY, "no memory to stack weights of %s", l->prefix);
    for (int i = 0; i < count && !l->d->ops->paper; i++) {
        if (mixed)
            tensor_to_f32(&parts[i], (float *)(void *)at);
        else
            memcpy(at, parts[i].data, (size_t)parts[i].count * element);
        at += (size_t)parts[i].count * element;
        checkpoint_forget(l->checkpoint, &parts[i]);
    }
    *joined = (struct matrix){memory, mixed ? DTYPE_F32 : parts[0].dtype, (int)(total / columns), columns};
    return STATUS_OK;
}

enum { MOST_STACKED = 3 };

/* One dense layer made of `count` modules stacked by output: name.weight [out, in], name.bias [out]. `flat`
 * is the rank of the weight: 2, or 5 for the patch embedding, whose trailing dimensions are flattened into
 * `in`. */
static status_t load_linear(const struct loader *l, int count, const char *const *names, int out, int rank,
                            const int64_t *weight_shape, struct linear **linear)
{
    struct tensor weights[MOST_STACKED], biases[MOST_STACKED];
    char name[NAME_BYTES];
    int64_t in = 1;
    for (int i = 1; i < rank; i++) in *= weight_shape[i];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.weight", names[i]);
        status_t status = find(l, name, rank, weight_shape, &weights[i]);
        if (status != STATUS_OK) return status;
        snprintf(name, sizeof name, "%s.bias", names[i]);
        status = find(l, name, 1, (int64_t[]){out}, &biases[i]);
        if (status != STATUS_OK) return status;
    }
    if (!l->d) return STATUS_OK;

    struct matrix weight = {weights[0].data, weights[0].dtype, out, (int)in};
    struct matrix bias = {biases[0].data, biases[0].dtype, out, 1};
    void *own_weight = NULL, *own_bias = NULL;
    status_t status = STATUS_OK;
    if (count > 1) {
        status = stack(l, weights, count, (int)in, &weight);
        if (status != STATUS_OK) return status;
        own_weight = (void *)(uintptr_t)weight.data;
        status = stack(l, biases, count, 1, &bias);
        if (status != STATUS_OK) goto out;
        own_bias = (void *)(uintptr_t)bias.data;
    }
    status = l->d->ops->linear_create(&weight, &bias, linear, l->error);
    if (status != STATUS_OK) {
        error_prefix(l->error, "%s%s", l->prefix, names[0]);
        goto out;
    }
    l->d->bytes += l->d->ops->linear_bytes(*linear);
    if (count == 1) {
        checkpoint_forget(l->checkpoint, &weights[0]);
        checkpoint_forget(l->checkpoint, &biases[0]);
    }
out:
    free(own_bias);
    free(own_weight);
    return status;
}

/* load_linear for a single ordinary layer. */
static status_t load_layer(const struct loader *l, const char *name, int out, int in, struct linear **linear)
{
    return load_linear(l, 1, &name, out, 2, (int64_t[]){out, in}, linear);
}

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        status_t try_status = (call);                                                                        \
        if (try_status != STATUS_OK) return try_status;                                                      \
    } while (0)

/* One product is faster than three, but its parts can be sent away while the next ones are computed. */
static status_t cut_qkv(const struct loader *l, int hidden, struct block *b)
{
    const struct ops *ops = l->d->ops;
    TRY(ops->linear_part(b->qkv, 0, hidden, &b->q, l->error));
    TRY(ops->linear_part(b->qkv, hidden, hidden, &b->k, l->error));
    return ops->linear_part(b->qkv, 2 * hidden, hidden, &b->v, l->error);
}

static status_t load_block(const struct loader *l, const struct denoiser_config *c, struct block *b)
{
    const int64_t square[] = {c->hidden, c->hidden}, vector[] = {c->hidden};
    const char *const qkv[] = {"attn1.to_q", "attn1.to_k", "attn1.to_v"};
    const char *const kv[] = {"attn2.to_k", "attn2.to_v"};
    TRY(load_vector(l, "scale_shift_table", 3, (int64_t[]){1, 6, c->hidden}, &b->table));
    TRY(load_linear(l, 3, qkv, c->hidden, 2, square, &b->qkv));
    if (l->d) TRY(cut_qkv(l, c->hidden, b));
    TRY(load_vector(l, "attn1.norm_q.weight", 1, vector, &b->norm_q));
    TRY(load_vector(l, "attn1.norm_k.weight", 1, vector, &b->norm_k));
    TRY(load_layer(l, "attn1.to_out.0", c->hidden, c->hidden, &b->out));
    if (c->cross_attn_norm) {
        TRY(load_vector(l, "norm2.weight", 1, vector, &b->norm_scale));
        TRY(load_vector(l, "norm2.bias", 1, vector, &b->norm_shift));
    }
    TRY(load_layer(l, "attn2.to_q", c->hidden, c->hidden, &b->text_q));
    TRY(load_linear(l, 2, kv, c->hidden, 2, square, &b->text_kv));
    TRY(load_vector(l, "attn2.norm_q.weight", 1, vector, &b->text_norm_q));
    TRY(load_vector(l, "attn2.norm_k.weight", 1, vector, &b->text_norm_k));
    TRY(load_layer(l, "attn2.to_out.0", c->hidden, c->hidden, &b->text_result));
    TRY(load_layer(l, "ffn.net.0.proj", c->ffn_dim, c->hidden, &b->up));
    TRY(load_layer(l, "ffn.net.2", c->hidden, c->ffn_dim, &b->down));
    return STATUS_OK;
}

static status_t load_ends(const struct loader *l, const struct denoiser_config *c, struct denoiser *d)
{
    const char *const patch = "patch_embedding";
    const int64_t patch_shape[] = {c->hidden, c->in_channels, c->patch_t, c->patch_y, c->patch_x};
    int out = c->out_channels * c->patch_t * c->patch_y * c->patch_x;
    TRY(load_linear(l, 1, &patch, c->hidden, 5, patch_shape, &d->patch_embed));
    TRY(load_layer(l, "condition_embedder.time_embedder.linear_1", c->hidden, c->freq_dim, &d->time_in));
    TRY(load_layer(l, "condition_embedder.time_embedder.linear_2", c->hidden, c->hidden, &d->time_out));
    TRY(load_layer(l, "condition_embedder.time_proj", 6 * c->hidden, c->hidden, &d->time_proj));
    TRY(load_layer(l, "condition_embedder.text_embedder.linear_1", c->hidden, c->text_dim, &d->text_in));
    TRY(load_layer(l, "condition_embedder.text_embedder.linear_2", c->hidden, c->hidden, &d->text_out));
    TRY(load_vector(l, "scale_shift_table", 3, (int64_t[]){1, 2, c->hidden}, &d->output_table));
    TRY(load_vector(l, "blocks.0.scale_shift_table", 3, (int64_t[]){1, 6, c->hidden}, &d->input_table));
    TRY(load_layer(l, "proj_out", out, c->hidden, &d->output));
    if (!l->d) return STATUS_OK;
    void *scratch;
    TRY(d->ops->allocate(MEMORY_DEVICE, 2 * (size_t)c->hidden * sizeof(float), &scratch, l->error));
    d->time_scratch = scratch;
    return STATUS_OK;
}

static status_t load_part(struct loader *l, const struct denoiser_config *config,
                          const struct denoiser_part *part)
{
    struct denoiser dummy;
    struct block none;
    l->prefix = "";
    if (part->ends) TRY(load_ends(l, config, l->d ? l->d : &dummy));
    for (int i = 0; i < config->layers; i++) {
        char prefix[32];
        if (part->wanted && !part->wanted[i]) continue;
        snprintf(prefix, sizeof prefix, "blocks.%d.", i);
        l->prefix = prefix;
        if (l->d && !(l->d->blocks[i] = calloc(1, sizeof(struct block))))
            return error_set(l->error, STATUS_NO_MEMORY, "no memory for block %d", i);
        TRY(load_block(l, config, l->d ? l->d->blocks[i] : &none));
    }
    return STATUS_OK;
}

status_t denoiser_load(const char *directory, const struct denoiser_config *config, const struct ops *ops,
                       struct team *team, const struct denoiser_part *part, struct denoiser **denoiser,
                       struct error *error)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open(directory, &checkpoint, error));
    struct denoiser *d = calloc(1, sizeof *d + (size_t)config->layers * sizeof *d->blocks);
    status_t status = d ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for the denoiser");
    if (status == STATUS_OK) {
        d->config = *config;
        d->ops = ops;
        d->attention_scale = (float)(1.0 / sqrt(config->head_dim));
        struct loader l = {.checkpoint = checkpoint, .d = d, .team = team, .error = error};
        status = load_part(&l, config, part);
    }
    checkpoint_close(checkpoint);
    if (status != STATUS_OK) {
        denoiser_destroy(d);
        return status;
    }
    *denoiser = d;
    return STATUS_OK;
}

status_t denoiser_inspect(const char *directory, const struct denoiser_config *config, struct error *error)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open(directory, &checkpoint, error));
    struct loader l = {.checkpoint = checkpoint, .error = error};
    status_t status = load_part(&l, config, &(struct denoiser_part){.wanted = NULL, .ends = true});
    checkpoint_close(checkpoint);
    return status;
}

size_t denoiser_bytes(const struct denoiser *denoiser)
{
    return denoiser->bytes;
}

static void destroy_block(const struct ops *ops, struct block *b)
{
    if (!b) return;
    struct linear *layers[] = {b->q,      b->k,       b->v,           b->qkv, b->out,
                               b->text_q, b->text_kv, b->text_result, b->up,  b->down};
    float *vectors[] = {b->table,      b->norm_q,      b->norm_k,     b->norm_scale,
                        b->norm_shift, b->text_norm_q, b->text_norm_k};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) ops->linear_destroy(layers[i]);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) ops->release(MEMORY_DEVICE, vectors[i]);
    free(b);
}

void denoiser_destroy(struct denoiser *d)
{
    if (!d) return;
    struct linear *layers[] = {d->patch_embed, d->time_in,  d->time_out, d->time_proj,
                               d->text_in,     d->text_out, d->output};
    for (int i = 0; i < d->config.layers; i++) destroy_block(d->ops, d->blocks[i]);
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) d->ops->linear_destroy(layers[i]);
    d->ops->release(MEMORY_DEVICE, d->time_scratch);
    d->ops->release(MEMORY_DEVICE, d->output_table);
    d->ops->release(MEMORY_DEVICE, d->input_table);
    free(d);
}
