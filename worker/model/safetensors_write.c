/*
 * safetensors_write.c - one float32 tensor as a safetensors file, whole or not at all. Any thread; no state.
 */
#include "worker/model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The length, the JSON and its padding: data then begins at a multiple of 8, as the format's own library does
 * it. */
static status_t make_header(const char *path, const char *name, int rank, const int64_t *shape, int64_t bytes,
                            char **header, size_t *header_bytes, struct error *error)
{
    json_t *sizes = json_array();
    for (int i = 0; i < rank; i++) json_array_append_new(sizes, json_integer(shape[i]));
    json_t *root =
        json_pack("{s:{s:s}, s:{s:s, s:o, s:[I, I]}}", "__metadata__", "format", "pt", name, "dtype", "F32",
                  "shape", sizes, "data_offsets", (json_int_t)0, (json_int_t)bytes);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text)
        return error_set(error, STATUS_INVALID, "%s: tensor name is not UTF-8, or out of memory", path);

    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    char *out = malloc(8 + padded);
    if (!out) {
        free(text);
        return error_set(error, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    for (int i = 0; i < 8; i++) out[i] = (char)(padded >> (8 * i) & 0xff);
    memcpy(out + 8, text, length);
    memset(out + 8 + length, ' ', padded - length);
    free(text);
    *header = out;
    *header_bytes = 8 + padded;
    return STATUS_OK;
}

static bool write_all(int fd, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t written = write(fd, at, bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        at += written;
        bytes -= (size_t)written;
    }
    return true;
}

/* Makes a rename durable: the directory's entry is data of the directory. */
static void sync_directory_of(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

status_t safetensors_write_f32(const char *path, const char *name, int rank, const int64_t *shape,
                               const float *data, struct error *error)
{
    int64_t bytes = sizeof *data;
    bool bad = rank < 0 || rank > TENSOR_MAX_RANK;
    for (int i = 0; !bad && i < rank; i++)
        bad = shape[i] < 0 || __builtin_mul_overflow(bytes, shape[i], &bytes);
    if (bad) return error_set(error, STATUS_INVALID, "%s: tensor %s has no possible shape", path, name);

    char temporary[PATH_MAX], *header = NULL;
    size_t header_bytes = 0;
    /* Writers of the same path may be threads of one process: mkstemp makes the name, not the pid. */
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= sizeof temporary)
        return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", path, PATH_MAX);
    status_t status = make_header(path, name, rank, shape, bytes, &header, &header_bytes, error);
    if (status != STATUS_OK) return status;

    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
        goto no_file;
    }
    if (!write_all(fd, header, header_bytes) || !write_all(fd, data, (size_t)bytes) ||
        fchmod(fd, 0644) != 0 || fsync(fd) != 0) {
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
        close(fd);
        goto remove_file;
    }
    if (close(fd) != 0 || rename(temporary, path) != 0) {
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
        goto remove_file;
    }
    sync_directory_of(path);
    goto no_file;

remove_file:
    unlink(temporary);
no_file:
    free(header);
    return status;
}
