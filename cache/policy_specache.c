/*
 * policy_specache.c - SpeCa: forecast a few steps, check each forecast on the last block, compute when it was
 * wrong.
 *
 *     error of a draft = relL1(what the forecast says the last block adds,
 *                              what it really adds on the forecast input)
 *     the next step is computed iff error > max(floor, base decay^(step / steps)), or after k_max drafts
 *
 * The last block runs at every step, so the check costs its sums only. Drafts up to the k_min-th are not
 * judged. As in the authors' code, and unlike in their paper, a draft that fails is not taken back: it forces
 * the next step.
 *
 * Departures: their error is the mean of |a - b| / |b| over elements, which a few values near zero dominate;
 * ours is the ratio of the sums, so thresholds do not carry over (theirs: base 7 on FLUX, 0.1 on DiT). Their
 * code follows every computed step by a draft, so of its first three steps the second is not computed; ours
 * computes the first `first` steps, as said in the paper. A check that gives no number counts as failed.
 */
#include "cache/gates.h"

enum { BASE, DECAY, FLOOR, K_MIN, K_MAX, FIRST, LAST, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [BASE] = {"base", "base_threshold", NULL, PARAMETER_REAL, 0.3, 0, 1000,
              "largest error of a draft at the beginning, relative L1 of what the last block adds"},
    [DECAY] = {"decay", "decay_rate", NULL, PARAMETER_REAL, 0.3, 0, 1,
               "times this over the whole of the steps"},
    [FLOOR] = {"floor", NULL, NULL, PARAMETER_REAL, 0.1, 0, 1000, "but never below this"},
    [K_MIN] = {"k_min", "min_taylor_steps", NULL, PARAMETER_WHOLE, 2, 0, CACHE_STEPS,
               "drafts after a computed step that are not judged"},
    [K_MAX] = {"k_max", "max_taylor_steps", NULL, PARAMETER_WHOLE, 8, 1, CACHE_STEPS,
               "drafts in a row at most"},
    [FIRST] = {"first", "first_enhance", NULL, PARAMETER_WHOLE, 3, 1, CACHE_STEPS,
               "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

enum { VERIFIED = 1 }; /* blocks of the tail */

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (job->layers <= VERIFIED)
        return error_set(error, STATUS_UNSUPPORTED,
                         "specache: needs a model of at least 2 blocks, this one has %d", job->layers);
    if (value[K_MIN] > value[K_MAX])
        return error_set(error, STATUS_INVALID, "k_min %d: must not be above k_max %d", (int)value[K_MIN],
                         (int)value[K_MAX]);
    plan->site = SITE_SPAN;
    plan->tail = VERIFIED;
    plan->signals = SIGNAL_BIT(SIGNAL_VERIFY);
    return STATUS_OK;
}

struct state {
    bool judged;
    double error; /* of the last draft, if it was judged; NaN counts as too large */
};

static double allowed(const struct policy_now *now)
{
    double progress = (double)now->step / now->job->steps;
    return fmax(now->value[BASE] * pow(now->value[DECAY], progress), now->value[FLOOR]);
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    const struct state *s = state;
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    if (now->run >= (int)now->value[K_MAX]) return verdict(ACTION_COMPUTE, REASON_RUN, CHANGE_NONE);
    if (now->run > 0 && s->judged) {
        if (!isfinite(s->error)) return verdict(ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE);
        if (s->error > allowed(now)) return verdict(ACTION_COMPUTE, REASON_VERIFY, s->error);
        return verdict(ACTION_REUSE, REASON_BELOW, s->error);
    }
    return verdict(ACTION_REUSE, REASON_MASK, CHANGE_NONE);
}

/* `run` is the number of drafts before this step's: the k_min + 1-st is the first that is judged. */
static void observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    struct state *s = state;
    s->judged =
        taken->action == ACTION_REUSE && now->run >= (int)now->value[K_MIN] && gate_known(now, SIGNAL_VERIFY);
    if (!s->judged) return;
    const struct sums *sums = &now->signals->sums[SIGNAL_VERIFY];
    s->error = sums->difference / sums->now;
}

static bool sound(const void *state)
{
    return *(const unsigned char *)state <= 1; /* `judged` comes first */
}

extern const struct policy policy_specache;
const struct policy policy_specache = {
    .name = "specache",
    .summary = "forecasts steps and checks each on the last block; a failed check computes the next step",
    .source = "SpeCa, arXiv 2509.11628; github.com/Shenyi-Z/Cache4Diffusion, flux/speca-flux",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .forecast = "taylor",
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .observe = observe,
    .sound = sound,
};
