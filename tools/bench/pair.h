/*
 * pair.h - two ranks of a benchmark: threads of this process, each with a fabric (zmq over ipc), a control thread and a tier; the
 * coordinator is the real one.
 *
 *     pair_open(build, directory);                   build: where refrain-coordinator is
 *     pair_put(&pair[1], 7, bytes);                  before it serves
 *     if (!pair_start()) ...                         the second has a thread of its own now; the first is the caller's
 *     pair_message(&pair[0], there, back);           seconds
 *     pair_fetch(&pair[0], 7, &asked, &leased);
 *     pair_close();
 *
 * Hops go round between them while pair_computing says who computes: devices (each rank has one, which computes one hop after the
 * other while the rank's processor is free, as with GPUs), or processors (the thread's own time, whoever else has the processor meanwhile).
 *
 * What fails ends the program with a sentence.
 */
#ifndef REFRAIN_TOOLS_BENCH_PAIR_H
#define REFRAIN_TOOLS_BENCH_PAIR_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/scratch.h"
#include "worker/control.h"
#include "worker/engine.h"
#include "worker/tier.h"

enum {
    PAIR = 2,
    PAIR_LARGE = 16 << 20,     /* bytes of the largest message */
    PAIR_HOP = 1 << 20,        /* bytes of a hop */
    PAIR_HOPS = 4,             /* in the ring at once: two for each rank, so that nobody waits for one */
    PAIR_COMPUTE_NS = 4000000, /* of a hop */
    PAIR_WAITS = 1 << 16,      /* remembered */
};

struct pair_rank {
    struct engine engine;
    struct control *control;
    struct tier *tier;
    char directory[SCRATCH_PATH_BYTES + 16];
    pthread_t thread;
    _Atomic bool ready, stop;
    int64_t leased_ns;
    uint8_t *bytes; /* [LARGE]: payloads */
    uint64_t answers;
    _Atomic uint64_t hops;
    /* Hops on the device, one after the other. */
    struct fabric_event queue[PAIR_HOPS];
    int64_t done_ns[PAIR_HOPS]; /* when each is computed */
    int queued;
};

extern struct pair_rank pair[PAIR];

enum pair_computing { PAIR_NOBODY, PAIR_DEVICES, PAIR_PROCESSORS };
extern _Atomic int pair_computing;

/* What hops took from one rank to the other, seconds. */
extern float pair_waits[PAIR_WAITS];
extern _Atomic int pair_wait_count;

bool pair_open(const char *build, const char *scratch);
bool pair_start(void); /* false: they do not come together */
void pair_close(void);
void pair_stop(const char *what, const struct error *error) __attribute__((noreturn));

/* One turn of a rank, as worker/rank.c makes them. */
void pair_turn(struct pair_rank *rank, int wait_ms);
void pair_send_hop(struct pair_rank *rank);
/* Seconds for `there` bytes to the other rank, and `back` bytes in answer. */
double pair_message(struct pair_rank *rank, uint64_t there, uint64_t back);

struct key pair_key(uint64_t number);
void pair_put(struct pair_rank *rank, uint64_t number, uint64_t bytes);
/* Seconds from the question, and from the lease, to the view. False: it was a miss. */
bool pair_fetch(struct pair_rank *rank, uint64_t number, double *asked, double *leased);

/* Of all threads of this process. */
double pair_cpu_seconds(void);

#endif
