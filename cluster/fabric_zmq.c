/*
 * fabric_zmq.c - the fabric over ZeroMQ, tcp or ipc: the one that survives the loss of any member.
 *
 *     member i                                        member j
 *       DEALER to j ----- HELLO, DATA, CREDIT ... ----> ROUTER, bound at its address for life
 *       ROUTER      <---- HELLO, DATA, CREDIT ... ----- DEALER to i
 *
 * One DEALER per peer and epoch, closed with it; the monitor on it reports a killed peer within milliseconds.
 * The ROUTER gives each connection a route of its own choosing; a route is believed once its HELLO was right.
 * A stranger can connect, but is not listened to, and ZeroMQ ends its connection at the first frame above the
 * limit.
 *
 * Chunks go out of the poster's memory without copying, and are copied once on arrival: ZeroMQ receives into
 * memory of its own (8 bytes off a 16-byte boundary), and that copy overlaps the transfer of the chunk behind
 * it. The chunk size bounds what a signal waits behind a large payload, and what a peer can make this process
 * hold.
 *
 * Everything runs on the fabric's I/O thread, except open (owner) and ZeroMQ's calls of fabric_io_chunk_done.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "base/log.h"
#include "cluster/address.h"
#include "cluster/fabric_core.h"

enum {
    CHUNK_BYTES = 256 << 10,
    QUEUED_MESSAGES = 16,  /* chunks or signals inside ZeroMQ per way: enough to keep a fast wire busy */
    RECEIVED_AT_ONCE = 64, /* then sending has its turn */
    FAREWELL_MS = 100,     /* what a BYE may take to leave; close waits at most for this */
    RECONNECT_MS = 50,
    ROUTE_BYTES = 255, /* ZeroMQ's limit; its own choices have 5 */
    FIXED_ITEMS = 2,   /* of the poll set: wake_fd and the ROUTER */
};

/* One direction to, and the known source of, a peer. */
struct way {
    void *dealer;  /* NULL for the member itself, and once parted */
    void *monitor; /* PAIR: tells when the DEALER's connection ends */
    bool blocked;  /* the DEALER took no more: poll until it does */
    uint8_t route[ROUTE_BYTES];
    size_t route_bytes; /* 0: not proven yet */
};

struct link {
    struct fabric *fabric;
    void *context, *router;
    char file[FABRIC_ADDRESS_BYTES]; /* of the bound ipc socket; empty for tcp */
    struct way *ways;                /* [count] */
    int count;                       /* 0 outside of epochs */
    zmq_pollitem_t *items;           /* [FIXED_ITEMS + 2 * count] */
};

/* ----------------------------------------------------------------------------------------- open and close */

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static void link_close(void *argument)
{
    struct link *link = argument;
    if (link->router) zmq_close(link->router);
    if (link->context)
        zmq_ctx_term(link->context);       /* returns when farewells are sent or FAREWELL_MS is over */
    if (link->file[0]) unlink(link->file); /* ZeroMQ leaves it */
    free(link->items);
    free(link);
}

static status_t bind_router(struct link *link, const struct fabric_config *config,
                            char address[FABRIC_ADDRESS_BYTES], struct error *error)
{
    char endpoint[FABRIC_ADDRESS_BYTES], bound[FABRIC_ADDRESS_BYTES];
    status_t status = address_to_bind(config->bind, endpoint, error);
    if (status != STATUS_OK) return status;
    int64_t limit = CHUNK_BYTES;
    _Static_assert((int)CHUNK_BYTES > (int)HEAD_BYTES, "the limit on frames must admit every head");
    link->router = zmq_socket(link->context, ZMQ_ROUTER);
    if (!link->router || !set_int(link->router, ZMQ_LINGER, 0) ||
        !set_int(link->router, ZMQ_IPV6, strchr(endpoint, '[') != NULL) ||
        zmq_setsockopt(link->router, ZMQ_MAXMSGSIZE, &limit, sizeof limit) != 0)
        return error_set(error, STATUS_IO, "fabric: no ZeroMQ socket: %s", zmq_strerror(errno));
    if (zmq_bind(link->router, endpoint) != 0)
        return error_set(error, STATUS_IO, "fabric: %s cannot be bound: %s", endpoint, zmq_strerror(errno));
    if (strncmp(endpoint, "ipc://", 6) == 0) strcpy(link->file, endpoint + 6);
    size_t length = sizeof bound;
    if (zmq_getsockopt(link->router, ZMQ_LAST_ENDPOINT, bound, &length) != 0)
        return error_set(error, STATUS_IO, "fabric: %s has no endpoint: %s", endpoint, zmq_strerror(errno));
    return address_to_announce(bound, config->toward, address, error);
}

static status_t link_open(struct fabric *fabric, const struct fabric_config *config, void **out,
                          char address[FABRIC_ADDRESS_BYTES], struct error *error)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory");
    link->fabric = fabric;
    link->items = calloc(FIXED_ITEMS, sizeof *link->items);
    link->context = zmq_ctx_new();
    status_t status = STATUS_IO;
    if (!link->items || !link->context)
        error_set(error, status, "fabric: no ZeroMQ context: %s", zmq_strerror(errno));
    else if (zmq_ctx_set(link->context, ZMQ_MAX_SOCKETS, 3 * FABRIC_MAX_MEMBERS + 8) != 0)
        error_set(error, status, "fabric: too many sockets: %s", zmq_strerror(errno));
    else
        status = bind_router(link, config, address, error);
    if (status == STATUS_OK)
        *out = link;
    else
        link_close(link);
    return status;
}

/* ----------------------------------------------------------------------------------- the ways of an epoch */

static status_t watch_dealer(struct link *link, struct way *way, int peer)
{
    char name[64];
    snprintf(name, sizeof name, "inproc://way-%" PRIu64 "-%d", link->fabric->epoch, peer);
    way->monitor = zmq_socket(link->context, ZMQ_PAIR);
    bool watched = way->monitor && set_int(way->monitor, ZMQ_LINGER, 0) &&
                   zmq_socket_monitor(way->dealer, name, ZMQ_EVENT_DISCONNECTED) == 0 &&
                   zmq_connect(way->monitor, name) == 0;
    return watched ? STATUS_OK : STATUS_IO;
}

static status_t connect_way(struct link *link, int peer, const char *address, struct error *error)
{
    struct way *way = &link->ways[peer];
    way->dealer = zmq_socket(link->context, ZMQ_DEALER);
    /* IMMEDIATE: nothing is queued for a peer that cannot be reached; a HELLO is repeated instead. */
    bool made = way->dealer && set_int(way->dealer, ZMQ_LINGER, 0) &&
                set_int(way->dealer, ZMQ_IMMEDIATE, 1) && set_int(way->dealer, ZMQ_SNDHWM, QUEUED_MESSAGES) &&
                set_int(way->dealer, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
                set_int(way->dealer, ZMQ_IPV6, strchr(address, '[') != NULL) &&
                watch_dealer(link, way, peer) == STATUS_OK;
    if (!made)
        return error_set(error, STATUS_IO,
                         "fabric: no ZeroMQ socket for member %d: %s (open files: ulimit -n)", peer,
                         zmq_strerror(errno));
    if (strncmp(address, "tcp://", 6) != 0 && strncmp(address, "ipc://", 6) != 0)
        return error_set(error, STATUS_INVALID,
                         "fabric: member %d at \"%s\": not an address of the zmq fabric", peer, address);
    if (zmq_connect(way->dealer, address) != 0)
        return error_set(error, STATUS_IO, "fabric: member %d at %s cannot be reached: %s", peer, address,
                         zmq_strerror(errno));
    return STATUS_OK;
}

static status_t link_join(void *argument, const struct fabric_membership *membership, struct error *error)
{
    struct link *link = argument;
    size_t count = (size_t)membership->count;
    zmq_pollitem_t *items = realloc(link->items, (FIXED_ITEMS + 2 * count) * sizeof *items);
    if (items) link->items = items;
    link->ways = calloc(count, sizeof *link->ways);
    if (!items || !link->ways)
        return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %zu ways", count);
    link->count = membership->count;
    for (int i = 0; i < link->count; i++) {
        if (i == membership->self) continue;
        status_t status = connect_way(link, i, membership->addresses[i], error);
        if (status != STATUS_OK) return status; /* what was made is closed by leave */
    }
    return STATUS_OK;
}

static void link_part(void *argument, int peer, const uint8_t *farewell, size_t bytes)
{
    struct link *link = argument;
    if (peer >= link->count) return; /* the join failed before */
    struct way *way = &link->ways[peer];
    if (way->dealer) {
        bool said = farewell && zmq_send(way->dealer, farewell, bytes, ZMQ_DONTWAIT) >= 0;
        set_int(way->dealer, ZMQ_LINGER, said ? FAREWELL_MS : 0);
        zmq_socket_monitor(way->dealer, NULL, 0);
        zmq_close(way->dealer);
    }
    if (way->monitor) zmq_close(way->monitor);
    *way = (struct way){0};
}

static void link_leave(void *argument)
{
    struct link *link = argument;
    free(link->ways);
    link->ways = NULL;
    link->count = 0;
}

/* ------------------------------------------------------------------------------------------------ sending */

static status_t link_send(void *argument, int peer, const uint8_t *head, size_t head_bytes,
                          const uint8_t *chunk, size_t chunk_bytes, struct outgoing *outgoing)
{
    struct link *link = argument;
    struct way *way = &link->ways[peer];
    int more = chunk_bytes > 0 ? ZMQ_SNDMORE : 0;
    if (zmq_send(way->dealer, head, head_bytes, ZMQ_DONTWAIT | more) < 0) {
        if (errno != EAGAIN) return STATUS_PEER_LOST;
        way->blocked = true;
        return STATUS_AGAIN;
    }
    way->blocked = false;
    if (chunk_bytes == 0) return STATUS_OK;
    zmq_msg_t message;
    /* ZeroMQ only reads it; the interface just has no const. */
    if (zmq_msg_init_data(&message, (void *)chunk, chunk_bytes, fabric_io_chunk_done, outgoing) != 0) {
        /* Half a message is on its way and cannot be taken back. */
        fabric_io_chunk_done(NULL, outgoing);
        fabric_io_lose(link->fabric, peer, "no memory to send to it");
    } else if (zmq_msg_send(&message, way->dealer, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&message); /* calls fabric_io_chunk_done */
        fabric_io_lose(link->fabric, peer, "its connection ended between two frames");
    }
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- receiving */

/* One message as the ROUTER gives it: [route] [head] ([chunk]). */
struct arrival {
    zmq_msg_t parts[3];
    int count; /* of parts; 4: more than there may be, the rest was thrown away */
};

/* False when nothing is there. The caller closes all parts in either case. */
static bool receive(void *socket, struct arrival *arrival)
{
    arrival->count = 0;
    for (int i = 0; i < 3; i++) zmq_msg_init(&arrival->parts[i]);
    if (zmq_msg_recv(&arrival->parts[0], socket, ZMQ_DONTWAIT) < 0) return false;
    arrival->count = 1;
    zmq_msg_t *last = &arrival->parts[0];
    while (zmq_msg_more(last)) {
        if (arrival->count < 3) last = &arrival->parts[arrival->count];
        /* The parts of a message arrive together; and the last slot is used again for what is too much. */
        if (zmq_msg_recv(last, socket, ZMQ_DONTWAIT) < 0) break;
        if (arrival->count < 4) arrival->count++;
    }
    return true;
}

static int find_route(const struct link *link, const void *route, size_t bytes)
{
    for (int i = 0; i < link->count; i++)
        if (link->ways[i].route_bytes == bytes && memcmp(link->ways[i].route, route, bytes) == 0) return i;
    return -1;
}

static void take_arrival(struct link *link, struct arrival *arrival)
{
    zmq_msg_t *route = &arrival->parts[0], *head = &arrival->parts[1], *chunk = &arrival->parts[2];
    size_t route_bytes = zmq_msg_size(route), chunk_bytes = zmq_msg_size(chunk);
    int peer = find_route(link, zmq_msg_data(route), route_bytes);
    if (peer < 0) {
        peer = fabric_io_hello(link->fabric, zmq_msg_data(head), zmq_msg_size(head));
        if (peer < 0 || route_bytes == 0 || route_bytes > ROUTE_BYTES) return;
        memcpy(link->ways[peer].route, zmq_msg_data(route), route_bytes);
        link->ways[peer].route_bytes = route_bytes;
    }
    if (arrival->count < 2 || arrival->count > 3) {
        fabric_io_lose(link->fabric, peer, "it sent a message of %d parts", arrival->count - 1);
        return;
    }
    struct parcel *parcel;
    uint8_t *place;
    if (!fabric_io_head(link->fabric, peer, zmq_msg_data(head), zmq_msg_size(head), chunk_bytes, &parcel,
                        &place))
        return;
    memcpy(place, zmq_msg_data(chunk), chunk_bytes);
    fabric_io_filled(link->fabric, peer, parcel, chunk_bytes);
}

static void receive_some(struct link *link)
{
    bool more = true;
    for (int i = 0; i < RECEIVED_AT_ONCE && more; i++) {
        struct arrival arrival;
        more = receive(link->router, &arrival);
        if (more) take_arrival(link, &arrival);
        for (int part = 0; part < 3; part++) zmq_msg_close(&arrival.parts[part]);
    }
}

/* The monitor was asked for one kind of event: whatever it says, the connection ended. */
static void hear_monitor(struct link *link, int peer)
{
    struct arrival arrival;
    bool said = receive(link->ways[peer].monitor, &arrival);
    for (int part = 0; part < 3; part++) zmq_msg_close(&arrival.parts[part]);
    if (said) fabric_io_disconnected(link->fabric, peer);
}

static void link_progress(void *argument, int64_t until_ns)
{
    struct link *link = argument;
    int items = FIXED_ITEMS;
    link->items[0] = (zmq_pollitem_t){.fd = link->fabric->wake_fd, .events = ZMQ_POLLIN};
    link->items[1] = (zmq_pollitem_t){.socket = link->router, .events = ZMQ_POLLIN};
    for (int i = 0; i < link->count; i++) {
        const struct way *way = &link->ways[i];
        if (way->monitor)
            link->items[items++] = (zmq_pollitem_t){.socket = way->monitor, .events = ZMQ_POLLIN};
        if (way->blocked)
            link->items[items++] = (zmq_pollitem_t){.socket = way->dealer, .events = ZMQ_POLLOUT};
    }
    if (zmq_poll(link->items, items, clock_poll_ms(until_ns)) <= 0) return;
    /* Messages first: what a peer said before it went away counts. */
    receive_some(link);
    for (int i = 0, at = FIXED_ITEMS; i < link->count; i++) {
        if (!link->ways[i].monitor) continue;
        if (link->items[at].revents) hear_monitor(link, i);
        at += link->ways[i].blocked ? 2 : 1;
    }
}

const struct transport fabric_transport_zmq = {
    .chunk_bytes = CHUNK_BYTES,
    .open = link_open,
    .close = link_close,
    .join = link_join,
    .part = link_part,
    .leave = link_leave,
    .send = link_send,
    .progress = link_progress,
};
