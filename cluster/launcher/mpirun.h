/*
 * mpirun.h - one mpirun of refrain-worker: a whole group, ranks that come to one, or one rank that takes a lost one's seat.
 *
 *     struct child child;
 *     mpirun_start(&plan, &(struct mpirun_job){.group = "a3f0", .directory = "/tmp/refrain-launch-71/1"},
 *                  &child, &error);
 *
 * What a person would type, and as few settings as possible: a site's own Open MPI configuration stays in
 * force. mpirun's first process dies with the calling thread, and the ranks with it.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_MPIRUN_H
#define REFRAIN_CLUSTER_LAUNCHER_MPIRUN_H

#include <stdbool.h>
#include <string.h>
#include "base/child.h"
#include "base/status.h"

/* What is the same for all. Borrowed texts; NULL: not given. */
struct mpirun_plan {
    const char *worker;   /* path of refrain-worker */
    const char *endpoint; /* the coordinator's, for workers */
    const char *key_file; /* CURVE */
    const char *hostfile;
    const char *fabric;      /* "zmq", "mpi": the loss of one rank ends them all, or "nccl" */
    bool several_hosts;      /* a hostfile, or an allocation of more than this host */
    bool near;               /* all of the group's ranks are on this host, and talk over Unix sockets */
    const char *group;       /* one that is there, which the ranks come to; NULL: they form one */
    int first, ranks;        /* their number, and the first one's seat */
    int threads;             /* of each rank; 0: not said */
    const char *const *more; /* [more_count] options for refrain-worker */
    int more_count;
};

struct mpirun_job {
    const char *group;
    const char *directory; /* existing, nobody else's: for mpirun's own files */
    bool single;           /* one rank, for `seat`; otherwise all */
    int seat, threads;     /* of the single one; threads 0: as the plan says */
    const char *host;      /* of the single one; NULL: this host */
};

/* Can a lost rank be replaced? An MPI world that lost one cannot be mended. */
static inline bool mpirun_mends(const struct mpirun_plan *plan)
{
    return strcmp(plan->fabric, "mpi") != 0;
}

status_t mpirun_start(const struct mpirun_plan *plan, const struct mpirun_job *job, struct child *child,
                      struct error *error);
/* Does its exit status say that its ranks ran, and ended or were killed? Else it could not start them, or they failed. */
bool mpirun_ran(int code);
/* The same in words. */
void mpirun_explain(int code, char *text, int bytes);

#endif
