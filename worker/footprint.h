/*
 * footprint.h - how much memory every rank takes for a video, before there is a GPU: the worker's own code, run on paper
 * (kernels/paper.h).
 *
 *     struct footprint_task task = {.order = &order, .jobs = 1, .decode_memory = bytes};
 *     footprint_measure("models/wan-14b", &split, &task, ranks, &error);     ranks: [split.members]
 *     ... ranks[0].most_device ...
 *
 * All ranks of a ring are laid out in this process, with a carrier of tickets in place of the fabric: models are loaded,
 * jobs created, their text encoded, all steps made and their decoders opened, and what was allocated is counted rank by
 * rank. So the numbers are those that the ranks will allocate, to the byte, for one job on ranks that were just started.
 * Of several jobs it is the most they can come to: one decodes and one encodes its text while the others are at their
 * steps.
 *
 * Not counted: what the fabric lands hops in, the driver's own, the host's own memory. Not run:
 * comparing with the uncached video (no encoder), floating homes, spare blocks. One thread.
 */
#ifndef REFRAIN_WORKER_FOOTPRINT_H
#define REFRAIN_WORKER_FOOTPRINT_H

#include "kernels/ledger.h"
#include "worker/job.h"

struct footprint_part {
    size_t device, shared; /* bytes; shared: of the host, pinned */
};

struct footprint {
    int blocks;                    /* of the model */
    struct footprint_part weights; /* and what belongs to them */
    struct footprint_part work;    /* of a forward pass: the workspace of the plan, its rotary tables */
    struct footprint_part
        jobs; /* latents, hops, the solver's history, the text's keys and values; caching included */
    struct footprint_part
        caching; /* of `jobs`, what is there for the policy: filled in by footprint_caching */
    struct footprint_part buffers; /* a stage's, for hops */
    struct footprint_part text;    /* while prompts are encoded, beside weights and jobs */
    struct footprint_part decode;  /* the decoder: beside weights, work and the other jobs */
    size_t stepping,
        decoding;       /* of the device, at most: until the steps are done; at home while it decodes */
    struct ledger most; /* most_device, most_shared: of all that at once */
};

/* What is to be done. */
struct footprint_task {
    const struct job_order *order; /* as a job's; `compare` is not regarded */
    int jobs;                      /* in flight at once, all alike */
    size_t decode_memory;          /* as engine.decode_memory */
};

status_t footprint_measure(const char *directory, const struct split *split,
                           const struct footprint_task *task, struct footprint *ranks, struct error *error);
/* The same, and how much of it is the policy's. */
status_t footprint_caching(const char *directory, const struct split *split,
                           const struct footprint_task *task, struct footprint *ranks, struct error *error);

/* Blocks for home (head) and the stages (run) so that the fullest rank is as empty as can be. ranks 0: for the least number
 * of ranks that all have `memory` bytes of the device with `beside` of them taken otherwise, and `landing` where there
 * are several ranks; STATUS_NO_MEMORY, with what is too large, where no number does. */
status_t footprint_split(const char *directory, const struct footprint_task *task, int ranks, size_t memory,
                         size_t beside, size_t landing, struct split *split, struct error *error);

#endif
