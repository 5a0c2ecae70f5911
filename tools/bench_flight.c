/*
 * bench_flight.c - what a group of ranks makes of several jobs in flight, and what checkpoints cost.
 *
 *     bench_flight BIN MODEL [ROUNDS [CACHE]]
 *
 * The rival of two ranks that share a model is two services with one rank each, side by side on the same machine:
 * both make the same jobs, in turns, and the ratio of their times is printed for each round and as the median. Then
 * the two ranks alternate between jobs that save a checkpoint at every step and jobs that save none.
 * Every rank has one thread. BIN: the directory of the programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "tools/bench/service.h"

enum { JOBS = 12, MOST_ROUNDS = 99, SERVICES = 3, WARM_SECONDS = 15 };

static struct refrain_spec spec = REFRAIN_SPEC_INIT;

/* Seconds for JOBS jobs, dealt to so many services. */
static double make_jobs(const struct bench_service *services, int count, unsigned checkpoint_every)
{
    spec.checkpoint_every = checkpoint_every;
    return bench_service_jobs(services, count, JOBS, &spec);
}

int main(int argc, char **argv)
{
    struct bench_service services[SERVICES]; /* two ranks; one; one */
    double ratio[MOST_ROUNDS], cost[MOST_ROUNDS];
    char model[4096];
    int rounds = argc > 3 ? atoi(argv[3]) : 5;
    if (argc < 3 || rounds < 1 || rounds > MOST_ROUNDS || !realpath(argv[2], model)) {
        fprintf(stderr, "usage: bench_flight BIN MODEL [ROUNDS [CACHE]]\n");
        return 2;
    }
    spec.model = "ref";
    spec.recompute = true;
    spec.prompt = "a large red star spinning on a navy background";
    spec.width = spec.height = 64;
    spec.frames = 17;
    spec.steps = 30;
    spec.guidance = 4;
    spec.cache = argc > 4 ? argv[4] : NULL;
    bench_service_open();
    static const char *const ranks[SERVICES] = {"2", "1", "1"};
    static const char *const options[] = {"--threads", "1", "--in-flight", "4", NULL};
    for (int i = 0; i < SERVICES; i++) bench_service_start(&services[i], argv[1], model, ranks[i], options);
    /* Loads, and long enough for the layout to follow what was measured. */
    for (int64_t end_ns = clock_now_ns() + WARM_SECONDS * SECOND_NS; clock_now_ns() < end_ns;)
        make_jobs(services, 1, 1);
    make_jobs(services, 1, 1);
    make_jobs(services + 1, 2, 1);
    for (int i = 0; i < rounds; i++) {
        double apart = make_jobs(services + 1, 2, 1), together = make_jobs(services, 1, 1);
        ratio[i] = apart / together;
        printf("two services of one rank %.2f s, one of two ranks %.2f s: %.3f of their throughput\n", apart,
               together, ratio[i]);
    }
    for (int i = 0; i < rounds; i++) {
        double without = make_jobs(services, 1, 0), with = make_jobs(services, 1, 1);
        cost[i] = with / without - 1;
        printf("no checkpoints %.2f s, at every step %.2f s: %+.1f %%\n", without, with, 100 * cost[i]);
    }
    printf("median: %.3f of the throughput of independent ranks, checkpoints cost %+.1f %%\n",
           bench_median(ratio, rounds), 100 * bench_median(cost, rounds));
    for (int i = 0; i < SERVICES; i++) bench_service_stop(&services[i]);
    return bench_service_close();
}
