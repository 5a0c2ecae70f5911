/*
 * crew.h - the ranks of a group at work, played forward: who has which piece when, by the ranks' own rules.
 *
 *     struct crew *crew = crew_open(&layout, 1);
 *     crew_add(crew, &job, 0);                               to the home it has, or the one it would get
 *     while (crew_next(crew) < INFINITY)
 *         if (crew_step(crew, &number)) ... job `number` is done at crew_now(crew) ...
 *     crew_close(crew);
 *
 * A job is text, steps, latent frames to decode and files to write, each of so many seconds; a step is for each branch the
 * blocks of the layout, one hop after the other, as worker/job_step.c walks them. What a rank does next is said by the functions that say it in
 * the worker (rules/turn.h, rules/share.h), and how many hops a home has out by the same bounds (rules/piece.h), so that jobs that share ranks
 * get here what they get there. Wide stages are opened for a job between two hops, and begin none while all their buffers are on links that
 * carry rows. What is left out: other tickets without rows, credits, previews, and that texts may come from the tier.
 *
 * grain: so many steps are played as one, in so many times the time: a long queue is looked at more coarsely. Times in seconds
 * from the moment of the call. Memory: some 6 kB a rank, 15 kB a home. One thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_CREW_H
#define REFRAIN_COORDINATOR_FORESIGHT_CREW_H

#include <stdbool.h>
#include <stdint.h>
#include "rules/plan.h"

enum { CREW_JOBS = 64 }; /* at once */

/* Rows on wide stages' links beside what they exchange, in seconds: on the ranks' own links inside a node, and on a node's. Home deals
 * them over its one link, a stage sends them on, and what a hop exchanges first leaves behind them. */
struct crew_way {
    double near, far;
};
struct crew_links {
    const struct crew_way *deal, *on, *collect; /* [stages] from home, to the next one, and home */
    double latency;                             /* of a message, besides all of these */
    double
        behind; /* where a stage's rows leave over one link, the share that leaves behind its first rank's */
    double
        products; /* so long may links carry rows when a hop has begun, before a block waits for what it exchanges */
    double
        slack; /* so much later than the first rank of a stage its others may begin before that one waits for them */
    double turn; /* the others are told so much later which hop the first one has begun */
};

struct crew_layout {
    const struct plan *plan; /* stages of one rank (plan_wide_stages); copied */
    bool wide;               /* a stage is several ranks: its blocks are hops, also home's */
    const double *pace;      /* [ranks] how much longer than usual a block takes there; NULL: 1 */
    double hop;              /* of a message between ranks */
    bool exact;              /* home's own blocks one at a time; or some at once, which is sooner played */
    const struct crew_links *links; /* of wide stages; NULL: whatever is sent is on its way for a hop */
    uint64_t newest;                /* age of the job that was taken last (share_elder) */
};

enum crew_phase { CREW_TEXT, CREW_STEPS, CREW_DECODE, CREW_FILES };

struct crew_pieces {
    uint32_t count; /* that are left */
    double seconds; /* of one */
};

struct crew_job {
    uint64_t number;
    const char *tenant; /* borrowed for crew_add */
    int home;           /* rank; negative: the one with the fewest jobs, where homes float */
    int priority;
    uint64_t age; /* 0: the next */
    double due;   /* its deadline; 0: none */
    uint32_t tokens, branches;
    enum crew_phase phase; /* where it stands */
    uint32_t done, steps;  /* steps, done and in all */
    uint32_t first_steps;  /* that the first of two experts makes; `steps`: there is one */
    bool cached;
    uint32_t head, tail;  /* blocks that its policy runs at every step */
    const uint8_t *skips; /* a bit for each step that skips what is between them; NULL: it is known only: */
    double hits[2];       /* of the steps left of each expert, their share */
    double block, begin, end; /* of one block; of home before and after the blocks: for a branch */
    struct crew_pieces text, frames, files;
};

/* grain: at least 1. NULL: no memory. */
struct crew *crew_open(const struct crew_layout *layout, uint32_t grain);
void crew_close(struct crew *crew); /* NULL is fine */

/* In the order in which they came. now: not before crew_now. False: there are CREW_JOBS. */
bool crew_add(struct crew *crew, const struct crew_job *job, double now);
uint32_t crew_count(const struct crew *crew);
/* Jobs of that priority or above. */
uint32_t crew_urgent(const struct crew *crew, int priority);

double crew_next(const struct crew *crew); /* when something happens next; INFINITY: nothing does */
double crew_now(const struct crew *crew);
/* That one thing. True: it was the end of job *number. */
bool crew_step(struct crew *crew, uint64_t *number);

#endif
