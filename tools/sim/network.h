/*
 * network.h - the links between virtual ranks: cluster/fabric.h on the virtual clock.
 *
 *     network_open(&(struct network_config){.latency_ns = 50000, .bytes_per_second = 1e9}, &error);
 *     fabric_open(...);                                  each makes a port: 0, 1, ... in this order
 *     network_notify(fabric, wake, seat);
 *     network_kill(port);
 *     network_close();                                   after the last fabric_close
 *
 * Links in place of cluster/fabric*.o. A message takes bytes / bandwidth to leave, one after the other on each directed
 * link, and the latency to arrive. Order per pair, credits, loans until SENT and what ends an epoch are as fabric.h
 * says, with one difference: fabric_join returns at once, and a member that has not joined by the deadline is LOST
 * then. Bytes really are copied from member to member; nothing else connects them.
 */
#ifndef REFRAIN_TOOLS_SIM_NETWORK_H
#define REFRAIN_TOOLS_SIM_NETWORK_H

#include "cluster/fabric.h"

struct network_config {
    int64_t latency_ns;
    double bytes_per_second; /* of each directed link; 0: no time at all */
    int64_t death_ns;        /* until a killed member's connections are seen to end */
    /* Every message as it is posted; may be NULL. */
    void (*seen)(void *argument, int from, int to, const struct ticket *ticket);
    void *argument;
};

status_t network_open(const struct network_config *config, struct error *error);
void network_close(void);

/* Called when the owner of a fabric has something to look at. */
void network_notify(struct fabric *fabric, void (*wake)(void *context), void *context);

int network_port(const struct fabric *fabric);
/* SIGKILL, SIGSTOP, SIGCONT of the process that owns a port: connections end, or nothing is heard of it. A fabric that
 * was killed is closed like any other. */
void network_kill(int port);
void network_stop(int port);
void network_continue(int port);

struct network_traffic {
    uint64_t messages, hops, bytes;
};
struct network_traffic network_traffic(int from, int to);

#endif
