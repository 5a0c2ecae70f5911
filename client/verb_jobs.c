/* verb_jobs.c - the verbs about jobs that exist: status, watch, cancel, list, result, delete. */
#include "client/cli.h"
#include "client/comparison.h"
#include "client/deliver.h"
#include "client/follow.h"
#include "client/jobjson.h"
#include "client/progress.h"
#include "client/strip.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MANY_JOBS = 10000 };

/* The one JOB that a verb is about, and a connection to ask about it. */
static status_t connect_about_job(struct cli *cli, uint64_t *number, struct error *error)
{
    status_t status = cli_operands(cli, 1, 1, "JOB, a job's number", error);
    if (!status) status = settings_job_number(options_operand(cli->options, 0), number, error);
    return status ? status : cli_connect(cli, error);
}

/* ------------------------------------------------------------------------------------- status */

static void print_fitted(const struct cli *cli, const char *name, const char *text, int room)
{
    char fitted[SHOW_TEXT_BYTES];
    printf(" %s%-10s%s %s\n", show_colour(&cli->style, SHOW_DIM), name, show_colour(&cli->style, SHOW_PLAIN),
           show_fit(&cli->style, text, room, fitted));
}

static void print_line(const struct cli *cli, const char *name, const char *text)
{
    print_fitted(cli, name, text, cli->style.terminal ? cli->style.columns - 12 : 900);
}

static void print_state(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES], left[SHOW_BYTES];
    const struct refrain_progress *progress = &job->progress;
    bool running = job->state == REFRAIN_RUNNING || job->state == REFRAIN_CANCELLING;
    size_t used = (size_t)snprintf(text, sizeof text, "%s", refrain_state_name(job->state));
    if (running && progress->phase)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, ", %s", refrain_phase_name(progress->phase));
    if (running && progress->steps)
        used += (size_t)snprintf(text + used, sizeof text - used, ", step %u of %u", progress->step,
                                 progress->steps);
    if (running && progress->seconds_left >= 0)
        used += (size_t)snprintf(text + used, sizeof text - used, ", %s left",
                                 show_duration(&cli->style, progress->seconds_left, left));
    if (job->state == REFRAIN_QUEUED && job->ahead)
        used += (size_t)snprintf(text + used, sizeof text - used, ", %u ahead", job->ahead);
    if (job->attempt > 1) snprintf(text + used, sizeof text - used, " (attempt %u)", job->attempt);
    print_line(cli, "state", text);
    if (job->message) print_line(cli, "because", job->message);
    if (job->finish_ms && !refrain_state_is_final(job->state)) {
        snprintf(text, sizeof text, "%s", show_moment(job->finish_ms, left));
        print_line(cli, "expected", text);
    }
}

static void print_request(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES], size[SHOW_BYTES], guidance[SHOW_BYTES];
    const struct refrain_spec *spec = &job->spec;
    snprintf(guidance, sizeof guidance, "%g", spec->guidance);
    if (spec->guidance_scale_2 != REFRAIN_GUIDANCE_DEFAULT && spec->guidance_scale_2 != spec->guidance)
        snprintf(guidance, sizeof guidance, "%g and %g", spec->guidance, spec->guidance_scale_2);
    print_line(cli, "prompt", spec->prompt);
    if (spec->negative_prompt && *spec->negative_prompt) print_line(cli, "negative", spec->negative_prompt);
    snprintf(text, sizeof text,
             "%s, seed %" PRIu64 ", %u steps, guidance %s, %s, shift %g, %s at %u a second",
             spec->model ? spec->model : "", spec->seed, spec->steps, guidance,
             refrain_solver_name(spec->solver), spec->shift, show_size(&cli->style, spec, size), spec->fps);
    print_line(cli, "request", text);
    if (spec->resume_from) {
        snprintf(text, sizeof text, "job %" PRIu64 "'s checkpoint after step %u of %u", spec->resume_from,
                 spec->at_step, spec->steps);
        print_line(cli, "begins at", text);
    }
    if (spec->label && *spec->label) print_line(cli, "label", spec->label);
}

static void print_times(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES], when[SHOW_BYTES], took[SHOW_BYTES], step[SHOW_BYTES];
    const struct refrain_times *times = &job->times;
    const struct {
        const char *name;
        double seconds;
    } parts[] = {{"queued", times->queued},   {"load", times->load},     {"text", times->text},
                 {"denoise", times->denoise}, {"decode", times->decode}, {"encode", times->encode}};
    size_t used = (size_t)snprintf(text, sizeof text, "submitted %s", show_moment(job->submitted_ms, when));
    for (size_t i = 0; times->total > 0 && i < sizeof parts / sizeof *parts; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, ", %s %s", parts[i].name,
                                 show_duration(&cli->style, parts[i].seconds, took));
    if (times->total > 0)
        used += (size_t)snprintf(text + used, sizeof text - used, "; %s in all",
                                 show_duration(&cli->style, times->total, took));
    if (*show_step_time(job->progress.step_seconds, step))
        snprintf(text + used, sizeof text - used, "; %s", step);
    print_line(cli, "times", text);
}

/* What was not made again, and for how long others had made it. */
static void print_reused(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES], seconds[SHOW_BYTES];
    const struct refrain_times *times = &job->times;
    size_t used = 0;
    const char *between = "";
    if (times->texts_reused) {
        used += (size_t)snprintf(text + used, sizeof text - used, "text of %u branch%s", times->texts_reused,
                                 times->texts_reused > 1 ? "es" : "");
        between = ", ";
    }
    if (times->first_steps_reused) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%sfirst step of %u branch%s", between,
                                 times->first_steps_reused, times->first_steps_reused > 1 ? "es" : "");
        between = ", ";
    }
    if (times->steps_reused) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%u step%s of an equal run", between,
                                 times->steps_reused, times->steps_reused > 1 ? "s" : "");
        between = ", ";
    }
    if (*between)
        used += (size_t)snprintf(text + used, sizeof text - used, " (%s)",
                                 show_duration(&cli->style, times->reused_seconds, seconds));
    if (times->steps_taken_over)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%u steps of job %" PRIu64, between,
                                 times->steps_taken_over, job->spec.resume_from);
    if (used) print_line(cli, "reused", text);
}

static void print_files(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES] = "", bytes[SHOW_BYTES];
    size_t used = 0;
    for (size_t i = 0; i < job->file_count && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", i ? ", " : "",
                                 job->files[i].name, show_bytes(job->files[i].bytes, bytes));
    if (job->file_count) print_line(cli, "files", text);
}

/* What was kept and saved, and what was decided block by block. */
static void print_cache_facts(const struct cli *cli, const struct refrain_cache_report *report)
{
    char text[SHOW_TEXT_BYTES], bytes[SHOW_BYTES], seconds[SHOW_BYTES];
    uint64_t computed = 0, reused = 0;
    double saved = report->seconds_saved;
    for (size_t i = 0; i < report->blocks; i++)
        computed += report->block_computed[i], reused += report->block_reused[i];
    size_t used = (size_t)snprintf(text, sizeof text, "kept %s", show_bytes(report->bytes, bytes));
    if (saved > 0)
        used += (size_t)snprintf(text + used, sizeof text - used, ", saved about %s",
                                 show_duration(&cli->style, saved, seconds));
    if (saved < 0)
        used += (size_t)snprintf(text + used, sizeof text - used, ", cost about %s more than it saved",
                                 show_duration(&cli->style, -saved, seconds));
    if (report->blocks)
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "; %" PRIu64 " of %" PRIu64 " blocks reused", reused, computed + reused);
    if (report->switch_at)
        snprintf(text + used, sizeof text - used, "; begun anew at step %u, the second expert's first",
                 report->switch_at + 1);
    print_line(cli, "", text);
}

static void print_cache(const struct cli *cli, const struct refrain_job *job)
{
    char text[SHOW_TEXT_BYTES], words[SHOW_TEXT_BYTES], cells[STRIP_BYTES];
    const char *policy = job->cache && *job->cache->policy ? job->cache->policy : job->spec.cache;
    if (!policy || !*policy || strcmp(policy, "off") == 0) return;
    print_fitted(cli, "cache", policy, 900); /* may wrap: what is cut here is nowhere else to be read */
    struct strip strip = strip_of(job);
    if (strip.count) {
        strip_words(&cli->style, &strip, words);
        if (job->times.steps_reused)
            strncat(words, ", in the run it was taken from", sizeof words - strlen(words) - 1);
        int room = (cli->style.terminal ? cli->style.columns : STRIP_CELLS) - 16 - show_width(words);
        if (room < 16) room = 16;
        size_t used = (size_t)snprintf(text, sizeof text, "%s   %s",
                                       strip_cells(&cli->style, &strip, room, cells), words);
        if (strip.largest >= 0 && used < sizeof text)
            snprintf(text + used, sizeof text - used, "; largest change let through %.3g", strip.largest);
        print_line(cli, "", text);
    }
    if (job->cache) print_cache_facts(cli, job->cache);
    if (job->cache && job->cache->comparison)
        print_line(cli, "compared", comparison_words(&cli->style, job->cache->comparison, text));
}

int verb_status(struct cli *cli)
{
    struct error error;
    struct refrain_job *job = NULL;
    uint64_t number;
    status_t status = connect_about_job(cli, &number, &error);
    if (!status) status = refrain_status(cli->refrain, number, CALL_MS, &job, &error);
    if (status) return cli_fail(cli, status, &error);
    if (cli->settings.json) {
        jobjson_print(jobjson_job(job));
    } else if (cli->settings.quiet) {
        printf("%s\n", refrain_state_name(job->state));
    } else {
        print_state(cli, job);
        if (job->plan) print_line(cli, "plan", job->plan);
        print_request(cli, job);
        print_cache(cli, job);
        print_times(cli, job);
        print_reused(cli, job);
        print_files(cli, job);
    }
    refrain_free(job);
    return EXIT_CODE_OK;
}

/* -------------------------------------------------------------------------------------- watch */

int verb_watch(struct cli *cli)
{
    struct error error;
    struct refrain_job *job = NULL;
    uint64_t number;
    status_t status = connect_about_job(cli, &number, &error);
    if (!status) status = refrain_status(cli->refrain, number, CALL_MS, &job, &error);
    if (status) return cli_fail(cli, status, &error);
    if (!cli->settings.json && !cli->settings.quiet) progress_header(&cli->style, number, &job->spec);
    /* A job that ended before the sequence asked for has nothing more to tell. */
    if (!refrain_state_is_final(job->state) || job->sequence > cli->settings.from) {
        refrain_free(job);
        job = NULL;
        status = follow_job(cli, number, cli->settings.from, NULL, NULL, &job, &error);
    }
    if (status == STATUS_ABORTED) return cli_exit_code(cli, status);
    if (status) return cli_fail(cli, status, &error);
    follow_report(cli, job);
    int code = cli_job_exit_code(job);
    refrain_free(job);
    return code;
}

/* --------------------------------------------------------------------------- cancel and delete */

/* Does one thing to one job; `result` gets a word for what became of it, static. */
typedef status_t job_action(struct refrain *refrain, uint64_t number, const char **result,
                            struct error *error);

static status_t cancel_one(struct refrain *refrain, uint64_t number, const char **result, struct error *error)
{
    struct refrain_job *job;
    status_t status = refrain_cancel(refrain, number, CALL_MS, &job, error);
    if (status) return status;
    *result = refrain_state_name(job->state);
    refrain_free(job);
    return STATUS_OK;
}

static status_t delete_one(struct refrain *refrain, uint64_t number, const char **result, struct error *error)
{
    *result = "deleted";
    return refrain_delete(refrain, number, CALL_MS, error);
}

/* The action for each JOB named; goes on after a refusal and tells of each. */
static int for_each_job(struct cli *cli, job_action *action)
{
    struct error error;
    int code = EXIT_CODE_OK;
    status_t status = cli_operands(cli, 1, MANY_JOBS, "JOB, one or more jobs' numbers", &error);
    uint64_t number;
    int count = options_operand_count(cli->options);
    for (int i = 0; !status && i < count; i++)
        status = settings_job_number(options_operand(cli->options, i), &number, &error);
    if (!status) status = cli_connect(cli, &error);
    if (status) return cli_fail(cli, status, &error);
    for (int i = 0; i < count && status != STATUS_ABORTED; i++) {
        const char *result = "";
        settings_job_number(options_operand(cli->options, i), &number, &error);
        status = action(cli->refrain, number, &result, &error);
        if (status)
            code = cli_fail(cli, status, &error);
        else if (cli->settings.json)
            jobjson_print(json_pack("{s:I, s:s}", "job", (json_int_t)number, "result", result));
        else if (!cli->settings.quiet)
            printf("job %" PRIu64 " %s\n", number, result);
    }
    return code;
}

int verb_cancel(struct cli *cli)
{
    return for_each_job(cli, cancel_one);
}

int verb_delete(struct cli *cli)
{
    return for_each_job(cli, delete_one);
}

/* --------------------------------------------------------------------------------------- list */

enum {
    STATE_COLUMNS = 18,
    BAR_CELLS = 10,
    LEFT_COLUMNS = 7,
    CACHE_COLUMNS = 10,
    MODEL_COLUMNS = 12,
    BEFORE_PROMPT = 69
};

/* The model's column gives way where the prompt would have no room. */
static int model_columns(const struct show_style *style)
{
    return !style->terminal || style->columns >= 110 ? MODEL_COLUMNS + 2 : 0;
}

static const char *ordinal(unsigned number)
{
    unsigned tens = number % 100;
    if (tens >= 11 && tens <= 13) return "th";
    return number % 10 == 1 ? "st" : number % 10 == 2 ? "nd" : number % 10 == 3 ? "rd" : "th";
}

static void state_text(const struct refrain_job *job, char out[SHOW_BYTES])
{
    const char *state = refrain_state_name(job->state);
    if (job->state == REFRAIN_RUNNING && job->progress.phase)
        snprintf(out, SHOW_BYTES, "%s %s", state, refrain_phase_name(job->progress.phase));
    else if (job->state == REFRAIN_QUEUED)
        snprintf(out, SHOW_BYTES, "%s (%u%s)", state, job->ahead + 1, ordinal(job->ahead + 1));
    else
        snprintf(out, SHOW_BYTES, "%s", state);
}

static void print_row(const struct cli *cli, const struct refrain_job *job)
{
    const struct show_style *style = &cli->style;
    char state[SHOW_BYTES], bar[4 * SHOW_BYTES], count[SHOW_BYTES] = "", left[SHOW_BYTES];
    char policy[SHOW_BYTES], cache[SHOW_TEXT_BYTES];
    char state_column[SHOW_TEXT_BYTES], model[SHOW_TEXT_BYTES], prompt[SHOW_TEXT_BYTES];
    /* One that was queued again has steps as well, and while its text is encoded. */
    unsigned steps = job->spec.steps, step = refrain_state_is_final(job->state) ? 0 : job->progress.step;
    /* After the denoising the bar is full; what is left is decoding. */
    if (job->state == REFRAIN_COMPLETED || job->progress.phase > REFRAIN_PHASE_DENOISE) step = steps;
    if (!refrain_state_is_final(job->state)) snprintf(count, sizeof count, "%u/%u", step, steps);
    double seconds_left = refrain_state_is_final(job->state) ? -1 : job->progress.seconds_left;
    show_duration(style, seconds_left, left);
    state_text(job, state);
    int room = style->terminal ? style->columns - BEFORE_PROMPT - model_columns(style) : 200;
    if (room < 12) room = 12;
    printf(" %-6" PRIu64 " %s%s%s  %s %7s  %*s%s  %s  %s%s\n", job->number,
           show_colour(style, show_state_colour(job->state)),
           show_column(style, state, STATE_COLUMNS, state_column), show_colour(style, SHOW_PLAIN),
           show_bar(style, step, steps ? steps : 1, BAR_CELLS, bar), count, LEFT_COLUMNS - show_width(left),
           "", left, show_column(style, strip_policy(job->spec.cache, policy), CACHE_COLUMNS, cache),
           show_column(style, job->spec.model, model_columns(style), model),
           show_fit(style, job->spec.prompt, room, prompt));
}

int verb_list(struct cli *cli)
{
    struct error error;
    struct refrain_job_list *list = NULL;
    const struct settings *settings = &cli->settings;
    status_t status = cli_operands(cli, 0, 0, "", &error);
    if (!status) status = cli_connect(cli, &error);
    if (!status)
        status = refrain_list(cli->refrain, (unsigned)settings->limit, settings->before, settings->active,
                              CALL_MS, &list, &error);
    if (status) return cli_fail(cli, status, &error);
    if (!settings->json && !settings->quiet)
        printf("%s %-6s %-*s  %-*s  %*s  %-*s  %-*.*s%s%s\n", show_colour(&cli->style, SHOW_DIM), "JOB",
               STATE_COLUMNS, "STATE", BAR_CELLS + 8, "PROGRESS", LEFT_COLUMNS, "LEFT", CACHE_COLUMNS,
               "CACHE", model_columns(&cli->style), model_columns(&cli->style), "MODEL", "PROMPT",
               show_colour(&cli->style, SHOW_PLAIN));
    for (size_t i = 0; i < list->count; i++) {
        if (settings->json)
            jobjson_print(jobjson_job(&list->jobs[i]));
        else if (settings->quiet)
            printf("%" PRIu64 "\n", list->jobs[i].number);
        else
            print_row(cli, &list->jobs[i]);
    }
    if (list->more && list->count && !settings->json && !settings->quiet)
        printf(" older ones: refrain list --before %" PRIu64 "\n", list->jobs[list->count - 1].number);
    refrain_free(list);
    return EXIT_CODE_OK;
}

/* ------------------------------------------------------------------------------------- result */

int verb_result(struct cli *cli)
{
    struct error error;
    struct delivery delivery = {0};
    struct refrain_job *job = NULL;
    uint64_t number;
    int64_t start_ns = clock_now_ns();
    status_t status = connect_about_job(cli, &number, &error);
    if (!status) status = refrain_status(cli->refrain, number, CALL_MS, &job, &error);
    if (!status && job->state != REFRAIN_COMPLETED)
        status = error_set(
            &error, STATUS_CONFLICT, "job %" PRIu64 " is %s: only a completed job has files%s%s", number,
            refrain_state_name(job->state), job->message ? "; " : "", job->message ? job->message : "");
    if (!status) cli->settings.compare = job->spec.compare;
    if (!status)
        status = delivery_plan(&delivery, &cli->settings,
                               delivery_named(&cli->settings) ? DELIVERY_NO_DEFAULT : number, &error);
    delivery.resumable = true;
    if (!status) status = delivery_fetch(&delivery, cli, job, &error);
    int code = status ? cli_fail(cli, status, &error) : EXIT_CODE_OK;
    if (!status) delivery_print(&delivery, cli, (double)(clock_now_ns() - start_ns) / SECOND_NS);
    refrain_free(job);
    return code;
}
