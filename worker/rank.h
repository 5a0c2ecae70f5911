/*
 * rank.h - the life of one rank: orders in, reports out, an epoch at a time.
 *
 *     rank_run(&config, &error);                    returns after a Shutdown order, STATUS_OK,
 *                                                  or STATUS_PEER_LOST if any epoch was lost on the way
 * or, for who has a loop of its own (a simulation on a virtual clock):
 *     rank_open(&config, &rank, &error);
 *     while (!rank_over(rank))
 *         if (!rank_turn(rank, &deadline_ns)) ... wait for an order, the fabric, the courier, or the deadline ...
 *     rank_close(rank, &error);
 *
 * Runs on the compute thread (the process' main thread).
 */
#ifndef REFRAIN_WORKER_RANK_H
#define REFRAIN_WORKER_RANK_H

#include "worker/control.h"
#include "worker/courier.h"
#include "worker/engine.h"

struct rank;

struct rank_config {
    struct engine *engine; /* ops, team, fabric; the rest is the loop's */
    struct control *control;
    struct courier *courier; /* NULL: no checkpoints */
    const char *directory;   /* private, existing: jobs' files are made here */
    int64_t join_timeout_ns; /* for all members of an epoch to find each other */
    /* From a member's loss to its report: an order that ends the epoch, which is then no loss, may be on its way. 0: 50 ms */
    int64_t order_patience_ns;
};

status_t rank_run(const struct rank_config *config, struct error *error);

status_t rank_open(const struct rank_config *config, struct rank **rank, struct error *error);
/* Takes what has arrived and does one piece of work, never waits. False: nothing was left to do; *deadline_ns says
 * when time alone brings something. */
bool rank_turn(struct rank *rank, int64_t *deadline_ns);
bool rank_over(const struct rank *rank);                     /* a Shutdown order came */
status_t rank_close(struct rank *rank, struct error *error); /* as rank_run returns */

#endif
