/* tiny.c - see tiny.h. One thread. */
#include "tools/sim/tiny.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/model/safetensors.h"

/* Of "transformer", and of "transformer_2" where the small model has a second expert. */
#define WEIGHTS "diffusion_pytorch_model.safetensors"
#define CONFIG  "config.json"

static const char *const experts[] = {"transformer", "transformer_2"};
static const char *const linked[] = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "vae"};

enum { EXPERTS = 2, LINKED = sizeof linked / sizeof *linked, NAME_BYTES = 160, MOST_AXES = 8 };

/* A safetensors file as it grows: its header, and the values behind it. */
struct writer {
    json_t *header;
    float *values;
    size_t count, capacity;
    int64_t hidden, wanted; /* width of the source's hidden state, and of the new one */
};

/* Along an axis: those that are as long as the hidden state, or as the six vectors of its modulation. */
static int64_t new_length(const struct writer *w, int64_t length)
{
    return length == w->hidden || length == 6 * w->hidden ? length / w->hidden * w->wanted : length;
}

/* The first values along each axis; in, out: [from], [to] of this axis and the further ones. Returns behind them. */
static float *cut(const float *in, const int64_t *from, const int64_t *to, int axes, float scale, float *out)
{
    int64_t step = 1;
    if (axes == 0) {
        *out = *in * scale;
        return out + 1;
    }
    for (int i = 1; i < axes; i++) step *= from[i];
    for (int64_t i = 0; i < to[0]; i++) out = cut(in + i * step, from + 1, to + 1, axes - 1, scale, out);
    return out;
}

static status_t make_room(struct writer *w, size_t count, struct error *error)
{
    if (w->count + count <= w->capacity) return STATUS_OK;
    size_t capacity = 2 * (w->count + count);
    float *more = realloc(w->values, capacity * sizeof *more);
    if (!more) return error_set(error, STATUS_NO_MEMORY, "no memory for a tiny model");
    w->values = more;
    w->capacity = capacity;
    return STATUS_OK;
}

static status_t add(struct writer *w, const char *name, const struct safetensors *file,
                    const struct safetensors_entry *entry, float scale, struct error *error)
{
    struct tensor tensor = {.data = file->map + entry->begin,
                            .dtype = (dtype_t)entry->type->dtype,
                            .rank = entry->rank,
                            .count = entry->count};
    int64_t from[MOST_AXES], to[MOST_AXES];
    size_t count = 1;
    if (entry->type->dtype < 0 || entry->rank > MOST_AXES)
        return error_set(error, STATUS_INVALID, "%s: is not of floats along a few axes", entry->name);
    json_t *shape = json_array();
    for (int i = 0; i < entry->rank; i++) {
        from[i] = entry->shape[i];
        to[i] = new_length(w, from[i]);
        count *= (size_t)to[i];
        json_array_append_new(shape, json_integer(to[i]));
    }
    json_object_set_new(w->header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                  (json_int_t)(w->count * sizeof(float)),
                                  (json_int_t)((w->count + count) * sizeof(float))));
    float *whole = malloc((size_t)entry->count * sizeof *whole);
    status_t status = make_room(w, count, error);
    if (!whole) status = error_set(error, STATUS_NO_MEMORY, "no memory for a tiny model");
    if (status == STATUS_OK) {
        tensor_to_f32(&tensor, whole);
        cut(whole, from, to, entry->rank, scale, w->values + w->count);
        w->count += count;
    }
    free(whole);
    return status;
}

/* "blocks.7.attn1.to_q.weight": 7, and what comes behind the number. -1: not a block's. */
static int block_of(const char *name, const char **rest)
{
    int block, length;
    if (sscanf(name, "blocks.%d.%n", &block, &length) != 1) return -1;
    *rest = name + length;
    return block;
}

static status_t write_file(struct writer *w, const char *path, struct error *error)
{
    char *text = json_dumps(w->header, JSON_COMPACT);
    FILE *file = fopen(path, "wb");
    uint64_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    bool written = text && file && fwrite(&padded, sizeof padded, 1, file) == 1 &&
                   fprintf(file, "%-*s", (int)padded, text) == (int)padded &&
                   fwrite(w->values, sizeof *w->values, w->count, file) == w->count;
    free(text);
    if (file && fclose(file) != 0) written = false;
    return written ? STATUS_OK : error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
}

static status_t write_blocks(const struct safetensors *source, int held, int layers, struct writer *w,
                             struct error *error)
{
    char name[NAME_BYTES];
    const char *rest = "";
    status_t status = STATUS_OK;
    for (size_t i = 0; i < source->count && status == STATUS_OK; i++) {
        const struct safetensors_entry *entry = &source->entries[i];
        int block = block_of(entry->name, &rest);
        if (block < 0) status = add(w, entry->name, source, entry, 1, error);
        for (int to = block; block >= 0 && to < layers && status == STATUS_OK; to += held) {
            snprintf(name, sizeof name, "blocks.%d.%s", to, rest);
            status = add(w, name, source, entry, 1 - 0.4f * (float)to / (float)layers, error);
        }
    }
    return status;
}

static int count_blocks(const struct safetensors *source)
{
    const char *rest;
    int count = 0;
    for (size_t i = 0; i < source->count; i++) {
        int block = block_of(source->entries[i].name, &rest);
        if (block >= count) count = block + 1;
    }
    return count;
}

/* What stands in the source's config.json, and what the new one is to have. */
struct widths {
    int64_t hidden, wanted;
    int layers, heads, head_dim;
};

static status_t write_transformer(const char *from, const char *to, const struct widths *widths,
                                  struct error *error)
{
    char path[PATH_MAX];
    struct safetensors source;
    struct writer w = {.header = json_object(), .hidden = widths->hidden, .wanted = widths->wanted};
    snprintf(path, sizeof path, "%.4000s/" WEIGHTS, from);
    status_t status = safetensors_open(path, &source, error);
    if (status != STATUS_OK) goto out;
    int held = count_blocks(&source);
    status = held ? write_blocks(&source, held, widths->layers, &w, error)
                  : error_set(error, STATUS_INVALID, "%s: has no blocks", path);
    snprintf(path, sizeof path, "%.4000s/" WEIGHTS, to);
    if (status == STATUS_OK) status = write_file(&w, path, error);
    safetensors_close(&source);
out:
    free(w.values);
    json_decref(w.header);
    return status;
}

static int number(const json_t *config, const char *key)
{
    return (int)json_integer_value(json_object_get(config, key));
}

static status_t write_config(const char *from, const char *to, const struct tiny_shape *shape,
                             struct widths *widths, struct error *error)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/" CONFIG, from);
    json_t *config = json_load_file(path, 0, NULL);
    if (!config) return error_set(error, STATUS_IO, "%s: cannot be read", path);
    int heads = number(config, "num_attention_heads"), head_dim = number(config, "attention_head_dim");
    *widths = (struct widths){.hidden = heads * head_dim,
                              .layers = shape->layers ? shape->layers : number(config, "num_layers"),
                              .heads = shape->heads ? shape->heads : heads,
                              .head_dim = shape->head_dim ? shape->head_dim : head_dim};
    widths->wanted = widths->heads * widths->head_dim;
    json_object_set_new(config, "num_layers", json_integer(widths->layers));
    json_object_set_new(config, "num_attention_heads", json_integer(widths->heads));
    json_object_set_new(config, "attention_head_dim", json_integer(widths->head_dim));
    snprintf(path, sizeof path, "%.4000s/" CONFIG, to);
    bool written = json_dump_file(config, path, JSON_INDENT(2)) == 0;
    json_decref(config);
    if (!written) return error_set(error, STATUS_IO, "%s: cannot be written", path);
    if (widths->wanted > widths->hidden)
        return error_set(error, STATUS_INVALID, "%d heads of %d are more than %s has", widths->heads,
                         widths->head_dim, from);
    return STATUS_OK;
}

/* One expert: from its directory in the small model to a new one. */
static status_t make_expert(const char *from, const char *to, const struct tiny_shape *shape,
                            struct error *error)
{
    struct widths widths = {0};
    if (mkdir(to, 0700) != 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", to);
    status_t status = write_config(from, to, shape, &widths, error);
    return status == STATUS_OK ? write_transformer(from, to, &widths, error) : status;
}

status_t tiny_make(const char *source, const char *directory, const struct tiny_shape *shape,
                   struct error *error)
{
    char whole[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    status_t status = STATUS_OK;
    if (!realpath(source, whole)) return error_set(error, STATUS_NOT_FOUND, "%s: %m", source);
    if (mkdir(directory, 0700) != 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", directory);
    for (int i = 0; i < LINKED; i++) {
        snprintf(from, sizeof from, "%.3900s/%s", whole, linked[i]);
        snprintf(to, sizeof to, "%.3900s/%s", directory, linked[i]);
        if (symlink(from, to) != 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", to);
    }
    for (int i = 0; i < EXPERTS && status == STATUS_OK; i++) {
        snprintf(from, sizeof from, "%.3900s/%s", whole, experts[i]);
        snprintf(to, sizeof to, "%.3900s/%s", directory, experts[i]);
        if (access(from, F_OK) == 0) status = make_expert(from, to, shape, error);
    }
    return status;
}

void tiny_remove(const char *directory)
{
    char path[PATH_MAX];
    for (int i = 0; i < LINKED; i++) {
        snprintf(path, sizeof path, "%.3900s/%s", directory, linked[i]);
        unlink(path);
    }
    for (int i = 0; i < EXPERTS; i++) {
        snprintf(path, sizeof path, "%.3900s/%s/" WEIGHTS, directory, experts[i]);
        unlink(path);
        snprintf(path, sizeof path, "%.3900s/%s/" CONFIG, directory, experts[i]);
        unlink(path);
        snprintf(path, sizeof path, "%.3900s/%s", directory, experts[i]);
        rmdir(path);
    }
    rmdir(directory);
}
