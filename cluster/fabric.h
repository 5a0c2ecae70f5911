/*
 * fabric.h - how ranks send tickets and tensors to each other, whatever carries them.
 *
 *     struct fabric *fabric;
 *     fabric_open(&config, &fabric, &error);                     a listening address exists from here on
 *     ... config.kind, fabric_address(fabric) go to the coordinator; an epoch with all members comes back ...
 *     fabric_join(fabric, &membership, deadline_ns, &error);     connected to every member
 *     fabric_post(fabric, next, &ticket, x, cookie, &error);     x is the fabric's until its SENT event
 *     while (fabric_next(fabric, &event) == STATUS_AGAIN)
 *         if (fabric_wait(fabric, deadline_ns, &error) != STATUS_OK) ...
 *     fabric_release(fabric, &event);                   after a RECEIVED event: memory and credit go back
 *     fabric_leave(fabric);  fabric_close(fabric);
 *
 * One I/O thread per fabric owns the sockets (or the MPI calls), so transfers, credits and heartbeats go on
 * while the owner computes. The owner is one thread: it alone calls post, next, wait, release, join and
 * leave. fabric_abort may be called from any thread. Every wait has a deadline; a lost, stopped or silent
 * peer becomes a LOST event within FABRIC_LOST_MS; after LOST or ABORTED the epoch is over: only leave, then
 * join with a newer epoch.
 *
 * With "nccl" a payload may lie in the memory of the owner's GPU: a ticket says so by TICKET_ON_DEVICE, and then
 * it arrives in the memory of the receiver's GPU. Everything else, tickets too, is as with "zmq".
 *
 * A message whose ticket says TICKET_YIELDS is sent while nothing else is to be: what is posted later passes it, between two of its
 * chunks. Of all of these together at most FABRIC_YIELDING_BYTES are under way, so that is what another message finds before it.
 *
 * Per directed pair of ranks order is kept, among messages that yield and among all others, and at most `credits` messages are in flight: posting beyond that
 * answers STATUS_AGAIN, and the payload stays the caller's.
 */
#ifndef REFRAIN_CLUSTER_FABRIC_H
#define REFRAIN_CLUSTER_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "cluster/ticket.h"

struct fabric;

enum {
    FABRIC_LOST_MS = 2000, /* a peer that said nothing for this long is lost (heartbeats every 200 ms) */
    FABRIC_ADDRESS_BYTES = 256,
    FABRIC_TOKEN_BYTES = 32, /* secret of an epoch: strangers who find the port are not listened to */
    FABRIC_MAX_MEMBERS = 1024,
    FABRIC_MAX_CREDITS = 64,
    FABRIC_UNTOLD = 1, /* messages of a pair that may be released without their sender being told */
    FABRIC_TRANSFER_MS = 10000,
    FABRIC_ABORT_MS = 5000,
    FABRIC_LANDING_BYTES = 65536,    /* nccl: payloads arrive in memory of whole pieces of this */
    FABRIC_YIELDING_BYTES = 1 << 20, /* of messages that yield, under way to all peers together */
};

struct fabric_config {
    const char *kind;   /* "zmq", "mpi" or "nccl" */
    const char *bind;   /* zmq: "tcp://ADDRESS:*" or "ipc://DIRECTORY"; mpi: ignored */
    const char *toward; /* zmq, bound to every interface ("tcp://0.0.0.0:*"): announce the address of the one
                           that leads to this "tcp://HOST:PORT"; NULL: of the first that is not loopback */
    int credits; /* messages in flight per directed pair, 1..FABRIC_MAX_CREDITS; of two members the smaller counts */
    uint64_t max_bytes; /* largest payload that is believed; anything above loses the peer */
    /* nccl, which otherwise is as zmq: */
    int device; /* CUDA's number of the GPU */
    void *
        stream; /* cudaStream_t on which payloads are made and read: what was enqueued there when a payload is
                     posted is done before it is read; when one is released, before it is written. NULL: then
                     the owner sees to that itself */
    int64_t transfer_ms; /* a payload that makes no way for longer loses the peer; 0: FABRIC_TRANSFER_MS */
    int64_t abort_ms; /* what giving communicators up may take; then the process ends. 0: FABRIC_ABORT_MS */
};

struct fabric_membership {
    uint64_t epoch;               /* larger than any before */
    int self, count;              /* my index, number of members (1..FABRIC_MAX_MEMBERS) */
    const char *const *addresses; /* [count] fabric_address() of each member, borrowed for the call */
    uint8_t token[FABRIC_TOKEN_BYTES];
};

enum fabric_event_kind { FABRIC_SENT = 1, FABRIC_RECEIVED, FABRIC_LOST, FABRIC_ABORTED };

struct fabric_event {
    enum fabric_event_kind kind;
    int peer;             /* index of the member it is about */
    uint64_t cookie;      /* SENT: what fabric_post was given; the payload is the caller's again */
    struct ticket ticket; /* RECEIVED */
    const void *payload;  /* RECEIVED: ticket.bytes bytes, 64-byte aligned; valid until fabric_release. With
                             TICKET_ON_DEVICE an address there; in a place (fabric_offer) as it comes there */
    void *hold;           /* the fabric's own */
};

status_t fabric_open(const struct fabric_config *config, struct fabric **fabric, struct error *error);

/* NULL is fine. Joins the I/O thread; never blocks longer than 1 s. Release what was received before. */
void fabric_close(struct fabric *fabric);

/* What other members need to reach this one. Valid until close. */
const char *fabric_address(const struct fabric *fabric);
/* Credits of a directed pair, as the configuration says: members are started alike. */
int fabric_credits(const struct fabric *fabric);
/* The largest payload that can be sent, likewise. */
uint64_t fabric_largest(const struct fabric *fabric);

/* Connects to every member and returns when all answered, or fails by `deadline_ns`: STATUS_DEADLINE names
 * who did not answer, STATUS_PEER_LOST one that did and then went away, STATUS_UNSUPPORTED says that only a
 * new start of all ranks helps (mpi, after a loss). A failed join needs no leave, but uses up its epoch
 * number. */
status_t fabric_join(struct fabric *fabric, const struct fabric_membership *membership, int64_t deadline_ns,
                     struct error *error);

/* Ends the epoch at once (nccl: within abort_ms, or the process ends with status 70): undelivered messages are dropped, borrowed payloads are the caller's again, events
 * not yet taken are gone, unreleased RECEIVED payloads stay valid until fabric_release. To the others this
 * member is LOST. Without an epoch it does nothing. */
void fabric_leave(struct fabric *fabric);

/* STATUS_AGAIN without a credit. ticket->bytes says how much of `payload` to send (may be 0, payload NULL);
 * ticket->epoch is filled in. STATUS_PEER_LOST or STATUS_ABORTED once the epoch is over. */
status_t fabric_post(struct fabric *fabric, int peer, const struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error);
bool fabric_can_post(const struct fabric *fabric, int peer);
/* Messages posted to the peer that it has not released, as far as is known here: FABRIC_UNTOLD that were released may be
 * among them for as long as nothing else is sent. */
int fabric_in_flight(const struct fabric *fabric, int peer);
/* Could a message be posted to the peer now, and would it be one of at most `most` in flight to it? For who must leave credits to
 * others (worker/engine.h). Whoever has to wait for so few asks for `most` > FABRIC_UNTOLD, or may wait for ever. */
bool fabric_has_room(const struct fabric *fabric, int peer, int most);

/* The next event in order of occurrence; STATUS_AGAIN when there is none. Never blocks. */
status_t fabric_next(struct fabric *fabric, struct fabric_event *event);
void fabric_release(struct fabric *fabric, struct fabric_event *event); /* other kinds: does nothing */

/* Sleeps until there is something to look at (STATUS_OK) or STATUS_DEADLINE: an event, or a credit of a peer
 * for which post, can_post or has_room said no (then fabric_next may still answer STATUS_AGAIN). Once the epoch is over
 * and its last event was taken: STATUS_PEER_LOST or STATUS_ABORTED at once. */
status_t fabric_wait(struct fabric *fabric, int64_t deadline_ns, struct error *error);

/* Becomes readable when fabric_wait would return STATUS_OK, until fabric_next answers STATUS_AGAIN: for
 * poll() beside other descriptors. Who polls it takes events first, posts then, and polls last. */
int fabric_descriptor(const struct fabric *fabric);

/* Any thread, any time: the owner gets an ABORTED event and every call of this epoch, a join under way
 * included, fails with STATUS_ABORTED. Without an epoch it does nothing. */
void fabric_abort(struct fabric *fabric);

/*
 * Memory of the owner's that the messages of one peer, of one kind and context, land in, one behind the other, in place of
 * memory of the fabric's:
 *
 *     struct fabric_place place = {.peer = 2, .kind = TICKET_ITEM, .context = 7, .bytes = draft, .size = n};
 *     fabric_offer(fabric, &place);
 *     ... RECEIVED events whose payload lies there; release them as any ...
 *     while (!fabric_withdraw(fabric, &place)) ... later ...
 *
 * A message lands there if its ticket's `trace` says that it begins where the one before it ends, and if it fits. Any other one lies
 * in the fabric's memory as always (its payload says so); so nothing is written twice, and what has come stays as it is.
 * The struct and its memory are the owner's, and stay until fabric_withdraw says true. Payloads in device memory never land there.
 */
struct fabric_place {
    int peer;
    uint16_t kind; /* of the ticket, as `context` */
    uint64_t context;
    uint8_t *bytes; /* [size], the host's */
    uint64_t size;
    /* NULL, or told of what has come, piece by piece, each once and in order (if all messages there yield, or none), while it is
     * in the processor's cache. By the fabric's I/O thread: quickly, and without calling the fabric. Not after fabric_withdraw
     * said true. */
    void (*landed)(void *listener, const uint8_t *bytes, uint64_t count);
    void *listener;
    /* The fabric's own. */
    uint64_t epoch, begun; /* begun: bytes that messages were given room for */
    int landing;           /* messages that are not complete yet */
    struct fabric_place *next;
};

/* In an epoch, which it lasts for; peer, kind, context, bytes and size are set. */
void fabric_offer(struct fabric *fabric, struct fabric_place *place);
/* No further message lands there. True: nothing is written there any more, place and memory are the owner's again.
 * False: a message has begun to arrive there. Its RECEIVED event, or the end of the epoch, is when to ask again; after
 * fabric_leave it is false only where MPI was given up with it (then the memory has to stay until the process ends). Any number of times. */
bool fabric_withdraw(struct fabric *fabric, struct fabric_place *place);

struct fabric_traffic {
    uint64_t messages_sent, messages_received, bytes_sent, bytes_received;
};
void fabric_traffic(const struct fabric *fabric, struct fabric_traffic *traffic);

#endif
