/*
 * tier_core.h - what the files of a rank's tier share: tier.c answers jobs, tier_thread.c reads files and hashes. Nobody
 * else includes this.
 *
 * Fetches belong to the compute thread. What the tier's thread does is a task, a value that goes to it through one ring
 * and comes back through another; `lock` guards the rings and nothing else, and is never held while a store is called.
 */
#ifndef REFRAIN_WORKER_TIER_CORE_H
#define REFRAIN_WORKER_TIER_CORE_H

#include <pthread.h>
#include "worker/tier.h"

enum {
    TIER_TASKS = 128,      /* under way at once; more commits are made by who asks for them */
    TIER_SMALL = 64 << 10, /* bytes that are hashed at once, rather than by the thread */
    TIER_KEPT_MS = 2000,   /* what was fetched, for who asked for it */
    TIER_ABSENT_MS = 100,  /* what could not be fetched is not looked for again so soon */
};

enum tier_task_kind { TASK_READ, TASK_COMMIT };

struct tier_task {
    enum tier_task_kind kind;
    int fetch; /* its number; -1: nobody's */
    struct key key;
    struct draft draft; /* COMMIT */
    uint64_t announced; /* COMMIT for a fetch: the hash that its bytes must have */
    struct view view;   /* the answer, if `reason` is MISSES */
    enum miss reason;
};

enum tier_fetch_state {
    FETCH_FREE,
    FETCH_READING, /* the thread reads it from disk */
    FETCH_HERE,    /* `view` waits for who asked */
    FETCH_MISSED,  /* `reason` */
};

struct tier_fetch {
    enum tier_fetch_state state;
    struct key key;
    struct view view;
    enum miss reason;
    bool counted;     /* MISSED: in the statistics */
    int64_t until_ns; /* HERE, MISSED: then it is forgotten */
};

struct tier {
    struct store *store;
    uint64_t numerics;
    int arrived; /* eventfd: tier_tend has something */
    int tasks;   /* given to the thread and not taken back */
    struct tier_fetch fetches[TIER_FETCHES];
    pthread_t thread;
    bool thread_runs;

    pthread_mutex_t lock;
    pthread_cond_t work;
    struct tier_task todo[TIER_TASKS], done[TIER_TASKS]; /* rings */
    int todo_first, todo_count, done_first, done_count;
    bool stop;
};

/* tier_thread.c */
status_t tier_thread_start(struct tier *tier, struct error *error);
void tier_thread_stop(struct tier *tier);                        /* after all that was given to it is done */
bool tier_give(struct tier *tier, const struct tier_task *task); /* false: too many are under way */
bool tier_take(struct tier *tier, struct tier_task *task);       /* one that is done */

/* tier.c */
struct tier_fetch *tier_fetch_find(struct tier *tier, const struct key *key); /* NULL: none */
struct tier_fetch *tier_fetch_new(struct tier *tier, const struct key *key);  /* NULL: too many */
void tier_fetch_miss(struct tier *tier, struct tier_fetch *fetch, enum miss reason);

#endif
