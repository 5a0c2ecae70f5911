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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "client/librefrain.h"

enum { JOBS = 12, MOST_ROUNDS = 99, ANSWER_MS = 120000, SERVICES = 3 };

static char directory[64];
static const char *cache;

struct service {
    pid_t pid;
    struct refrain *client;
};

static void die(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->text : "failed");
    exit(1);
}

static void start(struct service *service, const char *bin, const char *model, int number, const char *ranks)
{
    char program[4096], data[96], clients[128], workers[128], ready[96], log[96];
    struct error error;
    struct refrain_model_list *added;
    snprintf(program, sizeof program, "%s/refrain-coordinator", bin);
    snprintf(data, sizeof data, "%s/%d", directory, number);
    snprintf(clients, sizeof clients, "ipc://%s/%d.clients", directory, number);
    snprintf(workers, sizeof workers, "ipc://%s/%d.workers", directory, number);
    snprintf(ready, sizeof ready, "%s/%d.ready", directory, number);
    snprintf(log, sizeof log, "%s/%d.log", directory, number);
    service->pid = fork();
    if (service->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!freopen(log, "w", stderr)) _exit(127);
        execl(program, program, "--tie", "--data", data, "--endpoint", clients, "--worker-endpoint", workers,
              "--endpoint-file", ready, "--launch", ranks, "--threads", "1", "--in-flight", "4", (char *)NULL);
        _exit(127);
    }
    while (access(ready, F_OK) != 0 && waitpid(service->pid, NULL, WNOHANG) == 0) usleep(1000);
    if (refrain_connect(clients, NULL, ANSWER_MS, &service->client, &error) != STATUS_OK) die("connect", &error);
    if (refrain_model_add(service->client, "ref", model, ANSWER_MS, &added, &error) != STATUS_OK)
        die("models add", &error);
    refrain_free(added);
}

static void stop(struct service *service)
{
    refrain_close(service->client);
    kill(service->pid, SIGTERM);
    waitpid(service->pid, NULL, 0);
}

static struct refrain_job *submit(struct service *service, unsigned checkpoint_every)
{
    struct error error;
    struct refrain_job *job;
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    spec.model = "ref";
    spec.prompt = "a large red star spinning on a navy background";
    spec.width = spec.height = 64;
    spec.frames = 17;
    spec.steps = 30;
    spec.guidance = 4;
    spec.cache = cache;
    spec.checkpoint_every = checkpoint_every;
    if (refrain_submit(service->client, &spec, NULL, ANSWER_MS, &job, &error) != STATUS_OK) die("submit", &error);
    return job;
}

/* Seconds for JOBS jobs, dealt to so many services. */
static double make_jobs(struct service *services, int count, unsigned checkpoint_every)
{
    struct refrain_job *jobs[JOBS];
    struct error error;
    int64_t began_ns = clock_now_ns();
    for (int i = 0; i < JOBS; i++) jobs[i] = submit(&services[i % count], checkpoint_every);
    for (int i = 0; i < JOBS; i++) {
        if (refrain_wait(services[i % count].client, &jobs[i], ANSWER_MS, &error) != STATUS_OK) die("wait", &error);
        if (jobs[i]->state != REFRAIN_COMPLETED) die(jobs[i]->message ? jobs[i]->message : "a job", NULL);
        refrain_free(jobs[i]);
    }
    return (double)(clock_now_ns() - began_ns) / SECOND_NS;
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

int main(int argc, char **argv)
{
    struct service services[SERVICES]; /* two ranks; one; one */
    double ratio[MOST_ROUNDS], cost[MOST_ROUNDS];
    char model[4096], command[96];
    int rounds = argc > 3 ? atoi(argv[3]) : 5;
    if (argc < 3 || rounds < 1 || rounds > MOST_ROUNDS || !realpath(argv[2], model)) {
        fprintf(stderr, "usage: bench_flight BIN MODEL [ROUNDS [CACHE]]\n");
        return 2;
    }
    cache = argc > 4 ? argv[4] : NULL;
    snprintf(directory, sizeof directory, "/tmp/refrain-flight-XXXXXX");
    if (!mkdtemp(directory)) die(directory, NULL);
    static const char *const ranks[SERVICES] = {"2", "1", "1"};
    for (int i = 0; i < SERVICES; i++) start(&services[i], argv[1], model, i, ranks[i]);
    make_jobs(services, 1, 1); /* loads, and learns */
    make_jobs(services + 1, 2, 1);
    for (int i = 0; i < rounds; i++) {
        double apart = make_jobs(services + 1, 2, 1), together = make_jobs(services, 1, 1);
        ratio[i] = apart / together;
        printf("two services of one rank %.2f s, one of two ranks %.2f s: %.3f of their throughput\n", apart, together,
               ratio[i]);
    }
    for (int i = 0; i < rounds; i++) {
        double without = make_jobs(services, 1, 0), with = make_jobs(services, 1, 1);
        cost[i] = with / without - 1;
        printf("no checkpoints %.2f s, at every step %.2f s: %+.1f %%\n", without, with, 100 * cost[i]);
    }
    printf("median: %.3f of the throughput of independent ranks, checkpoints cost %+.1f %%\n", median(ratio, rounds),
           100 * median(cost, rounds));
    for (int i = 0; i < SERVICES; i++) stop(&services[i]);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) == 0 ? 0 : 1;
}
