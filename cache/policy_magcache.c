/*
 * policy_magcache.c - MagCache: a table says how much what the blocks add shrinks from step to step.
 *
 *     after warm-up: ratio *= gamma_i;  err += |1 - ratio|;  n += 1
 *     reuse while err < threshold and n <= K; a computed step sets ratio = 1, err = 0, n = 0
 *
 * gamma_i is the mean over tokens of ||R_i|| / ||R_i-1||, measured once per model (`refrain calibrate`) or
 * published. Nothing is measured while a job runs: table, threshold, K and R give the same steps for every
 * prompt and seed. As in the authors' code the ratio only decides; R itself is reused unscaled. For another
 * number of steps the nearest entries of a published table are taken, as they do; of a calibrated one only
 * when asked to: calibrating takes a minute.
 */
#include "cache/gates.h"

enum { THRESHOLD, RUN, RETENTION, RESAMPLE, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] =
        {"threshold", "magcache_thresh", "E", PARAMETER_REAL, 0.12, 0, 100,
         "reuse while the estimated errors add up to less (Wan 1.3B 0.12, 14B 0.24, 5B and A14B 0.06)"},
    [RUN] = {"K", "magcache_K", "K", PARAMETER_WHOLE, 4, 0, CACHE_STEPS,
             "at most so many reused in a row (Wan 1.3B 4, 14B 6, 5B and A14B 2)"},
    [RETENTION] = {"R", "retention_ratio", "R", PARAMETER_REAL, 0.2, 0, 1,
                   "part of the steps computed at the beginning (Wan2.2 A14B 0.4)"},
    [RESAMPLE] = {"resample", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
                  "take a calibrated table of another number of steps, too: the nearest entries"},
};

struct state {
    double ratio; /* of now to the last computed step; 0: nothing skipped since, so 1 */
    double error;
    int run;
};

static status_t find_ratios(const struct policy_job *job, const struct cache_table **table,
                            struct error *error)
{
    return table_find("magcache", job->tables, job->table_count, &job->model, table, error);
}

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    const struct cache_table *table;
    status_t status = find_ratios(job, &table, error);
    if (status != STATUS_OK) return status;
    if (table->count < 1 || table->width != 1)
        return error_set(error, STATUS_INVALID, "magcache table '%s': must have one value per step",
                         table->name);
    bool own = false;
    for (int i = 0; i < job->table_count; i++) own |= table == &job->tables[i];
    if (own && table->steps != 0 && table->steps != job->steps && value[RESAMPLE] == 0)
        return error_set(
            error, STATUS_INVALID,
            "magcache table '%s' was made at %d steps, the job has %d: calibrate at these, or say "
            "resample=1",
            table->name, table->steps, job->steps);
    plan->site = SITE_SPAN;
    return STATUS_OK;
}

/* The entry of `count` nearest to `step` of `steps`; halves to even, as numpy rounds. */
static double nearest(const struct cache_table *table, int step, int steps)
{
    if (table->count == steps) return table->values[step];
    if (steps == 1) return table->values[table->count - 1];
    double scale = (double)(table->count - 1) / (steps - 1);
    return table->values[(int)rint(step * scale)];
}

/* The authors count calls of both branches: step i is past warm-up when 2 i >= floor(2 S R). Each of two experts has a
 * warm-up of its own, as on Wan 2.2: at the switch the ratio drops to 0.66. */
static int warmup(const struct policy_now *now)
{
    return ((int)(2.0 * policy_steps(now) * now->value[RETENTION]) + 1) / 2;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct state *s = state;
    struct verdict forced;
    const struct cache_table *table;
    if (gate_forced(now, warmup(now), 0, &forced)) return forced;
    if (find_ratios(now->job, &table, NULL) != STATUS_OK) return gate_unknown();
    s->ratio = (s->ratio > 0 ? s->ratio : 1.0) * nearest(table, now->step, now->job->steps);
    s->error += fabs(1.0 - s->ratio);
    s->run++;
    if (s->error < now->value[THRESHOLD] && s->run > now->value[RUN])
        return verdict(ACTION_COMPUTE, REASON_RUN, s->error);
    return gate_below(s->error, now->value[THRESHOLD]);
}

static void observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    if (taken->action == ACTION_COMPUTE) *(struct state *)state = (struct state){0};
}

extern const struct policy policy_magcache;
const struct policy policy_magcache = {
    .name = "magcache",
    .summary = "a table of magnitude ratios adds up to an error; needs the model's table",
    .source = "MagCache, arXiv 2506.09045; github.com/Zehong-Ma/MagCache, MagCache4Wan2.1",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .table = "magcache",
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .observe = observe,
};
