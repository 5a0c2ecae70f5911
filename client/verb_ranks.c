/*
 * verb_ranks.c - `refrain ranks`: who computes, and how they are; `refrain drain`: who is not to any more.
 *
 *     group 3fa9c2e1   running, epoch 12, over zmq, 3 of 8 jobs in flight; lost ranks are replaced
 *     layout           reference: 2 ranks, blocks 4+4, cpu-avx512
 *     links            2.1 GB/s and 34 us between 0 and 1
 *      RANK  STATE      HOST      PID  BACKEND    THREADS  BLOCKS  WEIGHTS  GFLOP/S  HEARD  COMPUTED REPLACED
 *         0  computing  node1   41207  cpu-avx512       8  0...3   31.2 MB      412  0.1 s     0.1 s        0
 *         1  missing    -
 *     job 4126         denoise 31/40, 18.2 ms a step, home on rank 0
 *
 * Main thread.
 */
#include "client/cli.h"
#include "client/jobjson.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { PERIOD_MS = 1000, WATCH_CALL_MS = 5000, NAME_COLUMNS = 16, GROUP_LETTERS = 8 };

/* A rank reports several times a second: what is older than this is over, or worth a word. */
#define FRESH_SECONDS  1.5
#define SILENT_SECONDS 3.0

static bool is_missing(const struct refrain_rank *rank)
{
    return strcmp(rank->state, "missing") == 0;
}

/* The seat is drained, or waits for the one that is to fill it again: nobody is missed. */
static bool is_away(const struct refrain_rank *rank)
{
    return strcmp(rank->state, "drained") == 0 || strcmp(rank->state, "returning") == 0;
}

/* It is there, and at the next step of the jobs in flight it is not any more, or one of the ranks. */
static bool is_moving(const struct refrain_rank *rank)
{
    return strcmp(rank->state, "leaving") == 0 || strcmp(rank->state, "joining") == 0;
}

static const char *health_of(const struct refrain_rank *rank)
{
    if (is_missing(rank) || is_away(rank) || is_moving(rank)) return rank->state;
    if (rank->seconds_since_heard > SILENT_SECONDS) return "silent";
    if (rank->seconds_since_progress >= 0 && rank->seconds_since_progress < FRESH_SECONDS) return "computing";
    return "idle";
}

static enum show_colour colour_of(const struct refrain_rank *rank)
{
    if (is_away(rank)) return SHOW_DIM;
    if (is_missing(rank) || rank->seconds_since_heard > SILENT_SECONDS) return SHOW_RED;
    return strcmp(health_of(rank), "computing") == 0 ? SHOW_GREEN : SHOW_PLAIN;
}

/* ------------------------------------------------------------------------------------- a group */

static void print_named(const struct cli *cli, const char *name, const char *text)
{
    char fitted[SHOW_TEXT_BYTES];
    int room = cli->style.terminal ? cli->style.columns - NAME_COLUMNS - 2 : 900;
    printf(" %s%-*s%s %s\n", show_colour(&cli->style, SHOW_DIM), NAME_COLUMNS, name,
           show_colour(&cli->style, SHOW_PLAIN), show_fit(&cli->style, text, room > 20 ? room : 20, fitted));
}

static void describe_link(const struct refrain_link *link, char *text, size_t bytes)
{
    double us = 1e6 * link->latency;
    snprintf(text, bytes, "%.3g GB/s and %.*f us between %u and %u", link->bytes_per_second / 1e9, us < 10,
             us, link->rank, link->peer);
}

/* All of them: --json. */
static void print_links(const struct cli *cli, const struct refrain_group *group)
{
    char text[SHOW_TEXT_BYTES], slowest[96], fastest[96];
    describe_link(&group->links[0], slowest, sizeof slowest);
    describe_link(&group->links[group->link_count - 1], fastest, sizeof fastest);
    snprintf(text, sizeof text, "%s%s%s", slowest, group->link_count > 1 ? " to " : "",
             group->link_count > 1 ? fastest : "");
    print_named(cli, "links", text);
}

static void print_heading(const struct cli *cli, const struct refrain_group *group)
{
    char name[32], text[SHOW_TEXT_BYTES];
    snprintf(name, sizeof name, "group %.*s", GROUP_LETTERS, group->name);
    snprintf(text, sizeof text, "%s, epoch %" PRIu64 ", over %s, %u of %u jobs in flight; %s", group->state,
             group->epoch, group->fabric, group->jobs_in_flight, group->jobs_limit,
             group->repairable ? "lost ranks are replaced" : "nobody replaces lost ranks");
    print_named(cli, name, text);
    if (*group->plan) {
        snprintf(text, sizeof text, "%s: %s", group->model, group->plan);
        print_named(cli, "layout", text);
    }
    if (group->link_count) print_links(cli, group);
    if (group->message) print_named(cli, "because", group->message);
}

static void print_columns(const struct cli *cli)
{
    printf(" %s%5s  %-9s  %-16s %8s  %-12s %7s  %-9s %9s %8s %8s %9s %8s%s\n",
           show_colour(&cli->style, SHOW_DIM), "RANK", "STATE", "HOST", "PID", "BACKEND", "THREADS", "BLOCKS",
           "WEIGHTS", "GFLOP/S", "HEARD", "COMPUTED", "REPLACED", show_colour(&cli->style, SHOW_PLAIN));
}

static void print_rank(const struct cli *cli, const struct refrain_rank *rank)
{
    char host[SHOW_TEXT_BYTES], backend[SHOW_TEXT_BYTES], weights[SHOW_BYTES], heard[SHOW_BYTES],
        computed[SHOW_BYTES], blocks[SHOW_BYTES] = "-", speed[SHOW_BYTES] = "-";
    printf(" %5u  %s%-9s%s  ", rank->rank, show_colour(&cli->style, colour_of(rank)), health_of(rank),
           show_colour(&cli->style, SHOW_PLAIN));
    if (is_missing(rank) || is_away(rank)) {
        printf("-\n");
        return;
    }
    if (rank->blocks)
        snprintf(blocks, sizeof blocks, "%u...%u", rank->first_block, rank->first_block + rank->blocks - 1);
    if (rank->gflops > 0) snprintf(speed, sizeof speed, "%.0f", rank->gflops);
    printf("%s %8u  %s %7u  %-9s %9s %8s %8s %9s %8u\n", show_column(&cli->style, rank->host, 16, host),
           rank->pid, show_column(&cli->style, rank->backend, 12, backend), rank->threads, blocks,
           show_bytes(rank->weight_bytes, weights), speed,
           show_duration(&cli->style, rank->seconds_since_heard, heard),
           rank->seconds_since_progress < 0
               ? "never"
               : show_duration(&cli->style, rank->seconds_since_progress, computed),
           rank->replaced);
}

static void print_job(const struct cli *cli, const struct refrain_running *job)
{
    char name[32], text[SHOW_TEXT_BYTES], step[SHOW_BYTES];
    const char *phase = job->phase ? refrain_phase_name(job->phase) : "waits";
    snprintf(name, sizeof name, "job %" PRIu64, job->job);
    size_t used = (size_t)snprintf(text, sizeof text, "%s", phase);
    if (job->steps)
        used += (size_t)snprintf(text + used, sizeof text - used, " %u/%u", job->step, job->steps);
    if (*show_step_time(job->step_seconds, step))
        used += (size_t)snprintf(text + used, sizeof text - used, ", %s", step);
    used += (size_t)snprintf(text + used, sizeof text - used, ", home on rank %u", job->home);
    if (job->attempt > 1) snprintf(text + used, sizeof text - used, ", attempt %u", job->attempt);
    print_named(cli, name, text);
}

static void print_group(const struct cli *cli, const struct refrain_group *group)
{
    print_heading(cli, group);
    if (group->rank_count && !cli->settings.quiet) print_columns(cli);
    for (size_t i = 0; i < group->rank_count; i++) print_rank(cli, &group->ranks[i]);
    for (size_t i = 0; i < group->job_count; i++) print_job(cli, &group->jobs[i]);
}

static void print_groups(const struct cli *cli, const struct refrain_stats *stats)
{
    if (cli->settings.json) {
        jobjson_print(jobjson_groups(stats));
        return;
    }
    if (stats->group_count == 0)
        printf("no ranks yet; the coordinator starts them with --launch N, or they are started by hand: "
               "mpirun -np N refrain-worker --coordinator ENDPOINT\n");
    for (size_t i = 0; i < stats->group_count; i++) {
        if (i) putchar('\n');
        print_group(cli, &stats->groups[i]);
    }
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------- the verb */

/* Waits for the next second; ABORTED once a signal came. */
static status_t pause_for(const struct cli *cli)
{
    struct pollfd signal = {.fd = cli->signal_fd, .events = POLLIN};
    return poll(&signal, 1, PERIOD_MS) > 0 ? STATUS_ABORTED : STATUS_OK;
}

/* From the terminal's top left corner; elsewhere the tables follow each other. */
static void begin_picture(const struct cli *cli, bool first)
{
    if (cli->settings.json) return;
    if (cli->style.terminal)
        printf("\033[H\033[J");
    else if (!first)
        putchar('\n');
}

/* A coordinator that is away is a part of the picture: it may be what is being watched. */
static status_t watch_groups(struct cli *cli, struct error *error)
{
    status_t status = STATUS_OK;
    for (bool first = true; !status; first = false) {
        struct refrain_stats *stats = NULL;
        status = refrain_stats(cli->refrain, WATCH_CALL_MS, &stats, error);
        if (!status) {
            begin_picture(cli, first);
            print_groups(cli, stats);
            refrain_free(stats);
        } else if (status == STATUS_DEADLINE || status == STATUS_PEER_LOST) {
            fprintf(stderr, "refrain: the coordinator is away; waiting for it\n");
            status = STATUS_OK;
        }
        if (!status) status = pause_for(cli);
    }
    return status;
}

int verb_drain(struct cli *cli)
{
    struct error error;
    char done[ERROR_TEXT_BYTES];
    status_t status = cli_operands(cli, 1, 1, "WHO: GROUP/RANK, RANK or a host", &error);
    const char *who = status ? NULL : options_operand(cli->options, 0);
    if (!status) status = cli_connect(cli, &error);
    if (!status) status = refrain_drain(cli->refrain, who, cli->settings.back, CALL_MS, done, sizeof done, &error);
    if (status) return cli_fail(cli, status, &error);
    if (cli->settings.json)
        jobjson_print(json_pack("{s:s, s:s, s:s}", "who", who, "result", cli->settings.back ? "back" : "drained",
                                "message", done));
    else if (!cli->settings.quiet)
        printf("%s\n", done);
    return EXIT_CODE_OK;
}

int verb_ranks(struct cli *cli)
{
    struct error error;
    struct refrain_stats *stats = NULL;
    status_t status = cli_operands(cli, 0, 0, "", &error);
    if (!status) status = cli_connect(cli, &error);
    if (!status && cli->settings.watch) {
        status = watch_groups(cli, &error);
        if (status == STATUS_ABORTED) return cli_exit_code(cli, status); /* Ctrl-C: how a watch ends */
    } else if (!status) {
        status = refrain_stats(cli->refrain, CALL_MS, &stats, &error);
        if (!status) print_groups(cli, stats);
        refrain_free(stats);
    }
    return status ? cli_fail(cli, status, &error) : EXIT_CODE_OK;
}
