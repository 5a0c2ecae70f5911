/*
 * service.h - a coordinator and its ranks for one run of `refrain generate`, and the certainty that they end.
 *
 *     struct service *service;
 *     status_t status = service_start(&(struct service_options){.ranks = 2}, &service, &error);
 *     if (!status) status = service_wait(service, signal_fd, 30000, &error);
 *     if (!status) status = refrain_connect(service_endpoint(service), ...);
 *     ...
 *     service_stop(service);
 *
 * Between this process and the coordinator stands a keeper: a small process that ends everything and removes
 * the private directory as soon as this process ends in any way, SIGKILL included. It is the subreaper of all
 * that was started, so that no orphan escapes it. The coordinator in turn dies with the keeper, and the ranks
 * with the coordinator.
 *
 * Start before any thread exists (it forks). One thread.
 */
#ifndef REFRAIN_CLIENT_SERVICE_H
#define REFRAIN_CLIENT_SERVICE_H

#include "base/status.h"

#include <limits.h>
#include <stdbool.h>

struct service_options {
    int ranks;
    int threads;        /* of each rank; 0: the worker's choice */
    const char *fabric; /* "zmq", "mpi", "nccl" */
};

struct service;

/* Finds the programs beside this one and starts them. NOT_FOUND: a program is missing; IO. */
status_t service_start(const struct service_options *options, struct service **service, struct error *error);

/* Until it takes requests. ABORTED: `stop_fd` became readable; PEER_LOST: it ended instead; DEADLINE. */
status_t service_wait(struct service *service, int stop_fd, int timeout_ms, struct error *error);

/* ipc://... */
const char *service_endpoint(const struct service *service);

/* Readable once the coordinator has ended. */
int service_ended_fd(const struct service *service);
bool service_ended(const struct service *service);

/* The last lines that coordinator and ranks logged, on standard error. */
void service_print_log(const struct service *service);

/* Ends everything, waits for it, removes the private directory. NULL is fine. */
void service_stop(struct service *service);

/* The directory this program lies in, without a slash at the end; at most `size` bytes. */
status_t service_program_directory(char *directory, size_t size, struct error *error);

/* The worker beside this program. NOT_FOUND: it was not built. */
status_t service_find_worker(char path[PATH_MAX], struct error *error);

#endif
