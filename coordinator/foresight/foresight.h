/*
 * foresight.h - when each unfinished job will be done, as far as the service can know.
 *
 *     foresight_look(server, false);                       job->finish_ms of all, at most ten times a second
 *     foresight_ask(server, tenant, spec, card, &seconds)  of one that is not submitted yet
 *
 * What a block takes is what the ranks report (pace.h), how many a step is of is the layout's (plan.h); how many steps are hits is the
 * policy's, or what such jobs had, and what this one had so far; what home does beside blocks is learnt from jobs that are done (lessons.h);
 * who runs when is played forward (finish.h). A group's predictions are stretched by a factor that follows how its
 * last ones came out. Without a group that has its ranks, or before anything is known of their speed, nothing is predicted.
 *
 * The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_FORESIGHT_H
#define REFRAIN_COORDINATOR_FORESIGHT_FORESIGHT_H

#include "coordinator/server.h"

/* A job that comes, is started or is read again: what its spec says of its work. */
void foresight_note(struct server *server, struct job *job, const Refrain__JobSpec *spec,
                    const Refrain__ModelCard *card);

/* Seconds of a block for such a job on one of the group's ranks; 0: nothing is known of them. */
double foresight_block(const struct group *group, const struct outlook *outlook);

/* Ranks of the group have timed blocks. */
bool foresight_measured(const struct group *group);

/* Seconds of text, decoding and files of such a job at home; 0: no job of its model has ended yet. */
double foresight_tail(struct server *server, const struct outlook *outlook);

/* fresh: at once, unless there are many jobs. */
void foresight_look(struct server *server, bool fresh);

/* Seconds until a job like that would be done if it were submitted now; negative: unknown. spec: complete. */
double foresight_ask(struct server *server, const char *tenant, const Refrain__JobSpec *spec,
                     const Refrain__ModelCard *card);

/* A job's progress has come. */
void foresight_heard(struct server *server, struct job *job);

#endif
