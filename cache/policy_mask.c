/*
 * policy_mask.c - the job says which steps are computed: mask=1110100..., mask=0-9+14+19, or a published mask
 * such as lemica-wan2.1-1.3b-25 or scm-medium (masks.c).
 */
#include "cache/policy.h"

enum { HEAD, TAIL, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [HEAD] = {"F", "Fn_compute_blocks", "F", PARAMETER_WHOLE, 0, 0, 1000,
              "first blocks that run at every step"},
    [TAIL] = {"B", "Bn_compute_blocks", "B", PARAMETER_WHOLE, 0, 0, 1000,
              "last blocks that run at every step"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (job->mask == NULL)
        return error_set(
            error, STATUS_INVALID,
            "mask: missing: must be 0/1 for each of the job's %d steps, the steps computed such as "
            "0-9+14+19, or a published one (`refrain policies masks`)",
            job->steps);
    plan->site = SITE_SPAN;
    plan->head = (int)value[HEAD];
    plan->tail = (int)value[TAIL];
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    return verdict(now->job->mask[now->step] ? ACTION_COMPUTE : ACTION_REUSE, REASON_MASK, CHANGE_NONE);
}

extern const struct policy policy_mask;
const struct policy policy_mask = {
    .name = "mask",
    .summary = "the steps given by mask=, or a published mask",
    .source = "LeMiCa, arXiv 2511.00090 (UnicomAI/LeMiCa); steps computation mask, vipshop/cache-dit",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .begin = begin,
};
