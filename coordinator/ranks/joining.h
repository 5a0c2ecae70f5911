/*
 * joining.h - ranks that a launcher brings to a group that is there (refrain-launch --join).
 *
 *     status = joining_place(server, message, &known, &near, &error);    which group is meant, and which seats it gets
 *     joining_end(server, group->name, why);                             the group is gone, and so are they
 *
 * The seats are the next ones of the group, kept for it as long as it is there; its ranks are guests when they come (move.h), and
 * a lost one is started again like any other. The loop thread; keeps nothing.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_JOINING_H
#define REFRAIN_COORDINATOR_RANKS_JOINING_H

#include "coordinator/server.h"

/* The launcher's message with the group's whole name (borrowed) and its first seat. *near: all ranks that are there talk over
 * Unix sockets. Failure is a sentence for whoever typed it: STATUS_INVALID, STATUS_NOT_FOUND: no group, or several, of that name;
 * STATUS_UNSUPPORTED: another fabric, or one that cannot grow; STATUS_CONFLICT: there is no room, or the group is not complete. */
status_t joining_place(struct server *server, const Refrain__Launcher *message, Refrain__Launcher *known,
                       bool *near, struct error *error);
void joining_end(struct server *server, const char *group, const char *why);

#endif
