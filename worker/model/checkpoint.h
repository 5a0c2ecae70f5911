/*
 * checkpoint.h - the tensors of one component directory of a published checkpoint, mapped and not copied.
 *
 *     struct checkpoint *c;
 *     checkpoint_open("models/reference/transformer", &c, &error);
 *     struct tensor w;
 *     checkpoint_tensor(c, "blocks.0.attn1.to_q.weight", 2, (int64_t[]){256, 256}, &w, &error);
 *     ... w.data, w.dtype ...
 *     checkpoint_forget(c, &w);        its pages may leave memory: a backend has its own copy
 *     checkpoint_close(c);             every w.data is gone
 *
 * Reads safetensors files, one or many: `<stem>.safetensors`, or the shards named by
 * `<stem>.safetensors.index.json`, stem being `diffusion_pytorch_model` or `model`. Opening checks every
 * header against the file's size before anything is believed: lengths, gaps and overlaps, shapes against byte
 * counts, duplicate names, missing shards. No tensor data is touched until a caller reads it, so a rank pages
 * in only its own blocks. Reading is safe from any thread.
 *
 * A file cut short while it is open is noticed by the next checkpoint_tensor. What remains: cut between that
 * call and the read, the kernel raises SIGBUS and the rank is lost, like a rank whose disk was pulled.
 */
#ifndef REFRAIN_WORKER_MODEL_CHECKPOINT_H
#define REFRAIN_WORKER_MODEL_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "kernels/ops.h"

struct checkpoint;

enum { TENSOR_MAX_RANK = 8 };

struct tensor {
    const void *data; /* row-major, little-endian; mapped, read-only, perhaps unaligned */
    dtype_t dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    int64_t count; /* elements */
};

status_t checkpoint_open(const char *directory, struct checkpoint **checkpoint, struct error *error);
/* The same for one file, whatever its name. */
status_t checkpoint_open_file(const char *path, struct checkpoint **checkpoint, struct error *error);
void checkpoint_close(struct checkpoint *checkpoint); /* NULL is fine */

/* The tensor, if it exists with exactly this shape and a dtype of float32, bfloat16 or float16; otherwise a
 * sentence with the file, the name, the shape found and the shape wanted. shape[i] < 0 accepts any size
 * there. */
status_t checkpoint_tensor(const struct checkpoint *checkpoint, const char *name, int rank,
                           const int64_t *shape, struct tensor *tensor, struct error *error);
bool checkpoint_has(const struct checkpoint *checkpoint, const char *name);

/* A whole integer or boolean tensor, widened, in memory the caller frees. Models have none; golden data has.
 */
status_t checkpoint_integers(const struct checkpoint *checkpoint, const char *name, int64_t **values,
                             int64_t *count, struct error *error);

/* Reads a whole tensor as float32 into `out` [count]. */
void tensor_to_f32(const struct tensor *tensor, float *out);

/* Lets the tensor's pages leave this process; reading it again is allowed and slow. */
void checkpoint_forget(const struct checkpoint *checkpoint, const struct tensor *tensor);

/* Bytes of tensor data and number of elements over all shards. */
uint64_t checkpoint_bytes(const struct checkpoint *checkpoint);
uint64_t checkpoint_elements(const struct checkpoint *checkpoint);

/* Writes one safetensors file with one float32 tensor; replaces the file only once it is whole (write, fsync,
 * rename). */
status_t safetensors_write_f32(const char *path, const char *name, int rank, const int64_t *shape,
                               const float *data, struct error *error);

#endif
