/*
 * finish.h - when jobs will be done: groups and their queue played forward, as fluids.
 *
 *     struct finish_group group = {.limit = 4, .even = true, .model = 1};
 *     struct finish_job jobs[2] = {{.group = 0, .model = 1, .steps = 12, .tail = 1}, {.group = -1, ...}};
 *     finish_play(&group, 1, jobs, 2, cost, context);
 *     ... jobs[1].done seconds from now ...
 *
 * A group has one thing to give: time of its busiest rank. A step of a job takes `cycle` of it, and no less than `alone` from
 * end to end, so that a job cannot have all of it. Where homes float, all jobs make steps at one pace (worker/share.h); a
 * fixed home gives the first job as much as it can take, then the next (worker/turn.h). Text, decoding and files, the tail, come
 * after steps but have a part of their own. Jobs of higher priority first. A group takes a job from the queue when it has a
 * place, in the order given; one of another model waits until it is empty.
 *
 * Plain values, pure functions. Memory: none.
 */
#ifndef REFRAIN_COORDINATOR_FINISH_H
#define REFRAIN_COORDINATOR_FINISH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FINISH_GROUPS = 64, FINISH_FLIGHT = 64 }; /* groups, and jobs in flight of a group, at most */

/* Seconds of a job on a group. */
struct finish_cost {
    double alone, cycle;           /* of a step: by itself; of the busiest rank */
    double tail_alone, tail_cycle; /* of text, decoding and files */
};

struct finish_group {
    uint32_t limit; /* jobs at once */
    bool even;      /* all steps at one pace */
    double ready;   /* seconds until it can work */
    double load;    /* seconds to load another model */
    uint64_t model; /* loaded; 0: none */
};

struct finish_job {
    int group;      /* in flight there; negative: waits */
    int priority;   /* the higher first */
    uint64_t model; /* not 0 */
    double steps;   /* to be made */
    double tail;    /* share of the tail that is left, 0..1 */
    double done;    /* out: seconds from now; INFINITY: no group ever takes it */
};

typedef void finish_cost_fn(void *context, size_t job, int group, struct finish_cost *cost);

/* jobs: those in flight first, the earlier first, then those that wait, in the order in which they are taken. */
void finish_play(const struct finish_group *groups, int group_count, struct finish_job *jobs, size_t count,
                 finish_cost_fn *cost, void *context);

#endif
