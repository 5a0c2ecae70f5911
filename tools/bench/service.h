/*
 * service.h - services that a benchmark starts, one coordinator and its ranks each, and times with jobs.
 *
 *     bench_service_open();                                          a directory for all of them
 *     bench_service_start(&s, bin, model, "2", (const char *[]){"--threads", "1", NULL});
 *     seconds = bench_service_jobs(&s, 1, 12, &spec);                dealt to so many services
 *     bench_service_stop(&s);
 *     return bench_service_close();
 *
 * Whatever fails ends the program with a sentence; the ranks end with it.
 */
#ifndef REFRAIN_TOOLS_BENCH_SERVICE_H
#define REFRAIN_TOOLS_BENCH_SERVICE_H

#include <sys/types.h>
#include "client/librefrain.h"

enum { BENCH_MOST_JOBS = 99 };

struct bench_service {
    pid_t pid;
    struct refrain *client;
};

void bench_service_open(void);
int bench_service_close(void); /* for main to return */

/* bin: directory of the programs. options: more of the coordinator's, NULL at the end. The model is called "ref" there. */
void bench_service_start(struct bench_service *service, const char *bin, const char *model, const char *ranks,
                         const char *const *options);
void bench_service_stop(struct bench_service *service);

/* Seconds for so many equal jobs, up to BENCH_MOST_JOBS. */
double bench_service_jobs(const struct bench_service *services, int count, int jobs,
                          const struct refrain_spec *spec);

/* Makes one job; the seconds that its steps took. */
double bench_service_steps(const struct bench_service *service, const struct refrain_spec *spec);

double bench_median(double *values, int count);

#endif
