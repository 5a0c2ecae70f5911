/*
 * fabric_nccl_core.h - what fabric_nccl.c, fabric_edge.c and fabric_landing.c share. Nobody else includes it.
 *
 * Everything is the I/O thread's.
 */
#ifndef REFRAIN_CLUSTER_FABRIC_NCCL_CORE_H
#define REFRAIN_CLUSTER_FABRIC_NCCL_CORE_H

#include "cluster/fabric_core.h"

enum {
    OUTSTANDING =
        2, /* per edge, payloads announced and not sent, or places proposed and not filled: one moves, one waits */
    STAMPS = FABRIC_MAX_CREDITS + 1,
    LANDING_BYTES =
        FABRIC_LANDING_BYTES, /* the smallest piece of memory: many small payloads then fit the same ones */
};

enum edge_state {
    EDGE_NONE,
    EDGE_NAMED,   /* outward: the id is being made, or was */
    EDGE_JOINING, /* the communicator is being made */
    EDGE_JOINED,  /* here; a first exchange has yet to pass */
    EDGE_WARMING, /* it was announced */
    EDGE_STANDS,
};

/* One direction between this member and a peer. */
struct edge {
    enum edge_state state;
    bool joined_there; /* outward: the peer said STANDS */
    struct nccl_id id;
    struct lane_job connect; /* NAME, then CONNECT */
    struct crossing warm;
};

/* A ring of stamps that are to be sent. */
struct stamps {
    uint64_t stamp[STAMPS];
    int first, count;
};

struct side {
    struct edge out, in;
    bool owes_edge, owes_stands, owes_warm; /* signals to be sent as soon as the transport takes them */
    struct stamps ready, go;                /* likewise */
    struct crossing_queue announced;        /* outward: READY has not come */
    int outstanding;                        /* announced, not sent; the first exchange does not count */
    struct crossing_queue
        landing; /* inward: announced; the first lacks memory, or an earlier one is to come yet */
    struct crossing_queue proposed; /* inward: GO has not come */
    int incoming;                   /* inward: proposed, not received; the first exchange too */
};

/* fabric->nccl: the I/O thread's but for what the functions of the owner use, which lock for themselves. */
struct nccl_side {
    struct lane *lane;
    struct order order;
    struct side *sides; /* [count]; NULL: no epoch */
    int count;
    bool over;           /* communicators are being given up, or there are none */
    bool closed;         /* the I/O thread has ended */
    struct parcel *kept; /* free device memory */
    int missing;         /* see fabric_nccl_missing */
};

#define CONTAINER(pointer, type, member) ((type *)(void *)((uint8_t *)(pointer)-offsetof(type, member)))

/* ------------------------------------------------------------------------------------------ fabric_nccl.c */

/* Gives the lane what nothing can come before any more. */
void crossing_issue(struct nccl_side *n);
/* There is a place for what a peer announced. */
void crossing_propose(struct nccl_side *n, int peer, struct crossing *crossing);
/* A send to the peer, or a receive from it; memory NULL: a first exchange. */
struct lane_job crossing_job(int peer, bool outward, void *memory, uint64_t bytes);

/* ------------------------------------------------------------------------------------------- fabric_edge.c */

struct edge *edge_of(struct nccl_side *n, const struct lane_job *job);
void edge_open(struct nccl_side *n, int peer); /* unless it is, or is being opened */

/* ---------------------------------------------------------------------------------------- fabric_landing.c */

/* Memory that nobody uses, to be given to the next message. */
void landing_keep(struct nccl_side *n, struct parcel *parcel);
/* Takes back what the owner has released since the last time. */
void landing_take_back(struct fabric *fabric);
/* One payload less is on its way from the peer: more may come. */
void landing_go_on(struct fabric *fabric, int peer);
/* Frees a list of memory, after lane_stop. */
void landing_close(struct lane *lane, struct parcel *parcel);

/* ------------------------------------------------------------------------------------------------- queues */

static inline void crossing_queue_init(struct crossing_queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static inline void crossing_queue_add(struct crossing_queue *queue, struct crossing *crossing)
{
    crossing->next = NULL;
    *queue->end = crossing;
    queue->end = &crossing->next;
}

static inline struct crossing *crossing_queue_take(struct crossing_queue *queue)
{
    struct crossing *crossing = queue->first;
    if (!crossing) return NULL;
    queue->first = crossing->next;
    if (!queue->first) queue->end = &queue->first;
    return crossing;
}

static inline void stamps_add(struct stamps *stamps, uint64_t stamp)
{
    stamps->stamp[(stamps->first + stamps->count++) % STAMPS] = stamp;
}

#endif
