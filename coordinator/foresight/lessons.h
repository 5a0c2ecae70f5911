/*
 * lessons.h - what jobs that are done teach about those to come: their work beside blocks, and how far predictions were off.
 *
 *     lessons_of(server, model)->decode                                seconds a token
 *     lessons_take(server, group, job, spec, card, times);             after a job has completed
 *
 * A plain part of the server; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_LESSONS_H
#define REFRAIN_COORDINATOR_FORESIGHT_LESSONS_H

#include "coordinator/server.h"

/* Of a model, by the number that outlooks have (jobs.h); never NULL, and `known` where something was learnt. Valid until the next call. */
struct learnt *lessons_of(struct server *server, uint64_t model);

/* How much longer jobs of the group take than is foreseen otherwise. */
double lessons_stretch(const struct group *group);

/* times: as home reported them; NULL is fine. */
void lessons_take(struct server *server, struct group *group, const struct job *job,
                  const Refrain__JobSpec *spec, const Refrain__JobTimes *times);

#endif
