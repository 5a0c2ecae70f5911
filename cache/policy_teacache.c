/*
 * policy_teacache.c - TeaCache: a polynomial turns the change of the time embedding into the change of the
 * output.
 *
 *     sum += p(relL1(s_i, s_i-1));  reuse while sum < threshold;  a computed step clears the sum
 *
 * On Wan s is the time embedding (normal mode) or its sixfold projection (retention mode), p a polynomial of
 * degree four fitted by the authors for each mode and model. Neither depends on the latent, so the steps
 * computed are the same for every prompt and seed. Each branch has a sum of its own, as the authors have it;
 * on Wan both are equal.
 *
 * As in the authors' code the polynomial's value is not made absolute: fits of some models are negative for
 * small changes (Wan 14B's constant is -13.0), so the sum may fall.
 */
#include "cache/gates.h"

enum { THRESHOLD, RETENTION, FIRST, LAST, PARAMETERS };

enum { BY_MODE = -1, NORMAL_FIRST = 1, NORMAL_LAST = 1, RETENTION_FIRST = 5, RETENTION_LAST = 0 };

static const struct parameter parameters[PARAMETERS] = {
    [THRESHOLD] = {"threshold", "teacache_thresh", NULL, PARAMETER_REAL, 0.08, 0, 100,
                   "reuse while the estimated change of the output adds up to less; Wan 1.3B 0.05..0.08, 14B "
                   "0.14..0.2"},
    [RETENTION] = {"retention", "use_ret_steps", NULL, PARAMETER_FLAG, 0, 0, 1,
                   "look at the projected time embedding, with the polynomial fitted for it"},
    [FIRST] = {"first", NULL, NULL, PARAMETER_WHOLE, BY_MODE, BY_MODE, CACHE_STEPS,
               "steps computed at the beginning; -1: 1, with retention 5"},
    [LAST] = {"last", NULL, NULL, PARAMETER_WHOLE, BY_MODE, BY_MODE, CACHE_STEPS,
              "steps computed at the end; -1: 1, with retention 0"},
};

/* The polynomial, highest power first. A mode needs the one fitted for it. */
static status_t find_polynomial(const struct policy_job *job, bool retention,
                                const struct cache_table **table, struct error *error)
{
    return table_find(retention ? "teacache-retention" : "teacache", job->tables, job->table_count,
                      &job->model, table, error);
}

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    bool retention = value[RETENTION] != 0.0;
    const struct cache_table *table;
    status_t status = find_polynomial(job, retention, &table, error);
    if (status != STATUS_OK) return status;
    if (table->count < 1 || table->width != table->count)
        return error_set(error, STATUS_INVALID,
                         "teacache table '%s' has %d values in rows of %d: must be one row, the polynomial's",
                         table->name, table->count, table->width);
    plan->site = SITE_SPAN;
    plan->signals = SIGNAL_BIT(retention ? SIGNAL_PROJECTION : SIGNAL_TIME);
    return STATUS_OK;
}

static double evaluate(const struct cache_table *polynomial, double x)
{
    double y = 0.0;
    for (int i = 0; i < polynomial->count; i++) y = y * x + polynomial->values[i];
    return y;
}

static int protected_steps(double given, bool retention, int normal, int with_retention)
{
    if (given >= 0) return (int)given;
    return retention ? with_retention : normal;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    struct gate_sum *s = state;
    bool retention = now->value[RETENTION] != 0.0;
    enum signal signal = retention ? SIGNAL_PROJECTION : SIGNAL_TIME;
    int first = protected_steps(now->value[FIRST], retention, NORMAL_FIRST, RETENTION_FIRST);
    int last = protected_steps(now->value[LAST], retention, NORMAL_LAST, RETENTION_LAST);
    struct verdict forced;
    const struct cache_table *polynomial;
    if (gate_forced(now, first, last, &forced)) return forced;
    if (!gate_known(now, signal) || find_polynomial(now->job, retention, &polynomial, NULL) != STATUS_OK)
        return gate_unknown();
    s->sum += evaluate(polynomial, relative_change(&now->signals->sums[signal]));
    return gate_below(s->sum, now->value[THRESHOLD]);
}

extern const struct policy policy_teacache;
const struct policy policy_teacache = {
    .name = "teacache",
    .summary = "change of the time embedding through a fitted polynomial, added up",
    .source = "TeaCache, arXiv 2411.19108; github.com/ali-vilab/TeaCache, TeaCache4Wan2.1",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .table = "teacache",
    .state_bytes = sizeof(struct gate_sum),
    .plan = plan,
    .begin = begin,
    .observe = gate_sum_observe,
};
