/*
 * block.h - one OS thread's multiprocessor and the block it works on: CUDA threads as fibers, who waits and
 * who is ready.
 *
 * All state belongs to one OS thread, so nothing here is locked. Queues are rings of fixed size: the race
 * checker sees calls of memmove and malloc even in code that is not instrumented. Threads are started in the
 * order of the seed on the stack that is current; a thread that never waits costs no switch at all.
 */
#ifndef REFRAIN_CUSIM_BLOCK_H
#define REFRAIN_CUSIM_BLOCK_H

#include "tests/cusim/cusim.h"
#include "tests/cusim/fiber.h"
#include <string.h>

enum { THREADS_MAX = 1024, WARP = 32, WARPS_MAX = THREADS_MAX / WARP, BARRIERS = 16, COPIES_MAX = 128 };

enum thread_state { THREAD_FRESH, THREAD_READY, THREAD_WAITING, THREAD_ENDED };

struct thread {
    struct cusim_thread_place place; /* first: cusim_self points here */
    enum thread_state state;
    struct fiber fiber;

    /* why it waits, for reports, and what it brought to the operation of its warp */
    const char *waits_at;
    struct cusim_site site;
    const struct cusim_warp_op *op;
    unsigned mask;
    void *lane;
    char arrive_token, leave_token; /* as of a barrier */

    /* asynchronous copies, oldest first: those of group g became a group with the g-th commit */
    int copies, first_copy, group, copy_groups[COPIES_MAX];
    struct cusim_copy copy[COPIES_MAX]; /* a ring */
    struct cusim_site copy_site;
};

struct barrier {
    int arrived, threads, waiting;
    short waiters[THREADS_MAX];
    struct cusim_site site;
    int count, and, or ; /* votes so far */
    int result[3];       /* of the round that was completed last */
    char arrive_token,
        leave_token; /* the last to arrive passes on what all arrived with, and not what comes later */
};

struct warp {
    unsigned arrived, ended;
};

struct block {
    struct cusim_block_place place; /* first: thread places point here */
    struct cusim_kernel *kernel;
    const void *arguments;
    uint64_t seed, random;

    int threads, alive, started;
    short order[THREADS_MAX]; /* in which fresh threads start */
    short ready[THREADS_MAX]; /* those woken, oldest first: a ring */
    int ready_count, ready_first;

    struct fiber host;
    struct thread *thread; /* [stacks made so far] of THREADS_MAX */
    int stacks;
    struct barrier barrier[BARRIERS];
    struct warp warp[WARPS_MAX];
    struct cusim_counts counts; /* of this OS thread, since it was last gathered */
    unsigned char *shared;      /* guard, dynamic shared memory, guard */
    size_t shared_bytes, shared_room;
    char begin_token, end_token;
};

/* This OS thread's, made at the first call, freed when the thread ends. */
struct block *block_here(void);
static inline struct thread *block_thread(void)
{
    return (struct thread *)cusim_self;
}

/* The block of a thread, found without thread-local storage. */
static inline struct block *block_of(const struct thread *thread)
{
    return (struct block *)thread->place.block;
}

/* Runs one block to its end. The fields up to seed are set; shared memory is ready. */
void block_run(struct block *block, uint3 index);

/* The calling fiber waits until block_wake. */
void block_wait(struct block *block, struct thread *self, const char *at, struct cusim_site site);
void block_wake(struct block *block, int linear);

uint64_t block_random(struct block *block);

/* --- warp.c: a thread has ended; none of its warp may wait for it */
void warp_left(struct block *block, const struct thread *thread);

/* --- shared.c: dynamic shared memory; statics.c: __shared__ arrays */
enum { SHARED_POISON = 0xa5 };
void shared_prepare(struct block *block, size_t bytes);
void shared_poison(struct block *block);
void shared_check(struct block *block); /* ends the process when a guard was written to */
void shared_free(struct block *block);
void statics_poison(struct cusim_kernel *kernel); /* those of the calling thread */

/* --- kernels.c */
struct cusim_kernel *kernels_first(void); /* the list, complete before main */
void kernels_launched(struct cusim_kernel *kernel);
void kernels_gather(struct cusim_kernel *kernel, struct block *block); /* adds up what the block counted */

/* --- report.c: tells, with kernel, block and thread where there are any, and ends the process */
__attribute__((noreturn, format(printf, 1, 2))) void report(const char *format, ...);
/* names who waits where; nobody can go on */
__attribute__((noreturn)) void report_deadlock(const struct block *block);
const char *site_text(struct cusim_site site, char text[static 128]);
/* The same line; the same name of a file may lie at two addresses. */
static inline bool site_same(struct cusim_site a, struct cusim_site b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

#endif
