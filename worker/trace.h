/*
 * trace.h - trace.json: what a calibration run measured, for `refrain calibrate` (docs/caching.md has the
 * format).
 */
#ifndef REFRAIN_WORKER_TRACE_H
#define REFRAIN_WORKER_TRACE_H

#include "cache/reuse.h"
#include "worker/model/config.h"

/* sigmas: [steps + 1]. */
status_t trace_write(const char *path, const struct reuse *reuse, const double *sigmas, double shift,
                     const struct model_config *config, struct error *error);

#endif
