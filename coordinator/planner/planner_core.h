/*
 * planner_core.h - what planner_cost.c and planner_traffic.c share. Nobody else includes it.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_PLANNER_CORE_H
#define REFRAIN_COORDINATOR_PLANNER_PLANNER_CORE_H

#include "coordinator/foresight/crew.h"
#include "coordinator/planner/planner.h"

/* A layout on this machine, made complete. */
struct field {
    const struct planner_request *request;
    const struct planner_layout *layout;
    uint32_t group;     /* ranks of a replica */
    uint32_t rows;      /* tokens of one of a stage's ranks, at most */
    double state_bytes; /* of a whole hidden state on the wire */
    double alone;       /* seconds of a block on one rank */
    double block;       /* ... and on a stage: computing and exchange */
    double exchange;    /* of that, what is not hidden behind computing */
};

/* What a step of one job in every replica sends: on all links, and out of each node. */
struct traffic {
    double hops, exchanges;
    double node[PLANNER_MAX_RANKS],
        rank[PLANNER_MAX_RANKS]; /* bytes out of each node, and of each rank inside its node */
    double between,
        count; /* of a way: hops between nodes, and all from stage to stage or, where they are one rank wide, of a ring */
    double
        far; /* the share that the former have of the latter, of the way of any replica that has most: branches are done
                   with the slower of their ways, and a load with the slowest replica */
};

/* What wide stages' links carry beside the exchanges. */
struct rows {
    struct crew_way deal[PLAN_MAX_RANKS], on[PLAN_MAX_RANKS], collect[PLAN_MAX_RANKS]; /* [stages] */
    struct crew_links links;
};

static inline uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline double hidden_of(const struct planner_model *m)
{
    return (double)m->heads * m->head_dim;
}

static inline uint32_t stages_of(const struct planner_layout *layout)
{
    return layout->stages[0] + layout->stages[1];
}

static inline double steps_of(const struct planner_request *r)
{
    return (double)r->job.steps[0] + r->job.steps[1];
}

/* All but `group` where that is not the layout's. */
void planner_field(const struct planner_request *request, const struct planner_layout *layout,
                   struct field *field);

/* All replicas' chains, each branch-step with the odds of a miss, but for what is sent for the blocks that hits run too. */
void planner_count(const struct field *field, struct traffic *traffic);
/* And that, of stages one rank wide whose home does not hold all of those blocks. */
void planner_count_detours(const struct field *field, const struct plan *plan, struct traffic *traffic);

/* Seconds: of a hop, on the mean over the links of a way; that a wide stage's hop takes beyond its blocks where the next one waits; and what
 * plan.h does not know of a step of one job alone on wide stages. */
double planner_hop(const struct field *field, const struct traffic *traffic);
double planner_jam(const struct field *field, int expert);
double planner_wide(const struct field *field, double hop, int expert);
void planner_rows(const struct field *field, struct rows *rows);

#endif
