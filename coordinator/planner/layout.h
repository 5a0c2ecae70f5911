/*
 * layout.h - how a group is laid out where its operator leaves that open, for the jobs that wait.
 *
 *     struct layout_load load = {.jobs = 3, .steps = 50, .block_seconds = 0.3, .move_seconds = 20, ...};
 *     layout_choose(&request, &load, group->plan.ranks ? &group->plan : NULL, &plan, &error);
 *
 * Compared are the layouts that plan.h makes: one chain for all (the pipeline) and, where jobs have two branches or
 * experts, a chain for each; all of them on single ranks and, where the links between the ranks are known, on stages of every
 * width that divides heads and ranks; by when the last of the jobs would be done, as the planner predicts it (planner.h: the same
 * prediction as `refrain plan`). The simplest wins, unless another brings seconds that are worth a load (planner_worth_moving): so
 * layouts do not come and go with every job. A deadline that one layout keeps and the simplest does not is worth it as well.
 *
 * Pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_LAYOUT_H
#define REFRAIN_COORDINATOR_PLANNER_LAYOUT_H

#include "coordinator/planner/planner.h"

enum { LAYOUT_MOST_WIDTH = 64 };

struct layout_load {
    double
        jobs; /* that are to be done, this one included; of unequal ones, all together in this one's work */
    double steps; /* of one, that are left */
    double
        block_seconds; /* one branch through one block on the fastest rank; 0: unknown, the pipeline is taken */
    double move_seconds;  /* to load another layout, and what a running job has to do again */
    double least_seconds; /* what a layout must bring, in the same way, however little moving costs */
    double deadline;      /* seconds that this job has left; 0: none */
    /* For what is sent: stages are only wide where all of it is known. */
    uint32_t tokens, head_dim;
    /* What a block computes besides; 0: unknown, and more is believed to be hidden. */
    uint32_t ffn, text_tokens;
    uint32_t fewest_tokens; /* of any of the jobs; 0: they are alike */
    uint32_t operand_bytes; /* of an element inside a block */
    struct planner_links links;
};

/* Seconds until the last of the jobs is done on a layout; 0: it is of another model, or nothing is known. */
double layout_seconds(const struct plan *plan, const struct plan_request *request,
                      const struct layout_load *load);

/* What a block took on the ranks of a layout, for one rank: those of a wide stage measure their exchange as well. */
double layout_block_seconds(const struct plan *plan, const struct plan_request *request,
                            const struct layout_load *load);

/* Can jobs of the load's size run on that layout? */
bool layout_takes(const struct plan *plan, const struct layout_load *load);

/* Is `then` worth more than `now`? Both in seconds until all jobs are done, `then` without the move; now 0: nothing is known of
 * it. */
bool layout_pays(double now, double then, const struct layout_load *load);

/* As plan_make. The request's wish is the operator's: what it leaves open is chosen. now: the layout there is, of this model
 * and these ranks; NULL: none. The plan is `now` where that is good enough. */
status_t layout_choose(const struct plan_request *request, const struct layout_load *load,
                       const struct plan *now, struct plan *plan, struct error *error);

#endif
