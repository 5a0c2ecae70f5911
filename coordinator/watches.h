/*
 * watches.h - who wants to know what becomes of a job.
 *
 *     watches_add(watches, &peer, request, job, from_sequence, &error);
 *     watches_wake(watches, job);                    it changed
 *     watches_pump(watches, jobs, store, outbox);    after the commit: everything that is behind is sent
 *     watches_progress(watches, outbox, &job);       live, not kept, dropped when the client is slow
 *
 * A watch is a position in the job's stored history, so a slow client is only late: what it could not take is
 * read from the store and sent later. A watch ends with the job's last event and when its connection is gone.
 * One thread.
 */
#ifndef REFRAIN_COORDINATOR_WATCHES_H
#define REFRAIN_COORDINATOR_WATCHES_H

#include <stdbool.h>
#include "base/status.h"
#include "coordinator/jobs/jobs.h"
#include "coordinator/outbox.h"
#include "proto/wire.h"

struct watches;

status_t watches_open(struct watches **watches, struct error *error);
void watches_close(struct watches *watches); /* NULL is fine */

/* The same connection watching the same job again replaces its earlier watch. STATUS_NO_MEMORY when there are
 * too many. */
status_t watches_add(struct watches *watches, const struct wire_peer *peer, uint64_t request, uint64_t job,
                     uint64_t from_sequence, struct error *error);
void watches_wake(struct watches *watches, uint64_t job);
void watches_drop_job(struct watches *watches, uint64_t job); /* it is being deleted */
bool watches_behind(const struct watches *watches); /* somebody could not take everything: pump again soon */

void watches_pump(struct watches *watches, struct jobs *jobs, struct jobstore *store,
                  struct outbox *outbox);
bool watches_any(const struct watches *watches, uint64_t job);
void watches_progress(struct watches *watches, struct outbox *outbox, Refrain__Job *job);

#endif
