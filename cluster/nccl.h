/*
 * nccl.h - the few calls of CUDA's runtime and of NCCL that the fabric makes, found at run time.
 *
 *     struct nccl nccl;
 *     if (nccl_load(&nccl, &error) != STATUS_OK) ...             not installed, or too old: one sentence
 *     int result = nccl.comm_init(&comm, 2, id, 0, &config);     ncclCommInitRankConfig
 *     if (result != NCCL_SUCCESS) ... nccl.error_string(result)
 *
 * So one worker program runs everywhere, and is built where neither is installed. Types and numbers below are
 * facts of the two libraries' binary interface (CUDA 12 and 13, NCCL 2.19 and later); nccl.c checks them
 * against the real headers where it is compiled with those. Streams, events and communicators are `void *`.
 */
#ifndef REFRAIN_CLUSTER_NCCL_H
#define REFRAIN_CLUSTER_NCCL_H

#include <stddef.h>
#include "base/status.h"

enum { CUDA_SUCCESS = 0, CUDA_NOT_READY = 600 };   /* cudaError_t */
enum { CUDA_STREAM_NON_BLOCKING = 1 };             /* cudaStreamNonBlocking: apart from the default stream */
enum { CUDA_EVENT_DISABLE_TIMING = 2 };            /* cudaEventDisableTiming */
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };   /* ncclResult_t */
enum { NCCL_UINT8 = 1 };                           /* ncclDataType_t */
enum { NCCL_ID_BYTES = 128, NCCL_OLDEST = 21900 }; /* version as major * 10000 + minor * 100 + patch */
enum { NCCL_IMPLICIT_ORDER = 22600 };              /* from here on NCCL_LAUNCH_ORDER_IMPLICIT is known */

struct nccl_id {
    char internal[NCCL_ID_BYTES];
};

/* ncclConfig_t as of 2.19; later versions only append, and read what `size` says is there. */
struct nccl_config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
};
#define NCCL_CONFIG_MAGIC 0xcafebeef

struct nccl {
    int version;
    /* libcudart */
    int (*device_count)(int *count);                     /* cudaGetDeviceCount */
    int (*set_device)(int device);                       /* cudaSetDevice */
    int (*allocate)(void **memory, size_t bytes);        /* cudaMalloc */
    int (*release)(void *memory);                        /* cudaFree */
    int (*stream_create)(void **stream, unsigned flags); /* cudaStreamCreateWithFlags */
    int (*stream_destroy)(void *stream);                 /* cudaStreamDestroy */
    int (*event_create)(void **event, unsigned flags);   /* cudaEventCreateWithFlags */
    int (*event_record)(void *event, void *stream);      /* cudaEventRecord */
    int (*event_query)(void *event);                     /* cudaEventQuery */
    int (*event_destroy)(void *event);                   /* cudaEventDestroy */
    const char *(*cuda_error_string)(int error);         /* cudaGetErrorString */
    /* libnccl */
    int (*get_version)(int *version);         /* ncclGetVersion */
    int (*get_unique_id)(struct nccl_id *id); /* ncclGetUniqueId */
    int (*comm_init)(void **comm, int ranks, struct nccl_id id, int rank,
                     struct nccl_config *config); /* ncclCommInitRankConfig */
    int (*comm_abort)(void *comm);                /* ncclCommAbort */
    int (*comm_state)(void *comm, int *result);   /* ncclCommGetAsyncError */
    int (*send)(const void *memory, size_t count, int type, int peer, void *comm,
                void *stream);                                                                /* ncclSend */
    int (*receive)(void *memory, size_t count, int type, int peer, void *comm, void *stream); /* ncclRecv */
    const char *(*error_string)(int result); /* ncclGetErrorString */
};

/* Opens both libraries and leaves them open for the life of the process: NCCL has threads of its own. */
status_t nccl_load(struct nccl *nccl, struct error *error);

/* A configuration for communicators whose calls do not block, of few thread blocks. */
void nccl_config_init(struct nccl_config *config);

#endif
