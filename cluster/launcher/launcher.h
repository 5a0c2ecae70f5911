/*
 * launcher.h - stands beside the ranks, and does what the coordinator cannot do from afar: starts them,
 * starts a lost one anew, ends them.
 *
 *     struct launcher_config config = {.plan = &plan, .uplink = {.endpoint = "tcp://head:5732"}, ...};
 *     launcher_run(&config, &error);           STATUS_OK: ended as asked
 *                                              STATUS_PEER_LOST: no coordinator for too long
 *
 * Its ranks form a group of their own, or (`join`) come to one that is there, whose launcher starts the others.
 *
 * It decides little. Which rank is lost, and whether one is replaced or all are relaunched, the coordinator
 * says. By itself it relaunches a group of the MPI fabric, which cannot be repaired, and one whose last rank
 * is gone and about which no order came; ranks that came to a group are not started again then.
 *
 * Runs on the calling thread, whose life is the ranks': block SIGTERM, SIGINT and SIGHUP before, they end it
 * here.
 */
#ifndef REFRAIN_CLUSTER_LAUNCHER_LAUNCHER_H
#define REFRAIN_CLUSTER_LAUNCHER_LAUNCHER_H

#include <stdint.h>
#include "base/status.h"
#include "cluster/launcher/mpirun.h"
#include "proto/uplink.h"

struct launcher_config {
    const struct mpirun_plan *plan;
    const char *join; /* the first letters of a group's name; NULL: none */
    struct uplink_config uplink;
    const char *directory; /* existing, private: for files of mpirun */
    int64_t orphan_ns;     /* to live without a coordinator */
    int64_t order_ns;      /* to wait for orders when no rank is left, or when a group is to be joined */
};

status_t launcher_run(const struct launcher_config *config, struct error *error);

#endif
