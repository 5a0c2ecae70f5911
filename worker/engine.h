/*
 * engine.h - what a rank computes with: a model's weights, a team of threads, its place in the ring.
 *
 * One per rank, owned by the compute thread. Jobs (home) and contexts (stages) borrow it. A new epoch changes
 * fabric membership, a Load changes the model; both only while no job or context is alive.
 */
#ifndef REFRAIN_WORKER_ENGINE_H
#define REFRAIN_WORKER_ENGINE_H

#include <stdatomic.h>

#include "cache/blocks.h"
#include "cluster/fabric.h"
#include "kernels/ops.h"
#include "worker/model/model.h"

enum { PRIORITIES = 3 }; /* of jobs: enum Priority in refrain.proto */

struct engine {
    const struct ops *ops;
    struct team *team;
    struct fabric *fabric; /* NULL in a process of its own (benchmarks): then members is 1 */
    struct model *model;   /* NULL until loaded */
    int self, members;     /* place in the ring; home is 0 */
    uint64_t epoch;
    uint64_t sequence;         /* of the last ticket sent */
    uint64_t contexts;         /* number of the last job context made here */
    _Atomic uint64_t progress; /* grows with every piece of work: read by the control thread for heartbeats */
    int hops[PRIORITIES];      /* of jobs at home here, with the stages now, by the jobs' priority */
    struct arena arena;        /* of `work` */
    struct denoiser_work work; /* buffers for the grid at work */
};

/* Makes `work` fit the grid; allocates only when the grid changes. */
status_t engine_prepare(struct engine *engine, const struct token_grid *grid, struct error *error);

/* Sends a ticket to a member, filling in what every ticket of this engine shares. STATUS_AGAIN: no credit
 * now. */
status_t engine_post(struct engine *engine, int peer, struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error);

/* Runs blocks begin .. end - 1, all held here, on x [tokens, hidden] in place. With `cache`, each block is
 * first asked about, and records [layers] says what came of it (cache/blocks.h). The workspace must be
 * prepared. */
void engine_blocks(struct engine *engine, const struct denoiser_context *context, struct blocks *cache,
                   int step, const float *modulation, float *x, int begin, int end, float *records);

/* One branch's caching by blocks, for the blocks of this rank. */
status_t engine_blocks_create(struct engine *engine, const struct cache_settings *settings, int steps,
                              const struct token_grid *grid, struct blocks **cache, struct error *error);

static inline int engine_next_member(const struct engine *engine)
{
    return (engine->self + 1) % engine->members;
}

/* Bytes of the largest hop a model can have at a number of tokens: modulation [6, hidden] and rows [tokens,
 * hidden]. */
static inline uint64_t hop_bytes(int tokens, int hidden)
{
    return ((uint64_t)tokens + 6) * (uint64_t)hidden * sizeof(float);
}

#endif
