/*
 * plan.h - how the blocks of a model are laid over the ranks of a group, and what that layout is worth.
 *
 *     struct plan_request request = {.layers = 40, .ranks = 4, .seats = seats, .mix = mix};
 *     plan_make(&request, &plan, &error);
 *     plan_check(&plan, &request, &other_mix, &error);      may a job like that run on this layout?
 *     plan_describe(&plan, "cpu", text, sizeof text);       "4 ranks, blocks 1+8 10 10 11, cpu"
 *
 * Two layouts are compared: a fixed home (member 0 holds the first `head` and the last `tail` blocks and as
 * many of the ring's as keep it as busy as the others, and maybe one more that rank 1 holds too, which either
 * runs), and a floating one (every member holds head and tail,
 * each job has a home of its own). The fixed one is taken where the floating one is less than 3 % faster and
 * costs memory that matters. A
 * layout that would be slower with the cache than the even one without it is never chosen, and refused when
 * it is asked for; where both are, home is fixed and the blocks are dealt as without caching, which no cached
 * job can lose by, though its hits travel. Wide stages, which make one job faster and no queue, are laid only where they
 * are asked for. The model behind it: docs/scheduling.md (after parallelism.md 5.2
 * and 7.2).
 *
 * Plain values, pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLAN_H
#define REFRAIN_COORDINATOR_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum { PLAN_MAX_RANKS = 1024 };

struct plan {
    uint32_t head, tail;          /* caps: blocks [0, head) and the last `tail` */
    uint32_t run[PLAN_MAX_RANKS]; /* [ranks]: blocks of the ring between, in order */
    uint32_t spare; /* blocks after a fixed home's that it holds beside their holder, to take work from it */
    bool floating;  /* every rank holds the caps and can be a job's home */
    uint32_t
        width; /* ranks that hold the same blocks and share each hop's tokens, `run` being the same for all of
                       them; 0 or 1: each rank is a stage of its own */
    uint32_t ranks, layers;
    /* Predicted, in block times of the fastest rank: the busiest rank's work for one step of one job (all its
     * branches, hits and misses as expected), and the same for the even layout without caching. */
    double cycle, cycle_uncached;
    uint32_t jobs_to_saturate; /* so many jobs in flight keep every rank busy */
};

/* What is known of one rank. */
struct plan_seat {
    /* In any unit, > 0; 0: unknown, counts as the mean of the others. Within 15 % of each other they count as
     * equal, so that equal machines get equal blocks at every start. */
    double speed;
    uint64_t make; /* ranks of one make (host, backend and threads, say) all count as the fastest of them:
                      what their measurements differ by is noise; 0: of a make of its own */
    uint64_t memory_bytes; /* for weights; 0: unknown, no limit */
};

/* What the jobs are like for which the layout is made. */
struct plan_mix {
    uint32_t branches;   /* 1 or 2 */
    uint32_t head, tail; /* blocks a hit still runs, F and B */
    double hit_rate;     /* 0..1: of branch-steps that skip the ring; 0: not cached */
    double home_work; /* further work at home per branch-step, in block times: embedding, output, a share of
                         text and decoding */
    double hop;       /* time of one hop, in block times */
};

/* An operator's wish; each part may be absent. */
struct plan_wish {
    bool has_fold;
    uint32_t fold_head, fold_tail; /* "--fold 1,0": all that home holds */
    /* "--split 10,10,10,10": blocks of each rank, home's first; with floating homes those of the ring, which
     * every rank's caps come on top of. */
    uint32_t run[PLAN_MAX_RANKS];
    uint32_t runs;  /* how many were given; 0: none */
    uint32_t width; /* "--stage-width 2": ranks of a stage; 0 and 1: no wish */
    enum plan_home { PLAN_HOME_AUTO, PLAN_HOME_FIXED, PLAN_HOME_FLOATING } home;
};

struct plan_request {
    uint32_t layers, ranks;
    const struct plan_seat *seats; /* [ranks]; NULL: all alike */
    struct plan_mix mix;
    const struct plan_wish *wish; /* NULL: none */
    uint32_t heads;               /* of the model's attention: a stage's width divides them; 0: unknown */
    uint64_t block_bytes;         /* weights of one block; 0: unknown, memory is not looked at */
    uint64_t home_bytes;          /* of what only a home holds: ends, text encoder, VAE */
};

/* layers >= 1, 1 <= ranks <= PLAN_MAX_RANKS, otherwise STATUS_INVALID; STATUS_NO_MEMORY: the weights do not
 * fit the ranks; STATUS_INVALID for a wish that does not add up or would be slower cached than uncached. */
status_t plan_make(const struct plan_request *request, struct plan *plan, struct error *error);

/* Would a job like this be slower, by more than a tenth, on this layout than without its caching on an even
 * one? Then STATUS_INVALID and the sentence, with the two times and what to do: the ranks are to be laid out
 * anew for it. The request's own mix does not matter. */
status_t plan_check(const struct plan *plan, const struct plan_request *request, const struct plan_mix *mix,
                    struct error *error);

/* What plan_make calls `cycle`, of a layout that is there already, for the request's mix; 0: it is of another model
 * or number of ranks. */
double plan_cycle(const struct plan *plan, const struct plan_request *request);

/* Blocks each rank holds, caps and spare ones included. */
uint32_t plan_blocks(const struct plan *plan, uint32_t rank);
bool plan_equal(const struct plan *a, const struct plan *b); /* the same blocks on the same ranks */

/* Ranks of a stage; at least 1. */
static inline uint32_t plan_width(const struct plan *plan)
{
    return plan->width > 1 ? plan->width : 1;
}

/* "HEAD,TAIL", "B0,B1,…" and "auto|fixed|floating" of the command line. */
status_t plan_read_fold(const char *text, struct plan_wish *wish, struct error *error);
status_t plan_read_split(const char *text, struct plan_wish *wish, struct error *error);

/* For people: "2 ranks, blocks 4+4, cpu-avx512"; where home holds blocks that always run and a part of the
 * ring "4 ranks, blocks 1+8 10 10 11, cpu-avx512", with its last ones in brackets at the end, and with a spare
 * block "4 ranks, blocks 1+8(+1 spare) 11 10 10, cpu-avx512"; floating: "4
 * ranks, 8 blocks everywhere, 8+8+8+8 around, cpu-avx512". */
void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes);

#endif
