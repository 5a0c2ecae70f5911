/*
 * upload.h - what is done on the device outside any team's order: zeroing new memory, bringing weights, copies.
 *
 *     upload_open(&error);
 *     upload_zero(memory, bytes, &error);
 *     upload_weights(&matrix, padded, memory, &error);        rounded to bf16, rows of `padded` elements
 *     upload_close();
 *
 * Weights go from the checkpoint's mapping through pinned buffers, rounded on the way, without a second copy of them on
 * the host. One lane for the process, which exists between the first open and the last close. Any thread; a mutex is
 * held meanwhile.
 */
#ifndef REFRAIN_KERNELS_CUDA_UPLOAD_H
#define REFRAIN_KERNELS_CUDA_UPLOAD_H

#include "kernels/ops.h"

status_t upload_open(struct error *error);
void upload_close(void);

/* All return when it is done. */
status_t upload_zero(void *memory, size_t bytes, struct error *error);
/* As of struct ops: any memory to any. Others get their turn between pieces. */
status_t upload_copy(void *to, const void *from, size_t bytes, struct error *error);
/* to [w->rows, padded], zeros beyond w->columns; padded at least that. dtype: of `to`, f32 or bf16. */
status_t upload_weights(const struct matrix *w, int64_t padded, dtype_t dtype, void *to, struct error *error);

#endif
