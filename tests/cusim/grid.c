/* grid.c - a launch: its blocks one after another, or shared out over OS threads. */
#include "tests/cusim/block.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Atomic uint64_t seed;
static pthread_once_t settings_once = PTHREAD_ONCE_INIT;
static int os_threads = 1;

static void read_settings(void)
{
    const char *text = getenv("REFRAIN_CUSIM_SEED");
    if (text) seed = strtoull(text, NULL, 10);
    text = getenv("REFRAIN_CUSIM_THREADS");
    if (text && atoi(text) > 1) os_threads = atoi(text);
}

void cusim_set_seed(uint64_t to)
{
    pthread_once(&settings_once, read_settings);
    seed = to;
}

struct launch {
    struct cusim_kernel *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    const void *arguments;
    uint64_t seed;
    _Atomic uint64_t taken; /* blocks */
};

static void *run_blocks(void *argument)
{
    struct launch *launch = argument;
    struct block *block = block_here();
    block->place.dim = launch->block;
    block->place.grid = launch->grid;
    block->kernel = launch->kernel;
    block->arguments = launch->arguments;
    block->seed = launch->seed;
    shared_prepare(block, launch->shared_bytes);
    dim3 grid = launch->grid;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i; (i = launch->taken++) < blocks;) {
        if (launch->seed == 1) i = blocks - 1 - i;
        block_run(block, (uint3){(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                                 (unsigned)(i / grid.x / grid.y)});
    }
    kernels_gather(launch->kernel, block);
    return NULL;
}

void cusim_run(struct cusim_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes, const void *arguments)
{
    pthread_once(&settings_once, read_settings);
    struct launch launch = {kernel, grid, block, shared_bytes, arguments, seed, 0};
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    pthread_t helper[64];
    int helpers = 0;
    while (helpers < os_threads - 1 && helpers < 64 && (uint64_t)helpers + 1 < blocks &&
           pthread_create(&helper[helpers], NULL, run_blocks, &launch) == 0)
        helpers++;
    run_blocks(&launch);
    while (helpers) pthread_join(helper[--helpers], NULL);
    kernel->counts.launches++;
}
