/*
 * footprint_rig.h - a whole job on a real backend and on paper: takes both, fails the test where they differ.
 */
#ifndef REFRAIN_TESTS_FOOTPRINT_RIG_H
#define REFRAIN_TESTS_FOOTPRINT_RIG_H

#include "tests/pipeline.h"
#include "worker/footprint.h"

struct footprint_case {
    const char *model;
    struct split split;
    int width, height, frames, steps;
    double guidance;
    const char *prompt, *cache;
    size_t decode_memory;
};

struct job_order footprint_order(const struct footprint_case *c);
/* weights: the backend lays weights out as the paper does, so they are compared too. Returns what the decoder took. */
size_t footprint_expect_equal(const struct footprint_case *c, const struct ops *backend, bool weights);

#endif
