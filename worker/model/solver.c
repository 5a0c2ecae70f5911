/*
 * solver.c - the part of a solver that does not depend on its kind: limits, the two tables, the dispatch.
 *
 * One solver belongs to one job and is used by the thread that advances the job; nothing is locked.
 */
#include "worker/model/solver_kind.h"

#include <math.h>
#include <stdlib.h>
#include "base/status.h"
#include "cache/schedule.h"

enum { SOLVER_MAX_STEPS = SCHEDULE_STEPS };

/* What the class has where its configuration file says nothing. */
static struct solver_config class_defaults(enum solver_kind kind, int train_steps)
{
    return (struct solver_config){
        .kind = kind, .shift = 1.0, .train_steps = train_steps, .order = 2, .lower_order_final = true};
}

/* The configuration was checked when it was read, the job when it was submitted; a solver still trusts
 * neither, because a weight that is not a number would be seen only as a ruined video. */
static status_t check(const struct solver_config *config, int steps, double shift, int64_t count,
                      struct error *error)
{
    if (steps < 1 || steps > SOLVER_MAX_STEPS)
        return error_set(error, STATUS_INVALID, "steps %d: must be 1 to %d", steps, SOLVER_MAX_STEPS);
    if (!isfinite(shift) || shift <= 0)
        return error_set(error, STATUS_INVALID, "shift %g: must be a finite number above 0", shift);
    if (count < 1 || count > INT64_C(1) << 40)
        return error_set(error, STATUS_INVALID, "latent of %lld elements: must be 1 to 2^40",
                         (long long)count);
    if (config->train_steps < 1)
        return error_set(error, STATUS_INVALID, "num_train_timesteps %d: must be at least 1",
                         config->train_steps);
    if (config->order < 1 || config->order > 3)
        return error_set(error, STATUS_INVALID, "solver_order %d: must be 1, 2 or 3", config->order);
    if (!(config->shift_terminal >= 0 && config->shift_terminal < 1))
        return error_set(error, STATUS_INVALID, "shift_terminal %g: must be at least 0 and below 1",
                         config->shift_terminal);
    return STATUS_OK;
}

status_t solver_create(const struct solver_config *config, enum solver_kind kind, int steps, double shift,
                       int64_t count, const struct ops *ops, struct solver **solver, struct error *error)
{
    struct solver_config own = kind == config->kind ? *config : class_defaults(kind, config->train_steps);
    own.shift = shift;
    status_t status = check(&own, steps, shift, count, error);
    if (status != STATUS_OK) return status;

    struct solver base = {.ops = ops, .steps = steps, .count = count};
    base.timesteps = calloc((size_t)steps, sizeof(float));
    base.sigmas = calloc((size_t)steps + 1, sizeof(float));
    if (base.timesteps == NULL || base.sigmas == NULL) {
        status = error_set(error, STATUS_NO_MEMORY, "solver tables for %d steps do not fit in memory", steps);
        goto free_tables;
    }
    const struct schedule schedule = {.kind = kind == SOLVER_EULER ? SCHEDULE_EULER : SCHEDULE_UNIPC,
                                      .shift = own.shift,
                                      .terminal = own.shift_terminal,
                                      .train_steps = own.train_steps,
                                      .final_sigma_min = own.final_sigma_min};
    status = schedule_make(&schedule, steps, base.timesteps, base.sigmas, error);
    if (status != STATUS_OK) goto free_tables;
    solver_construct_fn *construct = kind == SOLVER_EULER ? solver_euler_construct : solver_unipc_construct;
    status = construct(&own, &base, solver, error);
    if (status != STATUS_OK) goto free_tables;
    return STATUS_OK;

free_tables:
    free(base.timesteps);
    free(base.sigmas);
    return status;
}

void solver_destroy(struct solver *solver)
{
    if (solver == NULL) return;
    free(solver->timesteps);
    free(solver->sigmas);
    solver->methods->destroy(solver);
}

float solver_timestep(const struct solver *solver, int step)
{
    return solver->timesteps[step];
}

float solver_sigma(const struct solver *solver, int step)
{
    return solver->sigmas[step];
}

void solver_step(struct solver *solver, struct team *team, int step, const float *velocity, float *latent)
{
    solver->methods->step(solver, team, step, velocity, latent);
}

/* -------------------------------------------------------------------------------------------- checkpoints */

size_t solver_save_bytes(const struct solver *solver, int step)
{
    float *tensors[SOLVER_MEMORY];
    return (size_t)solver->methods->memory(solver, step, tensors) * (size_t)solver->count * sizeof(float);
}

void solver_save(const struct solver *solver, struct team *team, int step, void *bytes)
{
    float *tensors[SOLVER_MEMORY];
    size_t row = (size_t)solver->count * sizeof(float);
    int count = solver->methods->memory(solver, step, tensors);
    for (int i = 0; i < count; i++)
        solver->ops->copy(team, (unsigned char *)bytes + row * (size_t)i, tensors[i], row);
}

void solver_restore(struct solver *solver, struct team *team, int step, const void *bytes)
{
    float *tensors[SOLVER_MEMORY];
    size_t row = (size_t)solver->count * sizeof(float);
    int count = solver->methods->memory(solver, step, tensors);
    for (int i = 0; i < count; i++)
        solver->ops->copy(team, tensors[i], (const unsigned char *)bytes + row * (size_t)i, row);
}
