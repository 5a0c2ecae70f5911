/*
 * courier_io.c - the courier's thread: hashes and sends checkpoints in pieces, fetches others. It owns the
 * socket.
 *
 * Pieces of all jobs take turns. What ZeroMQ and the coordinator hold of them is bounded by the socket's
 * high-water marks: when it takes no more, the thread sleeps until it does. When the connection is lost the
 * socket is made anew, so that nothing of the old one is left in between, and everything that was not
 * answered starts again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/log.h"
#include "proto/wire.h"
#include "worker/courier_core.h"

enum {
    WINDOW = 8,                             /* messages handed to ZeroMQ ahead of the connection */
    FETCH_AHEAD_BYTES = 4 * WIRE_CHUNK_MAX, /* asked for and not here yet */
    POOL_PER_JOB = 2,                       /* buffers: one is sent while another is filled */
    TURN_REPLIES = 64,
};

/* --------------------------------------------------------------------------------------------- the socket */

static void close_socket(struct courier *courier)
{
    if (courier->socket) zmq_socket_monitor(courier->socket, NULL, 0);
    if (courier->monitor) zmq_close(courier->monitor);
    if (courier->socket) zmq_close(courier->socket);
    courier->socket = courier->monitor = NULL;
}

static bool open_socket(struct courier *courier, const char *endpoint)
{
    int no_linger = 0, window = WINDOW, yes = 1, ipv6 = strchr(endpoint, '[') != NULL;
    /* Patient: a coordinator that waits for its disk takes nothing in, heartbeats included. */
    int beat_ms = 2000, silence_ms = 15000, reconnect_ms = 100, reconnect_max_ms = 1000;
    int64_t largest = WIRE_MAX_BYTES;
    char monitor[64];
    if (!courier->zmq) courier->zmq = zmq_ctx_new();
    courier->socket = courier->zmq ? zmq_socket(courier->zmq, ZMQ_DEALER) : NULL;
    if (!courier->socket) return false;
    zmq_setsockopt(courier->socket, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(courier->socket, ZMQ_IMMEDIATE, &yes, sizeof yes); /* nothing waits for a connection */
    zmq_setsockopt(courier->socket, ZMQ_SNDHWM, &window, sizeof window);
    zmq_setsockopt(courier->socket, ZMQ_RCVHWM, &window, sizeof window);
    zmq_setsockopt(courier->socket, ZMQ_IPV6, &ipv6, sizeof ipv6);
    zmq_setsockopt(courier->socket, ZMQ_HEARTBEAT_IVL, &beat_ms, sizeof beat_ms);
    zmq_setsockopt(courier->socket, ZMQ_HEARTBEAT_TIMEOUT, &silence_ms, sizeof silence_ms);
    zmq_setsockopt(courier->socket, ZMQ_HEARTBEAT_TTL, &silence_ms, sizeof silence_ms);
    zmq_setsockopt(courier->socket, ZMQ_RECONNECT_IVL, &reconnect_ms, sizeof reconnect_ms);
    zmq_setsockopt(courier->socket, ZMQ_RECONNECT_IVL_MAX, &reconnect_max_ms, sizeof reconnect_max_ms);
    zmq_setsockopt(courier->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
    if (courier->server_key) {
        zmq_setsockopt(courier->socket, ZMQ_CURVE_SERVERKEY, courier->server_key,
                       strlen(courier->server_key));
        zmq_setsockopt(courier->socket, ZMQ_CURVE_PUBLICKEY, courier->public_key,
                       strlen(courier->public_key));
        zmq_setsockopt(courier->socket, ZMQ_CURVE_SECRETKEY, courier->secret_key,
                       strlen(courier->secret_key));
    }
    snprintf(monitor, sizeof monitor, "inproc://courier-%d", courier->connections++);
    courier->monitor = zmq_socket(courier->zmq, ZMQ_PAIR);
    return courier->monitor && zmq_socket_monitor(courier->socket, monitor, ZMQ_EVENT_DISCONNECTED) == 0 &&
           zmq_connect(courier->monitor, monitor) == 0 && zmq_connect(courier->socket, endpoint) == 0;
}

/* Nothing that was not answered will be: it is sent or asked for again, or the newer checkpoint in its place.
 */
static void start_again(struct courier *courier)
{
    pthread_mutex_lock(&courier->lock);
    for (int i = 0; i < COURIER_JOBS; i++) {
        courier->jobs[i].sent = 0;
        const struct outgoing *job = &courier->jobs[i];
        if (job->sending && job->waiting && !job->sending->mark)
            courier_settle(courier, &courier->jobs[i], false);
        if (courier->fetches[i].state == FETCH_UNDERWAY)
            courier->fetches[i].asked = courier->fetches[i].got = 0;
    }
    pthread_mutex_unlock(&courier->lock);
}

/* Without a vault, or with one that cannot be connected to: nobody waits for anything. */
static void give_up(struct courier *courier)
{
    pthread_mutex_lock(&courier->lock);
    for (int i = 0; i < COURIER_JOBS; i++) {
        struct outgoing *job = &courier->jobs[i];
        struct fetch *fetch = &courier->fetches[i];
        courier_drop_waiting(courier, job, true);
        if (job->sending) courier_settle(courier, job, false);
        if (fetch->state != FETCH_UNDERWAY) continue;
        free(fetch->bytes);
        fetch->bytes = NULL;
        error_set(&fetch->error, STATUS_NOT_FOUND, "job %" PRIu64 ": nobody keeps checkpoints any more",
                  fetch->name.job);
        courier_arrive(courier, fetch);
    }
    pthread_mutex_unlock(&courier->lock);
}

static void connect_again(struct courier *courier)
{
    char endpoint[ENDPOINT_BYTES];
    pthread_mutex_lock(&courier->lock);
    memcpy(endpoint, courier->endpoint, sizeof endpoint);
    courier->endpoint_changed = false;
    pthread_mutex_unlock(&courier->lock);
    close_socket(courier);
    courier->blocked = false;
    if (endpoint[0] && open_socket(courier, endpoint)) {
        start_again(courier);
        return;
    }
    if (endpoint[0]) {
        log_line(LOG_ERROR, "checkpoints: cannot connect to %s: %s", endpoint, zmq_strerror(errno));
        pthread_mutex_lock(&courier->lock);
        /* Unless another one was named meanwhile. */
        if (!courier->endpoint_changed) courier->endpoint[0] = '\0';
        pthread_mutex_unlock(&courier->lock);
    }
    close_socket(courier);
    give_up(courier);
}

/* True: the connection ended. An event is two frames, the first begins with its number. */
static bool disconnected(struct courier *courier)
{
    bool ended = false;
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (zmq_msg_recv(&message, courier->monitor, ZMQ_DONTWAIT) >= 0) {
        uint16_t event = 0;
        if (zmq_msg_size(&message) >= sizeof event) memcpy(&event, zmq_msg_data(&message), sizeof event);
        if (zmq_msg_recv(&message, courier->monitor, 0) < 0) break; /* the address */
        if (event == ZMQ_EVENT_DISCONNECTED) ended = true;
    }
    zmq_msg_close(&message);
    return ended;
}

/* False: not now. */
static bool post(struct courier *courier, Refrain__VaultRequest *request)
{
    struct error error;
    wire_stamp(*request);
    status_t status = wire_send(courier->socket, NULL, &request->base, &error);
    if (status == STATUS_OK) return true;
    if (status != STATUS_AGAIN) log_line(LOG_WARN, "checkpoints: %s", error.text);
    courier->blocked = true;
    return false;
}

/* ------------------------------------------------------------------------------------------------ sending */

/* What waits begins to be sent if nothing of the job is. True: something is there to send. */
static bool next_checkpoint(struct courier *courier, struct outgoing *job)
{
    pthread_mutex_lock(&courier->lock);
    if (!job->sending && job->waiting) {
        job->sending = job->waiting;
        job->waiting = job->sending->next;
        job->sent = 0;
        job->hashed = false;
        if (job->sender != job->job) job->complained = STATUS_OK;
        job->sender = job->job;
    }
    bool there = job->sending != NULL;
    pthread_mutex_unlock(&courier->lock);
    if (there && !job->hashed) {
        struct buffer *buffer = job->sending;
        buffer->name.xxh64 = XXH64(buffer->bytes, buffer->name.bytes, 0);
        job->hashed = true;
    }
    return there;
}

/* False: the socket takes no more. */
static bool send_piece(struct courier *courier, struct outgoing *job)
{
    Refrain__VaultRequest request = REFRAIN__VAULT_REQUEST__INIT;
    Refrain__SaveChunk piece = REFRAIN__SAVE_CHUNK__INIT;
    struct buffer *buffer = job->sending;
    uint64_t left = buffer->name.bytes - job->sent;
    piece.has_job = piece.has_attempt = piece.has_step = piece.has_offset = piece.has_total = 1;
    piece.job = buffer->name.job;
    piece.attempt = buffer->name.attempt;
    piece.step = buffer->name.step;
    piece.offset = job->sent;
    piece.total = buffer->name.bytes;
    piece.has_data = 1;
    piece.data.data = buffer->bytes + job->sent;
    piece.data.len = left < WIRE_CHUNK_MAX ? (size_t)left : WIRE_CHUNK_MAX;
    uint8_t run[KEY_BYTES];
    key_encode(&buffer->name.point.run, run);
    piece.has_run = piece.has_run_step = piece.has_run_seconds =
        job->sent == 0 && key_is_run(&buffer->name.point.run);
    piece.run = (ProtobufCBinaryData){piece.has_run ? KEY_BYTES : 0, run};
    piece.run_step = buffer->name.point.step;
    piece.run_seconds = buffer->name.point.seconds;
    piece.has_xxh64 = piece.data.len == left;
    piece.xxh64 = buffer->name.xxh64;
    request.body_case = REFRAIN__VAULT_REQUEST__BODY_SAVE;
    request.save = &piece;
    if (!post(courier, &request)) return false;
    job->sent += piece.data.len;
    return true;
}

/* ----------------------------------------------------------------------------------------------- fetching */

static void fetch_ends(struct courier *courier, struct fetch *fetch, status_t status)
{
    if (status != STATUS_OK) {
        free(fetch->bytes);
        fetch->bytes = NULL;
        error_prefix(&fetch->error, "job %" PRIu64 ", checkpoint of step %" PRIu32, fetch->name.job,
                     fetch->name.step);
    }
    pthread_mutex_lock(&courier->lock);
    courier_arrive(courier, fetch);
    pthread_mutex_unlock(&courier->lock);
}

/* Asks for the next piece if there is one to ask for. False: the socket takes no more. */
static bool ask_piece(struct courier *courier, struct fetch *fetch, bool *asked)
{
    Refrain__VaultRequest request = REFRAIN__VAULT_REQUEST__INIT;
    Refrain__LoadChunk load = REFRAIN__LOAD_CHUNK__INIT;
    Refrain__Checkpoint name = REFRAIN__CHECKPOINT__INIT;
    uint64_t left = fetch->name.bytes - fetch->asked;
    if (!fetch->bytes && !(fetch->bytes = fetch->name.bytes <= SIZE_MAX / 2 && fetch->name.bytes
                                              ? malloc((size_t)fetch->name.bytes)
                                              : NULL)) {
        fetch_ends(
            courier, fetch,
            error_set(&fetch->error, STATUS_NO_MEMORY, "no memory for %" PRIu64 " bytes", fetch->name.bytes));
        return true;
    }
    if (left == 0 || fetch->asked - fetch->got >= FETCH_AHEAD_BYTES) return true;
    name.has_job = name.has_attempt = name.has_step = name.has_bytes = name.has_xxh64 = 1;
    name.job = fetch->name.job;
    name.attempt = fetch->name.attempt;
    name.step = fetch->name.step;
    name.bytes = fetch->name.bytes;
    name.xxh64 = fetch->name.xxh64;
    load.checkpoint = &name;
    load.has_offset = load.has_bytes = 1;
    load.offset = fetch->asked;
    load.bytes = left < WIRE_CHUNK_MAX ? (uint32_t)left : WIRE_CHUNK_MAX;
    request.body_case = REFRAIN__VAULT_REQUEST__BODY_LOAD;
    request.load = &load;
    if (!post(courier, &request)) return false;
    fetch->asked += load.bytes;
    *asked = true;
    return true;
}

static bool is_underway(struct courier *courier, const struct fetch *fetch)
{
    pthread_mutex_lock(&courier->lock);
    bool underway = fetch->state == FETCH_UNDERWAY;
    pthread_mutex_unlock(&courier->lock);
    return underway;
}

/* One piece of each in turn, until there is nothing to send or the socket takes no more. Fetches first: a job
 * waits for them. */
static void send_pieces(struct courier *courier)
{
    /* Also while there is no connection: what is being sent has a deadline, and what waits behind it. */
    for (int i = 0; i < COURIER_JOBS; i++) next_checkpoint(courier, &courier->jobs[i]);
    courier->blocked = false;
    for (bool more = courier->socket != NULL; more;) {
        more = false;
        for (int i = 0; i < COURIER_JOBS; i++)
            if (is_underway(courier, &courier->fetches[i]) &&
                !ask_piece(courier, &courier->fetches[i], &more))
                return;
        for (int i = 0; i < COURIER_JOBS; i++) {
            struct outgoing *job = &courier->jobs[i];
            if (!next_checkpoint(courier, job) || job->sent == job->sending->name.bytes) continue;
            if (!send_piece(courier, job)) return;
            more = true;
        }
    }
}

/* ------------------------------------------------------------------------------------------------ answers */

static status_t believed(uint32_t status)
{
    return status <= STATUS_INTERNAL ? (status_t)status : STATUS_INTERNAL;
}

/* An answer about one that is no longer being sent is an answer to nobody. */
static void take_saved(struct courier *courier, const Refrain__Saved *saved)
{
    status_t status = believed(saved->status);
    for (int i = 0; i < COURIER_JOBS; i++) {
        struct outgoing *job = &courier->jobs[i];
        const struct buffer *sending = job->sending;
        if (!sending || sending->name.job != saved->job || sending->name.attempt != saved->attempt ||
            sending->name.step != saved->step)
            continue;
        if (status != STATUS_OK && status != STATUS_ABORTED && status != job->complained)
            log_line(LOG_WARN, "job %" PRIu64 ": its checkpoint of step %" PRIu32 " is not kept: %s",
                     saved->job, saved->step, saved->message ? saved->message : status_name(status));
        job->complained = status;
        pthread_mutex_lock(&courier->lock);
        courier_settle(courier, job, status == STATUS_OK);
        pthread_mutex_unlock(&courier->lock);
        return;
    }
}

static struct fetch *fetch_of(struct courier *courier, const Refrain__VaultChunk *chunk)
{
    const Refrain__Checkpoint *name = chunk->checkpoint;
    for (int i = 0; name && i < COURIER_JOBS; i++) {
        struct fetch *fetch = &courier->fetches[i];
        if (is_underway(courier, fetch) && fetch->bytes && fetch->name.job == name->job &&
            fetch->name.attempt == name->attempt && fetch->name.step == name->step &&
            fetch->got == chunk->offset && fetch->asked > fetch->got)
            return fetch;
    }
    return NULL;
}

static void take_loaded(struct courier *courier, const Refrain__VaultChunk *chunk)
{
    struct fetch *fetch = fetch_of(courier, chunk);
    if (!fetch) return; /* of one that ended */
    status_t status = believed(chunk->status);
    if (status != STATUS_OK) {
        error_set(&fetch->error, status, "%s", chunk->message ? chunk->message : status_name(status));
    } else if (!chunk->data.len || chunk->data.len > fetch->asked - fetch->got) {
        status = error_set(&fetch->error, STATUS_CORRUPT, "a piece of %zu bytes came that does not fit",
                           chunk->data.len);
    } else {
        memcpy(fetch->bytes + fetch->got, chunk->data.data, chunk->data.len);
        fetch->got += chunk->data.len;
        if (fetch->got < fetch->name.bytes) return;
        if (XXH64(fetch->bytes, (size_t)fetch->name.bytes, 0) != fetch->name.xxh64)
            status = error_set(&fetch->error, STATUS_CORRUPT, "its hash is another when it arrives");
    }
    fetch_ends(courier, fetch, status);
}

static void take_replies(struct courier *courier)
{
    for (int i = 0; i < TURN_REPLIES; i++) {
        struct error error;
        zmq_msg_t frame;
        status_t status = wire_receive(courier->socket, NULL, &frame, &error);
        if (status == STATUS_CORRUPT) continue;
        if (status != STATUS_OK) return;
        Refrain__VaultReply *reply;
        status = wire_unpack_vault_reply(zmq_msg_data(&frame), zmq_msg_size(&frame), &reply, &error);
        zmq_msg_close(&frame);
        if (status != STATUS_OK) {
            log_line(LOG_WARN, "checkpoints: an answer was not understood: %s", error.text);
            continue;
        }
        if (reply->body_case == REFRAIN__VAULT_REPLY__BODY_SAVED) take_saved(courier, reply->saved);
        if (reply->body_case == REFRAIN__VAULT_REPLY__BODY_LOADED) take_loaded(courier, reply->loaded);
        refrain__vault_reply__free_unpacked(reply, NULL);
    }
}

/* --------------------------------------------------------------------------------------------- the thread */

/* Ends what has waited long enough; when to look again. */
static int64_t expire(struct courier *courier)
{
    int64_t now_ns = clock_now_ns(), next_ns = CLOCK_NEVER;
    for (int i = 0; i < COURIER_JOBS; i++) {
        struct outgoing *job = &courier->jobs[i];
        struct fetch *fetch = &courier->fetches[i];
        int64_t due_ns = job->sending ? job->sending->deadline_ns : CLOCK_NEVER;
        if (job->sending && due_ns <= now_ns) {
            log_line(LOG_WARN,
                     "job %" PRIu64 ": its checkpoint of step %" PRIu32
                     " could not be delivered within %.3g s",
                     job->job, job->sending->name.step, (double)courier->patience_ns / SECOND_NS);
            pthread_mutex_lock(&courier->lock);
            courier_settle(courier, job, false);
            pthread_mutex_unlock(&courier->lock);
        } else if (due_ns < next_ns) {
            next_ns = due_ns;
        }
        if (!is_underway(courier, fetch)) continue;
        if (fetch->deadline_ns <= now_ns)
            fetch_ends(courier, fetch,
                       error_set(&fetch->error, STATUS_DEADLINE, "it did not come within %.3g s",
                                 (double)courier->patience_ns / SECOND_NS));
        else if (fetch->deadline_ns < next_ns)
            next_ns = fetch->deadline_ns;
    }
    return next_ns;
}

/* What the pool holds beyond what the jobs at hand can use. */
static void trim_pool(struct courier *courier)
{
    struct buffer *surplus = NULL;
    int jobs = 0;
    pthread_mutex_lock(&courier->lock);
    for (int i = 0; i < COURIER_JOBS; i++) jobs += courier->jobs[i].job != 0;
    while (courier->pool_count > POOL_PER_JOB * jobs) {
        struct buffer *buffer = courier->pool;
        courier->pool = buffer->next;
        courier->pool_count--;
        buffer->next = surplus;
        surplus = buffer;
    }
    pthread_mutex_unlock(&courier->lock);
    for (struct buffer *next; surplus; surplus = next) {
        next = surplus->next;
        free(surplus);
    }
}

static void sleep_until(struct courier *courier, int64_t next_ns)
{
    enum { WAKE, MONITOR, SOCKET, ITEMS };
    zmq_pollitem_t items[ITEMS] = {
        [WAKE] = {.fd = courier->wake, .events = ZMQ_POLLIN},
        [MONITOR] = {.socket = courier->monitor, .events = ZMQ_POLLIN},
        [SOCKET] = {.socket = courier->socket,
                    .events = courier->blocked ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN}};
    if (zmq_poll(items, courier->socket ? ITEMS : WAKE + 1, clock_poll_ms(next_ns)) < 0) return;
    eventfd_t ignored;
    eventfd_read(courier->wake, &ignored);
    if (!courier->socket) return;
    if (items[SOCKET].revents & ZMQ_POLLIN) take_replies(courier);
    if (items[MONITOR].revents && disconnected(courier)) connect_again(courier);
}

void *courier_serve(void *argument)
{
    struct courier *courier = argument;
    for (;;) {
        pthread_mutex_lock(&courier->lock);
        bool stop = courier->stop, changed = courier->endpoint_changed;
        pthread_mutex_unlock(&courier->lock);
        if (stop) break;
        if (changed) connect_again(courier);
        trim_pool(courier);
        send_pieces(courier);
        sleep_until(courier, expire(courier));
    }
    close_socket(courier);
    if (courier->zmq) zmq_ctx_term(courier->zmq);
    return NULL;
}
