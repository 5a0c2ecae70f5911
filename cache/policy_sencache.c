/*
 * policy_sencache.c - SenCache: how far the output can have moved, from measured sensitivities to latent and
 * time.
 *
 *     error = Jx |x_i - x_c|_2 + Jt |t_i - t_c|;  reuse iff error < threshold sqrt(elements of the latent)
 *
 * c is the last computed step, t the time of training (1000 sigma), Jx and Jt the average norms of the
 * output's Jacobians at c, from a table of kind "sencache" with a row (Jx, Jt) per step. The conditional
 * branch decides for both. The authors' code multiplies its thresholds by 1447.98: the square root of the
 * number of elements of the one latent they used, 16 x 21 x 60 x 104; here it is the job's own. Their tables
 * are not published with the code.
 */
#include "cache/gates.h"

enum { THRESHOLD, EARLY, EARLY_PART, MAX_RUN, FIRST, LAST, PARAMETERS };

enum { TABLE_WIDTH = 2, TRAIN_STEPS = 1000 };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] =
        {"threshold", "sencache_thresh_main", NULL, PARAMETER_REAL, 2, 0, 1e6,
         "reuse when the error estimate per square root of elements is less (code 0.07, Wan 1.3B 2)"},
    [EARLY] = {"early", "sencache_thresh_start", NULL, PARAMETER_REAL, 0.045, 0, 1e6,
               "the threshold of early steps (code 0.005, Wan 1.3B 0.045)"},
    [EARLY_PART] = {"early_part", NULL, NULL, PARAMETER_REAL, 0.2, 0, 1, "share of the steps that are early"},
    [MAX_RUN] = {"K", "sencache_K", NULL, PARAMETER_WHOLE, 3, 1, CACHE_STEPS,
                 "reused steps in a row at most (code 10, Wan 1.3B 3)"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the beginning"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS, "steps computed at the end"},
};

static status_t find_sensitivities(const struct policy_job *job, const struct cache_table **table,
                                   struct error *error)
{
    status_t status = table_find("sencache", job->tables, job->table_count, &job->model, table, error);
    if (status != STATUS_OK) return status;
    if ((*table)->width == TABLE_WIDTH && (*table)->count == TABLE_WIDTH * job->steps) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "sencache table '%s' has %d values in rows of %d, a job of %d steps needs %d in rows "
                     "of %d: calibrate at these steps",
                     (*table)->name, (*table)->count, (*table)->width, job->steps, TABLE_WIDTH * job->steps,
                     TABLE_WIDTH);
}

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    const struct cache_table *table;
    status_t status = find_sensitivities(job, &table, error);
    if (status != STATUS_OK) return status;
    plan->site = SITE_SPAN;
    plan->signals = SIGNAL_BIT(SIGNAL_DRIFT);
    plan->tied = true;
    return STATUS_OK;
}

/* Per square root of the number of elements. */
static double estimate(const struct policy_now *now, const struct cache_table *table)
{
    const struct sums *drift = &now->signals->sums[SIGNAL_DRIFT];
    const double *row = table->values + (ptrdiff_t)TABLE_WIDTH * now->history->step[0];
    double time = TRAIN_STEPS * fabs(now->job->sigmas[now->step] - now->history->sigma[0]);
    return (row[0] * sqrt(drift->difference2) + row[1] * time) / sqrt((double)drift->count);
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    const double *value = now->value;
    struct verdict forced;
    const struct cache_table *table;
    if (gate_forced(now, (int)value[FIRST], (int)value[LAST], &forced)) return forced;
    if (now->history->count < 1 || !gate_known(now, SIGNAL_DRIFT) ||
        find_sensitivities(now->job, &table, NULL) != STATUS_OK)
        return gate_unknown();
    if (now->run >= (int)value[MAX_RUN]) return verdict(ACTION_COMPUTE, REASON_RUN, CHANGE_NONE);
    /* The authors count calls of the model, two to a step, and round the share of them. */
    bool early = 2 * now->step < (int)nearbyint(2 * now->job->steps * value[EARLY_PART]);
    return gate_below(estimate(now, table), value[early ? EARLY : THRESHOLD]);
}

extern const struct policy policy_sencache;
const struct policy policy_sencache = {
    .name = "sencache",
    .summary = "bound on the output's change from its measured sensitivity to latent and time",
    .source = "SenCache, arXiv 2602.24208; github.com/vita-epfl/SenCache, Wan2.1",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .table = "sencache",
    .plan = plan,
    .begin = begin,
};
