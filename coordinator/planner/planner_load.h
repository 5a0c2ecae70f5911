/*
 * planner_load.h - until the last of so many equal jobs is done, of which so many are in flight.
 *
 *     struct planner_pace pace = {.steps = {26, 14}, .alone = {0.48, 0.54}, .cycle = {0.16, 0.28}};
 *     planner_load_seconds(&pace, 6, 6);
 *
 * A queue that never ends is served at the pace of the busiest rank. A few jobs are not: a home takes its oldest jobs first
 * (worker/turn.h, rule 7), so the last job of all goes at the pace of one alone, and jobs that need the second of two
 * pools come to it together. How the service's ranks share themselves out was seen on the virtual clock (docs/planner.md).
 * Pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_PLANNER_LOAD_H
#define REFRAIN_COORDINATOR_PLANNER_PLANNER_LOAD_H

#include <stdbool.h>
#include <stdint.h>

enum { PLANNER_PHASES = 2 };

/* Seconds of a step: of one job alone, and the busiest rank's part of it, in each phase; where both experts lie on the same
 * ranks there is only the first. */
struct planner_pace {
    double steps[PLANNER_PHASES], alone[PLANNER_PHASES], cycle[PLANNER_PHASES];
    /* Who gets the ranks: as many jobs as fill them, at the same pace, and the others nothing; or all, from 0, the older one as
     * much as it can take, to 1, all alike, which above 0 no more than fill them are in any case. */
    bool groups[PLANNER_PHASES];
    double even[PLANNER_PHASES];
    /* Where home serves a wide stage, of the first phase: seconds of one hop there, and from when a step's first hop begins there
     * until its last one is back. Then it waits for the hop of another job that is there. hop 0: it does not. */
    double hop, away;
};

/* jobs, in_flight >= 1. */
double planner_load_seconds(const struct planner_pace *pace, uint32_t jobs, uint32_t in_flight);
/* Jobs that go at the same pace do not begin a step together, nor end together: how much later the last of them does. */
double planner_load_apart(const struct planner_pace *pace, uint32_t jobs);

#endif
