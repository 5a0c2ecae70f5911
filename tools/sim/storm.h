/*
 * storm.h - a queue of mixed jobs on a service whose ranks and coordinator are killed and stopped at random, on the
 * virtual clock; every output is compared with its undisturbed run.
 *
 *     struct calm calm = {.lab = &lab};
 *     storm_run(&calm, &(struct storm_case){.ranks = 4, .jobs = 8, .seed = 1, .pause_ns = 2 * SECOND_NS}, &found, &error);
 *     calm_free(&calm);
 */
#ifndef REFRAIN_TOOLS_SIM_STORM_H
#define REFRAIN_TOOLS_SIM_STORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tools/sim/lab.h"

enum { STORM_KINDS = 6, STORM_MAX_JOBS = 64 };

/* Latents of each kind of job as one undisturbed rank makes them; filled as they are needed. */
struct calm {
    struct lab *lab;
    void *latents[STORM_KINDS];
    size_t bytes[STORM_KINDS];
};
void calm_free(struct calm *calm);

struct storm_case {
    int ranks, jobs;
    uint64_t seed;
    int64_t pause_ns; /* between two disturbances, on average; 0: none */
    int64_t until_ns; /* no disturbance after that; 0: 20 s */
    bool coordinator; /* is killed, too */
    bool drains;      /* ranks are drained, and told to come back, too */
};

struct storm_found {
    int kills, stops, losses; /* ranks killed, ranks stopped for a while, coordinators killed */
    int drains;               /* ranks drained or told to come back, where that was not refused */
    int processes;            /* ranks started */
    int failed, different;    /* jobs that did not complete; latents that are not those of the calm */
    int given_up;             /* jobs whose ranks happened to be lost so often that they were taken for the cause */
    int steps, steps_wanted;  /* computed (as far as the clients heard of them), and needed */
    double seconds;           /* of the virtual clock, until the last job had ended */
    char first[512];          /* sentence about the first failure */
};

status_t storm_run(struct calm *calm, const struct storm_case *wanted, struct storm_found *found,
                   struct error *error);

#endif
