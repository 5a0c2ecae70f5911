/*
 * cudnn.h - a lane's attention by cuDNN: the default on Hopper and later where it is installed, since the instructions of
 * our own kernel (mma.sync) cannot reach what these GPUs can do.
 *
 *     cudnn_open(&lane->cudnn, &error);
 *     if (!cudnn_attention(lane, &a)) ... our own kernel
 *
 * REFRAIN_ATTENTION: `auto` (not set): cuDNN from compute capability 9.0 on; where it is missing, too old, or refuses a
 * shape, our own kernel computes, and the log says why, once. `own`: never cuDNN. `cudnn`: on every GPU, and what keeps it
 * from an attention that suits it is an error. Suits: bf16, no bias, no last_logit, heads of a multiple of 8 up to 128, 16-byte rows.
 *
 * The library is loaded and a shape planned when they first occur, also while ops are recorded; plans are kept, so that
 * equal shapes give equal bits. Other numbers of rows may give a row other bits: cuDNN may choose another engine.
 */
#ifndef REFRAIN_KERNELS_CUDA_CUDNN_H
#define REFRAIN_KERNELS_CUDA_CUDNN_H

#include "kernels/cuda/lane.h"

struct cudnn;

/* *cudnn is NULL where our own kernel computes every attention. The lane's thread, its device opened. */
status_t cudnn_open(struct cudnn **cudnn, struct error *error);
void cudnn_close(struct cudnn *cudnn); /* NULL is fine */

/* False: nothing was done, and our own kernel is to compute it. True: launched, or the device knows the failure. */
bool cudnn_attention(struct lane *lane, const struct attention *a);

/* Of the library that computes attention here, 91900 for 9.19.0, loading it if need be; 0: our own kernel does. */
int cudnn_version(struct cudnn *cudnn, void *stream);

struct cudnn_choices {
    int version;          /* of the library; 0: not loaded */
    int planned, refused; /* shapes */
    uint64_t
        fingerprint; /* of the library's version, shapes and their engines; their order does not matter */
};
struct cudnn_choices cudnn_choices(const struct cudnn *cudnn);

#endif
