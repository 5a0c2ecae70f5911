/*
 * movecost.h - what it would bring, and cost, to lay a group out anew while its jobs run.
 *
 *     struct move_job jobs[2] = {{.steps = 31, .block = 0.3, .branches = 2, .again = 4}, {.steps = 50, ...}};
 *     struct layout_load load = {.least_seconds = 5};
 *     movecost_load(jobs, 2, load_seconds, &load);              for layout_choose
 *     if (movecost_pays(&here, &there, jobs, 2, &load, &worth)) ... worth.now - worth.then against worth.cost ...
 *
 * Compared is the time until the last of the jobs is done, of the steps that are left: steps x max(alone, jobs x cycle) as
 * layout.h has it, with the longest job for `steps` and all of them together, in its work, for `jobs`. The cost: weights to be
 * read, a new epoch, and what running jobs must do again (their steps since the last checkpoint, the way of that, features that
 * are made again, frames that were decoded).
 *
 * Pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_MOVECOST_H
#define REFRAIN_COORDINATOR_PLANNER_MOVECOST_H

#include "coordinator/planner/layout.h"
#include "coordinator/planner/links.h"

struct move_job {
    double steps;      /* to be made */
    double block;      /* seconds of a block of one branch; 0: nothing is known */
    uint32_t branches; /* 1 or 2 */
    double again;      /* seconds of work that the move would have done again; 0 for a job that waits */
    double deadline;   /* seconds that are left to it; 0: none */
};

struct move_worth {
    double now, then, cost; /* seconds: as it is; after the move, without it; the move */
};

/* A layout, and for whom: the mix is the longest job's. */
struct move_place {
    const struct plan *plan;
    const struct plan_request *request;
};

/* The longest of the jobs; negative: nothing is left to be done, or known. */
int movecost_longest(const struct move_job *jobs, int count);

/* The jobs as one load; least_seconds stays. load_seconds: to read the weights. False: as movecost_longest. */
bool movecost_load(const struct move_job *jobs, int count, double load_seconds, struct layout_load *load);

/* Is `there` worth the move? Never where it would make a job miss its deadline that is kept here. load: of movecost_load. */
bool movecost_pays(const struct move_place *here, const struct move_place *there, const struct move_job *jobs,
                   int count, const struct layout_load *load, struct move_worth *worth);

/* Seconds that a running job has to work again if it is moved now. */
struct move_loss {
    double steps;    /* since its newest checkpoint, */
    double replayed; /* and steps whose features its caching keeps: they are made again */
    double step;     /* seconds of one */
    double tail;     /* seconds of decoding that are done already */
    double bytes;    /* of a checkpoint, which goes to the coordinator and back: */
    struct link way; /* between home and there; nothing is known of it: 1 Gb/s */
};
double movecost_again(const struct move_loss *loss);

#endif
