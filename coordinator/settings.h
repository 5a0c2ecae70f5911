/*
 * settings.h - what the command line of refrain-coordinator says, checked.
 *
 *     struct settings settings;
 *     settings_read(argc, argv, &settings, &error);
 *     ...
 *     settings_free(&settings);
 */
#ifndef REFRAIN_COORDINATOR_SETTINGS_H
#define REFRAIN_COORDINATOR_SETTINGS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/options.h"
#include "coordinator/ranks/groups.h"
#include "rules/plan.h"

struct settings {
    /* as given; strings are borrowed from argv, the environment or `options` */
    const char *data, *endpoint, *worker_endpoint, *vault_endpoint, *endpoint_file, *worker_binary,
        *launch_binary, *hostfile, *fold_text, *split_text, *pools_text, *keys, *make_key, *metrics;
    const char *config;
    int64_t launch, threads, stage_width, max_jobs, result_limit, cache_memory;
    int64_t in_flight, flight_memory, checkpoint_limit, checkpoint_keep, mark_limit, marks;
    int64_t heartbeat_ms, silence_ms, gather_ms, join_ms, hang_ms, reconnect_ms, settle_ms;
    int fabric, role, home, layout; /* indices of their choices */
    bool tie, help, version;

    /* derived */
    bool fabric_given;
    struct plan_wish wish; /* of --fold, --split, --home, --layout */
    char data_path[PATH_MAX], worker_path[PATH_MAX], launch_path[PATH_MAX];
    struct options *options;
};

/* On failure settings->options is NULL and nothing is to be freed. */
status_t settings_read(int argc, char **argv, struct settings *settings, struct error *error);
void settings_free(struct settings *settings);
void settings_help(FILE *out);
const char *
settings_fabric(const struct settings *settings); /* "zmq", "mpi", "nccl"; NULL: the worker's default */

#endif
