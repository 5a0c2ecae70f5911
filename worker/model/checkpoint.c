/*
 * checkpoint.c - see checkpoint.h: finds the files of a component, indexes their tensors by name, hands out
 * views.
 *
 * Files: safetensors.c. No globals, no locks; immutable once open.
 */
#include "worker/model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/model/safetensors.h"

enum { MAX_SHARDS = 4096, INDEX_MAX_BYTES = 64 << 20 };

struct place {
    const struct safetensors_entry *entry;
    const struct safetensors *file;
};

struct checkpoint {
    char *path; /* of the directory or file, for sentences */
    struct safetensors *files;
    size_t file_count;
    struct place *places; /* sorted by name */
    size_t place_count;
    uint64_t bytes, elements;
};

static int compare_names(const void *a, const void *b)
{
    const struct place *left = a, *right = b;
    return strcmp(left->entry->name, right->entry->name);
}

static int compare_name_to_place(const void *name, const void *place)
{
    return strcmp(name, ((const struct place *)place)->entry->name);
}

static const struct place *find(const struct checkpoint *c, const char *name)
{
    return bsearch(name, c->places, c->place_count, sizeof *c->places, compare_name_to_place);
}

/* ---------------------------------------------------------------------------------------------- opening */

/* Sorts all tensors of all files by name and refuses a name that two files have. */
static status_t index_tensors(struct checkpoint *c, struct error *error)
{
    size_t total = 0;
    for (size_t i = 0; i < c->file_count; i++) total += c->files[i].count;
    c->places = calloc(total + 1, sizeof *c->places);
    if (!c->places) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", c->path);
    for (size_t i = 0; i < c->file_count; i++)
        for (size_t j = 0; j < c->files[i].count; j++) {
            const struct safetensors_entry *entry = &c->files[i].entries[j];
            c->places[c->place_count++] = (struct place){entry, &c->files[i]};
            c->bytes += entry->end - entry->begin;
            c->elements += (uint64_t)entry->count;
        }
    qsort(c->places, c->place_count, sizeof *c->places, compare_names);
    for (size_t i = 1; i < c->place_count; i++)
        if (compare_names(&c->places[i - 1], &c->places[i]) == 0)
            return error_set(error, STATUS_CORRUPT, "%s: tensor %s is also in %s", c->places[i].file->path,
                             c->places[i].entry->name, c->places[i - 1].file->path);
    return STATUS_OK;
}

/* `count` paths, taken over; on success they are open and indexed. */
static status_t open_files(const char *path, char *const *paths, size_t count, struct checkpoint **out,
                           struct error *error)
{
    status_t status = STATUS_NO_MEMORY;
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path)) || !(c->files = calloc(count, sizeof *c->files))) {
        error_set(error, status, "%s: out of memory", path);
        goto fail;
    }
    for (size_t i = 0; i < count; i++) {
        status = safetensors_open(paths[i], &c->files[i], error);
        if (status != STATUS_OK) goto fail;
        c->file_count++;
    }
    status = index_tensors(c, error);
    if (status != STATUS_OK) goto fail;
    *out = c;
    return STATUS_OK;

fail:
    checkpoint_close(c);
    return status;
}

/* A shard is a plain file name beside its index: an index must not lead anywhere else. */
static bool is_plain_name(const char *name)
{
    size_t length = name ? strlen(name) : 0;
    static const char suffix[] = ".safetensors";
    return length > sizeof suffix - 1 && length <= NAME_MAX && name[0] != '.' && !strchr(name, '/') &&
           strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of a weight_map, sorted; `names` borrows from the map. */
static status_t list_shards(const char *index_path, const json_t *map, const char ***names, size_t *count,
                            struct error *error)
{
    size_t total = json_object_size(map), kept = 0;
    if (!json_is_object(map) || total == 0)
        return error_set(error, STATUS_CORRUPT, "%s: has no weight_map", index_path);
    const char **list = calloc(total, sizeof *list);
    if (!list) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", index_path);

    const char *tensor;
    json_t *value;
    size_t filled = 0;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!is_plain_name(name)) {
            error_set(error, STATUS_CORRUPT,
                      "%s: tensor %s: \"%s\" is not the name of a .safetensors file in the same directory",
                      index_path, tensor, name ? name : "(not a string)");
            free(list);
            return STATUS_CORRUPT;
        }
        list[filled++] = name;
    }
    qsort(list, filled, sizeof *list, compare_strings);
    for (size_t i = 0; i < filled; i++)
        if (i == 0 || strcmp(list[i], list[kept - 1]) != 0) list[kept++] = list[i];
    if (kept > MAX_SHARDS) {
        free(list);
        return error_set(error, STATUS_CORRUPT, "%s: names %zu shards, at most %d are supported", index_path,
                         kept, MAX_SHARDS);
    }
    *names = list;
    *count = kept;
    return STATUS_OK;
}

/* Every tensor must be in the shard the index names. */
static status_t check_weight_map(const struct checkpoint *c, const char *index_path, const json_t *map,
                                 struct error *error)
{
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const struct place *place = find(c, tensor);
        const char *shard = json_string_value(value);
        const char *found = place ? strrchr(place->file->path, '/') + 1 : NULL;
        if (!place || strcmp(found, shard) != 0)
            return error_set(error, STATUS_CORRUPT, "%s: tensor %s should be in %s and is not", index_path,
                             tensor, shard);
    }
    return STATUS_OK;
}

/* Opens the shards of a parsed index. */
static status_t open_shards(const char *directory, const char *index_path, const json_t *map,
                            struct checkpoint **out, struct error *error)
{
    const char **names = NULL;
    size_t count = 0, made = 0;
    char **paths = NULL;
    struct checkpoint *c = NULL;
    status_t status = list_shards(index_path, map, &names, &count, error);
    if (status != STATUS_OK) return status;

    status = STATUS_NO_MEMORY;
    paths = calloc(count, sizeof *paths);
    if (!paths) goto no_memory;
    for (; made < count; made++) {
        if (asprintf(&paths[made], "%s/%s", directory, names[made]) < 0) goto no_memory;
        if (access(paths[made], F_OK) != 0) {
            free(paths[made]);
            status = error_set(error, STATUS_NOT_FOUND,
                               "%s: shard %zu of %zu is missing (%s), named by the index file", directory,
                               made + 1, count, names[made]);
            goto done;
        }
    }
    status = open_files(directory, paths, count, &c, error);
    if (status != STATUS_OK) goto done;
    status = check_weight_map(c, index_path, map, error);
    if (status != STATUS_OK) goto done;
    *out = c;
    c = NULL;
    goto done;

no_memory:
    error_set(error, status, "%s: out of memory", directory);
done:
    checkpoint_close(c);
    for (size_t i = 0; paths && i < made; i++) free(paths[i]);
    free(paths);
    free(names);
    return status;
}

static status_t open_index(const char *directory, const char *index_path, struct checkpoint **out,
                           struct error *error)
{
    struct stat info;
    if (stat(index_path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > INDEX_MAX_BYTES)
        return error_set(error, STATUS_CORRUPT, "%s: is not a file of at most %d bytes", index_path,
                         INDEX_MAX_BYTES);
    json_error_t reason;
    json_t *root = json_load_file(index_path, JSON_REJECT_DUPLICATES, &reason);
    if (!root)
        return error_set(error, STATUS_CORRUPT, "%s: line %d: %s", index_path, reason.line, reason.text);
    status_t status = open_shards(directory, index_path, json_object_get(root, "weight_map"), out, error);
    json_decref(root);
    return status;
}

status_t checkpoint_open(const char *directory, struct checkpoint **out, struct error *error)
{
    /* Where a directory holds both, diffusers takes the index and transformers the single file; so do we. */
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors", "model.safetensors",
                                        "model.safetensors.index.json"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, names[i]) >= sizeof path)
            return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", directory,
                             PATH_MAX);
        if (access(path, F_OK) != 0) continue;
        bool is_index = strstr(names[i], ".index.json");
        return is_index ? open_index(directory, path, out, error) : checkpoint_open_file(path, out, error);
    }
    return error_set(
        error, STATUS_NOT_FOUND,
        "%s: has neither diffusion_pytorch_model.safetensors nor model.safetensors, nor an index of shards",
        directory);
}

status_t checkpoint_open_file(const char *path, struct checkpoint **out, struct error *error)
{
    char *copy = strdup(path);
    if (!copy) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", path);
    status_t status = open_files(path, &copy, 1, out, error);
    free(copy);
    return status;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->file_count; i++) safetensors_close(&c->files[i]);
    free(c->files);
    free(c->places);
    free(c->path);
    free(c);
}

/* ---------------------------------------------------------------------------------------------- reading */

/* "[256, 3, any]" into `text`. */
static const char *shape_text(int rank, const int64_t *shape, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < rank && used < bytes; i++) {
        const char *comma = i ? ", " : "";
        used += (size_t)(shape[i] < 0 ? snprintf(text + used, bytes - used, "%sany", comma)
                                      : snprintf(text + used, bytes - used, "%s%" PRId64, comma, shape[i]));
    }
    if (used < bytes) snprintf(text + used, bytes - used, "]");
    return text;
}

static status_t find_intact(const struct checkpoint *c, const char *name, const struct place **out,
                            struct error *error)
{
    const struct place *place = find(c, name);
    if (!place) return error_set(error, STATUS_NOT_FOUND, "%s: tensor %s is missing", c->path, name);
    status_t status = safetensors_intact(place->file, error);
    if (status == STATUS_OK) *out = place;
    return status;
}

status_t checkpoint_tensor(const struct checkpoint *c, const char *name, int rank, const int64_t *shape,
                           struct tensor *tensor, struct error *error)
{
    const struct place *place;
    status_t status = find_intact(c, name, &place, error);
    if (status != STATUS_OK) return status;
    const struct safetensors_entry *entry = place->entry;
    if (entry->type->dtype < 0)
        return error_set(error, STATUS_UNSUPPORTED, "%s: tensor %s is %s; F32, BF16 and F16 are supported",
                         place->file->path, name, entry->type->name);
    bool same = entry->rank == rank;
    for (int i = 0; same && i < rank; i++) same = shape[i] < 0 || shape[i] == entry->shape[i];
    if (!same) {
        char found[128], wanted[128];
        return error_set(error, STATUS_CORRUPT, "%s: tensor %s is %s, the configuration needs %s",
                         place->file->path, name, shape_text(entry->rank, entry->shape, found, sizeof found),
                         shape_text(rank, shape, wanted, sizeof wanted));
    }
    *tensor = (struct tensor){.data = place->file->map + entry->begin,
                              .dtype = (dtype_t)entry->type->dtype,
                              .rank = entry->rank,
                              .count = entry->count};
    memcpy(tensor->shape, entry->shape, sizeof tensor->shape);
    return STATUS_OK;
}

bool checkpoint_has(const struct checkpoint *c, const char *name)
{
    return find(c, name) != NULL;
}

status_t checkpoint_integers(const struct checkpoint *c, const char *name, int64_t **values, int64_t *count,
                             struct error *error)
{
    const struct place *place;
    status_t status = find_intact(c, name, &place, error);
    if (status != STATUS_OK) return status;
    const struct safetensors_type *type = place->entry->type;
    if (type->integer_bits == 0)
        return error_set(error, STATUS_INVALID, "%s: tensor %s is %s, not whole numbers", place->file->path,
                         name, type->name);
    int64_t *out = malloc(((size_t)place->entry->count + 1) * sizeof *out);
    if (!out)
        return error_set(error, STATUS_NO_MEMORY, "%s: tensor %s: out of memory", place->file->path, name);

    size_t width = (size_t)type->integer_bits / 8;
    const unsigned char *bytes = place->file->map + place->entry->begin;
    for (int64_t i = 0; i < place->entry->count; i++, bytes += width) {
        uint64_t value = 0;
        for (size_t j = width; j-- > 0;) value = value << 8 | bytes[j];
        if (type->is_signed && width < 8 && value >> (8 * width - 1)) value -= UINT64_C(1) << (8 * width);
        out[i] = (int64_t)value;
    }
    *values = out;
    *count = place->entry->count;
    return STATUS_OK;
}

/* IEEE half to single. The half's exponent and fraction, moved into place, read as a single 2^112 too small:
 * one exact multiplication repairs normal numbers and subnormals alike. */
static float half_to_float(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu, bits = magnitude << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    if (magnitude >= 0x7c00u) bits |= 0x7f800000u; /* infinity, NaN */
    bits |= (uint32_t)(half & 0x8000u) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void tensor_to_f32(const struct tensor *tensor, float *out)
{
    if (tensor->dtype == DTYPE_F32) {
        memcpy(out, tensor->data, (size_t)tensor->count * sizeof *out);
        return;
    }
    const unsigned char *bytes = tensor->data;
    for (int64_t i = 0; i < tensor->count; i++, bytes += 2) {
        uint16_t narrow;
        memcpy(&narrow, bytes, sizeof narrow);
        uint32_t wide = (uint32_t)narrow << 16;
        if (tensor->dtype == DTYPE_BF16)
            memcpy(&out[i], &wide, sizeof wide);
        else
            out[i] = half_to_float(narrow);
    }
}

void checkpoint_forget(const struct checkpoint *c, const struct tensor *tensor)
{
    if (tensor->count == 0) return;
    /* Whole pages, outwards: a neighbour's half page comes back from the page cache when it is read. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)tensor->data / page * page;
    uintptr_t end = (uintptr_t)tensor->data + (size_t)tensor->count * dtype_bytes(tensor->dtype);
    (void)c;
    madvise((void *)begin, end - begin, MADV_DONTNEED);
}

uint64_t checkpoint_bytes(const struct checkpoint *c)
{
    return c->bytes;
}

uint64_t checkpoint_elements(const struct checkpoint *c)
{
    return c->elements;
}
