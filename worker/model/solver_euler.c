/*
 * solver_euler.c - flow-match Euler: x += (sigma[i+1] - sigma[i]) v. No memory of earlier steps.
 *
 * As FlowMatchEulerDiscreteScheduler of diffusers 0.42, peculiarities included: the end points of the
 * schedule are shifted (in float32, in the constructor there) and every point between them is shifted once
 * more.
 */
#include "worker/model/solver_kind.h"

#include <stdlib.h>

/* A shifted end point as the class's constructor leaves it: all float32. step: 1..train_steps. */
static double end_point(double shift, int step, int train_steps)
{
    float sigma = (float)step / (float)train_steps;
    return (float)shift * sigma / (1.0f + (float)(shift - 1) * sigma);
}

static status_t euler_schedule(const struct solver_config *config, const struct solver *base,
                               struct error *error)
{
    int steps = base->steps, train = config->train_steps;
    double *sigmas = calloc((size_t)steps, sizeof *sigmas);
    if (sigmas == NULL)
        return error_set(error, STATUS_NO_MEMORY, "a schedule of %d steps does not fit in memory", steps);

    double first = end_point(config->shift, train, train) * train,
           last = end_point(config->shift, 1, train) * train;
    for (int i = 0; i < steps; i++)
        sigmas[i] = solver_shifted(config->shift, solver_linspace(first, last, steps, i) / train);
    status_t status = solver_stretch(config->shift_terminal, sigmas, steps, error);
    if (status == STATUS_OK) {
        for (int i = 0; i < steps; i++) {
            base->sigmas[i] = (float)sigmas[i];
            base->timesteps[i] = base->sigmas[i] * (float)train;
        }
        base->sigmas[steps] = 0;
    }
    free(sigmas);
    return status;
}

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
    status_t status = euler_schedule(config, base, error);
    if (status != STATUS_OK) return status;
    struct solver *s = malloc(sizeof *s);
    if (s == NULL) return error_set(error, STATUS_NO_MEMORY, "a solver does not fit in memory");
    *s = *base;
    s->methods = &euler_methods;
    *solver = s;
    return STATUS_OK;
}
