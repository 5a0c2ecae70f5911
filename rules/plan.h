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
 * job can lose by, though its hits travel. The model behind it: docs/scheduling.md (after parallelism.md 5.2
 * and 7.2).
 *
 * That is the layout of one chain (worker/model/model.h), which both branches of a job's step follow each other through. By
 * wish there are others, in which blocks of the ring are held more than once: `cfg` has a chain for each branch, so that
 * both are computed at the same time and a job alone waits for one of them only; `pools` has one for each expert of a
 * model that has two, on ranks of its own. They do not make a queue faster, but a job.
 *
 * Wide stages, by wish as well, are ranks that share the tokens of a hop (worker/ulysses.h): a layout of them is one of
 * fewer, faster ranks, each then several times there (plan_wide.c). No queue gets faster by them either.
 *
 * Plain values, pure functions.
 */
#ifndef REFRAIN_RULES_PLAN_H
#define REFRAIN_RULES_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum {
    PLAN_MAX_RANKS = 1024,
    PLAN_EXPERTS = 2,
    PLAN_BRANCHES = 2,
    PLAN_CHAINS = PLAN_EXPERTS * PLAN_BRANCHES
};

struct plan {
    uint32_t head, tail;                         /* caps: blocks [0, head) and the last `tail` */
    uint32_t chain[PLAN_EXPERTS][PLAN_BRANCHES]; /* the chain each takes; all 0: there is one */
    uint32_t run[PLAN_CHAINS * PLAN_MAX_RANKS];  /* [chains][ranks]: blocks of the ring between, in order */
    uint32_t spare; /* blocks after a fixed home's that it holds beside their holder, to take work from it */
    bool floating;  /* every rank holds the caps and can be a job's home */
    uint32_t
        width; /* ranks of a stage, which hold the same blocks and share the tokens of each hop, so that `run` says the
                       same of all of them; 0 or 1: each rank is a stage */
    uint32_t ranks, layers;
    /* Predicted, in block times of the fastest rank: the busiest rank's work for one step of one job (all its
     * branches, hits and misses as expected), and the same for the even layout without caching. */
    double cycle, cycle_uncached;
    double alone;              /* in the same unit: a step of one job that has the ranks to itself */
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
    uint32_t experts;    /* that a job's steps are shared by: 2, or else one */
    double first_share;  /* 0..1: of the steps, those that the first of two makes */
    uint32_t head, tail; /* blocks a hit still runs, F and B */
    double hit_rate;     /* 0..1: of branch-steps that skip the ring; 0: not cached */
    double expert_hits
        [PLAN_EXPERTS]; /* the same of each expert's, whose mean over its steps that is; both 0: unknown */
    double home_work;   /* further work at home per branch-step, in block times: embedding, output, a share of
                         text and decoding */
    double hop;         /* time of one hop, in block times */
    double exchange;    /* what the ranks of a wide stage give each other in a block, likewise */
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
    bool even;      /* home keeps no blocks to itself and no block is held for others */
    enum plan_home { PLAN_HOME_AUTO, PLAN_HOME_FIXED, PLAN_HOME_FLOATING } home;
    /* Which chains there are, on two ranks or more; automatic is one. Pools are for models of two experts: of another
     * they make no difference. */
    enum plan_layout {
        PLAN_LAYOUT_AUTO,
        PLAN_LAYOUT_PIPELINE,
        PLAN_LAYOUT_CFG,
        PLAN_LAYOUT_POOLS,
        PLAN_LAYOUT_CFG_POOLS
    } layout;
    uint32_t
        pool; /* ranks of the first expert's pool, home's among them; 0: as many as make the shortest cycle */
    uint32_t second_pool; /* the others, if the operator named them; 0: whatever is left */
};

struct plan_request {
    uint32_t layers, ranks;
    const struct plan_seat *seats; /* [ranks]; NULL: all alike */
    struct plan_mix mix;
    const struct plan_wish *wish; /* NULL: none */
    uint32_t heads;               /* of the model's attention, which a stage's width divides; 0: unknown */
    uint64_t block_bytes; /* weights of one block, of each expert; 0: unknown, memory is not looked at */
    uint64_t home_bytes;  /* of what only a home holds: ends, text encoder, VAE */
};

/* Can what was wished for be made of so many ranks, whatever the model? STATUS_CONFLICT with the sentence otherwise. left: they
 * are what would be left. */
status_t plan_wish_takes(const struct plan_wish *wish, uint32_t ranks, bool left, struct error *error);

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
/* One job alone: a step from end to end, as a mean over hits and misses, in the same unit; 0 as there. */
double plan_alone(const struct plan *plan, const struct plan_request *request);

/* How many chains there are, and how many blocks of one a rank runs. */
uint32_t plan_chains(const struct plan *plan);
uint32_t plan_run(const struct plan *plan, uint32_t chain, uint32_t rank);
/* Blocks each rank holds, caps and spare ones included; where experts have pools, those of both. */
uint32_t plan_blocks(const struct plan *plan, uint32_t rank);
bool plan_equal(const struct plan *a, const struct plan *b); /* the same blocks on the same ranks */

/* Ranks of a stage; at least 1. */
static inline uint32_t plan_width(const struct plan *plan)
{
    return plan->width > 1 ? plan->width : 1;
}

/* Do ranks and wish stand in stages, as far as that is known before a model is? heads 0: unknown. INVALID with the option. */
status_t plan_wide_wish(const struct plan_request *request, struct error *error);

/* Of wide stages alone; the functions above come to these. */
status_t plan_wide_make(const struct plan_request *request, struct plan *plan, struct error *error);
status_t plan_wide_check(const struct plan *plan, const struct plan_request *request,
                         const struct plan_mix *mix, struct error *error);
double plan_wide_cycle(const struct plan *plan, const struct plan_request *request);
double plan_wide_alone(const struct plan *plan, const struct plan_request *request);
/* The same layout with each stage as one rank. */
struct plan plan_wide_stages(const struct plan *plan);

/* "pipeline", "cfg", "pools", "cfg-pools": which chains it has, as --layout names them. */
const char *plan_kind(const struct plan *plan);

/* "HEAD,TAIL", "B0,B1,…" and "auto|fixed|floating" of the command line. */
status_t plan_read_fold(const char *text, struct plan_wish *wish, struct error *error);
status_t plan_read_split(const char *text, struct plan_wish *wish, struct error *error);
status_t plan_read_pools(const char *text, struct plan_wish *wish, struct error *error); /* "5+3" */

/* For people: "2 ranks, blocks 4+4, cpu-avx512"; where home holds blocks that always run and a part of the
 * ring "4 ranks, blocks 1+8 10 10 11, cpu-avx512", with its last ones in brackets at the end, and with a spare
 * block "4 ranks, blocks 1+8(+1 spare) 11 10 10, cpu-avx512"; floating: "4
 * ranks, 8 blocks everywhere, 8+8+8+8 around, cpu-avx512"; several chains: "3 ranks, 1 block at home, branches 24+15+0
 * and 0+12+27, cpu-avx512". */
void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes);

#endif
