/*
 * cases.h - the experiments: what the cost models of docs/simulation.md predict, and what the simulation says.
 *
 *     struct lab lab;
 *     lab_open("tests/models/tiny-a", &lab, &error);
 *     case_cycle(&lab, &(struct cycle_case){.ranks = 4, .jobs = 3, .branches = 2}, &found, &error);
 *     ... found.predicted, found.simulated ...
 *     lab_close(&lab);
 */
#ifndef REFRAIN_TOOLS_SIM_CASES_H
#define REFRAIN_TOOLS_SIM_CASES_H

#include <stdbool.h>
#include "base/status.h"
#include "tools/sim/hand.h"
#include "tools/sim/lab.h"

/* Jobs and branches as micro-batches on an even split, without caching. */
struct cycle_case {
    int ranks, jobs, branches;
    double hop;    /* c: the time of one hop, in stage times */
    bool occupies; /* the hop occupies its link for that time; otherwise it is latency alone */
    int layers;    /* 0: 8 */
};

struct cycle_found {
    double predicted, simulated; /* one step of every job, in stage times */
};

status_t case_cycle(struct lab *lab, const struct cycle_case *wanted, struct cycle_found *found,
                    struct error *error);

/* LAYOUT_SPARE: shifted, and home holds the next member's first block as well. */
enum cached_layout { LAYOUT_SHIFTED, LAYOUT_SPARE, LAYOUT_EVEN, LAYOUT_FLOATING };

/* Jobs whose policies skip blocks [head, layers - tail) in a share of their steps. */
struct cached_case {
    int ranks, jobs, branches, layers; /* layers 0: 40 */
    int head, tail;
    int percent;               /* of steps that are hits */
    enum cached_layout layout; /* where blocks lie */
    double hop;                /* as above, in stage times of the even split */
};

struct cached_found {
    double hit_rate; /* of the steps that were measured */
    double ideal; /* job-steps in the time of one whole branch on one rank, if work could be cut anywhere */
    double possible; /* the same with whole blocks: the busiest rank of this layout never rests */
    double simulated;
    double uncached; /* the even split without caching, never waiting */
    double hops;     /* per branch-step, on all links */
    double predicted_hops;
    uint64_t hit_hops; /* sent for steps that were hits: none */
    int run[SEAT_MAX_RANKS];
};

status_t case_cached(struct lab *lab, const struct cached_case *wanted, struct cached_found *found,
                     struct error *error);

/* The same on a split of one's own: ranks, head, tail and layout are the split's. */
status_t case_laid(struct lab *lab, const struct cached_case *wanted, const struct split *split,
                   struct cached_found *found, struct error *error);

/* Blocks of each rank between the caps, for a hit rate: as even as work allows, the busiest as idle as possible. */
void split_blocks(const struct cached_case *wanted, struct split *split);

#endif
