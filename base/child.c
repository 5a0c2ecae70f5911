/*
 * child.c - see child.h. Called from one thread of a program, its loop.
 *
 * fork and exec by hand, because posix_spawn knows neither PR_SET_PDEATHSIG nor how to say why exec failed.
 * Between the two only async-signal-safe functions are called: other threads may hold any lock.
 */
#include "base/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs in the child: never returns. report: a pipe that closes by itself when exec works. */
static void become(const char *const *argv, char **environment, const struct child_options *options,
                   int input, int output, int report, pid_t parent)
{
    sigset_t none;
    int code;
    if (input < 0) input = open("/dev/null", O_RDONLY);
    if (options->log_path) output = open(options->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (output < 0 && !options->log_path) output = STDERR_FILENO;
    if (input < 0 || output < 0 || dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        goto fail;
    if (options->new_session) setsid();
    if (options->last_signal && prctl(PR_SET_PDEATHSIG, options->last_signal) != 0) goto fail;
    if (options->last_signal && getppid() != parent) _exit(1); /* it ended before we asked to be told */
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Whatever was opened without O_CLOEXEC stays here; `report` closes when exec works. */
    for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
        if (fd != report) fcntl(fd, F_SETFD, FD_CLOEXEC);
    execvpe(argv[0], (char *const *)argv, environment);
fail:
    code = errno;
    if (write(report, &code, sizeof code) != sizeof code) _exit(126);
    _exit(127);
}

/* Our environment and the additions in one array; the strings are borrowed. */
static char **make_environment(const char *const *additions)
{
    size_t count = 0, added = 0;
    while (environ[count]) count++;
    while (additions && additions[added]) added++;
    char **made = malloc((count + added + 1) * sizeof *made);
    if (!made) return NULL;
    /* Additions first: the first of two equal names is the one getenv finds. */
    for (size_t i = 0; i < added; i++) made[i] = (char *)additions[i];
    for (size_t i = 0; i < count; i++) made[added + i] = environ[i];
    made[added + count] = NULL;
    return made;
}

static void close_pair(int pair[2])
{
    if (pair[0] >= 0) close(pair[0]);
    if (pair[1] >= 0) close(pair[1]);
}

/* The report pipe closes by itself when exec works (O_CLOEXEC) and carries errno when it does not: so a
 * missing program is an error of the caller, not a child that ends oddly. */
status_t child_start(const char *const *argv, const struct child_options *options, struct child *child,
                     struct error *error)
{
    int report[2] = {-1, -1}, input[2] = {-1, -1}, output[2] = {-1, -1}, code = 0;
    char **environment = make_environment(options->environment);
    status_t status = STATUS_IO;
    if (!environment || pipe2(report, O_CLOEXEC) != 0 || (options->input && pipe2(input, O_CLOEXEC) != 0) ||
        (options->output && pipe2(output, O_CLOEXEC) != 0))
        goto fail;
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) goto fail;
    if (pid == 0) become(argv, environment, options, input[0], output[1], report[1], parent);

    close(report[1]);
    report[1] = -1;
    ssize_t length;
    while ((length = read(report[0], &code, sizeof code)) < 0 && errno == EINTR) {
    }
    if (length == sizeof code) { /* exec failed, and this is why */
        waitpid(pid, NULL, 0);
        errno = code;
        goto fail;
    }
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        code = errno;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        errno = code;
        goto fail;
    }
    if (options->output) {
        fcntl(output[0], F_SETFL, O_NONBLOCK);
        *options->output = output[0];
        output[0] = -1;
    }
    if (options->input) {
        *options->input = input[1];
        input[1] = -1;
    }
    *child = (struct child){pid, pidfd};
    status = STATUS_OK;
    goto out;
fail:
    if (errno == ENOENT) status = STATUS_NOT_FOUND;
    error_set(error, status, "%s: cannot be started: %m", argv[0]);
out:
    close_pair(report);
    close_pair(input);
    close_pair(output);
    free(environment);
    return status;
}

int child_reap(struct child *child)
{
    int status = 0;
    pid_t got;
    while ((got = waitpid(child->pid, &status, 0)) < 0 && errno == EINTR) {
    }
    if (child->pidfd >= 0) close(child->pidfd);
    *child = (struct child){0, -1};
    if (got < 0) return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
