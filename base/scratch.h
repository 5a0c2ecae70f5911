/*
 * scratch.h - this process' private directory for files in the making.
 *
 *     struct scratch scratch;
 *     scratch_open("/tmp", "refrain-worker", &scratch, &error);    makes /tmp/refrain-worker-PID-XXXXXX
 *     ... scratch.path ...
 *     scratch_close(&scratch);                    removes it and what is in it
 *
 * A killed program cannot remove its files; scratch_open does it for earlier ones of that name whose lock is free.
 */
#ifndef REFRAIN_BASE_SCRATCH_H
#define REFRAIN_BASE_SCRATCH_H

#include "base/status.h"

enum { SCRATCH_PATH_BYTES = 3072 };

struct scratch {
    char path[SCRATCH_PATH_BYTES];
    int lock; /* held while this process lives: so that nobody sweeps it away */
};

/* program: the first part of the directory's name. */
status_t scratch_open(const char *parent, const char *program, struct scratch *scratch, struct error *error);
void scratch_close(struct scratch *scratch);

/* A directory and all in it, following no links; as much as can be removed. */
void scratch_remove(const char *path);

#endif
