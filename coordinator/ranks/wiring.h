/*
 * wiring.h - what is known of a group's links and of what a job sends over them, as the planner wants it.
 *
 *     struct planner_links links;
 *     if (wiring_of(group, &links)) ...          every link between its ranks is known
 *
 * Pure; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_WIRING_H
#define REFRAIN_COORDINATOR_RANKS_WIRING_H

#include "coordinator/ranks/groups.h"
#include "coordinator/jobs/jobs.h"
#include "coordinator/planner/layout.h"

/* False, with all of it unknown: a link was not measured yet, or the group has one rank. */
bool wiring_of(const struct group *group, struct planner_links *links);

/* The way between a rank and the coordinator, which is on `host`: as fast as the rank's link to another one there, or else as the
 * slowest to one of another host. False: none of these is known, or they are not what a checkpoint takes (ZeroMQ over sockets,
 * as the fabric zmq does). */
bool wiring_way(const struct group *group, uint32_t rank, const char *host, struct link *way);

/* The part of a load that says what is sent: links, tokens and sizes. */
void wiring_describe(const struct group *group, const Refrain__ModelCard *card, const struct outlook *outlook,
                     struct layout_load *load);

#endif
