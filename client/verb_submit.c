/* verb_submit.c - `refrain submit`: one job to a coordinator; on request stay with it and fetch its files. */
#include "client/cli.h"
#include "client/deliver.h"
#include "client/follow.h"
#include "client/jobjson.h"
#include "client/modelname.h"
#include "client/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void report_submitted(struct cli *cli, const struct refrain_job *job)
{
    char left[SHOW_BYTES], moment[SHOW_BYTES], words[SHOW_TEXT_BYTES];
    if (cli->settings.json) {
        jobjson_print(jobjson_job(job));
    } else if (cli->settings.quiet) {
        printf("%" PRIu64 "\n", job->number);
    } else {
        printf("job %" PRIu64 " %s", job->number, refrain_state_name(job->state));
        bool estimated = job->finish_ms > 0 && job->progress.seconds_left > 0;
        if (job->ahead)
            printf(" (%u ahead)", job->ahead);
        else if (job->waits && !estimated)
            printf(", waits for %s", show_fit(&cli->style, job->waits, 400, words));
        if (estimated)
            printf(", expected at %s, in %s", show_moment(job->finish_ms, moment),
                   show_duration(&cli->style, job->progress.seconds_left, left));
        printf("\n");
    }
    if (job->warning && !cli->settings.json)
        fprintf(stderr, "refrain: %s\n", cli_flag_sentence("deadline_ms", job->warning, words, sizeof words));
    fflush(stdout);
}

/* Until the job has ended; its files if it completed. */
static int stay(struct cli *cli, const struct refrain_job *submitted, struct delivery *delivery)
{
    struct error error;
    struct refrain_job *job = NULL;
    status_t status = follow_job(cli, submitted->number, 0, NULL, NULL, &job, &error);
    if (status == STATUS_ABORTED && !cli->settings.json)
        fprintf(stderr, "         still running; `refrain watch %" PRIu64 "` picks it up again\n",
                submitted->number);
    if (status == STATUS_ABORTED) return cli_exit_code(cli, status);
    if (status) return cli_fail(cli, status, &error);
    int code = cli_job_exit_code(job);
    if (code == EXIT_CODE_OK && delivery_named(&cli->settings)) {
        status = delivery_fetch(delivery, cli, job, &error);
        if (status)
            code = cli_fail(cli, status, &error);
        else
            delivery_print(delivery, cli, job->times.total);
    } else {
        follow_report(cli, job);
    }
    refrain_free(job);
    return code;
}

int verb_submit(struct cli *cli)
{
    struct error error;
    struct settings_loaded loaded = {0};
    struct refrain_spec spec;
    struct delivery delivery;
    struct refrain_job *job = NULL;
    char model[MODEL_NAME_BYTES];
    int code;

    status_t status = cli_operands(cli, 0, 0, "", &error);
    if (!status) status = settings_spec(&cli->settings, cli->options, &loaded, &spec, &cli->field, &error);
    if (!status) status = delivery_plan(&delivery, &cli->settings, DELIVERY_NO_DEFAULT, &error);
    if (!status) status = cli_connect(cli, &error);
    bool other = spec.resume_from && !cli->settings.model; /* the other job's */
    if (!status && !other) status = modelname_resolve(cli, cli->settings.model, model, &error);
    if (status) goto done;
    spec.model = other ? NULL : model;
    delivery.resumable = true;
    status = refrain_submit(cli->refrain, &spec, cli->settings.idempotency_key, CALL_MS, &job, &error);
done:
    if (status) {
        code = cli_fail(cli, status, &error);
    } else {
        report_submitted(cli, job);
        bool waits = cli->settings.wait || cli->settings.preview || delivery_named(&cli->settings);
        code = waits ? stay(cli, job, &delivery) : EXIT_CODE_OK;
    }
    refrain_free(job);
    settings_loaded_free(&loaded);
    return code;
}
