/* error.c - the error of the last call, per thread; and the one that stays. */
#include "tests/fakegpu/fakegpu.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static __thread cudaError_t last_error;
static _Atomic int lost; /* a cudaError_t */

cudaError_t failed(cudaError_t error)
{
    if (error) last_error = error;
    return error;
}

cudaError_t refuse(cudaError_t error, const char *call, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "fakegpu: %s: %s\n", call, text);
    return failed(error);
}

void fakegpu_lose_device(cudaError_t error)
{
    int none = 0;
    atomic_compare_exchange_strong(&lost, &none, (int)error);
}

cudaError_t device_lost(void)
{
    return (cudaError_t)lost;
}

static cudaError_t unusable(void)
{
    const struct world *w = world();
    if (w->driver_version < w->runtime_version / 1000 * 1000) return cudaErrorInsufficientDriver;
    return w->devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t call_begin(const char *name, cudaError_t usual)
{
    if (stream_in_host_function())
        return refuse(cudaErrorNotPermitted, name, "called inside a host function of a stream");
    cudaError_t error = unusable();
    if (!error) error = device_lost();
    if (!error) {
        int due = fakegpu_fault(name, usual);
        error = due == FAULT_HANG ? usual : (cudaError_t)due;
    }
    return failed(error);
}

EXPORT cudaError_t cudaGetLastError(void)
{
    cudaError_t error = device_lost() ? device_lost() : last_error;
    last_error = cudaSuccess;
    return error;
}

EXPORT cudaError_t cudaPeekAtLastError(void)
{
    return device_lost() ? device_lost() : last_error;
}

EXPORT cudaError_t cudaDeviceReset(void)
{
    for (int device = 0; device < world()->devices; device++) streams_drain(device);
    lost = 0;
    return cudaSuccess;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
#define ERROR(name, text)                                                                                    \
    {                                                                                                        \
        name, #name, text                                                                                    \
    }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidSymbol, "invalid device symbol"),
    ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ERROR(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled"),
    ERROR(cudaErrorHostMemoryAlreadyRegistered,
          "part or all of the requested memory range is already mapped"),
    ERROR(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotPermitted, "operation not permitted"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not initiated in this stream"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(cudaErrorStreamCaptureWrongThread,
          "attempt to terminate a thread-local capture sequence from another thread"),
    ERROR(cudaErrorTimeout, "wait operation timed out"),
    ERROR(cudaErrorGraphExecUpdateFailure,
          "the graph update was not performed because it included changes which "
          "violated constraints specific to instantiated graph update"),
#undef ERROR
};

enum { ERRORS = sizeof errors / sizeof *errors };

EXPORT const char *cudaGetErrorName(cudaError_t error)
{
    for (int i = 0; i < ERRORS; i++)
        if (errors[i].error == error) return errors[i].name;
    return "unrecognized error code";
}

EXPORT const char *cudaGetErrorString(cudaError_t error)
{
    for (int i = 0; i < ERRORS; i++)
        if (errors[i].error == error) return errors[i].text;
    return error == cudaErrorUnknown ? "unknown error" : "unrecognized error code";
}
