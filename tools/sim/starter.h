/*
 * starter.h - the virtual launcher: starts a group of seats, replaces single ones, starts them all anew.
 *
 *     starter_open(&(struct starter_config){.ranks = 4, .start_ns = SECOND_NS, .seat = {...}}, &starter, &error);
 *     seat_kill(starter_seat(starter, 2));          the coordinator finds out and sends Replace
 *     starter_close(starter);
 *
 * In place of cluster/launcher: what that program says to the coordinator (Launcher, SeatEnded) and does when it is
 * told to (Replace, Relaunch, Shutdown), without processes. A seat takes `start_ns` from the order to its Hello.
 */
#ifndef REFRAIN_TOOLS_SIM_STARTER_H
#define REFRAIN_TOOLS_SIM_STARTER_H

#include "tools/sim/seat.h"

struct starter;

struct starter_config {
    int ranks;
    const double *speeds;    /* [ranks], borrowed; NULL: all 1 */
    int64_t start_ns;        /* of a process, until its Hello */
    bool silent;             /* nobody replaces anything: ranks started by hand */
    struct seat_config seat; /* what all have in common */
};

status_t starter_open(const struct starter_config *config, struct starter **starter, struct error *error);
void starter_close(struct starter *starter); /* NULL is fine; closes all seats there ever were */

/* Who sits there now; NULL: nobody yet. */
struct seat *starter_seat(const struct starter *starter, int rank);
int starter_started(const struct starter *starter); /* processes so far */

#endif
