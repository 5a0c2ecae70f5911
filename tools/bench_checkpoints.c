/*
 * bench_checkpoints.c - what a checkpoint costs: processor time at the rank and at the coordinator, and how
 * many a second become durable, beside a program that only writes, syncs and names the same files.
 *
 *     bench_checkpoints [jobs] [bytes] [seconds] [directory]          4, 150000, 3, a new one in $TMPDIR
 *
 * The vault runs in a process of its own, so that getrusage tells the two sides apart, ZeroMQ's threads
 * included. Each job makes its next checkpoint as soon as the last one is durable: the most that can be asked
 * of it.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>
#include "base/clock.h"
#include "base/file.h"
#include "coordinator/vault/vault.h"
#include "coordinator/vault/vaultfile.h"
#include "worker/courier.h"

enum { MAX_JOBS = COURIER_JOBS };

static double cpu_seconds(int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void stop(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->text);
    exit(1);
}

/* The coordinator's side: says where it is on `pipe_end`, and at the end what it used. */
static void run_vault(const char *directory, int jobs, int pipe_end, int until)
{
    struct error error;
    struct vault *vault;
    char endpoint[256] = "", byte;
    struct vault_config config = {.context = zmq_ctx_new(),
                                  .bind = "tcp://127.0.0.1:*",
                                  .directory = directory,
                                  .limit_bytes = UINT64_C(4) << 30,
                                  .job_bytes = UINT64_C(1) << 30,
                                  .keep = 2};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (vault_open(&config, &vault, &error) != STATUS_OK) stop("vault", &error);
    for (int job = 1; job <= jobs; job++) vault_allow(vault, (uint64_t)job, 1);
    snprintf(endpoint, sizeof endpoint, "%s", vault_endpoint(vault));
    if (write(pipe_end, endpoint, sizeof endpoint) != sizeof endpoint) exit(1);
    double before = cpu_seconds(RUSAGE_SELF);
    while (read(until, &byte, 1) > 0) continue; /* until the other side closes it */
    double used = cpu_seconds(RUSAGE_SELF) - before;
    if (write(pipe_end, &used, sizeof used) != sizeof used) exit(1);
    vault_close(vault);
    exit(0);
}

/* The rank's side; how many became durable. */
static uint64_t run_courier(const char *endpoint, int jobs, size_t bytes, double seconds, double *compute,
                            double *cpu)
{
    struct error error;
    struct courier *courier;
    struct courier_counts counts;
    struct courier_config config = {0};
    uint8_t *state = malloc(bytes);
    uint64_t made = 0;
    uint32_t step = 0;
    if (!state || courier_open(&config, &courier, &error) != STATUS_OK) exit(1);
    memset(state, 7, bytes);
    courier_connect(courier, endpoint);
    /* Of this thread only what the courier's functions take counts, not how it waits. */
    double before = cpu_seconds(RUSAGE_SELF) - cpu_seconds(RUSAGE_THREAD);
    int64_t end_ns = clock_now_ns() + (int64_t)(seconds * SECOND_NS), inside_ns = 0;
    while (clock_now_ns() < end_ns) {
        courier_counts(courier, &counts);
        if (made - counts.saved - counts.dropped >= (uint64_t)jobs) {
            usleep(50);
            continue;
        }
        struct checkpoint_name name = {1 + made % (uint64_t)jobs, 1, step += made % (uint64_t)jobs == 0,
                                       bytes, 0};
        int64_t began_ns = clock_now_ns();
        void *buffer = courier_buffer(courier, name.job, bytes, false);
        if (!buffer) exit(1);
        memcpy(buffer, state, bytes);
        courier_send(courier, buffer, &name);
        inside_ns += clock_now_ns() - began_ns;
        made++;
    }
    *cpu = cpu_seconds(RUSAGE_SELF) - cpu_seconds(RUSAGE_THREAD) - before + (double)inside_ns / SECOND_NS;
    courier_counts(courier, &counts);
    *compute = (double)inside_ns / SECOND_NS / (double)made;
    courier_close(courier);
    free(state);
    return counts.saved;
}

/* The rival: nothing but the file. */
static uint64_t write_files(const char *directory, size_t bytes, double seconds, double *cpu)
{
    struct error error;
    struct checkpoint checkpoint = {.job = 1, .attempt = 1, .bytes = bytes};
    int root = open(directory, O_RDONLY | O_DIRECTORY), place, file;
    uint8_t *state = calloc(1, bytes);
    double before = cpu_seconds(RUSAGE_SELF);
    if (!state || vaultfile_directory(root, 1, &place, &error) != STATUS_OK) exit(1);
    for (int64_t end_ns = clock_now_ns() + (int64_t)(seconds * SECOND_NS); clock_now_ns() < end_ns;) {
        struct checkpoint old = checkpoint;
        checkpoint.step++;
        old.step -= 1;
        if (vaultfile_create(place, &checkpoint, &file, &error) != STATUS_OK ||
            vaultfile_append(file, &checkpoint, 0, state, bytes, &error) != STATUS_OK ||
            file_sync(file, &error) != STATUS_OK ||
            vaultfile_reveal(place, &checkpoint, &error) != STATUS_OK ||
            file_sync_directory(place, &error) != STATUS_OK)
            stop("files", &error);
        close(file);
        if (checkpoint.step > 2) vaultfile_remove(root, &old);
    }
    *cpu = cpu_seconds(RUSAGE_SELF) - before;
    vaultfile_remove_job(root, 1);
    close(place);
    close(root);
    free(state);
    return checkpoint.step;
}

int main(int argc, char **argv)
{
    int jobs = argc > 1 ? atoi(argv[1]) : 4, up[2], until[2];
    size_t bytes = argc > 2 ? strtoul(argv[2], NULL, 10) : 150000;
    double seconds = argc > 3 ? strtod(argv[3], NULL) : 3, rank_cpu, vault_cpu, file_cpu, compute;
    const char *tmp = getenv("TMPDIR");
    char directory[4096], endpoint[256], command[4200];
    if (jobs < 1 || jobs > MAX_JOBS || bytes < 1 || !(seconds > 0)) return 2;
    snprintf(directory, sizeof directory, "%s/bench-checkpoints.XXXXXX",
             argc > 4 ? argv[4]
             : tmp    ? tmp
                      : "/tmp");
    if (!mkdtemp(directory) || pipe(up) != 0 || pipe(until) != 0) return 1;

    uint64_t files = write_files(directory, bytes, seconds, &file_cpu);
    pid_t vault = fork();
    if (vault == 0) {
        close(until[1]);
        run_vault(directory, jobs, up[1], until[0]);
    }
    if (read(up[0], endpoint, sizeof endpoint) != sizeof endpoint) return 1;
    uint64_t saved = run_courier(endpoint, jobs, bytes, seconds, &compute, &rank_cpu);
    close(until[1]);
    if (read(up[0], &vault_cpu, sizeof vault_cpu) != sizeof vault_cpu) return 1;
    waitpid(vault, NULL, 0);

    printf("checkpoints of %zu bytes, %d jobs, %g s each, in %s\n", bytes, jobs, seconds, directory);
    printf("%-44s %8.0f a second, %6.0f us of processor time each\n", "files alone, one job",
           (double)files / seconds, 1e6 * file_cpu / (double)files);
    printf("%-44s %8.0f a second, ratio %.2f\n", "courier to vault, durable", (double)saved / seconds,
           (double)saved / (double)files);
    printf("%-44s %8.0f us of processor time each\n", "  at the rank, its threads together",
           1e6 * rank_cpu / (double)saved);
    printf("%-44s %8.0f us each\n", "  of that the compute thread, copy included", 1e6 * compute);
    printf("%-44s %8.0f us of processor time each\n", "  at the coordinator, its threads together",
           1e6 * vault_cpu / (double)saved);
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command) != 0;
}
