/* verb_measure.c - `refrain measure`: how fast ranks of this machine are, alone and beside each other, and the links between
 * them. Starts what it measures, unless a coordinator is named, whose links it takes. Main thread. */
#include "client/cli.h"
#include "client/jobjson.h"
#include "client/planmodel.h"
#include "client/service.h"
#include "client/stopwatch.h"

#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"

enum { MOST_SIZES = 32, READY_MS = 60000, LINKS_MS = 60000, LOOK_MS = 100 };
#define DEFAULT_OUTPUT "refrain-times.json"

/* ------------------------------------------------------------------------------------------------- the links */

static const char *host_of(const struct refrain_group *group, unsigned rank)
{
    for (size_t i = 0; i < group->rank_count; i++)
        if (group->ranks[i].rank == rank) return group->ranks[i].host;
    return "";
}

/* Of one group, as soon as all are known: `count` ranks, or as many as there are. */
static bool take_links(const struct refrain_stats *stats, struct planner_links *links)
{
    for (size_t g = 0; g < stats->group_count; g++) {
        const struct refrain_group *group = &stats->groups[g];
        if (group->rank_count < 2 || group->link_count < group->rank_count * (group->rank_count - 1) / 2)
            continue;
        for (size_t i = 0; i < group->link_count; i++) {
            const struct refrain_link *l = &group->links[i];
            bool same_host = strcmp(host_of(group, l->rank), host_of(group, l->peer)) == 0;
            planner_add_link(links, same_host, l->bytes_per_second, l->latency);
        }
        return true;
    }
    return false;
}

static status_t wait_for_links(struct cli *cli, struct planner_links *links, struct error *error)
{
    int64_t until_ns = clock_now_ns() + LINKS_MS * MILLISECOND_NS;
    for (;;) {
        struct refrain_stats *stats = NULL;
        status_t status = refrain_stats(cli->refrain, CALL_MS, &stats, error);
        bool known = status == STATUS_OK && take_links(stats, links);
        refrain_free(stats);
        if (status != STATUS_OK || known) return status;
        if (clock_now_ns() > until_ns)
            return error_set(error, STATUS_DEADLINE,
                             "measure: no group's links were all measured within %d s: ranks that work, or "
                             "are missing, are not measured",
                             LINKS_MS / 1000);
        struct pollfd signal = {.fd = cli->signal_fd, .events = POLLIN};
        if (poll(&signal, 1, LOOK_MS) > 0) return error_set(error, STATUS_ABORTED, "stopped");
    }
}

/* Ranks that are started for this, and end with it. */
static status_t measure_own_links(struct cli *cli, struct planner_links *links, struct error *error)
{
    static const char *const fabrics[] = {"zmq", "mpi", "nccl"};
    struct service *service = NULL;
    struct service_options options = {.ranks = (int)cli->settings.ranks,
                                      .threads = (int)cli->settings.threads,
                                      .fabric = fabrics[cli->settings.fabric]};
    status_t status = cli_catch_signals(cli, error);
    if (status == STATUS_OK) status = service_start(&options, &service, error);
    if (status == STATUS_OK) status = service_wait(service, cli->signal_fd, READY_MS, error);
    if (status == STATUS_OK)
        status = refrain_connect(service_endpoint(service), NULL, CALL_MS, &cli->refrain, error);
    if (status == STATUS_OK) status = wait_for_links(cli, links, error);
    refrain_close(cli->refrain);
    cli->refrain = NULL;
    service_stop(service);
    return status;
}

static status_t measure_links(struct cli *cli, struct planner_links *links, struct error *error)
{
    *links = (struct planner_links){0};
    if (options_flagged(cli->options, "coordinator")) {
        status_t status = cli_connect(cli, error);
        return status == STATUS_OK ? wait_for_links(cli, links, error) : status;
    }
    return cli->settings.ranks > 1 ? measure_own_links(cli, links, error) : STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- the blocks */

static status_t measure_size(const struct cli *cli, const char *worker, struct planmodel_time *time,
                             struct error *error)
{
    struct stopwatch *watch = NULL;
    struct stopwatch_options options = {.worker = worker,
                                        .model = cli->settings.model,
                                        .width = time->width,
                                        .height = time->height,
                                        .frames = time->frames,
                                        .threads = (int)cli->settings.threads,
                                        .ranks = time->ranks};
    status_t status = stopwatch_open(&options, &watch, error);
    if (status == STATUS_OK) status = stopwatch_best(watch, "text", 1, &time->text, error);
    if (status == STATUS_OK) status = stopwatch_best(watch, "forward", 1, &time->forward, error);
    if (status == STATUS_OK) status = stopwatch_best(watch, "blocks", 1, &time->blocks, error);
    if (status == STATUS_OK) status = stopwatch_best(watch, "decode", 1, &time->decode, error);
    if (status == STATUS_OK && time->ranks > 1)
        status = stopwatch_best(watch, "blocks", time->ranks, &time->crowded, error);
    if (status == STATUS_OK) {
        snprintf(time->backend, sizeof time->backend, "%s", stopwatch_backend(watch));
        time->threads = stopwatch_threads(watch);
    }
    stopwatch_close(watch);
    return status;
}

static void print_time(const struct planmodel_time *time)
{
    printf("%ux%ux%u: text %.4g s, a forward pass %.4g s, its blocks %.4g s", time->width, time->height,
           time->frames, time->text, time->forward, time->blocks);
    if (time->crowded > 0) printf(" (%.4g s while %d ranks compute)", time->crowded, time->ranks);
    printf(", decode %.4g s (%s, %d thread%s)\n", time->decode, time->backend, time->threads,
           time->threads == 1 ? "" : "s");
}

static void print_links(const struct planner_links *links)
{
    if (links->inside > 0) printf("links inside a host: %.3g GB/s or more\n", links->inside / 1e9);
    if (links->between > 0) printf("links between hosts: %.3g GB/s or more\n", links->between / 1e9);
    if (links->latency > 0) printf("latency: %.3g us or less\n", 1e6 * links->latency);
}

/* ---------------------------------------------------------------------------------------------------- the verb */

static status_t read_model(struct cli *cli, struct planner_model *model, struct planmodel_clip *sizes,
                           size_t *count, struct error *error)
{
    struct planmodel_clip clip;
    struct planner_job job;
    const char *name = cli->settings.model;
    status_t status = cli_operands(cli, 0, 0, "", error);
    if (status == STATUS_OK && !name)
        status = error_set(error, STATUS_INVALID, "model: must be given, as a directory");
    if (status == STATUS_OK) status = planmodel_find(name, model, &clip, error);
    if (status == STATUS_OK && planner_preset(name))
        status = error_set(error, STATUS_INVALID, "model %s: must be a directory with weights", name);
    if (status == STATUS_OK && cli->settings.ranks > STOPWATCH_MOST)
        status = error_set(error, STATUS_INVALID, "ranks %lld: at most %d are measured at once",
                           (long long)cli->settings.ranks, STOPWATCH_MOST);
    sizes[0] = clip;
    *count = 1;
    if (status == STATUS_OK && cli->settings.size)
        status = planmodel_sizes(cli->settings.size, sizes, MOST_SIZES, count, error);
    for (size_t i = 0; status == STATUS_OK && i < *count; i++)
        status = planner_size(model, sizes[i].width, sizes[i].height, sizes[i].frames, &job, error);
    return status;
}

int verb_measure(struct cli *cli)
{
    struct error error;
    struct planner_model model;
    struct planmodel_clip sizes[MOST_SIZES];
    struct planmodel_time times[MOST_SIZES];
    struct planner_links links;
    char worker[PATH_MAX];
    size_t count;
    bool talks = !cli->settings.json && !cli->settings.quiet;
    const char *output = cli->settings.output ? cli->settings.output : DEFAULT_OUTPUT;
    status_t status = read_model(cli, &model, sizes, &count, &error);
    if (status == STATUS_OK) status = service_find_worker(worker, &error);
    if (status == STATUS_OK) status = measure_links(cli, &links, &error);
    if (status == STATUS_OK && talks) print_links(&links);
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        times[i] = (struct planmodel_time){.width = sizes[i].width,
                                           .height = sizes[i].height,
                                           .frames = sizes[i].frames,
                                           .ranks = (int)cli->settings.ranks};
        status = measure_size(cli, worker, &times[i], &error);
        if (status == STATUS_OK && talks) print_time(&times[i]);
    }
    if (status == STATUS_OK) status = planmodel_write(output, &model, times, count, &links, &error);
    if (status != STATUS_OK) {
        cli->field = settings_blamed(error.text);
        return cli_fail(cli, status, &error);
    }
    if (cli->settings.json)
        jobjson_print(json_pack("{s:s,s:i}", "file", output, "sizes", (int)count));
    else if (talks)
        printf("%s: for `refrain plan --measured`\n", output);
    return EXIT_CODE_OK;
}
