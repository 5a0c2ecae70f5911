/*
 * schedule.h - the noise schedules of the two solvers: what each step's timestep and sigma are, before a tensor is
 * there.
 *
 *     struct schedule schedule = {.kind = SCHEDULE_UNIPC, .shift = 3, .train_steps = 1000};
 *     float timesteps[30], sigmas[31];
 *     schedule_make(&schedule, 30, timesteps, sigmas, &error);
 *     int first = schedule_switch(&schedule, 0.875, 30);        steps that the first of two experts makes
 *
 * Those of diffusers 0.42 (schedulers/scheduling_unipc_multistep.py, scheduling_flow_match_euler_discrete.py): made in
 * float64 as numpy does, then rounded to float32, so that timesteps agree to the last bit. Values only: workers make
 * their solvers from it (worker/model/solver.h), the coordinator foresees what a job will do. Any thread.
 */
#ifndef REFRAIN_CACHE_SCHEDULE_H
#define REFRAIN_CACHE_SCHEDULE_H

#include <stdbool.h>
#include "base/status.h"

enum { SCHEDULE_STEPS = 1000 };
enum schedule_kind { SCHEDULE_UNIPC, SCHEDULE_EULER };

struct schedule {
    enum schedule_kind kind;
    double shift;         /* above 0 */
    double terminal;      /* the schedule is stretched to end at this sigma; 0: it is not */
    int train_steps;      /* num_train_timesteps */
    bool final_sigma_min; /* UniPC: the last sigma is repeated, in place of 0 */
};

/* steps: 1..SCHEDULE_STEPS. timesteps: [steps], what the denoiser is told; sigmas: [steps + 1], what the solver steps
 * between. STATUS_INVALID with a sentence where the numbers give no schedule that falls. */
status_t schedule_make(const struct schedule *schedule, int steps, float *timesteps, float *sigmas,
                       struct error *error);

/* Does the second of two experts make the step at that timestep? boundary: the part of train_steps down to which the
 * first one works (pipeline_wan.py: t >= boundary_ratio * num_train_timesteps, compared in float32). */
bool schedule_beyond(double boundary, int train_steps, float timestep);

/* How many steps the first one makes; `steps` where there is no schedule. */
int schedule_switch(const struct schedule *schedule, double boundary, int steps);

#endif
