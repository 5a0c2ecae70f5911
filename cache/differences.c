/*
 * differences.c - the two ways to extrapolate over computed steps; see differences.h.
 */
#include "cache/differences.h"

#include <string.h>

/* A difference of order k at anchor j, as weights over the anchors: it reaches from j to j + k. */
typedef double ladder[CACHE_SLOTS][CACHE_SLOTS];

/* One rung up: d[j] becomes the divided difference of d[j] and d[j + 1]. */
static void climb(ladder d, const struct history *history, int anchors)
{
    for (int j = 0; j + 1 < anchors; j++) {
        double gap = history->step[j] - history->step[j + 1];
        for (int i = 0; i < CACHE_SLOTS; i++) d[j][i] = (d[j][i] - d[j + 1][i]) / gap;
    }
}

void differences_expand(const struct history *history, int order, int from, const double *basis,
                        double *weights)
{
    ladder d;
    memset(d, 0, sizeof d);
    for (int j = 0; j < history->count; j++) d[j][j] = 1;
    for (int i = 0; i < CACHE_SLOTS; i++) weights[i] = basis[0] * d[0][i];

    double factorial = 1;
    for (int k = 1; k <= order && k < history->count; k++) {
        /* D_k of the newest anchor rests on a D_1 formed at anchor k - 1. */
        if (history->step[k - 1] < from) break;
        climb(d, history, history->count - k + 1);
        factorial *= k;
        for (int i = 0; i < CACHE_SLOTS; i++) weights[i] += basis[k] / factorial * d[0][i];
    }
}

void differences_extrapolate(const struct history *history, int points, int step, double *weights)
{
    if (points > history->count) points = history->count;
    memset(weights, 0, CACHE_SLOTS * sizeof *weights);
    for (int j = 0; j < points; j++) {
        weights[j] = 1;
        for (int i = 0; i < points; i++)
            if (i != j)
                weights[j] *= (double)(step - history->step[i]) / (history->step[j] - history->step[i]);
    }
}
