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
#ifndef REFRAIN_COORDINATOR_METRICS_COUNTS_H
#define REFRAIN_COORDINATOR_METRICS_COUNTS_H

#include "coordinator/metrics/exposition.h"
#include "coordinator/jobs/jobs.h"
#include "proto/validate.h"

struct policy;

enum { COUNTED_POLICIES = 32, COUNTED_ACTIONS = 3 /* computed, reused, forecast */ };
enum { COUNTED_MODELS = 16 /* told apart by name */ };
enum counted_phase { COUNTED_TEXT, COUNTED_DENOISE, COUNTED_DECODE, COUNTED_ENCODE, COUNTED_PHASES };

/* Branch-steps of completed jobs with one policy. */
struct counted_policy {
    const struct policy *policy; /* NULL: without caching, or a free place */
    uint64_t jobs, branch_steps[COUNTED_ACTIONS];
    double seconds_saved; /* as the jobs estimated */
};

/* Of the jobs of one model. */
struct counted_model {
    char name[LIMIT_NAME_BYTES + 1];      /* "": a free place */
    struct histogram step;                /* seconds of a step, as ranks told of it */
    struct histogram queued, total;       /* of completed jobs: until they first began, and from then on */
    double phase_seconds[COUNTED_PHASES]; /* of completed jobs */
    uint64_t steps;                       /* made, as ranks told of them: also such as were lost again */
    uint64_t frames;                      /* of completed jobs */
};

struct counts {
    struct counted_model
        models[COUNTED_MODELS + 1]; /* in no order; the last place: "(others)", which is no model's name */
    struct histogram
        finish_error; /* of finish times told at half of the steps, as a share of what was left */
    uint64_t steps_taken_over, steps_reused, texts_reused, first_steps_reused; /* of completed jobs */
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
