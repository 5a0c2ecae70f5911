/*
 * cudnn_library.h - cuDNN, found at run time: libcudnn.so.9 is loaded when attention first asks for it, and a machine
 * without it computes with our own kernels.
 *
 *     struct cudnn_library cudnn;
 *     if (cudnn_library_load(CUDNN_SONAME, &cudnn, &error) != STATUS_OK) ...      not installed, or too old: a sentence
 *     cudnn.create(&handle);
 *
 * Any thread; no state but what the dynamic linker keeps. The library stays loaded.
 */
#ifndef REFRAIN_KERNELS_CUDA_CUDNN_LIBRARY_H
#define REFRAIN_KERNELS_CUDA_CUDNN_LIBRARY_H

#include "base/status.h"
#include "kernels/cuda/cudnn_types.h"

/* The first with attention as one operation, by NVIDIA's cudnn-frontend (UnifiedSDPANode): 9.13.1. */
enum { CUDNN_OLDEST = 91301 };
#define CUDNN_SONAME "libcudnn.so.9"

struct cudnn_library {
    int version; /* 91900 of 9.19.0 */
    __typeof__(cudnnGetVersion) *get_version;
    __typeof__(cudnnGetErrorString) *error_string;
    __typeof__(cudnnGetLastErrorString) *last_error;
    __typeof__(cudnnCreate) *create;
    __typeof__(cudnnDestroy) *destroy;
    __typeof__(cudnnSetStream) *set_stream;
    __typeof__(cudnnBackendCreateDescriptor) *descriptor_create;
    __typeof__(cudnnBackendDestroyDescriptor) *descriptor_destroy;
    __typeof__(cudnnBackendFinalize) *finalize;
    __typeof__(cudnnBackendSetAttribute) *set;
    __typeof__(cudnnBackendGetAttribute) *get;
    __typeof__(cudnnBackendExecute) *execute;
};

/* name: CUDNN_SONAME, or a stand-in's. */
status_t cudnn_library_load(const char *name, struct cudnn_library *library, struct error *error);

/* "cuDNN refused WHAT: ...", with what the library says of the thread's last failure. */
status_t cudnn_library_refused(const struct cudnn_library *library, const char *what, cudnnStatus_t code,
                               struct error *error);

#endif
