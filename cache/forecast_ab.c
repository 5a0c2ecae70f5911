/*
 * forecast_ab.c - Adams-Bashforth forecasts (AB-Cache, arXiv 2504.10540), carried to steps of any spacing.
 *
 * The paper gives, for equally spaced outputs, 2 F_0 - F_1 (order 2) and 3 F_0 - 3 F_1 + F_2 (order 3); code
 * is not published. What counts as an output had to be decided: the computed steps at their real distances,
 * and the forecasts of the present run. Forecasts made before the last computed step are forgotten, for if
 * they counted, an error in one of them would grow (gap - 1)-fold at every computed step. So defined, each
 * further step of a run continues the same polynomial: order k is the polynomial through the last k computed
 * steps.
 *
 * With `slopes` it is the integrator of that name instead: slopes between computed steps, taken at the later
 * end, are integrated with Adams-Bashforth's weights of `order` (3/2, -1/2 or 23/12, -16/12, 5/12 on even
 * spacing; of the interpolating polynomial otherwise) one step at a time, and the slopes of the run's own
 * steps count like computed ones. A turn in the slope then fades as the run goes on rather than growing with
 * its square: between order 1 and 2.
 */
#include <string.h>
#include "cache/differences.h"
#include "cache/forecast.h"

enum { ORDER, SLOPES, PARAMETERS };
enum { MAX_ORDER = 3 };

static const struct parameter parameters[PARAMETERS] = {
    [ORDER] = {"order", NULL, NULL, PARAMETER_WHOLE, 2, 2, MAX_ORDER,
               "outputs (or slopes) a forecast rests on; falls back to what has been computed"},
    [SLOPES] = {"slopes", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
                "integrate slopes step by step instead of continuing the polynomial"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[ORDER] + (value[SLOPES] != 0);
}

/* The last slopes, newest first: at which step, and the slope as weights over the history. */
struct slopes {
    int count, most;
    double step[MAX_ORDER];
    double weights[MAX_ORDER][CACHE_SLOTS];
};

static void slopes_push(struct slopes *s, double step, const double *weights)
{
    if (s->count < s->most) s->count++;
    for (int j = s->count - 1; j > 0; j--) {
        s->step[j] = s->step[j - 1];
        memcpy(s->weights[j], s->weights[j - 1], sizeof s->weights[j]);
    }
    s->step[0] = step;
    memcpy(s->weights[0], weights, sizeof s->weights[0]);
}

/* Value at `at` of the polynomial that is 1 at slope j's step and 0 at the others'. */
static double lagrange(const struct slopes *s, int j, double at)
{
    double product = 1;
    for (int i = 0; i < s->count; i++)
        if (i != j) product *= (at - s->step[i]) / (s->step[j] - s->step[i]);
    return product;
}

/* The integral of the slope over one step from `from`, as weights. Simpson's rule is exact up to cubics. */
static void slopes_integrate(const struct slopes *s, double from, double *weights)
{
    memset(weights, 0, CACHE_SLOTS * sizeof *weights);
    for (int j = 0; j < s->count; j++) {
        double share = (lagrange(s, j, from) + 4 * lagrange(s, j, from + 0.5) + lagrange(s, j, from + 1)) / 6;
        for (int i = 0; i < CACHE_SLOTS; i++) weights[i] += share * s->weights[j][i];
    }
}

static void integrate(const struct forecast_now *now, int order, double *weights)
{
    const struct history *h = now->history;
    struct slopes slopes = {.most = order};
    double change[CACHE_SLOTS];
    int gaps = order < h->count - 1 ? order : h->count - 1;
    for (int j = gaps - 1; j >= 0; j--) {
        double gap = h->step[j] - h->step[j + 1];
        memset(change, 0, sizeof change);
        change[j] = 1 / gap;
        change[j + 1] = -1 / gap;
        slopes_push(&slopes, h->step[j], change);
    }
    memset(weights, 0, CACHE_SLOTS * sizeof *weights);
    weights[0] = 1;
    for (int step = h->step[0]; step < now->step; step++) {
        slopes_integrate(&slopes, step, change);
        for (int i = 0; i < CACHE_SLOTS; i++) weights[i] += change[i];
        slopes_push(&slopes, step + 1, change);
    }
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    int order = (int)now->value[ORDER];
    if (now->value[SLOPES] != 0)
        integrate(now, order, weights[0]);
    else
        differences_extrapolate(now->history, order, now->step, weights[0]);
}

const struct forecast forecast_ab = {
    .name = "ab",
    .summary = "Adams-Bashforth over the last computed steps",
    .source = "AB-Cache, arXiv 2504.10540",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .slots = slots,
    .weights = weights,
};
