/*
 * keeper.c - see keeper.h. One thread, a process of its own; nothing here may print to the person.
 *
 * The order of ending: ask the program politely (it shuts its ranks down and reaps them), then make it;
 * whoever lost his parent on the way became our child (subreaper), is asked, and then made to end as well.
 */
#include "client/keeper.h"

#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const int64_t PROGRAM_GRACE_NS = 8 * SECOND_NS; /* longer than the coordinator gives its ranks */
static const int64_t ORPHAN_GRACE_NS = 2 * SECOND_NS;
static const int64_t KILL_GRACE_NS = 5 * SECOND_NS; /* even SIGKILL waits for a page from a slow disk */

struct keeper {
    pid_t program; /* 0: ended and reaped */
    int child_fd;  /* signalfd of SIGCHLD */
};

/* ----------------------------------------------------------------------------------- the disk */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    remove(path);
    return 0; /* go on: as little as possible stays */
}

void keeper_remove_tree(const char *directory)
{
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* ----------------------------------------------------------------------------------- children */

/* The parent's number out of /proc/PID/stat; 0 if there is no such process. It stands after the program's
 * name, which may itself hold blanks and parentheses. */
static pid_t parent_of(const char *pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    const char *name_end = strrchr(text, ')');
    int parent = 0;
    if (!name_end || sscanf(name_end + 1, " %*c %d", &parent) != 1) return 0;
    return parent;
}

static void signal_children(int signal_number)
{
    DIR *processes = opendir("/proc");
    if (!processes) return;
    for (struct dirent *entry; (entry = readdir(processes));)
        if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && parent_of(entry->d_name) == getpid())
            kill(atoi(entry->d_name), signal_number);
    closedir(processes);
}

/* Takes note of all children that have ended; false when there are none left at all. */
static bool reap(struct keeper *keeper)
{
    struct signalfd_siginfo info;
    while (read(keeper->child_fd, &info, sizeof info) > 0) continue;
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid <= 0) return pid == 0;
        if (pid == keeper->program) keeper->program = 0;
    }
}

/* Reaps until `done` says so or the time is over. */
static void reap_until(struct keeper *keeper, bool all, int64_t grace_ns)
{
    int64_t deadline_ns = clock_now_ns() + grace_ns;
    while (reap(keeper) && (all || keeper->program) && clock_now_ns() < deadline_ns) {
        struct pollfd child = {.fd = keeper->child_fd, .events = POLLIN};
        poll(&child, 1, clock_poll_ms(deadline_ns));
    }
}

static void end_everything(struct keeper *keeper)
{
    if (keeper->program) kill(keeper->program, SIGTERM);
    reap_until(keeper, false, PROGRAM_GRACE_NS);
    if (keeper->program) kill(keeper->program, SIGKILL);
    if (!reap(keeper)) return;
    signal_children(SIGTERM);
    reap_until(keeper, true, ORPHAN_GRACE_NS);
    /* A killed child's own children become ours, so ask again until nobody is left. */
    int64_t deadline_ns = clock_now_ns() + KILL_GRACE_NS;
    while (reap(keeper) && clock_now_ns() < deadline_ns) {
        signal_children(SIGKILL);
        reap_until(keeper, true, 50 * MILLISECOND_NS);
    }
}

/* ----------------------------------------------------------------------------------- the start */

/* In the new child: becomes the program, or exits with 127. */
static _Noreturn void become(const struct keeper_plan *plan, pid_t keeper)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != keeper) _exit(127); /* the keeper went before the line above was in effect */
    execv(plan->command[0], (char *const *)(uintptr_t)plan->command);
    dprintf(STDERR_FILENO, "%s: cannot be started: %m\n", plan->command[0]);
    _exit(127);
}

/* Away from the terminal: Ctrl-C is meant for the client, which then tells us. */
static void detach(const struct keeper_plan *plan)
{
    setsid();
    prctl(PR_SET_NAME, "refrain-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = open(plan->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (null >= 0) dup2(null, STDIN_FILENO);
    if (log < 0) log = null;
    if (log >= 0) {
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
    }
}

_Noreturn void keeper_run(const struct keeper_plan *plan)
{
    struct keeper keeper = {0};
    detach(plan);
    /* All signals wait: those that mean "end" come as end of file on life_fd. */
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    keeper.child_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);

    pid_t self = getpid();
    keeper.program = fork();
    if (keeper.program == 0) become(plan, self);
    if (keeper.program < 0) keeper.program = 0;

    struct pollfd fds[] = {{.fd = plan->life_fd, .events = POLLIN},
                           {.fd = keeper.child_fd, .events = POLLIN}};
    while (keeper.program && !fds[0].revents) {
        poll(fds, 2, -1);
        reap(&keeper);
    }
    if (!keeper.program && write(plan->ended_fd, "", 1) < 0) { /* nobody there to read it */
    }
    /* The log stays readable until the client has let go. */
    while (!fds[0].revents) {
        poll(fds, 2, -1);
        reap(&keeper);
    }
    end_everything(&keeper);
    keeper_remove_tree(plan->directory);
    _exit(0);
}
