/*
 * ring_rig.h - a ring of members in threads of their own, each home and stage as worker/rank.c has them, with
 * jobs homed at any of them, over a real fabric. Only the coordinator is missing.
 *
 *     struct ring_run ring = {.model = "models/reference", .split = {...}, .jobs = jobs, .count = 4};
 *     ring_execute(&ring);                 fails the test with a sentence when the rig itself goes wrong
 *     ... jobs[i].outcome, jobs[i].latents ...
 *     ring_free(&ring);
 */
#ifndef REFRAIN_TESTS_RING_RIG_H
#define REFRAIN_TESTS_RING_RIG_H

#include "kernels/ledger.h"
#include "worker/job.h"

enum { RING_MEMBERS = 8 };

struct ring_job {
    struct job_order order; /* save_latents is set here */
    int home;
    int cancel_at; /* steps after which it is cancelled; 0: it is not */
    /* Results */
    status_t outcome;
    struct error error;
    float *latents;
    int64_t latent_count;
    int computed, reused; /* branches of steps; 0 when caching was off */
};

struct ring_run {
    const char *model; /* directory below the repository's root */
    struct split split;
    int credits;            /* 0: ENGINE_CREDITS */
    const struct ops *ops;  /* NULL: guarded_or(NULL) */
    struct ledger *ledgers; /* [members], with ops of tests/counting.h; or NULL */
    size_t decode_memory;   /* as engine.decode_memory */
    struct ring_job *jobs;
    int count;
    uint64_t tickets[RING_MEMBERS]; /* sent by each member to others */
};

void ring_execute(struct ring_run *run);
void ring_free(struct ring_run *run);

#endif
