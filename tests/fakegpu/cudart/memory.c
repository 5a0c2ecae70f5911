/* memory.c - device and pinned memory.
 *
 * Device memory is filled with 0xff (NaN as float32 and bf16) when it is given out and when it is freed, and
 * guarded behind its end. Under AddressSanitizer its red zones take the place of the guard. Freeing waits for
 * the device, as cudaFree does. */
#include "tests/fakegpu/fakegpu.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { GUARD_BYTES = 0 };
#else
enum { GUARD_BYTES = 256 };
#endif
enum { ALIGNMENT = 256, PAGE = 4096, FILL = 0xff, GUARD = 0x5c };

enum origin { DEVICE, HOST_ALLOCATED, HOST_REGISTERED };

struct allocation {
    char *base;
    size_t bytes, mapped; /* mapped: 0 when it came from malloc */
    enum origin origin;
    int device;
    struct allocation *next;
};

static struct allocation *allocations; /* gpu_lock, as all below */
static size_t used_bytes[DEVICES_MAX], peak_bytes[DEVICES_MAX];
static int working; /* stream threads that have memory_open */

static struct allocation *find(const void *pointer)
{
    for (struct allocation *a = allocations; a; a = a->next)
        if ((const char *)pointer >= a->base && (const char *)pointer < a->base + (a->bytes ? a->bytes : 1))
            return a;
    return NULL;
}

bool memory_place(const void *pointer, size_t bytes, enum place *place, int *device)
{
    pthread_mutex_lock(&gpu_lock);
    struct allocation *a = find(pointer);
    bool inside = !a || (const char *)pointer + bytes <= a->base + a->bytes;
    *place = !a ? PLACE_PAGEABLE : a->origin == DEVICE ? PLACE_DEVICE : PLACE_PINNED;
    *device = a ? a->device : 0;
    pthread_mutex_unlock(&gpu_lock);
    return inside;
}

bool fakegpu_device_memory(const void *pointer, size_t bytes)
{
    enum place place;
    int device;
    return memory_place(pointer, bytes, &place, &device) && place == PLACE_DEVICE;
}

/* --- host touching device memory ------------------------------------------------------------------------ */

static void touched(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    static const char text[] = "fakegpu: the host touched device memory, or memory that is nobody's\n";
    for (struct allocation *a = allocations; a; a = a->next)
        if (a->mapped && (char *)info->si_addr >= a->base && (char *)info->si_addr < a->base + a->mapped)
            (void)!write(STDERR_FILENO, text, sizeof text - 1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void protect_all(int protection)
{
    for (struct allocation *a = allocations; a; a = a->next)
        if (a->mapped) mprotect(a->base, a->mapped, protection);
}

void memory_open(void)
{
    if (!world()->protect) return;
    pthread_mutex_lock(&gpu_lock);
    if (working++ == 0) protect_all(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&gpu_lock);
}

void memory_close(void)
{
    if (!world()->protect) return;
    pthread_mutex_lock(&gpu_lock);
    if (--working == 0) protect_all(PROT_NONE);
    pthread_mutex_unlock(&gpu_lock);
}

/* --- giving out and taking back ------------------------------------------------------------------------- */

static char *obtain(struct allocation *a)
{
    if (a->origin == DEVICE && world()->protect) {
        static struct sigaction action = {.sa_sigaction = touched, .sa_flags = SA_SIGINFO};
        sigaction(SIGSEGV, &action, NULL);
        a->mapped = (a->bytes + GUARD_BYTES + PAGE) / PAGE * PAGE;
        void *memory = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return memory == MAP_FAILED ? NULL : memory;
    }
    void *memory;
    size_t alignment = a->origin == DEVICE ? ALIGNMENT : PAGE;
    return posix_memalign(&memory, alignment, a->bytes + GUARD_BYTES) ? NULL : memory;
}

static void check_guard(const struct allocation *a)
{
    for (int i = 0; i < GUARD_BYTES; i++)
        if ((unsigned char)a->base[a->bytes + (size_t)i] != GUARD) {
            fprintf(stderr, "fakegpu: something wrote %d bytes past the end of an allocation of %zu bytes\n",
                    i + 1, a->bytes);
            abort();
        }
}

static cudaError_t allocate(const char *call, enum origin origin, void **pointer, size_t bytes)
{
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error) return error;
    *pointer = NULL;
    struct allocation *a = calloc(1, sizeof *a);
    if (!a) return failed(cudaErrorMemoryAllocation);
    *a = (struct allocation){.bytes = bytes, .origin = origin, .device = device};
    pthread_mutex_lock(&gpu_lock);
    bool fits = origin != DEVICE || used_bytes[device] + bytes <= world()->gpu[device].memory_bytes;
    if (fits) a->base = obtain(a);
    if (a->base) {
        memset(a->base, FILL, bytes);
        memset(a->base + bytes, GUARD, GUARD_BYTES);
        if (a->mapped && !working) mprotect(a->base, a->mapped, PROT_NONE);
        a->next = allocations;
        allocations = a;
        if (origin == DEVICE) used_bytes[device] += bytes;
        if (used_bytes[device] > peak_bytes[device]) peak_bytes[device] = used_bytes[device];
        *pointer = a->base;
    }
    pthread_mutex_unlock(&gpu_lock);
    if (*pointer) return cudaSuccess;
    free(a);
    return refuse(cudaErrorMemoryAllocation, call, "%zu bytes, of %zu in use on device %d", bytes,
                  used_bytes[device], device);
}

/* `pointer` must be the beginning of an allocation of that origin. */
static cudaError_t give_back(enum origin origin, void *pointer, cudaError_t otherwise)
{
    pthread_mutex_lock(&gpu_lock);
    struct allocation **link = &allocations;
    while (*link && ((*link)->base != pointer || (*link)->origin != origin)) link = &(*link)->next;
    struct allocation *a = *link;
    if (a) *link = a->next;
    if (a && origin == DEVICE) used_bytes[a->device] -= a->bytes;
    pthread_mutex_unlock(&gpu_lock);
    if (!a) return otherwise;
    if (a->mapped) mprotect(a->base, a->mapped, PROT_READ | PROT_WRITE);
    if (origin != HOST_REGISTERED) {
        check_guard(a);
        memset(a->base, FILL, a->bytes);
    }
    if (a->mapped)
        munmap(a->base, a->mapped);
    else if (origin != HOST_REGISTERED)
        free(a->base);
    free(a);
    return cudaSuccess;
}

int memory_leaks(void)
{
    int leaks = 0;
    static const char *const what[] = {"of device memory", "from cudaHostAlloc",
                                       "registered by cudaHostRegister"};
    for (struct allocation *a = allocations; a; a = a->next, leaks++)
        fprintf(stderr, "fakegpu: %zu bytes %s were not given back\n", a->bytes, what[a->origin]);
    return leaks;
}

/* --- the calls ------------------------------------------------------------------------------------------ */

EXPORT cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    cudaError_t error = call_begin("cudaMalloc", cudaErrorMemoryAllocation);
    if (!error) error = capture_forbids_anywhere("cudaMalloc");
    if (error) return error;
    if (!pointer) return failed(cudaErrorInvalidValue);
    return allocate("cudaMalloc", DEVICE, pointer, bytes);
}

EXPORT cudaError_t cudaFree(void *pointer)
{
    cudaError_t error = call_begin("cudaFree", cudaErrorInvalidValue);
    if (!error && pointer) error = capture_forbids_anywhere("cudaFree");
    if (error || !pointer) return error;
    int device;
    enum place place;
    memory_place(pointer, 0, &place, &device);
    streams_drain(device);
    error = give_back(DEVICE, pointer, cudaErrorInvalidValue);
    return error ? refuse(error, "cudaFree", "%p is not the beginning of device memory", pointer)
                 : failed(device_lost());
}

/* Stream-ordered memory: ours at once, but not before its time as far as a right program can see. */
EXPORT cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMallocAsync", cudaErrorMemoryAllocation);
    if (!error) error = capture_forbids(stream, "cudaMallocAsync");
    return error ? error : allocate("cudaMallocAsync", DEVICE, pointer, bytes);
}

static void run_free(void *data)
{
    give_back(DEVICE, *(void **)data, cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaFreeAsync", cudaErrorInvalidValue);
    if (!error) error = capture_forbids(stream, "cudaFreeAsync");
    if (error || !pointer) return error;
    return fakegpu_submit(stream, "cudaFreeAsync", run_free, &pointer, sizeof pointer);
}

EXPORT cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned int flags)
{
    cudaError_t error = call_begin("cudaHostAlloc", cudaErrorMemoryAllocation);
    (void)flags;
    if (!error) error = capture_forbids_anywhere("cudaHostAlloc");
    return error ? error : allocate("cudaHostAlloc", HOST_ALLOCATED, pointer, bytes);
}

EXPORT cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

EXPORT cudaError_t cudaFreeHost(void *pointer)
{
    cudaError_t error = call_begin("cudaFreeHost", cudaErrorInvalidValue);
    if (error || !pointer) return error;
    int device;
    cudaGetDevice(&device);
    streams_drain(device);
    return failed(give_back(HOST_ALLOCATED, pointer, cudaErrorInvalidValue));
}

EXPORT cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned int flags)
{
    cudaError_t error = call_begin("cudaHostRegister", cudaErrorMemoryAllocation);
    (void)flags;
    if (error) return error;
    if (!pointer || !bytes) return failed(cudaErrorInvalidValue);
    struct allocation *a = calloc(1, sizeof *a);
    if (!a) return failed(cudaErrorMemoryAllocation);
    *a = (struct allocation){.base = pointer, .bytes = bytes, .origin = HOST_REGISTERED};
    pthread_mutex_lock(&gpu_lock);
    for (struct allocation *other = allocations; other && !error; other = other->next)
        if (a->base < other->base + other->bytes && other->base < a->base + bytes)
            error = cudaErrorHostMemoryAlreadyRegistered;
    if (!error) {
        a->next = allocations;
        allocations = a;
    }
    pthread_mutex_unlock(&gpu_lock);
    if (error) free(a);
    return failed(error);
}

EXPORT cudaError_t cudaHostUnregister(void *pointer)
{
    cudaError_t error = call_begin("cudaHostUnregister", cudaErrorInvalidValue);
    return error ? error : failed(give_back(HOST_REGISTERED, pointer, cudaErrorHostMemoryNotRegistered));
}

EXPORT cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int flags)
{
    cudaError_t error = call_begin("cudaHostGetDevicePointer", cudaErrorInvalidValue);
    (void)flags;
    if (!error) *device = host;
    return error;
}

EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    cudaError_t error = call_begin("cudaPointerGetAttributes", cudaErrorInvalidValue);
    if (error) return error;
    enum place place;
    int device;
    memory_place(pointer, 0, &place, &device);
    *attributes = (struct cudaPointerAttributes){
        .type = place == PLACE_DEVICE   ? cudaMemoryTypeDevice
                : place == PLACE_PINNED ? cudaMemoryTypeHost
                                        : cudaMemoryTypeUnregistered,
        .device = place == PLACE_PAGEABLE ? -2 : device,
        .devicePointer = place == PLACE_PAGEABLE ? NULL : (void *)pointer,
        .hostPointer = place == PLACE_DEVICE ? NULL : (void *)pointer,
    };
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    cudaError_t error = call_begin("cudaMemGetInfo", cudaErrorInvalidValue);
    int device = 0;
    if (!error) error = cudaGetDevice(&device);
    if (error) return error;
    pthread_mutex_lock(&gpu_lock);
    *total_bytes = world()->gpu[device].memory_bytes;
    *free_bytes = *total_bytes - used_bytes[device];
    pthread_mutex_unlock(&gpu_lock);
    return cudaSuccess;
}

/* --- the memory pool of a device: its figures are those of all device memory ---------------------------- */

EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    cudaError_t error = call_begin("cudaDeviceGetDefaultMemPool", cudaErrorInvalidValue);
    if (error) return error;
    if (device < 0 || device >= world()->devices) return failed(cudaErrorInvalidDevice);
    *pool = (cudaMemPool_t)&used_bytes[device];
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    cudaError_t error = call_begin("cudaMemPoolSetAttribute", cudaErrorInvalidValue);
    if (error) return error;
    size_t device = (size_t)((size_t *)pool - used_bytes);
    if (device >= DEVICES_MAX || !value) return failed(cudaErrorInvalidValue);
    if (attribute == cudaMemPoolAttrReleaseThreshold) return cudaSuccess;
    if (attribute != cudaMemPoolAttrUsedMemHigh && attribute != cudaMemPoolAttrReservedMemHigh)
        return failed(cudaErrorInvalidValue);
    pthread_mutex_lock(&gpu_lock);
    peak_bytes[device] = used_bytes[device]; /* only a reset to 0 is allowed */
    pthread_mutex_unlock(&gpu_lock);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    cudaError_t error = call_begin("cudaMemPoolGetAttribute", cudaErrorInvalidValue);
    if (error) return error;
    size_t device = (size_t)((size_t *)pool - used_bytes);
    if (device >= DEVICES_MAX || !value) return failed(cudaErrorInvalidValue);
    pthread_mutex_lock(&gpu_lock);
    bool high = attribute == cudaMemPoolAttrUsedMemHigh || attribute == cudaMemPoolAttrReservedMemHigh;
    *(uint64_t *)value = attribute == cudaMemPoolAttrReleaseThreshold ? 0
                         : high                                       ? peak_bytes[device]
                                                                      : used_bytes[device];
    pthread_mutex_unlock(&gpu_lock);
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes)
{
    (void)pool, (void)bytes;
    return call_begin("cudaMemPoolTrimTo", cudaErrorInvalidValue);
}
