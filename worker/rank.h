/*
 * rank.h - the loop of one rank: orders from the coordinator, events of the fabric, work.
 *
 *     status = rank_run(&config, &error);        returns when told to shut down: STATUS_OK,
 *                                                  or STATUS_PEER_LOST if any epoch was lost on the way
 *
 * Runs on the compute thread (the process' main thread).
 */
#ifndef REFRAIN_WORKER_RANK_H
#define REFRAIN_WORKER_RANK_H

#include "worker/control.h"
#include "worker/engine.h"

struct rank_config {
    struct engine *engine; /* ops, team, fabric; the rest is the loop's */
    struct control *control;
    const char *directory;   /* private, existing: jobs' files are made here */
    int64_t join_timeout_ns; /* for all members of an epoch to find each other */
};

status_t rank_run(const struct rank_config *config, struct error *error);

#endif
