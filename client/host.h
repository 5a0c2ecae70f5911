/*
 * host.h - where a verb's jobs run: a coordinator that is there already, or one of our own that ends with us.
 *
 *     struct host host;
 *     status_t status = host_plan(&host, cli, own, &error);       the model is there; nothing was started
 *     if (!status) status = host_open(&host, &error);             connected; host.model is its name there
 *     if (!status) status = refrain_submit(cli->refrain, ...);
 *     if (!status) status = host_follow(&host, job->number, &finished, &error);
 *     if (status) code = host_fail(&host, status, &error);
 *     host_close(&host, code);                                    what was started is stopped
 *
 * On a coordinator of our own a verb is a client like any other. Main thread.
 */
#ifndef REFRAIN_CLIENT_HOST_H
#define REFRAIN_CLIENT_HOST_H

#include "client/cli.h"
#include "client/modelname.h"
#include "client/service.h"

#include <limits.h>

struct host {
    struct cli *cli;
    char model[MODEL_NAME_BYTES]; /* the coordinator's name for it; "": that of the job that is gone on from */
    bool own;
    char model_directory[PATH_MAX]; /* own */
    struct service *service;
    int stop_fd;                 /* epoll: a signal came or the coordinator ended */
    int64_t ranks_missing_since; /* 0: they are there */
    bool log_helps;              /* what the service logged may explain the failure */
};

/* Is a coordinator of our own to be started? Not where one is named, nor for a job that goes on from another, which
 * a coordinator has. */
bool host_is_own(const struct cli *cli);

/* own: start a coordinator and ranks as the options say. INVALID: no such model here, or an option that means nothing
 * there. */
status_t host_plan(struct host *host, struct cli *cli, bool own, struct error *error);

/* Connects, starting what there is to start, and makes the model known. */
status_t host_open(struct host *host, struct error *error);

/* Stays with a job until it has ended; then the job, which the caller frees. */
status_t host_follow(struct host *host, uint64_t number, struct refrain_job **job, struct error *error);

/* Tells what went wrong and returns the exit code. A wait may have ended by a signal. */
int host_fail(struct host *host, status_t status, struct error *error);

/* Disconnects and stops what was started; with an exit code other than 0 the end of its log is shown where
 * that may help. */
void host_close(struct host *host, int code);

#endif
