/*
 * policy_fbcache.c - First-Block Cache: what the first block adds, against what it added at the last computed
 * step.
 *
 *     reuse the residual of all later blocks iff relL1(r_i, r_c) < threshold
 *
 * The reference moves only at computed steps. ParaAttention compares strictly, diffusers lets equality reuse;
 * this is the strict one. Neither protects any step, and so neither does this by default.
 */
#include "cache/gates.h"

enum { THRESHOLD, FIRST, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", "residual_diff_threshold", NULL, PARAMETER_REAL, 0.05, 0, 100,
                   "reuse when the first block's residual changed by less, relative L1; 0.05..0.2"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

enum { HEAD = 1 };

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (job->layers <= HEAD)
        return error_set(error, STATUS_UNSUPPORTED,
                         "fbcache: needs a model of at least 2 blocks, this one has %d", job->layers);
    plan->site = SITE_SPAN;
    plan->head = HEAD;
    plan->probe_slots = 1;
    plan->signals = SIGNAL_BIT(SIGNAL_PROBE);
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    return verdict(ACTION_PROBE, REASON_OFF, CHANGE_NONE);
}

static struct verdict probe(const struct policy_now *now, void *state)
{
    if (!gate_known(now, SIGNAL_PROBE)) return gate_unknown();
    return gate_below(relative_change(&now->signals->sums[SIGNAL_PROBE]), now->value[THRESHOLD]);
}

extern const struct policy policy_fbcache;
const struct policy policy_fbcache = {
    .name = "fbcache",
    .summary = "change of what the first block adds, since the last computed step",
    .source = "First-Block Cache, github.com/chengzeyi/ParaAttention; diffusers' FirstBlockCacheConfig",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .begin = begin,
    .probe = probe,
};
