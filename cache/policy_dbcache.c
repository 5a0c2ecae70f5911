/*
 * policy_dbcache.c - Dual Block Cache: probe with the first F blocks, correct with the last B.
 *
 *     d = relL1(what the first F blocks add now, what they added at the last computed step);  reuse iff d < R
 *
 * Gates in cache-dit's order: warm-up, step mask, total, run, accumulated change, threshold. All but the last
 * two are answered before the probe, so a step whose verdict is known takes no sums.
 *
 * Mended against cache-dit: MC limits a real run of reused steps (cache-dit's count was not cleared by a step
 * that the threshold computed until 1.5.3), and the accumulated change is that of the current run (there it
 * sums the changes of computed steps too and is never cleared, so that once reached nothing is reused any
 * more). A change that is not finite computes with a reason of its own, where cache-dit's NaN < R computes
 * silently.
 */
#include "cache/gates.h"

enum {
    THRESHOLD,
    F_BLOCKS,
    B_BLOCKS,
    WARMUP,
    WARMUP_INTERVAL,
    MAX_CACHED,
    MAX_RUN,
    MAX_ACCUMULATED,
    SEPARATE,
    STATIC_MASK,
    PARAMETERS
};

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", "residual_diff_threshold", "R", PARAMETER_REAL, 0.08, 0, 100,
                   "reuse when the probe changed by less, relative L1; 0: never, 1 or more: always"},
    [F_BLOCKS] = {"F", "Fn_compute_blocks", "F", PARAMETER_WHOLE, 8, 1, 1000,
                  "first blocks, always computed: the probe; fewer than the model has"},
    [B_BLOCKS] = {"B", "Bn_compute_blocks", "B", PARAMETER_WHOLE, 0, 0, 1000,
                  "last blocks, always computed: they repair what was reused"},
    [WARMUP] = {"W", "max_warmup_steps", "W", PARAMETER_WHOLE, 8, 0, CACHE_STEPS,
                "steps of warm-up; with a mask no more than the ones it begins with"},
    [WARMUP_INTERVAL] = {"I", "warmup_interval", "I", PARAMETER_WHOLE, 1, 1, CACHE_STEPS,
                         "during warm-up every so many steps is computed"},
    [MAX_CACHED] = {"M", "max_cached_steps", "M", PARAMETER_WHOLE, -1, -1, CACHE_STEPS,
                    "reused steps in all at most; -1 or 0: no limit"},
    [MAX_RUN] = {"MC", "max_continuous_cached_steps", "MC", PARAMETER_WHOLE, -1, -1, CACHE_STEPS,
                 "reused steps in a row at most; -1 or 0: no limit"},
    [MAX_ACCUMULATED] = {"max_accumulated", "max_accumulated_residual_diff_threshold", NULL, PARAMETER_REAL,
                         0, 0, 1000,
                         "compute once the changes let through in a row add up to this; 0: no limit"},
    [SEPARATE] = {"separate", "cfg_diff_compute_separate", NULL, PARAMETER_FLAG, 1, 0, 1,
                  "each branch decides for itself; 0: the conditional one decides for both"},
    [STATIC_MASK] = {"static", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
                     "reuse at every 0 of the mask, without a look (steps_computation_policy=static)"},
};

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    status_t status = gate_blocks("F", (int)value[F_BLOCKS], "B", (int)value[B_BLOCKS], job, error);
    if (status != STATUS_OK) return status;
    if (value[STATIC_MASK] != 0.0 && job->mask == NULL)
        return error_set(error, STATUS_INVALID, "static 1: needs a mask");
    plan->site = SITE_SPAN;
    plan->head = (int)value[F_BLOCKS];
    plan->tail = (int)value[B_BLOCKS];
    plan->probe_slots = 1;
    plan->signals = SIGNAL_BIT(SIGNAL_PROBE);
    plan->tied = value[SEPARATE] == 0.0;
    return STATUS_OK;
}

struct state {
    double accumulated; /* changes let through since the last computed step */
};

/* Steps 0, I, 2I, ... below W, of each expert. */
static bool in_warmup(const struct policy_now *now)
{
    int warmup = (int)now->value[WARMUP];
    if (now->job->mask != NULL) {
        int ones = 0;
        while (ones < now->job->steps && now->job->mask[ones]) ones++;
        if (ones < warmup) warmup = ones;
    }
    return policy_age(now) < warmup && policy_age(now) % (int)now->value[WARMUP_INTERVAL] == 0;
}

static bool reached(int count, double limit)
{
    return limit > 0 && count >= (int)limit;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    const struct state *s = state;
    const double *value = now->value;
    const unsigned char *mask = now->job->mask;
    if (in_warmup(now)) return verdict(ACTION_COMPUTE, REASON_WARMUP, CHANGE_NONE);
    if (mask != NULL && mask[now->step]) return verdict(ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
    if (mask != NULL && value[STATIC_MASK] != 0.0) return verdict(ACTION_REUSE, REASON_MASK, CHANGE_NONE);
    if (reached(now->total, value[MAX_CACHED])) return verdict(ACTION_COMPUTE, REASON_TOTAL, CHANGE_NONE);
    if (reached(now->run, value[MAX_RUN])) return verdict(ACTION_COMPUTE, REASON_RUN, CHANGE_NONE);
    if (value[MAX_ACCUMULATED] > 0.0 && s->accumulated >= value[MAX_ACCUMULATED])
        return verdict(ACTION_COMPUTE, REASON_ACCUMULATED, s->accumulated);
    if (value[THRESHOLD] <= 0.0) return verdict(ACTION_COMPUTE, REASON_ABOVE, CHANGE_NONE);
    return verdict(ACTION_PROBE, REASON_OFF, CHANGE_NONE);
}

static struct verdict probe(const struct policy_now *now, void *state)
{
    if (!gate_known(now, SIGNAL_PROBE)) return gate_unknown();
    double change = relative_change(&now->signals->sums[SIGNAL_PROBE]);
    if (now->value[THRESHOLD] >= 1.0) return verdict(ACTION_REUSE, REASON_BELOW, change);
    return gate_below(change, now->value[THRESHOLD]);
}

static void observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    struct state *s = state;
    if (taken->action == ACTION_COMPUTE)
        s->accumulated = 0.0;
    else if (taken->change > 0.0f)
        s->accumulated += (double)taken->change;
}

extern const struct policy policy_dbcache;
const struct policy policy_dbcache = {
    .name = "dbcache",
    .summary =
        "change of what the first F blocks add, since the last computed step; the last B blocks always run",
    .source = "DBCache, github.com/vipshop/cache-dit 1.5.3; run and accumulated limits mended",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .probe = probe,
    .observe = observe,
};
