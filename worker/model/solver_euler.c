/*
 * solver_euler.c - flow-match Euler: x += (sigma[i+1] - sigma[i]) v. No memory of earlier steps.
 *
 * As FlowMatchEulerDiscreteScheduler of diffusers 0.42.
 */
#include "worker/model/solver_kind.h"

#include <stdlib.h>

static void euler_destroy(struct solver *solver)
{
    free(solver);
}

static void euler_step(struct solver *s, struct team *team, int step, const float *velocity, float *latent)
{
    const float weights[] = {1.0f, s->sigmas[step + 1] - s->sigmas[step]};
    s->ops->lincomb(team, 2, weights, (const float *[]){latent, velocity}, s->count, latent);
}

static int euler_memory(const struct solver *solver, int step, float *tensors[SOLVER_MEMORY])
{
    return 0;
}

static const struct solver_methods euler_methods = {
    .destroy = euler_destroy, .step = euler_step, .memory = euler_memory};

status_t solver_euler_construct(const struct solver_config *config, const struct solver *base,
                                struct solver **solver, struct error *error)
{
    struct solver *s = malloc(sizeof *s);
    if (s == NULL) return error_set(error, STATUS_NO_MEMORY, "a solver does not fit in memory");
    *s = *base;
    s->methods = &euler_methods;
    *solver = s;
    return STATUS_OK;
}
