/*
 * local.h - execution and memory of the backends that run on the host: ref and cpu. An op is done when it returns, and all
 * memory is the host's, so most of it does nothing. Contracts: kernels/ops.h.
 *
 *     const struct ops ops_ref = {.name = "ref", LOCAL_OPS, ...};
 */
#ifndef REFRAIN_KERNELS_LOCAL_H
#define REFRAIN_KERNELS_LOCAL_H

#include "kernels/ops.h"

status_t local_open(struct team *team, struct error *error);
void local_close(struct team *team);
status_t local_wait(struct team *team, struct error *error);
status_t local_allocate(enum memory kind, size_t bytes, void **memory, struct error *error);
void local_release(enum memory kind, void *memory);
void local_copy(struct team *team, void *to, const void *from, size_t bytes);
void local_copy_rows(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                     size_t row_bytes, int64_t rows);
void local_zero(struct team *team, void *memory, size_t bytes);
status_t local_copy_now(void *to, const void *from, size_t bytes, struct error *error);
void local_cut_patches(struct team *team, const struct patching *patching, const float *latent, void *rows,
                       dtype_t dtype);
void local_join_patches(struct team *team, const struct patching *patching, const float *rows, float *latent);

#define LOCAL_OPS                                                                                            \
    .local = true, .operand = DTYPE_F32, .open = local_open, .close = local_close, .wait = local_wait,       \
    .allocate = local_allocate, .release = local_release, .copy = local_copy, .copy_rows = local_copy_rows,  \
    .zero = local_zero, .copy_now = local_copy_now, .cut_patches = local_cut_patches,                        \
    .join_patches = local_join_patches

#endif
