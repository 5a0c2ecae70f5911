/*
 * home.h - the rank where the jobs' loops live: holds jobs, picks the next one that can advance, reports.
 *
 *     home_create(&engine, control, courier, directory, &home, &error);
 *     home_assign(home, assign);                           a new job, or a JobFailed report at once
 *     home_event(home, &event);                            one event of the fabric
 *     home_tend(home);                                     what came from elsewhere
 *     if (home_next(home, &priority, &deadline_ns)) home_advance(home);    one piece of one job
 *
 * Compute thread; on member 0, or with floating homes on every member.
 */
#ifndef REFRAIN_WORKER_HOME_H
#define REFRAIN_WORKER_HOME_H

#include "worker/control.h"
#include "worker/courier.h"
#include "worker/engine.h"
#include "worker/job.h"

struct home;

/* directory: where jobs' files are made, one folder each; borrowed, as courier is (NULL: no checkpoints). */
status_t home_create(struct engine *engine, struct control *control, struct courier *courier,
                     const char *directory, struct home **home, struct error *error);
/* Drops all jobs and their files without a report; after fabric_leave. NULL is fine. */
void home_destroy(struct home *home);

void home_assign(struct home *home, const Refrain__Assign *assign);
void home_cancel(struct home *home, uint64_t job, uint32_t attempt);
/* The coordinator has stored how the job ended: it may be forgotten. */
void home_noted(struct home *home, uint64_t job, uint32_t attempt);
void home_ack(struct home *home, const Refrain__UploadAck *ack);
/* A coordinator that restarted: keeps the jobs it adopts, drops the others, offers finished files and
 * reports of their end again. */
void home_welcome(struct home *home, const Refrain__Welcome *welcome);
/* No job begins a step, each leaves a checkpoint and says so: the ranks are about to change. */
void home_rest(struct home *home, const Refrain__Rest *order);
/* The epoch is over, and this rank goes on: what its jobs can use again where they go on. Then home_destroy. */
void home_keep(struct home *home);
void home_event(struct home *home, struct fabric_event *event);

/* Takes in what came from elsewhere: checkpoints, answers about files and ends. True if there was something; next to
 * no work. */
bool home_tend(struct home *home);
/* Gives back all that jobs which are over still hold, as their model is about to go. */
void home_sweep(struct home *home);
/* The piece that home_advance would do now, and its job's priority. PIECE_NONE: all jobs wait. *deadline_ns: when one
 * that waits must be looked at again. */
enum job_piece home_next(const struct home *home, int *priority, int64_t *deadline_ns);
void home_advance(struct home *home);

/* For Hello: what is running. */
void home_present(const struct home *home, struct presence *presence);

#endif
