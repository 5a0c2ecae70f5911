/* api.h - what the stand-in exports: the part of nccl.h that is used here, by the same names. */
#ifndef REFRAIN_FAKENCCL_API_H
#define REFRAIN_FAKENCCL_API_H

#include "tests/fakegpu/nccl/fakenccl.h"

int ncclGetVersion(int *version);
int ncclGetUniqueId(struct nccl_id *id);
int ncclCommInitRankConfig(struct comm **comm, int ranks, struct nccl_id id, int rank,
                           struct nccl_config *config);
int ncclCommGetAsyncError(struct comm *comm, int *result);
int ncclCommAbort(struct comm *comm);
int ncclCommDestroy(struct comm *comm);
int ncclCommCount(const struct comm *comm, int *ranks);
int ncclCommUserRank(const struct comm *comm, int *rank);
int ncclGroupStart(void);
int ncclGroupEnd(void);
int ncclSend(const void *memory, size_t count, int type, int peer, struct comm *comm, void *stream);
int ncclRecv(void *memory, size_t count, int type, int peer, struct comm *comm, void *stream);
const char *ncclGetErrorString(int result);
const char *ncclGetLastError(const struct comm *comm);

/* Is the calling thread between ncclGroupStart and ncclGroupEnd? */
bool calls_in_group(void);

/* Of libcudart; the second only of ours: work that, unlike a host function, may touch device memory where that is
 * protected (REFRAIN_FAKEGPU_PROTECT). */
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *argument);
int fakegpu_submit(void *stream, const char *name, void (*run)(void *), const void *data, size_t bytes)
    __attribute__((weak));

#endif
