/*
 * host.h - execution and memory of the backends that run on the host: ref and cpu. An op is done when it returns, and all
 * memory is the host's, so most of it does nothing. Contracts: kernels/ops.h.
 *
 *     const struct ops ops_ref = {.name = "ref", HOST_OPS, ...};
 */
#ifndef REFRAIN_KERNELS_HOST_H
#define REFRAIN_KERNELS_HOST_H

#include "kernels/ops.h"

status_t host_open(struct team *team, struct error *error);
void host_close(struct team *team);
status_t host_wait(struct team *team, struct error *error);
status_t host_allocate(enum memory kind, size_t bytes, void **memory, struct error *error);
void host_release(enum memory kind, void *memory);
void host_copy(struct team *team, void *to, const void *from, size_t bytes);
void host_copy_rows(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                    size_t row_bytes, int64_t rows);
void host_zero(struct team *team, void *memory, size_t bytes);
void host_cut_patches(struct team *team, const struct patching *patching, const float *latent, void *rows,
                      dtype_t dtype);
void host_join_patches(struct team *team, const struct patching *patching, const float *rows, float *latent);

#define HOST_OPS                                                                                             \
    .operand = DTYPE_F32, .open = host_open, .close = host_close, .wait = host_wait,                         \
    .allocate = host_allocate, .release = host_release, .copy = host_copy, .copy_rows = host_copy_rows,      \
    .zero = host_zero, .cut_patches = host_cut_patches, .join_patches = host_join_patches

#endif
