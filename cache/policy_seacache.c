/*
 * policy_seacache.c - SeaCache: TeaCache's sum over a spectrally filtered input, without a polynomial.
 *
 *     sum += relL1(s_i, s_i-1), s = modulated input of block 0 through the filter
 *     reuse while sum < threshold
 *
 * The filter is Wiener's for a signal with spectrum |f|^-power in the step's noise: early steps are compared
 * by their low frequencies, late ones by all. The engine applies it over the three axes of the token lattice
 * (cache/bands.h). Each branch has a sum of its own.
 */
#include "cache/gates.h"

enum { THRESHOLD, POWER, FIRST, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", NULL, NULL, PARAMETER_REAL, 0.1, 0, 100,
                   "reuse while the filtered changes add up to less; 0.1..0.2"},
    [POWER] = {"power", NULL, NULL, PARAMETER_REAL, 3, 0, 8,
               "the signal's spectrum falls with this power of the frequency; 3 for video, 2 for images"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, 1, 0, CACHE_STEPS, "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 1, 0, CACHE_STEPS, "steps computed at the end"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    plan->site = SITE_SPAN;
    plan->signals = SIGNAL_BIT(SIGNAL_FILTERED);
    plan->filter_power = value[POWER];
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct gate_sum *s = state;
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    if (!gate_known(now, SIGNAL_FILTERED)) return gate_unknown();
    s->sum += relative_change(&now->signals->sums[SIGNAL_FILTERED]);
    return gate_below(s->sum, now->value[THRESHOLD]);
}

extern const struct policy policy_seacache;
const struct policy policy_seacache = {
    .name = "seacache",
    .summary = "change of the first block's input through a filter that follows the noise, added up",
    .source = "SeaCache, arXiv 2602.18993",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct gate_sum),
    .plan = plan,
    .begin = begin,
    .observe = gate_sum_observe,
};
