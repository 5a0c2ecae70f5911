/*
 * plan.h - how many tensors a planned job's caching keeps: what admission reserves and cache/reuse.c lays
 * out.
 *
 *     struct cache_tensors count;
 *     cache_plan_tensors(&plan, &settings, &job, &count);
 *     bytes = cache_tensors_bytes(&count, tokens, hidden, latent);
 *
 * Values only. All tensors are float32.
 */
#ifndef REFRAIN_CACHE_PLAN_H
#define REFRAIN_CACHE_PLAN_H

#include "cache/settings.h"

/* Numbers of tensors of each shape, over all ranks. */
struct cache_tensors {
    int hidden;      /* [tokens, hidden] */
    int vectors;     /* [hidden] */
    int projections; /* [6, hidden] */
    int latents;     /* [latent] */
};

void cache_plan_tensors(const struct cache_plan *plan, const struct cache_settings *settings,
                        const struct policy_job *job, struct cache_tensors *count);

/* Saturates at UINT64_MAX; sizes below 1 count as 1. */
uint64_t cache_tensors_bytes(const struct cache_tensors *count, int64_t tokens, int64_t hidden,
                             int64_t latent);

#endif
