/*
 * network.h - the links between virtual ranks: cluster/fabric.h on the virtual clock.
 *
 *     network_open(&(struct network_config){.latency_ns = 50000, .bytes_per_second = 1e9}, &error);
 *     fabric_open(...);                                  each makes a port: 0, 1, ... in this order
 *     network_notify(fabric, wake, wait, seat);
 *     network_kill(port);
 *     network_close();                                   after the last fabric_close
 *
 * Links in place of cluster/fabric*.o. Ports stand in nodes, so many in each. A message takes bytes / bandwidth to leave
 * and the latency to arrive. Those of a port to others of its node leave one after the other, and so do those of a node's ports
 * to other nodes, in the order in which they were posted; what arrives shares nothing. Order per pair, credits, loans until SENT
 * and what ends an epoch are as fabric.h says, with one difference: fabric_join returns at once, and a member that has not
 * joined by the deadline is LOST then. Bytes really are copied from member to member; nothing else connects them.
 */
#ifndef REFRAIN_TOOLS_SIM_NETWORK_H
#define REFRAIN_TOOLS_SIM_NETWORK_H

#include "cluster/fabric.h"

struct network_config {
    int per_node;                        /* ports of a node; 0: all stand in one */
    int64_t latency_ns, node_latency_ns; /* inside a node; between nodes */
    double bytes_per_second,
        node_bytes_per_second; /* of a port inside its node; of a node; 0: no time at all */
    /* Bytes that a message counts as; NULL: those of its ticket and its payload. */
    double (*weigh)(const struct ticket *ticket);
    int64_t death_ns; /* until a killed member's connections are seen to end */
    /* Every message as it is posted; may be NULL. */
    void (*seen)(void *argument, int from, int to, const struct ticket *ticket);
    void *argument;
};

status_t network_open(const struct network_config *config, struct error *error);
void network_close(void);

/* wake: the owner of a fabric has something to look at. wait (may be NULL: fabric_wait then finds what is there, or its
 * deadline): comes back after the next wake, or at the deadline. */
void network_notify(struct fabric *fabric, void (*wake)(void *context),
                    void (*wait)(void *context, int64_t deadline_ns), void *owner);

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
