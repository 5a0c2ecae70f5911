/*
 * movejobs.h - what the service knows of a group's jobs, for movecost.h to weigh a move by.
 *
 *     if (movejobs_gather(server, group, &jobs) && movejobs_weigh(server, group, &jobs, &plan, &worth)) ... move to plan ...
 *
 * The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_MOVEJOBS_H
#define REFRAIN_COORDINATOR_RANKS_MOVEJOBS_H

#include "coordinator/planner/movecost.h"
#include "coordinator/server.h"

struct movejobs {
    struct move_job jobs[2 * GROUP_SLOTS]; /* in flight, then those that wait for the same model */
    uint64_t ids[2 * GROUP_SLOTS];
    int count, in_flight;
};

/* False: nothing is left to be done, or it is not known what it takes. */
bool movejobs_gather(struct server *server, const struct group *group, struct movejobs *jobs);

/* The layout that the group's ranks, its guests among them, would get for these jobs; is it worth the move? worth->now 0: it
 * is not known. */
bool movejobs_weigh(struct server *server, const struct group *group, const struct movejobs *jobs,
                    struct plan *plan, struct move_worth *worth);

/* Seconds of work that a move would have done again, of all jobs. */
double movejobs_again(const struct movejobs *jobs);

/* Most of its decoding is done, or all of it. */
bool movejobs_nearly_done(const struct job *job);

#endif
