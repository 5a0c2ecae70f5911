/*
 * connection.h - the inside of librefrain: one DEALER socket, requests and replies matched by id, and what
 * happens when the coordinator goes away and comes back. Not for users of the library.
 *
 *     Refrain__Status body = REFRAIN__STATUS__INIT;
 *     Refrain__Request request = REFRAIN__REQUEST__INIT;
 *     request.body_case = REFRAIN__REQUEST__BODY_STATUS, request.status = &body;
 *     Refrain__Reply *reply;
 *     status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_JOB, 2000, &reply, error);
 *
 * Everything runs in the caller's thread (libzmq's own I/O thread aside) and inside calls: between calls
 * nothing is read, so that a program that does not look at its watches costs no memory here.
 */
#ifndef REFRAIN_CLIENT_CONNECTION_H
#define REFRAIN_CLIENT_CONNECTION_H

#include "client/librefrain.h"
#include "proto/refrain.pb-c.h"

/* A reply that waits for refrain_watch_next(). */
struct queued_reply {
    struct queued_reply *next;
    Refrain__Reply *reply; /* owned */
};

struct refrain_watch {
    struct refrain *refrain;
    struct refrain_watch *next; /* in refrain->watches */
    uint64_t id;                /* of the Watch request; kept over reconnecting */
    uint64_t number;            /* of the job */
    uint64_t sequence; /* of the newest change of state queued so far: where to go on after reconnecting */
    struct queued_reply *first, *last;
};

struct refrain {
    void *context, *socket, *monitor; /* monitor: PAIR socket that tells of handshakes and lost connections */
    char *endpoint;
    char monitor_address[48];
    int stop_fd; /* -1: none */
    bool connected;
    bool ever_connected;
    int handshake_event; /* the latest ZMQ_EVENT_HANDSHAKE_FAILED_*, 0: none since the last success */
    uint64_t
        generation;   /* connections lost and made again: when it grows, requests on their way may be gone */
    uint64_t next_id; /* never 0: replies to what nobody could read carry id 0 */
    uint64_t awaited_first,
        awaited_last;       /* ids whose replies go to `answer`; others are a watch's or nobody's */
    Refrain__Reply *answer; /* owned until taken; NULL: none */
    struct refrain_watch *watches;
    char field[64]; /* see refrain_error_field */
};

/* `timeout_ms` from now as a moment of base/clock.h. */
int64_t connection_deadline(int timeout_ms);

/* Fills in version and id (unless it has one) and sends. Never blocks; PEER_LOST if libzmq's queue is full.
 */
status_t connection_send(struct refrain *refrain, Refrain__Request *request, struct error *error);

/* Waits until one thing has happened: a reply (now in `answer` or in its watch's queue) or a change of the
 * connection
 * (`connected`, `generation`). DEADLINE (no sentence), ABORTED, CORRUPT, UNSUPPORTED. */
status_t connection_pump(struct refrain *refrain, int64_t deadline_ns, struct error *error);

/* Checks `request` (proto/validate.h), sends it, again after every reconnection, and takes the reply, which
 * must have the body `expected`; the caller frees it. An Error reply becomes its status, its sentence and
 * refrain->field. `reply` NULL: any such body, freed. */
status_t connection_call(struct refrain *refrain, Refrain__Request *request,
                         Refrain__Reply__BodyCase expected, int timeout_ms, Refrain__Reply **reply,
                         struct error *error);

/* Error reply or wrong body to a status; OK if the body is `expected`. */
status_t connection_judge(struct refrain *refrain, const Refrain__Reply *reply,
                          Refrain__Reply__BodyCase expected, struct error *error);

/* The sentence for a wait of `timeout_ms` that ended without an answer: PEER_LOST or DEADLINE (see
 * librefrain.h). */
status_t connection_timed_out(struct refrain *refrain, int timeout_ms, struct error *error);

#endif
