/*
 * policy_dbprune.c - Dynamic Block Prune: every block decides for itself, by its own input.
 *
 *     reuse the block's residual iff relL1(its input now, at its last computation) < threshold
 *
 * The first F and the last B blocks always run. With `dynamic` the threshold of a block is relaxed by the
 * changes of the blocks before it in the step: 1.25 times the mean of the first five that are positive, if
 * that is above the threshold and below the cap (at the cap and above, the threshold stays as it was).
 *
 * Differences to cache-dit: M and MC count a block's own reuses, since a block knows only itself; there they
 * count steps in which any block was reused (and a step that reaches M with its first reused block computes
 * all its others). Each branch is relaxed by its own changes; there the unconditional one by those of the
 * conditional one.
 */
#include "cache/gates.h"

enum { THRESHOLD, F_BLOCKS, B_BLOCKS, WARMUP, MAX_CACHED, MAX_RUN, DYNAMIC, RELAX, CAP, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", "residual_diff_threshold", "R", PARAMETER_REAL, 0.08, 0, 100,
                   "reuse a block when its input changed by less, relative L1; 0: never, 1 or more: always"},
    [F_BLOCKS] = {"F", "Fn_compute_blocks", "F", PARAMETER_WHOLE, 8, 0, 1000,
                  "first blocks, always computed"},
    [B_BLOCKS] = {"B", "Bn_compute_blocks", "B", PARAMETER_WHOLE, 0, 0, 1000, "last blocks, always computed"},
    [WARMUP] = {"W", "max_warmup_steps", "W", PARAMETER_WHOLE, 8, 0, CACHE_STEPS,
                "steps computed at the beginning"},
    [MAX_CACHED] = {"M", "max_cached_steps", "M", PARAMETER_WHOLE, -1, -1, CACHE_STEPS,
                    "times a block is reused in all at most; -1 or 0: no limit"},
    [MAX_RUN] = {"MC", "max_continuous_cached_steps", "MC", PARAMETER_WHOLE, -1, -1, CACHE_STEPS,
                 "times a block is reused in a row at most; -1 or 0: no limit"},
    [DYNAMIC] = {"dynamic", "enable_dynamic_prune_threshold", NULL, PARAMETER_FLAG, 0, 0, 1,
                 "relax the threshold by the changes of the blocks before"},
    [RELAX] = {"relax", "dynamic_prune_threshold_relax_ratio", NULL, PARAMETER_REAL, 1.25, 0, 100,
               "dynamic: times the mean of those changes"},
    [CAP] = {"cap", "max_dynamic_prune_threshold", NULL, PARAMETER_REAL, 0, 0, 100,
             "dynamic: where relaxing ends; 0: twice the threshold"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

enum { RELAXING = 5 }; /* changes looked at */

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    status_t status = gate_blocks("F", (int)value[F_BLOCKS], "B", (int)value[B_BLOCKS], job, error);
    if (status != STATUS_OK) return status;
    plan->site = SITE_BLOCKS;
    plan->head = (int)value[F_BLOCKS];
    plan->tail = (int)value[B_BLOCKS];
    plan->block_signal = true;
    return STATUS_OK;
}

static bool reached(int count, double limit)
{
    return limit > 0 && count >= (int)limit;
}

/* Gates that need no measurement; those of counts are the block's own when a block asks. */
static struct verdict gates(const struct policy_now *now)
{
    const double *value = now->value;
    struct verdict forced;
    if (gate_forced(now, (int)value[WARMUP], (int)value[LAST], &forced)) return forced;
    if (reached(now->total, value[MAX_CACHED])) return verdict(ACTION_COMPUTE, REASON_TOTAL, CHANGE_NONE);
    if (reached(now->run, value[MAX_RUN])) return verdict(ACTION_COMPUTE, REASON_RUN, CHANGE_NONE);
    if (value[THRESHOLD] <= 0.0) return verdict(ACTION_COMPUTE, REASON_ABOVE, CHANGE_NONE);
    return verdict(ACTION_REUSE, REASON_BLOCKS, CHANGE_NONE);
}

static double relaxed_threshold(const double *value, const struct block_now *block)
{
    double threshold = value[THRESHOLD], cap = value[CAP] > 0.0 ? value[CAP] : 2.0 * threshold, sum = 0.0;
    int count = 0;
    for (int i = 0; i < block->seen && i < RELAXING; i++)
        if (block->changes[i] > 0.0f) sum += (double)block->changes[i], count++;
    if (count == 0) return threshold;
    double relaxed = sum / count * value[RELAX];
    return relaxed < cap ? fmax(relaxed, threshold) : threshold;
}

static struct verdict block_verdict(const struct policy_now *now, const struct block_now *block, void *state)
{
    const double *value = now->value;
    struct verdict gate = gates(now);
    if (gate.action == ACTION_COMPUTE) return gate;
    if (block->block < (int)value[F_BLOCKS] || block->block >= now->job->layers - (int)value[B_BLOCKS])
        return verdict(ACTION_COMPUTE, REASON_BLOCKS, CHANGE_NONE);
    if (block->input == NULL) return gate_unknown();
    double threshold = value[DYNAMIC] != 0.0 ? relaxed_threshold(value, block) : value[THRESHOLD];
    double change = relative_change(block->input);
    if (threshold >= 1.0 && isfinite(change)) return verdict(ACTION_REUSE, REASON_BELOW, change);
    return gate_below(change, threshold);
}

extern const struct policy policy_dbprune;
const struct policy policy_dbprune = {
    .name = "dbprune",
    .summary = "every block by the change of its own input since its last computation",
    .source = "DBPrune, github.com/vipshop/cache-dit 1.5.3",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .block = block_verdict,
};
