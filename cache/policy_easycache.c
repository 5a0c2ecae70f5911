/*
 * policy_easycache.c - EasyCache: the latent's change times a gain measured while running.
 *
 *     sum += k mean|x_i - x_i-1| / mean|v_c|;  reuse v = x_i + (v - x)_c while sum < threshold
 *     k = mean|v_i - v_c| / mean|x_i - x_c|, measured at every computed step i against the one before, c
 *
 * Nothing of the model runs on a reused step, not even its embedding. The conditional branch decides for
 * both.
 */
#include "cache/gates.h"

enum { THRESHOLD, FIRST, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", "thresh", NULL, PARAMETER_REAL, 0.05, 0, 100,
                   "reuse while the estimated change of the velocity adds up to less; 0.05..0.2"},
    [FIRST] = {"first", "ret_steps", NULL, PARAMETER_WHOLE, 10, 0, CACHE_STEPS,
               "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 1, 0, CACHE_STEPS, "steps computed at the end"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    plan->site = SITE_OUTPUT;
    plan->signals = SIGNAL_BIT(SIGNAL_LATENT) | SIGNAL_BIT(SIGNAL_DRIFT) | SIGNAL_BIT(SIGNAL_OUTPUT);
    plan->tied = true;
    return STATUS_OK;
}

struct state {
    double sum;
    double gain;     /* k; 0: not measured yet */
    double velocity; /* sum |v| of the last computed step */
};

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct state *s = state;
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    if (!gate_known(now, SIGNAL_LATENT) || s->gain <= 0.0 || s->velocity <= 0.0) return gate_unknown();
    /* Latent and velocity have equally many elements, so sums stand for means. */
    s->sum += s->gain * now->signals->sums[SIGNAL_LATENT].difference / s->velocity;
    return gate_below(s->sum, now->value[THRESHOLD]);
}

static void observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    struct state *s = state;
    if (taken->action != ACTION_COMPUTE) return;
    s->sum = 0.0;
    if (!gate_known(now, SIGNAL_OUTPUT)) return;
    const struct sums *output = &now->signals->sums[SIGNAL_OUTPUT];
    if (isfinite(output->now)) s->velocity = output->now;
    if (!gate_known(now, SIGNAL_DRIFT)) return;
    /* A latent that did not move, or a sum that is not a number, leaves the gain as it was. */
    double gain = output->difference / now->signals->sums[SIGNAL_DRIFT].difference;
    if (isfinite(gain)) s->gain = gain;
}

extern const struct policy policy_easycache;
const struct policy policy_easycache = {
    .name = "easycache",
    .summary = "change of the latent times a gain measured while running, added up; reuses the whole model",
    .source = "EasyCache, arXiv 2507.02860; github.com/H-EmbodVis/EasyCache, EasyCache4Wan2.1",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .observe = observe,
};
