/*
 * safetensors.h - one safetensors file: mapped, its header checked, its tensors listed. Used by checkpoint.c.
 *
 *     struct safetensors file;
 *     safetensors_open("vae/diffusion_pytorch_model.safetensors", &file, &error);
 *     for (size_t i = 0; i < file.count; i++) ... file.entries[i].name ...
 *     safetensors_close(&file);
 *
 * Layout of a file (github.com/huggingface/safetensors, README): a little-endian u64 N, N bytes of JSON, then
 * the data; offsets count from the end of the JSON, and the tensors fill the rest of the file without gap or
 * overlap.
 */
#ifndef REFRAIN_WORKER_MODEL_SAFETENSORS_H
#define REFRAIN_WORKER_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "worker/model/checkpoint.h"

/* What the format can store. Models are made of the three float kinds of dtype_t; golden data also of
 * integers. */
struct safetensors_type {
    const char *name;
    int bits;
    int dtype;        /* a dtype_t, or -1 */
    int integer_bits; /* > 0: an integer this wide, signed if is_signed; 0: not an integer */
    bool is_signed;
};

struct safetensors_entry {
    char *name;
    const struct safetensors_type *type;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    int64_t count;       /* elements */
    uint64_t begin, end; /* bytes of the file, from its start; end <= file_bytes */
};

struct safetensors {
    char *path;
    int fd;
    const unsigned char *map; /* [file_bytes], read-only */
    uint64_t file_bytes;
    struct safetensors_entry *entries; /* in the order of their data */
    size_t count;
};

/* On failure `file` is untouched and nothing stays open. */
status_t safetensors_open(const char *path, struct safetensors *file, struct error *error);
void safetensors_close(struct safetensors *file);

/* Whether the file still has the size it was opened with: reading a page that was cut off would raise SIGBUS.
 */
status_t safetensors_intact(const struct safetensors *file, struct error *error);

#endif
