/*
 * forecast_freqca.c - FreqCa: low frequencies over the token grid are reused, high ones forecast.
 *
 * From arXiv 2510.08669 and Tammytcl/FreqCa (cache_utils.py): low band of order 0, high band of order 2 by
 * Hermite polynomials with contraction 0.71. The authors store bands; as split and forecast are both linear,
 * the same comes out of a history of whole tensors, one set of weights per band and one split per reused step
 * (the engine's).
 */
#include "cache/differences.h"
#include "cache/forecast.h"
#include "cache/hermite.h"

enum { CUTOFF, ORDER, LOW_ORDER, CONTRACTION, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [CUTOFF] = {"cutoff", "cutoff_ratio", NULL, PARAMETER_REAL, 0.1, 0, 1,
                "low band: radius as a share of the highest frequency"},
    [ORDER] = {"order", "max_order", NULL, PARAMETER_WHOLE, 2, 1, DIFFERENCES_ORDER,
               "highest difference in the high band"},
    [LOW_ORDER] = {"low", "min_order", NULL, PARAMETER_WHOLE, 0, 0, DIFFERENCES_ORDER,
                   "highest difference in the low band; 0: reuse"},
    [CONTRACTION] = {"contraction", "scale_factor", NULL, PARAMETER_REAL, 0.71, 0.01, 1,
                     "of the Hermite polynomials"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)fmax(value[ORDER], value[LOW_ORDER]) + 1;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    double basis[DIFFERENCES_ORDER + 1];
    hermite_basis(now->step - now->history->step[0], now->value[CONTRACTION], basis);
    differences_expand(now->history, (int)now->value[LOW_ORDER], 0, basis, weights[0]);
    differences_expand(now->history, (int)now->value[ORDER], 0, basis, weights[1]);
}

const struct forecast forecast_freqca = {
    .name = "freqca",
    .summary = "low frequencies reused, high ones forecast by Hermite polynomials",
    .source = "FreqCa, arXiv 2510.08669; code Tammytcl/FreqCa",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .bands = 2,
    .slots = slots,
    .weights = weights,
};
