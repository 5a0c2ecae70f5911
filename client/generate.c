/*
 * generate.c - `refrain generate`: from a prompt to a video on this machine, with nothing running before or
 * after; and `refrain compare`, which makes it with caching and without and tells the difference.
 *
 *     start    2 ranks on this host, model reference, 8 blocks, 4.9 M parameters
 *     job 1    "a large red star spinning on a navy background"   seed 7, 30 steps, 64x64x17
 *              text ok  denoise ######################## 30/30  18.2 ms a step   decode ok
 *     done     runs/1.mp4  runs/1.png   1.4 s
 *
 * Where it runs is host.c's: both take a coordinator that is there if one is named, and `generate` to go on from a job
 * there. Everything that can be refused without starting anything is refused first. Main thread.
 */
#include "client/cli.h"
#include "client/comparison.h"
#include "client/deliver.h"
#include "client/follow.h"
#include "client/host.h"
#include "client/progress.h"

#include "base/clock.h"

#include <stdio.h>

struct generation {
    struct host host;
    struct settings_loaded loaded;
    struct refrain_spec spec;
    struct delivery delivery;
    struct refrain_job *job; /* as it ended */
};

static status_t check_request(struct generation *run, struct cli *cli, bool own, struct error *error)
{
    status_t status = cli_operands(cli, 0, 0, "", error);
    if (!status)
        status = settings_spec(&cli->settings, cli->options, &run->loaded, &run->spec, &cli->field, error);
    if (!status) status = host_plan(&run->host, cli, own, error);
    if (!status) status = delivery_plan(&run->delivery, &cli->settings, DELIVERY_FREE_NUMBER, error);
    return status;
}

static status_t submit_and_follow(struct generation *run, struct cli *cli, struct error *error)
{
    struct refrain_job *submitted;
    run->spec.model = *run->host.model ? run->host.model : NULL;
    status_t status =
        refrain_submit(cli->refrain, &run->spec, cli->settings.idempotency_key, CALL_MS, &submitted, error);
    if (status) return status;
    if (!cli->settings.json && !cli->settings.quiet)
        progress_header(&cli->style, submitted->number, &submitted->spec);
    status = host_follow(&run->host, submitted->number, &run->job, error);
    refrain_free(submitted);
    return status;
}

/* Everything up to a completed job's files on disk; `code` is the process's. */
static status_t make_video(struct generation *run, struct cli *cli, int *code, struct error *error)
{
    status_t status = host_open(&run->host, error);
    if (!status) status = submit_and_follow(run, cli, error);
    if (status) return status;
    *code = cli_job_exit_code(run->job);
    if (*code) follow_report(cli, run->job);
    return *code ? STATUS_OK : delivery_fetch(&run->delivery, cli, run->job, error);
}

static int run_verb(struct cli *cli, bool own)
{
    struct error error;
    struct generation run = {.host = {.cli = cli, .own = own, .stop_fd = -1}};
    int64_t start_ns = clock_now_ns();
    int code = EXIT_CODE_OK;
    status_t status = check_request(&run, cli, own, &error);
    if (!status) status = make_video(&run, cli, &code, &error);
    if (status) code = host_fail(&run.host, status, &error);
    host_close(&run.host, code);
    if (!code && run.job->cache && run.job->cache->comparison)
        comparison_print(cli, run.job->cache->comparison);
    if (!code) delivery_print(&run.delivery, cli, (double)(clock_now_ns() - start_ns) / SECOND_NS);
    refrain_free(run.job);
    settings_loaded_free(&run.loaded);
    return code;
}

int verb_generate(struct cli *cli)
{
    return run_verb(cli, host_is_own(cli));
}

int verb_compare(struct cli *cli)
{
    cli->settings.compare = true;
    return run_verb(cli, !options_given(cli->options, "coordinator"));
}
