/*
 * layouts.h - layouts of several chains and of wide stages: what rules/plan.h and planner.h predict of them, and what the
 * simulation says.
 *
 *     struct layout_case c = {.ranks = 4, .jobs = 1, .layers = 40, .steps = 10, .layout = PLAN_LAYOUT_CFG};
 *     case_layout(&lab, &c, &found, &error);
 *     ... found.predicted, found.simulated ...
 *     case_planned(&lab, &request, &layout, &found, &error);       one of the planner's layouts, whatever it is made of
 *
 * A lab of a model with two experts (lab_open("tests/models/tiny-d", ...)) shows pools.
 */
#ifndef REFRAIN_TOOLS_SIM_LAYOUTS_H
#define REFRAIN_TOOLS_SIM_LAYOUTS_H

#include "coordinator/planner/planner.h"
#include "tools/sim/lab.h"
#include "worker/model/model.h"

enum { LAYOUT_MOST_JOBS = 96 };

/* Equal guided jobs without caching, so many in flight at once. */
struct layout_case {
    int ranks, jobs, layers, steps;
    int in_flight; /* 0: all */
    enum plan_layout layout;
    int pool; /* ranks of the first expert's; 0: as the plan has it */
    enum plan_home home;
    double hop;         /* time of one hop, in block times; latency alone */
    int experts;        /* of the lab's model: 1 or 2 */
    double first_share; /* of the steps, the first of two experts' */
    double shift;       /* of the noise schedule, which decides that; 0: the model's */
};

/* In block times: of one job, a step from end to end; of more, all ranks' time for one step of one job. */
struct layout_found {
    double predicted, simulated;
    char text[160]; /* the plan */
};

/* A plan as ranks are told it. */
struct split layout_split(const struct plan *plan);

status_t case_layout(struct lab *lab, const struct layout_case *wanted, struct layout_found *found,
                     struct error *error);

/* In seconds, until the steps of all the load's jobs are done. */
struct planned_found {
    double predicted, simulated;
    char text[160]; /* the plan */
};

/* One replica, on nodes as the machine has them; of caching what the request says, by masks. */
status_t case_planned(struct lab *lab, const struct planner_request *request,
                      const struct planner_layout *layout, struct planned_found *found, struct error *error);

#endif
