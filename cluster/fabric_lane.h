/*
 * fabric_lane.h - the one thread that makes a device's NCCL calls, in the order in which it was told to.
 *
 *     struct lane *lane;
 *     fabric_lane_open(&config, &lane, &error);
 *     fabric_lane_begin(lane, epoch, self, count, &error);
 *     job->kind = LANE_SEND; ... fabric_lane_give(lane, job);      executed in the order of giving
 *     while ((job = fabric_lane_take(lane))) job->finished(job, owner);
 *     if (fabric_lane_failed(lane, &peer, why)) ...                 the epoch is over
 *     fabric_lane_end(lane);                                        gives all communicators up, in the background
 *     fabric_lane_await_end(lane);                                  or the process ends
 *
 * Calls of NCCL and CUDA may block, so the fabric's I/O thread, which heartbeats depend on, makes none. There
 * is one communicator of two ranks per directed pair of members: the sender is its rank 0. Nothing here waits
 * for a stream: events are asked again and again, with a deadline.
 *
 * fabric_lane_end may be called at any time, also while the lane's thread is inside a call. A thread of its own then
 * waits a moment for the lane to come out of it and aborts every communicator, each in a thread again, because
 * one abort can wait for another's kernel. If that takes longer than it may the process says so and ends by
 * _exit(LANE_EXIT): memory that a hanging kernel still writes to cannot be given back to anybody.
 */
#ifndef REFRAIN_CLUSTER_FABRIC_LANE_H
#define REFRAIN_CLUSTER_FABRIC_LANE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "cluster/nccl.h"

enum { LANE_EXIT = 70, LANE_WHY_BYTES = 256 };

enum lane_kind {
    LANE_NAME,     /* a fresh unique id into *id */
    LANE_CONNECT,  /* the communicator for `outward` transfers to, or transfers from, the peer */
    LANE_SEND,     /* memory [bytes] to the peer; memory NULL: a few bytes of the lane's own */
    LANE_RECEIVE,  /* likewise */
    LANE_WATCH,    /* until what was enqueued before fabric_lane_mark is done */
    LANE_ALLOCATE, /* memory [bytes]; NULL: there is none */
    LANE_FREE,
};

struct lane_job {
    struct lane_job *next;
    enum lane_kind kind;
    int peer;
    bool outward;
    bool failed; /* did not happen, and will not: the epoch is given up */
    struct nccl_id *id;
    void *memory;
    uint64_t bytes, stamp; /* stamp: for the log of orders */
    void *event;           /* WATCH: from fabric_lane_mark. Otherwise the lane's own */
    int64_t until_ns;      /* the lane's own */
    void (*finished)(struct lane_job *job, void *owner);
};

struct lane_config {
    int device;
    void *stream; /* what fabric_lane_mark marks: the cudaStream_t payloads are made and read on; NULL: none */
    int wake_fd;  /* eventfd, rung when a job is finished or failed */
    int64_t transfer_ns; /* a transfer without progress for longer has failed */
    int64_t abort_ns;    /* what giving communicators up may take */
};

struct lane;

status_t fabric_lane_open(const struct lane_config *config, struct lane **lane, struct error *error);
/* Without an epoch: ends the thread. What it was given and did not finish can be taken, failed. */
void fabric_lane_stop(struct lane *lane);
void fabric_lane_release(struct lane *lane, void *memory); /* of ALLOCATE; after lane_stop */
void fabric_lane_close(struct lane *lane);                 /* after lane_stop */

status_t fabric_lane_begin(struct lane *lane, uint64_t epoch, int self, int count, struct error *error);
void fabric_lane_end(struct lane *lane); /* the second time does nothing */
/* After it every job of NCCL's and every WATCH can be taken, failed if it was not finished, and no memory of
 * theirs is touched any more. */
void fabric_lane_await_end(struct lane *lane);

void fabric_lane_give(struct lane *lane, struct lane_job *job);
struct lane_job *fabric_lane_take(struct lane *lane); /* the next finished one, or NULL */
/* The first failure since fabric_lane_begin: whose edge it was about, and what happened. */
bool fabric_lane_failed(struct lane *lane, int *peer, char why[LANE_WHY_BYTES]);

/* Marks in the configured stream what is enqueued there now. Any thread. NULL: without a stream. */
status_t fabric_lane_mark(struct lane *lane, void **event, struct error *error);
void fabric_lane_unmark(struct lane *lane, void *event); /* not watched, or not any more */

#endif
