/*
 * waiting.h - what a queued job waits for, in words.
 *
 *     char text[WAITING_BYTES];
 *     if (waiting_for(server, job, text)) ... "memory on rank 2 (needs 3.1 GB, 2.0 GB free)"
 *
 * Made when somebody asks. What cannot be seen from outside, memory and layout, the scheduler has noted where it held the job up (struct
 * held). The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_JOBS_WAITING_H
#define REFRAIN_COORDINATOR_JOBS_WAITING_H

#include "coordinator/server.h"

enum { WAITING_BYTES = 240 };

/* Is there no group that is ready to work? Then what is missing: "ranks: 3 of 4 are here". */
bool waiting_for_ranks(const struct server *server, char text[WAITING_BYTES]);

/* False: it does not wait. */
bool waiting_for(const struct server *server, const struct job *job, char text[WAITING_BYTES]);

#endif
