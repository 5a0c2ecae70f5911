/* nccl.c - see nccl.h. Any thread; no state but what the dynamic linker keeps. */
#include "cluster/nccl.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

/* Against the real headers, where there are some. */
#if defined(REFRAIN_WITH_NCCL_HEADERS)
#include <cuda_runtime_api.h>
#include <nccl.h>
_Static_assert(CUDA_SUCCESS == (int)cudaSuccess && CUDA_NOT_READY == (int)cudaErrorNotReady, "cudaError_t");
_Static_assert(CUDA_STREAM_NON_BLOCKING == cudaStreamNonBlocking, "stream flags");
_Static_assert(CUDA_EVENT_DISABLE_TIMING == cudaEventDisableTiming, "event flags");
_Static_assert(NCCL_SUCCESS == (int)ncclSuccess && NCCL_IN_PROGRESS == (int)ncclInProgress, "ncclResult_t");
_Static_assert(NCCL_UINT8 == (int)ncclUint8, "ncclDataType_t");
_Static_assert(sizeof(struct nccl_id) == sizeof(ncclUniqueId), "ncclUniqueId");
#define SAME_PLACE(ours, theirs)                                                                             \
    _Static_assert(offsetof(struct nccl_config, ours) == offsetof(ncclConfig_t, theirs), "ncclConfig_t")
SAME_PLACE(size, size);
SAME_PLACE(magic, magic);
SAME_PLACE(version, version);
SAME_PLACE(blocking, blocking);
SAME_PLACE(cga_cluster_size, cgaClusterSize);
SAME_PLACE(min_ctas, minCTAs);
SAME_PLACE(max_ctas, maxCTAs);
SAME_PLACE(net_name, netName);
SAME_PLACE(split_share, splitShare);
_Static_assert(sizeof(struct nccl_config) <= sizeof(ncclConfig_t), "ncclConfig_t");
#endif

enum { MAX_CTAS = 4 }; /* thread blocks a transfer may occupy: the rest of the device computes meanwhile */

struct call {
    const char *name;
    size_t place; /* of its pointer in struct nccl */
};

static const struct call cuda_calls[] = {
    {"cudaGetDeviceCount", offsetof(struct nccl, device_count)},
    {"cudaSetDevice", offsetof(struct nccl, set_device)},
    {"cudaMalloc", offsetof(struct nccl, allocate)},
    {"cudaFree", offsetof(struct nccl, release)},
    {"cudaStreamCreateWithFlags", offsetof(struct nccl, stream_create)},
    {"cudaStreamDestroy", offsetof(struct nccl, stream_destroy)},
    {"cudaEventCreateWithFlags", offsetof(struct nccl, event_create)},
    {"cudaEventRecord", offsetof(struct nccl, event_record)},
    {"cudaEventQuery", offsetof(struct nccl, event_query)},
    {"cudaEventDestroy", offsetof(struct nccl, event_destroy)},
    {"cudaGetErrorString", offsetof(struct nccl, cuda_error_string)},
};

static const struct call nccl_calls[] = {
    {"ncclGetVersion", offsetof(struct nccl, get_version)},
    {"ncclGetUniqueId", offsetof(struct nccl, get_unique_id)},
    {"ncclCommInitRankConfig", offsetof(struct nccl, comm_init)},
    {"ncclCommAbort", offsetof(struct nccl, comm_abort)},
    {"ncclCommGetAsyncError", offsetof(struct nccl, comm_state)},
    {"ncclSend", offsetof(struct nccl, send)},
    {"ncclRecv", offsetof(struct nccl, receive)},
    {"ncclGetErrorString", offsetof(struct nccl, error_string)},
};

/* NULL, or the name of a call that the library does not have. */
static const char *find_calls(void *library, const struct call *calls, size_t count, struct nccl *nccl)
{
    for (size_t i = 0; i < count; i++) {
        void *found = dlsym(library, calls[i].name);
        if (!found) return calls[i].name;
        memcpy((uint8_t *)nccl + calls[i].place, &found, sizeof found);
    }
    return NULL;
}

/* The runtime that is in the process already (with the CUDA backend), else one that is installed. Two at once
 * would work, but their versions could differ. */
static void *open_runtime(void)
{
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12"};
    void *library = NULL;
    for (int i = 0; i < 2 && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
    for (int i = 0; i < 2 && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

status_t nccl_load(struct nccl *out, struct error *error)
{
    struct nccl nccl = {0};
    void *runtime = open_runtime();
    if (!runtime)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "fabric nccl: no CUDA runtime is installed (libcudart.so.13 or .12); install it, or use zmq");
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set(error, STATUS_UNSUPPORTED,
                         "fabric nccl: NCCL cannot be loaded: %s; install it, or use zmq", dlerror());
    const char *missing = find_calls(runtime, cuda_calls, sizeof cuda_calls / sizeof *cuda_calls, &nccl);
    if (!missing) missing = find_calls(library, nccl_calls, sizeof nccl_calls / sizeof *nccl_calls, &nccl);
    if (missing)
        return error_set(error, STATUS_UNSUPPORTED,
                         "fabric nccl: the installed library has no %s: it is too old", missing);
    if (nccl.get_version(&nccl.version) != NCCL_SUCCESS || nccl.version < NCCL_OLDEST)
        return error_set(error, STATUS_UNSUPPORTED,
                         "fabric nccl: NCCL %d.%d is installed, 2.19 or newer is needed",
                         nccl.version / 10000, nccl.version / 100 % 100);
    *out = nccl;
    return STATUS_OK;
}

void nccl_config_init(struct nccl_config *config)
{
    *config = (struct nccl_config){
        .size = sizeof *config,
        .magic = NCCL_CONFIG_MAGIC,
        .version = NCCL_OLDEST,
        .blocking = 0,
        .cga_cluster_size = INT_MIN, /* not said, as the next two */
        .min_ctas = INT_MIN,
        .max_ctas = MAX_CTAS,
        .split_share = INT_MIN,
    };
}
