/*
 * forecast_worldcache.c - WorldCache (b): tokens whose residual bends little are reused, those in between go
 * on straight, fast ones go on with a slope that turns back towards the one before.
 *
 *     fast: F_0 + d ((1 - alpha) v_0 + alpha v_1)      alpha = 3 x^2 - 2 x^3, x = min(d / reach, 1)
 * v_0, v_1: slopes between the last two computed steps, and the two before.
 *
 * Rule and grouping of FofGofx/WorldCache (worldcache_utils.py): curvature |a| / (|v|^2 + eps) of a token
 * over the last three computed steps, groups cut at two quantiles. Until there are three computed steps the
 * authors cannot forecast; here all tokens go on straight, and with one are reused.
 */
#include <string.h>
#include "cache/differences.h"
#include "cache/forecast.h"

enum { STILL, FAST, REACH, FRAMES, PARAMETERS };
enum { GROUP_STILL, GROUP_BETWEEN, GROUP_FAST, GROUPS };

static const struct parameter parameters[PARAMETERS] = {
    [STILL] = {"still", "percentile_stable", NULL, PARAMETER_REAL, 0.25, 0, 1,
               "share of tokens, by curvature, that are reused"},
    [FAST] = {"fast", "percentile_chaotic", NULL, PARAMETER_REAL, 0.7, 0, 1,
              "share of tokens below those with a damped slope"},
    [REACH] = {"reach", "n_max", NULL, PARAMETER_WHOLE, 2, 1, CACHE_STEPS,
               "steps after which the damped slope is the older one"},
    [FRAMES] = {"frames", NULL, NULL, PARAMETER_FLAG, 0, 0, 1, "group whole latent frames instead of tokens"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return 3;
}

static status_t plan(const double *value, const struct policy_job *job, struct error *error)
{
    if (value[STILL] <= value[FAST]) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "worldcache: still %g is above fast %g: must not be",
                     value[STILL], value[FAST]);
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    const struct history *h = now->history;
    for (int group = 0; group < GROUPS; group++) differences_extrapolate(h, 2, now->step, weights[group]);
    if (h->count < 3) return;

    memset(weights[GROUP_STILL], 0, sizeof weights[GROUP_STILL]);
    weights[GROUP_STILL][0] = 1;
    double d = now->step - h->step[0], x = fmin(d / now->value[REACH], 1);
    double alpha = (3 - 2 * x) * x * x;
    double newer = d * (1 - alpha) / (h->step[0] - h->step[1]), older = d * alpha / (h->step[1] - h->step[2]);
    double *fast = weights[GROUP_FAST];
    fast[0] = 1 + newer;
    fast[1] = older - newer;
    fast[2] = -older;
}

/* ------------------------------------------------------------------------------------------------- groups */

/* What is sorted: tokens, or frames by their mean. */
struct items {
    const double *curvature; /* [tokens] */
    int64_t tokens, size;    /* tokens per item; the last may be shorter */
};

static int64_t items_count(const struct items *items)
{
    return (items->tokens + items->size - 1) / items->size;
}

static double items_value(const struct items *items, int64_t item)
{
    int64_t first = item * items->size, end = first + items->size;
    if (end > items->tokens) end = items->tokens;
    double sum = 0;
    for (int64_t t = first; t < end; t++) sum += items->curvature[t];
    sum /= (double)(end - first);
    return isfinite(sum) ? fabs(sum) : INFINITY;
}

/* The bits of a number that is not negative are ordered as the number is. */
static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The item of rank `rank` (0: the smallest), a byte of its bits at a time: no memory, no sorting. */
static double items_ranked(const struct items *items, int64_t rank)
{
    uint64_t known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        int64_t with[256] = {0};
        uint64_t above = shift == 56 ? 0 : ~UINT64_C(0) << (shift + 8);
        for (int64_t i = 0; i < items_count(items); i++) {
            uint64_t bits = bits_of(items_value(items, i));
            if ((bits & above) == known) with[bits >> shift & 255]++;
        }
        uint64_t byte = 0;
        while (rank >= with[byte]) rank -= with[byte++];
        known |= byte << shift;
    }
    double value;
    memcpy(&value, &known, sizeof value);
    return value;
}

/* Linear between ranks, as torch.quantile. */
static double items_quantile(const struct items *items, double share)
{
    double at = share * (double)(items_count(items) - 1), below = floor(at);
    double low = items_ranked(items, (int64_t)below);
    if (at == below) return low;
    double high = items_ranked(items, (int64_t)below + 1);
    return isfinite(high) ? low + (high - low) * (at - below) : high;
}

void worldcache_groups(const double *value, const double *curvature, int64_t tokens, int64_t tokens_per_frame,
                       unsigned char *group)
{
    struct items items = {curvature, tokens, value[FRAMES] != 0 ? tokens_per_frame : 1};
    double still = items_quantile(&items, value[STILL]), fast = items_quantile(&items, value[FAST]);
    for (int64_t i = 0; i < items_count(&items); i++) {
        double here = items_value(&items, i);
        unsigned char which = here < still ? GROUP_STILL : here >= fast ? GROUP_FAST : GROUP_BETWEEN;
        for (int64_t t = i * items.size; t < (i + 1) * items.size && t < tokens; t++) group[t] = which;
    }
}

const struct forecast forecast_worldcache = {
    .name = "worldcache",
    .summary = "by token: still ones reused, others straight on, fast ones damped",
    .source = "WorldCache (b); code FofGofx/WorldCache",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .groups = GROUPS,
    .slots = slots,
    .plan = plan,
    .weights = weights,
};
