/*
 * fakenccl.h - inside the stand-in for libnccl.so.2: what its files share.
 *
 *     calls.c      what programs call: sends, receives, groups
 *     comm.c       communicators: made, asked, aborted
 *     ring.c       shared memory between the processes of a communicator
 *     operation.c  a group of sends and receives, run on a stream's thread
 *     fault.c      what the environment wants to go wrong
 *
 * One process per GPU. Bytes travel through POSIX shared memory. All sends and receives of a group are one
 * operation, put on the stream as a host function is, in which they progress together: so this works over any
 * stand-in for libcudart whose streams are threads and whose device memory a host function can reach. Like NCCL it is asynchronous, it never notices by itself that a peer died (unless told to, as with
 * networks), an operation that failed keeps its stream busy until its communicator is aborted. Unlike NCCL it
 * says what does not match, with both sides, and what is stuck.
 *
 * The environment, read when the library is first used:
 *
 *     REFRAIN_FAKENCCL_NAME=TEXT          part of the names of shared memory, so that a test can sweep what the killed leave
 *     REFRAIN_FAKENCCL_VERSION=N          what ncclGetVersion says
 *     REFRAIN_FAKENCCL_ON_DEATH=error     a dead peer is ncclRemoteError, as over a network; otherwise nothing, as within a host
 *     REFRAIN_FAKENCCL_FAIL=CALL:N[:hang] the Nth call of that name fails, or does not come back; CALL `operation`: the Nth
 *                                 operation on a stream fails, `init`: the Nth communicator's making, later on
 *     REFRAIN_FAKENCCL_DIE_AT=N           the process is killed in the middle of its Nth operation
 *     REFRAIN_FAKENCCL_LINK=US,MBS        each message takes that long to begin, and then that many MB/s
 *     REFRAIN_FAKENCCL_LATE_US=US         calls that do not block come back that long before they are done
 *     REFRAIN_FAKENCCL_SERIAL=1           operations of a process run one after the other in the order in which they were issued,
 *                                 whatever their streams: the least concurrency a device may have
 *     REFRAIN_FAKENCCL_OUTSTANDING=N      the process ends when a communicator has more operations that were issued and did not end
 *     REFRAIN_FAKENCCL_STUCK_MS=MS        operations that take longer are reported
 */
#ifndef REFRAIN_FAKENCCL_H
#define REFRAIN_FAKENCCL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "cluster/nccl.h"

#define EXPORT __attribute__((visibility("default")))

/* ncclResult_t beyond cluster/nccl.h */
enum {
    UNHANDLED_CUDA_ERROR = 1,
    SYSTEM_ERROR,
    INTERNAL_ERROR,
    INVALID_ARGUMENT,
    INVALID_USAGE,
    REMOTE_ERROR
};

enum { RANKS_MAX = 16, RING_BYTES = 1 << 20 };

/* ------------------------------------------------------------------------------------------------- ring.c */

/* Bytes from one rank to another: one process writes, one reads. */
struct ring {
    atomic_ullong head, tail; /* written, read, in all */
    uint8_t pad[112];
    uint8_t bytes[RING_BYTES];
};

struct shared {
    atomic_int attached;
    atomic_int pids[RANKS_MAX];
    uint8_t pad[4096 - 4 * (RANKS_MAX + 1)];
    struct ring rings[]; /* [from][to] */
};

struct comm;

/* Maps the communicator's shared memory and waits for all ranks; a result of NCCL's. */
int ring_attach(struct comm *comm);
void ring_detach(struct comm *comm);
size_t ring_put(struct ring *ring, const void *bytes, size_t count); /* how many there was room for */
size_t ring_get(struct ring *ring, void *bytes, size_t count);
size_t ring_room(struct ring *ring);
size_t ring_filled(struct ring *ring);

/* ------------------------------------------------------------------------------------------------- comm.c */

struct comm {
    struct nccl_id id;
    int ranks, rank;
    bool blocking;
    atomic_int state; /* a result: NCCL_IN_PROGRESS while it is being made, an error once something failed */
    atomic_llong late_ns; /* a call is under way until then */
    atomic_bool aborted;
    atomic_int operations; /* on streams, not ended */
    pthread_t maker;
    bool making; /* maker is to be joined */
    struct shared *shared;
    size_t shared_bytes;
    uint64_t sent[RANKS_MAX], received[RANKS_MAX]; /* messages; the stream's thread */
    char error[256];
};

static inline struct ring *comm_ring(struct comm *comm, int from, int to)
{
    return &comm->shared->rings[from * comm->ranks + to];
}

int comm_fail(struct comm *comm, int result, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* What a call on the communicator may do now: a result, or the process ends because it may do nothing. */
int comm_check(struct comm *comm, const char *call);

/* -------------------------------------------------------------------------------------------- operation.c */

struct message {
    bool send;
    int peer, type;
    uint8_t *memory;
    size_t bytes, done;
    enum { MESSAGE_WAITS, MESSAGE_MOVES, MESSAGE_DONE } state;
    int64_t moved_ns; /* since when its bytes move, for REFRAIN_FAKENCCL_LINK */
};

struct operation {
    struct comm *comm;
    uint64_t turn; /* REFRAIN_FAKENCCL_SERIAL */
    int count;
    struct message messages[];
};

/* Puts it on the stream; it is freed when it has ended. */
int operation_enqueue(struct operation *operation, void *stream);

/* ------------------------------------------------------------------------------------------------ fault.c */

enum fault { FAULT_NONE, FAULT_FAIL, FAULT_HANG };

struct world {
    const char *name;
    int version;
    int outstanding; /* 0: any number */
    bool death_is_error, serial;
    int die_at;
    int64_t link_delay_ns, late_ns, stuck_ns;
    double link_bytes_per_ns; /* 0: as fast as it goes */
};

const struct world *world(void);
/* What is to happen to this call of that name. */
enum fault fault_due(const char *call);
void fault_hang(void) __attribute__((noreturn));
/* Something the program must never do. */
void fault_lint(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
int64_t fault_now_ns(void);
void fault_nap_us(long us);

#endif
