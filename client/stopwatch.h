/*
 * stopwatch.h - ranks of this machine that compute on command, and how long that takes them (`refrain-worker --bench`).
 *
 *     stopwatch_open(&(struct stopwatch_options){worker, "models/reference", 64, 64, 17, .threads = 1, .ranks = 2}, &watch, &error);
 *     stopwatch_time(watch, "blocks", 1, &alone, &error);          on one of them, while the others do nothing
 *     stopwatch_time(watch, "blocks", 2, &together, &error);       on two at once
 *     stopwatch_close(watch);
 *
 * Each is a process with the whole model. What a block takes depends on what the other ranks of the machine do meanwhile: they
 * share its memory, its caches and its power. One thread.
 */
#ifndef REFRAIN_CLIENT_STOPWATCH_H
#define REFRAIN_CLIENT_STOPWATCH_H

#include <stdint.h>
#include "base/status.h"

enum { STOPWATCH_MOST = 64, STOPWATCH_NAME_BYTES = 64 };

struct stopwatch_options {
    const char *worker; /* the program */
    const char *model;  /* a directory */
    uint32_t width, height, frames;
    int threads; /* of each; 0: the cores allowed, shared out */
    int ranks;   /* 1 .. STOPWATCH_MOST */
};

struct stopwatch;

/* Until all have loaded. INVALID or IO, in the worker's own words. */
status_t stopwatch_open(const struct stopwatch_options *options, struct stopwatch **watch,
                        struct error *error);
void stopwatch_close(struct stopwatch *watch); /* NULL is fine; ends the processes */

int stopwatch_threads(const struct stopwatch *watch);
const char *stopwatch_backend(const struct stopwatch *watch);

/* "text", "forward", "blocks" or "decode" (worker/bench.h), on the first `ranks` of them at once. *seconds: the mean of what each
 * took. DEADLINE after an hour. */
status_t stopwatch_time(struct stopwatch *watch, const char *what, int ranks, double *seconds,
                        struct error *error);
/* The least of some such times, after one that warms caches and is not counted: what disturbs a run makes it slower. */
status_t stopwatch_best(struct stopwatch *watch, const char *what, int ranks, double *seconds,
                        struct error *error);

#endif
