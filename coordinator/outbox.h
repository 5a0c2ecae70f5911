/*
 * outbox.h - messages that wait for the commit.
 *
 *     outbox_reply(outbox, &peer, &reply);        during the batch
 *     outbox_order(outbox, &peer, &order);
 *     jobstore_commit(...)
 *     outbox_flush(outbox);                       worked: everything goes out
 *     outbox_refuse(outbox, &error);              failed: clients get the error instead, orders are forgotten
 *
 * So nobody is ever told of something that is not durable. Messages are packed when they are put in; the
 * caller keeps what it passes. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_OUTBOX_H
#define REFRAIN_COORDINATOR_OUTBOX_H

#include "base/status.h"
#include "proto/wire.h"

struct outbox;

/* Both sockets are borrowed ROUTERs. */
status_t outbox_open(void *clients, void *workers, struct outbox **outbox, struct error *error);
void outbox_close(struct outbox *outbox); /* NULL is fine; what is in it is dropped */

/* Fill in the version. A message that cannot be kept (no memory, too large) becomes an Error or is dropped
 * and logged. */
void outbox_reply(struct outbox *outbox, const struct wire_peer *peer, Refrain__Reply *reply);
void outbox_order(struct outbox *outbox, const struct wire_peer *peer, Refrain__WorkerOrder *order);
/* An Error reply; field may be NULL. */
void outbox_error(struct outbox *outbox, const struct wire_peer *peer, uint64_t id, const struct error *error,
                  const char *field);

/* What a receiver cannot take now is kept (64 MiB in all) and goes with a later flush, in order. */
void outbox_flush(struct outbox *outbox);
bool outbox_behind(const struct outbox *outbox); /* flush again soon */
void outbox_refuse(struct outbox *outbox, const struct error *error);

#endif
