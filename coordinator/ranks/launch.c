/*
 * launch.c - see launch.h. Runs on the coordinator's loop thread; holds no locks.
 *
 * refrain-launch, as if typed. Its end, which is its ranks' end, is seen through a pidfd (which also works
 * for a process that an earlier coordinator started), and a new one is started after a growing pause.
 */
#include "coordinator/ranks/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/child.h"
#include "base/clock.h"
#include "base/log.h"

enum { PATH_BYTES = 4096, MAX_ARGUMENTS = 40, HOPELESS_FAILURES = 3 };

#define FIRST_PAUSE_NS (500 * MILLISECOND_NS)
#define LAST_PAUSE_NS  (30 * SECOND_NS)
#define KILL_AFTER_NS  (4 * SECOND_NS) /* it gives its mpiruns 2 s before it kills them */

struct launch {
    struct launch_config config;
    char note[PATH_BYTES], log[PATH_BYTES];
    struct child child;
    bool inherited, forbidden, stopping, asked, killed; /* stopping; SIGTERM sent; SIGKILL sent */
    uint64_t number;                                    /* of this launcher, or of the last one */
    int failures;                                       /* in a row, without a ready group between */
    int64_t start_ns;                                   /* not before */
    int64_t since_ns;                                   /* started, or found */
    int64_t ask_ns;                                     /* when stopping: SIGTERM then ... */
    int64_t kill_ns;                                    /* ... and SIGKILL then */
};

/* ----------------------------------------------------------------------------------------------- the note */

/* Field 22 of /proc/PID/stat: with it a number that was given to another process in the meantime is not
 * mistaken. */
static bool process_start_time(pid_t pid, uint64_t *ticks)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (length <= 0) return false;
    text[length] = '\0';
    const char *at = strrchr(text, ')'); /* the name may hold blanks and brackets; field 3 follows */
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    return at && sscanf(at, "%" SCNu64, ticks) == 1;
}

/* Losing the note is no reason to fail: a restarted coordinator then starts new ranks, and the old ones
 * give up as orphans. */
static void write_note(const struct launch *launch)
{
    uint64_t ticks = 0;
    FILE *file = process_start_time(launch->child.pid, &ticks) ? fopen(launch->note, "we") : NULL;
    if (file) fprintf(file, "%d %" PRIu64 "\n", (int)launch->child.pid, ticks);
    if (!file || fclose(file) != 0)
        log_line(LOG_WARN,
                 "%s: cannot be written: a restarted coordinator will not find these ranks' launcher",
                 launch->note);
}

/* Finds the launcher of an earlier coordinator. */
static void read_note(struct launch *launch)
{
    int pid = 0;
    uint64_t noted = 0, ticks = 0;
    FILE *file = fopen(launch->note, "re");
    if (!file) return;
    bool fine = fscanf(file, "%d %" SCNu64, &pid, &noted) == 2 && pid > 1;
    fclose(file);
    if (!fine || !process_start_time(pid, &ticks) || ticks != noted) {
        unlink(launch->note);
        return;
    }
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) return;
    launch->child = (struct child){pid, pidfd};
    launch->number++;
    launch->since_ns = clock_now_ns();
    launch->inherited = true;
    log_line(LOG_INFO, "the ranks of an earlier coordinator are still there (refrain-launch, process %d)",
             pid);
}

status_t launch_open(const struct launch_config *config, struct launch **launch, struct error *error)
{
    struct launch *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the launcher");
    made->config = *config;
    made->child.pidfd = -1;
    snprintf(made->note, sizeof made->note, "%s/launcher", config->data);
    snprintf(made->log, sizeof made->log, "%s/workers.log", config->data);
    read_note(made);
    *launch = made;
    return STATUS_OK;
}

void launch_close(struct launch *launch)
{
    if (!launch) return;
    if (launch->child.pidfd >= 0) close(launch->child.pidfd);
    free(launch);
}

/* ----------------------------------------------------------------------------------------------- starting */

static status_t start(struct launch *launch, struct error *error)
{
    const struct launch_config *config = &launch->config;
    const char *argv[MAX_ARGUMENTS];
    char ranks[24], threads[24];
    int n = 0;
    snprintf(ranks, sizeof ranks, "%" PRId64, config->ranks);
    snprintf(threads, sizeof threads, "%" PRId64, config->threads);
    argv[n++] = config->launch_binary;
    argv[n++] = "--ranks", argv[n++] = ranks;
    argv[n++] = "--coordinator", argv[n++] = config->worker_endpoint;
    argv[n++] = "--worker-binary", argv[n++] = config->worker_binary;
    if (config->hostfile) argv[n++] = "--hostfile", argv[n++] = config->hostfile;
    if (config->threads) argv[n++] = "--threads", argv[n++] = threads;
    if (config->fabric) argv[n++] = "--fabric", argv[n++] = config->fabric;
    if (config->key_file) argv[n++] = "--key", argv[n++] = config->key_file;
    if (config->tied) argv[n++] = "--tie";
    argv[n] = NULL;
    if (!config->tied) {
        char previous[PATH_BYTES + 8];
        snprintf(previous, sizeof previous, "%s.1", launch->log);
        rename(launch->log, previous); /* what the last ones said stays readable */
    }
    struct child_options options = {.log_path = config->tied ? NULL : launch->log,
                                    .new_session = true,
                                    .last_signal = config->tied ? SIGTERM : 0};
    return child_start(argv, &options, &launch->child, error);
}

/* The first time at once; when it keeps happening, after pauses that double. */
static void pause_before_next(struct launch *launch, int64_t now_ns)
{
    int64_t pause_ns = launch->failures > 1 ? FIRST_PAUSE_NS : 0;
    for (int i = 2; i < launch->failures && pause_ns < LAST_PAUSE_NS; i++) pause_ns *= 2;
    launch->start_ns = now_ns + (pause_ns < LAST_PAUSE_NS ? pause_ns : LAST_PAUSE_NS);
}

/* A failure to start (no mpirun, no memory) is retried like one that ended: the machine may be mended
 * meanwhile. */
static void try_start(struct launch *launch, int64_t now_ns)
{
    struct error error;
    if (start(launch, &error) == STATUS_OK) {
        launch->inherited = launch->stopping = launch->killed = false;
        launch->number++;
        launch->since_ns = now_ns;
        write_note(launch);
        log_line(LOG_INFO, "started %" PRId64 " ranks (refrain-launch, process %d)", launch->config.ranks,
                 (int)launch->child.pid);
        return;
    }
    launch->failures++;
    pause_before_next(launch, now_ns);
    log_line(LOG_ERROR, "%s; next try in %.1f s", error.text,
             (double)(launch->start_ns - now_ns) / SECOND_NS);
}

/* ------------------------------------------------------------------------------------------------- ending */

static void note_end(struct launch *launch, int64_t now_ns)
{
    bool asked = launch->stopping || launch->forbidden;
    int code = child_reap(&launch->child); /* -1 for an inherited one: init reaps it */
    unlink(launch->note);
    launch->inherited = launch->stopping = false;
    launch->failures++;
    pause_before_next(launch, now_ns);
    log_line(asked ? LOG_INFO : LOG_WARN, "refrain-launch ended%s (code %d)", asked ? "" : " by itself",
             code);
}

void launch_stop(struct launch *launch, int64_t now_ns, int64_t grace_ns)
{
    if (launch->child.pidfd < 0 || launch->stopping) return;
    launch->stopping = true;
    launch->asked = launch->killed = false;
    launch->ask_ns = now_ns + grace_ns;
    launch->kill_ns = launch->ask_ns + KILL_AFTER_NS;
}

/* First with a word, then without. */
static void press(struct launch *launch, int64_t now_ns)
{
    if (!launch->asked && now_ns >= launch->ask_ns) {
        kill(launch->child.pid, SIGTERM);
        launch->asked = true;
    }
    if (!launch->killed && now_ns >= launch->kill_ns) {
        log_line(LOG_WARN, "refrain-launch does not end, it is killed");
        kill(-launch->child.pid, SIGKILL); /* it leads a process group of its own */
        kill(launch->child.pid, SIGKILL);
        launch->killed = true;
    }
}

/* One place for all that time and the pidfd bring about. */
bool launch_tick(struct launch *launch, bool readable, int64_t now_ns)
{
    bool ended = readable && launch->child.pidfd >= 0;
    if (ended)
        note_end(launch, now_ns);
    else if (launch->stopping)
        press(launch, now_ns);
    bool due = launch->child.pidfd < 0 && launch->config.ranks > 0 && !launch->forbidden &&
               now_ns >= launch->start_ns;
    if (due) try_start(launch, now_ns);
    return ended;
}

int64_t launch_wake_ns(const struct launch *launch)
{
    if (launch->stopping && !launch->killed) return launch->asked ? launch->kill_ns : launch->ask_ns;
    if (launch->child.pidfd < 0 && launch->config.ranks > 0 && !launch->forbidden) return launch->start_ns;
    return CLOCK_NEVER;
}

int launch_descriptor(const struct launch *launch)
{
    return launch->child.pidfd;
}

bool launch_running(const struct launch *launch)
{
    return launch->child.pidfd >= 0;
}

uint64_t launch_number(const struct launch *launch)
{
    return launch->number;
}

bool launch_inherited(const struct launch *launch)
{
    return launch->inherited;
}

bool launch_overdue(const struct launch *launch, int64_t now_ns, int64_t limit_ns)
{
    return launch->child.pidfd >= 0 && !launch->stopping && now_ns - launch->since_ns > limit_ns;
}

bool launch_hopeless(const struct launch *launch)
{
    return launch->config.tied && launch->failures >= HOPELESS_FAILURES;
}

void launch_settled(struct launch *launch)
{
    launch->failures = 0;
}

void launch_failed(struct launch *launch)
{
    launch->failures++;
}

void launch_forbid(struct launch *launch)
{
    launch->forbidden = true;
}
