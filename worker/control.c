/*
 * control.c - see control.h. The control thread owns the uplink; `lock` guards the presence
 * only. The two mailboxes are the only other things both threads touch.
 */
#include "worker/control.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/uplink.h"
#include "proto/wire.h"
#include "worker/heartbeat.h"
#include "worker/mailbox.h"

enum { DEFAULT_HEARTBEAT_MS = 500 };

struct control {
    struct control_config config;
    struct uplink *uplink;
    struct mailbox *orders, *reports; /* coordinator -> compute, compute -> coordinator */
    pthread_t thread;
    pthread_mutex_t lock;
    struct presence presence;
    atomic_bool stop;
    bool orphaned; /* a Shutdown was made up */
    int64_t heartbeat_ns, next_heartbeat_ns;
};

/* ------------------------------------------------------------------------------------------------ sending */

static void send_bytes(struct control *c, const void *bytes, size_t size)
{
    /* Never waits: a coordinator that does not read for long is a coordinator that restarted, and will ask
     * again. */
    if (zmq_send(uplink_socket(c->uplink), bytes, size, ZMQ_DONTWAIT) < 0 && errno != EAGAIN)
        log_line(LOG_WARN, "a report of %zu bytes could not be sent: %s", size, zmq_strerror(errno));
}

static void send_report(struct control *c, const Refrain__WorkerReport *report)
{
    size_t size = refrain__worker_report__get_packed_size(report);
    uint8_t *bytes = malloc(size);
    if (!bytes) return;
    refrain__worker_report__pack(report, bytes);
    send_bytes(c, bytes, size);
    free(bytes);
}

static Refrain__WorkerReport empty_report(Refrain__WorkerReport__BodyCase body)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    report.has_version = 1;
    report.version = PROTOCOL_VERSION;
    report.body_case = body;
    return report;
}

static void send_hello(struct control *c)
{
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_HELLO);
    Refrain__Hello hello = c->config.hello;
    Refrain__RunningJob running[PRESENCE_MAX_JOBS], *pointers[PRESENCE_MAX_JOBS];
    pthread_mutex_lock(&c->lock);
    struct presence now = c->presence;
    pthread_mutex_unlock(&c->lock);
    hello.has_epoch = hello.has_last_epoch = 1;
    hello.epoch = now.epoch;
    hello.has_epoch_members = now.epoch != 0;
    hello.epoch_members = now.members;
    hello.last_epoch = now.last_epoch;
    if (now.ranks) hello.ranks = now.ranks;
    hello.model = now.model[0] ? now.model : NULL;
    hello.has_first_block = hello.has_blocks = hello.has_weight_bytes = now.model[0] != 0;
    hello.first_block = now.first_block;
    hello.blocks = now.blocks;
    hello.weight_bytes = now.weight_bytes;
    for (int i = 0; i < now.jobs; i++) {
        refrain__running_job__init(&running[i]);
        running[i].has_job = running[i].has_attempt = 1;
        running[i].job = now.running[i].job;
        running[i].attempt = now.running[i].attempt;
        pointers[i] = &running[i];
    }
    hello.n_running = (size_t)now.jobs;
    hello.running = pointers;
    report.hello = &hello;
    send_report(c, &report);
}

static void send_heartbeat(struct control *c)
{
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_HEARTBEAT);
    Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
    pthread_mutex_lock(&c->lock);
    beat.epoch = c->presence.epoch;
    pthread_mutex_unlock(&c->lock);
    beat.has_epoch = beat.has_compute_progress = 1;
    beat.compute_progress = atomic_load_explicit(c->config.progress, memory_order_relaxed);
    if (c->config.block_token_ns)
        beat.block_token_ns = atomic_load_explicit(c->config.block_token_ns, memory_order_relaxed);
    beat.has_block_token_ns = beat.block_token_ns > 0;
    struct heartbeat_paces paces;
    heartbeat_paces(c->config.paces, &paces, &beat);
    report.heartbeat = &beat;
    send_report(c, &report);
}

/* ---------------------------------------------------------------------------------------------- receiving */

/* Hands an order to the compute thread; those that end the epoch also wake it out of the fabric. */
static void deliver(struct control *c, const uint8_t *bytes, size_t size, const Refrain__WorkerOrder *order)
{
    struct error error;
    bool ends_epoch = order->body_case == REFRAIN__WORKER_ORDER__BODY_EPOCH ||
                      order->body_case == REFRAIN__WORKER_ORDER__BODY_SHUTDOWN;
    /* Abort first: the other way round it could hit the epoch that the order begins. */
    if (ends_epoch && c->config.fabric) fabric_abort(c->config.fabric);
    if (mailbox_put(c->orders, bytes, size, &error) != STATUS_OK) log_line(LOG_ERROR, "%s", error.text);
}

static void receive_order(struct control *c)
{
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, uplink_socket(c->uplink), ZMQ_DONTWAIT) < 0) goto out;
    const uint8_t *bytes = zmq_msg_data(&message);
    size_t size = zmq_msg_size(&message);
    Refrain__WorkerOrder *order = refrain__worker_order__unpack(NULL, size, bytes);
    if (!order || order->version != PROTOCOL_VERSION) {
        log_line(LOG_WARN, "an order of %zu bytes was not understood (protocol %u)", size,
                 order ? order->version : 0);
    } else if (order->body_case == REFRAIN__WORKER_ORDER__BODY_REHELLO) {
        send_hello(c);
    } else {
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_WELCOME && order->welcome->heartbeat_ms)
            c->heartbeat_ns = order->welcome->heartbeat_ms * MILLISECOND_NS;
        deliver(c, bytes, size, order);
    }
    refrain__worker_order__free_unpacked(order, NULL);
out:
    zmq_msg_close(&message);
}

static void receive_monitor(struct control *c)
{
    if (uplink_change(c->uplink, clock_now_ns()) == UPLINK_GONE)
        log_line(LOG_WARN, "the coordinator went away; waiting up to %d s for it",
                 (int)(c->config.orphan_ns / SECOND_NS));
}

/* Without a coordinator for too long this rank ends itself, as if it had been told to. */
static void end_orphan(struct control *c)
{
    if (c->orphaned || uplink_away_ns(c->uplink, clock_now_ns()) < c->config.orphan_ns) return;
    log_line(LOG_ERROR, "no coordinator at %s for %d s: ending", c->config.coordinator,
             (int)(c->config.orphan_ns / SECOND_NS));
    Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
    Refrain__Shutdown shutdown = REFRAIN__SHUTDOWN__INIT;
    order.has_version = 1;
    order.version = PROTOCOL_VERSION;
    order.body_case = REFRAIN__WORKER_ORDER__BODY_SHUTDOWN;
    order.shutdown = &shutdown;
    uint8_t bytes[64];
    size_t size = refrain__worker_order__pack(&order, bytes);
    deliver(c, bytes, size, &order);
    c->orphaned = true;
}

/* ------------------------------------------------------------------------------------------------- thread */

static void send_waiting_reports(struct control *c)
{
    struct letter *letter;
    while ((letter = mailbox_take(c->reports))) {
        if (letter->size) send_bytes(c, letter->bytes, letter->size);
        free(letter);
    }
}

static void *control_main(void *argument)
{
    struct control *c = argument;
    send_hello(c);
    while (!atomic_load(&c->stop)) {
        zmq_pollitem_t items[] = {{.socket = uplink_socket(c->uplink), .events = ZMQ_POLLIN},
                                  {.socket = uplink_monitor(c->uplink), .events = ZMQ_POLLIN},
                                  {.fd = mailbox_descriptor(c->reports), .events = ZMQ_POLLIN}};
        int64_t now = clock_now_ns();
        if (now >= c->next_heartbeat_ns) {
            send_heartbeat(c);
            c->next_heartbeat_ns = now + c->heartbeat_ns;
        }
        end_orphan(c);
        if (zmq_poll(items, 3, clock_poll_ms(c->next_heartbeat_ns)) < 0) continue; /* interrupted */
        if (items[1].revents) receive_monitor(c);
        if (items[2].revents) send_waiting_reports(c);
        if (items[0].revents) receive_order(c);
    }
    send_waiting_reports(c);
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_GOODBYE);
    Refrain__Goodbye goodbye = REFRAIN__GOODBYE__INIT;
    report.goodbye = &goodbye;
    send_report(c, &report);
    return NULL;
}

status_t control_start(const struct control_config *config, struct control **control, struct error *error)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "no memory for the control thread");
    c->config = *config;
    c->heartbeat_ns = DEFAULT_HEARTBEAT_MS * MILLISECOND_NS;
    struct uplink_config uplink = {.endpoint = config->coordinator,
                                   .public_key = config->public_key,
                                   .secret_key = config->secret_key,
                                   .server_key = config->server_key};
    pthread_mutex_init(&c->lock, NULL);
    status_t status = mailbox_create(&c->orders, error);
    if (status == STATUS_OK) status = mailbox_create(&c->reports, error);
    if (status == STATUS_OK) status = uplink_open(&uplink, clock_now_ns(), &c->uplink, error);
    if (status != STATUS_OK) goto err_control;
    if (pthread_create(&c->thread, NULL, control_main, c) != 0) {
        status = error_set(error, STATUS_IO, "the control thread cannot be started");
        goto err_control;
    }
    *control = c;
    return STATUS_OK;
err_control:
    uplink_close(c->uplink);
    mailbox_destroy(c->reports);
    mailbox_destroy(c->orders);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return status;
}

void control_stop(struct control *c)
{
    if (!c) return;
    atomic_store(&c->stop, true);
    mailbox_put(c->reports, "", 0, NULL); /* wakes the thread */
    pthread_join(c->thread, NULL);
    uplink_close(c->uplink);
    mailbox_destroy(c->reports);
    mailbox_destroy(c->orders);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* --------------------------------------------------------------------------------- for the compute thread */

void control_present(struct control *c, const struct presence *presence)
{
    pthread_mutex_lock(&c->lock);
    c->presence = *presence;
    pthread_mutex_unlock(&c->lock);
}

Refrain__WorkerOrder *control_take(struct control *c)
{
    struct letter *letter = mailbox_take(c->orders);
    if (!letter) return NULL;
    Refrain__WorkerOrder *order = refrain__worker_order__unpack(NULL, letter->size, letter->bytes);
    free(letter);
    return order;
}

void control_free(Refrain__WorkerOrder *order)
{
    refrain__worker_order__free_unpacked(order, NULL);
}

int control_descriptor(const struct control *c)
{
    return mailbox_descriptor(c->orders);
}

void control_report(struct control *c, Refrain__WorkerReport__BodyCase body, void *message)
{
    struct error error;
    Refrain__WorkerReport report = empty_report(body);
    report.hello = message; /* the members of the union are all pointers */
    size_t size = refrain__worker_report__get_packed_size(&report);
    uint8_t *bytes = malloc(size);
    status_t status =
        bytes ? STATUS_OK : error_set(&error, STATUS_NO_MEMORY, "no memory for a report of %zu bytes", size);
    if (bytes) {
        refrain__worker_report__pack(&report, bytes);
        status = mailbox_put(c->reports, bytes, size, &error);
    }
    free(bytes);
    if (status != STATUS_OK) log_line(LOG_ERROR, "%s", error.text);
}
