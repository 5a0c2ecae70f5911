/*
 * forecast_reuse.c - what was computed last stands in unchanged: the forecast of every method that has none.
 */
#include <string.h>
#include "cache/forecast.h"

static int slots(const double *value, const struct policy_job *job)
{
    return 1;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    memset(weights[0], 0, sizeof weights[0]);
    weights[0][0] = 1;
}

const struct forecast forecast_reuse = {
    .name = "reuse",
    .summary = "what was computed last, unchanged",
    .source = "FORA, FBCache, TeaCache and every method without a forecast",
    .slots = slots,
    .weights = weights,
};
