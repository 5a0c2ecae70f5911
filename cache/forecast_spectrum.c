/*
 * forecast_spectrum.c - Spectrum: a ridge fit of Chebyshev polynomials to all computed steps, blended with a
 * line.
 *
 *     F = w X (X' X + lambda P)^-1 phi + (1 - w) (straight line through the last two)
 *     tau = 2 step / steps - 1
 *
 * X[j] = T_0..T_degree at tau of anchor j, phi the same at the step to forecast. From arXiv 2603.01623 and
 * hanjq17/Spectrum (basis_utils.py), where 50 steps are written into tau. Mended: the authors penalise the
 * constant as well (P = I), so that weights add up to 0.65-0.96 and amplitude is lost; here P leaves the
 * constant out unless `penalise` is set.
 */
#include <string.h>
#include "cache/dense.h"
#include "cache/differences.h"
#include "cache/forecast.h"

enum { DEGREE, RIDGE, BLEND, PENALISE, SLOTS, PARAMETERS };
enum { MAX_DEGREE = 8, TERMS = MAX_DEGREE + 1 };

static const struct parameter parameters[PARAMETERS] = {
    [DEGREE] = {"degree", "M", NULL, PARAMETER_WHOLE, 4, 1, MAX_DEGREE, "of the Chebyshev polynomials"},
    [RIDGE] = {"ridge", "lam", NULL, PARAMETER_REAL, 0.1, 1e-9, 100, "penalty on their coefficients"},
    [BLEND] = {"blend", "w", NULL, PARAMETER_REAL, 0.5, 0, 1,
               "share of the fit; the rest is a straight line through the last two"},
    [PENALISE] = {"penalise", NULL, NULL, PARAMETER_FLAG, 0, 0, 1,
                  "penalise the constant as well, as the authors: loses amplitude"},
    [SLOTS] = {"slots", "K", NULL, PARAMETER_WHOLE, CACHE_SLOTS, 2, CACHE_SLOTS, "computed steps kept"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[SLOTS];
}

static void chebyshev(int step, int steps, int terms, double *t)
{
    double tau = 2.0 * step / steps - 1;
    t[0] = 1;
    t[1] = tau;
    for (int k = 2; k < terms; k++) t[k] = 2 * tau * t[k - 1] - t[k - 2];
}

/* weights[j] of anchor j in the fit at now->step. False where the system cannot be solved. */
static bool fit(const struct forecast_now *now, double *weights)
{
    const struct history *h = now->history;
    int terms = (int)now->value[DEGREE] + 1;
    double x[CACHE_SLOTS][TERMS], normal[TERMS * TERMS] = {0}, phi[TERMS];
    for (int j = 0; j < h->count; j++) chebyshev(h->step[j], now->job->steps, terms, x[j]);
    chebyshev(now->step, now->job->steps, terms, phi);
    for (int a = 0; a < terms; a++) {
        for (int b = 0; b < terms; b++)
            for (int j = 0; j < h->count; j++) normal[a * terms + b] += x[j][a] * x[j][b];
        if (a > 0 || now->value[PENALISE] != 0) normal[a * terms + a] += now->value[RIDGE];
    }
    if (!dense_solve_positive(terms, normal, phi)) return false;
    for (int j = 0; j < h->count; j++) {
        weights[j] = 0;
        for (int a = 0; a < terms; a++) weights[j] += x[j][a] * phi[a];
    }
    return true;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    double line[CACHE_SLOTS], fitted[CACHE_SLOTS] = {0}, blend = now->value[BLEND];
    differences_extrapolate(now->history, 2, now->step, line);
    if (!fit(now, fitted)) blend = 0;
    for (int j = 0; j < CACHE_SLOTS; j++) weights[0][j] = blend * fitted[j] + (1 - blend) * line[j];
}

const struct forecast forecast_spectrum = {
    .name = "spectrum",
    .summary = "ridge fit of Chebyshev polynomials to all computed steps, half a straight line",
    .source = "Spectrum, arXiv 2603.01623; code hanjq17/Spectrum, constant term mended",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .slots = slots,
    .weights = weights,
};
