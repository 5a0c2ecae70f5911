/*
 * forecast_taylor.c - TaylorSeer: F_0 + d D_1 + d^2/2 D_2 + ..., D_k from backward differences.
 *
 * Rule of the authors (arXiv 2503.06923, code Shenyi-Z/TaylorSeer) and of cache-dit's and diffusers' ports:
 * D_{k+1} is the change of D_k since the computed step before, divided by the gap in steps, d is counted in
 * steps too. Exact for straight lines. From order 2 on it is *not* exact for polynomials of that order: all
 * derivatives are backward ones, and of the curvature only the share d / (d + gap) arrives, while noise is
 * amplified more. `newton` is exact.
 *
 * When differences begin: the authors form them from step first_enhance - 1 on, which is 0 for Wan, our
 * default. cache-dit forms none at its steps 0 and 1, and counts from the first update in the first video a
 * process makes
 * (`from` 3), from the first step in later ones (`from` 2).
 */
#include "cache/differences.h"
#include "cache/forecast.h"

enum { ORDER, FROM, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [ORDER] = {"order", "n_derivatives", NULL, PARAMETER_WHOLE, 1, 1, DIFFERENCES_ORDER,
               "highest derivative; falls back to what has been computed"},
    [FROM] = {"from", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS,
              "first step at which differences are formed (authors: first_enhance - 1)"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[ORDER] + 1;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    double d = now->step - now->history->step[0], basis[DIFFERENCES_ORDER + 1] = {1};
    for (int k = 1; k <= DIFFERENCES_ORDER; k++) basis[k] = basis[k - 1] * d;
    differences_expand(now->history, (int)now->value[ORDER], (int)now->value[FROM], basis, weights[0]);
}

const struct forecast forecast_taylor = {
    .name = "taylor",
    .summary = "Taylor series of backward differences; order 1 is the straight line",
    .source = "TaylorSeer, arXiv 2503.06923; code Shenyi-Z/TaylorSeer, cache-dit, diffusers",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .slots = slots,
    .weights = weights,
};
