/* host.c - see host.h. Everything that can be refused without starting anything is refused by host_plan. */
#include "client/host.h"

#include "base/clock.h"
#include "client/follow.h"
#include "client/jobjson.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READY_MS = 30000, CONNECT_MS = 10000 };
static const int64_t RANKS_NS =
    60 * SECOND_NS; /* for all ranks to come up; MPI_Init takes a second or a few */

/* `said` as it is, or models/<said> of the tree this program was built in; without one the reference model.
 */
static status_t find_model(struct host *host, struct error *error)
{
    const char *said = host->cli->settings.model;
    char programs[PATH_MAX], candidate[PATH_MAX + 80], index[PATH_MAX + 32];
    struct stat there;
    bool found = said && stat(said, &there) == 0 && realpath(said, host->model_directory);
    if (!found && (!said || !strchr(said, '/'))) {
        status_t status = service_program_directory(programs, sizeof programs, error);
        if (status) return status;
        snprintf(candidate, sizeof candidate, "%s/../models/%.64s", programs, said ? said : "reference");
        found = realpath(candidate, host->model_directory) != NULL;
    }
    if (!found)
        return error_set(error, STATUS_INVALID, "--model %s: no such directory",
                         said ? said : "models/reference");
    snprintf(index, sizeof index, "%s/model_index.json", host->model_directory);
    if (access(index, R_OK))
        return error_set(
            error, STATUS_INVALID,
            "--model %s: has no model_index.json, so it is not a checkpoint in diffusers' layout",
            said ? said : host->model_directory);
    return STATUS_OK;
}

bool host_is_own(const struct cli *cli)
{
    return !options_flagged(cli->options, "coordinator") && !cli->settings.resume_from;
}

/* Nothing that was said is left out silently. */
static status_t check_meaning(const struct cli *cli, bool own, struct error *error)
{
    static const char *const of_queues[] = {"priority", "strict", "idempotency-key", NULL},
                             *const of_ranks[] = {"ranks", "threads", "fabric", NULL};
    for (const char *const *name = own ? of_queues : of_ranks; *name; name++) {
        if (!options_flagged(cli->options, *name)) continue;
        if (own)
            return error_set(error, STATUS_INVALID, "--%s: there is no queue here; name a --coordinator",
                             *name);
        return error_set(error, STATUS_INVALID, "--%s: the coordinator's ranks are there already", *name);
    }
    return STATUS_OK;
}

status_t host_plan(struct host *host, struct cli *cli, bool own, struct error *error)
{
    *host = (struct host){.cli = cli, .own = own, .stop_fd = -1};
    status_t status = check_meaning(cli, own, error);
    return status || !own ? status : find_model(host, error);
}

/* ------------------------------------------------------------------------------------ opening */

/* One descriptor for both reasons to stop waiting. */
static status_t make_stop_fd(struct host *host, struct error *error)
{
    struct epoll_event ready = {.events = EPOLLIN};
    host->stop_fd = epoll_create1(EPOLL_CLOEXEC);
    if (host->stop_fd < 0 || epoll_ctl(host->stop_fd, EPOLL_CTL_ADD, host->cli->signal_fd, &ready) ||
        epoll_ctl(host->stop_fd, EPOLL_CTL_ADD, service_ended_fd(host->service), &ready))
        return error_set(error, STATUS_IO, "no epoll descriptor: %m");
    return STATUS_OK;
}

static status_t start_service(struct host *host, struct error *error)
{
    struct cli *cli = host->cli;
    static const char *const fabrics[] = {"zmq", "mpi", "nccl"};
    struct service_options options = {.ranks = (int)cli->settings.ranks,
                                      .threads = (int)cli->settings.threads,
                                      .fabric = fabrics[cli->settings.fabric]};
    status_t status = cli_catch_signals(cli, error);
    if (!status) status = service_start(&options, &host->service, error);
    if (!status) status = make_stop_fd(host, error);
    if (!status) status = service_wait(host->service, cli->signal_fd, READY_MS, error);
    if (!status)
        status = refrain_connect(service_endpoint(host->service), NULL, CONNECT_MS, &cli->refrain, error);
    if (!status) refrain_stop_on(cli->refrain, host->stop_fd);
    return status;
}

static void report_start(struct host *host, const struct refrain_model *model)
{
    struct cli *cli = host->cli;
    long ranks = (long)cli->settings.ranks;
    if (cli->settings.json) {
        json_t *object = json_pack("{s:s, s:I, s:o}", "event", "start", "ranks", (json_int_t)ranks, "model",
                                   jobjson_model(model));
        jobjson_print(object);
    } else if (!cli->settings.quiet) {
        printf("start    %ld rank%s on this host, model %s, %s%u blocks, %.1f M parameters\n", ranks,
               ranks == 1 ? "" : "s", model->name, model->experts > 1 ? "2 experts of " : "", model->layers,
               (double)model->parameter_count / 1e6);
        fflush(stdout);
    }
}

static status_t add_model(struct host *host, struct error *error)
{
    struct refrain_model_list *card;
    status_t status = modelname_add(host->cli, host->model_directory, host->model, &card, error);
    if (status) return status;
    report_start(host, &card->models[0]);
    refrain_free(card);
    return STATUS_OK;
}

status_t host_open(struct host *host, struct error *error)
{
    struct cli *cli = host->cli;
    host->log_helps = true;
    status_t status = host->own ? start_service(host, error) : cli_connect(cli, error);
    if (status) return status;
    if (host->own) return add_model(host, error);
    if (cli->settings.resume_from && !cli->settings.model) return STATUS_OK;
    return modelname_resolve(cli, cli->settings.model, host->model, error);
}

/* ---------------------------------------------------------------------------------- following */

/* While it is queued: do the ranks come up at all? The coordinator goes on trying; a person does not. */
static status_t check_ranks(void *context, const struct refrain_job *latest, struct error *error)
{
    struct host *host = context;
    struct refrain_stats *stats;
    if (latest && latest->state != REFRAIN_QUEUED && latest->state != REFRAIN_ACCEPTED) {
        host->ranks_missing_since = 0;
        return STATUS_OK;
    }
    status_t status = refrain_stats(host->cli->refrain, CALL_MS, &stats, error);
    if (status) return status;
    bool missing = stats->rank_count == 0;
    refrain_free(stats);
    if (!missing)
        host->ranks_missing_since = 0;
    else if (host->ranks_missing_since == 0)
        host->ranks_missing_since = clock_now_ns();
    if (!missing || clock_now_ns() - host->ranks_missing_since < RANKS_NS) return STATUS_OK;
    return error_set(error, STATUS_IO, "no rank came up within a minute");
}

status_t host_follow(struct host *host, uint64_t number, struct refrain_job **job, struct error *error)
{
    host->log_helps = true;
    status_t status = follow_job(host->cli, number, 0, host->own ? check_ranks : NULL, host, job, error);
    if (!status) host->log_helps = cli_job_exit_code(*job) == EXIT_CODE_FAILED;
    if (status == STATUS_ABORTED && !host->own && !host->cli->settings.json)
        fprintf(stderr, "         still running; `refrain watch %" PRIu64 "` picks it up again\n", number);
    return status;
}

/* ------------------------------------------------------------------------------------- ending */

int host_fail(struct host *host, status_t status, struct error *error)
{
    struct cli *cli = host->cli;
    /* A request that was refused needs no log to be understood. */
    if (status == STATUS_INVALID || status == STATUS_CORRUPT || status == STATUS_UNSUPPORTED)
        host->log_helps = false;
    if (!host->own)
        return status == STATUS_ABORTED ? cli_exit_code(cli, status) : cli_fail(cli, status, error);
    if (status == STATUS_ABORTED) { /* by a signal, or because the coordinator is gone */
        int code = cli_exit_code(cli, status);
        if (code >= EXIT_CODE_SIGNAL) {
            host->log_helps = false;
            if (!cli->settings.json) fprintf(stderr, "refrain: interrupted; everything was stopped\n");
            return code;
        }
        status = error_set(error, STATUS_IO, "the coordinator ended unexpectedly");
    }
    int code = cli_fail(cli, status, error);
    /* It is our own coordinator: that it cannot be reached is not for the person to mend. */
    return code == EXIT_CODE_UNREACHABLE ? EXIT_CODE_FAILED : code;
}

void host_close(struct host *host, int code)
{
    struct cli *cli = host->cli;
    if (code && host->log_helps && host->service) service_print_log(host->service);
    refrain_close(cli->refrain);
    cli->refrain = NULL;
    service_stop(host->service);
    if (host->stop_fd >= 0) close(host->stop_fd);
    host->stop_fd = -1;
}
