/*
 * forecast.h - what stands in for a computation that is skipped: weights over the history of the reuse site.
 *
 *     F(step) = sum_j weight[j] * history[j]                              j = 0 is the last computed step
 *
 * Reuse, Taylor, Hermite, Adams-Bashforth, ridge regressions, modal and learned forecasts differ only in
 * these few numbers; the engine does the sum with one fused op. Two forecasts need more than one set: by
 * frequency band
 * (`bands` 2: weights[0] for the low, weights[1] for the high band) and by token (`groups` > 1: one set per
 * group, the engine sorts tokens into groups by their curvature). Values only, pure functions apart from
 * `state`.
 */
#ifndef REFRAIN_CACHE_FORECAST_H
#define REFRAIN_CACHE_FORECAST_H

#include "cache/policy.h"

enum { FORECAST_SETS = 3 }; /* sets of weights at most: bands or groups */

struct forecast_now {
    const double *value; /* parameters */
    const struct policy_job *job;
    int step; /* the one to forecast */
    const struct history
        *history; /* count >= 1; fewer than `slots` at the beginning: fall back to what fits */
};

struct forecast {
    const char *name, *summary, *source;
    const struct parameter *parameters;
    int parameter_count;
    bool gram;         /* history->gram is wanted */
    int bands;         /* 2: by frequency band, cut at parameter "cutoff" */
    int groups;        /* > 1: by token group */
    const char *table; /* kind of calibration table needed; NULL: none */
    size_t state_bytes;
    /* Tensors of history wanted, 1..CACHE_SLOTS. */
    int (*slots)(const double *value, const struct policy_job *job);
    /* Checks the job; NULL: nothing to check. */
    status_t (*plan)(const double *value, const struct policy_job *job, struct error *error);
    /* Fills weights[set][j] for every set it has and every j < history->count. Called once per reused step
     * and branch, in step order. */
    void (*weights)(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state);
    /* After a computed step was pushed into the history. NULL: nothing to do. */
    void (*observe)(const struct forecast_now *now, void *state);
    /* State that came with a checkpoint: can it be worked with? NULL: with any bytes. */
    bool (*sound)(const void *state);
};

/* Sorts tokens into the groups of forecast `worldcache`: 0 still (reused), 1 in between (straight line), 2
 * fast (damped). curvature: [tokens], >= 0, how much each token's residual bends over the last three computed
 * steps; a value that is not finite counts as the fastest. value: the forecast's parameters (quantiles, by
 * token or by frame). group: [tokens]. The engine calls it once per computed step. Allocates nothing. */
void worldcache_groups(const double *value, const double *curvature, int64_t tokens, int64_t tokens_per_frame,
                       unsigned char *group);

extern const struct forecast *const forecasts[]; /* NULL at the end: cache/registry.c */

#endif
