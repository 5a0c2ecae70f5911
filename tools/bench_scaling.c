/*
 * bench_scaling.c - what more GPUs of a host make of a queue of jobs, and what NCCL is worth between them.
 *
 *     bench_scaling BIN MODEL GPUS [WxHxF [STEPS [JOBS [ROUNDS]]]]
 *
 * A service of one rank, then of 2, 4, ... up to GPUs ranks that share the model by layers, over zmq (tensors go through
 * the host) and over nccl. In every round each stand is started, warmed by as many jobs as it will be timed with, and makes
 * JOBS jobs for each of its ranks, without checkpoints. Printed: jobs an hour; the share of so many times one rank's in the
 * same round; and the medians of both over the rounds, nccl's beside zmq's. Guided by 4, so a step is two forwards.
 * BIN: the directory of the programs. Which backend: REFRAIN_BACKEND.
 */
#include <stdio.h>
#include <stdlib.h>
#include "tools/bench/service.h"

enum { MOST_ROUNDS = 20, MOST_STANDS = 12, SECONDS_AN_HOUR = 3600 };

struct stand {
    int ranks;
    const char *fabric;
    double per_hour[MOST_ROUNDS], efficiency[MOST_ROUNDS];
};

struct plan {
    const char *bin;
    char model[4096];
    int jobs; /* a rank */
    struct refrain_spec spec;
};

static double measure(const struct plan *plan, const struct stand *stand)
{
    struct bench_service service;
    char ranks[16];
    int jobs = plan->jobs * stand->ranks;
    snprintf(ranks, sizeof ranks, "%d", stand->ranks);
    if (jobs > BENCH_MOST_JOBS) jobs = BENCH_MOST_JOBS;
    bench_service_start(&service, plan->bin, plan->model, ranks,
                        (const char *[]){"--fabric", stand->fabric, "--threads", "1", NULL});
    bench_service_jobs(&service, 1, jobs, &plan->spec); /* loads, and the layout follows what was measured */
    double seconds = bench_service_jobs(&service, 1, jobs, &plan->spec);
    bench_service_stop(&service);
    return jobs / seconds * SECONDS_AN_HOUR;
}

static void report(struct stand *stands, int count, int rounds)
{
    for (int i = 0; i < count; i++) {
        printf("median: %d rank(s), %-4s  %8.1f jobs/h  %5.1f %% of %d single ranks", stands[i].ranks,
               stands[i].fabric, bench_median(stands[i].per_hour, rounds),
               100 * bench_median(stands[i].efficiency, rounds), stands[i].ranks);
        if (i > 0 && stands[i].ranks == stands[i - 1].ranks)
            printf("  %.3f of zmq's", bench_median(stands[i].efficiency, rounds) /
                                          bench_median(stands[i - 1].efficiency, rounds));
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    struct plan plan = {.spec = REFRAIN_SPEC_INIT};
    struct stand stands[MOST_STANDS] = {{.ranks = 1, .fabric = "zmq"}};
    int gpus = argc > 3 ? atoi(argv[3]) : 0, count = 1;
    unsigned width = 832, height = 480, frames = 81;
    int steps = argc > 5 ? atoi(argv[5]) : 8, rounds = argc > 7 ? atoi(argv[7]) : 3;
    plan.jobs = argc > 6 ? atoi(argv[6]) : 2;
    if (gpus < 1 || rounds < 1 || rounds > MOST_ROUNDS || plan.jobs < 1 || steps < 1 ||
        !realpath(argv[2], plan.model) ||
        (argc > 4 && sscanf(argv[4], "%ux%ux%u", &width, &height, &frames) != 3)) {
        fprintf(stderr, "usage: bench_scaling BIN MODEL GPUS [WxHxF [STEPS [JOBS [ROUNDS]]]]\n");
        return 2;
    }
    plan.bin = argv[1];
    plan.spec.model = "ref";
    plan.spec.prompt = "a large red star spinning on a navy background";
    plan.spec.width = width, plan.spec.height = height, plan.spec.frames = frames;
    plan.spec.steps = (unsigned)steps;
    plan.spec.guidance = 4;
    plan.spec.checkpoint_every = 0;
    plan.spec.recompute = true;
    for (int ranks = 2; ranks <= gpus && count + 2 <= MOST_STANDS; ranks *= 2)
        for (int nccl = 0; nccl < 2; nccl++)
            stands[count++] = (struct stand){.ranks = ranks, .fabric = nccl ? "nccl" : "zmq"};
    bench_service_open();
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < count; i++) {
            stands[i].per_hour[round] = measure(&plan, &stands[i]);
            stands[i].efficiency[round] =
                stands[i].per_hour[round] / (stands[0].per_hour[round] * stands[i].ranks);
            printf("%d rank(s), %-4s  %8.1f jobs/h  %5.1f %% of %d single ranks\n", stands[i].ranks,
                   stands[i].fabric, stands[i].per_hour[round], 100 * stands[i].efficiency[round],
                   stands[i].ranks);
            fflush(stdout);
        }
    report(stands, count, rounds);
    return bench_service_close();
}
