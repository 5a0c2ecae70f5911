/* block.c - a block's threads take turns; block.h. */
#include "tests/cusim/block.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

__thread struct cusim_thread_place *cusim_self;

static __thread struct block *here;
static pthread_key_t here_key;
static pthread_once_t here_once = PTHREAD_ONCE_INIT;

static void block_free(void *memory)
{
    struct block *block = memory;
    for (int i = 0; i < block->stacks; i++) fiber_destroy(&block->thread[i].fiber);
    shared_free(block);
    free(block->thread);
    free(block);
    here = NULL;
}

static void make_key(void)
{
    pthread_key_create(&here_key, block_free);
}

struct block *block_here(void)
{
    if (here) return here;
    pthread_once(&here_once, make_key);
    struct block *block = calloc(1, sizeof *block);
    if (block) block->thread = calloc(THREADS_MAX, sizeof *block->thread);
    if (!block || !block->thread) report("no memory for a block");
    pthread_setspecific(here_key, block);
    return here = block;
}

uint64_t block_random(struct block *block)
{
    uint64_t x = block->random; /* xorshift64, Marsaglia 2003 */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return block->random = x;
}

/* --- who goes on ---------------------------------------------------------------------------------------- */

static short *ready_at(struct block *block, int place)
{
    return &block->ready[(block->ready_first + place) % THREADS_MAX];
}

static struct thread *take_ready(struct block *block)
{
    int last = block->ready_count - 1, place = 0;
    if (block->seed == 1) place = last;
    if (block->seed > 1) place = (int)(block_random(block) % (uint64_t)block->ready_count);
    short taken = *ready_at(block, place);
    *ready_at(block, place) = *ready_at(block, block->seed == 1 ? last : 0);
    if (block->seed != 1) block->ready_first = (block->ready_first + 1) % THREADS_MAX;
    block->ready_count--;
    return &block->thread[taken];
}

/* The woken go before the fresh, so that few stacks are warm at a time; a random seed tosses. NULL: nobody
 * can. */
static struct thread *next_thread(struct block *block)
{
    bool fresh = block->started < block->threads;
    if (block->ready_count && fresh && block->seed > 1 && block_random(block) & 1)
        return &block->thread[block->order[block->started++]];
    if (block->ready_count) return take_ready(block);
    if (fresh) return &block->thread[block->order[block->started++]];
    return NULL;
}

static void thread_entry(void);

static void go_on(struct fiber *from, struct thread *next)
{
    if (next->state == THREAD_FRESH) fiber_start(&next->fiber, thread_entry);
    next->state = THREAD_READY;
    cusim_self = &next->place;
    fiber_switch(from, &next->fiber);
}

/* --- a thread's life ------------------------------------------------------------------------------------ */

static void thread_ends(struct block *block, struct thread *thread)
{
    thread->state = THREAD_ENDED;
    block->alive--;
    char where[128];
    if (thread->copies)
        report("ended with %d asynchronous copies it never waited for (%s)", thread->copies,
               site_text(thread->copy_site, where));
    warp_left(block, thread);
    struct barrier *whole = &block->barrier[0];
    if (whole->arrived)
        report("ended while %d threads of its block wait at __syncthreads (%s)", whole->arrived,
               site_text(whole->site, where));
}

/* Runs threads on this stack as long as the next one is fresh, then leaves it for good: the fiber is started
 * anew for the next block. */
static void thread_entry(void)
{
    fiber_entered();
    struct block *block = block_here();
    for (;;) {
        struct thread *self = block_thread();
        token_acquire(&block->begin_token);
        block->kernel->call(block->arguments);
        token_release(&block->end_token);
        thread_ends(block, self);
        struct thread *next = next_thread(block);
        if (!next && block->alive) report_deadlock(block);
        if (!next) {
            fiber_switch(&self->fiber, &block->host);
        }
#ifndef CUSIM_TSAN /* the race detector wants a fiber of its own for each thread */
        else if (next->state == THREAD_FRESH) {
            fiber_swap_stacks(&self->fiber, &next->fiber);
            next->state = THREAD_READY;
            cusim_self = &next->place;
        }
#endif
        else {
            go_on(&self->fiber, next);
        }
    }
}

void block_wait(struct block *block, struct thread *self, const char *at, struct cusim_site site)
{
    self->state = THREAD_WAITING;
    self->waits_at = at;
    self->site = site;
    struct thread *next = next_thread(block);
    if (!next) report_deadlock(block);
    go_on(&self->fiber, next);
}

void block_wake(struct block *block, int linear)
{
    block->thread[linear].state = THREAD_READY;
    *ready_at(block, block->ready_count++) = (short)linear;
}

/* --- a block's life ------------------------------------------------------------------------------------- */

static void place_threads(struct block *block)
{
    struct thread *thread = block->thread;
    dim3 dim = block->place.dim;
    for (unsigned z = 0; z < dim.z; z++)
        for (unsigned y = 0; y < dim.y; y++)
            for (unsigned x = 0; x < dim.x; x++, thread++) {
                int linear = (int)(thread - block->thread);
                thread->place = (struct cusim_thread_place){{x, y, z}, linear, &block->place};
                thread->state = THREAD_FRESH;
                thread->copies = thread->first_copy = thread->group = 0;
                block->order[linear] = (short)(block->seed == 1 ? block->threads - 1 - linear : linear);
            }
    for (int i = block->threads - 1; block->seed > 1 && i > 0; i--) {
        int j = (int)(block_random(block) % (uint64_t)(i + 1));
        short other = block->order[i];
        block->order[i] = block->order[j];
        block->order[j] = other;
    }
}

void block_run(struct block *block, uint3 index)
{
    dim3 dim = block->place.dim;
    block->place.index = index;
    block->threads = block->alive = (int)(dim.x * dim.y * dim.z);
    block->started = block->ready_count = 0;
    block->random = (block->seed + 1) * 0x9e3779b97f4a7c15u ^ (index.x + 1) * 0xbf58476d1ce4e5b9u ^
                    (index.y + 1) * 0x94d049bb133111ebu ^ index.z;
    if (!block->random) block->random = 1;
    while (block->stacks < block->threads) fiber_create(&block->thread[block->stacks++].fiber);
    place_threads(block);
    for (int i = 0; i < BARRIERS; i++) block->barrier[i].arrived = block->barrier[i].waiting = 0;
    for (int i = 0; i < WARPS_MAX; i++) block->warp[i].arrived = block->warp[i].ended = 0;
    shared_poison(block);

    token_release(&block->begin_token);
    go_on(&block->host, next_thread(block));
    token_acquire(&block->end_token);
    cusim_self = NULL;
    for (int i = 1; i < BARRIERS; i++)
        if (block->barrier[i].arrived) {
            char where[128];
            report("block (%u,%u,%u) ended with %d threads counted at barrier %d (%s)", index.x, index.y,
                   index.z, block->barrier[i].arrived, i, site_text(block->barrier[i].site, where));
        }
    shared_check(block);
}
