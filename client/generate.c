/*
 * generate.c - `refrain generate`: one prompt to one video with nothing running before and nothing left
 * behind.
 *
 * It is a client like any other; only the coordinator is its own (service.c). Everything that can be refused
 * without starting anything is refused first. Main thread.
 */
#include "client/cli.h"
#include "client/deliver.h"
#include "client/follow.h"
#include "client/jobjson.h"
#include "client/modelname.h"
#include "client/progress.h"
#include "client/service.h"

#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READY_MS = 30000, CONNECT_MS = 10000 };
static const int64_t RANKS_NS =
    60 * SECOND_NS; /* for all ranks to come up; MPI_Init takes a second or a few */

struct generation {
    struct cli *cli;
    struct settings_texts texts;
    struct refrain_spec spec;
    struct delivery delivery;
    char model_directory[PATH_MAX];
    char model_name[MODEL_NAME_BYTES];
    struct service *service;
    int stop_fd; /* epoll: a signal came or the coordinator ended */
    struct refrain_job *job;
    int64_t start_ns;
    int64_t ranks_missing_since; /* 0: they are there */
    bool log_helps;              /* what the service logged may explain the failure */
};

/* -------------------------------------------------------------------------- before the start */

/* `said` as it is, or models/<said> of the tree this program was built in; without one the reference model.
 */
static status_t find_model(struct generation *run, struct error *error)
{
    const char *said = run->cli->settings.model;
    char programs[PATH_MAX], candidate[PATH_MAX + 80], index[PATH_MAX + 32];
    struct stat there;
    bool found = said && stat(said, &there) == 0 && realpath(said, run->model_directory);
    if (!found && (!said || !strchr(said, '/'))) {
        status_t status = service_program_directory(programs, sizeof programs, error);
        if (status) return status;
        snprintf(candidate, sizeof candidate, "%s/../models/%.64s", programs, said ? said : "reference");
        found = realpath(candidate, run->model_directory) != NULL;
    }
    if (!found)
        return error_set(error, STATUS_INVALID, "--model %s: no such directory",
                         said ? said : "models/reference");
    snprintf(index, sizeof index, "%s/model_index.json", run->model_directory);
    if (access(index, R_OK))
        return error_set(
            error, STATUS_INVALID,
            "--model %s: has no model_index.json, so it is not a checkpoint in diffusers' layout",
            said ? said : run->model_directory);
    return STATUS_OK;
}

static status_t check_request(struct generation *run, struct error *error)
{
    struct cli *cli = run->cli;
    status_t status = cli_operands(cli, 0, 0, "", error);
    if (!status)
        status = settings_spec(&cli->settings, cli->options, &run->texts, &run->spec, &cli->field, error);
    if (!status) status = find_model(run, error);
    if (!status) status = delivery_plan(&run->delivery, &cli->settings, DELIVERY_FREE_NUMBER, error);
    return status;
}

/* ------------------------------------------------------------------------------------ the run */

/* One descriptor for both reasons to stop waiting. */
static status_t make_stop_fd(struct generation *run, struct error *error)
{
    struct epoll_event ready = {.events = EPOLLIN};
    run->stop_fd = epoll_create1(EPOLL_CLOEXEC);
    if (run->stop_fd < 0 || epoll_ctl(run->stop_fd, EPOLL_CTL_ADD, run->cli->signal_fd, &ready) ||
        epoll_ctl(run->stop_fd, EPOLL_CTL_ADD, service_ended_fd(run->service), &ready))
        return error_set(error, STATUS_IO, "no epoll descriptor: %m");
    return STATUS_OK;
}

static status_t start_service(struct generation *run, struct error *error)
{
    struct cli *cli = run->cli;
    struct service_options options = {.ranks = (int)cli->settings.ranks,
                                      .threads = (int)cli->settings.threads,
                                      .fabric = cli->settings.fabric == 0 ? "zmq" : "mpi"};
    status_t status = cli_catch_signals(cli, error);
    if (!status) status = service_start(&options, &run->service, error);
    if (!status) status = make_stop_fd(run, error);
    if (!status) status = service_wait(run->service, cli->signal_fd, READY_MS, error);
    if (!status)
        status = refrain_connect(service_endpoint(run->service), NULL, CONNECT_MS, &cli->refrain, error);
    if (!status) refrain_stop_on(cli->refrain, run->stop_fd);
    return status;
}

static void report_start(struct generation *run, const struct refrain_model *model)
{
    struct cli *cli = run->cli;
    long ranks = (long)cli->settings.ranks;
    if (cli->settings.json) {
        json_t *object = json_pack("{s:s, s:I, s:o}", "event", "start", "ranks", (json_int_t)ranks, "model",
                                   jobjson_model(model));
        jobjson_print(object);
    } else if (!cli->settings.quiet) {
        printf("start    %ld rank%s on this host, model %s, %u blocks, %.1f M parameters\n", ranks,
               ranks == 1 ? "" : "s", model->name, model->layers, (double)model->parameter_count / 1e6);
        fflush(stdout);
    }
}

static status_t add_model_and_submit(struct generation *run, struct error *error)
{
    struct cli *cli = run->cli;
    struct refrain_model_list *card;
    status_t status = modelname_add(cli, run->model_directory, run->model_name, &card, error);
    if (status) return status;
    report_start(run, &card->models[0]);
    refrain_free(card);
    run->spec.model = run->model_name;
    status = refrain_submit(cli->refrain, &run->spec, NULL, CALL_MS, &run->job, error);
    if (!status && !cli->settings.json && !cli->settings.quiet)
        progress_header(&cli->style, run->job->number, &run->job->spec);
    return status;
}

/* While it is queued: do the ranks come up at all? The coordinator goes on trying; a person does not. */
static status_t check_ranks(void *context, const struct refrain_job *latest, struct error *error)
{
    struct generation *run = context;
    struct refrain_stats *stats;
    if (latest && latest->state != REFRAIN_QUEUED && latest->state != REFRAIN_ACCEPTED) {
        run->ranks_missing_since = 0;
        return STATUS_OK;
    }
    status_t status = refrain_stats(run->cli->refrain, CALL_MS, &stats, error);
    if (status) return status;
    bool missing = stats->rank_count == 0;
    refrain_free(stats);
    if (!missing)
        run->ranks_missing_since = 0;
    else if (run->ranks_missing_since == 0)
        run->ranks_missing_since = clock_now_ns();
    if (!missing || clock_now_ns() - run->ranks_missing_since < RANKS_NS) return STATUS_OK;
    return error_set(error, STATUS_IO, "no rank came up within a minute");
}

static status_t follow(struct generation *run, struct error *error)
{
    struct refrain_job *finished = NULL;
    status_t status = follow_job(run->cli, run->job->number, 0, check_ranks, run, &finished, error);
    if (status) return status;
    refrain_free(run->job);
    run->job = finished;
    return STATUS_OK;
}

/* Everything up to a completed job's files on disk; `code` is the process's. */
static status_t make_video(struct generation *run, int *code, struct error *error)
{
    run->log_helps = true;
    status_t status = start_service(run, error);
    if (!status) status = add_model_and_submit(run, error);
    /* A request that was refused needs no log to be understood. */
    if (status == STATUS_INVALID || status == STATUS_CORRUPT || status == STATUS_UNSUPPORTED)
        run->log_helps = false;
    if (!status) status = follow(run, error);
    if (status) return status;
    *code = cli_job_exit_code(run->job);
    run->log_helps = *code == EXIT_CODE_FAILED;
    if (*code) follow_report(run->cli, run->job);
    return *code ? STATUS_OK : delivery_fetch(&run->delivery, run->cli, run->job, error);
}

/* ----------------------------------------------------------------------------------- the verb */

/* A wait that was aborted: by a signal, or because the coordinator is gone. */
static int report_failure(struct generation *run, status_t status, struct error *error)
{
    struct cli *cli = run->cli;
    if (status == STATUS_ABORTED) {
        int code = cli_exit_code(cli, status);
        if (code >= EXIT_CODE_SIGNAL) {
            run->log_helps = false;
            if (!cli->settings.json) fprintf(stderr, "refrain: interrupted; everything was stopped\n");
            return code;
        }
        status = error_set(error, STATUS_IO, "the coordinator ended unexpectedly");
    }
    int code = cli_fail(cli, status, error);
    /* It is our own coordinator: that it cannot be reached is not for the person to mend. */
    return code == EXIT_CODE_UNREACHABLE ? EXIT_CODE_FAILED : code;
}

int verb_generate(struct cli *cli)
{
    struct error error;
    struct generation run = {.cli = cli, .stop_fd = -1, .start_ns = clock_now_ns()};
    int code = EXIT_CODE_OK;
    status_t status = check_request(&run, &error);
    if (!status) status = make_video(&run, &code, &error);
    if (status) code = report_failure(&run, status, &error);
    if (code && run.log_helps && run.service) service_print_log(run.service);

    refrain_close(cli->refrain);
    cli->refrain = NULL;
    service_stop(run.service);
    if (run.stop_fd >= 0) close(run.stop_fd);
    if (!code) delivery_print(&run.delivery, cli, (double)(clock_now_ns() - run.start_ns) / SECOND_NS);
    refrain_free(run.job);
    settings_texts_free(&run.texts);
    return code;
}
