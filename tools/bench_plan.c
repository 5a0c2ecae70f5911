/*
 * bench_plan.c - what the planner predicts for one job on one and two ranks of this machine, beside what it takes.
 *
 *     bench_plan BIN MODEL [WxHxF [STEPS [ROUNDS]]]
 *
 * In each round ranks of one thread time the model's blocks (client/stopwatch.h, as `refrain measure` does), one alone and two at
 * once, and services of one rank and of two in each layout make the same guided job, in turns, so that what else goes on on
 * the machine goes on beside all of them. The planner (coordinator/planner/planner.h) gets the medians and the links that the services
 * measured, and says what a step takes. Printed: predicted, measured (the median), difference. BIN: the directory of the programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/planmodel.h"
#include "client/stopwatch.h"
#include "tools/bench/service.h"

enum { MOST_ROUNDS = 99, STANDS = 4, RANKS = 2, PATIENCE_S = 60, CALL_MS = 10000 };

static const struct stand {
    const char *name, *ranks, *layout, *width;
    struct planner_layout planned;
} stands[STANDS] = {
    {"one rank", "1", "pipeline", "1", {.replicas = 1, .ways = 1, .width = 1, .stages = {1, 0}}},
    {"two ranks, pipeline", "2", "pipeline", "1", {.replicas = 1, .ways = 1, .width = 1, .stages = {2, 0}}},
    {"two ranks, branches", "2", "cfg", "1", {.replicas = 1, .ways = 2, .width = 1, .stages = {1, 0}}},
    {"two ranks, one stage", "2", "pipeline", "2", {.replicas = 1, .ways = 1, .width = 2, .stages = {1, 0}}}};

/* What one run says, round by round. */
struct times {
    double forward[MOST_ROUNDS], blocks[MOST_ROUNDS], crowded[MOST_ROUNDS], step[STANDS][MOST_ROUNDS];
};

static void must(status_t status, const struct error *error)
{
    if (status == STATUS_OK) return;
    fprintf(stderr, "bench_plan: %s\n", error->text);
    exit(1);
}

static void wait_for_link(const struct bench_service *service, struct planner_links *links)
{
    for (int i = 0; i < 10 * PATIENCE_S; i++, usleep(100000)) {
        struct refrain_stats *stats;
        struct error error;
        must(refrain_stats(service->client, CALL_MS, &stats, &error), &error);
        const struct refrain_group *group = stats->group_count ? &stats->groups[0] : NULL;
        bool known = group && group->link_count > 0;
        if (known) planner_add_link(links, true, group->links[0].bytes_per_second, group->links[0].latency);
        refrain_free(stats);
        if (known) return;
    }
    fprintf(stderr, "bench_plan: the link between two ranks was not measured within %d s\n", PATIENCE_S);
    exit(1);
}

static void time_round(struct stopwatch *watch, const struct bench_service *services,
                       const struct refrain_spec *spec, int round, struct times *t)
{
    struct error error;
    must(stopwatch_time(watch, "forward", 1, &t->forward[round], &error), &error);
    must(stopwatch_time(watch, "blocks", 1, &t->blocks[round], &error), &error);
    must(stopwatch_time(watch, "blocks", RANKS, &t->crowded[round], &error), &error);
    for (int i = 0; i < STANDS; i++)
        t->step[i][round] = bench_service_steps(&services[i], spec) / spec->steps;
    printf("round %d: blocks %.3f s alone, %.3f s at once; a step", round + 1, t->blocks[round],
           t->crowded[round]);
    for (int i = 0; i < STANDS; i++) printf("%s %.3f s", i ? "," : "", t->step[i][round]);
    printf("\n");
    fflush(stdout);
}

/* Of a step alone, as `refrain plan --measured` would say. */
static double predict(const struct planner_model *model, const struct planner_job *job,
                      const struct planner_machine *machine, const struct planner_layout *layout)
{
    struct planner_request request = {.model = *model, .job = *job, .machine = *machine, .load = {.jobs = 1}};
    struct planner_option option;
    planner_predict(&request, layout, &option, NULL);
    return option.step_seconds;
}

static void compare(const struct planner_model *model, const struct refrain_spec *spec,
                    const struct planner_links *links, struct times *t, int rounds)
{
    struct error error;
    struct planner_job job;
    double blocks = bench_median(t->blocks, rounds), crowded = bench_median(t->crowded, rounds),
           forward = bench_median(t->forward, rounds);
    must(planner_size(model, spec->width, spec->height, spec->frames, &job, &error), &error);
    planner_steps(model, spec->steps, 2, &job);
    struct planner_machine machine = {.ranks = RANKS,
                                      .per_node = RANKS,
                                      .block_seconds = blocks / model->layers,
                                      .ends_seconds = forward > blocks ? forward - blocks : 0,
                                      .crowd = crowded / blocks,
                                      .operand_bytes = 4,
                                      .state_bytes = 4};
    planner_take_links(links, &machine);
    printf("\na block %.1f ms, %.3f times as long beside another; ends %.1f ms; link %.2f GB/s, %.0f us\n",
           1e3 * machine.block_seconds, machine.crowd, 1e3 * machine.ends_seconds, links->inside / 1e9,
           1e6 * links->latency);
    printf("%-22s %12s %12s %11s\n", "A STEP", "PREDICTED", "MEASURED", "DIFFERENCE");
    for (int i = 0; i < STANDS; i++) {
        double predicted = predict(model, &job, &machine, &stands[i].planned),
               measured = bench_median(t->step[i], rounds);
        printf("%-22s %10.3f s %10.3f s %+9.1f %%\n", stands[i].name, predicted, measured,
               100 * (predicted / measured - 1));
    }
}

int main(int argc, char **argv)
{
    struct bench_service services[STANDS];
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct planner_model shape;
    struct planner_links links = {0};
    struct planmodel_clip clip;
    struct stopwatch *watch;
    struct error error;
    static struct times times;
    char model[4096], worker[4096];
    unsigned width = 128, height = 128, frames = 17;
    int steps = argc > 4 ? atoi(argv[4]) : 2, rounds = argc > 5 ? atoi(argv[5]) : 5;
    if (argc < 3 || steps < 1 || rounds < 1 || rounds > MOST_ROUNDS || !realpath(argv[2], model) ||
        (argc > 3 && sscanf(argv[3], "%ux%ux%u", &width, &height, &frames) != 3)) {
        fprintf(stderr, "usage: bench_plan BIN MODEL [WxHxF [STEPS [ROUNDS]]]\n");
        return 2;
    }
    spec.model = "ref";
    spec.prompt = "a large red star spinning on a navy background";
    spec.width = width, spec.height = height, spec.frames = frames;
    spec.steps = (unsigned)steps;
    spec.guidance = 4;
    spec.checkpoint_every = 0;
    spec.recompute = true;
    must(planmodel_find(model, &shape, &clip, &error), &error);
    snprintf(worker, sizeof worker, "%s/refrain-worker", argv[1]);
    bench_service_open();
    for (int i = 0; i < STANDS; i++) {
        bench_service_start(&services[i], argv[1], model, stands[i].ranks,
                            (const char *[]){"--threads", "1", "--layout", stands[i].layout, "--stage-width",
                                             stands[i].width, NULL});
        if (strcmp(stands[i].ranks, "1") != 0) wait_for_link(&services[i], &links);
        bench_service_steps(&services[i], &spec); /* loads */
    }
    struct stopwatch_options options = {.worker = worker,
                                        .model = model,
                                        .width = width,
                                        .height = height,
                                        .frames = frames,
                                        .threads = 1,
                                        .ranks = RANKS};
    double warm;
    must(stopwatch_open(&options, &watch, &error), &error);
    must(stopwatch_time(watch, "forward", RANKS, &warm, &error), &error);
    for (int round = 0; round < rounds; round++) time_round(watch, services, &spec, round, &times);
    compare(&shape, &spec, &links, &times, rounds);
    stopwatch_close(watch);
    for (int i = 0; i < STANDS; i++) bench_service_stop(&services[i]);
    return bench_service_close();
}
