/*
 * verb_calibrate.c - `refrain calibrate`: measures a model for the policies that need tables.
 *
 * Runs a job with the policy `calibrate` for each prompt, every step of it computed, fetches what they
 * measured (client/trace.h), fits the tables (client/calibrate_fit.h) and puts them into a file. Main thread.
 */
#include "cache/calibration.h"
#include "client/calibrate_fit.h"
#include "client/cli.h"
#include "client/follow.h"
#include "client/host.h"
#include "client/jobjson.h"
#include "client/progress.h"

#include "proto/validate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROMPTS = 1000, FETCH_MS = 60000 };

/* What is measured depends on where the policies of a table reuse: over all blocks, or, if they look at the
 * first block's output, over the others. Kinds are bits: positions in calibration_kinds. */
static const struct measurement {
    const char *cache;
    unsigned kinds;
} measurements[] = {{"calibrate:F0", 1 << 0 | 1 << 1 | 1 << 2}, {"calibrate:F1", 1 << 3}};
enum { MEASUREMENTS = sizeof measurements / sizeof *measurements };

struct run {
    struct cli *cli;
    struct host host;
    struct settings_loaded loaded;
    struct refrain_spec spec;
    const char *output;
    char *prompts[MAX_PROMPTS]; /* owned */
    size_t count;
    char directory[64];                /* for what is fetched; "": not made yet */
    struct trace *traces[MAX_PROMPTS]; /* [traced] */
    size_t traced;
    struct calibration calibration;
};

/* -------------------------------------------------------------------------- before the start */

static status_t add_prompt(struct run *run, const char *text, struct error *error)
{
    if (run->count == MAX_PROMPTS)
        return error_set(error, STATUS_INVALID, "--prompts: more than %d prompts", MAX_PROMPTS);
    run->prompts[run->count] = strdup(text);
    if (!run->prompts[run->count]) return error_set(error, STATUS_NO_MEMORY, "no memory for a prompt");
    run->count++;
    return STATUS_OK;
}

static status_t read_prompts(struct run *run, const char *path, struct error *error)
{
    char *line = NULL;
    size_t room = 0;
    status_t status = STATUS_OK;
    FILE *file = fopen(path, "re");
    if (!file) return error_set(error, STATUS_INVALID, "--prompts %s: cannot be read: %m", path);
    for (ssize_t length; !status && (length = getline(&line, &room, file)) >= 0;) {
        line[strcspn(line, "\r\n")] = 0;
        if (*line) status = add_prompt(run, line, error);
    }
    if (!status && ferror(file))
        status = error_set(error, STATUS_IO, "--prompts %s: cannot be read: %m", path);
    if (!status && run->count == 0)
        status = error_set(error, STATUS_INVALID, "--prompts %s: has no prompt in it", path);
    free(line);
    fclose(file);
    return status;
}

static status_t choose_prompts(struct run *run, struct error *error)
{
    if (run->cli->settings.prompts) return read_prompts(run, run->cli->settings.prompts, error);
    status_t status = STATUS_OK;
    for (size_t i = 0; !status && calibration_prompts[i]; i++)
        status = add_prompt(run, calibration_prompts[i], error);
    return status;
}

/* A file that is there already must be one of tables: nothing else is overwritten. */
static status_t check_output(const char *path, struct error *error)
{
    struct tablefile there;
    status_t status = refrain_output_check(path, error);
    if (!status) {
        status = tablefile_read(path, &there, error);
        if (!status) tablefile_free(&there);
        if (status == STATUS_NOT_FOUND) status = STATUS_OK;
    }
    if (status) error_prefix(error, "--output");
    return status;
}

static status_t check_request(struct run *run, struct error *error)
{
    struct cli *cli = run->cli;
    status_t status = cli_operands(cli, 0, 0, "", error);
    if (!status) status = choose_prompts(run, error);
    for (size_t i = 0; !status && i < run->count; i++) {
        status = validate_text("--prompts", run->prompts[i], strlen(run->prompts[i]), error);
        if (!status && strlen(run->prompts[i]) > LIMIT_PROMPT_BYTES)
            status = error_set(error, STATUS_INVALID, "--prompts: prompt %zu is longer than %d bytes", i + 1,
                               LIMIT_PROMPT_BYTES);
    }
    if (status) return status;
    cli->settings.prompt = run->prompts[0]; /* each takes its turn in the request */
    cli->settings.cache = measurements[0].cache;
    status = settings_spec(&cli->settings, cli->options, &run->loaded, &run->spec, &cli->field, error);
    if (!status) status = check_output(run->output, error);
    return status ? status : host_plan(&run->host, cli, !options_given(cli->options, "coordinator"), error);
}

/* ----------------------------------------------------------------------------------- the runs */

static status_t fetch_trace(struct run *run, const struct refrain_job *job, struct error *error)
{
    char path[sizeof run->directory + 16];
    snprintf(path, sizeof path, "%s/trace.json", run->directory);
    status_t status = refrain_fetch(run->cli->refrain, job, REFRAIN_TRACE, path, 0, FETCH_MS, error);
    if (!status) status = trace_read(path, &run->traces[run->traced], error);
    if (!status) {
        struct trace *trace = run->traces[run->traced++];
        if (!*trace->name) snprintf(trace->name, sizeof trace->name, "%s", run->host.model);
    }
    unlink(path);
    return status;
}

/* A job that ends otherwise than completed ends the verb with its exit code. */
static status_t run_prompt(struct run *run, size_t index, int *code, struct error *error)
{
    struct cli *cli = run->cli;
    struct refrain_job *submitted, *job = NULL;
    run->spec.model = run->host.model;
    run->spec.prompt = run->prompts[index];
    status_t status = refrain_submit(cli->refrain, &run->spec, NULL, CALL_MS, &submitted, error);
    if (status) return status;
    if (!cli->settings.json && !cli->settings.quiet)
        progress_header(&cli->style, submitted->number, &submitted->spec);
    status = host_follow(&run->host, submitted->number, &job, error);
    refrain_free(submitted);
    if (status) return status;
    *code = cli_job_exit_code(job);
    if (*code)
        follow_report(cli, job);
    else
        status = fetch_trace(run, job, error);
    refrain_free(job);
    return status;
}

static status_t make_directory(struct run *run, struct error *error)
{
    const char *parent = getenv("TMPDIR");
    if (!parent || strlen(parent) > 32) parent = "/tmp";
    snprintf(run->directory, sizeof run->directory, "%s/refrain-XXXXXX", parent);
    if (mkdtemp(run->directory)) return STATUS_OK;
    status_t status = error_set(error, STATUS_IO, "%s: cannot be made: %m", run->directory);
    run->directory[0] = 0;
    return status;
}

/* The kinds that were asked for. */
static unsigned kinds_of(const struct run *run)
{
    int kind = run->cli->settings.kind; /* 0: all */
    return kind == 0 ? ~0u : 1u << (kind - 1);
}

static status_t fit(struct run *run, unsigned kinds, struct error *error)
{
    const struct trace *const *traces = (const struct trace *const *)run->traces;
    status_t status = STATUS_OK;
    for (int i = 0; !status && calibration_kinds[i]; i++)
        if (kinds & 1u << i)
            status = calibration_add(&run->calibration, calibration_kinds[i], traces, run->traced, error);
    return status;
}

static void forget_traces(struct run *run)
{
    while (run->traced) trace_free(run->traces[--run->traced]);
}

static void report(const struct run *run)
{
    const struct cli *cli = run->cli;
    const struct calibration *made = &run->calibration;
    for (size_t i = 0; i < made->count; i++) {
        const struct refrain_cache_table *table = &made->tables[i];
        if (cli->settings.json)
            jobjson_print(json_pack("{s:s, s:s, s:s, s:i, s:f, s:i, s:s}", "event", "table", "kind",
                                    table->kind, "name", table->name, "steps", (int)table->steps, "shift",
                                    table->shift, "value_count", (int)table->count, "note", made->notes[i]));
        else if (!cli->settings.quiet)
            printf("table    %-18s %s, %u steps, shift %g: %s\n", table->kind, table->name, table->steps,
                   table->shift, made->notes[i]);
    }
    if (cli->settings.json)
        jobjson_print(json_pack("{s:s, s:s}", "event", "done", "file", run->output));
    else if (cli->settings.quiet)
        printf("%s\n", run->output);
    else
        printf(
            "done     %s; use it with --cache-table, or put it into the model's directory as " TABLEFILE_NAME
            "\n",
            run->output);
}

/* All prompts with one way to measure. */
static status_t measure(struct run *run, const struct measurement *how, int *code, struct error *error)
{
    unsigned kinds = how->kinds & kinds_of(run);
    status_t status = STATUS_OK;
    if (!kinds) return STATUS_OK;
    forget_traces(run);
    run->spec.cache = how->cache;
    for (size_t i = 0; !status && *code == EXIT_CODE_OK && i < run->count; i++)
        status = run_prompt(run, i, code, error);
    return status || *code ? status : fit(run, kinds, error);
}

static status_t run_all(struct run *run, int *code, struct error *error)
{
    const struct calibration *made = &run->calibration;
    status_t status = make_directory(run, error);
    if (!status) status = host_open(&run->host, error);
    for (int i = 0; !status && *code == EXIT_CODE_OK && i < MEASUREMENTS; i++)
        status = measure(run, &measurements[i], code, error);
    return status || *code ? status : tablefile_merge(run->output, made->tables, made->count, error);
}

int verb_calibrate(struct cli *cli)
{
    struct error error;
    int code = EXIT_CODE_OK;
    struct run *run = calloc(1, sizeof *run);
    if (!run) return cli_fail(cli, error_set(&error, STATUS_NO_MEMORY, "no memory"), &error);
    run->cli = cli;
    run->host = (struct host){.cli = cli, .stop_fd = -1};
    run->output = cli->settings.output ? cli->settings.output : TABLEFILE_NAME;
    status_t status = check_request(run, &error);
    if (!status) status = run_all(run, &code, &error);
    if (status) code = host_fail(&run->host, status, &error);
    host_close(&run->host, code);
    if (!code) report(run);
    calibration_free(&run->calibration);
    forget_traces(run);
    for (size_t i = 0; i < run->count; i++) free(run->prompts[i]);
    if (*run->directory) rmdir(run->directory);
    settings_loaded_free(&run->loaded);
    free(run);
    return code;
}
