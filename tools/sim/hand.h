/*
 * hand.h - jobs given to virtual ranks by hand: no coordinator, only the orders it would send.
 *
 *     struct hand_job jobs[] = {{.steps = 24, .guidance = 5, .cache = "mask,mask=…"}};
 *     struct hand_config config = {.model = dir, .split = {.members = 4, .run = {10, 10, 10, 10}}, .costs = {...}};
 *     hand_run(&config, jobs, 1, &result, &error);
 *     ... jobs[0].step_ns[23], jobs[0].latents, result.busy_ns[2] ...
 *     hand_free(jobs, 1);
 *
 * Epoch, Load and Assign go out as soon as the ranks answer; all jobs are assigned at once, or as many as are to be in
 * flight, to home, or to the homes in turn if the split floats. What the ranks report is read, acknowledged and kept.
 */
#ifndef REFRAIN_TOOLS_SIM_HAND_H
#define REFRAIN_TOOLS_SIM_HAND_H

#include "tools/sim/costs.h"
#include "tools/sim/network.h"
#include "tools/sim/seat.h"
#include "worker/engine.h"

enum { HAND_MAX_STEPS = 1000 };

struct hand_job {
    /* What to make. */
    int steps, width, height, frames;
    double guidance, shift; /* shift 0: the model's */
    uint64_t seed;
    const char *prompt; /* NULL: some words */
    const char *cache;  /* NULL: off */

    /* What came of it. step_ns: when each step was done, on the virtual clock. */
    int64_t step_ns[HAND_MAX_STEPS];
    int steps_done;
    uint64_t hops[HAND_MAX_STEPS]; /* tickets with hidden states sent for each step, on all links */
    bool done;
    float *latents; /* of HAND_FILES: [latent_bytes / 4] as in the file, header included; malloc'ed */
    size_t latent_bytes;
    char failure[ERROR_TEXT_BYTES];
};

enum hand_end {
    HAND_FIRST, /* one job did all its steps */
    HAND_STEPS, /* every job did */
    HAND_FILES, /* every job's files are there */
};

struct hand_config {
    const char *model;     /* a checkpoint's directory */
    const char *directory; /* where ranks may write */
    struct split split;
    const double *speeds; /* [members]; NULL: all 1 */
    struct costs costs;
    struct network_config network; /* `seen` is not read */
    enum hand_end end;
    int in_flight;       /* jobs at once; 0: all */
    int credits;         /* of the fabric; 0: as worker/main.c has it */
    int64_t patience_ns; /* of the virtual clock; 0: more than anything takes */
};

struct hand_result {
    int64_t busy_ns[SEAT_MAX_RANKS];
    int64_t began_ns; /* the ranks were ready */
    int64_t ended_ns;
    uint64_t bytes; /* over all links */
    uint64_t events;
};

/* STATUS_DEADLINE: nothing moves any more, or patience is over. A job's failure is in the job. */
status_t hand_run(const struct hand_config *config, struct hand_job *jobs, int count,
                  struct hand_result *result, struct error *error);
void hand_free(struct hand_job *jobs, int count); /* the latents */

#endif
