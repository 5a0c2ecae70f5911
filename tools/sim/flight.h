/*
 * flight.h - a queue of equal jobs through the whole service, from text to files: how much of their time the ranks
 * compute, and when they do not.
 *
 *     struct flight_found found;
 *     flight_run(&lab, &(struct flight_case){.ranks = 2, .jobs = 12, .in_flight = 4}, &found, &error);
 *     ... found.share, found.rank[0].idle ...
 *
 * Pieces of work take the times that the reference model was measured with on one core (docs/speed.md), at 64x64x17.
 */
#ifndef REFRAIN_TOOLS_SIM_FLIGHT_H
#define REFRAIN_TOOLS_SIM_FLIGHT_H

#include <stdbool.h>
#include "base/status.h"
#include "tools/sim/lab.h"
#include "tools/sim/seat.h"

enum { FLIGHT_MAX_JOBS = 200 };

struct flight_case {
    int ranks, jobs, in_flight;
    bool mixed;        /* jobs of 15 to 45 steps; else all of 30 */
    const char *cache; /* NULL: off */
    const char *home;  /* fixed, floating; NULL: what the plan chooses */
};

/* Of one rank, as shares of the whole time. */
struct flight_rank {
    double busy;
    double idle;  /* while there were jobs in the queue */
    double drain; /* after the last one had been taken */
};

struct flight_found {
    double seconds; /* from the first submission to the last end */
    double share;   /* of the time that all ranks together had, spent computing: 1 is independent ranks */
    double queued;  /* the same until the queue was empty */
    struct flight_rank rank[SEAT_MAX_RANKS];
};

status_t flight_run(struct lab *lab, const struct flight_case *wanted, struct flight_found *found,
                    struct error *error);

#endif
