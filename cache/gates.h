/*
 * gates.h - the questions most dynamic policies ask before, and after, they look at what was measured.
 *
 *     struct verdict forced;
 *     if (gate_forced(now, first, last, &forced)) return forced;       protected ends, the job's step mask
 *     if (!gate_known(now, SIGNAL_TIME)) return gate_unknown();        nothing to compare with yet
 *     return gate_below(change, threshold);                            reuse strictly below
 *
 * Pure.
 */
#ifndef REFRAIN_CACHE_GATES_H
#define REFRAIN_CACHE_GATES_H

#include "cache/policy.h"

/* Steps that are computed whatever is measured: the first ones of each expert, the last ones, and those that the job's
 * mask (if it has one) marks with 1. Steps it marks with 0 are left to the policy: cache-dit's "dynamic" masks. */
static inline bool gate_forced(const struct policy_now *now, int first, int last, struct verdict *forced)
{
    enum reason reason;
    if (policy_age(now) < first)
        reason = REASON_WARMUP;
    else if (now->step >= now->job->steps - last)
        reason = REASON_LAST;
    else if (now->job->mask != NULL && now->job->mask[now->step])
        reason = REASON_MASK;
    else
        return false;
    *forced = verdict(ACTION_COMPUTE, reason, CHANGE_NONE);
    return true;
}

static inline bool gate_known(const struct policy_now *now, enum signal signal)
{
    return (now->signals->known & SIGNAL_BIT(signal)) != 0;
}

/* The signal has no reference yet, which is so until a step has been computed. */
static inline struct verdict gate_unknown(void)
{
    return verdict(ACTION_COMPUTE, REASON_NO_HISTORY, CHANGE_NONE);
}

/* Strictly below, as all authors but diffusers have it; NaN computes. */
static inline struct verdict gate_below(double change, double threshold)
{
    return change < threshold ? verdict(ACTION_REUSE, REASON_BELOW, change)
                              : verdict(ACTION_COMPUTE, REASON_ABOVE, change);
}

/* Policies that add up changes since the last computed step: their state, and observe hook. */
struct gate_sum {
    double sum;
};

static inline void gate_sum_observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    if (taken->action == ACTION_COMPUTE) ((struct gate_sum *)state)->sum = 0.0;
}

/* Blocks that always run at the front and at the back must leave one that can be reused. */
static inline status_t gate_blocks(const char *front, int head, const char *back, int tail,
                                   const struct policy_job *job, struct error *error)
{
    if (head + tail < job->layers) return STATUS_OK;
    if (back == NULL)
        return error_set(error, STATUS_INVALID, "%s %d: must be below the model's %d blocks", front, head,
                         job->layers);
    return error_set(error, STATUS_INVALID, "%s %d: with %s %d it must stay below the model's %d blocks",
                     front, head, back, tail, job->layers);
}

#endif
