/*
 * bench_alone.c - what a second rank makes of one job that has the ranks to itself.
 *
 *     bench_alone BIN MODEL [WxHxF [STEPS [ROUNDS]]]
 *
 * A service of one rank and services of two ranks in each layout, all with one thread a rank, make the same guided job in
 * turns; the time of its steps is taken, without text and decoding. Printed: the speed of each in this round, as a share of
 * twice the single rank's; and the medians over the rounds. BIN: the directory of the programs.
 */
#include <stdio.h>
#include <stdlib.h>
#include "tools/bench/service.h"

enum { MOST_ROUNDS = 99, STANDS = 4 };

static const struct stand {
    const char *name, *ranks, *layout, *width;
} stands[STANDS] = {{"alone", "1", "auto", "1"},
                    {"layout pipeline", "2", "pipeline", "1"},
                    {"layout cfg", "2", "cfg", "1"},
                    {"stage width 2", "2", "auto", "2"}};

int main(int argc, char **argv)
{
    struct bench_service services[STANDS];
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    double seconds[STANDS], share[STANDS][MOST_ROUNDS];
    char model[4096];
    unsigned width = 256, height = 256, frames = 17; /* 1,280 tokens */
    int steps = argc > 4 ? atoi(argv[4]) : 3, rounds = argc > 5 ? atoi(argv[5]) : 5;
    if (argc < 3 || steps < 1 || rounds < 1 || rounds > MOST_ROUNDS || !realpath(argv[2], model) ||
        (argc > 3 && sscanf(argv[3], "%ux%ux%u", &width, &height, &frames) != 3)) {
        fprintf(stderr, "usage: bench_alone BIN MODEL [WxHxF [STEPS [ROUNDS]]]\n");
        return 2;
    }
    spec.model = "ref";
    spec.prompt = "a large red star spinning on a navy background";
    spec.width = width, spec.height = height, spec.frames = frames;
    spec.steps = (unsigned)steps;
    spec.guidance = 4;
    spec.checkpoint_every = 0;
    spec.recompute = true;
    bench_service_open();
    for (int i = 0; i < STANDS; i++) {
        bench_service_start(&services[i], argv[1], model, stands[i].ranks,
                            (const char *[]){"--threads", "1", "--layout", stands[i].layout, "--stage-width",
                                             stands[i].width, NULL});
        bench_service_steps(&services[i], &spec); /* loads */
    }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < STANDS; i++) {
            seconds[i] = bench_service_steps(&services[i], &spec);
            share[i][round] = seconds[0] / seconds[i] / 2;
            if (i == 0) {
                printf("one rank %.2f s a step", seconds[0] / steps);
                continue;
            }
            printf(", two ranks, %s, %.2f s: %.1f %% of twice its speed%s", stands[i].name,
                   seconds[i] / steps, 100 * share[i][round], i + 1 < STANDS ? "" : "\n");
            fflush(stdout);
        }
    for (int i = 1; i < STANDS; i++)
        printf("median: one job on two ranks, %s: %.1f %% of twice the speed of one\n", stands[i].name,
               100 * bench_median(share[i], rounds));
    for (int i = 0; i < STANDS; i++) bench_service_stop(&services[i]);
    return bench_service_close();
}
