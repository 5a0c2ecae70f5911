/*
 * place.h - where this rank stands among the others of its group.
 *
 *     struct place place;
 *     place_wish("a3f0", "2/4", &wish, &error);        --group and --seat, checked before MPI is started
 *     ... MPI_Init_thread ...
 *     place_find(&wish, &place, &error);
 *     place_settle();                                  fabric zmq: MPI is not needed any more
 *
 * A group is named by whoever started it; without a name rank 0 makes one. Usually MPI says which rank this
 * is. A replacement comes in an mpirun of its own, with one rank, and is told whose seat it takes.
 *
 * The main thread, the only one that calls MPI.
 */
#ifndef REFRAIN_WORKER_PLACE_H
#define REFRAIN_WORKER_PLACE_H

#include <stdbool.h>
#include "base/status.h"

enum { PLACE_GROUP_BYTES = 65 };

struct place_wish {
    const char *group; /* NULL: rank 0 makes a name; borrowed */
    int seat, ranks;   /* of the first rank of this mpirun; ranks 0: as MPI says */
};

struct place {
    int rank, ranks; /* in the group */
    int world_ranks; /* in this mpirun; 1 for a replacement */
    int local_ranks; /* of this mpirun, on this host */
    char host[256];
    char group[PLACE_GROUP_BYTES]; /* the same on all ranks */
};

/* group, seat: as typed, or NULL. */
status_t place_wish(const char *group, const char *seat, struct place_wish *wish, struct error *error);
/* All ranks of this mpirun call it. */
status_t place_find(const struct place_wish *wish, struct place *place, struct error *error);

/* All ranks of this mpirun call it, after the last message they send over MPI. The shared memory that MPI has
 * mapped loses its names: a rank that is killed later leaves nothing in /dev/shm. */
void place_settle(void);

#endif
