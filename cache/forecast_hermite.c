/*
 * forecast_hermite.c - HiCache: TaylorSeer with d^k replaced by s^k H_k(s d), H_k the physicists' Hermite
 * polynomials.
 *
 * From arXiv 2508.16984 and Archerkattri/hicache-plus-plus (hicache_pp/hermite.py): differences as
 * TaylorSeer's, each divided by the gap of its own last two computed steps. At s = sqrt(1/2) the first order
 * is the straight line; the authors' s = 1/2 moves half as far, which damps: on a straight line it is *not*
 * exact, by design.
 */
#include "cache/differences.h"
#include "cache/forecast.h"
#include "cache/hermite.h"

enum { ORDER, CONTRACTION, FROM, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [ORDER] = {"order", "max_order", NULL, PARAMETER_WHOLE, 2, 1, DIFFERENCES_ORDER,
               "highest difference; falls back to what has been computed"},
    [CONTRACTION] = {"contraction", "sigma", NULL, PARAMETER_REAL, 0.5, 0.01, 1,
                     "damping: 0.5 moves half as far as a straight line, 0.7071 as far"},
    [FROM] = {"from", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS,
              "first step at which differences are formed"},
};

void hermite_basis(double d, double contraction, double basis[DIFFERENCES_ORDER + 1])
{
    double x = contraction * d, below = 1, here = 2 * x, scale = contraction;
    basis[0] = 1;
    for (int k = 1; k <= DIFFERENCES_ORDER; k++) {
        basis[k] = scale * here;
        double above = 2 * x * here - 2 * k * below;
        below = here;
        here = above;
        scale *= contraction;
    }
}

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[ORDER] + 1;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    double basis[DIFFERENCES_ORDER + 1];
    hermite_basis(now->step - now->history->step[0], now->value[CONTRACTION], basis);
    differences_expand(now->history, (int)now->value[ORDER], (int)now->value[FROM], basis, weights[0]);
}

const struct forecast forecast_hermite = {
    .name = "hermite",
    .summary = "HiCache: scaled Hermite polynomials of backward differences, damped",
    .source = "HiCache, arXiv 2508.16984; code Archerkattri/hicache-plus-plus",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .slots = slots,
    .weights = weights,
};
