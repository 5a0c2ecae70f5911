/*
 * bench_finish.c - when jobs are said to be done, and when they are, with the real service.
 *
 *     bench_finish BIN MODEL [RANKS [JOBS]] [--verbose]
 *
 * One service; some jobs from which it learns, then a mixed queue: 15 to 45 steps, guided or not, cached or not, two
 * lengths, all at once. What it says is asked for at submission, once all are there, and every 50 ms from then on. Printed: the
 * median error at each of these moments and when a quarter and half of a job's steps are done, of the time from its submission
 * to its end, and signed; and of what was still to come then. With --verbose each job's errors, above 0 where it was said to be done later
 * than it was.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/bench/service.h"

enum { MOST_JOBS = 80, FIRST = 8, CALL_MS = 30000, PAUSE_MS = 50 };
enum moment { AT_SUBMISSION, ONCE_ALL_ARE_THERE, AT_A_QUARTER, AT_HALF, MOMENTS };

struct watched {
    uint64_t number;
    unsigned steps, frames, branches;
    const char *cache;
    int64_t submitted_ms, ended_ms; /* this clock: ended_ms is the coordinator's, on the same host */
    int64_t at_ms[MOMENTS], finish_ms[MOMENTS]; /* 0: not said */
};

static void fail(const char *what, const struct error *error)
{
    fprintf(stderr, "bench_finish: %s: %s\n", what, error->text);
    exit(1);
}

static void note(struct watched *w, enum moment moment, const struct refrain_job *job)
{
    if (w->at_ms[moment] || !job->finish_ms) return;
    w->at_ms[moment] = clock_wall_ms();
    w->finish_ms[moment] = (int64_t)job->finish_ms;
}

static void submit(struct refrain *client, int index, struct watched *w)
{
    static const char *const caches[] = {"off", "balanced", "off", "interval:N=3,F=1"};
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job;
    struct error error;
    double part = index * 0.6180339887498949;
    spec.model = "ref";
    spec.prompt = "a large red star spinning on a navy background";
    spec.seed = (uint64_t)index + 1;
    spec.steps = 15 + (unsigned)((part - (int)part) * 31);
    spec.frames = index % 3 == 2 ? 9 : 17;
    spec.width = spec.height = 64;
    spec.guidance = index % 5 == 4 ? 1 : 4;
    spec.cache = caches[index % 4];
    *w = (struct watched){.steps = spec.steps,
                          .frames = spec.frames,
                          .branches = spec.guidance > 1 ? 2 : 1,
                          .cache = spec.cache,
                          .submitted_ms = clock_wall_ms()};
    if (refrain_submit(client, &spec, NULL, CALL_MS, &job, &error) != STATUS_OK) fail("submit", &error);
    w->number = job->number;
    note(w, AT_SUBMISSION, job);
    refrain_free(job);
}

/* True while it has not ended. */
static bool look(struct refrain *client, struct watched *w, bool all_there)
{
    struct refrain_job *job;
    struct error error;
    if (w->ended_ms) return false;
    if (refrain_status(client, w->number, CALL_MS, &job, &error) != STATUS_OK) fail("status", &error);
    if (job->state == REFRAIN_FAILED) {
        fprintf(stderr, "bench_finish: job %" PRIu64 ": %s\n", w->number,
                job->message ? job->message : "failed");
        exit(1);
    }
    bool denoising = job->progress.phase == REFRAIN_PHASE_DENOISE;
    if (all_there) note(w, ONCE_ALL_ARE_THERE, job);
    if (denoising && 4 * job->progress.step >= w->steps) note(w, AT_A_QUARTER, job);
    if (denoising && 2 * job->progress.step >= w->steps) note(w, AT_HALF, job);
    if (refrain_state_is_final(job->state)) w->ended_ms = (int64_t)job->finished_ms;
    refrain_free(job);
    return w->ended_ms == 0;
}

static void run_queue(struct refrain *client, int first, int count, struct watched *jobs)
{
    for (int i = 0; i < count; i++) submit(client, first + i, &jobs[i]);
    usleep(1000 * PAUSE_MS); /* nobody expects more of them */
    for (int open = count; open > 0; usleep(1000 * PAUSE_MS)) {
        open = 0;
        for (int i = 0; i < count; i++) open += look(client, &jobs[i], true);
    }
}

/* Above 0: it was said to be done later. False: nothing was said then. */
static bool error_of(const struct watched *w, enum moment moment, bool rest, double *error)
{
    if (!w->at_ms[moment] || w->at_ms[moment] >= w->ended_ms) return false;
    *error = (double)(w->finish_ms[moment] - w->ended_ms) /
             (double)(w->ended_ms - (rest ? w->at_ms[moment] : w->submitted_ms));
    return true;
}

static void report(const struct watched *jobs, int count, enum moment moment, const char *name)
{
    double whole[MOST_JOBS], rest[MOST_JOBS], bias[MOST_JOBS], error;
    int said = 0, within = 0;
    for (int i = 0; i < count; i++) {
        if (!error_of(&jobs[i], moment, false, &error)) continue;
        bias[said] = error;
        whole[said] = fabs(error);
        within += fabs(error) <= 0.1;
        error_of(&jobs[i], moment, true, &error);
        rest[said++] = fabs(error);
    }
    if (said == 0) return;
    printf("%-26s %2d jobs  median error %5.1f %% of the whole (signed %+5.1f %%), %5.1f %% of what was to "
           "come; %d within 10 %%\n",
           name, said, 100 * bench_median(whole, said), 100 * bench_median(bias, said),
           100 * bench_median(rest, said), within);
}

static void list(const struct watched *jobs, int count)
{
    puts(" job steps frames branches  cache               seconds  submission  all there    quarter       "
         "half");
    for (int i = 0; i < count; i++) {
        const struct watched *w = &jobs[i];
        printf("%4d %5u %6u %8u  %-18s %8.3f ", i + 1, w->steps, w->frames, w->branches, w->cache,
               (double)(w->ended_ms - w->submitted_ms) / 1000);
        for (int moment = 0; moment < MOMENTS; moment++) {
            double error;
            if (error_of(w, (enum moment)moment, false, &error))
                printf(" %+8.1f %%", 100 * error);
            else
                printf(" %10s", "-");
        }
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    static struct watched jobs[MOST_JOBS];
    struct bench_service service;
    bool verbose = argc > 3 && strcmp(argv[argc - 1], "--verbose") == 0;
    argc -= verbose;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_finish BIN MODEL [RANKS [JOBS]] [--verbose]\n");
        return 2;
    }
    int count = argc > 4 ? atoi(argv[4]) : 24;
    if (count < 1 || count > MOST_JOBS) {
        fprintf(stderr, "bench_finish: %d jobs: must be 1 to %d\n", count, MOST_JOBS);
        return 2;
    }
    bench_service_open();
    bench_service_start(&service, argv[1], argv[2], argc > 3 ? argv[3] : "2",
                        (const char *[]){"--threads", "1", NULL});
    run_queue(service.client, 0, FIRST, jobs); /* from which it learns */
    run_queue(service.client, FIRST, count, jobs);
    report(jobs, count, AT_SUBMISSION, "at submission");
    report(jobs, count, ONCE_ALL_ARE_THERE, "once all are there");
    report(jobs, count, AT_A_QUARTER, "at a quarter of its steps");
    report(jobs, count, AT_HALF, "at half of them");
    if (verbose) list(jobs, count);
    bench_service_stop(&service);
    return bench_service_close();
}
