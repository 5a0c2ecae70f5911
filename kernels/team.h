/*
 * team.h - the threads that run an op, and the scratch memory each of them owns.
 *
 *     struct team *team;
 *     team_create(2, &team, &error);           2 threads, the caller being one of them
 *     team_run(team, tiles, compute_tile, &arguments);
 *
 * An op cuts its output into tasks whose bits do not depend on who runs them; the team hands task numbers out
 * one by one from an atomic counter, so a core slowed by another process takes fewer. One caller at a time
 * per team.
 */
#ifndef REFRAIN_KERNELS_TEAM_H
#define REFRAIN_KERNELS_TEAM_H

#include <stddef.h>
#include "base/status.h"

struct team;

/* Scratch of one thread, 64-byte aligned: what the largest tile of any op needs, whatever the tensor sizes.
 */
enum { TEAM_SCRATCH_BYTES = 2 << 20, TEAM_MAX_THREADS = 256 };

typedef void team_task_fn(void *arguments, int task, void *scratch);

/* threads: 1..TEAM_MAX_THREADS, the calling thread included. Workers sleep when idle (a short spin first,
 * none at all with one thread), and never outlive team_destroy. */
status_t team_create(int threads, struct team **team, struct error *error);
void team_destroy(struct team *team); /* NULL is fine */
int team_threads(const struct team *team);

/* Runs task 0..tasks-1, each once, and returns when all are done. No allocation. Not reentrant. */
void team_run(struct team *team, int tasks, team_task_fn *run, void *arguments);

/* What a backend that computes elsewhere keeps for this team; NULL at first. Set and freed by its open and close. */
void team_set_device(struct team *team, void *device);
void *team_device(const struct team *team);

#endif
