/*
 * scratch.h - this process' private directory for files in the making.
 *
 *     struct scratch scratch;
 *     scratch_open("/tmp", &scratch, &error);     makes /tmp/refrain-worker-PID, sweeps those of dead
 * processes
 *     ... scratch.path ...
 *     scratch_close(&scratch);                    removes it and what is in it
 *
 * A killed worker cannot remove its files; the next one that starts on the host does it for it.
 */
#ifndef REFRAIN_WORKER_SCRATCH_H
#define REFRAIN_WORKER_SCRATCH_H

#include "base/status.h"

enum { SCRATCH_PATH_BYTES = 3072 };

struct scratch {
    char path[SCRATCH_PATH_BYTES];
};

status_t scratch_open(const char *parent, struct scratch *scratch, struct error *error);
void scratch_close(struct scratch *scratch);

#endif
