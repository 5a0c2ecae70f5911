/* fabric_lane_core.h - what fabric_lane.c and fabric_lane_end.c share. Nobody else includes it. */
#ifndef REFRAIN_CLUSTER_FABRIC_LANE_CORE_H
#define REFRAIN_CLUSTER_FABRIC_LANE_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include "base/clock.h"
#include "cluster/fabric_lane.h"

/* One direction to one peer. */
struct channel {
    void *comm, *stream; /* NULL: none */
};

struct lane_queue {
    struct lane_job *first, **end;
};

struct lane {
    struct nccl nccl;
    struct lane_config config;
    pthread_t thread;
    FILE *log; /* of orders; NULL: none is kept */

    pthread_mutex_t lock; /* a leaf */
    pthread_cond_t changed;
    struct lane_queue given, finished; /* lock */
    bool live, parked;                 /* lock: an epoch is on; the thread stays away from NCCL */
    bool closing, closed;              /* lock: the thread shall end; it did */
    atomic_bool ending;                /* lock to write: communicators are being given up */
    bool failed;                       /* lock */
    int failed_peer;                   /* lock */
    char why[LANE_WHY_BYTES];          /* lock */
    void **events;                     /* lock: [event_count], free ones */
    int event_count, event_room;

    /* The lane's thread's; while it is parked, the giving-up thread's. */
    uint64_t epoch;
    int self, count;
    struct channel *channels;  /* [2 * count], outward ones odd */
    struct lane_queue working; /* begun, not finished */
    void *scratch;             /* [2 * count * LANE_SCRATCH_BYTES] */
    int scratch_count;
};

enum { LANE_SCRATCH_BYTES = 256 };

void fabric_lane_queue_init(struct lane_queue *queue);
void fabric_lane_queue_add(struct lane_queue *queue, struct lane_job *job);
struct lane_job *fabric_lane_queue_take(struct lane_queue *queue); /* NULL: it is empty */
void fabric_lane_ring(struct lane *lane);

#endif
