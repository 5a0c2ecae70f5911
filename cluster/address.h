/*
 * address.h - which address a member tells the others, given what it was asked to bind to.
 *
 *     address_to_bind("ipc:///run/refrain", endpoint, &error);     a name of its own in that directory
 *     zmq_bind(socket, endpoint); zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, ...);
 *     address_to_announce(bound, "tcp://head:5731", address, &error);
 *                                                "tcp://10.0.0.7:41234" for "tcp://0.0.0.0:41234"
 *
 * Stateless; any thread. May ask the resolver for the name in `toward`, so it can take as long as that does.
 */
#ifndef REFRAIN_CLUSTER_ADDRESS_H
#define REFRAIN_CLUSTER_ADDRESS_H

#include "cluster/fabric.h"

/* fabric_config.bind to what ZeroMQ can bind. Refuses what is neither tcp nor ipc, and paths too long for a
 * socket. */
status_t address_to_bind(const char *bind, char endpoint[FABRIC_ADDRESS_BYTES], struct error *error);

/* What was bound to what others can reach. `toward`: see fabric_config; may be NULL. */
status_t address_to_announce(const char *bound, const char *toward, char address[FABRIC_ADDRESS_BYTES],
                             struct error *error);

#endif
