/*
 * speed.h - how fast this rank computes, as the coordinator's plans for unequal ranks need it.
 *
 *     double gflops;
 *     speed_measure(ops, team, &gflops, &error);             takes about 50 ms, once, before Hello
 *
 * A matrix product of the rank's own backend with its own team, as that is what a denoiser's blocks are made
 * of. It is one number for a whole machine under whatever load it has: good to a tenth, which is all that
 * plan.h believes.
 */
#ifndef REFRAIN_WORKER_SPEED_H
#define REFRAIN_WORKER_SPEED_H

#include "kernels/ops.h"

/* *gflops > 0: 1e9 multiplications and additions a second, the best of several runs. STATUS_NO_MEMORY.
 * Compute thread; the team must be idle. */
status_t speed_measure(const struct ops *ops, struct team *team, double *gflops, struct error *error);

#endif
