/*
 * drain.h - ranks that are to serve no more, and ranks that serve again.
 *
 *     drain_load(server, &error);                                  what was drained before a restart
 *     drain_ranks(server, "node2", text, sizeof text, &error);     "rank 1 of group 3fa9c2e1 is drained: ..."
 *     drain_undo(server, "3fa9/1", text, sizeof text, &error);
 *
 * A drained rank is told to end when the jobs in flight have come to the end of their steps (move.h); its group goes on without
 * it, in a new epoch and a new layout, and the jobs from their checkpoints. That is no loss of theirs. What is drained stays so over a restart, until it is undone or
 * its group has ended. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_DRAIN_H
#define REFRAIN_COORDINATOR_RANKS_DRAIN_H

#include "coordinator/server.h"

status_t drain_load(struct server *server, struct error *error);

/* who: "GROUP/RANK" with the first letters of a group's name, "RANK" where there is one group, or a host's name. text
 * [bytes]: what was done, for people. STATUS_NOT_FOUND: there is no such rank; STATUS_UNSUPPORTED: its group cannot go on
 * with fewer ranks; STATUS_CONFLICT: the layout that was wished for needs them; STATUS_NO_MEMORY: the model does not fit
 * those that would be left. Nothing was changed then. */
status_t drain_ranks(struct server *server, const char *who, char *text, size_t bytes, struct error *error);
/* Has the seats filled again; the group works on meanwhile. */
status_t drain_undo(struct server *server, const char *who, char *text, size_t bytes, struct error *error);

/* Of a group all of whose ranks were drained: its launcher is not needed any more. */
void drain_launcher(struct server *server, const struct group *group);

#endif
