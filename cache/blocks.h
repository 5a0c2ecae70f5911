/*
 * blocks.h - caching decided block by block (SITE_BLOCKS), on the rank that holds the block.
 *
 *     blocks_create(&settings, &job, held, tokens, hidden, ops, &cache, &error);      one branch of one job
 *     for each block held:
 *         if (blocks_reuse(cache, team, step, block, x, records)) continue;    x += its residual of last time
 *         blocks_enter(cache, team, block, x);
 *         ... run the block on x ...
 *         blocks_leave(cache, team, block, x);
 *
 * What a block keeps lives where the block lives: nothing is sent for it. A stage learns the policy's text
 * with the OPEN ticket; what was decided travels with the hop as `records` [layers], the change of each
 * block's input (NAN: not measured), its sign bit set when the block was reused. A record that is not NAN when its block
 * is asked says how often the block had been reused before: a restored job makes its last whole step again. Where the
 * second of two experts takes over (job->switch_at) all is forgotten. Compute thread of a rank.
 *
 * Where several ranks have a part of the tokens' rows each (struct blocks_rows) they put the sums of their tokens side by side, once
 * for each block that is asked: so all of them, and one rank with all rows, add up the same numbers in the same order, and
 * decide alike.
 */
#ifndef REFRAIN_CACHE_BLOCKS_H
#define REFRAIN_CACHE_BLOCKS_H

#include "cache/settings.h"
#include "kernels/ops.h"

struct blocks;

/* How a rank that has not all rows learns of the others'. join: of `bytes` for each own row all rows' in their order; false: it
 * cannot, and then the caller's own way of telling so is used. */
struct blocks_rows {
    int64_t all;
    bool (*join)(void *context, const void *own, size_t bytes, void *all);
    void *context;
};

/* tokens: rows that are here; rows: NULL: these are all. held: [job->layers], the blocks of this rank. The job's tables are not kept. */
status_t blocks_create(const struct cache_settings *settings, const struct policy_job *job, const bool *held,
                       int64_t tokens, const struct blocks_rows *rows, int64_t hidden, const struct ops *ops,
                       struct blocks **blocks, struct error *error);
void blocks_destroy(struct blocks *blocks); /* after wait; NULL is fine */
uint64_t blocks_bytes(const struct blocks *blocks);

/* Asks the policy, after a wait if it looks at x [tokens, hidden], memory of the backend; on reuse adds the
 * block's residual to it and returns true. records as above, the host's. Where the wait fails the block is
 * computed: a later one says why. */
bool blocks_reuse(struct blocks *blocks, struct team *team, int step, int block, float *x, float *records);
void blocks_enter(struct blocks *blocks, struct team *team, int block, const float *x);
void blocks_leave(struct blocks *blocks, struct team *team, int block, const float *x);

#endif
