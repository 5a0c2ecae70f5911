/*
 * policy_dicache.c - DiCache: the first m blocks as a probe, whose path also says how far along the
 * residual's path the step is.
 *
 *     sum += relL1(p_i, p_i-1), p = hidden state after m blocks;  reuse while sum < threshold
 *     S = S_2 + gamma (S_1 - S_2),  gamma = clip(|q - q_2| / |q_1 - q_2|, 1, gamma_max),  q = p - h0
 *
 * 1 and 2 are the last computed step and the one before; with one only, S = S_1. The weights over the history
 * are thus (gamma, 1 - gamma), and a forecast the job names has no part in it.
 *
 * One exact difference to the authors' code: they keep the residual of the whole stack, R = q + S, and add
 * its combination to h0, throwing the probe's own result away. Here the span after the probe is kept and its
 * combination is added to p, so that the first m blocks' part is the computed q instead of q_2 + gamma (q_1 -
 * q_2). The results differ by just that: ours = theirs + q - (q_2 + gamma (q_1 - q_2)). The rule that decides
 * is the same.
 */
#include "cache/gates.h"

enum { THRESHOLD, DEPTH, RETENTION, DELTA_MINUS, GAMMA_MAX, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] =
        {"threshold", "rel_l1_thresh", NULL, PARAMETER_REAL, 0.08, 0, 100,
         "reuse while the changes of the probe add up to less; Wan 0.08, HunyuanVideo 0.1, FLUX 0.4"},
    [DEPTH] = {"m", "probe_depth", NULL, PARAMETER_WHOLE, 1, 1, 1000,
               "blocks of the probe, 1..5 recommended"},
    [RETENTION] = {"retention", "ret_ratio", NULL, PARAMETER_REAL, 0.2, 0, 1,
                   "share of the steps that are computed at the beginning"},
    [DELTA_MINUS] =
        {"delta_minus", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
         "add up |change of the probe - change of the embedding| instead (error_choice=delta_minus)"},
    [GAMMA_MAX] = {"gamma_max", NULL, NULL, PARAMETER_REAL, 2, 1, 10,
                   "how far past the last residual at most; 1: plain reuse; Wan 2, FLUX 1.5"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

enum { RESIDUALS = 2 };

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    status_t status = gate_blocks("m", (int)value[DEPTH], NULL, 0, job, error);
    if (status != STATUS_OK) return status;
    plan->site = SITE_SPAN;
    plan->head = (int)value[DEPTH];
    plan->slots = RESIDUALS;
    plan->probe_slots = RESIDUALS;
    plan->signals =
        SIGNAL_BIT(SIGNAL_PROBE_STEP) | SIGNAL_BIT(SIGNAL_PROBE_OLDER) | SIGNAL_BIT(SIGNAL_PROBE_HISTORY);
    if (value[DELTA_MINUS] != 0.0) plan->signals |= SIGNAL_BIT(SIGNAL_EMBED);
    return STATUS_OK;
}

/* The authors count calls of the model, `branches` to a step, and cut the share of them down to a whole
 * number. */
static int first_steps(const struct policy_now *now)
{
    int branches = now->job->branches;
    int calls = (int)(policy_steps(now) * branches * now->value[RETENTION]);
    return (calls + branches - 1) / branches;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct verdict forced;
    if (gate_forced(now, first_steps(now), (int)now->value[LAST], &forced)) return forced;
    return verdict(ACTION_PROBE, REASON_OFF, CHANGE_NONE);
}

static struct verdict probe(const struct policy_now *now, void *state)
{
    struct gate_sum *s = state;
    const struct sums *sums = now->signals->sums;
    bool minus = now->value[DELTA_MINUS] != 0.0;
    if (!gate_known(now, SIGNAL_PROBE_STEP) || (minus && !gate_known(now, SIGNAL_EMBED)))
        return gate_unknown();
    double change = relative_change(&sums[SIGNAL_PROBE_STEP]);
    if (minus) change = fabs(change - relative_change(&sums[SIGNAL_EMBED]));
    s->sum += change;
    return gate_below(s->sum, now->value[THRESHOLD]);
}

static void weights(const struct policy_now *now, double *weights, void *state)
{
    double gamma = 1.0;
    for (int j = 0; j < now->history->count; j++) weights[j] = 0.0;
    if (now->history->count >= RESIDUALS && gate_known(now, SIGNAL_PROBE_OLDER) &&
        gate_known(now, SIGNAL_PROBE_HISTORY)) {
        gamma = now->signals->sums[SIGNAL_PROBE_OLDER].difference /
                now->signals->sums[SIGNAL_PROBE_HISTORY].difference;
        /* Two equal probes say nothing about the path. */
        gamma = isfinite(gamma) ? fmin(fmax(gamma, 1.0), now->value[GAMMA_MAX]) : 1.0;
        weights[1] = 1.0 - gamma;
    }
    weights[0] = gamma;
}

extern const struct policy policy_dicache;
const struct policy policy_dicache = {
    .name = "dicache",
    .summary = "change of the hidden state after the first blocks, added up; their path scales the residual",
    .source = "DiCache, arXiv 2508.17356; github.com/Bujiazi/DiCache, WAN2.1",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct gate_sum),
    .plan = plan,
    .begin = begin,
    .probe = probe,
    .observe = gate_sum_observe,
    .weights = weights,
};
