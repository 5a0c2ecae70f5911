/*
 * crew_core.h - what crew.c and crew_links.c share. Nobody else includes it.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_CREW_CORE_H
#define REFRAIN_COORDINATOR_FORESIGHT_CREW_CORE_H

#include "coordinator/foresight/crew.h"
#include "rules/share.h"
#include "rules/turn.h"

enum { BRANCHES = 2, PRIORITIES = 3, HOPS = BRANCHES * CREW_JOBS };

#define NANOSECONDS 1e9

enum branch_state { NEW, HERE, AWAY, DONE };

struct branch {
    enum branch_state state;
    uint32_t at, until; /* blocks */
    bool asked;         /* the policy's word was taken */
    bool inside;        /* of what may be skipped, and was not */
};

struct job {
    struct crew_job of; /* number 0: none is here */
    uint64_t arrival;
    int account;
    uint32_t frames;       /* latent ones, in all */
    uint32_t opening;      /* wide stages that have not answered yet */
    bool begun;            /* a step is */
    uint32_t made, missed; /* steps that this one stands for; of them, those that are computed */
    double owed;           /* computed steps beyond those that were */
    struct branch branch[BRANCHES];
};

/* What home can do for a job. */
enum act {
    ACT_STEP,
    ACT_BEGIN,
    ACT_ENTER,
    ACT_BLOCKS,
    ACT_SEND,
    ACT_LEAVE,
    ACT_OUTPUT,
    ACT_FINISH,
    ACT_PIECE
};

struct move {
    enum job_piece piece;
    enum act act;
    int branch;
};

/* Or, to a wide stage and back, the word that a job begins. */
struct hop {
    uint8_t job, branch;
    bool opens;
    double
        ready; /* at a wide stage: when all its ranks have their rows; the hop comes with those of the first one */
};

/* When the rows that were made in a buffer have left: those of a stage's first rank, which begins the hops, and all. */
struct lent {
    double first, all;
};

struct rank {
    double pace;
    bool home, stage, busy, idle;
    struct share share;
    struct turn *turn;          /* of a home */
    uint8_t at_home[CREW_JOBS]; /* [jobs], in no order */
    int jobs;
    int decodes; /* the job that has the decoder; -1: none */
    uint32_t out[PLAN_CHAINS][PRIORITIES];
    double link, far_link; /* of a wide stage: free from then on */
    double others_link;    /* of home's stage: those of the others, which give rows back while home deals */
    double behind;         /* seconds of its node's link for what goes behind the first rank's */
    struct lent lent[STAGE_BUFFERS];    /* the last hops that it made, the oldest first */
    bool waits;                         /* for that, to be woken */
    struct hop queue[HOPS + CREW_JOBS]; /* the oldest first */
    int queued;
    uint32_t coming; /* hops on their way to the queue */
    bool at_stage;   /* what it is busy with: a hop, or a move */
    struct hop hop;
    int job;
    struct move move;
    uint32_t blocks; /* of the move */
};

enum event_kind { AT_STAGE, AT_HOME, FREE, SENT };

struct event {
    double at;
    uint64_t order; /* of two at a time the one that was made first */
    enum event_kind kind;
    uint32_t rank;
    struct hop hop;
};

struct crew {
    struct plan plan;
    bool whole, wide; /* blocks of the ring are hops, whoever holds them */
    bool exact;
    double hop;
    struct crew_links links;
    uint32_t grain, count;
    uint32_t *first; /* [chains][ranks]: where each run begins */
    struct rank *ranks;
    struct job jobs[CREW_JOBS];
    uint64_t arrivals, orders, newest; /* newest: the greatest age */
    double now;
    uint32_t *idle; /* [ranks] that may have something to do, once all that happens at this time has */
    uint32_t idle_count;
    struct event *events; /* a heap, [room] */
    int event_count;
};

/* What happens `after` seconds from now, and what happens next. */
void crew_put(struct crew *crew, double after, enum event_kind kind, uint32_t rank, struct hop hop);
struct event crew_take(struct crew *crew);

/* It is in a stage's queue. */
void crew_come(struct crew *crew, uint32_t number, struct hop hop);
/* Home's rows to a stage (`first`), or a stage's to the next one. */
void crew_send(struct crew *crew, struct hop hop, uint32_t from, uint32_t to, bool first);
/* How long rows are on their way home. own: from the others of home's stage, while home's own link deals. */
double crew_home_in(struct crew *crew, uint32_t from, bool own);
/* Wide stages answer when they are ready for a job, between two hops, and it waits for all of them. */
void crew_open_stages(struct crew *crew, struct job *job);
void crew_answer(struct crew *crew, struct hop hop, uint32_t from);
/* May a stage begin a hop? If not, it is woken when it may. */
bool crew_has_buffer(struct crew *crew, uint32_t number);
/* Seconds that a hop takes beside its blocks if it begins now. */
double crew_wait(const struct crew *crew, const struct rank *rank, const struct hop *hop);

#endif
