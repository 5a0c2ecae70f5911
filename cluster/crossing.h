/*
 * crossing.h - one payload in device memory on its way between two members, as either of them sees it.
 *
 * Lives inside the message it belongs to (struct outgoing, struct parcel) or inside an edge, for the first
 * exchange over it. I/O thread.
 */
#ifndef REFRAIN_CLUSTER_CROSSING_H
#define REFRAIN_CLUSTER_CROSSING_H

#include "cluster/fabric_lane.h"
#include "cluster/order.h"

struct crossing {
    struct order_place place; /* first, so that one cast leads back */
    struct lane_job job;
    bool busy;             /* the job is with the lane */
    struct crossing *next; /* among those of a peer that wait for memory, or for an answer */
};

struct crossing_queue {
    struct crossing *first, **end;
};

#endif
