/*
 * plan_core.h - what plan.c and plan_pace.c share. Nobody else includes it.
 */
#ifndef REFRAIN_RULES_PLAN_CORE_H
#define REFRAIN_RULES_PLAN_CORE_H

#include "rules/plan.h"

#define SAME 1e-9 /* relative: equal but for the order of additions */

/* A request, made complete and kept within its limits. */
struct field {
    uint32_t layers, ranks;
    double speed[PLAN_MAX_RANKS];       /* 1: the fastest */
    uint32_t room[PLAN_MAX_RANKS];      /* blocks that fit a rank's memory */
    uint32_t home_room[PLAN_MAX_RANKS]; /* and what is left of them where there is a home */
    bool ample;                         /* the whole model takes little of each rank's memory */
    struct plan_mix mix;
    bool cfg, pools; /* chains for branches, for experts */
    uint32_t pool;   /* ranks of the first expert's; 0: to be found */
};

static inline uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t caps(const struct plan *plan)
{
    return plan->head + plan->tail;
}

static inline bool is_home(const struct plan *plan, uint32_t rank)
{
    return rank == 0 || plan->floating;
}

/* The share of the steps that an expert makes. */
static inline double share_of(const struct plan_mix *mix, uint32_t expert)
{
    return expert == 0 ? mix->first_share : 1 - mix->first_share;
}

/* The mix of one expert's steps. */
static inline struct plan_mix mix_of(const struct plan_mix *mix, uint32_t expert)
{
    struct plan_mix own = *mix;
    bool known = mix->experts > 1 && (mix->expert_hits[0] > 0 || mix->expert_hits[1] > 0);
    if (known) own.hit_rate = mix->expert_hits[expert];
    return own;
}

/* What home does besides its run of the ring for a branch-step, in blocks. */
double plan_home_work(const struct field *field, const struct plan *plan, const struct plan_mix *mix);
/* The time of each rank for one step, and the busiest rank's. */
void plan_times(const struct field *field, const struct plan *plan, const struct plan_mix *mix,
                double *times);
double plan_busiest(const struct field *field, const struct plan *plan, const struct plan_mix *mix);
/* One job alone: how long a step takes from end to end, as a mean over hits and misses. */
double plan_step_alone(const struct field *field, const struct plan *plan);
/* Jobs that keep the ranks busy, of a plan whose cycle and time alone are known. */
uint32_t plan_jobs(const struct field *field, const struct plan *plan);

#endif
