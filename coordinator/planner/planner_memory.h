/*
 * planner_memory.h - what the ranks of a layout hold, for planner_cost.c.
 *
 *     struct planner_room room;
 *     planner_room_of(&request, &layout, in_flight, &room);
 *     room.work + room.buffers + blocks * room.block <= memory_bytes ?          a stage; at home room.home on top of it
 *
 * Where the model is known on paper, from what its card says (needs.h), the same that the coordinator looks at before it takes a job;
 * otherwise by formulas that come within a tenth of it (docs/planner.md). Pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_PLANNER_MEMORY_H
#define REFRAIN_COORDINATOR_PLANNER_PLANNER_MEMORY_H

#include "coordinator/planner/planner.h"

/* Bytes. */
struct planner_room {
    double work;    /* of any rank: the backend's own, a pass */
    double buffers; /* of a stage that is no home, unless homes float: for hops */
    double
        block; /* of each block: weights of the experts that are held, keys and values of the texts in flight */
    double home; /* of a home: its weights, its jobs, the decoder */
};

void planner_room_of(const struct planner_request *request, const struct planner_layout *layout,
                     uint32_t in_flight, struct planner_room *room);

#endif
