/*
 * fabric_core.h - inside the fabric: what its sources share. Nobody else includes it.
 *
 *     fabric.c                          the owner's thread: the functions of fabric.h
 *     fabric_io.c                       the I/O thread: its loop, heartbeats and silence
 *     fabric_send.c, fabric_receive.c   the I/O thread: in and out
 *     fabric_place.c                    both: memory of the owner's that payloads land in
 *     fabric_zmq.c, fabric_mpi.c        the transports, called by the I/O thread
 *     fabric_nccl.c                     the I/O thread: payloads in device memory, beside the zmq transport
 *     fabric_lane.c                     the thread that makes NCCL's calls for it
 *
 *     owner --post, release, wishes--> [lock] --> I/O thread --send--> transport ~~~> other member
 *     owner <--events---------------- [lock] <-- I/O thread <-- fabric_io_head, fabric_io_filled -- transport
 *
 * Handshake, credits, heartbeats, chunks, silence and events are the core's, written once. A transport moves
 * bytes: a short head, and beside it perhaps a chunk of payload that it must not copy more often than it has
 * to.
 *
 * Locks: fabric->lock guards what is marked so below; it is a leaf: nothing that could block or call back is
 * called under it. Fields without a mark are written before the I/O thread starts, or belong to the I/O
 * thread.
 */
#ifndef REFRAIN_CLUSTER_FABRIC_CORE_H
#define REFRAIN_CLUSTER_FABRIC_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/clock.h"
#include "cluster/envelope.h"
#include "cluster/fabric.h"
#include "cluster/parcel.h"

enum {
    /* Payloads up to this travel in the head: one message, and the sender's memory is free at once. */
    INLINE_BYTES = 2048,
    YIELDING_CHUNK = 256 << 10, /* of a message that yields */
    YIELDING_CHUNKS = FABRIC_YIELDING_BYTES / YIELDING_CHUNK,
    HEAD_BYTES = ENVELOPE_BYTES + TICKET_BYTES + INLINE_BYTES, /* the longest head */
    HELLO_MS = 20, /* a member that has not joined yet drops a HELLO, so it is repeated */
    BEAT_MS = 200,
    ENDED_MS = 3, /* after a connection ended its peer's BYE may still arrive, on another one */
    /* Below FABRIC_LOST_MS by what a busy machine may take to notice and to tell. */
    SILENCE_MS = FABRIC_LOST_MS - 300,
};

struct fabric;

/* A message on its way out. Made by fabric_post, given back when nobody reads the payload any more. */
struct outgoing {
    struct event_node note; /* its SENT event; first, so that one cast leads back */
    struct outgoing *next;  /* posted, in a peer's queue, or free */
    struct fabric *fabric;
    int peer;
    const uint8_t *payload; /* [bytes], the poster's */
    uint64_t bytes, handed; /* handed: given to the transport so far */
    atomic_int holders;     /* chunks the transport still reads, + 1 while not everything is handed */
    uint8_t ticket[TICKET_BYTES];
    bool yields;    /* to all that do not */
    bool on_device; /* then it is not handed to the transport, but to NCCL; a holder until that is done */
    bool making;    /* its payload may not be complete yet */
    void *made;     /* lane's event for that */
    struct crossing crossing;
};

/* A member's messages are in order among those that yield, and among all others. */
enum { ORDERLY, YIELDING, ORDERS };

struct outbox {
    struct outgoing *first, **end; /* posted, not handed over completely */
};

struct inbox {
    struct parcel *first, **end; /* arriving, oldest first; only the last can still lack places */
    struct parcel *open;         /* that last one, while it lacks some */
};

/* What is known of another member. */
struct peer {
    bool greeted;  /* its HELLO was right: messages from its source are believed */
    bool welcomed; /* it answered mine */
    bool spoke;    /* DATA or CREDIT came: it cannot connect a second time any more */
    bool lost;
    bool silent;                         /* lost because nothing was heard: its process or host may be gone */
    bool left;                           /* lost because it said so: its process is well */
    bool owes_welcome, owes_beat;        /* to be sent as soon as the transport takes it */
    int64_t heard_ns, beat_ns, hello_ns; /* last heard of; next BEAT and HELLO due */
    int64_t ended_ns;                    /* when its connection ended; 0: it did not */
    int window;      /* messages in flight either way: the smaller of both members' credits */
    atomic_int used; /* of those, towards this member: arrived, and the peer does not have the credit back */
    int owed;        /* of those, released: credits to be sent back */
    struct outbox out[ORDERS];
    struct inbox in[ORDERS];
    atomic_int borrowed; /* chunks the transport still reads */
    struct event_node lost_note;
    int credits;  /* lock: so many may be posted */
    int released; /* lock: releases the I/O thread has not seen */
    bool starved; /* lock: a post was refused since */
};

enum phase {
    PHASE_IDLE,    /* no epoch */
    PHASE_JOINING, /* peers exist, not all have answered */
    PHASE_READY,
    PHASE_OVER, /* lost or aborted: heartbeats go on until leave, so that nobody blames this member */
};

enum wish { WISH_NONE, WISH_JOIN, WISH_LEAVE, WISH_CLOSE };

struct transport;
struct nccl_side;

struct fabric {
    const struct transport *transport;
    void *link;             /* the transport's own */
    struct nccl_side *nccl; /* NULL: payloads in device memory are refused */
    int credits;
    uint64_t max_bytes;
    char address[FABRIC_ADDRESS_BYTES];
    pthread_t thread;
    int ready_fd;         /* eventfd: the owner has something to look at */
    int wake_fd;          /* eventfd: the I/O thread has */
    atomic_bool awakened; /* wake_fd was written and not read yet */
    struct parcel_shelf shelf;

    pthread_mutex_t lock;
    pthread_cond_t changed;                  /* of phase, wish and in_transit; monotonic clock */
    atomic_int phase;                        /* enum phase; lock to write, or to rely on it staying */
    enum wish wish;                          /* lock */
    bool aborted;                            /* lock: the epoch was */
    struct error failure;                    /* lock: why the epoch is over, or could not begin */
    struct event_node *events, **events_end; /* lock */
    bool ready_signalled;                    /* lock: ready_fd is readable */
    bool nudge;                              /* lock: a credit came for somebody who was refused one */
    struct outgoing *posted, **posted_end;   /* lock: for the I/O thread */
    struct outgoing *spare;                  /* lock: to be used again */
    bool releases;                           /* lock: some peer's `released` is not 0 */
    int in_transit;                          /* lock: outgoing messages with holders */
    struct event_node abort_note;            /* lock: used once per epoch */
    struct parcel *landed;                   /* lock: device memory the owner has released */
    struct fabric_place *places;             /* lock: of the owner's, that are offered */

    uint64_t epoch; /* of the latest join; the owner writes it while idle, as the next three */
    const struct fabric_membership *membership; /* the owner's, during join only */
    uint8_t token[FABRIC_TOKEN_BYTES];
    int self, count;
    struct peer *peers;         /* [count]; made and freed by the owner while idle */
    bool stood;                 /* the epoch was READY */
    bool at_fault;              /* it ended because something failed here */
    bool hurry;                 /* a connection ended: come round soon */
    int64_t turned_ns;          /* when the I/O loop last came round */
    int yielding_peer;          /* whose turn it is of those that have messages which yield to be sent */
    atomic_int yielding;        /* chunks of such messages that the transport reads */
    atomic_bool yielding_waits; /* the I/O thread wants to know when there are half as many as there may be */
    unsigned strangers;         /* messages from sources that proved nothing */
    atomic_ullong messages_sent, messages_received, bytes_sent, bytes_received;
};

/*
 * What moves the bytes. All calls but open are made by the I/O thread; open by the owner, before that thread
 * exists.
 */
struct transport {
    uint64_t chunk_bytes; /* the largest chunk given to send */

    /* Listens; writes where others reach it. */
    status_t (*open)(struct fabric *fabric, const struct fabric_config *config, void **link,
                     char address[FABRIC_ADDRESS_BYTES], struct error *error);
    void (*close)(void *link);

    /* Begins to connect to every other member. */
    status_t (*join)(void *link, const struct fabric_membership *membership, struct error *error);
    /* Ends the way to one peer, the best way still possible: with `farewell` (NULL: none) if that takes no
     * waiting. */
    void (*part)(void *link, int peer, const uint8_t *farewell, size_t bytes);
    /* After it no memory of any outgoing message is read, and fabric_io_chunk_done was called for each chunk.
     */
    void (*leave)(void *link);

    /* STATUS_AGAIN: not now, nothing was taken; progress returns when it can be tried again.
     * STATUS_PEER_LOST: never. `head` is copied; `chunk` [chunk_bytes] is read until
     * fabric_io_chunk_done(NULL, outgoing). */
    status_t (*send)(void *link, int peer, const uint8_t *head, size_t head_bytes, const uint8_t *chunk,
                     size_t chunk_bytes, struct outgoing *outgoing);

    /* Takes in what has arrived; if there was nothing, waits for something, for wake_fd, or until `until_ns`.
     */
    void (*progress)(void *link, int64_t until_ns);
};

extern const struct transport fabric_transport_zmq, fabric_transport_mpi;

/* ------------------------------------------------------------------- fabric_nccl.c; all need fabric->nccl */

/* By the owner. */
status_t fabric_nccl_open(struct fabric *fabric, const struct fabric_config *config, struct error *error);
void fabric_nccl_close(struct fabric *fabric); /* after the I/O thread ended. NULL is fine */
/* Before a post, and if that was refused. */
status_t fabric_nccl_mark(struct fabric *fabric, struct outgoing *outgoing, struct error *error);
void fabric_nccl_unmark(struct fabric *fabric, struct outgoing *outgoing);
/* Before a release: the memory is read until what the stream holds now is done. */
void fabric_nccl_mark_read(struct fabric *fabric, struct parcel *parcel);
/* The member whose edge kept the last join from standing, or -1. */
int fabric_nccl_missing(const struct fabric *fabric);

/* By the I/O thread. */
status_t fabric_nccl_join(struct fabric *fabric, struct error *error);
bool fabric_nccl_ready(const struct fabric *fabric);
void fabric_nccl_turn(struct fabric *fabric); /* every time the loop comes round */
void fabric_nccl_watch(struct fabric *fabric, struct outgoing *outgoing); /* it was posted */
status_t fabric_nccl_push(struct fabric *fabric, int peer);               /* signals due to the peer */
/* Sends the header of a peer's next message, if it may go now; STATUS_AGAIN: not yet. */
status_t fabric_nccl_announce(struct fabric *fabric, struct outgoing *outgoing);
/* A header came; false: there is no memory even to note it. */
bool fabric_nccl_land(struct fabric *fabric, int peer, const struct ticket *ticket);
void fabric_nccl_hear(struct fabric *fabric, int peer, const struct envelope *envelope, const uint8_t *head,
                      size_t bytes);
/* Gives all communicators up; after it nothing of the epoch is touched. */
void fabric_nccl_leave(struct fabric *fabric);

/* ----------------------------------------------------------------------------- fabric.c, for the I/O side */

/* A received message's memory goes back to where it came from. */
void fabric_give_parcel(struct fabric *fabric, struct parcel *parcel);

void fabric_push_event(struct fabric *fabric, struct event_node *node); /* lock held */
void fabric_signal_owner(struct fabric *fabric);                        /* lock held */
void fabric_drop_events(struct fabric *fabric); /* lock held; of an epoch that is left */

/* ------------------------------------------------------------------------------- fabric_place.c, I/O thread */

/* Room for the payload of a message of `peer` in memory of the owner's; false: it belongs in none. */
bool fabric_place_take(struct fabric *fabric, int peer, const struct ticket *ticket,
                       struct fabric_place **place, uint8_t **bytes);
void fabric_place_tell(struct parcel *parcel); /* its listener, of what has come */
void fabric_place_done(struct parcel *parcel); /* lock held: nothing more is written there for this message */

/* ------------------------------------------- fabric_io.c, fabric_send.c, fabric_receive.c, for each other */

void *fabric_io_main(void *fabric);
void fabric_wake_io(struct fabric *fabric); /* fabric.c; any thread */
void fabric_io_push(struct fabric *fabric,
                    int64_t now); /* sends what is due, as far as the transport takes it */
/* Credits travel with messages that go there anyway, and by themselves before the peer could wait for them: any thread. */
bool fabric_io_owes_word(const struct peer *peer);
void fabric_io_let_go(struct outgoing *outgoing);  /* one holder less; the last ends the loan. Any thread */
void fabric_io_check_ready(struct fabric *fabric); /* has every member answered? */

/* ----------------------------------------------------------------------------------------- for transports */

/* A first message from an unknown source. Returns the member it proved to be, or -1: then it is dropped. */
int fabric_io_hello(struct fabric *fabric, const uint8_t *head, size_t bytes);

/* A message of `peer`. True: put its chunk [chunk_bytes] at *place, then call fabric_io_filled; false: drop
 * the chunk. */
bool fabric_io_head(struct fabric *fabric, int peer, const uint8_t *head, size_t bytes, size_t chunk_bytes,
                    struct parcel **parcel, uint8_t **place);
void fabric_io_filled(struct fabric *fabric, int peer, struct parcel *parcel, size_t chunk_bytes);

/* The peer did or suffered what ends the epoch; `why` completes the sentence "member 3 was lost: ...". */
void fabric_io_lose(struct fabric *fabric, int peer, const char *why, ...)
    __attribute__((format(printf, 3, 4)));
/* The connection to the peer ended. While joining the transport may connect again. */
void fabric_io_disconnected(struct fabric *fabric, int peer);

/* Sends a head without payload; anything that goes out counts as a heartbeat. */
status_t fabric_io_send_head(struct fabric *fabric, int peer, const uint8_t *head, size_t bytes);
/* Hands the next piece of a message to the transport. STATUS_AGAIN: it takes no more now. */
status_t fabric_io_send_piece(struct fabric *fabric, struct peer *to, struct outgoing *outgoing);
status_t fabric_io_send_signal(struct fabric *fabric, int peer, enum envelope_kind kind, int number,
                               uint64_t place);

/* Any thread: one chunk is not read any more. The first parameter is there to fit ZeroMQ's callback. */
void fabric_io_chunk_done(void *chunk, void *outgoing);

#endif
