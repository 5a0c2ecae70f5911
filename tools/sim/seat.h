/*
 * seat.h - a virtual rank: the real struct rank with a real engine on a real (tiny) model, whose turns take the time
 * that costs.h charges.
 *
 *     seat_open(&(struct seat_config){.group = "g", .rank = 1, .ranks = 4, .speed = 1, ...}, &seat, &error);
 *     seat_kill(seat);  seat_stop(seat);  seat_continue(seat);
 *     seat_close(seat);
 *
 * A seat takes a turn when something arrives, when a deadline passes, and after each piece of work; while it computes
 * it takes nothing. Seats stay until the world is closed, also those that were killed.
 */
#ifndef REFRAIN_TOOLS_SIM_SEAT_H
#define REFRAIN_TOOLS_SIM_SEAT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

struct seat;
struct team;

enum { SEAT_MAX_RANKS = 64 }; /* of a group */

struct seat_config {
    const char *group; /* copied */
    int rank, ranks;
    double speed;          /* 1: as the costs say; 2: in half the time */
    struct team *team;     /* of all seats: they take turns */
    const char *directory; /* private folders are made below it; borrowed until seat_close */
    int credits;           /* of the fabric; 0: as worker/main.c has it */
    int64_t orphan_ns, join_ns;
    bool checkpoints; /* has a courier */
    bool alone;       /* started by itself, not with the group */
};

status_t seat_open(const struct seat_config *config, struct seat **seat, struct error *error);
void seat_close(struct seat *seat); /* NULL is fine */

void seat_kill(struct seat *seat);
void seat_stop(struct seat *seat);
void seat_continue(struct seat *seat);

bool seat_alive(const struct seat *seat);      /* neither killed nor ended by itself */
int seat_port(const struct seat *seat);        /* in the network */
int64_t seat_busy_ns(const struct seat *seat); /* time spent computing so far */

#endif
