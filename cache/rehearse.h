/*
 * rehearse.h - what a policy that measures nothing will do, known before the job runs.
 *
 *     struct rehearsed found;
 *     if (cache_rehearse(&settings, &plan, &job, &found)) ...    found.share: 0.66 of its work will be skipped, exactly
 *
 * Intervals, masks, tables and patterns of blocks decide by the number of the step alone: their hooks are
 * asked step by step as the engine would (cache/reuse.h, cache/blocks.h), without a tensor. Policies that
 * look at signals cannot be rehearsed. Pure; any thread.
 */
#ifndef REFRAIN_CACHE_REHEARSE_H
#define REFRAIN_CACHE_REHEARSE_H

#include "cache/settings.h"

struct rehearsed {
    double share;            /* of the job's branch-steps those that are reused or forecast */
    double expert_share[2];  /* of those of each expert; with one the first's is all */
};

/* With SITE_BLOCKS they are shares of the steps of all blocks that are not protected. plan must be the one that cache_settings_plan made of settings and job.
 * False: only measuring will tell. job->sigmas may be NULL. */
bool cache_rehearse(const struct cache_settings *settings, const struct cache_plan *plan,
                    const struct policy_job *job, struct rehearsed *found);

#endif
