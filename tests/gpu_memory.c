/* gpu_memory.c - see gpu_memory.h. */
#include "tests/gpu_memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, NON_BLOCKING = 1 }; /* of cudart */

static struct {
    void *stream;
    int (*allocate)(void **, size_t);
    int (*release)(void *);
    int (*copy)(void *, const void *, size_t, int, void *);
    int (*stream_create)(void **, unsigned);
    int (*stream_destroy)(void *);
    int (*synchronize)(void *);
    int (*launch)(void *, void (*)(void *), void *);
} gpu;

static void must(bool well, const char *what)
{
    if (well) return;
    fprintf(stderr, "gpu_memory: %s failed\n", what);
    abort();
}

static void find(void *library, const char *name, void *pointer)
{
    void *found = dlsym(library, name);
    must(found != NULL, name);
    memcpy(pointer, &found, sizeof found);
}

static void open_runtime(void)
{
    if (gpu.stream) return;
    void *library = dlopen("libcudart.so.13", RTLD_NOW);
    must(library != NULL, "libcudart.so.13");
    find(library, "cudaMalloc", &gpu.allocate);
    find(library, "cudaFree", &gpu.release);
    find(library, "cudaMemcpyAsync", &gpu.copy);
    find(library, "cudaStreamCreateWithFlags", &gpu.stream_create);
    find(library, "cudaStreamDestroy", &gpu.stream_destroy);
    find(library, "cudaStreamSynchronize", &gpu.synchronize);
    find(library, "cudaLaunchHostFunc", &gpu.launch);
    must(gpu.stream_create(&gpu.stream, NON_BLOCKING) == 0, "cudaStreamCreateWithFlags");
}

void *gpu_memory_stream(void)
{
    open_runtime();
    return gpu.stream;
}

uint8_t *gpu_memory_new(uint64_t bytes)
{
    void *memory = NULL;
    open_runtime();
    must(gpu.allocate(&memory, bytes ? bytes : 1) == 0, "cudaMalloc");
    return memory;
}

void gpu_memory_free(void *memory)
{
    must(gpu.release(memory) == 0, "cudaFree");
}

static void copy(void *to, const void *from, uint64_t bytes, int kind)
{
    open_runtime();
    must(gpu.copy(to, from, bytes, kind, gpu.stream) == 0, "cudaMemcpyAsync");
}

void gpu_memory_wait(void)
{
    must(gpu.synchronize(gpu.stream) == 0, "cudaStreamSynchronize");
}

void gpu_memory_put_later(void *to, const void *from, uint64_t bytes)
{
    copy(to, from, bytes, HOST_TO_DEVICE);
}

void gpu_memory_get_later(void *to, const void *from, uint64_t bytes)
{
    copy(to, from, bytes, DEVICE_TO_HOST);
}

void gpu_memory_put(void *to, const void *from, uint64_t bytes)
{
    gpu_memory_put_later(to, from, bytes);
    gpu_memory_wait();
}

void gpu_memory_get(void *to, const void *from, uint64_t bytes)
{
    gpu_memory_get_later(to, from, bytes);
    gpu_memory_wait();
}

void gpu_memory_later(void (*run)(void *), void *argument)
{
    open_runtime();
    must(gpu.launch(gpu.stream, run, argument) == 0, "cudaLaunchHostFunc");
}

void gpu_memory_close(void)
{
    if (gpu.stream) must(gpu.stream_destroy(gpu.stream) == 0, "cudaStreamDestroy");
    gpu.stream = NULL;
}
