/*
 * footprint_report.h - `refrain-worker --plan-memory DIR`: what each rank takes for a video, as a table or as JSON.
 */
#ifndef REFRAIN_WORKER_FOOTPRINT_REPORT_H
#define REFRAIN_WORKER_FOOTPRINT_REPORT_H

#include "base/status.h"
#include "rules/plan.h"
#include "worker/job.h"

struct footprint_wish {
    const char *directory, *cache;
    int width, height, frames, steps;
    int ranks;              /* 0: the fewest that fit */
    enum plan_layout layout; /* chains; PLAN_LAYOUT_PIPELINE: one, home with fewer blocks */
    int stage_width;        /* ranks of a stage */
    int jobs;               /* in flight at once */
    uint64_t memory;        /* of a GPU; 0: not said */
    uint64_t decode_memory; /* as engine.decode_memory; 0: a quarter of `memory`, or no limit */
    uint64_t tier_device;   /* of the cache tier's level on the GPU */
    bool lands;             /* hops land on the GPU (fabric nccl) */
    bool json;
};

/* Prints to standard output. STATUS_NO_MEMORY: it does not fit; what could be said has been printed. */
status_t footprint_report(const struct footprint_wish *wish, struct error *error);

#endif
