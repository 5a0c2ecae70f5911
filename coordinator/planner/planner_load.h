/*
 * planner_load.h - until the last of so many equal jobs is done, of which so many are in flight.
 *
 *     struct planner_play play = {.plan = &plan, .block = 0.8, .hop = 0.1, .tokens = 32760, .latents = 21, .steps = {26, 14}, .branches = 2};
 *     planner_load_seconds(&play, 6, 5, 4, &seconds);
 *
 * A queue that never ends is served at the pace of the busiest rank. A few jobs are not: a home takes its oldest jobs first where
 * its own blocks are what all wait for, a stage takes them as they come, jobs that need the second of two pools come to it
 * together, and the last ones leave ranks without work. No formula says that of every layout, so the ranks are played forward
 * by their own rules (coordinator/foresight/crew.h), as when it is foretold when jobs will be done.
 * Pure but for the memory that playing takes and gives back.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_PLANNER_LOAD_H
#define REFRAIN_COORDINATOR_PLANNER_PLANNER_LOAD_H

#include "coordinator/foresight/crew.h"

/* Seconds, on ranks that have nothing else to do. */
struct planner_play {
    const struct plan *plan;
    double block;                   /* of one branch, on a stage, with what its ranks exchange */
    double hop;                     /* of a message between ranks */
    const struct crew_links *links; /* of wide stages, or NULL */
    double ends;                    /* of home for a branch-step, beside blocks */
    double beside;                  /* of home for a job, beside steps */
    uint32_t tokens, latents;       /* of a video; of its latent frames */
    uint32_t steps[PLAN_EXPERTS], branches;
    uint32_t head, tail; /* blocks of a hit */
    double hit_rate;
};

/* jobs, in_flight >= 1; period: so many jobs more take as much longer whichever they are, jobs that fill the ranks. Many are not all
 * played, nor is every step of a long play. False: more in flight than are played (CREW_JOBS), more steps than jobs have, no memory. */
bool planner_load_seconds(const struct planner_play *play, uint32_t jobs, uint32_t in_flight, uint32_t period,
                          double *seconds);

#endif
