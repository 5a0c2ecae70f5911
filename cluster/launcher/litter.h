/*
 * litter.h - what killed processes of Open MPI leave on this host, where it lies in places of Open MPI's choice.
 *
 *     litter_sweep();                              at start
 *     litter_session(pid);                         an mpirun of ours has ended
 *
 * Ranks that end by SIGKILL cannot remove their shared memory, vader_segment.HOST.USER.* in /dev/shm: what no process
 * has mapped is removed, unless it is so young that somebody may be about to map it. An mpirun cannot remove its session
 * directory, ompi.HOST.USER/pid.NUMBER in the directory for temporary files. Only this host's and user's are touched. A
 * mishap is no reason to fail: they only cost room.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_LITTER_H
#define REFRAIN_CLUSTER_LAUNCHER_LITTER_H

#include <sys/types.h>

void litter_sweep(void);
void litter_session(pid_t pid);

#endif
