/*
 * finish.h - when jobs will be done: groups and their queue played forward.
 *
 *     struct finish_group group = {.limit = 4, .ranks = 2, .model = 1};
 *     struct finish_job jobs[2] = {{.group = 0, .model = 1, .moves = 24, .work = 3}, {.group = -1, ...}};
 *     finish_play(&group, 1, jobs, 2, describe, context);
 *     ... jobs[1].done seconds from now ...
 *
 * A group takes a job from the queue when it has a place, in the order given; one of another model waits until it is empty. What its ranks do
 * with their jobs is crew.h's. It is played with as coarse a grain as keeps it within some ten thousand moves; of a long queue the first
 * FINISH_PLAYED jobs are, and those behind them follow at the rate at which these were done.
 *
 * Plain values; memory only for its own time. One thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_FINISH_H
#define REFRAIN_COORDINATOR_FORESIGHT_FINISH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "coordinator/foresight/crew.h"

enum {
    FINISH_GROUPS = 64,
    FINISH_PLAYED = 192
}; /* groups at most; jobs that are played, those in flight included */

struct finish_group {
    uint32_t limit; /* jobs at once */
    uint32_t ranks;
    double ready;   /* seconds until it can work */
    double load;    /* seconds to load another model */
    uint64_t model; /* loaded; 0: none */
};

struct finish_job {
    int group;      /* in flight there; negative: waits */
    int priority;   /* the higher first */
    uint64_t model; /* not 0 */
    double from;    /* seconds until it is there to be taken; 0: it is */
    double moves;   /* a branch of a step is one: how much there is to play */
    double work;    /* in any unit that is the same for all */
    double done;    /* out: seconds from now; INFINITY: no group ever takes it */
};

/* The job's work on the group, and the layout that the group has for it. number and due are the caller's; its tenant's name stays
 * valid for the call. False: nothing is known of it. */
typedef bool finish_describe_fn(void *context, size_t job, int group, struct crew_layout *layout,
                                struct crew_job *work);

/* jobs: those in flight first, the earlier first, then those that wait, in the order in which they are taken; of those that come
 * later the higher priority goes before what is then left of the others. */
void finish_play(const struct finish_group *groups, int group_count, struct finish_job *jobs, size_t count,
                 finish_describe_fn *describe, void *context);

#endif
