/*
 * cusim.h - what emulated kernels and their callers know of the emulator: CUDA kernels run on the CPU, one
 * fiber per CUDA thread.
 *
 *     struct cusim_kernel *kernel = cusim_find(function);      the address GPU_LAUNCH has, or dlsym gave
 *     kernel->pack(block, arguments);                          void *arguments[], as for cudaLaunchKernel
 *     cusim_run(kernel, grid, dim, shared_bytes, block);       returns when the grid is done
 *     struct cusim_counts counts = cusim_counted("scale");     what its GPU_COUNT_ lines added up to
 *
 * Any OS thread may call cusim_run; each has its own multiprocessor (block.h) and works on one block at a
 * time. A fault of a kernel (deadlock, divergent barrier, wrong mask, a store past dynamic shared memory,
 * ...) is told on stderr with kernel, block, thread and source line, and ends the process with abort().
 *
 * Seeds choose in which order ready threads go on: 0 forward, 1 reverse, others random. An asynchronous copy
 * lands as late as it may (even seeds), as early as it may (odd seeds). A right kernel gives the same result
 * under every seed.
 *
 *     REFRAIN_CUSIM_SEED      seed of all launches (0), unless cusim_set_seed was called
 *     REFRAIN_CUSIM_THREADS   OS threads that share the blocks of a launch (1)
 */
#ifndef REFRAIN_CUSIM_H
#define REFRAIN_CUSIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/fakegpu/include/cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- kernels and launches ------------------------------------------------------------------------------- */

struct cusim_counts {
    uint64_t launches, read_bytes, written_bytes, flops;
};

/* One per kernel that is launched anywhere; made by GPU_LAUNCH, static, linked before main. */
struct cusim_kernel {
    const char *name; /* as in the source, template arguments included: attention<64, true> */
    const void *function;
    size_t arguments_bytes;
    void (*pack)(void *block, void **arguments);
    void (*call)(const void *block); /* the kernel, as the calling fiber */
    struct cusim_counts counts;
    struct kernel_arrays *arrays; /* statics.c */
    struct cusim_kernel *next;
};

void cusim_register(struct cusim_kernel *kernel);
struct cusim_kernel *
cusim_find(const void *function); /* NULL: not launched by any GPU_LAUNCH of this object */

/* Bytes of its __shared__ arrays; those inside functions it calls are not counted. */
size_t cusim_static_shared(struct cusim_kernel *kernel);

/* Shared memory is poisoned (0xa5) before each block. */
void cusim_run(struct cusim_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes,
               const void *arguments);

void cusim_set_seed(uint64_t seed);

/* Sums over all kernels of that name since the start or the last reset. */
struct cusim_counts cusim_counted(const char *name);
void cusim_reset_counts(void);

/* --- called by device code, through device.h ------------------------------------------------------------ */

struct cusim_block_place {
    uint3 index;
    dim3 dim, grid;
    unsigned char *dynamic_shared; /* 16-byte aligned */
};

struct cusim_thread_place {
    uint3 index;
    int linear; /* x fastest */
    const struct cusim_block_place *block;
};

/* The CUDA thread whose code runs now on this OS thread. */
extern __thread struct cusim_thread_place *cusim_self;

struct cusim_site { /* where in the kernel's source */
    const char *file;
    int line;
};

/* threads 0: all of the block. wait false: arrives and goes on. */
void cusim_barrier(int id, int threads, bool wait, struct cusim_site site);

enum cusim_vote { CUSIM_COUNT, CUSIM_AND, CUSIM_OR };
int cusim_barrier_vote(enum cusim_vote vote, int predicate, struct cusim_site site);

/* A warp operation: every lane of `mask` brings its arguments; the last one resolves them all. */
struct cusim_warp_op {
    const char *name;
    void (*resolve)(void *lanes[32], unsigned mask);
};
void cusim_warp(const struct cusim_warp_op *op, unsigned mask, void *lane, struct cusim_site site);

/* __activemask: lanes of this warp that have not ended. */
unsigned cusim_active_mask(void);

struct cusim_copy {
    void *to;
    const void *from;
    bool valid; /* false: zeros */
};
/* True: the copy is to land now; else it is kept. */
bool cusim_copy_issue(const struct cusim_copy *copy, struct cusim_site site);
void cusim_copy_commit(void);
/* The next copy that must have landed when at most `groups` are under way; false: no more. */
bool cusim_copy_due(int groups, struct cusim_copy *copy);

void cusim_count(uint64_t read_bytes, uint64_t written_bytes, uint64_t flops);

#ifdef __cplusplus
}
#endif

#endif
