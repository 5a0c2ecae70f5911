/*
 * pipeline.h - runs a whole job in this process for tests: one member, or a ring of members in threads of
 * their own, connected by a real fabric.
 *
 *     struct pipeline_run run = {.model = "models/reference", .order = {...}, .members = 2, .head = 4,
 *                                .threads = 1};
 *     pipeline_execute(&run);                     fails the test with a sentence when something goes wrong
 *     ... run.latents, run.frames ...
 *     pipeline_free(&run);
 */
#ifndef REFRAIN_TESTS_PIPELINE_H
#define REFRAIN_TESTS_PIPELINE_H

#include "kernels/ledger.h"
#include "worker/job.h"

enum { PIPELINE_JOBS = 16 };

struct pipeline_run {
    const char *model;           /* directory below the repository's root */
    const struct ops *ops;       /* NULL: guarded_or(NULL) */
    struct ledger *ledgers;      /* [members], with ops of tests/counting.h; or NULL */
    struct job_order order;      /* save_latents and save_frames are set here */
    struct split split;          /* members 0: one member with all blocks */
    int threads;                 /* of each member; 0: 1 */
    size_t decode_memory;        /* as engine.decode_memory */
    struct tier *tier;           /* of home, the caller's; NULL: off */
    int cancel_at;               /* steps after which the job is cancelled; 0: it is not */
    int begins_at;               /* steps of the first job of the list after which this one comes */
    struct pipeline_run *beside; /* a further job on the same ranks, its pieces between those of this one; its
                    model, split and threads are not read. At most PIPELINE_JOBS in the list */
    /* Results */
    int place;      /* 1: the job that ended first */
    double seconds; /* of the first of the list: from the first piece of any job to the last */
    float *latents, *frames;
    int64_t latent_count, frame_count;
    status_t outcome;
    struct error error;
    struct error broken; /* why a stage gave up; STATUS_OK: none did */
    /* Of caching, [steps * branches]; NULL when it was off. */
    unsigned char *actions, *reasons;
    float *changes;
    struct job_cache cache; /* its report's pointers are gone */
    uint64_t tickets[8];    /* sent by each member */
    struct stretches_counts stretches[8];
};

void pipeline_execute(struct pipeline_run *run);
void pipeline_free(struct pipeline_run *run);

#endif
