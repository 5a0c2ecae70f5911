/*
 * repair.h - what the coordinator does about ranks that are gone: their jobs go back to the queue, their
 * seats are filled by a launcher, groups that cannot be repaired are ended and started anew.
 *
 *     repair_look(server, group);
 *     if (group->disturbed) repair_give_back(server, group, why);
 *     GATHERING: repair_seats(server, group);     LOST: repair_end_group(server, group);
 *     READY: repair_settled(server, group);
 *
 * Level-triggered like schedule.c, which calls it once per turn. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_REPAIR_H
#define REFRAIN_COORDINATOR_RANKS_REPAIR_H

#include "coordinator/server.h"

/* Notes which of the group's seats launchers can fill now, and whose ranks leave with theirs. */
void repair_look(struct server *server, struct group *group);
/* All jobs in flight on the group wait again; that of a job which was there alone may be the one that makes
 * it fail. */
void repair_give_back(struct server *server, struct group *group, const char *why);
void repair_seats(struct server *server, struct group *group);
void repair_settled(struct server *server, struct group *group);
/* Tells who is left of a LOST group, has another one started, and frees it. */
void repair_end_group(struct server *server, struct group *group);
/* Forgets launchers that fell silent. */
void repair_launchers(struct server *server);

/* Reports: a launcher says what it has; a child of a launcher ended. */
void repair_take_launcher(struct server *server, const struct wire_peer *peer,
                          const Refrain__Launcher *message);
void repair_take_seat_ended(struct server *server, const struct launcher *launcher,
                            const Refrain__SeatEnded *message);

#endif
