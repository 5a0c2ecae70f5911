/* kernels.c - the list of kernels that GPU_LAUNCH names, and what they counted. */
#include "tests/cusim/block.h"
#include <pthread.h>
#include <string.h>

static struct cusim_kernel *kernels; /* complete before main */
static pthread_mutex_t counts_lock = PTHREAD_MUTEX_INITIALIZER;

void cusim_register(struct cusim_kernel *kernel)
{
    kernel->next = kernels;
    kernels = kernel;
}

struct cusim_kernel *cusim_find(const void *function)
{
    for (struct cusim_kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (kernel->function == function) return kernel;
    return NULL;
}

struct cusim_kernel *kernels_first(void)
{
    return kernels;
}

static void add(struct cusim_counts *sum, const struct cusim_counts *counts)
{
    sum->launches += counts->launches;
    sum->read_bytes += counts->read_bytes;
    sum->written_bytes += counts->written_bytes;
    sum->flops += counts->flops;
}

void cusim_count(uint64_t read_bytes, uint64_t written_bytes, uint64_t flops)
{
    add(&block_of(block_thread())->counts, &(struct cusim_counts){0, read_bytes, written_bytes, flops});
}

void kernels_gather(struct cusim_kernel *kernel, struct block *block)
{
    pthread_mutex_lock(&counts_lock);
    add(&kernel->counts, &block->counts);
    pthread_mutex_unlock(&counts_lock);
    block->counts = (struct cusim_counts){0};
}

void kernels_launched(struct cusim_kernel *kernel)
{
    pthread_mutex_lock(&counts_lock);
    kernel->counts.launches++;
    pthread_mutex_unlock(&counts_lock);
}

struct cusim_counts cusim_counted(const char *name)
{
    struct cusim_counts sum = {0};
    pthread_mutex_lock(&counts_lock);
    for (struct cusim_kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) add(&sum, &kernel->counts);
    pthread_mutex_unlock(&counts_lock);
    return sum;
}

void cusim_reset_counts(void)
{
    pthread_mutex_lock(&counts_lock);
    for (struct cusim_kernel *kernel = kernels; kernel; kernel = kernel->next)
        kernel->counts = (struct cusim_counts){0};
    pthread_mutex_unlock(&counts_lock);
}
