/*
 * forecast_foca.c - FoCa, forecast then calibrate: Heun's average of the slope between the last two computed
 * steps and the slope between the last two values known, forecasts counting as known.
 *
 *     F(c + d) = F_0 + d/2 ((F_0 - F_1) / gap + (K_0 - K_1) / gap of K)        d at most `horizon`, then
 *                                                                                damped by horizon / d
 * F_0, F_1: last computed steps; K_0, K_1: the last two steps' values, computed or forecast.
 *
 * Read from cache-dit's port (foca.py) of arXiv 2508.16211. Mended: the port does not divide differences by
 * their gap in steps, so that its slope is `gap` times too steep and its damping beyond three steps hides it;
 * `spacing` 0 gives the port's behaviour back. As forecasts depend on forecasts, all values are kept as
 * weights over the computed steps still in the ring; what falls on a step that has left it goes to the oldest
 * one left, so that the weights always add up to one.
 */
#include <string.h>
#include "cache/forecast.h"

enum { SPACING, HORIZON, SLOTS, PARAMETERS };

static const struct parameter parameters[PARAMETERS] = {
    [SPACING] = {"spacing", NULL, NULL, PARAMETER_FLAG, 1, 0, 1,
                 "divide differences by their distance in steps; 0: as cache-dit"},
    [HORIZON] = {"horizon", "max_horizon", NULL, PARAMETER_REAL, 3, 1, CACHE_STEPS,
                 "steps after which the forecast is damped back to the last computed one"},
    [SLOTS] = {"slots", NULL, NULL, PARAMETER_WHOLE, 4, 2, CACHE_SLOTS, "computed steps kept"},
};

/* A known value as weights over the computed steps of `foca`. */
struct known {
    int step;
    double weights[CACHE_SLOTS];
};

struct foca {
    int anchors, known; /* known: how many of the two below there are */
    int step[CACHE_SLOTS];
    struct known last, before;
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[SLOTS];
}

/* Expresses one value over the ring as it is now. The ring only ever gains newer steps and loses older ones.
 */
static void known_move(struct known *known, const struct foca *foca, const struct history *history)
{
    double moved[CACHE_SLOTS] = {0};
    for (int i = 0; i < foca->anchors; i++) {
        int j = 0;
        while (j < history->count - 1 && history->step[j] != foca->step[i]) j++;
        moved[j] += known->weights[i];
    }
    memcpy(known->weights, moved, sizeof moved);
}

static void align(struct foca *foca, const struct history *history)
{
    known_move(&foca->last, foca, history);
    known_move(&foca->before, foca, history);
    foca->anchors = history->count;
    memcpy(foca->step, history->step, sizeof foca->step);
}

static void know(struct foca *foca, int step, const double *weights)
{
    foca->before = foca->last;
    foca->last.step = step;
    memcpy(foca->last.weights, weights, sizeof foca->last.weights);
    if (foca->known < 2) foca->known++;
}

static void observe(const struct forecast_now *now, void *state)
{
    struct foca *foca = state;
    double computed[CACHE_SLOTS] = {1};
    align(foca, now->history);
    know(foca, now->step, computed);
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    struct foca *foca = state;
    const struct history *h = now->history;
    double *w = weights[0];
    memset(w, 0, sizeof weights[0]);
    w[0] = 1;
    if (h->count < 2 || foca->known < 2) return;

    bool spacing = now->value[SPACING] != 0;
    double d = now->step - h->step[0], horizon = now->value[HORIZON];
    double reach = d <= horizon ? d : horizon * (horizon / d);
    double gap = spacing ? h->step[0] - h->step[1] : 1;
    double near = spacing ? foca->last.step - foca->before.step : 1;
    w[0] += reach / 2 / gap;
    w[1] -= reach / 2 / gap;
    for (int j = 0; j < h->count; j++)
        w[j] += reach / 2 / near * (foca->last.weights[j] - foca->before.weights[j]);
    know(foca, now->step, w);
}

static bool sound(const void *state)
{
    const struct foca *foca = state;
    return foca->anchors >= 0 && foca->anchors <= CACHE_SLOTS && foca->known >= 0 && foca->known <= 2;
}

const struct forecast forecast_foca = {
    .name = "foca",
    .summary = "Heun's average of the computed and the latest slope, damped beyond three steps",
    .source = "FoCa, arXiv 2508.16211; port in cache-dit, mended",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct foca),
    .slots = slots,
    .weights = weights,
    .observe = observe,
    .sound = sound,
};
