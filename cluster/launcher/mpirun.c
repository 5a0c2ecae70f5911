/* mpirun.c - see mpirun.h. */
#include "cluster/launcher/mpirun.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OWN_ARGUMENTS = 48 };

/* A command line in the making, with the numbers on it. */
struct line {
    const char **words; /* [OWN_ARGUMENTS + more] */
    int count;
    char ranks[16], threads[16], seat[32];
};

static void add(struct line *line, const char *word)
{
    line->words[line->count++] = word;
}

static void add_two(struct line *line, const char *name, const char *value)
{
    add(line, name);
    add(line, value);
}

static void add_mca(struct line *line, const char *name, const char *value)
{
    add(line, "--mca");
    add_two(line, name, value);
}

/* Whatever a killed mpirun leaves lies in a directory of ours. On other hosts there is no such directory; then all is
 * where Open MPI puts it by itself, and litter.h cleans up here. (4.1 has a setting for this host only, but its
 * daemons on the others refuse to start with it.) */
static void add_directories(struct line *line, const struct mpirun_plan *plan, const struct mpirun_job *job)
{
    if (plan->several_hosts) return;
    add_mca(line, "orte_tmpdir_base", job->directory);
    add_mca(line, "btl_vader_backing_directory", job->directory); /* Open MPI 4 */
    add_mca(line, "btl_sm_backing_directory", job->directory);    /* Open MPI 5 */
}

static void add_mpirun(struct line *line, const struct mpirun_plan *plan, const struct mpirun_job *job)
{
    add(line, "mpirun");
    add_two(line, "-np", job->single ? "1" : line->ranks);
    /* In an allocation mpirun would put a daemon on each of its hosts, and depend on them all. */
    if (job->single && plan->several_hosts)
        add_two(line, "--host", job->host ? job->host : "localhost");
    else if (!job->single && plan->hostfile)
        add_two(line, "--hostfile", plan->hostfile);
    /* Survivors of a lost rank go on. A single rank has none, and its mpirun then tells how it ended. */
    if (!job->single && mpirun_mends(plan)) add(line, "--enable-recovery");
    add(line, "--oversubscribe"); /* more ranks than cores is slow, not wrong */
    add_two(line, "--bind-to", "none");
    if (geteuid() == 0) add(line, "--allow-run-as-root");
    /* Without waiting between the signals: ranks have nothing to save, and the next launch waits for their
     * end. */
    add_mca(line, "odls_base_sigkill_timeout", "0");
    add_directories(line, plan, job);
}

static void add_worker(struct line *line, const struct mpirun_plan *plan, const struct mpirun_job *job)
{
    add(line, plan->worker);
    add_two(line, "--coordinator", plan->endpoint);
    add_two(line, "--group", job->group);
    if (job->single || plan->group) add_two(line, "--seat", line->seat);
    if (job->threads || plan->threads) add_two(line, "--threads", line->threads);
    add_two(line, "--fabric", plan->fabric);
    /* Who comes later must be reachable the way the others are, and cannot see them. */
    if (mpirun_mends(plan) && plan->near) add_two(line, "--fabric-bind", "ipc://*");
    if (plan->key_file) add_two(line, "--key", plan->key_file);
    for (int i = 0; i < plan->more_count; i++) add(line, plan->more[i]); /* last: what a person says wins */
}

status_t mpirun_start(const struct mpirun_plan *plan, const struct mpirun_job *job, struct child *child,
                      struct error *error)
{
    static const char *const environment[] = {
        "OMPI_MCA_mpi_yield_when_idle=1", /* idle ranks leave the cores alone */
        "SLURM_OVERLAP=1",                /* a replacement's step shares the nodes with the group's */
        NULL,
    };
    struct line line = {.words = calloc(OWN_ARGUMENTS + (size_t)plan->more_count, sizeof *line.words)};
    if (!line.words) return error_set(error, STATUS_NO_MEMORY, "no memory for a command line");
    snprintf(line.ranks, sizeof line.ranks, "%d", plan->ranks);
    snprintf(line.threads, sizeof line.threads, "%d", job->threads ? job->threads : plan->threads);
    snprintf(line.seat, sizeof line.seat, "%d/%d", job->single ? job->seat : plan->first,
             plan->first + plan->ranks);
    add_mpirun(&line, plan, job);
    add_worker(&line, plan, job);
    /* A session of its own: Ctrl-C is for refrain-launch, which then ends it. */
    struct child_options options = {.new_session = true, .last_signal = SIGKILL, .environment = environment};
    status_t status = child_start(line.words, &options, child, error);
    free(line.words);
    return status;
}

bool mpirun_ran(int code)
{
    return code == 0 || (code > 128 && code <= 128 + SIGRTMAX);
}

void mpirun_explain(int code, char *text, int bytes)
{
    const char *signal_name = code > 128 ? sigabbrev_np(code - 128) : NULL;
    if (signal_name)
        snprintf(text, (size_t)bytes, "mpirun ended with code %d: SIG%s", code, signal_name);
    else
        snprintf(text, (size_t)bytes, "mpirun ended with code %d%s", code,
                 code == 0 ? "" : "; see what it and its ranks said");
}
