/*
 * foretold.h - when jobs are said to be done, and when they are: a mixed queue through the whole service on the virtual clock.
 *
 *     struct foretold_found found;
 *     foretold_run(&lab, &(struct foretold_case){.ranks = 2, .jobs = 24}, &found, &error);
 *     ... foretold_error(&found, FORETOLD_AT_SUBMISSION, false) ...
 *
 * Some jobs come first, from which the service learns; then the queue, 15 to 45 steps (or what the case says), guided or not,
 * cached or not, of several lengths. What is said is noted for each job at four moments.
 */
#ifndef REFRAIN_TOOLS_SIM_FORETOLD_H
#define REFRAIN_TOOLS_SIM_FORETOLD_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "tools/sim/lab.h"
#include "tools/sim/rehearsal.h"

enum { FORETOLD_MOST_JOBS = 80, FORETOLD_FIRST = 8 };

enum foretold_moment {
    FORETOLD_AT_SUBMISSION,
    FORETOLD_ONCE_ALL_ARE_THERE,
    FORETOLD_AT_A_QUARTER, /* of its steps */
    FORETOLD_AT_HALF,
    FORETOLD_MOMENTS
};

struct foretold_case {
    int ranks, jobs;
    const char *home;            /* fixed, floating; NULL: what the plan chooses */
    const char *layout;          /* as refrain-coordinator's; NULL: its own choice */
    int in_flight;               /* 0: its own choice */
    int least_steps, most_steps; /* 0: 15, 45 */
    int64_t gap_ns;              /* between two submissions; 0: all at once */
    bool measured;               /* policies that measure, beside those that count steps */
    bool one_kind;               /* all jobs are alike but for their steps */
    bool priorities;             /* every sixth is urgent, every seventh can wait */
    double curve;                /* of a block's time, the share that grows with the square of its tokens */
};

struct foretold_found {
    int jobs;
    struct rehearsal_job job[FORETOLD_MOST_JOBS];
    Refrain__Priority priority[FORETOLD_MOST_JOBS];
    const char *cache[FORETOLD_MOST_JOBS];
    int frames[FORETOLD_MOST_JOBS], branches[FORETOLD_MOST_JOBS];
};

/* lab: of a model whose jobs may be so long and have what the case says. */
status_t foretold_run(struct lab *lab, const struct foretold_case *wanted, struct foretold_found *found,
                      struct error *error);

/* Of the index-th job, signed: above 0, it was said to be done later than it was. As a share of the time from its submission to its
 * end, or (rest) of what was still to come. False: nothing was said then. */
bool foretold_job_error(const struct foretold_found *found, int index, enum foretold_moment moment, bool rest,
                        double *error);
/* The median of their sizes, and the median as it is; jobs of which nothing was said count as 1. */
double foretold_error(const struct foretold_found *found, enum foretold_moment moment, bool rest);
double foretold_bias(const struct foretold_found *found, enum foretold_moment moment, bool rest);

#endif
