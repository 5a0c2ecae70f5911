/*
 * connection.c - see connection.h. The caller's thread only; no locks.
 *
 * libzmq reconnects by itself and keeps what it could not send, but what was sent into a dying connection,
 * and all watches a restarted coordinator knew of, are gone. A socket monitor tells us of both ends of such a
 * gap; after it every request in flight is sent again. That is safe because each request may be repeated
 * (librefrain.h says so).
 */
#include "client/connection.h"
#include "client/records.h"

#include "base/clock.h"
#include "proto/keyfile.h"
#include "proto/validate.h"
#include "proto/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum {
    RECONNECT_MS = 100,
    RECONNECT_MAX_MS = 1000,
    HEARTBEAT_MS =
        2000, /* finds a host that is gone without a word; a busy coordinator's I/O thread still answers */
    HEARTBEAT_TIMEOUT_MS = 10000,
    MONITOR_EVENTS = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                     ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                     ZMQ_EVENT_HANDSHAKE_FAILED_AUTH,
};
static const int64_t MAX_REPLY_BYTES = WIRE_MAX_BYTES;

int64_t connection_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? CLOCK_NEVER : clock_now_ns() + timeout_ms * MILLISECOND_NS;
}

/* --------------------------------------------------------------------------------- the socket */

static status_t set_int(void *socket, int option, int value, struct error *error)
{
    if (zmq_setsockopt(socket, option, &value, sizeof value) == 0) return STATUS_OK;
    return error_set(error, STATUS_INTERNAL, "socket option %d: %s", option, zmq_strerror(errno));
}

static status_t set_keys(void *socket, const struct refrain_keys *keys, struct error *error)
{
    struct keyfile key = {0};
    memcpy(key.public_key, keys->public_key, sizeof key.public_key);
    memcpy(key.secret_key, keys->secret_key, sizeof key.secret_key);
    memcpy(key.server_key, keys->server_key, sizeof key.server_key);
    status_t status = keyfile_apply_client(&key, socket, error);
    explicit_bzero(&key, sizeof key);
    return status;
}

static status_t set_options(void *socket, const struct refrain_keys *keys, struct error *error)
{
    static const int options[][2] = {{ZMQ_LINGER, 0},
                                     {ZMQ_RECONNECT_IVL, RECONNECT_MS},
                                     {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS},
                                     {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
                                     {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS},
                                     {ZMQ_IPV6, 1}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        status_t status = set_int(socket, options[i][0], options[i][1], error);
        if (status) return status;
    }
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &MAX_REPLY_BYTES, sizeof MAX_REPLY_BYTES))
        return error_set(error, STATUS_INTERNAL, "socket message limit: %s", zmq_strerror(errno));
    return keys ? set_keys(socket, keys, error) : STATUS_OK;
}

/* libzmq would take a port of 99999 and a host without one, and then never connect. */
static status_t check_endpoint(const char *endpoint, struct error *error)
{
    const char *colon = strrchr(endpoint, ':');
    char *end = NULL;
    unsigned long port =
        strncmp(endpoint, "tcp://", 6) == 0 && colon >= endpoint + 6 ? strtoul(colon + 1, &end, 10) : 0;
    if (port >= 1 && port <= 65535 && end && !*end) return STATUS_OK;
    if (strncmp(endpoint, "ipc://", 6) == 0 && endpoint[6]) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "coordinator %s: must be like tcp://HOST:PORT or ipc://PATH",
                     endpoint);
}

/* Makes the two sockets and starts connecting; returns at once. */
static status_t open_sockets(struct refrain *refrain, const struct refrain_keys *keys, struct error *error)
{
    refrain->context = zmq_ctx_new();
    refrain->socket = refrain->context ? zmq_socket(refrain->context, ZMQ_DEALER) : NULL;
    refrain->monitor = refrain->context ? zmq_socket(refrain->context, ZMQ_PAIR) : NULL;
    if (!refrain->socket || !refrain->monitor)
        return error_set(error, STATUS_NO_MEMORY, "no socket: %s", zmq_strerror(errno));
    status_t status = set_options(refrain->socket, keys, error);
    if (!status) status = set_int(refrain->monitor, ZMQ_LINGER, 0, error);
    if (status) return status;
    snprintf(refrain->monitor_address, sizeof refrain->monitor_address, "inproc://monitor-%p",
             (void *)refrain);
    if (zmq_socket_monitor(refrain->socket, refrain->monitor_address, MONITOR_EVENTS) ||
        zmq_connect(refrain->monitor, refrain->monitor_address))
        return error_set(error, STATUS_INTERNAL, "socket monitor: %s", zmq_strerror(errno));
    if (zmq_connect(refrain->socket, refrain->endpoint))
        return error_set(error, STATUS_INVALID, "coordinator %s: %s", refrain->endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------- what arrives */

static struct refrain_watch *watch_of(struct refrain *refrain, uint64_t id)
{
    for (struct refrain_watch *watch = refrain->watches; watch; watch = watch->next)
        if (watch->id == id) return watch;
    return NULL;
}

static bool only_progress(const Refrain__Reply *reply)
{
    return reply->body_case == REFRAIN__REPLY__BODY_EVENT && reply->event->progress_only;
}

/* Takes `reply`. A note of progress replaces the one that was not yet looked at, so a queue is never longer
 * than the job's history; a change of state that was told before (a repeated Watch) is dropped. */
static status_t watch_push(struct refrain_watch *watch, Refrain__Reply *reply, struct error *error)
{
    if (reply->body_case == REFRAIN__REPLY__BODY_EVENT && !reply->event->progress_only) {
        if (reply->event->sequence <= watch->sequence) {
            refrain__reply__free_unpacked(reply, NULL);
            return STATUS_OK;
        }
        watch->sequence = reply->event->sequence;
    }
    if (watch->last && only_progress(reply) && only_progress(watch->last->reply)) {
        refrain__reply__free_unpacked(watch->last->reply, NULL);
        watch->last->reply = reply;
        return STATUS_OK;
    }
    struct queued_reply *node = calloc(1, sizeof *node);
    if (!node) {
        refrain__reply__free_unpacked(reply, NULL);
        return error_set(error, STATUS_NO_MEMORY, "no memory for an event");
    }
    node->reply = reply;
    *(watch->last ? &watch->last->next : &watch->first) = node;
    watch->last = node;
    return STATUS_OK;
}

/* Takes `reply`: to the call that waits for it, to its watch, or to nobody (the second answer to a repeated
 * request). */
static status_t route(struct refrain *refrain, Refrain__Reply *reply, struct error *error)
{
    struct refrain_watch *watch = watch_of(refrain, reply->id);
    if (watch) return watch_push(watch, reply, error);
    if (!refrain->answer && reply->id >= refrain->awaited_first && reply->id <= refrain->awaited_last)
        refrain->answer = reply;
    else
        refrain__reply__free_unpacked(reply, NULL);
    return STATUS_OK;
}

/* One message, if there is one: AGAIN if not. */
static status_t receive(struct refrain *refrain, struct error *error)
{
    zmq_msg_t frame;
    status_t status = wire_receive(refrain->socket, NULL, &frame, error);
    if (status) return status;
    Refrain__Reply *reply = NULL;
    status = wire_unpack_reply(zmq_msg_data(&frame), zmq_msg_size(&frame), &reply, error);
    zmq_msg_close(&frame);
    if (!status) return route(refrain, reply, error);
    error_prefix(error, "%s", refrain->endpoint);
    return status;
}

static status_t send_watch(struct refrain_watch *watch, struct error *error)
{
    Refrain__Watch body = REFRAIN__WATCH__INIT;
    body.has_job = body.has_from_sequence = 1;
    body.job = watch->number;
    body.from_sequence = watch->sequence;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.has_id = 1;
    request.id = watch->id;
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &body;
    return connection_send(watch->refrain, &request, error);
}

/* A connection stands. If it is not the first one, watches are asked for again here; calls see `generation`
 * grow. */
static status_t on_handshake(struct refrain *refrain, struct error *error)
{
    bool again = refrain->ever_connected && !refrain->connected;
    refrain->connected = refrain->ever_connected = true;
    refrain->handshake_event = 0;
    if (!again) return STATUS_OK;
    refrain->generation++;
    status_t status = STATUS_OK;
    for (struct refrain_watch *watch = refrain->watches; watch && !status; watch = watch->next)
        status = send_watch(watch, error);
    return status;
}

/* One event of the monitor, if there is one: AGAIN if not. Its first frame is {u16 event, u32 value}, the
 * second the address. */
static status_t monitor_event(struct refrain *refrain, struct error *error)
{
    unsigned char frame[6] = {0};
    if (zmq_recv(refrain->monitor, frame, sizeof frame, ZMQ_DONTWAIT) < 0) return STATUS_AGAIN;
    char address[8];
    zmq_recv(refrain->monitor, address, sizeof address, 0);
    uint16_t event;
    memcpy(&event, frame, sizeof event);
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) return on_handshake(refrain, error);
    refrain->connected = false;
    if (event != ZMQ_EVENT_DISCONNECTED) refrain->handshake_event = event;
    return STATUS_OK;
}

status_t connection_pump(struct refrain *refrain, int64_t deadline_ns, struct error *error)
{
    for (;;) {
        /* The monitor first: what a new connection brings must not be taken for the old one's. */
        status_t status = monitor_event(refrain, error);
        if (status == STATUS_AGAIN) status = receive(refrain, error);
        if (status != STATUS_AGAIN) return status;
        zmq_pollitem_t items[] = {{.socket = refrain->socket, .events = ZMQ_POLLIN},
                                  {.socket = refrain->monitor, .events = ZMQ_POLLIN},
                                  {.fd = refrain->stop_fd, .events = ZMQ_POLLIN}};
        int left_ms = clock_poll_ms(deadline_ns);
        int ready = zmq_poll(items, refrain->stop_fd < 0 ? 2 : 3, left_ms);
        if (refrain->stop_fd >= 0 && items[2].revents) return error_set(error, STATUS_ABORTED, "interrupted");
        if (ready < 0 && errno != EINTR)
            return error_set(error, STATUS_IO, "waiting for %s: %s", refrain->endpoint, zmq_strerror(errno));
        if (ready == 0 && left_ms == 0) return STATUS_DEADLINE;
    }
}

/* -------------------------------------------------------------------------------------- calls */

status_t connection_send(struct refrain *refrain, Refrain__Request *request, struct error *error)
{
    if (!request->has_id) {
        request->has_id = 1;
        request->id = ++refrain->next_id;
    }
    wire_stamp(*request);
    status_t status = wire_send(refrain->socket, NULL, &request->base, error);
    if (status == STATUS_AGAIN)
        return error_set(error, STATUS_PEER_LOST, "the coordinator at %s does not take requests",
                         refrain->endpoint);
    return status;
}

status_t connection_judge(struct refrain *refrain, const Refrain__Reply *reply,
                          Refrain__Reply__BodyCase expected, struct error *error)
{
    if (reply->body_case == expected) return STATUS_OK;
    if (reply->body_case != REFRAIN__REPLY__BODY_ERROR)
        return error_set(error, STATUS_CORRUPT,
                         "the coordinator at %s gave an answer of another kind (%d, not %d)",
                         refrain->endpoint, (int)reply->body_case, (int)expected);
    const Refrain__Error *body = reply->error;
    snprintf(refrain->field, sizeof refrain->field, "%s", body->field ? body->field : "");
    status_t status = body->status > STATUS_AGAIN && body->status <= STATUS_INTERNAL ? (status_t)body->status
                                                                                     : STATUS_INTERNAL;
    return error_set(error, status, "%s", body->message ? body->message : status_name(status));
}

status_t connection_timed_out(struct refrain *refrain, int timeout_ms, struct error *error)
{
    double seconds = timeout_ms / 1000.0;
    if (refrain->connected)
        return error_set(error, STATUS_DEADLINE, "the coordinator at %s did not answer in %g s",
                         refrain->endpoint, seconds);
    if (refrain->handshake_event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        return error_set(error, STATUS_DENIED, "the coordinator at %s does not know this key",
                         refrain->endpoint);
    if (refrain->handshake_event)
        return error_set(
            error, STATUS_DENIED,
            "the coordinator at %s and this client do not agree on keys: it wants one and none was "
            "given, or the other way round, or its key is another",
            refrain->endpoint);
    return error_set(error, STATUS_PEER_LOST, "no coordinator answers at %s (waited %g s)", refrain->endpoint,
                     seconds);
}

status_t connection_call(struct refrain *refrain, Refrain__Request *request,
                         Refrain__Reply__BodyCase expected, int timeout_ms, Refrain__Reply **reply,
                         struct error *error)
{
    int64_t deadline_ns = connection_deadline(timeout_ms);
    uint64_t generation = refrain->generation;
    refrain->field[0] = 0;
    const char *field = NULL;
    status_t status = validate_request(request, &field, error);
    if (status) {
        snprintf(refrain->field, sizeof refrain->field, "%s", field ? field : "");
        return status;
    }
    status = connection_send(refrain, request, error);
    refrain->awaited_first = refrain->awaited_last = request->id;
    while (!status && !refrain->answer) {
        status = connection_pump(refrain, deadline_ns, error);
        /* Wrong keys do not get better by waiting. */
        if (!status && !refrain->ever_connected && refrain->handshake_event) status = STATUS_DEADLINE;
        if (status == STATUS_DEADLINE) status = connection_timed_out(refrain, timeout_ms, error);
        if (!status && refrain->generation != generation) {
            generation = refrain->generation;
            status = connection_send(refrain, request, error);
        }
    }
    Refrain__Reply *answer = refrain->answer;
    refrain->answer = NULL;
    refrain->awaited_first = refrain->awaited_last = 0;
    if (!status) status = connection_judge(refrain, answer, expected, error);
    if (!status && reply)
        *reply = answer;
    else if (answer)
        refrain__reply__free_unpacked(answer, NULL);
    return status;
}

/* ------------------------------------------------------------------------------------- public */

status_t refrain_connect(const char *endpoint, const struct refrain_keys *keys, int timeout_ms,
                         struct refrain **refrain, struct error *error)
{
    if (!endpoint || !*endpoint) endpoint = getenv("REFRAIN_COORDINATOR");
    if (!endpoint || !*endpoint) endpoint = REFRAIN_DEFAULT_ENDPOINT;
    status_t status = check_endpoint(endpoint, error);
    if (status) return status;
    struct refrain *made = calloc(1, sizeof *made);
    if (!made || !(made->endpoint = strdup(endpoint))) {
        free(made);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a connection");
    }
    made->stop_fd = -1;
    status = open_sockets(made, keys, error);
    if (status) goto fail;

    /* Any answer will do to know that it is there, keys are right and versions agree. */
    Refrain__Stats body = REFRAIN__STATS__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &body;
    status = connection_call(made, &request, REFRAIN__REPLY__BODY_STATS, timeout_ms, NULL, error);
    if (status) goto fail;
    *refrain = made;
    return STATUS_OK;
fail:
    refrain_close(made);
    return status;
}

void refrain_close(struct refrain *refrain)
{
    if (!refrain) return;
    while (refrain->watches) refrain_watch_close(refrain->watches);
    if (refrain->monitor) zmq_close(refrain->monitor);
    if (refrain->socket) zmq_close(refrain->socket);
    if (refrain->context) zmq_ctx_term(refrain->context);
    free(refrain->endpoint);
    free(refrain);
}

void refrain_stop_on(struct refrain *refrain, int fd)
{
    refrain->stop_fd = fd;
}

bool refrain_connected(const struct refrain *refrain)
{
    return refrain->connected;
}

const char *refrain_endpoint(const struct refrain *refrain)
{
    return refrain->endpoint;
}

const char *refrain_error_field(const struct refrain *refrain)
{
    return refrain->field;
}

/* ----------------------------------------------------------------------------------- watching */

status_t refrain_watch_open(struct refrain *refrain, uint64_t number, uint64_t from_sequence,
                            struct refrain_watch **watch, struct error *error)
{
    struct refrain_watch *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a watch");
    *made = (struct refrain_watch){
        .refrain = refrain, .id = ++refrain->next_id, .number = number, .sequence = from_sequence};
    status_t status = send_watch(made, error);
    if (status) {
        free(made);
        return status;
    }
    made->next = refrain->watches;
    refrain->watches = made;
    *watch = made;
    return STATUS_OK;
}

static Refrain__Reply *watch_pop(struct refrain_watch *watch)
{
    struct queued_reply *node = watch->first;
    if (!node) return NULL;
    Refrain__Reply *reply = node->reply;
    watch->first = node->next;
    if (!watch->first) watch->last = NULL;
    free(node);
    return reply;
}

status_t refrain_watch_next(struct refrain_watch *watch, int timeout_ms, struct refrain_event **event,
                            struct error *error)
{
    struct refrain *refrain = watch->refrain;
    int64_t deadline_ns = connection_deadline(timeout_ms);
    refrain->field[0] = 0;
    while (!watch->first) {
        status_t status = connection_pump(refrain, deadline_ns, error);
        if (status == STATUS_DEADLINE)
            return error_set(error, status, "nothing happened to job %llu in %g s",
                             (unsigned long long)watch->number, timeout_ms / 1000.0);
        if (status) return status;
    }
    Refrain__Reply *reply = watch_pop(watch);
    status_t status = connection_judge(refrain, reply, REFRAIN__REPLY__BODY_EVENT, error);
    if (status) {
        refrain__reply__free_unpacked(reply, NULL);
        return status;
    }
    return record_event(reply, event, error);
}

void refrain_watch_close(struct refrain_watch *watch)
{
    if (!watch) return;
    for (struct refrain_watch **at = &watch->refrain->watches; *at; at = &(*at)->next)
        if (*at == watch) {
            *at = watch->next;
            break;
        }
    Refrain__Reply *reply;
    while ((reply = watch_pop(watch))) refrain__reply__free_unpacked(reply, NULL);
    free(watch);
}
