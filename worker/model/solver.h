/*
 * solver.h - from a velocity to the next latent: UniPC and flow-match Euler, numbers as in diffusers.
 *
 *     struct solver *s;
 *     solver_create(&config, SOLVER_UNIPC, 30, 3.0, count, ops, &s, &error);   allocates all it will need
 *     for (int i = 0; i < 30; i++) {
 *         float t = solver_timestep(s, i);             what the denoiser is conditioned on
 *         ... v = denoiser(x, t) ...
 *         solver_step(s, team, i, v, x);               x becomes the latent of step i + 1
 *     }
 *
 * A solver is an interface because there are two of them; both are weighted sums of tensors they remember
 * (ops->lincomb), with weights made in the constructor. Steps are taken in order, each once.
 */
#ifndef REFRAIN_WORKER_MODEL_SOLVER_H
#define REFRAIN_WORKER_MODEL_SOLVER_H

#include "kernels/ops.h"
#include "worker/model/config.h"

struct solver;

/* steps 1..1000; shift > 0; count: elements of the latent. `kind` may differ from config->kind: then the
 * class defaults of that kind are used, with `shift`. */
status_t solver_create(const struct solver_config *config, enum solver_kind kind, int steps, double shift,
                       int64_t count, const struct ops *ops, struct solver **solver, struct error *error);
void solver_destroy(struct solver *solver); /* after wait; NULL is fine */

float solver_timestep(const struct solver *solver,
                      int step); /* 0..1000; UniPC: truncated to an integer, as the reference */
float solver_sigma(const struct solver *solver, int step); /* 0..steps; sigma[steps] = 0 */

/* velocity, latent: [count], memory of the backend; latent is changed in place. */
void solver_step(struct solver *solver, struct team *team, int step, const float *velocity, float *latent);

/* What it remembers just before `step`, as bytes, for a solver made with the same arguments. `bytes` are the
 * host's and need not be aligned; they are written, or done with, at the next wait. */
size_t solver_save_bytes(const struct solver *solver, int step);
void solver_save(const struct solver *solver, struct team *team, int step, void *bytes);
void solver_restore(struct solver *solver, struct team *team, int step, const void *bytes);

#endif
