/* kernel.c - launches: from the address a host program knows to the emulated kernel, and the limits of a
 * launch.
 *
 * A program compiled by g++ through the emulator launches with the address of the kernel itself. A program
 * compiled by nvcc launches with the address of a stub, whose registration names the kernel (mangled); the
 * kernel of that name is looked up in the shared object REFRAIN_FAKEGPU_KERNELS, made from the same .cu
 * files. */
#include "tests/cusim/cusim.h"
#include "tests/fakegpu/fakegpu.h"
#include "tests/fakegpu/cudart/nvcc_objects.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARED_USUAL_BYTES = 48 << 10 };

struct function {
    const void *address;
    char *name; /* mangled; NULL: the address is the kernel */
    struct cusim_kernel *kernel;
    int dynamic_bytes; /* allowed by cudaFuncSetAttribute; 0: the usual 48 KiB less the static */
    struct function *next;
};

static struct function *functions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- the emulator: linked in, or in the shared object --------------------------------------------------- */

extern typeof(cusim_find) cusim_find __attribute__((weak));
extern typeof(cusim_run) cusim_run __attribute__((weak));
extern typeof(cusim_static_shared) cusim_static_shared __attribute__((weak));

static struct {
    void *object;
    typeof(cusim_find) *find;
    typeof(cusim_run) *run;
    typeof(cusim_static_shared) *static_shared;
} emulator;

static void load_emulator(void)
{
    const char *path = world()->kernels_path;
    emulator.find = cusim_find;
    emulator.run = cusim_run;
    emulator.static_shared = cusim_static_shared;
    if (!path) return;
    emulator.object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!emulator.object) {
        fprintf(stderr, "fakegpu: REFRAIN_FAKEGPU_KERNELS: %s\n", dlerror());
        return;
    }
    emulator.find = (typeof(cusim_find) *)dlsym(emulator.object, "cusim_find");
    emulator.run = (typeof(cusim_run) *)dlsym(emulator.object, "cusim_run");
    emulator.static_shared = (typeof(cusim_static_shared) *)dlsym(emulator.object, "cusim_static_shared");
}

static struct cusim_kernel *find_kernel(const char *name, const void *address)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_emulator);
    if (name && !emulator.object) {
        fprintf(stderr,
                "fakegpu: kernel %s: REFRAIN_FAKEGPU_KERNELS names no shared object with its emulation\n",
                name);
        return NULL;
    }
    if (name) address = dlsym(emulator.object, name);
    struct cusim_kernel *kernel = address && emulator.find ? emulator.find(address) : NULL;
    if (!kernel)
        fprintf(stderr, "fakegpu: no emulation of kernel %s: is it static, or launched without GPU_LAUNCH?\n",
                name ? name : "(of this program)");
    return kernel;
}

/* The function of that address, with its kernel; NULL: there is none. */
static struct function *function_of(const void *address)
{
    pthread_mutex_lock(&lock);
    struct function *function = functions;
    while (function && function->address != address) function = function->next;
    if (!function && (function = calloc(1, sizeof *function))) {
        *function = (struct function){.address = address, .next = functions};
        functions = function;
    }
    if (function && !function->kernel) function->kernel = find_kernel(function->name, address);
    pthread_mutex_unlock(&lock);
    return function && function->kernel ? function : NULL;
}

/* --- what objects made by nvcc call --------------------------------------------------------------------- */

EXPORT void **__cudaRegisterFatBinary(void *binary)
{
    static void *handle;
    (void)binary;
    return &handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void **handle)
{
    (void)handle;
}
EXPORT void __cudaUnregisterFatBinary(void **handle)
{
    (void)handle;
}
EXPORT char __cudaInitModule(void **handle)
{
    (void)handle;
    return 1;
}

EXPORT void __cudaRegisterFunction(void **handle, const char *stub, char *device_stub, const char *name,
                                   int thread_limit, uint3 *thread_id, uint3 *block_id, dim3 *block,
                                   dim3 *grid, int *warp_size)
{
    (void)handle, (void)device_stub, (void)thread_limit, (void)thread_id, (void)block_id, (void)block,
        (void)grid;
    (void)warp_size;
    struct function *function = calloc(1, sizeof *function);
    if (function) function->name = strdup(name);
    if (!function || !function->name) abort(); /* before main: nobody to tell */
    function->address = stub;
    pthread_mutex_lock(&lock);
    function->next = functions;
    functions = function;
    pthread_mutex_unlock(&lock);
}

/* Device variables: the emulated kernels have their own, with the values they are initialised with. */
EXPORT void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int external,
                              size_t bytes, int constant, int global)
{
    (void)handle, (void)host, (void)device, (void)name, (void)external, (void)bytes, (void)constant,
        (void)global;
}

struct configuration {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};
static __thread struct configuration configuration; /* between <<< >>> and the stub it calls */

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                            struct CUstream_st *stream)
{
    configuration = (struct configuration){grid, block, shared_bytes, stream};
    return 0;
}

EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream)
{
    *grid = configuration.grid;
    *block = configuration.block;
    *shared_bytes = configuration.shared_bytes;
    *(cudaStream_t *)stream = configuration.stream;
    return cudaSuccess;
}

EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub)
{
    *kernel = (cudaKernel_t)stub;
    return cudaSuccess;
}

EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                                      size_t shared_bytes, cudaStream_t stream)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

/* --- launches ------------------------------------------------------------------------------------------- */

struct launch {
    struct cusim_kernel *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    max_align_t arguments[];
};

static void run_launch(void *data)
{
    const struct launch *l = data;
    emulator.run(l->kernel, l->grid, l->block, l->shared_bytes, l->arguments);
}

static const struct gpu *current_gpu(void)
{
    int device = 0;
    cudaGetDevice(&device);
    return &world()->gpu[device];
}

static size_t static_shared(const struct function *function)
{
    return emulator.static_shared(function->kernel);
}

static size_t dynamic_limit(const struct function *function)
{
    return function->dynamic_bytes ? (size_t)function->dynamic_bytes
                                   : SHARED_USUAL_BYTES - static_shared(function);
}

/* Limits of every CUDA device (programming guide, "Technical specifications per compute capability"). */
static cudaError_t check_shape(const char *name, dim3 grid, dim3 block)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!threads || threads > 1024 || block.z > 64)
        return refuse(cudaErrorInvalidConfiguration, name, "a block of (%u,%u,%u) threads", block.x, block.y,
                      block.z);
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return refuse(cudaErrorInvalidConfiguration, name, "a grid of (%u,%u,%u) blocks", grid.x, grid.y,
                      grid.z);
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchKernel(const void *address, dim3 grid, dim3 block, void **arguments,
                                    size_t shared_bytes, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaLaunchKernel", cudaErrorLaunchOutOfResources);
    if (error) return error;
    if (current_gpu()->major < 8)
        return failed(cudaErrorNoKernelImageForDevice); /* we build for sm_80 and later */
    struct function *function = function_of(address);
    if (!function) return failed(cudaErrorInvalidDeviceFunction);
    struct cusim_kernel *kernel = function->kernel;
    error = check_shape(kernel->name, grid, block);
    if (error) return error;
    if (shared_bytes > dynamic_limit(function))
        return refuse(cudaErrorInvalidValue, kernel->name,
                      "%zu bytes of dynamic shared memory, %zu are allowed (cudaFuncSetAttribute)",
                      shared_bytes, dynamic_limit(function));
    size_t bytes = sizeof(struct launch) + kernel->arguments_bytes;
    struct launch *launch = malloc(bytes);
    if (!launch) return failed(cudaErrorMemoryAllocation);
    *launch = (struct launch){kernel, grid, block, shared_bytes};
    kernel->pack(launch->arguments, arguments);
    error = stream_submit(stream, task_new(TASK_KERNEL, kernel->name, run_launch, launch, bytes));
    free(launch);
    return error;
}

EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *address,
                                       void **arguments)
{
    if (config->numAttrs)
        return refuse(cudaErrorNotSupported, "cudaLaunchKernelExC", "launch attributes are not known here");
    return cudaLaunchKernel(address, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes,
                            config->stream);
}

EXPORT cudaError_t cudaFuncSetAttribute(const void *address, enum cudaFuncAttribute attribute, int value)
{
    cudaError_t error = call_begin("cudaFuncSetAttribute", cudaErrorInvalidValue);
    if (error) return error;
    struct function *function = function_of(address);
    if (!function) return failed(cudaErrorInvalidDeviceFunction);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0)
        return failed(cudaErrorInvalidValue);
    size_t limit = current_gpu()->shared_optin_bytes - static_shared(function);
    if ((size_t)value > limit)
        return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute",
                      "%d bytes of shared memory for %s, the limit is %zu", value, function->kernel->name,
                      limit);
    function->dynamic_bytes = value;
    return cudaSuccess;
}

/* Registers are the compiler's: not known here, 0. */
EXPORT cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *address)
{
    cudaError_t error = call_begin("cudaFuncGetAttributes", cudaErrorInvalidDeviceFunction);
    if (error) return error;
    const struct gpu *gpu = current_gpu();
    if (gpu->major < 8) return failed(cudaErrorNoKernelImageForDevice);
    struct function *function = function_of(address);
    if (!function) return failed(cudaErrorInvalidDeviceFunction);
    *attributes = (struct cudaFuncAttributes){
        .sharedSizeBytes = static_shared(function),
        .maxThreadsPerBlock = 1024,
        .ptxVersion = gpu->major * 10 + gpu->minor,
        .binaryVersion = gpu->major * 10 + gpu->minor,
        .maxDynamicSharedSizeBytes = (int)dynamic_limit(function),
        .preferredShmemCarveout = -1,
    };
    return cudaSuccess;
}

/* By threads and shared memory alone; registers may lower it on a GPU. */
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *address,
                                                                 int block_threads, size_t shared_bytes)
{
    cudaError_t error = call_begin("cudaOccupancyMaxActiveBlocksPerMultiprocessor", cudaErrorInvalidValue);
    if (error) return error;
    struct function *function = function_of(address);
    if (!function) return failed(cudaErrorInvalidDeviceFunction);
    if (block_threads < 1) return failed(cudaErrorInvalidValue);
    size_t each = static_shared(function) + shared_bytes + 1024,
           room = current_gpu()->shared_optin_bytes + 1024;
    int warps = (block_threads + 31) / 32, by_threads = 64 / warps, by_shared = (int)(room / each);
    *blocks = block_threads > 1024 ? 0 : by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > 32) *blocks = 32;
    return cudaSuccess;
}
