/* barrier.c - __syncthreads and named barriers. */
#include "tests/cusim/block.h"
#include <string.h>

static const char *const names[BARRIERS] = {
    "__syncthreads", "barrier 1",  "barrier 2",  "barrier 3",  "barrier 4",  "barrier 5",
    "barrier 6",     "barrier 7",  "barrier 8",  "barrier 9",  "barrier 10", "barrier 11",
    "barrier 12",    "barrier 13", "barrier 14", "barrier 15",
};

static void check(const struct block *block, const struct barrier *barrier, int id, int threads,
                  struct cusim_site site)
{
    char first[128], second[128];
    if (id < 0 || id >= BARRIERS)
        report("barrier %d: there are 0 to %d (%s)", id, BARRIERS - 1, site_text(site, first));
    if (threads < 1 || threads > block->threads || (id && threads % WARP))
        report("%s for %d threads of %d: whole warps of the block (%s)", names[id], threads, block->threads,
               site_text(site, first));
    if (!barrier->arrived) return;
    if (barrier->threads != threads)
        report("%s for %d threads (%s), others came for %d (%s)", names[id], threads, site_text(site, first),
               barrier->threads, site_text(barrier->site, second));
    /* Named barriers are for threads that do different things; __syncthreads must be the same one for all. */
    if (id == 0 && !site_same(barrier->site, site))
        report("divergent barrier: it is at the __syncthreads of %s, others of its block wait at that of %s",
               site_text(site, first), site_text(barrier->site, second));
}

/* Counts the caller in; true when it was the last and the others are woken. */
static bool arrive(struct block *block, struct barrier *barrier)
{
    if (++barrier->arrived < barrier->threads) return false;
    token_acquire(&barrier->arrive_token);
    token_release(&barrier->leave_token);
    barrier->result[CUSIM_COUNT] = barrier->count;
    barrier->result[CUSIM_AND] = barrier->and;
    barrier->result[CUSIM_OR] = barrier->or ;
    for (int i = 0; i < barrier->waiting; i++) block_wake(block, barrier->waiters[i]);
    barrier->arrived = barrier->waiting = 0;
    return true;
}

static struct barrier *enter(struct block *block, int id, int threads, int predicate, struct cusim_site site)
{
    struct barrier *barrier = &block->barrier[id < 0 || id >= BARRIERS ? 0 : id];
    if (!threads) threads = block->threads;
    check(block, barrier, id, threads, site);
    if (!barrier->arrived) {
        barrier->threads = threads;
        barrier->site = site;
        barrier->count = barrier->or = 0;
        barrier->and = 1;
    }
    barrier->count += predicate != 0;
    barrier->and &= predicate != 0;
    barrier->or |= predicate != 0;
    token_release(&barrier->arrive_token);
    return barrier;
}

static void pass(int id, int threads, bool wait, int predicate, struct cusim_site site)
{
    struct thread *self = block_thread();
    struct block *block = block_of(self);
    struct barrier *barrier = enter(block, id, threads, predicate, site);
    if (!arrive(block, barrier) && wait) {
        barrier->waiters[barrier->waiting++] = (short)self->place.linear;
        block_wait(block, self, names[id], site);
    }
    if (wait) token_acquire(&barrier->leave_token);
}

void cusim_barrier(int id, int threads, bool wait, struct cusim_site site)
{
    pass(id, threads, wait, 0, site);
}

/* The result outlives the round: whoever reaches the next vote first overwrites nothing before all have come
 * again. */
int cusim_barrier_vote(enum cusim_vote vote, int predicate, struct cusim_site site)
{
    pass(0, 0, true, predicate, site);
    return block_of(block_thread())->barrier[0].result[vote];
}
