/*
 * parcel.h - memory for one received message, from its first byte until the owner has released it.
 *
 *     struct parcel *parcel = parcel_take(&shelf, ticket.bytes);      NULL: no memory
 *     ... bytes arrive at parcel->bytes, the owner reads them ...
 *     parcel_give(&shelf, parcel);
 *
 * A shelf keeps what was given back, because a fresh 32 MiB costs more in page faults than in copying. Any
 * thread.
 */
#ifndef REFRAIN_CLUSTER_PARCEL_H
#define REFRAIN_CLUSTER_PARCEL_H

#include <pthread.h>
#include <stdbool.h>
#include "cluster/fabric.h"
#include "cluster/crossing.h"

/* An event waiting for the owner; lives inside the thing it is about, so that queueing one cannot fail. */
struct event_node {
    struct event_node *next;
    struct fabric_event event;
};

struct parcel {
    struct event_node note; /* its RECEIVED event; first, so that one cast leads back */
    struct parcel *next;    /* in the shelf, or among those of a peer that still arrive */
    uint64_t epoch;
    uint64_t placed;            /* bytes that have been given a place; I/O thread only, as the next four */
    uint64_t filled;            /* bytes that are there */
    uint64_t told;              /* of those, the place's listener was told of */
    int pending;                /* places given and not filled yet */
    bool orphan;                /* its epoch is over: give it back as soon as nothing is pending */
    size_t capacity;            /* of bytes */
    uint8_t *bytes;             /* [capacity], 64-byte aligned */
    uint8_t *target;            /* where the payload goes: bytes, or in `place` */
    struct fabric_place *place; /* of the owner's; fabric->lock. NULL: it is not there, or is complete */
    /* fabric nccl: then it lies on no shelf, but with cluster/fabric_nccl.c */
    bool on_device;
    struct crossing crossing;
};

struct parcel_shelf {
    pthread_mutex_t lock;
    struct parcel *first; /* given back, newest first */
    size_t kept_bytes;    /* their capacities */
    int kept, taken;      /* how many lie here; how many are out */
};

void parcel_shelf_init(struct parcel_shelf *shelf);
void parcel_shelf_clear(struct parcel_shelf *shelf); /* frees what lies there; what is taken is the taker's */

/* A parcel of at least `bytes` (0 is fine), its counters zero. NULL without memory. */
struct parcel *parcel_take(struct parcel_shelf *shelf, uint64_t bytes);
void parcel_give(struct parcel_shelf *shelf, struct parcel *parcel);

#endif
