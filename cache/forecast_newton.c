/*
 * forecast_newton.c - the polynomial through the last order + 1 computed steps (Newton's and Lagrange's):
 * exact for polynomials of its order at any spacing, which TaylorSeer of order 2 and more is not. The price
 * is noise: sum |w| is about 5.7 at five steps beyond anchors six apart, against 4.1 and 2.7 for Taylor of
 * order 2 and 1.
 */
#include "cache/differences.h"
#include "cache/forecast.h"

enum { ORDER, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [ORDER] = {"order", NULL, NULL, PARAMETER_WHOLE, 2, 1, 3,
               "degree of the polynomial; falls back to what has been computed"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[ORDER] + 1;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    differences_extrapolate(now->history, (int)now->value[ORDER] + 1, now->step, weights[0]);
}

const struct forecast forecast_newton = {
    .name = "newton",
    .summary = "polynomial through the last computed steps, exact at any spacing",
    .source = "Newton's divided differences; what TaylorSeer, arXiv 2503.06923, approximates",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .slots = slots,
    .weights = weights,
};
