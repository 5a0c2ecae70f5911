/* uplink.c - see uplink.h. Holds no locks. */
#include "proto/uplink.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>
#include "proto/wire.h"

struct uplink {
    void *context, *socket, *monitor;
    bool there;
    int64_t since_ns; /* while it is not */
};

/* A silent coordinator is noticed after some seconds, also when its host went without a word. */
static void set_options(void *socket, const struct uplink_config *config)
{
    int linger_ms = 500, beat_ms = 1000, silence_ms = 5000, reconnect_ms = 100, reconnect_max_ms = 1000,
        unlimited = 0, ipv6 = strchr(config->endpoint, '[') != NULL;
    int64_t largest = WIRE_MAX_BYTES;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(socket, ZMQ_HEARTBEAT_IVL, &beat_ms, sizeof beat_ms);
    zmq_setsockopt(socket, ZMQ_HEARTBEAT_TIMEOUT, &silence_ms, sizeof silence_ms);
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &reconnect_ms, sizeof reconnect_ms);
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL_MAX, &reconnect_max_ms, sizeof reconnect_max_ms);
    zmq_setsockopt(socket, ZMQ_IPV6, &ipv6, sizeof ipv6);
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
    zmq_setsockopt(socket, ZMQ_SNDHWM, &unlimited, sizeof unlimited); /* a rank's uploads have a window */
    if (!config->server_key) return;
    zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, config->server_key, strlen(config->server_key));
    zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, config->public_key, strlen(config->public_key));
    zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, config->secret_key, strlen(config->secret_key));
}

status_t uplink_open(const struct uplink_config *config, int64_t now_ns, struct uplink **uplink,
                     struct error *error)
{
    char monitor[64];
    struct uplink *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the coordinator's socket");
    made->since_ns = now_ns;
    made->context = zmq_ctx_new();
    made->socket = made->context ? zmq_socket(made->context, ZMQ_DEALER) : NULL;
    status_t status =
        made->socket ? STATUS_OK
                     : error_set(error, STATUS_IO, "no socket for the coordinator: %s", zmq_strerror(errno));
    if (status != STATUS_OK) goto fail;
    set_options(made->socket, config);
    snprintf(monitor, sizeof monitor, "inproc://uplink-%p", (void *)made);
    zmq_socket_monitor(made->socket, monitor, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED);
    made->monitor = zmq_socket(made->context, ZMQ_PAIR);
    if (!made->monitor || zmq_connect(made->monitor, monitor) != 0 ||
        zmq_connect(made->socket, config->endpoint) != 0) {
        status = error_set(error, STATUS_IO, "coordinator %s: cannot connect: %s", config->endpoint,
                           zmq_strerror(errno));
        goto fail;
    }
    *uplink = made;
    return STATUS_OK;
fail:
    uplink_close(made);
    return status;
}

void uplink_close(struct uplink *uplink)
{
    if (!uplink) return;
    if (uplink->socket) zmq_socket_monitor(uplink->socket, NULL, 0);
    if (uplink->monitor) zmq_close(uplink->monitor);
    if (uplink->socket) zmq_close(uplink->socket);
    if (uplink->context) zmq_ctx_term(uplink->context);
    free(uplink);
}

void uplink_beside(const char *endpoint, const char *announced, char *reached, size_t bytes)
{
    static const char wildcard[] = "tcp://*:";
    const char *port = strrchr(endpoint, ':');
    if (strncmp(announced, wildcard, sizeof wildcard - 1) == 0 && strncmp(endpoint, "tcp://", 6) == 0 && port)
        snprintf(reached, bytes, "%.*s:%s", (int)(port - endpoint), endpoint, announced + sizeof wildcard - 1);
    else
        snprintf(reached, bytes, "%s", announced);
}

void *uplink_socket(const struct uplink *uplink)
{
    return uplink->socket;
}

void *uplink_monitor(const struct uplink *uplink)
{
    return uplink->monitor;
}

/* Connection events: two frames each, the first beginning with the event's number, the second an address. */
enum uplink_change uplink_change(struct uplink *uplink, int64_t now_ns)
{
    bool was_there = uplink->there, came = false;
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (zmq_msg_recv(&message, uplink->monitor, ZMQ_DONTWAIT) >= 0) {
        uint16_t event = 0;
        if (zmq_msg_size(&message) >= sizeof event) memcpy(&event, zmq_msg_data(&message), sizeof event);
        zmq_msg_recv(&message, uplink->monitor, 0);
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) uplink->there = came = true;
        if (event == ZMQ_EVENT_DISCONNECTED && uplink->there) {
            uplink->there = false;
            uplink->since_ns = now_ns;
        }
    }
    zmq_msg_close(&message);
    if (uplink->there) return came ? UPLINK_BACK : UPLINK_SAME;
    return was_there ? UPLINK_GONE : UPLINK_SAME;
}

int64_t uplink_away_ns(const struct uplink *uplink, int64_t now_ns)
{
    return uplink->there ? 0 : now_ns - uplink->since_ns;
}
