/*
 * crew.h - the ranks of one group, or those that came to it together, from their start to the end of the last: one mpirun for
 * all, and one for each rank that was replaced since.
 *
 *     crew_start(&plan, scratch, &crew, &error);               a new name, unless the plan has one; all ranks
 *     crew_replace(crew, &seat, &error);                       one of them anew
 *     int items = crew_poll(crew, poll_items); zmq_poll(...);
 *     crew_reap(crew); while (crew_news(crew, &end)) ... tell the coordinator ...
 *     crew_end(crew, now_ns, grace_ns);  crew_tick(crew, now_ns);  until crew_over(crew)
 *     crew_free(crew);
 *
 * A seat is a rank's place. At first all seats are held by the group's own mpirun; when that ends, every seat
 * that was not given to a replacement is empty. mpirun runs on when it loses ranks, and does not say so: that
 * a single one is gone the coordinator notices by other means.
 *
 * One thread: the children die with it.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_CREW_H
#define REFRAIN_CLUSTER_LAUNCHER_CREW_H

#include <stdbool.h>
#include <stdint.h>
#include <zmq.h>
#include "base/status.h"
#include "cluster/launcher/mpirun.h"

struct crew;

enum {
    CREW_NAME_BYTES = 65,
    CREW_MAX_RANKS = 1024,
    CREW_MAX_THREADS = 4096,
    CREW_ALL = -1,
    CREW_SPARE = 64,                                   /* mpiruns that are on their way out, at most */
    CREW_POLL_ITEMS = 1 + CREW_MAX_RANKS + CREW_SPARE, /* at most */
    CREW_TEXT_BYTES = ERROR_TEXT_BYTES,
};

/* A seat got empty, or all that the group's own mpirun still held (rank CREW_ALL). */
struct crew_end {
    int rank;
    char message[CREW_TEXT_BYTES];
};

struct crew_seat {
    int rank;
    const char *host; /* NULL or "": wherever the others are */
    int threads;      /* 0: as the plan says */
};

/* plan and directory are borrowed. directory: existing, for files of mpirun. */
status_t crew_start(const struct mpirun_plan *plan, const char *directory, struct crew **crew,
                    struct error *error);
/* Kills what is left (its end is not waited for), and frees. NULL is fine. */
void crew_free(struct crew *crew);

const char *crew_name(const struct crew *crew);
bool crew_empty(const struct crew *crew); /* no seat is held any more */

/* Gives a seat to a new process; an older one of this host is killed. STATUS_INVALID: no such rank;
 * STATUS_UNSUPPORTED: the fabric cannot do it; else mpirun could not be started, which shows as an end, too.
 */
status_t crew_replace(struct crew *crew, const struct crew_seat *seat, struct error *error);

int crew_poll(const struct crew *crew, zmq_pollitem_t items[CREW_POLL_ITEMS]);
void crew_reap(struct crew *crew);                       /* takes note of those that ended */
bool crew_news(struct crew *crew, struct crew_end *end); /* each once */
/* What is empty once more, for a coordinator that knows nothing of the group: CREW_ALL only if no seat is
 * held. */
void crew_retell(struct crew *crew);

/* Ends all, if they do not end by themselves within grace_ns; then first with a word, then without. */
void crew_end(struct crew *crew, int64_t now_ns, int64_t grace_ns);
void crew_tick(struct crew *crew, int64_t now_ns);
int64_t crew_wake_ns(const struct crew *crew); /* when crew_tick has something to do; CLOCK_NEVER: nothing */
bool crew_over(const struct crew *crew);       /* no process of ours is left */

#endif
