/*
 * curve.h - who may talk to the coordinator, and as whom.
 *
 *     struct curve *curve;
 *     curve_open(context, "<keys>", &curve, &error);              before any socket is bound
 *     curve_protect(curve, clients, "clients", &error);
 *     struct caller caller;
 *     curve_caller(curve, &frame, &peer, &caller, &error);                         of a received message
 *     ... close the sockets ...  curve_close(curve);
 *
 * With keys, the key directory holds one file NAME.pub per allowed public key (proto/keyfile.h); the key is
 * the tenant and its name is NAME. Nobody declares their own. `role` in that file allows more: admin
 * (models), worker (the workers' socket, and only that). Files that come or go count from the next connection
 * on. The coordinator's own pair is coordinator.secret there, made when missing. Without keys everything is
 * one tenant, "local", that may do everything, and only loopback and ipc endpoints are served.
 *
 * Authentication (ZeroMQ's ZAP, RFC 27) runs on a thread of this module, which alone reads the key files.
 */
#ifndef REFRAIN_COORDINATOR_CURVE_H
#define REFRAIN_COORDINATOR_CURVE_H

#include <stdbool.h>
#include <zmq.h>
#include "base/status.h"
#include "proto/keyfile.h"
#include "proto/wire.h"

enum { TENANT_BYTES = 65 };

struct curve;

struct caller {
    char tenant[TENANT_BYTES];
    bool admin;
};

status_t curve_open(void *context, const char *directory, struct curve **curve, struct error *error);
void curve_close(struct curve *curve); /* NULL is fine; shuts the context down to end the thread */

/* Makes a socket a CURVE server whose callers are checked for this domain: "clients" or "workers". Before
 * zmq_bind. */
status_t curve_protect(struct curve *curve, void *socket, const char *domain, struct error *error);

/* The caller of a message. curve NULL: there are no keys, everybody is local and admin. STATUS_DENIED for a
 * message nobody vouches for, and for a connection that chose its own routing id: under that name a later
 * connection of another tenant could receive what was meant for this one. */
status_t curve_caller(const struct curve *curve, zmq_msg_t *frame, const struct wire_peer *peer,
                      struct caller *caller, struct error *error);

/* STATUS_DENIED for an endpoint that other machines can reach. */
status_t curve_check_loopback(const char *option, const char *endpoint, struct error *error);

/* NAME.pub and NAME.secret (to be given to who shall use it). STATUS_CONFLICT when they exist. */
status_t curve_make_key(const char *directory, const char *name, enum key_role role, struct error *error);

/* The secret file the coordinator's own ranks use (workers.secret), made when missing; path: [PATH_MAX]. */
status_t curve_worker_key(const char *directory, char *path, size_t bytes, struct error *error);

#endif
