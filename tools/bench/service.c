/* service.c - see service.h. */
#include "tools/bench/service.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"

enum { ANSWER_MS = 120000, JOB_MS = 3600000, MOST_OPTIONS = 24 };

static char directory[64];
static int started;

static void die(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->text : "failed");
    exit(1);
}

void bench_service_open(void)
{
    snprintf(directory, sizeof directory, "/tmp/refrain-bench-XXXXXX");
    if (!mkdtemp(directory)) die(directory, NULL);
}

int bench_service_close(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) == 0 ? 0 : 1;
}

void bench_service_start(struct bench_service *service, const char *bin, const char *model, const char *ranks,
                         const char *const *options)
{
    char program[4096], data[96], clients[128], workers[128], ready[96], log[96];
    struct error error;
    struct refrain_model_list *added;
    int number = started++;
    snprintf(program, sizeof program, "%s/refrain-coordinator", bin);
    snprintf(data, sizeof data, "%s/%d", directory, number);
    snprintf(clients, sizeof clients, "ipc://%s/%d.clients", directory, number);
    snprintf(workers, sizeof workers, "ipc://%s/%d.workers", directory, number);
    snprintf(ready, sizeof ready, "%s/%d.ready", directory, number);
    snprintf(log, sizeof log, "%s/%d.log", directory, number);
    const char *line[MOST_OPTIONS] = {
        program, "--tie",           "--data", data,       "--endpoint", clients, "--worker-endpoint",
        workers, "--endpoint-file", ready,    "--launch", ranks};
    int count = 12;
    for (; *options && count < MOST_OPTIONS - 1; options++) line[count++] = *options;
    service->pid = fork();
    if (service->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!freopen(log, "w", stderr)) _exit(127);
        execv(program, (char *const *)(uintptr_t)line);
        _exit(127);
    }
    while (access(ready, F_OK) != 0) {
        if (waitpid(service->pid, NULL, WNOHANG) != 0) die(program, NULL);
        usleep(1000);
    }
    if (refrain_connect(clients, NULL, ANSWER_MS, &service->client, &error) != STATUS_OK)
        die("connect", &error);
    if (refrain_model_add(service->client, "ref", model, ANSWER_MS, &added, &error) != STATUS_OK)
        die("models add", &error);
    refrain_free(added);
}

void bench_service_stop(struct bench_service *service)
{
    refrain_close(service->client);
    kill(service->pid, SIGTERM);
    waitpid(service->pid, NULL, 0);
}

double bench_service_jobs(const struct bench_service *services, int count, int jobs,
                          const struct refrain_spec *spec)
{
    struct refrain_job *made[BENCH_MOST_JOBS];
    struct error error;
    int64_t began_ns = clock_now_ns();
    for (int i = 0; i < jobs; i++)
        if (refrain_submit(services[i % count].client, spec, NULL, ANSWER_MS, &made[i], &error) != STATUS_OK)
            die("submit", &error);
    for (int i = 0; i < jobs; i++) {
        if (refrain_wait(services[i % count].client, &made[i], JOB_MS, &error) != STATUS_OK)
            die("wait", &error);
        if (made[i]->state != REFRAIN_COMPLETED) die(made[i]->message ? made[i]->message : "a job", NULL);
        refrain_free(made[i]);
    }
    return (double)(clock_now_ns() - began_ns) / SECOND_NS;
}

double bench_service_steps(const struct bench_service *service, const struct refrain_spec *spec)
{
    struct refrain_job *job;
    struct error error;
    if (refrain_submit(service->client, spec, NULL, ANSWER_MS, &job, &error) != STATUS_OK)
        die("submit", &error);
    if (refrain_wait(service->client, &job, JOB_MS, &error) != STATUS_OK) die("wait", &error);
    if (job->state != REFRAIN_COMPLETED) die(job->message ? job->message : "a job", NULL);
    double seconds = job->times.denoise;
    refrain_free(job);
    return seconds;
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

double bench_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}
