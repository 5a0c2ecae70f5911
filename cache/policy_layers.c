/*
 * policy_layers.c - a fixed table of steps and blocks: which blocks are reused at which steps, measuring
 * nothing.
 *
 * Every `every`-th step computes all blocks; at the others the blocks [begin, end) add what they added at
 * their last computation, and the rest run. That is block-span caching (Delta-DiT, ProfilingDiT). With
 * `boundary`, Delta-DiT's two stages: before that share of the steps the last end - begin blocks are reused,
 * because the front ones draw the outlines, after it the first end - begin.
 *
 * The sum of the blocks' own residuals is the residual of the span, so for neighbouring blocks this is the
 * authors' reuse of one increment.
 */
#include "cache/gates.h"

enum { BEGIN, END, EVERY, BOUNDARY, FIRST, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [BEGIN] = {"begin", NULL, NULL, PARAMETER_WHOLE, 0, 0, 1000, "first block that is reused"},
    [END] = {"end", NULL, NULL, PARAMETER_WHOLE, -1, -1, 1000,
             "block after the last reused one; -1: all later ones"},
    [EVERY] = {"every", "N", NULL, PARAMETER_WHOLE, 2, 1, CACHE_STEPS,
               "every so many steps computes all blocks"},
    [BOUNDARY] =
        {"boundary", "b", NULL, PARAMETER_REAL, 0, 0, 1,
         "Delta-DiT: before this share of the steps the last end - begin blocks are reused, after it the "
         "first ones; 0: always [begin, end)"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, 1, 0, CACHE_STEPS, "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

static int end_of(const double *value, const struct policy_job *job)
{
    return value[END] < 0 ? job->layers : (int)value[END];
}

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    int end = end_of(value, job);
    if (end > job->layers)
        return error_set(error, STATUS_INVALID, "end %d: the model has %d blocks", end, job->layers);
    if ((int)value[BEGIN] >= end)
        return error_set(error, STATUS_INVALID, "begin %d: must be below end %d", (int)value[BEGIN], end);
    plan->site = SITE_BLOCKS;
    if (value[BOUNDARY] <= 0.0) {
        plan->head = (int)value[BEGIN];
        plan->tail = job->layers - end;
    }
    return STATUS_OK;
}

/* Computed steps are `first` - 1 and every so many from there on, of each expert. */
static struct verdict gates(const struct policy_now *now)
{
    int first = (int)now->value[FIRST], start = first > 0 ? first - 1 : 0;
    struct verdict forced;
    if (gate_forced(now, first, (int)now->value[LAST], &forced)) return forced;
    if ((policy_age(now) - start) % (int)now->value[EVERY] == 0)
        return verdict(ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
    return verdict(ACTION_REUSE, REASON_BLOCKS, CHANGE_NONE);
}

static struct verdict block_verdict(const struct policy_now *now, const struct block_now *block, void *state)
{
    const double *value = now->value;
    int layers = now->job->layers, from = (int)value[BEGIN], to = end_of(value, now->job), count = to - from;
    struct verdict gate = gates(now);
    if (gate.action == ACTION_COMPUTE) return gate;
    if (value[BOUNDARY] > 0.0) {
        bool outlines = now->step < value[BOUNDARY] * now->job->steps;
        from = outlines ? layers - count : 0;
        to = from + count;
    }
    bool reused = block->block >= from && block->block < to;
    return verdict(reused ? ACTION_REUSE : ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
}

extern const struct policy policy_layers;
const struct policy policy_layers = {
    .name = "layers",
    .summary = "a fixed range of blocks is reused between steps that compute all",
    .source = "block-span caching: Delta-DiT, arXiv 2406.01125; ProfilingDiT, arXiv 2504.03140",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .block = block_verdict,
};
