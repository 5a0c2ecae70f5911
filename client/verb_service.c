/* verb_service.c - the verbs about the service itself: stats, models, keygen. */
#include "client/cli.h"
#include "client/jobjson.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------------------------------- stats */

static void print_ranks(const struct cli *cli, const struct refrain_stats *stats)
{
    char host[SHOW_TEXT_BYTES], backend[SHOW_TEXT_BYTES], weights[SHOW_BYTES], heard[SHOW_BYTES],
        blocks[SHOW_BYTES];
    if (!stats->rank_count) return;
    printf("\n%s %4s  %-16s %8s  %-12s %7s  %-10s %9s  %7s%s\n", show_colour(&cli->style, SHOW_DIM), "RANK",
           "HOST", "PID", "BACKEND", "THREADS", "BLOCKS", "WEIGHTS", "HEARD",
           show_colour(&cli->style, SHOW_PLAIN));
    for (size_t i = 0; i < stats->rank_count; i++) {
        const struct refrain_rank *rank = &stats->ranks[i];
        if (rank->blocks)
            snprintf(blocks, sizeof blocks, "%u...%u", rank->first_block,
                     rank->first_block + rank->blocks - 1);
        else
            snprintf(blocks, sizeof blocks, "-");
        printf(" %4u  %s %8u  %s %7u  %-10s %9s  %7s\n", rank->rank,
               show_column(&cli->style, rank->host, 16, host), rank->pid,
               show_column(&cli->style, rank->backend, 12, backend), rank->threads, blocks,
               show_bytes(rank->weight_bytes, weights),
               show_duration(&cli->style, rank->seconds_since_heard, heard));
    }
}

int verb_stats(struct cli *cli)
{
    struct error error;
    struct refrain_stats *stats = NULL;
    char text[SHOW_BYTES], other[SHOW_BYTES];
    status_t status = cli_operands(cli, 0, 0, "", &error);
    if (!status) status = cli_connect(cli, &error);
    if (!status) status = refrain_stats(cli->refrain, CALL_MS, &stats, &error);
    if (status) return cli_fail(cli, status, &error);
    if (cli->settings.json) {
        jobjson_print(jobjson_stats(stats));
        refrain_free(stats);
        return EXIT_CODE_OK;
    }
    printf(" coordinator  %s at %s, up %s\n", stats->version, refrain_endpoint(cli->refrain),
           show_duration(&cli->style, stats->uptime_seconds, text));
    printf(" ranks        %zu, %s (epoch %" PRIu64 ")\n", stats->rank_count, stats->group_state,
           stats->epoch);
    printf(" jobs         %" PRIu64 " queued, %" PRIu64 " running, %" PRIu64 " completed, %" PRIu64
           " failed, %" PRIu64 " cancelled, %" PRIu64 " expired\n",
           stats->queued, stats->running, stats->completed, stats->failed, stats->cancelled, stats->expired);
    if (*show_step_time(stats->mean_step_seconds, text)) printf(" speed        %s\n", text);
    printf(" on disk      %s of results, %s of job records\n", show_bytes(stats->result_bytes, text),
           show_bytes(stats->store_bytes, other));
    if (stats->tier_hits + stats->tier_misses + stats->tier_items)
        printf(" cache tier   %" PRIu64 " items, %" PRIu64 " hits, %" PRIu64 " misses, %s saved\n",
               stats->tier_items, stats->tier_hits, stats->tier_misses,
               show_duration(&cli->style, stats->tier_seconds_saved, text));
    print_ranks(cli, stats);
    refrain_free(stats);
    return EXIT_CODE_OK;
}

/* ------------------------------------------------------------------------------------- models */

static void print_models(const struct cli *cli, const struct refrain_model_list *list, bool header)
{
    char name[SHOW_TEXT_BYTES], weights[SHOW_BYTES], size[SHOW_BYTES], parameters[SHOW_BYTES], blocks[16];
    if (header && !cli->settings.json && !cli->settings.quiet)
        printf("%s %-24s %10s %9s %6s  %-14s %-6s %5s%s\n", show_colour(&cli->style, SHOW_DIM), "NAME",
               "PARAMETERS", "WEIGHTS", "BLOCKS", "SIZE", "SOLVER", "SHIFT",
               show_colour(&cli->style, SHOW_PLAIN));
    for (size_t i = 0; i < list->count; i++) {
        const struct refrain_model *model = &list->models[i];
        if (cli->settings.json) {
            jobjson_print(jobjson_model(model));
            continue;
        }
        if (cli->settings.quiet) {
            printf("%s\n", model->name);
            continue;
        }
        struct refrain_spec standard = {
            .width = model->default_width, .height = model->default_height, .frames = model->default_frames};
        show_size(&cli->style, &standard, size);
        snprintf(parameters, sizeof parameters, "%.1f M", (double)model->parameter_count / 1e6);
        snprintf(blocks, sizeof blocks, "%s%u", model->experts > 1 ? "2x" : "", model->layers);
        printf(" %s %10s %9s %6s  %s%*s %-6s %5g\n", show_column(&cli->style, model->name, 24, name),
               parameters, show_bytes(model->weight_bytes, weights), blocks, size, 14 - show_width(size), "",
               refrain_solver_name(model->solver), model->shift);
    }
}

static status_t list_models(struct cli *cli, struct error *error)
{
    struct refrain_model_list *list;
    status_t status = refrain_models(cli->refrain, CALL_MS, &list, error);
    if (status) return status;
    if (list->count || cli->settings.json)
        print_models(cli, list, true);
    else if (!cli->settings.quiet)
        printf("no models yet; `refrain models add NAME DIR` adds one\n");
    refrain_free(list);
    return STATUS_OK;
}

/* DIR is on the coordinator's host. If it exists here, what it means here is most likely what is meant. */
static status_t add_model(struct cli *cli, const char *name, const char *said, struct error *error)
{
    char directory[PATH_MAX];
    if (!realpath(said, directory)) {
        if (said[0] != '/' || strlen(said) >= sizeof directory)
            return error_set(error, STATUS_INVALID, "%s: %s", said,
                             errno == ENOENT ? "no such directory" : strerror(errno));
        snprintf(directory, sizeof directory, "%s", said);
    }
    struct refrain_model_list *list;
    status_t status = refrain_model_add(cli->refrain, name, directory, MODEL_ADD_MS, &list, error);
    if (status) return status;
    print_models(cli, list, true);
    refrain_free(list);
    return STATUS_OK;
}

static status_t remove_model(struct cli *cli, const char *name, struct error *error)
{
    status_t status = refrain_model_remove(cli->refrain, name, CALL_MS, error);
    if (!status && !cli->settings.quiet && !cli->settings.json)
        printf("model %s removed; its files stay\n", name);
    if (!status && cli->settings.json)
        jobjson_print(json_pack("{s:s, s:s}", "model", name, "result", "removed"));
    return status;
}

int verb_models(struct cli *cli)
{
    struct error error;
    const char *action = options_operand_count(cli->options) ? options_operand(cli->options, 0) : "list";
    bool list = strcmp(action, "list") == 0, add = strcmp(action, "add") == 0,
         drop = strcmp(action, "remove") == 0;
    status_t status = STATUS_OK;
    if (list)
        status = cli_operands(cli, 0, 1, "list", &error);
    else if (add)
        status = cli_operands(cli, 3, 3, "add NAME DIR", &error);
    else if (drop)
        status = cli_operands(cli, 2, 2, "remove NAME", &error);
    else
        status = error_set(&error, STATUS_INVALID, "models '%s': must be list, add NAME DIR or remove NAME",
                           action);
    if (!status) status = cli_connect(cli, &error);
    if (!status && list) status = list_models(cli, &error);
    if (!status && add)
        status = add_model(cli, options_operand(cli->options, 1), options_operand(cli->options, 2), &error);
    if (!status && drop) status = remove_model(cli, options_operand(cli->options, 1), &error);
    return status ? cli_fail(cli, status, &error) : EXIT_CODE_OK;
}

/* ------------------------------------------------------------------------------------- keygen */

int verb_keygen(struct cli *cli)
{
    struct error error;
    char public_key[41];
    status_t status = cli_operands(cli, 1, 1, "FILE, where the key pair goes", &error);
    if (!status) status = refrain_keys_make(options_operand(cli->options, 0), public_key, &error);
    if (status) return cli_fail(cli, status, &error);
    const char *path = options_operand(cli->options, 0);
    if (cli->settings.json)
        jobjson_print(json_pack("{s:s, s:s}", "file", path, "public_key", public_key));
    else if (!cli->settings.quiet)
        printf("%s: your key pair, for --key; keep it to yourself\n"
               "%s.pub: its public half, for whoever runs the coordinator\n",
               path, path);
    return EXIT_CODE_OK;
}
