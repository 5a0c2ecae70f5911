/*
 * tier_core.h - what the files of a rank's tier share: tier.c answers jobs, tier_move.c fetches from other ranks and sends
 * to them, tier_thread.c reads files, hashes, and tells the coordinator what is here. Nobody else includes this.
 *
 * Fetches and servings belong to the compute thread. What the tier's thread does is a task, a value that goes to it through
 * one ring and comes back through another; `lock` guards the rings and what it is to tell, and is never held while a store
 * or the control thread's mailbox is called.
 */
#ifndef REFRAIN_WORKER_TIER_CORE_H
#define REFRAIN_WORKER_TIER_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <xxhash.h>
#include "worker/tier.h"

enum {
    TIER_SERVINGS = 32,                   /* items on their way to others at once; more are refused (busy) */
    TIER_TASKS = 256,                     /* under way at once; more commits are made by who asks for them */
    TIER_SMALL = 64 << 10,                /* bytes that are hashed at once, rather than by the thread */
    TIER_KEPT_MS = 2000,                  /* what was fetched, for who asked for it */
    TIER_ABSENT_MS = 100,                 /* what could not be fetched is not looked for again so soon */
    TIER_QUESTIONS = 8,                   /* on their way at once */
    TIER_LANDINGS = 8,                    /* items that come in, or stand still, or were given up half-way */
    TIER_QUESTION_BYTES = KEY_BYTES + 24, /* key, hash u64, size u64, patience in ms u64 */
    TIER_TRIES = 3,                       /* holders, one after the other, for one fetch */
    TIER_COPY_MS = 30000,                 /* for a second copy, of which nobody waits */
    TIER_STALL_MS = 50,                   /* a transfer that makes no way lets the next one begin */
    TIER_TELL_MS = 1000,                  /* between figures; changes are told at once */
    TIER_PART = 4 << 20,                  /* bytes of an item in one ticket */
    TIER_PARTS = 2, /* of them posted at once, to all others together: one moves, the next is there */
    TIER_SPARE_PART =
        64
        << 10, /* of a second copy, which is sent where nothing else of the tier is on the way: one at a time */
};
/* No job's: of those the highest begin with a member's number. A part's says whose it is. */
#define TIER_COOKIE          UINT64_MAX
#define TIER_COOKIE_QUESTION (UINT64_MAX - TIER_QUESTIONS)
#define TIER_COOKIE_PART     (TIER_COOKIE_QUESTION - TIER_SERVINGS)

/* Payload of a TICKET_FETCH: the fabric's until it is SENT. */
struct tier_question {
    bool under_way;
    uint8_t wire[TIER_QUESTION_BYTES];
};

enum tier_task_kind { TASK_READ, TASK_LEND, TASK_COMMIT };

struct tier_task {
    enum tier_task_kind kind;
    int place; /* READ: its fetch; LEND: its serving */
    struct key key;
    struct draft draft; /* COMMIT */
    struct view view;   /* the answer, if `reason` is MISSES */
    enum miss reason;
};

/* A draft that the fabric writes parts into. It outlives a fetch that fails while a part is half-way: until that has come, or the
 * epoch was left, the draft stays taken, and with it its memory. */
struct tier_landing {
    bool taken, abandoned;
    struct key key;
    struct draft draft;
    struct fabric *fabric;
    struct fabric_place place;
    XXH3_state_t
        *hash; /* of what has come: the fabric's I/O thread hashes it, until the place was withdrawn */
    atomic_ullong landed; /* bytes of that */
};

enum tier_fetch_state {
    FETCH_FREE,
    FETCH_READING, /* the thread reads it from disk */
    FETCH_ASKING,  /* the coordinator is asked who has it */
    FETCH_LEASED,  /* that is known; it waits for its turn */
    FETCH_MOVING,  /* its parts arrive */
    FETCH_HERE,    /* `view` waits for who asked */
    FETCH_MISSED,  /* `reason` */
};

struct tier_fetch {
    enum tier_fetch_state state;
    struct key key;
    struct view view;
    enum miss reason;
    bool counted;     /* MISSED: in the statistics */
    bool spare;       /* a second copy, that no job waits for */
    int64_t until_ns; /* HERE, MISSED: then it is forgotten; else: then it ends */
    uint64_t number;  /* of the question, and of the transfer */
    uint64_t lease;   /* 0: none */
    int holder, tries;
    uint64_t bytes, xxh3;
    uint64_t received, landed; /* in whole parts; of parts, when it was looked at last */
    double seconds;
    struct tier_landing *landing; /* MOVING: where its parts arrive */
    int64_t asked_until_ns;       /* the latest deadline of those who ask for it */
    int64_t moved_ns;             /* when the last part came, or was asked for */
};

enum tier_serving_state {
    SERVING_FREE,
    SERVING_READING,   /* the thread reads it from disk */
    SERVING_ABANDONED, /* ... and nobody wants it any more */
    SERVING_SENDING,
    SERVING_ENDING,   /* nothing more is sent; a part is on its way */
    SERVING_REFUSING, /* TICKET_GONE is to be sent */
};

struct tier_serving {
    enum tier_serving_state state;
    int peer;
    uint64_t transfer, sent;
    int parts;            /* under way */
    bool spare;           /* a second copy */
    uint64_t bytes, xxh3; /* that the asker expects */
    struct view view;     /* SENDING, ENDING */
    enum miss reason;     /* REFUSING */
    int64_t until_ns;
};

struct tier {
    struct store *store;
    struct level_memory device; /* the store's, if it has such a level */
    uint64_t numerics;
    int arrived; /* eventfd: tier_tend has something */
    int tasks;   /* given to the thread and not taken back */
    struct tier_fetch fetches[TIER_FETCHES];
    struct tier_serving servings[TIER_SERVINGS];
    struct tier_question questions[TIER_QUESTIONS];
    struct tier_landing landings[TIER_LANDINGS];
    struct engine *engine;   /* NULL: not in an epoch with others */
    int serving;             /* whose part was posted last */
    int parts;               /* posted and not SENT yet */
    uint64_t numbers;        /* of fetches and questions, so far */
    struct tier_seek *seeks; /* asked and not answered: the jobs' */
    pthread_t thread;
    bool thread_runs;
    uint64_t *told; /* the thread's: hashes of the figures told last */

    pthread_mutex_t lock;
    pthread_cond_t work, quiet;
    struct control *control;                             /* NULL: no coordinator */
    struct tier_task todo[TIER_TASKS], done[TIER_TASKS]; /* rings */
    int todo_first, todo_count, done_first, done_count;
    bool stop;
    bool tell, anew, telling; /* changes are to be told; everything is; the thread is at it */
};

/* tier_thread.c */
status_t tier_thread_start(struct tier *tier, struct error *error);
void tier_thread_stop(struct tier *tier);                        /* after all that was given to it is done */
bool tier_give(struct tier *tier, const struct tier_task *task); /* false: too many are under way */
bool tier_take(struct tier *tier, struct tier_task *task);       /* one that is done */
void tier_tell(struct tier *tier);                               /* the store has changed */

/* tier_tell.c; the tier's thread. */
void tier_tell_changes(struct tier *tier, struct control *control, bool anew);
void tier_tell_figures(struct tier *tier, struct control *control, bool anew);

/* tier.c */
struct tier_fetch *tier_fetch_new(struct tier *tier, const struct key *key); /* NULL: too many */
void tier_fetch_miss(struct tier *tier, struct tier_fetch *fetch, enum miss reason);
void tier_fetch_here(struct tier_fetch *fetch, const struct view *view);

/* tier_move.c */
bool tier_reaches_others(const struct tier *tier);
void tier_begin_asking(struct tier *tier, struct tier_fetch *fetch, int64_t deadline_ns);
/* Lets what can go on do so; *deadline_ns: when time alone brings something. */
void tier_move(struct tier *tier, int64_t now_ns, int64_t *deadline_ns);
void tier_lent(struct tier *tier, struct tier_task *task); /* a LEND is done */
/* Gives back what was abandoned and nothing is written to any more. False: something still may be. */
bool tier_settle_landings(struct tier *tier);
/* Is the draft of that key one of these? */
bool tier_is_abandoned(const struct tier *tier, const struct key *key);

#endif
