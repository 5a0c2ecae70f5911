/*
 * policy_calibrate.c - computes every step and measures everything: what tables are made from (`refrain
 * calibrate`).
 *
 * The trace compares each step with every earlier one that is still kept: what blocks [F, layers) added,
 * velocities, latents and the time embedding. F is 1, where the probing policies reuse; tables for policies
 * that reuse the whole stack (magcache, teacache, sencache) are made with F=0.
 */
#include "cache/policy.h"

enum { HEAD, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [HEAD] = {"F", "Fn_compute_blocks", "F", PARAMETER_WHOLE, 1, 0, 1000,
              "first blocks that are left out of what is measured"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (job->mask != NULL) return error_set(error, STATUS_INVALID, "mask: calibrate computes every step");
    plan->site = SITE_SPAN;
    plan->head = (int)value[HEAD];
    plan->slots = CACHE_SLOTS;
    plan->trace = true;
    plan->signals = SIGNAL_BIT(SIGNAL_TIME) | SIGNAL_BIT(SIGNAL_PROJECTION) | SIGNAL_BIT(SIGNAL_LATENT) |
                    SIGNAL_BIT(SIGNAL_OUTPUT) | SIGNAL_BIT(SIGNAL_RESIDUAL);
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    return verdict(ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
}

extern const struct policy policy_calibrate;
const struct policy policy_calibrate = {
    .name = "calibrate",
    .summary = "computes every step and writes down how everything changes: `refrain calibrate`",
    .source =
        "as the authors of TeaCache, MagCache and L2P calibrate (arXiv 2411.19108, 2506.09045, 2604.26365)",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .begin = begin,
};
