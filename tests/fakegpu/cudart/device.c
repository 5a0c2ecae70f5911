/* device.c - devices and what they can do. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __thread int current;

static const struct gpu *gpu_at(int device)
{
    return device >= 0 && device < world()->devices ? &world()->gpu[device] : NULL;
}

EXPORT cudaError_t cudaDriverGetVersion(int *version)
{
    *version = world()->devices || world()->driver_version ? world()->driver_version : 0;
    return cudaSuccess;
}

EXPORT cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = world()->runtime_version;
    return cudaSuccess;
}

/* Without a usable driver the real one leaves *count alone. */
EXPORT cudaError_t cudaGetDeviceCount(int *count)
{
    cudaError_t error = call_begin("cudaGetDeviceCount", cudaErrorInitializationError);
    if (!error || error == cudaErrorNoDevice) *count = world()->devices;
    return error;
}

EXPORT cudaError_t cudaSetDevice(int device)
{
    cudaError_t error = call_begin("cudaSetDevice", cudaErrorDevicesUnavailable);
    if (error) return error;
    if (!gpu_at(device)) return failed(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGetDevice(int *device)
{
    cudaError_t error = call_begin("cudaGetDevice", cudaErrorInitializationError);
    if (!error) *device = current;
    return error;
}

EXPORT cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    cudaError_t error = call_begin("cudaGetDeviceProperties", cudaErrorInitializationError);
    if (error) return error;
    const struct gpu *gpu = gpu_at(device);
    if (!gpu) return failed(cudaErrorInvalidDevice);
    *p = (struct cudaDeviceProp){
        .totalGlobalMem = gpu->memory_bytes,
        .sharedMemPerBlock = 48 << 10,
        .regsPerBlock = 65536,
        .warpSize = 32,
        .memPitch = 0x7fffffff,
        .maxThreadsPerBlock = 1024,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {0x7fffffff, 65535, 65535},
        .totalConstMem = 65536,
        .major = gpu->major,
        .minor = gpu->minor,
        .textureAlignment = 512,
        .multiProcessorCount = gpu->multiprocessors,
        .canMapHostMemory = 1,
        .concurrentKernels = 1,
        .ECCEnabled = 1,
        .pciBusID = gpu->identity + 1,
        .asyncEngineCount = 3,
        .unifiedAddressing = 1,
        .memoryBusWidth = 5120,
        .l2CacheSize = 50 << 20,
        .maxThreadsPerMultiProcessor = 2048,
        .streamPrioritiesSupported = 1,
        .globalL1CacheSupported = 1,
        .localL1CacheSupported = 1,
        .sharedMemPerMultiprocessor = gpu->shared_optin_bytes + 1024,
        .regsPerMultiprocessor = 65536,
        .managedMemory = 1,
        .cooperativeLaunch = 1,
        .sharedMemPerBlockOptin = gpu->shared_optin_bytes,
        .maxBlocksPerMultiProcessor = 32,
        .reservedSharedMemPerBlock = 1024,
        .hostRegisterSupported = 1,
        .memoryPoolsSupported = 1,
    };
    snprintf(p->name, sizeof p->name, "stand-in GPU sm_%d%d", gpu->major, gpu->minor);
    snprintf(p->uuid.bytes, sizeof p->uuid.bytes, "stand-in %d.%d", world()->rank, gpu->identity);
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = p.regsPerBlock;
        break;
    case cudaDevAttrClockRate:
        *value = 1500000;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrConcurrentKernels:
        *value = p.concurrentKernels;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 2600000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p.memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrAsyncEngineCount:
        *value = p.asyncEngineCount;
        break;
    case cudaDevAttrUnifiedAddressing:
        *value = p.unifiedAddressing;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = p.regsPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
        *value = (int)p.reservedSharedMemPerBlock;
        break;
    case cudaDevAttrMemoryPoolsSupported:
        *value = p.memoryPoolsSupported;
        break;
    default:
        return refuse(cudaErrorInvalidValue, "cudaDeviceGetAttribute", "attribute %d is not known here",
                      attribute);
    }
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device)
{
    cudaError_t error = call_begin("cudaDeviceGetPCIBusId", cudaErrorInitializationError);
    if (error) return error;
    if (!gpu_at(device)) return failed(cudaErrorInvalidDevice);
    snprintf(id, (size_t)length, "0000:%02X:00.0", gpu_at(device)->identity + 1);
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    cudaError_t error = call_begin("cudaDeviceCanAccessPeer", cudaErrorInvalidDevice);
    if (error) return error;
    if (!gpu_at(device) || !gpu_at(peer)) return failed(cudaErrorInvalidDevice);
    *can = device != peer;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags)
{
    static __thread unsigned
        enabled; /* bit per peer, of the current device mostly: enough to say "already" */
    cudaError_t error = call_begin("cudaDeviceEnablePeerAccess", cudaErrorInvalidDevice);
    if (error) return error;
    if (!gpu_at(peer) || peer == current || flags) return failed(cudaErrorInvalidDevice);
    if (enabled >> peer & 1) return failed(cudaErrorPeerAccessAlreadyEnabled);
    enabled |= 1u << peer;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return call_begin("cudaDeviceGetStreamPriorityRange", cudaErrorInitializationError);
}

EXPORT cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t error = call_begin("cudaDeviceSynchronize", cudaErrorLaunchFailure);
    if (!error) error = capture_forbids_anywhere("cudaDeviceSynchronize");
    if (error) return error;
    streams_drain(current);
    return failed(device_lost());
}

/* At exit: what the program did not give back. */
__attribute__((destructor)) static void tell_leaks(void)
{
    if (!(world()->lints & LINT_LEAKS)) return;
    int leaks = memory_leaks();
    struct {
        const char *what;
        int open;
    } kinds[] = {{"streams", streams_open()}, {"events", events_open()}, {"graphs", graphs_open()}};
    for (int i = 0; i < 3; i++) {
        if (kinds[i].open)
            fprintf(stderr, "fakegpu: %d %s were not destroyed\n", kinds[i].open, kinds[i].what);
        leaks += kinds[i].open;
    }
    if (leaks) _Exit(1);
}
