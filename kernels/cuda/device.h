/*
 * device.h - the one GPU of this process: which it is, its memory, and the first thing that went wrong with it.
 *
 *     if (device_open(&error) != STATUS_OK) return error.status;         the sentence says what is missing, and what to do
 *     device_allocate(MEMORY_DEVICE, bytes, &memory, &error);
 *     if (!device_try("linear", cublas_or_cuda_code)) return;            noted; every later wait tells it
 *
 * A rank is a process and has one GPU, so this is state of the process. Which GPU: REFRAIN_GPU if it is set; else the
 * first that no other rank of this host holds, beginning with the one of this rank's local number. A rank that takes a
 * lost one's place is thereby given the GPU that became free.
 *
 * CUDA's errors stay: after the first nothing on the device can be trusted, so all later work is skipped, and memory is
 * no longer given back one by one (that could wait for ever); the process is to be replaced.
 *
 * Any thread. Locks: one mutex over opening and over the sentence.
 */
#ifndef REFRAIN_KERNELS_CUDA_DEVICE_H
#define REFRAIN_KERNELS_CUDA_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/ops.h"

enum {
    DEVICE_NAME_BYTES = 64,
    DEVICE_OLDEST = 80 /* compute capability times 10: bf16 and asynchronous copies */
};

/* What it is. */
struct device_identity {
    char name[DEVICE_NAME_BYTES];
    int capability; /* compute capability times 10 */
    uint64_t memory_bytes;
};

/* Whether this machine has a GPU that device_open could take; opens and holds nothing. */
status_t device_usable(struct error *error);

/* Takes a GPU for this process, or finds it taken already; each needs its device_close, the last of which forgets the
 * device and its error. Makes it the calling thread's device. */
status_t device_open(struct error *error);
void device_close(void);

/* Makes the open device the calling thread's; cheap when it is already. */
void device_enter(void);

void device_describe(struct device_identity *identity);
int device_number(void); /* CUDA's, of the open device */

/* Bytes on the device: all, and what is free now. */
status_t device_memory(size_t *free_bytes, size_t *total_bytes, struct error *error);

/* As of struct ops, but not zeroed (upload.h does that). */
status_t device_allocate(enum memory kind, size_t bytes, void **memory, struct error *error);
void device_release(enum memory kind, void *memory);

/* False if `code` (a cudaError_t) or an earlier one is an error; the first is kept. what: the op. */
bool device_try(const char *what, int code);
/* The same for a failure that CUDA has no code for. */
void device_fail(status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* STATUS_OK, or the first failure with its sentence. */
status_t device_status(struct error *error);

/* From here on this thread records ops and runs none: what is refused to it, by device_try or device_fail, is no failure of
 * the device. After the first refusal nothing more is tried, and device_recorded, which ends this, says why. */
void device_record(void);
status_t device_recorded(struct error *error);

#endif
