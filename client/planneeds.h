/*
 * planneeds.h - what a job takes of a rank's memory, asked of the worker (`refrain-worker --inspect`), for `refrain plan`.
 *
 *     struct needs needs;
 *     if (planneeds_find(directory, &request.job, &request.machine, &needs, &error) == STATUS_OK) request.needs = &needs;
 *
 * The worker reads the heads of the model's files, no weights. Of ranks with GPUs. Main thread.
 */
#ifndef REFRAIN_CLIENT_PLANNEEDS_H
#define REFRAIN_CLIENT_PLANNEEDS_H

#include "coordinator/planner/planner.h"

/* NOT_FOUND: there is no worker beside this program; INVALID: the directory has no whole checkpoint; UNSUPPORTED: its card does
 * not say; DEADLINE. */
status_t planneeds_find(const char *directory, const struct planner_job *job,
                        const struct planner_machine *machine, struct needs *needs, struct error *error);

#endif
