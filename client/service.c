/* service.c - see service.h. The main thread, before others exist. */
#include "client/service.h"

#include "base/clock.h"
#include "client/keeper.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 32, LOG_TAIL_BYTES = 4096, READY_POLL_MS = 10 };

struct service {
    char directory[PATH_MAX]; /* private: mode 0700 */
    char coordinator[PATH_MAX];
    char endpoint[PATH_MAX + 16], worker_endpoint[PATH_MAX + 16];
    char ready_file[PATH_MAX + 16], data[PATH_MAX + 16], log[PATH_MAX + 16];
    pid_t keeper;
    int life_fd;  /* write end: closing it ends everything */
    int ended_fd; /* read end */
};

/* --------------------------------------------------------------------------------- preparation */

status_t service_program_directory(char *directory, size_t size, struct error *error)
{
    ssize_t length = readlink("/proc/self/exe", directory, size - 1);
    if (length <= 0) return error_set(error, STATUS_IO, "/proc/self/exe: cannot be read: %m");
    directory[length] = 0;
    char *slash = strrchr(directory, '/');
    if (slash) *slash = 0;
    return STATUS_OK;
}

static status_t find_program(const char *directory, const char *name, char path[PATH_MAX],
                             struct error *error)
{
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX && access(path, X_OK) == 0)
        return STATUS_OK;
    return error_set(error, STATUS_NOT_FOUND, "%s is not beside this program, in %s: build it with `make`",
                     name, directory);
}

status_t service_find_worker(char path[PATH_MAX], struct error *error)
{
    char directory[PATH_MAX];
    status_t status = service_program_directory(directory, sizeof directory, error);
    return status ? status : find_program(directory, "refrain-worker", path, error);
}

static status_t find_programs(struct service *service, struct error *error)
{
    char directory[PATH_MAX], worker[PATH_MAX];
    status_t status = service_program_directory(directory, sizeof directory, error);
    if (!status) status = find_program(directory, "refrain-coordinator", service->coordinator, error);
    return status ? status : find_program(directory, "refrain-worker", worker, error);
}

/* Sockets in a directory of our own rather than ports: nobody else on this machine can reach them. */
static status_t make_directory(struct service *service, struct error *error)
{
    const char *parent = getenv("TMPDIR");
    if (!parent || !*parent) parent = "/tmp";
    /* The longest name in it is a socket's, and those are short by law (unix(7)). */
    size_t limit = sizeof((struct sockaddr_un *)0)->sun_path - sizeof "/refrain-XXXXXX/workers";
    if (strlen(parent) > limit)
        return error_set(error, STATUS_INVALID, "TMPDIR %s: longer than %zu bytes", parent, limit);
    snprintf(service->directory, sizeof service->directory, "%s/refrain-XXXXXX", parent);
    if (!mkdtemp(service->directory)) {
        service->directory[0] = 0;
        return error_set(error, STATUS_IO, "%s: no temporary directory can be made there: %m", parent);
    }
    snprintf(service->endpoint, sizeof service->endpoint, "ipc://%s/clients", service->directory);
    snprintf(service->worker_endpoint, sizeof service->worker_endpoint, "ipc://%s/workers",
             service->directory);
    snprintf(service->ready_file, sizeof service->ready_file, "%s/ready", service->directory);
    snprintf(service->data, sizeof service->data, "%s/data", service->directory);
    snprintf(service->log, sizeof service->log, "%s/log", service->directory);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------- start */

/* In the keeper-to-be: the program's command line, then keeping. */
static _Noreturn void keep(struct service *service, const struct service_options *options, int life_fd,
                           int ended_fd)
{
    char ranks[16], threads[16];
    const char *command[MAX_ARGUMENTS];
    int count = 0;
    snprintf(ranks, sizeof ranks, "%d", options->ranks);
    snprintf(threads, sizeof threads, "%d", options->threads);
    command[count++] = service->coordinator;
    command[count++] = "--tie"; /* the ranks end with it */
    command[count++] = "--data", command[count++] = service->data;
    command[count++] = "--endpoint", command[count++] = service->endpoint;
    command[count++] = "--worker-endpoint", command[count++] = service->worker_endpoint;
    command[count++] = "--endpoint-file", command[count++] = service->ready_file;
    command[count++] = "--launch", command[count++] = ranks;
    command[count++] = "--fabric", command[count++] = options->fabric;
    if (options->threads) command[count++] = "--threads", command[count++] = threads;
    command[count] = NULL;
    unsetenv("REFRAIN_COORDINATOR_CONFIG"); /* a configuration for a service is not one for this run */
    /* Whatever the launcher and MPI leave in their temporary directories goes with ours: Open MPI's session
     * directory, and the segments it keeps in /dev/shm otherwise, which stay there if its ranks are killed
     * (the second variable is for Open MPI 5). */
    setenv("TMPDIR", service->directory, 1);
    setenv("OMPI_MCA_btl_vader_backing_directory", service->directory, 1);
    setenv("OMPI_MCA_btl_sm_backing_directory", service->directory, 1);
    struct keeper_plan plan = {.command = command,
                               .directory = service->directory,
                               .log = service->log,
                               .life_fd = life_fd,
                               .ended_fd = ended_fd};
    keeper_run(&plan);
}

static status_t start_keeper(struct service *service, const struct service_options *options,
                             struct error *error)
{
    int life[2], ended[2];
    if (pipe2(life, O_CLOEXEC)) return error_set(error, STATUS_IO, "no pipe: %m");
    if (pipe2(ended, O_CLOEXEC)) {
        close(life[0]);
        close(life[1]);
        return error_set(error, STATUS_IO, "no pipe: %m");
    }
    service->keeper = fork();
    if (service->keeper == 0) {
        /* Our end of the lifeline must be nobody's but the client's. */
        close(life[1]);
        close(ended[0]);
        keep(service, options, life[0], ended[1]);
    }
    close(life[0]);
    close(ended[1]);
    service->life_fd = life[1];
    service->ended_fd = ended[0];
    return service->keeper > 0 ? STATUS_OK : error_set(error, STATUS_IO, "no process can be started: %m");
}

status_t service_start(const struct service_options *options, struct service **service, struct error *error)
{
    struct service *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a service");
    made->life_fd = made->ended_fd = -1;
    status_t status = find_programs(made, error);
    if (!status) status = make_directory(made, error);
    if (!status) status = start_keeper(made, options, error);
    if (status)
        service_stop(made);
    else
        *service = made;
    return status;
}

status_t service_wait(struct service *service, int stop_fd, int timeout_ms, struct error *error)
{
    int64_t deadline_ns = clock_now_ns() + timeout_ms * MILLISECOND_NS;
    while (access(service->ready_file, F_OK)) {
        struct pollfd fds[] = {{.fd = service->ended_fd, .events = POLLIN},
                               {.fd = stop_fd, .events = POLLIN}};
        poll(fds, 2, READY_POLL_MS);
        if (fds[1].revents) return error_set(error, STATUS_ABORTED, "interrupted");
        if (fds[0].revents)
            return error_set(error, STATUS_PEER_LOST, "the coordinator ended while it started");
        if (clock_now_ns() > deadline_ns)
            return error_set(error, STATUS_DEADLINE, "the coordinator was not ready after %d s",
                             timeout_ms / 1000);
    }
    return STATUS_OK;
}

const char *service_endpoint(const struct service *service)
{
    return service->endpoint;
}

int service_ended_fd(const struct service *service)
{
    return service->ended_fd;
}

bool service_ended(const struct service *service)
{
    struct pollfd ended = {.fd = service->ended_fd, .events = POLLIN};
    return poll(&ended, 1, 0) == 1;
}

/* ---------------------------------------------------------------------------------------- end */

void service_print_log(const struct service *service)
{
    char tail[LOG_TAIL_BYTES + 1];
    FILE *log = fopen(service->log, "re");
    if (!log) return;
    bool cut = fseek(log, -LOG_TAIL_BYTES, SEEK_END) == 0;
    size_t length = fread(tail, 1, LOG_TAIL_BYTES, log);
    fclose(log);
    tail[length] = 0;
    char *start = cut ? strchr(tail, '\n') : NULL; /* begin with a whole line */
    start = start ? start + 1 : tail;
    if (!*start) return;
    fprintf(stderr, "--- the last the coordinator and its ranks said\n%s%s---\n", start,
            tail[length - 1] == '\n' ? "" : "\n");
}

void service_stop(struct service *service)
{
    if (!service) return;
    if (service->life_fd >= 0) close(service->life_fd);
    while (service->keeper > 0 && waitpid(service->keeper, NULL, 0) < 0 && errno == EINTR) continue;
    if (service->ended_fd >= 0) close(service->ended_fd);
    /* Normally the keeper did it; not if it never started or was killed. */
    if (service->directory[0] && access(service->directory, F_OK) == 0)
        keeper_remove_tree(service->directory);
    free(service);
}
