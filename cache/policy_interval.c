/*
 * policy_interval.c - every N-th step is computed, whatever the job looks like.
 *
 *     computed: the first `first` steps, the last `last`, and a step whose run of reused ones is N - 1 long
 *
 * With `grow` the interval starts at N and gets longer by that much with every step computed so (Spectrum):
 * due when (run + 1) mod floor(interval) is 0. With `backwards` steps are counted from the last one, which is
 * then computed (FORA). A job's mask, if it has one, adds computed steps.
 *
 * With forecasts this is TaylorSeer, HiCache, FoCa, FreqCa, Spectrum; with plain reuse FORA. They keep
 * outputs of modules or hidden states after the last block; here what blocks [F, layers - B) added is kept.
 */
#include "cache/gates.h"

enum { EVERY, FIRST, LAST, GROW, BACKWARDS, HEAD, TAIL, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [EVERY] = {"N", "interval", NULL, PARAMETER_WHOLE, 5, 1, CACHE_STEPS,
               "one step in so many is computed (TaylorSeer on Wan 5, FORA 3, Spectrum 2 to begin with)"},
    [FIRST] = {"first", "first_enhance", NULL, PARAMETER_WHOLE, 1, 0, CACHE_STEPS,
               "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
    [GROW] = {"grow", "flex_window", NULL, PARAMETER_REAL, 0, 0, CACHE_STEPS,
              "the interval grows by this with each step it computes (Spectrum's alpha: 0.75, fast 3)"},
    [BACKWARDS] = {"backwards", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
                   "count from the last step, which is then computed (FORA)"},
    [HEAD] = {"F", NULL, "F", PARAMETER_WHOLE, 0, 0, 1000, "first blocks that run at every step"},
    [TAIL] = {"B", NULL, "B", PARAMETER_WHOLE, 0, 0, 1000, "last blocks that run at every step"},
};

struct state {
    double interval; /* now; 0: not begun */
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (value[BACKWARDS] != 0 && value[GROW] != 0)
        return error_set(error, STATUS_INVALID, "grow: an interval counted backwards cannot grow");
    plan->site = SITE_SPAN;
    plan->head = (int)value[HEAD];
    plan->tail = (int)value[TAIL];
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct state *s = state;
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    if (s->interval == 0) s->interval = now->value[EVERY];
    bool due;
    if (now->value[BACKWARDS] != 0)
        due = (now->job->steps - 1 - now->step) % (int)now->value[EVERY] == 0;
    else
        due = (now->run + 1) % (int)s->interval == 0;
    /* Rounded as Spectrum's authors do, so that tenths add up to whole numbers. */
    if (due) s->interval = rint((s->interval + now->value[GROW]) * 1000.0) / 1000.0;
    return verdict(due ? ACTION_COMPUTE : ACTION_REUSE, REASON_MASK, CHANGE_NONE);
}

static bool sound(const void *state)
{
    const struct state *s = state;
    return s->interval == 0 || (s->interval >= 1 && s->interval <= 1e9); /* a divisor, as an int */
}

extern const struct policy policy_interval;
const struct policy policy_interval = {
    .name = "interval",
    .summary = "every N-th step; with a growing interval, with protected ends",
    .source = "FORA, arXiv 2407.01425; TaylorSeer, 2503.06923 (Shenyi-Z/TaylorSeer); Spectrum, 2603.01623 "
              "(hanjq17/Spectrum)",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .sound = sound,
};
