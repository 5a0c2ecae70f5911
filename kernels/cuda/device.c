/* device.c - see device.h. */
#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    pthread_mutex_t mutex;
    int users, number, claim; /* claim: the lock file, held while the device is */
    struct device_identity identity;
    atomic_bool failed;
    struct error error; /* valid once failed */
} device = {.mutex = PTHREAD_MUTEX_INITIALIZER, .claim = -1};

/* What went wrong while this thread records ops; the device is none the worse for it. */
static _Thread_local struct {
    bool on;
    struct error error; /* STATUS_OK: nothing */
} recording;

/* ------------------------------------------------------------------------------------------------------ failures */

void device_fail(status_t status, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (recording.on) {
        if (recording.error.status == STATUS_OK) error_set(&recording.error, status, "%s", text);
        return;
    }
    pthread_mutex_lock(&device.mutex);
    if (!atomic_load(&device.failed)) {
        error_set(&device.error, status, "%s", text);
        atomic_store(&device.failed, true);
    }
    pthread_mutex_unlock(&device.mutex);
}

/* What a kernel did wrong while it ran: told by whatever is called next. */
static bool came_late(int code)
{
    return code == cudaErrorIllegalAddress || code == cudaErrorMisalignedAddress ||
           code == cudaErrorLaunchFailure || code == cudaErrorLaunchTimeout ||
           code == cudaErrorECCUncorrectable || code == cudaErrorUnknown;
}

bool device_try(const char *what, int code)
{
    if (atomic_load(&device.failed) || recording.error.status != STATUS_OK) return false;
    if (code == cudaSuccess) return true;
    cudaGetLastError(); /* a refused launch is told here alone: CUDA is not to tell it again */
    bool records = recording.on;
    if (records && !came_late(code)) {
        device_fail(STATUS_UNSUPPORTED, "%s: %s (%s)", what, cudaGetErrorString((cudaError_t)code),
                    cudaGetErrorName((cudaError_t)code));
        return false;
    }
    recording.on = false; /* what was called before the recording has failed, and that is the device's */
    device_fail(code == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_IO,
                "%s%s: GPU %d (%s) failed: %s (%s); this rank has to be started again", what,
                came_late(code) ? ", or an op called before it" : "", device.number, device.identity.name,
                cudaGetErrorString((cudaError_t)code), cudaGetErrorName((cudaError_t)code));
    recording.on = records;
    return false;
}

void device_record(void)
{
    recording.on = true;
    recording.error.status = STATUS_OK;
}

status_t device_recorded(struct error *error)
{
    status_t status = device_status(error);
    if (status == STATUS_OK && recording.error.status != STATUS_OK) {
        status = recording.error.status;
        if (error) *error = recording.error;
    }
    recording.on = false;
    recording.error.status = STATUS_OK;
    return status;
}

status_t device_status(struct error *error)
{
    if (!atomic_load(&device.failed)) return STATUS_OK;
    pthread_mutex_lock(&device.mutex);
    status_t status = error_set(error, device.error.status, "%s", device.error.text);
    pthread_mutex_unlock(&device.mutex);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- choosing */

/* "13.0" of CUDA's 13000 */
struct version_text {
    char text[16];
};
static struct version_text version_of(int version)
{
    struct version_text v;
    snprintf(v.text, sizeof v.text, "%d.%d", version / 1000, version % 1000 / 10);
    return v;
}

/* How many GPUs are visible, at least 1. */
static status_t count_devices(int *count, struct error *error)
{
    int driver = 0, runtime = 0, visible = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "no NVIDIA driver on this machine: install one for CUDA %s or newer, or compute with "
            "--backend cpu-avx2 or cpu-avx512",
            version_of(CUDART_VERSION).text);
    if (runtime / 1000 != CUDART_VERSION / 1000)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "the CUDA runtime found is %s, but the plug-in was built for %s: put libcudart.so.%d of "
            "CUDA %d first in LD_LIBRARY_PATH, or build again with make CUDA=1",
            version_of(runtime).text, version_of(CUDART_VERSION).text, CUDART_VERSION / 1000,
            CUDART_VERSION / 1000);
    cudaError_t code = cudaGetDeviceCount(&visible);
    if (code == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "the NVIDIA driver is made for CUDA %s, older than this build's %s: update the driver",
            version_of(driver).text, version_of(runtime).text);
    if (code == cudaErrorNoDevice || (code == cudaSuccess && visible < 1)) {
        const char *mask = getenv("CUDA_VISIBLE_DEVICES");
        cudaGetLastError();
        return error_set(
            error, STATUS_UNSUPPORTED, "no GPU is visible to this process%s%s%s: see what nvidia-smi lists",
            mask ? " (" : "", mask ? "CUDA_VISIBLE_DEVICES=" : "", mask ? *mask ? mask : ")" : "");
    }
    if (code != cudaSuccess)
        return error_set(error, STATUS_IO, "the GPUs cannot be asked for: %s (%s)", cudaGetErrorString(code),
                         cudaGetErrorName(code));
    *count = visible;
    return STATUS_OK;
}

static status_t identify(int number, struct device_identity *identity, struct error *error)
{
    struct cudaDeviceProp properties;
    cudaError_t code = cudaGetDeviceProperties(&properties, number);
    if (code != cudaSuccess)
        return error_set(error, STATUS_IO, "GPU %d does not answer: %s (%s)", number,
                         cudaGetErrorString(code), cudaGetErrorName(code));
    *identity = (struct device_identity){.capability = properties.major * 10 + properties.minor,
                                         .memory_bytes = properties.totalGlobalMem};
    snprintf(identity->name, sizeof identity->name, "%.*s", DEVICE_NAME_BYTES - 1, properties.name);
    if (identity->capability < DEVICE_OLDEST)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "GPU %d (%s) has compute capability %d.%d, and 8.0 is the oldest supported (A100 and later)",
            number, identity->name, properties.major, properties.minor);
    return STATUS_OK;
}

/* This process' number among those its launcher started on this host; 0 where nobody says. */
static int local_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID",
                                        "PMI_LOCAL_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value >= '0' && *value <= '9') return atoi(value);
    }
    return 0;
}

/* A lock on a file named after the GPU: the kernel lets go of it when the process ends, however that happens. -1: held
 * by another process. Where no such file can be made, nobody is kept out. One directory for all ranks of the host:
 * TMPDIR is a service's own. */
static int claim(int number)
{
    char bus[32] = "", path[512];
    const char *directory = getenv("REFRAIN_GPU_LOCKS");
    if (cudaDeviceGetPCIBusId(bus, sizeof bus, number) != cudaSuccess)
        snprintf(bus, sizeof bus, "%d", number);
    for (char *c = bus; *c; c++)
        if (*c == ':' || *c == '/') *c = '-';
    snprintf(path, sizeof path, "%s/refrain-gpu-%s.lock", directory && *directory ? directory : "/tmp", bus);
    int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (file < 0)
        file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    else if (flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(file);
        return -1;
    }
    return file;
}

static status_t choose(int count, struct error *error)
{
    const char *wish = getenv("REFRAIN_GPU");
    if (wish && *wish) {
        char *end;
        long number = strtol(wish, &end, 10);
        if (*end || number < 0 || number >= count)
            return error_set(error, STATUS_INVALID, "REFRAIN_GPU=%s: must be a number from 0 to %d", wish,
                             count - 1);
        device.number = (int)number;
        return STATUS_OK;
    }
    int begin = local_rank() % count;
    for (int i = 0; i < count; i++) {
        device.number = (begin + i) % count;
        device.claim = claim(device.number);
        if (device.claim >= 0) return STATUS_OK;
    }
    return error_set(
        error, STATUS_CONFLICT,
        "all %d GPUs of this host are held by other ranks: start one rank per GPU, or name one to share "
        "with REFRAIN_GPU",
        count);
}

status_t device_usable(struct error *error)
{
    int count;
    struct device_identity identity;
    status_t status = count_devices(&count, error);
    if (status == STATUS_OK) status = identify(local_rank() % count, &identity, error);
    return status;
}

static status_t take(struct error *error)
{
    int count;
    status_t status = count_devices(&count, error);
    if (status == STATUS_OK) status = choose(count, error);
    if (status == STATUS_OK) status = identify(device.number, &device.identity, error);
    if (status != STATUS_OK) return status;
    cudaError_t code = cudaSetDevice(device.number);
    if (code == cudaSuccess) code = cudaFree(NULL); /* makes the context */
    if (code == cudaSuccess) return STATUS_OK;
    cudaGetLastError();
    if (code == cudaErrorDevicesUnavailable)
        return error_set(
            error, STATUS_CONFLICT,
            "GPU %d (%s) is busy: another process holds it in exclusive mode (nvidia-smi shows which)",
            device.number, device.identity.name);
    return error_set(error, code == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_IO,
                     "GPU %d (%s) cannot be opened: %s (%s)", device.number, device.identity.name,
                     cudaGetErrorString(code), cudaGetErrorName(code));
}

static void let_go(void)
{
    if (device.claim >= 0) close(device.claim);
    device.claim = -1;
}

status_t device_open(struct error *error)
{
    status_t status = STATUS_OK;
    pthread_mutex_lock(&device.mutex);
    if (device.users == 0) status = take(error);
    if (status == STATUS_OK)
        device.users++;
    else
        let_go();
    pthread_mutex_unlock(&device.mutex);
    if (status == STATUS_OK) device_enter();
    return status;
}

void device_close(void)
{
    pthread_mutex_lock(&device.mutex);
    if (--device.users == 0) {
        let_go();
        atomic_store(&device.failed, false);
    }
    pthread_mutex_unlock(&device.mutex);
}

void device_enter(void)
{
    static _Thread_local int entered = -1; /* CUDA's notion of the current device is a thread's */
    if (entered == device.number) return;
    if (cudaSetDevice(device.number) == cudaSuccess) entered = device.number;
}

int device_number(void)
{
    return device.number;
}

void device_describe(struct device_identity *identity)
{
    *identity = device.identity;
}

/* --------------------------------------------------------------------------------------------------------- memory */

status_t device_memory(size_t *free_bytes, size_t *total_bytes, struct error *error)
{
    size_t left, all;
    device_enter();
    cudaError_t code = cudaMemGetInfo(&left, &all);
    if (code != cudaSuccess)
        return error_set(error, STATUS_IO, "the GPU's memory cannot be asked for: %s (%s)",
                         cudaGetErrorString(code), cudaGetErrorName(code));
    *free_bytes = left;
    *total_bytes = all;
    return STATUS_OK;
}

static status_t no_memory(enum memory kind, size_t bytes, cudaError_t code, struct error *error)
{
    size_t left = 0, all = 0;
    cudaGetLastError();
    if (code != cudaErrorMemoryAllocation)
        return error_set(error, STATUS_IO, "%.1f MB cannot be allocated: %s (%s)", (double)bytes / 1e6,
                         cudaGetErrorString(code), cudaGetErrorName(code));
    if (kind == MEMORY_SHARED)
        return error_set(
            error, STATUS_NO_MEMORY,
            "%.1f MB of pinned host memory cannot be allocated: is the host's memory, or what may be "
            "locked of it (ulimit -l, a container's limit), used up?",
            (double)bytes / 1e6);
    device_memory(&left, &all, NULL);
    return error_set(
        error, STATUS_NO_MEMORY,
        "GPU %d (%s) is out of memory: %.1f MB needed, %.1f of %.1f MB free; use more ranks, a smaller "
        "video, or a larger GPU",
        device.number, device.identity.name, (double)bytes / 1e6, (double)left / 1e6, (double)all / 1e6);
}

/* Shared memory has one address for host and device, so that ops and the host can use the same pointer. */
static status_t allocate_shared(size_t bytes, void **memory, struct error *error)
{
    void *made = NULL, *seen = NULL;
    cudaError_t code = cudaHostAlloc(&made, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    if (code != cudaSuccess) return no_memory(MEMORY_SHARED, bytes, code, error);
    code = cudaHostGetDevicePointer(&seen, made, 0);
    if (code == cudaSuccess && seen == made) {
        *memory = made;
        return STATUS_OK;
    }
    cudaFreeHost(made);
    return error_set(error, STATUS_UNSUPPORTED,
                     "GPU %d (%s) does not share addresses with the host, which this program needs",
                     device.number, device.identity.name);
}

status_t device_allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    void *made = NULL;
    status_t status = device_status(error);
    if (status != STATUS_OK) return status;
    device_enter();
    if (kind == MEMORY_SHARED) return allocate_shared(bytes, memory, error);
    cudaError_t code = cudaMalloc(&made, bytes);
    if (code != cudaSuccess) return no_memory(kind, bytes, code, error);
    *memory = made;
    return STATUS_OK;
}

void device_release(enum memory kind, void *memory)
{
    if (!memory || atomic_load(&device.failed)) return;
    device_enter();
    if (kind == MEMORY_SHARED)
        cudaFreeHost(memory);
    else
        cudaFree(memory);
}
