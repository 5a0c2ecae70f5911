/*
 * differences.h - extrapolation over unevenly spaced computed steps, as weights.
 *
 *     double basis[] = {1, d, d * d};                        Taylor: d^k, d steps after the last computed one
 *     differences_expand(history, 2, 0, basis, weights);     F_0 + d D_1 + d^2 / 2! D_2, as sum_j w_j F_j
 *
 * Two families share it: TaylorSeer's ladder of differences (Taylor, Hermite, FreqCa) and the polynomial
 * through the last points (Newton, Adams-Bashforth, the straight lines of Spectrum and WorldCache). Pure
 * functions.
 */
#ifndef REFRAIN_CACHE_DIFFERENCES_H
#define REFRAIN_CACHE_DIFFERENCES_H

#include "cache/policy.h"

enum { DIFFERENCES_ORDER = 4 };

/* weights[j] of anchor j in sum_k basis[k] / k! * D_k, where D_0 = F and D_{k+1} is the change of D_k since
 * the computed step before, divided by the gap in steps; each D_k was formed when its own step was computed,
 * with the gap of then (TaylorSeer, arXiv 2503.06923, and its ports). No differences are formed at steps
 * before `from`; the order falls to what the history allows, down to basis[0] * F_0. basis: [order + 1],
 * order at most DIFFERENCES_ORDER. weights: [CACHE_SLOTS], all written. */
void differences_expand(const struct history *history, int order, int from, const double *basis,
                        double *weights);

/* weights of the polynomial through the last `points` computed steps (fewer if there are fewer), evaluated at
 * `step`: exact for polynomials of degree points - 1, whatever the spacing. weights: [CACHE_SLOTS], all
 * written. */
void differences_extrapolate(const struct history *history, int points, int step, double *weights);

#endif
