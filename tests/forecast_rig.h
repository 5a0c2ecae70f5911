/*
 * forecast_rig.h - a forecast with a ring of small tensors, driven as the engine drives it.
 *
 *     struct rig rig;
 *     rig_open(&rig, "taylor:order=2");
 *     rig_compute(&rig, 0, x); rig_compute(&rig, 4, y);
 *     rig_weights(&rig, 6);
 *     assert_near(rig_said(&rig, 0, 3), want, 1e-12);                  set 0, dimension 3
 *
 * Everything fails the running cmocka test rather than return. Include after cmocka.h.
 */
#ifndef REFRAIN_TESTS_FORECAST_RIG_H
#define REFRAIN_TESTS_FORECAST_RIG_H

#include "cache/forecast.h"

/* cmocka's own for floating point is newer than Debian 12. */
#define assert_near(is, want, limit)                                                                         \
    do {                                                                                                     \
        double is_ = (is), want_ = (want);                                                                   \
        if (!(fabs(is_ - want_) <= (limit))) fail_msg("%s: %.12g, not %.12g", #is, is_, want_);              \
    } while (0)

enum { WIDTH = 8 };

/* A forecast with its ring, driven as the engine drives it. */
struct rig {
    const struct forecast *forecast;
    double value[POLICY_PARAMETERS];
    struct policy_job job;
    struct history history;
    double ring[CACHE_SLOTS][WIDTH];
    double weights[FORECAST_SETS][CACHE_SLOTS];
    _Alignas(16) unsigned char state[1024];
};

const struct forecast *rig_find(const char *name, size_t length);

/* text: "taylor:order=2,from=3"; what is not named has its default. The job has 50 steps. */
void rig_open(struct rig *rig, const char *text);
/* The same with computed steps, oldest first, every value of which is f(step). */
void rig_series(struct rig *rig, const char *text, const int *steps, int count, double (*f)(double));

/* A computed step: pushed into the ring, then observed. x: [WIDTH]. */
void rig_compute(struct rig *rig, int step, const double *x);
/* A reused step: fills rig->weights. */
void rig_weights(struct rig *rig, int step);

/* The forecast itself: a set of weights applied to one dimension. */
double rig_said(const struct rig *rig, int set, int dimension);
/* Sets of weights the forecast has: bands, groups or 1. */
int rig_sets(const struct rig *rig);

#endif
