/*
 * launch.h - the ranks the coordinator starts itself: one refrain-launch, kept alive.
 *
 *     struct launch *launch;
 *     launch_open(&config, &launch, &error);   finds a launcher that outlived an earlier coordinator
 *     loop: poll(launch_descriptor(launch)); launch_tick(launch, readable, now_ns);
 *     launch_settled(launch);                  a group is ready: the next loss starts without delay again
 *     launch_failed(launch);                   its launcher says that all ranks of a group are gone
 *     launch_stop(launch, now_ns, grace_ns);   ends it; started again after a pause unless launch_forbid was
 *                                              called
 *
 * refrain-launch starts mpirun, single ranks anew, and whole groups anew, as it is told over the workers'
 * socket; what is here is only its own life. As a service it runs in a session of its own and outlives the
 * coordinator: ranks keep their weights and reconnect. Its process number and start time are in
 * <data>/launcher. Tied, it ends with the coordinator. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_RANKS_LAUNCH_H
#define REFRAIN_COORDINATOR_RANKS_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

struct launch;

struct launch_config {
    const char *data; /* directory of the note and the ranks' log */
    const char *launch_binary, *worker_binary, *worker_endpoint;
    const char *hostfile; /* NULL: this host */
    const char *fabric;   /* NULL: the worker's default */
    const char *key_file; /* NULL: no CURVE */
    int64_t ranks;        /* 0: nothing is ever launched */
    int64_t threads;      /* of each rank; 0: the worker decides */
    bool tied;
};

/* The strings are borrowed for the life of `launch`. */
status_t launch_open(const struct launch_config *config, struct launch **launch, struct error *error);
/* Frees; what runs goes on running (launch_forbid and launch_stop end it). NULL is fine. */
void launch_close(struct launch *launch);

int launch_descriptor(const struct launch *launch); /* readable when the launcher ended; -1: none runs */
int64_t
launch_wake_ns(const struct launch *launch); /* when launch_tick has something to do; CLOCK_NEVER: nothing */
bool launch_running(const struct launch *launch);
/* Counts the launchers of this coordinator, an inherited one too: tells the ranks of one from those of the
 * next. */
uint64_t launch_number(const struct launch *launch);
bool launch_inherited(const struct launch *launch); /* it was started by an earlier coordinator */
bool launch_overdue(const struct launch *launch, int64_t now_ns,
                    int64_t limit_ns); /* runs longer than that */
bool launch_hopeless(
    const struct launch *launch); /* tied, and failed several times without ever getting ready */

/* Starts what is due, reaps what ended (true: it has just ended), kills what does not obey. */
bool launch_tick(struct launch *launch, bool readable, int64_t now_ns);
void launch_settled(struct launch *launch);
/* Counts towards launch_hopeless like an end of its own: refrain-launch stays when its ranks go. */
void launch_failed(struct launch *launch);
/* Ends it and its ranks, if it does not end by itself within grace_ns. */
void launch_stop(struct launch *launch, int64_t now_ns, int64_t grace_ns);
void launch_forbid(struct launch *launch); /* from now on nothing is started: the coordinator is ending */

#endif
