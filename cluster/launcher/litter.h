/*
 * litter.h - what killed ranks of Open MPI leave in shared memory.
 *
 *     litter_sweep();                              at start
 *
 * Ranks that end by SIGKILL cannot remove their segments, vader_segment.HOST.USER.* in /dev/shm. Those of
 * this host and user that no process has mapped are removed, unless they are so young that somebody may be
 * about to map them. A mishap is no reason to fail: they only cost memory.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_LITTER_H
#define REFRAIN_CLUSTER_LAUNCHER_LITTER_H

void litter_sweep(void);

#endif
