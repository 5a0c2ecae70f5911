/*
 * census.h - finds the ranks of a group among this host's processes.
 *
 *     census_kill("a3f0", 2, 1);              whoever holds rank 2 of that group here, stopped or hung
 *     census_kill("a3f0", 0, 8);              ranks 0 to 7
 *
 * mpirun does not say which process is which rank, and obeys no order about one of them. But a rank's command
 * line names its group (--group, and --seat where the first rank of its mpirun is not rank 0) and its environment the rank
 * mpirun gave it.
 * Processes of other users and on other hosts are out of reach.
 *
 * Stateless; any thread.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_CENSUS_H
#define REFRAIN_CLUSTER_LAUNCHER_CENSUS_H

/* How many were there. SIGKILL works at once, also on a stopped process; that it is gone shows a little
 * later. */
int census_kill(const char *group, int first, int count);
int census_count(const char *group, int first, int count);

#endif
