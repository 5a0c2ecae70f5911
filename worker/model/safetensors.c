/*
 * safetensors.c - see safetensors.h. No globals, no locks; a file is used by one thread at a time.
 *
 * Nothing in a header is believed before it is checked against the file's size, and no tensor byte is read
 * here.
 */
#include "worker/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A header of the largest published model is below 1 MiB; jansson needs some 30 times the text, so that a
 * file made to hurt costs half a gigabyte at most. */
enum { HEADER_MAX_BYTES = 16 << 20, LENGTH_BYTES = 8 };

static const struct safetensors_type TYPES[] = {
    {"F32", 32, DTYPE_F32, 0, false}, {"BF16", 16, DTYPE_BF16, 0, false},
    {"F16", 16, DTYPE_F16, 0, false}, {"F64", 64, -1, 0, false},
    {"C64", 64, -1, 0, false},        {"I64", 64, -1, 64, true},
    {"U64", 64, -1, 64, false},       {"I32", 32, -1, 32, true},
    {"U32", 32, -1, 32, false},       {"I16", 16, -1, 16, true},
    {"U16", 16, -1, 16, false},       {"I8", 8, -1, 8, true},
    {"U8", 8, -1, 8, false},          {"BOOL", 8, -1, 8, false},
    {"F8_E5M2", 8, -1, 0, false},     {"F8_E4M3", 8, -1, 0, false},
    {"F8_E8M0", 8, -1, 0, false},     {"F6_E2M3", 6, -1, 0, false},
    {"F6_E3M2", 6, -1, 0, false},     {"F4", 4, -1, 0, false},
    {"F8_E5M2FNUZ", 8, -1, 0, false}, {"F8_E4M3FNUZ", 8, -1, 0, false},
};

static const struct safetensors_type *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcmp(TYPES[i].name, name) == 0) return &TYPES[i];
    return NULL;
}

static uint64_t read_u64(const unsigned char *bytes)
{
    uint64_t value = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

/* Opens and maps a regular file. O_NONBLOCK: a FIFO put in a model's place must not hang the worker. */
static status_t map_file(const char *path, struct safetensors *file, struct error *error)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: cannot be opened: %m",
                         path);
    status_t status = STATUS_OK;
    if (fstat(fd, &info) != 0)
        status = error_set(error, STATUS_IO, "%s: cannot be examined: %m", path);
    else if (!S_ISREG(info.st_mode))
        status = error_set(error, STATUS_INVALID, "%s: is %s, not a file", path,
                           S_ISDIR(info.st_mode) ? "a directory" : "a device, pipe or socket");
    else if (info.st_size < LENGTH_BYTES + 2)
        status = error_set(error, STATUS_CORRUPT, "%s: has %jd bytes, too few for a safetensors file", path,
                           (intmax_t)info.st_size);
    if (status != STATUS_OK) goto fail;

    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        status = error_set(error, STATUS_IO, "%s: cannot be mapped: %m", path);
        goto fail;
    }
    file->fd = fd;
    file->map = map;
    file->file_bytes = (uint64_t)info.st_size;
    return STATUS_OK;

fail:
    close(fd);
    return status;
}

/* Reads a JSON array of non-negative integers; -1 if it is anything else or longer than `limit`. */
static int read_integers(const json_t *array, int limit, int64_t *out)
{
    if (!json_is_array(array) || json_array_size(array) > (size_t)limit) return -1;
    int count = (int)json_array_size(array);
    for (int i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, (size_t)i);
        if (!json_is_integer(item) || json_integer_value(item) < 0) return -1;
        out[i] = json_integer_value(item);
    }
    return count;
}

/* Fills in one entry from its JSON. `data_begin`: where in the file offsets count from. */
static status_t read_entry(const char *path, const char *name, const json_t *value, uint64_t data_begin,
                           uint64_t file_bytes, struct safetensors_entry *entry, struct error *error)
{
    const char *type_name = json_string_value(json_object_get(value, "dtype"));
    const struct safetensors_type *type = type_name ? find_type(type_name) : NULL;
    if (!type)
        return error_set(error, STATUS_CORRUPT,
                         "%s: tensor %s: dtype %s is not one of the safetensors format", path, name,
                         type_name ? type_name : "(none)");
    int64_t shape[TENSOR_MAX_RANK], offsets[2];
    int rank = read_integers(json_object_get(value, "shape"), TENSOR_MAX_RANK, shape);
    if (rank < 0)
        return error_set(error, STATUS_CORRUPT, "%s: tensor %s: shape is not a list of at most %d sizes",
                         path, name, TENSOR_MAX_RANK);
    if (read_integers(json_object_get(value, "data_offsets"), 2, offsets) != 2 || offsets[0] > offsets[1])
        return error_set(error, STATUS_CORRUPT, "%s: tensor %s: data_offsets is not a pair begin <= end",
                         path, name);

    int64_t count = 1, bits;
    bool overflow = false;
    for (int i = 0; i < rank; i++) overflow |= __builtin_mul_overflow(count, shape[i], &count);
    overflow |= __builtin_mul_overflow(count, (int64_t)type->bits, &bits);
    if (overflow || bits % 8 != 0)
        return error_set(error, STATUS_CORRUPT, "%s: tensor %s: its shape is larger than any file", path,
                         name);
    if (bits / 8 != offsets[1] - offsets[0])
        return error_set(error, STATUS_CORRUPT,
                         "%s: tensor %s: shape and dtype need %" PRId64 " bytes, data_offsets give %" PRId64,
                         path, name, bits / 8, offsets[1] - offsets[0]);
    if ((uint64_t)offsets[1] > file_bytes - data_begin)
        return error_set(error, STATUS_CORRUPT,
                         "%s: tensor %s: ends at byte %" PRId64 " of the data, the file has %" PRIu64
                         " (cut short?)",
                         path, name, offsets[1], file_bytes - data_begin);
    entry->name = strdup(name);
    if (!entry->name) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", path);
    entry->type = type;
    entry->rank = rank;
    memcpy(entry->shape, shape, sizeof shape);
    entry->count = count;
    entry->begin = data_begin + (uint64_t)offsets[0];
    entry->end = data_begin + (uint64_t)offsets[1];
    return STATUS_OK;
}

/* Empty tensors sort before the one whose first byte they share. */
static int compare_place(const void *a, const void *b)
{
    const struct safetensors_entry *left = a, *right = b;
    if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
    if (left->end != right->end) return left->end < right->end ? -1 : 1;
    return 0;
}

/* The tensors must tile the data exactly; this is also what finds overlaps and lost tails. */
static status_t check_places(const char *path, struct safetensors_entry *entries, size_t count,
                             uint64_t data_begin, uint64_t file_bytes, struct error *error)
{
    qsort(entries, count, sizeof *entries, compare_place);
    uint64_t expected = data_begin;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin < expected)
            return error_set(error, STATUS_CORRUPT, "%s: tensors %s and %s overlap", path,
                             entries[i - 1].name, entries[i].name);
        if (entries[i].begin > expected)
            return error_set(error, STATUS_CORRUPT,
                             "%s: %" PRIu64 " bytes before tensor %s belong to no tensor", path,
                             entries[i].begin - expected, entries[i].name);
        expected = entries[i].end;
    }
    if (expected != file_bytes)
        return error_set(error, STATUS_CORRUPT, "%s: %" PRIu64 " bytes at the end belong to no tensor", path,
                         file_bytes - expected);
    return STATUS_OK;
}

static void free_entries(struct safetensors_entry *entries, size_t count)
{
    for (size_t i = 0; entries && i < count; i++) free(entries[i].name);
    free(entries);
}

/* Turns the parsed header into `file->entries`. */
static status_t read_entries(const char *path, json_t *root, uint64_t data_begin, struct safetensors *file,
                             struct error *error)
{
    status_t status = STATUS_OK;
    size_t count = 0;
    struct safetensors_entry *entries = calloc(json_object_size(root) + 1, sizeof *entries);
    if (!entries) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", path);

    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        status = read_entry(path, name, value, data_begin, file->file_bytes, &entries[count], error);
        if (status != STATUS_OK) goto fail;
        count++;
    }
    status = check_places(path, entries, count, data_begin, file->file_bytes, error);
    if (status != STATUS_OK) goto fail;
    file->entries = entries;
    file->count = count;
    return STATUS_OK;

fail:
    free_entries(entries, count);
    return status;
}

static status_t read_header(const char *path, struct safetensors *file, struct error *error)
{
    uint64_t length = read_u64(file->map);
    if (length > file->file_bytes - LENGTH_BYTES)
        return error_set(error, STATUS_CORRUPT,
                         "%s: its header claims %" PRIu64 " bytes, the file has %" PRIu64, path, length,
                         file->file_bytes);
    if (length > HEADER_MAX_BYTES)
        return error_set(error, STATUS_CORRUPT,
                         "%s: its header of %" PRIu64 " bytes is larger than the limit of %d", path, length,
                         HEADER_MAX_BYTES);
    json_error_t reason;
    json_t *root =
        json_loadb((const char *)file->map + LENGTH_BYTES, (size_t)length, JSON_REJECT_DUPLICATES, &reason);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(error, STATUS_CORRUPT, "%s: its header is not a JSON object%s%s", path,
                         root ? "" : ": ", root ? "" : reason.text);
    }
    status_t status = read_entries(path, root, LENGTH_BYTES + length, file, error);
    json_decref(root);
    return status;
}

status_t safetensors_open(const char *path, struct safetensors *out, struct error *error)
{
    struct safetensors file = {.fd = -1, .path = strdup(path)};
    if (!file.path) return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", path);
    status_t status = map_file(path, &file, error);
    if (status != STATUS_OK) goto fail;
    status = read_header(path, &file, error);
    if (status != STATUS_OK) goto fail;
    *out = file;
    return STATUS_OK;

fail:
    safetensors_close(&file);
    return status;
}

void safetensors_close(struct safetensors *file)
{
    free_entries(file->entries, file->count);
    if (file->map) munmap((void *)file->map, (size_t)file->file_bytes);
    if (file->fd >= 0) close(file->fd);
    free(file->path);
}

status_t safetensors_intact(const struct safetensors *file, struct error *error)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0)
        return error_set(error, STATUS_IO, "%s: cannot be examined: %m", file->path);
    if ((uint64_t)info.st_size < file->file_bytes)
        return error_set(error, STATUS_CORRUPT, "%s: was cut from %" PRIu64 " to %jd bytes while in use",
                         file->path, file->file_bytes, (intmax_t)info.st_size);
    return STATUS_OK;
}
