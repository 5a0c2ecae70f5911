/*
 * counts.h - what jobs did since the coordinator's start, added up over all tenants: for metrics.
 *
 *     counts_open(&server->counts);
 *     counts_progress(&counts, job, &report);        before the job takes the report over
 *     counts_completed(&counts, spec, times, report);
 *     counts_foretold(&counts, told, took);
 *
 * A plain value of fixed size, so that a turn whose commit failed is undone by copying the one before it back. What comes
 * from ranks is checked: nothing that is not finite, or below 0, is added. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_COUNTS_H
#define REFRAIN_COORDINATOR_COUNTS_H

#include "coordinator/exposition.h"
#include "coordinator/jobs.h"

struct policy;

enum { COUNTED_POLICIES = 32, COUNTED_ACTIONS = 3 /* computed, reused, forecast */ };
enum counted_phase { COUNTED_TEXT, COUNTED_DENOISE, COUNTED_DECODE, COUNTED_ENCODE, COUNTED_PHASES };

/* Branch-steps of completed jobs with one policy. */
struct counted_policy {
    const struct policy *policy; /* NULL: without caching, or a free place */
    uint64_t jobs, branch_steps[COUNTED_ACTIONS];
    double seconds_saved; /* as the jobs estimated */
};

struct counts {
    struct histogram step;          /* seconds of a step, as ranks told of it */
    struct histogram queued, total; /* of completed jobs: until they first began, and from then on */
    struct histogram
        finish_error; /* of finish times told at half of the steps, as a share of what was left */
    double phase_seconds[COUNTED_PHASES]; /* of completed jobs */
    uint64_t steps;                       /* made, as ranks told of them: also such as were lost again */
    uint64_t frames, steps_taken_over, texts_reused, first_steps_reused;
    double reused_seconds;
    struct counted_policy policies[COUNTED_POLICIES]; /* place 0: without */
};

void counts_open(struct counts *counts);
void counts_progress(struct counts *counts, const struct job *job, const Refrain__Progress *report);
/* spec: complete; times and report may be NULL. */
void counts_completed(struct counts *counts, const Refrain__JobSpec *spec, const Refrain__JobTimes *times,
                      const Refrain__CacheReport *report);
/* Milliseconds that were expected to be left at half of a job's steps, and that were. */
void counts_foretold(struct counts *counts, double told, double took);

#endif
