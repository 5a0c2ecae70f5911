/*
 * move.h - a group gets another layout, more ranks or fewer, while its jobs run.
 *
 *     move_turn(server, group);      once per turn, before what follows from the group's state
 *
 * Wanted for one of three reasons: a rank's seat was drained; a rank came and is the group's guest; or another layout would have
 * the jobs done so much sooner that moving them pays (movecost.h). Where nothing is in flight it is done at once. Otherwise the
 * homes are told to let their jobs rest at the end of the step they are at, with a checkpoint each; when all of these are durable,
 * the jobs go back into the queue, the ranks that leave are told to end, guests become ranks, and a new epoch begins, as after
 * a loss (repair.h): it loads the layout, and the jobs go on from their checkpoints. Nothing is made twice but what no checkpoint
 * holds.
 *
 * It begins when no job is about to be done, or has been for half a minute. It has a deadline: a rank that must leave then leaves
 * whatever the jobs say, anything else is called off, and tried again a minute later. No
 * layout is chosen sooner than --settle after the last one, and unless ranks leave every job that was moved must have made a step
 * since.
 *
 * What is wanted follows from what is there (marked seats, guests), so that nothing need be remembered over a restart: homes
 * go on when a new coordinator greets them, and the next one asks again.
 *
 * The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_MOVE_H
#define REFRAIN_COORDINATOR_RANKS_MOVE_H

#include "coordinator/server.h"

void move_turn(struct server *server, struct group *group);
/* Home lets a job rest. */
void move_take_rested(struct slot *slot, const Refrain__Rested *rested);
/* Somebody greets the ranks anew: a home forgets with the greeting that its jobs were to rest. */
void move_retell(struct server *server, const struct group *group, uint32_t rank);

#endif
