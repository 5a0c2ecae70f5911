/*
 * bench_queue.c - how fast a coordinator acknowledges jobs, and that a full queue survives its death.
 *
 *     bench_queue COORDINATOR WORKER MODEL
 *
 * Submits 1,000 jobs to a coordinator without ranks, then measures the acknowledgement of 500 more, one after another
 * (each is in the store, and the store synced, before it is acknowledged; the disk's own fsync is measured beside it);
 * fills the queue to 10,000 over eight connections, kills the coordinator with SIGKILL, starts it again, and counts.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "client/librefrain.h"

enum { BEFORE = 1000, SAMPLES = 500, FULL = 10000, CONNECTIONS = 8, ANSWER_MS = 60000 };

static char directory[64], endpoint[128];

static void die(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->text : "failed");
    exit(1);
}

static pid_t start(const char *coordinator, const char *worker)
{
    char data[96], workers[128], ready[96];
    snprintf(data, sizeof data, "%s/data", directory);
    snprintf(workers, sizeof workers, "ipc://%s/workers", directory);
    snprintf(ready, sizeof ready, "%s/ready", directory);
    unlink(ready);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(coordinator, coordinator, "--data", data, "--endpoint", endpoint, "--worker-endpoint", workers,
              "--worker-binary", worker, "--endpoint-file", ready, (char *)NULL);
        _exit(127);
    }
    while (access(ready, F_OK) != 0 && waitpid(pid, NULL, WNOHANG) == 0) usleep(1000);
    return pid;
}

static struct refrain *connect_client(void)
{
    struct refrain *client;
    struct error error;
    if (refrain_connect(endpoint, NULL, ANSWER_MS, &client, &error) != STATUS_OK) die("connect", &error);
    return client;
}

static double submit(struct refrain *client)
{
    struct error error;
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    spec.model = "ref";
    spec.prompt = "a large red star spinning on a navy background";
    int64_t began_ns = clock_now_ns();
    struct refrain_job *job;
    if (refrain_submit(client, &spec, NULL, ANSWER_MS, &job, &error) != STATUS_OK) die("submit", &error);
    double ms = (double)(clock_now_ns() - began_ns) / MILLISECOND_NS;
    refrain_free(job);
    return ms;
}

static void *fill(void *share)
{
    struct refrain *client = connect_client();
    for (long i = 0; i < (long)(intptr_t)share; i++) submit(client);
    refrain_close(client);
    return NULL;
}

static void fill_in_parallel(long jobs)
{
    pthread_t threads[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++)
        pthread_create(&threads[i], NULL, fill, (void *)(intptr_t)(jobs / CONNECTIONS + (i < jobs % CONNECTIONS)));
    for (int i = 0; i < CONNECTIONS; i++) pthread_join(threads[i], NULL);
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Median of 4 KiB written over and their fdatasync, on the same file system: what SQLite's log costs at least. */
static double sync_ms(void)
{
    static double samples[SAMPLES];
    char path[96], page[4096] = {1};
    snprintf(path, sizeof path, "%s/sync", directory);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    for (int i = -SAMPLES; i < SAMPLES; i++) { /* the first time round the file grows */
        int64_t began_ns = clock_now_ns();
        off_t at = (off_t)((i + SAMPLES) % SAMPLES) * (off_t)sizeof page;
        if (pwrite(fd, page, sizeof page, at) < 0 || fdatasync(fd) != 0) die("fdatasync", NULL);
        if (i < 0) continue;
        samples[i] = (double)(clock_now_ns() - began_ns) / MILLISECOND_NS;
    }
    close(fd);
    qsort(samples, SAMPLES, sizeof *samples, ascending);
    return samples[SAMPLES / 2];
}

static uint64_t queued(struct refrain *client)
{
    struct refrain_stats *stats;
    struct error error;
    if (refrain_stats(client, ANSWER_MS, &stats, &error) != STATUS_OK) die("stats", &error);
    uint64_t count = stats->queued;
    refrain_free(stats);
    return count;
}

int main(int argc, char **argv)
{
    static double samples[SAMPLES];
    struct error error;
    if (argc != 4) {
        fprintf(stderr, "usage: bench_queue COORDINATOR WORKER MODEL\n");
        return 2;
    }
    snprintf(directory, sizeof directory, "/tmp/refrain-queue-XXXXXX");
    if (!mkdtemp(directory)) die(directory, NULL);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/clients", directory);
    pid_t pid = start(argv[1], argv[2]);
    struct refrain *client = connect_client();
    char model[4096];
    if (!realpath(argv[3], model)) die(argv[3], NULL);
    struct refrain_model_list *added;
    if (refrain_model_add(client, "ref", model, ANSWER_MS, &added, &error) != STATUS_OK) die("models add", &error);
    refrain_free(added);
    fill_in_parallel(BEFORE);
    for (int i = 0; i < SAMPLES; i++) samples[i] = submit(client);
    qsort(samples, SAMPLES, sizeof *samples, ascending);
    printf("acknowledged, %d jobs queued: median %.2f ms, 99 %% within %.2f ms (fdatasync alone: %.2f ms)\n", BEFORE,
           samples[SAMPLES / 2], samples[SAMPLES * 99 / 100], sync_ms());
    int64_t began_ns = clock_now_ns();
    long rest = FULL - BEFORE - SAMPLES;
    fill_in_parallel(rest);
    double seconds = (double)(clock_now_ns() - began_ns) / SECOND_NS;
    printf("%ld more over %d connections: %.0f a second\n", rest, CONNECTIONS, (double)rest / seconds);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    began_ns = clock_now_ns();
    pid = start(argv[1], argv[2]);
    uint64_t left = queued(client);
    printf("after kill -9: %lu of %d jobs queued again %.0f ms later\n", (unsigned long)left, FULL,
           (double)(clock_now_ns() - began_ns) / MILLISECOND_NS);
    refrain_close(client);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return left == FULL && system(command) == 0 ? 0 : 1;
}
