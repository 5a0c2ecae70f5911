/*
 * solver_kind.h - what the two solvers share; included by solver*.c only.
 *
 * A kind fills a `struct solver` that is the first member of its own struct. solver.c makes the two tables and
 * frees them; the kind allocates and frees what is its own.
 */
#ifndef REFRAIN_WORKER_MODEL_SOLVER_KIND_H
#define REFRAIN_WORKER_MODEL_SOLVER_KIND_H

#include "worker/model/solver.h"

enum { SOLVER_MEMORY = 4 }; /* tensors at most */

struct solver_methods {
    void (*destroy)(struct solver *solver); /* frees the struct, but not the tables in it */
    void (*step)(struct solver *solver, struct team *team, int step, const float *velocity, float *latent);
    /* The tensors [count] that `step` and the steps after it will read, in a fixed order; how many. */
    int (*memory)(const struct solver *solver, int step, float *tensors[SOLVER_MEMORY]);
};

struct solver {
    const struct solver_methods *methods;
    const struct ops *ops;
    int steps;
    int64_t count;    /* elements of the latent */
    float *timesteps; /* [steps], what the denoiser is told */
    float *sigmas;    /* [steps + 1], what the solver steps between */
};

/* One solver's constructor: `base` has everything but methods, tables included; config has been checked. `config->shift` is
 * the shift of this job. On failure nothing is kept and base still belongs to the caller. */
typedef status_t solver_construct_fn(const struct solver_config *config, const struct solver *base,
                                     struct solver **solver, struct error *error);
solver_construct_fn solver_unipc_construct, solver_euler_construct;

#endif
