/*
 * comm.c - communicators of the stand-in: made (in a thread of their own where calls must not block), asked,
 * aborted.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fakegpu/nccl/api.h"

int comm_fail(struct comm *comm, int result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(comm->error, sizeof comm->error, format, arguments);
    va_end(arguments);
    if (getenv("REFRAIN_FAKENCCL_VERBOSE"))
        fprintf(stderr, "fakenccl[%d] rank %d: %s\n", (int)getpid(), comm->rank, comm->error);
    atomic_store(&comm->state, result);
    return result;
}

int comm_check(struct comm *comm, const char *call)
{
    int state = atomic_load(&comm->state);
    if (state == NCCL_IN_PROGRESS) fault_lint("%s on a communicator that is still being made", call);
    if (fault_now_ns() < atomic_load(&comm->late_ns))
        fault_lint("%s on a communicator whose last call is not done yet", call);
    if (atomic_load(&comm->aborted)) fault_lint("%s on a communicator that is being aborted", call);
    return state;
}

EXPORT int ncclGetVersion(int *version)
{
    *version = world()->version;
    return NCCL_SUCCESS;
}

EXPORT int ncclGetUniqueId(struct nccl_id *id)
{
    uint8_t bytes[16];
    switch (fault_due("ncclGetUniqueId")) {
    case FAULT_HANG:
        fault_hang();
    case FAULT_FAIL:
        return SYSTEM_ERROR;
    case FAULT_NONE:
        break;
    }
    if (getentropy(bytes, sizeof bytes) != 0) return SYSTEM_ERROR;
    memset(id, 0, sizeof *id);
    for (int i = 0; i < 16; i++) snprintf(id->internal + 2 * i, 3, "%02x", bytes[i]);
    return NCCL_SUCCESS;
}

static int make(struct comm *comm)
{
    if (fault_due("init") != FAULT_NONE) return comm_fail(comm, SYSTEM_ERROR, "making it was to fail");
    int result = ring_attach(comm);
    atomic_store(&comm->state, result);
    return result;
}

static void *make_later(void *comm)
{
    make(comm);
    return NULL;
}

EXPORT int ncclCommInitRankConfig(struct comm **out, int ranks, struct nccl_id id, int rank,
                                  struct nccl_config *config)
{
    *out = NULL;
    if (config && config->magic != NCCL_CONFIG_MAGIC) return INVALID_ARGUMENT;
    if (ranks < 1 || ranks > RANKS_MAX || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    enum fault fault = fault_due("ncclCommInitRankConfig");
    if (fault == FAULT_HANG) fault_hang();
    if (fault == FAULT_FAIL) return UNHANDLED_CUDA_ERROR;
    struct comm *comm = calloc(1, sizeof *comm);
    if (!comm) return SYSTEM_ERROR;
    comm->id = id;
    comm->ranks = ranks;
    comm->rank = rank;
    comm->blocking = !config || config->blocking != 0;
    *out = comm;
    if (comm->blocking) return make(comm);
    atomic_store(&comm->state, NCCL_IN_PROGRESS);
    comm->making = pthread_create(&comm->maker, NULL, make_later, comm) == 0;
    return comm->making ? NCCL_IN_PROGRESS : SYSTEM_ERROR;
}

EXPORT int ncclCommGetAsyncError(struct comm *comm, int *result)
{
    *result = atomic_load(&comm->state);
    if (*result == NCCL_SUCCESS && fault_now_ns() < atomic_load(&comm->late_ns)) *result = NCCL_IN_PROGRESS;
    return NCCL_SUCCESS;
}

static int end(struct comm *comm)
{
    if (comm->making) pthread_join(comm->maker, NULL);
    while (atomic_load(&comm->operations) > 0) fault_nap_us(50);
    ring_detach(comm);
    free(comm);
    return NCCL_SUCCESS;
}

EXPORT int ncclCommAbort(struct comm *comm)
{
    if (calls_in_group()) fault_lint("ncclCommAbort inside a group");
    if (fault_due("ncclCommAbort") == FAULT_HANG) fault_hang();
    atomic_store(&comm->aborted, true);
    return end(comm);
}

EXPORT int ncclCommDestroy(struct comm *comm)
{
    if (calls_in_group()) fault_lint("ncclCommDestroy inside a group");
    return end(comm);
}

EXPORT int ncclCommCount(const struct comm *comm, int *ranks)
{
    *ranks = comm->ranks;
    return NCCL_SUCCESS;
}

EXPORT int ncclCommUserRank(const struct comm *comm, int *rank)
{
    *rank = comm->rank;
    return NCCL_SUCCESS;
}

EXPORT const char *ncclGetErrorString(int result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "the remote process exited or there was a network error",
                                        "in progress"};
    return result >= 0 && result < (int)(sizeof texts / sizeof *texts) ? texts[result] : "unknown result";
}

EXPORT const char *ncclGetLastError(const struct comm *comm)
{
    return comm ? comm->error : "";
}
