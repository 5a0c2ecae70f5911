/*
 * wiring.h - what the measured links of a group come to, as the planner wants them.
 *
 *     struct planner_links links;
 *     if (wiring_of(group, &links)) ...          every link between its ranks is known
 *
 * Pure; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_WIRING_H
#define REFRAIN_COORDINATOR_WIRING_H

#include "coordinator/groups.h"
#include "coordinator/planner.h"

/* False, with all of it unknown: a link was not measured yet, or the group has one rank. */
bool wiring_of(const struct group *group, struct planner_links *links);

#endif
