/*
 * uplink.h - the connection of a rank or a launcher to its coordinator: kept up by itself, and honest about
 * it.
 *
 *     struct uplink_config config = {.endpoint = "tcp://head:5732"};
 *     uplink_open(&config, clock_now_ns(), &uplink, &error);
 *     poll on uplink_socket(uplink) and uplink_monitor(uplink);
 *     switch (uplink_change(uplink, now_ns)) {                the monitor was readable
 *     case UPLINK_BACK: ... say who we are ...
 *     }
 *     if (uplink_away_ns(uplink, now_ns) > patience_ns) ...   alone for so long
 *     uplink_close(uplink);
 *
 * ZeroMQ reconnects a DEALER for ever and never says that nobody is there; its monitor does. One thread.
 */
#ifndef REFRAIN_PROTO_UPLINK_H
#define REFRAIN_PROTO_UPLINK_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

struct uplink;

struct uplink_config {
    const char *endpoint;                             /* the coordinator's, for workers */
    const char *public_key, *secret_key, *server_key; /* CURVE, Z85; server_key NULL: none */
};

enum uplink_change { UPLINK_SAME, UPLINK_BACK, UPLINK_GONE };

/* Returns at once; whether somebody is there shows later. Nothing is borrowed. */
status_t uplink_open(const struct uplink_config *config, int64_t now_ns, struct uplink **uplink,
                     struct error *error);
void uplink_close(struct uplink *uplink); /* NULL is fine; what was said last has 500 ms to leave */

/* Where another socket of the coordinator is, from what it announced: a `*` stands for the host that `endpoint`
 * names. */
void uplink_beside(const char *endpoint, const char *announced, char *reached, size_t bytes);

void *uplink_socket(const struct uplink *uplink);  /* the DEALER */
void *uplink_monitor(const struct uplink *uplink); /* to poll for input; uplink_change reads it */
/* Takes what the monitor has to say. The first connection, too, is UPLINK_BACK. */
enum uplink_change uplink_change(struct uplink *uplink, int64_t now_ns);
/* Without a coordinator for so long; 0: it is there. Never reached yet counts like lost. */
int64_t uplink_away_ns(const struct uplink *uplink, int64_t now_ns);

#endif
