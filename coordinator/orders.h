/*
 * orders.h - every message the coordinator sends to workers, one function each. They wait in the outbox for
 * the commit.
 */
#ifndef REFRAIN_COORDINATOR_ORDERS_H
#define REFRAIN_COORDINATOR_ORDERS_H

#include "coordinator/ranks/groups.h"
#include "coordinator/jobs/jobs.h"
#include "coordinator/models.h"
#include "coordinator/outbox.h"
#include "coordinator/vault/vault.h"

void order_shutdown(struct outbox *outbox, const struct wire_peer *peer, const char *reason);
void order_shutdown_group(struct outbox *outbox, const struct group *group, const char *reason);
void order_rehello(struct outbox *outbox, const struct wire_peer *peer);
void order_welcome(struct outbox *outbox, const struct wire_peer *peer, Refrain__Welcome *welcome);

/* To every rank: the list of all and its own place; a fresh token. */
void order_epoch(struct outbox *outbox, const struct group *group);
/* To every rank: group->plan. */
void order_load(struct outbox *outbox, struct group *group, const struct model *model);

/* Where a job begins: its own last checkpoint, if it has one, or what was lent to it; NULL: neither. And which of its
 * checkpoints stay. */
struct beginning {
    const struct checkpoint *resume, *origin;
    uint32_t mark_every;
};

/* To the home of a slot's job. spec: borrowed. */
void order_assign(struct outbox *outbox, const struct group *group, const struct slot *slot,
                  const struct job *job, Refrain__JobSpec *spec, const struct beginning *beginning);
/* To a home: its jobs are to rest for so long; 0: they may go on. */
void order_rest(struct outbox *outbox, const struct group *group, uint32_t rank, uint32_t patience_ms);
void order_cancel(struct outbox *outbox, const struct group *group, const struct slot *slot);
void order_upload_ack(struct outbox *outbox, const struct group *group, const struct slot *slot,
                      const char *file, uint64_t held);
/* "It is written down": home may forget the job. */
void order_noted(struct outbox *outbox, const struct wire_peer *peer, uint64_t job, uint32_t attempt);

/* To a rank: how fast is its link to that one? */
void order_probe(struct outbox *outbox, const struct group *group, uint32_t rank, uint32_t peer);

/* Of the cache tier (tierdesk.c). */
/* checkpoint: NULL: it is in a rank's store. */
void order_tier_found(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierFound *found,
                      const struct checkpoint *checkpoint);
void order_tier_lease(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierLease *lease);
void order_tier_command(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierCommand *command);

/* To a launcher. host: "": wherever it likes. */
void order_replace(struct outbox *outbox, const struct wire_peer *launcher, const struct group *group,
                   uint32_t seat, const char *host, uint32_t threads);
/* To one that joins: its ranks' seats begin at that one. */
void order_joined(struct outbox *outbox, const struct wire_peer *launcher, const char *group, uint32_t first,
                  bool near);
/* To one whose ranks were drained. */
void order_stay(struct outbox *outbox, const struct wire_peer *launcher, const char *group);
void order_relaunch(struct outbox *outbox, const struct wire_peer *launcher, const char *group,
                    const char *reason);

#endif
