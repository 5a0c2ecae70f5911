/*
 * policy_zeus.c - ZEUS: two stored velocities and a fixed pattern; neither blocks nor branches run at a
 * skipped step.
 *
 *     skipped: step i when (i - 1) mod denominator is one of `skip` residues from `phase` on,
 *              between the ends
 *     velocity: the 1st, 3rd, ... of a run 2 v_1 - v_2;  the 2nd, 4th, ... v_1
 *                                                                      v_1, v_2: last two computed
 *
 * So nothing is extrapolated from an extrapolation, and (as in the code) the distance to the stored
 * velocities does not enter. From step `late` on one step in `late_interval` is computed instead.
 *
 * Read from the released code for flow matching. It differs from the paper's text in two ways, which are
 * kept: a second skipped step repeats v_1, not the first one's forecast; and the late part has its own
 * pattern but no Lagrange forecast (that exists only for its other samplers). One thing is mended: with
 * guidance its Wan pipeline stores the two branches' velocities in turn in one list and mixes them up; here
 * the guided velocity is stored.
 */
#include "cache/gates.h"

enum { DENOMINATOR, SKIP, PHASE, FIRST, LAST, LATE, LATE_INTERVAL, RUN, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [DENOMINATOR] = {"denominator", NULL, NULL, PARAMETER_WHOLE, 3, 2, CACHE_STEPS, "length of the pattern"},
    [SKIP] = {"skip", NULL, NULL, PARAMETER_WHOLE, 2, 0, CACHE_STEPS,
              "steps of the pattern that are skipped (the authors' modular=(0,1): 2)"},
    [PHASE] = {"phase", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS,
               "first residue skipped (modular=(0,1): 0; their default for denominator 2, modular=(1,): 1)"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, 9, 2, CACHE_STEPS,
               "steps computed at the beginning (acc_range=(8,47) of 50 steps: 9)"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 2, 0, CACHE_STEPS,
              "steps computed at the end (acc_range=(8,47) of 50 steps: 2)"},
    [LATE] = {"late", "lagrange_step", NULL, PARAMETER_WHOLE, 24, 0, CACHE_STEPS,
              "after this step the pattern is late_interval; 0: never"},
    [LATE_INTERVAL] = {"late_interval", "lagrange_int", NULL, PARAMETER_WHOLE, 4, 1, CACHE_STEPS,
                       "one step in so many is computed after `late`"},
    [RUN] = {"max_interval", NULL, NULL, PARAMETER_WHOLE, 6, 1, CACHE_STEPS,
             "at most so many skipped in a row"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (value[SKIP] >= value[DENOMINATOR])
        return error_set(error, STATUS_INVALID, "skip %.0f: must be below denominator, %.0f", value[SKIP],
                         value[DENOMINATOR]);
    if (value[PHASE] >= value[DENOMINATOR])
        return error_set(error, STATUS_INVALID, "phase %.0f: must be below denominator, %.0f", value[PHASE],
                         value[DENOMINATOR]);
    plan->site = SITE_VELOCITY;
    plan->slots = 2;
    return STATUS_OK;
}

static bool skipped(const double *value, int step)
{
    int before = step - 1, denominator = (int)value[DENOMINATOR];
    if (value[LATE] > 0 && before >= value[LATE]) return before % (int)value[LATE_INTERVAL] != 0;
    int place = (before + denominator - (int)value[PHASE]) % denominator;
    return place < value[SKIP];
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct verdict forced;
    if (gate_forced(now, (int)now->value[FIRST], (int)now->value[LAST], &forced)) return forced;
    if (now->run >= now->value[RUN]) return verdict(ACTION_COMPUTE, REASON_RUN, CHANGE_NONE);
    return verdict(skipped(now->value, now->step) ? ACTION_REUSE : ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
}

static void weights(const struct policy_now *now, double *w, void *state)
{
    bool extrapolate = now->run % 2 == 0 && now->history->count >= 2;
    for (int j = 0; j < now->history->count; j++) w[j] = 0;
    w[0] = extrapolate ? 2 : 1;
    if (extrapolate) w[1] = -1;
}

extern const struct policy policy_zeus;
const struct policy policy_zeus = {
    .name = "zeus",
    .summary = "two stored velocities, a fixed pattern of two skipped of three",
    .source = "ZEUS, arXiv 2604.01552; github.com/Ting-Justin-Jiang/ZEUS, solver.py and wan2_demo.py",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .plan = plan,
    .begin = begin,
    .weights = weights,
};
