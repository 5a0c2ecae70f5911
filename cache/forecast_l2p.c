/*
 * forecast_l2p.c - learned linear forecasts: the weights that would have been best over calibration runs.
 *
 *     w = argmin E ||F_i - sum_j w_j F_cj||^2 + ridge ||w - reuse||^2      E over runs and branches
 *
 * L2P (arXiv 2604.26365) learns a row of weights per step for a fixed mask. The same least squares need
 * nothing but inner products of the residuals of any two steps, so the table holds those (`refrain
 * calibrate`) and the row is solved for whatever steps happen to be computed: it goes with every policy. What
 * the ridge pulls towards is reuse rather than zero, so that it can only make the forecast duller, never
 * smaller.
 */
#include <string.h>
#include "cache/dense.h"
#include "cache/forecast.h"

enum { SLOTS, RIDGE, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [SLOTS] = {"slots", NULL, NULL, PARAMETER_WHOLE, 3, 1, CACHE_SLOTS, "computed steps a forecast rests on"},
    [RIDGE] = {"ridge", NULL, NULL, PARAMETER_REAL, 1e-5, 0, 1,
               "pull towards reuse, as a share of the mean square"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[SLOTS];
}

static bool made_at(const struct cache_table *table, const struct policy_job *job)
{
    bool steps = table->steps == 0 || table->steps == job->steps;
    bool shift = table->shift == 0 || fabs(table->shift - job->shift) <= 1e-6 * job->shift;
    return steps && shift;
}

static bool is_of_job(const struct cache_table *table, const struct policy_job *job)
{
    return made_at(table, job) && table->width == job->steps && table->count == job->steps * job->steps;
}

/* The first table made for this model at this number of steps and shift; *other: one that is for this model
 * only. */
static const struct cache_table *find(const struct policy_job *job, const struct cache_table **other)
{
    *other = NULL;
    for (int i = 0; i < job->table_count; i++) {
        const struct cache_table *table = &job->tables[i];
        if (strcmp(table->kind, "l2p") != 0 || !table_fits(table, &job->model)) continue;
        if (is_of_job(table, job)) return table;
        if (*other == NULL) *other = table;
    }
    return NULL;
}

static status_t plan(const double *value, const struct policy_job *job, struct error *error)
{
    const struct cache_table *other;
    if (find(job, &other) != NULL) return STATUS_OK;
    if (other == NULL)
        return error_set(
            error, STATUS_NOT_FOUND,
            "l2p: there is no table of this kind for this model; make one with refrain calibrate");
    if (made_at(other, job))
        return error_set(
            error, STATUS_INVALID,
            "l2p: table %s has %d values in rows of %d, a job of %d steps needs %d in rows of %d",
            other->name, other->count, other->width, job->steps, job->steps * job->steps, job->steps);
    return error_set(
        error, STATUS_INVALID,
        "l2p: table %s was made at %d steps and shift %g, the job has %d and %g; calibrate at these",
        other->name, other->steps, other->shift, job->steps, job->shift);
}

/* Inner product of what is kept at steps i and j; the table's upper triangle. */
static double product(const struct cache_table *table, int i, int j)
{
    return i < j ? table->values[i * table->width + j] : table->values[j * table->width + i];
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    const struct history *h = now->history;
    const struct cache_table *other, *table = find(now->job, &other);
    memset(weights[0], 0, sizeof weights[0]);
    weights[0][0] = 1;
    /* Steps that were not measured have 0 on the diagonal: reuse, or fewer anchors. */
    if (table == NULL || !(product(table, now->step, now->step) > 0)) return;
    int n = 0, most = (int)now->value[SLOTS];
    while (n < most && n < h->count && product(table, h->step[n], h->step[n]) > 0) n++;
    if (n == 0) return;

    double a[CACHE_SLOTS * CACHE_SLOTS], w[CACHE_SLOTS], trace = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) a[i * n + j] = product(table, h->step[i], h->step[j]);
        w[i] = product(table, h->step[i], now->step);
        trace += a[i * n + i];
    }
    double ridge = now->value[RIDGE] * trace / n;
    for (int i = 0; i < n; i++) a[i * n + i] += ridge;
    w[0] += ridge;
    if (dense_solve_positive(n, a, w)) memcpy(weights[0], w, (size_t)n * sizeof *w);
}

const struct forecast forecast_l2p = {
    .name = "l2p",
    .summary = "learned weights: least squares over calibration runs of this model",
    .source = "L2P, arXiv 2604.26365; solved for any mask from inner products",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .table = "l2p",
    .slots = slots,
    .plan = plan,
    .weights = weights,
};
