/*
 * courier_core.h - what courier.c (called by the compute thread) and courier_io.c (the courier's thread)
 * share. Nobody else includes this.
 *
 * A buffer changes hands by its pointer, under the lock: pool -> filling (the compute thread writes it) ->
 * waiting
 * -> sending (the courier's thread reads it, without the lock) -> pool.
 */
#ifndef REFRAIN_WORKER_COURIER_CORE_H
#define REFRAIN_WORKER_COURIER_CORE_H

#include <pthread.h>
#include "worker/courier.h"

enum { ENDPOINT_BYTES = 256 };

struct buffer {
    struct buffer *next; /* in the pool, or among those that wait */
    size_t capacity;
    struct checkpoint_name name;
    int64_t deadline_ns;
    bool mark; /* see courier_buffer */
    _Alignas(64) uint8_t bytes[];
};

/* What a job sends; job 0: free. From its first courier_buffer to courier_forget. */
struct outgoing {
    uint64_t job;
    bool forgotten;                   /* free once nothing is sent any more */
    struct buffer *filling, *waiting; /* to be sent in this order: marks, and one that is none at most */
    int64_t next_ns;                  /* not before, by the pace */
    /* The thread's. */
    struct buffer *sending; /* set under the lock */
    uint64_t sent;          /* bytes of it */
    bool hashed;
    uint64_t sender;     /* the job that `complained` is about */
    status_t complained; /* why its last one was not kept; said once, until one is */
};

enum fetch_state {
    FETCH_FREE,
    FETCH_UNDERWAY, /* the thread's */
    FETCH_ARRIVED,  /* the compute thread's */
};

struct fetch {
    enum fetch_state state; /* under the lock, to and from UNDERWAY */
    struct checkpoint_name name;
    uint8_t *bytes;      /* [name.bytes], allocated by the thread */
    uint64_t asked, got; /* bytes */
    int64_t deadline_ns;
    uint64_t order; /* of arrival */
    struct error error;
};

struct courier {
    const char *coordinator, *public_key, *secret_key, *server_key; /* borrowed */
    int64_t patience_ns, pace_ns;
    int wake;    /* eventfd: the thread has something to do */
    int arrived; /* eventfd: courier_take has something */
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows, except as said above */
    struct outgoing jobs[COURIER_JOBS];
    struct fetch fetches[COURIER_JOBS];
    struct buffer *pool;
    int pool_count;
    uint64_t arrivals;
    char endpoint[ENDPOINT_BYTES]; /* "": none */
    bool endpoint_changed, stop;
    struct courier_counts counts;

    /* The thread's. */
    void *zmq, *socket, *monitor; /* socket NULL: nobody keeps checkpoints */
    int connections;              /* made so far: names the monitor */
    bool blocked;                 /* the socket takes no more for now */
};

/* courier_io.c */
void *courier_serve(void *courier);

/* courier.c; under the lock. What waits of a job is given up; marks: also those. */
void courier_drop_waiting(struct courier *courier, struct outgoing *job, bool marks);

/* courier.c; under the lock. */
void courier_recycle(struct courier *courier, struct buffer *buffer); /* NULL is fine */
/* Ends what is sent for the job; it was kept or was not. */
void courier_settle(struct courier *courier, struct outgoing *job, bool kept);
/* The fetch ends; the error is there unless it has its bytes. */
void courier_arrive(struct courier *courier, struct fetch *fetch);

#endif
