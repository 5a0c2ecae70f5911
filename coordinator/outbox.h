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
 * caller keeps what it passes. What carries them is the opener's: sockets (server.c), or a simulation's
 * virtual lines. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_OUTBOX_H
#define REFRAIN_COORDINATOR_OUTBOX_H

#include "base/status.h"
#include "proto/wire.h"

struct outbox;

/* As wire_post: takes the frame over on STATUS_OK; STATUS_AGAIN: the receiver does not keep up. */
typedef status_t outbox_send_fn(void *argument, bool to_worker, const struct wire_peer *peer, zmq_msg_t *frame,
                                struct error *error);

status_t outbox_open(outbox_send_fn *send, void *argument, struct outbox **outbox, struct error *error);
void outbox_close(struct outbox *outbox); /* NULL is fine; what is in it is dropped */

/* Fill in the version. A message that cannot be kept (no memory, too large) becomes an Error or is dropped
 * and logged. */
void outbox_reply(struct outbox *outbox, const struct wire_peer *peer, Refrain__Reply *reply);
void outbox_order(struct outbox *outbox, const struct wire_peer *peer, Refrain__WorkerOrder *order);
/* An Error reply; field may be NULL. */
void outbox_error(struct outbox *outbox, const struct wire_peer *peer, uint64_t id, const struct error *error,
                  const char *field);

/* Past all that waits, now or not at all: for what is durable already. STATUS_AGAIN, STATUS_PEER_LOST: as
 * wire_post. */
status_t outbox_reply_now(struct outbox *outbox, const struct wire_peer *peer, Refrain__Reply *reply);

/* What a receiver cannot take now is kept (64 MiB in all) and goes with a later flush, in order. */
void outbox_flush(struct outbox *outbox);
bool outbox_behind(const struct outbox *outbox); /* flush again soon */
void outbox_refuse(struct outbox *outbox, const struct error *error);

#endif
