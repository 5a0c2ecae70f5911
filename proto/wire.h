/*
 * wire.h - one ZeroMQ frame is one message: packing, sending, receiving and believing it.
 *
 *     Refrain__Request request = REFRAIN__REQUEST__INIT;                client
 *     wire_stamp(request);                                              version = PROTOCOL_VERSION
 *     wire_send(dealer, NULL, &request.base, &error);
 *
 *     struct wire_peer peer;                                            coordinator
 *     zmq_msg_t frame;
 *     while (wire_receive(router, &peer, &frame, &error) != STATUS_AGAIN) {
 *         Refrain__Request *request;
 *         uint64_t id = 0;
 *         status_t status =
 *             wire_unpack_request(zmq_msg_data(&frame), zmq_msg_size(&frame), &request, &id, &error);
 *         ...                                                           id is there even when the rest is not
 *         refrain__request__free_unpacked(request, NULL);
 *         zmq_msg_close(&frame);
 *     }
 *
 * Everything here treats its input as hostile: the version is read before anything else is believed, texts
 * must be UTF-8 without zero bytes, and a message may not unfold into more memory than its size justifies.
 * Functions are stateless; a socket belongs to one thread, as always with ZeroMQ.
 */
#ifndef REFRAIN_PROTO_WIRE_H
#define REFRAIN_PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>
#include "base/status.h"
#include "proto/refrain.pb-c.h"

enum {
    PROTOCOL_VERSION = 1,
    WIRE_MAX_BYTES = 4 << 20,     /* of one frame: ZMQ_MAXMSGSIZE on both sides */
    WIRE_CHUNK_BYTES = 512 << 10, /* of file data in one message: the usual size */
    WIRE_CHUNK_MAX = 1 << 20,     /* ... and the largest that is accepted */
    WIRE_IDENTITY_BYTES = 255,
};

/* Fills in the version of a Request, Reply, WorkerReport, WorkerOrder, VaultRequest or VaultReply. */
#define wire_stamp(message) ((message).has_version = 1, (message).version = PROTOCOL_VERSION)

/* A connection as a ROUTER socket names it. REQ clients put an empty frame before the message; they get one
 * back. */
struct wire_peer {
    uint8_t identity[WIRE_IDENTITY_BYTES];
    uint8_t length;
    bool delimited;
};
bool wire_peer_equal(const struct wire_peer *a, const struct wire_peer *b); /* the same connection */

/* Sends without blocking. peer: the ROUTER's connection, or NULL on a DEALER. STATUS_AGAIN when the other
 * side does not keep up, STATUS_PEER_LOST when a ROUTER with ZMQ_ROUTER_MANDATORY does not know it any more,
 * STATUS_INVALID when the message is larger than WIRE_MAX_BYTES. */
status_t wire_send(void *socket, const struct wire_peer *peer, const ProtobufCMessage *message,
                   struct error *error);
/* The two halves of it, for messages that wait: wire_post takes over the frame on success and leaves it
 * otherwise. */
status_t wire_pack(const ProtobufCMessage *message, zmq_msg_t *frame, struct error *error);
status_t wire_post(void *socket, const struct wire_peer *peer, zmq_msg_t *frame, struct error *error);

/* Takes the next message without blocking: STATUS_OK with the frame (the caller closes it), STATUS_AGAIN when
 * there is none, STATUS_CORRUPT when it had the wrong number of frames (it is gone; *peer says whose it was).
 * peer: NULL on a DEALER. STATUS_ABORTED once the context is terminated. */
status_t wire_receive(void *socket, struct wire_peer *peer, zmq_msg_t *frame, struct error *error);

/* STATUS_UNSUPPORTED: another protocol version (the sentence names both). STATUS_CORRUPT: not a message.
 * STATUS_INVALID: a text that is not UTF-8 (the sentence names the field). *id is set whenever the bytes held
 * one, also on failure; otherwise it is left alone. The result is the caller's: free it with
 * ..._free_unpacked(message, NULL). */
status_t wire_unpack_request(const void *data, size_t bytes, Refrain__Request **request, uint64_t *id,
                             struct error *error);
status_t wire_unpack_reply(const void *data, size_t bytes, Refrain__Reply **reply, struct error *error);
status_t wire_unpack_report(const void *data, size_t bytes, Refrain__WorkerReport **report,
                            struct error *error);
status_t wire_unpack_order(const void *data, size_t bytes, Refrain__WorkerOrder **order, struct error *error);
status_t wire_unpack_vault_request(const void *data, size_t bytes, Refrain__VaultRequest **request,
                                   struct error *error);
status_t wire_unpack_vault_reply(const void *data, size_t bytes, Refrain__VaultReply **reply,
                                 struct error *error);

#endif
