/*
 * office.c - see office.h. One thread.
 *
 * Controls live until office_close: letters on their way may still name one that was stopped.
 */
#include "tools/sim/office.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "tools/sim/world.h"
#include "worker/heartbeat.h"

enum { DEFAULT_HEARTBEAT_MS = 500 };

struct letter {
    struct letter *next;
    struct letter *later, **earlier; /* of those under way; earlier is NULL for any other */
    struct control *control;
    uint32_t connection; /* to the coordinator: the listener it was meant for */
    int64_t said_ns;
    size_t size;
    uint8_t bytes[];
};

struct queue {
    struct letter *first, **end;
};

struct control {
    struct control *next; /* of all there ever were */
    uint32_t number;
    struct control_config config;
    struct presence presence;
    uint64_t last_epoch; /* that it ever was in */
    struct queue orders; /* arrived, not taken yet */
    struct queue held;   /* arrived while the process was stopped */
    struct queue unsaid; /* the turn under way when it was stopped would have said that later */
    int descriptor;      /* always readable: nobody ever sleeps on it here */
    bool over, stopped;
    int64_t since_ns; /* over or stopped */
    int64_t heartbeat_ns, unreachable_since_ns;
    office_order_fn *take; /* NULL: a rank's */
    void *argument;        /* of take */
    void (*wake)(void *context);
    void *context;
};

static struct office {
    struct office_config config;
    office_report_fn *listener;
    void *argument;
    uint32_t listeners; /* so far */
    uint32_t numbers;
    struct control *controls;
    struct queue waiting;     /* said while nobody listened */
    struct letter *under_way; /* the world forgets them with its events */
} office;

static void queue_clear(struct queue *q)
{
    *q = (struct queue){.end = &q->first};
}

static void queue_put(struct queue *q, struct letter *letter)
{
    letter->next = NULL;
    *q->end = letter;
    q->end = &letter->next;
}

static struct letter *queue_take(struct queue *q)
{
    struct letter *letter = q->first;
    if (letter && !(q->first = letter->next)) q->end = &q->first;
    return letter;
}

static void queue_drop(struct queue *q)
{
    for (struct letter *letter; (letter = queue_take(q));) free(letter);
}

status_t office_open(const struct office_config *config, struct error *error)
{
    office = (struct office){.config = *config};
    queue_clear(&office.waiting);
    return STATUS_OK;
}

void office_close(void)
{
    for (struct control *c = office.controls, *next; c; c = next) {
        next = c->next;
        queue_drop(&c->orders);
        queue_drop(&c->held);
        queue_drop(&c->unsaid);
        free(c);
    }
    queue_drop(&office.waiting);
    for (struct letter *letter = office.under_way, *next; letter; letter = next) {
        next = letter->later;
        free(letter);
    }
    office = (struct office){0};
}

static struct letter *make_letter(struct control *control, const void *bytes, size_t size)
{
    struct letter *letter = malloc(sizeof *letter + size);
    if (!letter) abort();
    *letter = (struct letter){
        .control = control, .connection = office.listeners, .said_ns = clock_now_ns(), .size = size};
    if (size) memcpy(letter->bytes, bytes, size);
    return letter;
}

static void send_letter(struct letter *letter, world_event_fn *arrives)
{
    letter->later = office.under_way;
    if (letter->later) letter->later->earlier = &letter->later;
    letter->earlier = &office.under_way;
    office.under_way = letter;
    world_at(clock_now_ns() + office.config.delay_ns, WORLD_ARRIVES, arrives, letter, 0);
}

static struct letter *take_letter(void *context)
{
    struct letter *letter = context;
    if (letter->earlier) *letter->earlier = letter->later;
    if (letter->earlier && letter->later) letter->later->earlier = letter->earlier;
    letter->earlier = NULL;
    return letter;
}

/* ------------------------------------------------------------------------------------ rank -> coordinator */

/* The name a ROUTER would know this connection by. */
static struct wire_peer peer_of(const struct control *c)
{
    struct wire_peer peer = {.length = 2 * sizeof(uint32_t)};
    memcpy(peer.identity, &c->number, sizeof c->number);
    memcpy(peer.identity + sizeof c->number, &office.listeners, sizeof office.listeners);
    return peer;
}

static void report_arrives(void *context, uint64_t unused)
{
    struct letter *letter = take_letter(context);
    struct control *c = letter->control;
    if (c->stopped && letter->said_ns > c->since_ns) {
        queue_put(&c->unsaid, letter);
        return;
    }
    if (c->over && letter->said_ns > c->since_ns) {
        free(letter);
        return;
    }
    if (!office.listener || letter->connection != office.listeners) {
        /* As a DEALER's queue: it goes out once there is a connection again. */
        letter->connection = office.listeners;
        if (!office.listener) {
            queue_put(&office.waiting, letter);
            return;
        }
    }
    struct wire_peer peer = peer_of(c);
    office.listener(office.argument, &peer, letter->bytes, letter->size, letter->said_ns);
    free(letter);
}

static void send_report(struct control *c, const Refrain__WorkerReport *report)
{
    size_t size = refrain__worker_report__get_packed_size(report);
    uint8_t *bytes = malloc(size);
    if (!bytes) abort();
    refrain__worker_report__pack(report, bytes);
    send_letter(make_letter(c, bytes, size), report_arrives);
    free(bytes);
}

static Refrain__WorkerReport empty_report(Refrain__WorkerReport__BodyCase body)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    wire_stamp(report);
    report.body_case = body;
    return report;
}

static void send_hello(struct control *c)
{
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_HELLO);
    Refrain__RunningJob running[PRESENCE_MAX_JOBS], *pointers[PRESENCE_MAX_JOBS];
    Refrain__Hello hello = c->config.hello;
    struct presence *now = &c->presence;
    hello.has_epoch = hello.has_last_epoch = 1;
    hello.epoch = now->epoch;
    hello.last_epoch = c->last_epoch;
    if (now->ranks) hello.ranks = now->ranks;
    hello.model = now->model[0] ? now->model : NULL;
    hello.has_first_block = hello.has_blocks = hello.has_weight_bytes = now->model[0] != 0;
    hello.first_block = now->first_block;
    hello.blocks = now->blocks;
    hello.weight_bytes = now->weight_bytes;
    for (int i = 0; i < now->jobs; i++) {
        refrain__running_job__init(&running[i]);
        running[i].has_job = running[i].has_attempt = 1;
        running[i].job = now->running[i].job;
        running[i].attempt = now->running[i].attempt;
        pointers[i] = &running[i];
    }
    hello.n_running = (size_t)now->jobs;
    hello.running = pointers;
    report.hello = &hello;
    send_report(c, &report);
}

static void deliver(struct control *c, struct letter *letter);

/* Without a coordinator for too long the rank ends itself, as if it had been told to. */
static void check_orphan(struct control *c)
{
    if (office.listener) c->unreachable_since_ns = CLOCK_NEVER;
    if (!office.listener && c->unreachable_since_ns == CLOCK_NEVER) c->unreachable_since_ns = clock_now_ns();
    if (c->unreachable_since_ns == CLOCK_NEVER ||
        clock_now_ns() - c->unreachable_since_ns < c->config.orphan_ns)
        return;
    Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
    Refrain__Shutdown shutdown = REFRAIN__SHUTDOWN__INIT;
    uint8_t bytes[64];
    wire_stamp(order);
    order.body_case = REFRAIN__WORKER_ORDER__BODY_SHUTDOWN;
    order.shutdown = &shutdown;
    deliver(c, make_letter(c, bytes, refrain__worker_order__pack(&order, bytes)));
    c->unreachable_since_ns = clock_now_ns();
}

static void beat(void *context, uint64_t unused)
{
    struct control *c = context;
    if (c->over) return;
    world_at(world_now_ns() + c->heartbeat_ns, WORLD_ARRIVES, beat, c, 0);
    if (c->stopped) return;
    check_orphan(c);
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_HEARTBEAT);
    Refrain__Heartbeat heartbeat = REFRAIN__HEARTBEAT__INIT;
    heartbeat.has_epoch = heartbeat.has_compute_progress = 1;
    heartbeat.epoch = c->presence.epoch;
    heartbeat.compute_progress = atomic_load(c->config.progress);
    heartbeat.block_token_ns = atomic_load(c->config.block_token_ns);
    heartbeat.has_block_token_ns = heartbeat.block_token_ns > 0;
    struct heartbeat_paces paces;
    heartbeat_paces(c->config.paces, &paces, &heartbeat);
    report.heartbeat = &heartbeat;
    if (office.listener) send_report(c, &report); /* a queue of old heartbeats would be no news */
}

void control_report(struct control *c, Refrain__WorkerReport__BodyCase body, void *message)
{
    Refrain__WorkerReport report = empty_report(body);
    report.hello = message; /* the members of the union are all pointers */
    if (!c->over) send_report(c, &report);
}

/* ------------------------------------------------------------------------------------ coordinator -> rank */

/* As worker/control.c: who waits in the fabric is woken before the order that ends his epoch comes. */
static void deliver(struct control *c, struct letter *letter)
{
    Refrain__WorkerOrder *order = refrain__worker_order__unpack(NULL, letter->size, letter->bytes);
    if (!order) abort(); /* the product's own packing */
    if (c->take) {
        c->take(c->argument, order);
        refrain__worker_order__free_unpacked(order, NULL);
        free(letter);
        return;
    }
    switch (order->body_case) {
    case REFRAIN__WORKER_ORDER__BODY_REHELLO:
        send_hello(c);
        free(letter);
        break;
    case REFRAIN__WORKER_ORDER__BODY_EPOCH:
    case REFRAIN__WORKER_ORDER__BODY_SHUTDOWN:
        fabric_abort(c->config.fabric);
        queue_put(&c->orders, letter);
        break;
    default:
        queue_put(&c->orders, letter);
    }
    if (order->body_case == REFRAIN__WORKER_ORDER__BODY_WELCOME && order->welcome->heartbeat_ms)
        c->heartbeat_ns = order->welcome->heartbeat_ms * MILLISECOND_NS;
    refrain__worker_order__free_unpacked(order, NULL);
    if (c->wake) c->wake(c->context);
}

static void order_arrives(void *context, uint64_t unused)
{
    struct letter *letter = take_letter(context);
    struct control *c = letter->control;
    if (c->over || letter->connection != office.listeners)
        free(letter);
    else if (c->stopped)
        queue_put(&c->held, letter);
    else
        deliver(c, letter);
}

void office_order(const struct wire_peer *peer, const void *bytes, size_t size)
{
    for (struct control *c = office.controls; c; c = c->next) {
        struct wire_peer theirs = peer_of(c);
        if (!wire_peer_equal(&theirs, peer)) continue;
        send_letter(make_letter(c, bytes, size), order_arrives);
        return;
    }
}

void office_listen(office_report_fn *listener, void *argument)
{
    office.listener = listener;
    office.argument = argument;
    office.listeners++;
    if (!listener) return;
    for (struct letter *letter; (letter = queue_take(&office.waiting));) send_letter(letter, report_arrives);
}

/* --------------------------------------------------------------------------------------------------- life */

static status_t make_control(struct control **control, struct error *error)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual control");
    c->number = ++office.numbers;
    c->heartbeat_ns = DEFAULT_HEARTBEAT_MS * MILLISECOND_NS;
    c->unreachable_since_ns = CLOCK_NEVER;
    queue_clear(&c->orders);
    queue_clear(&c->held);
    queue_clear(&c->unsaid);
    if ((c->descriptor = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        free(c);
        return error_set(error, STATUS_IO, "eventfd: %m");
    }
    c->next = office.controls;
    office.controls = c;
    *control = c;
    return STATUS_OK;
}

status_t control_start(const struct control_config *config, struct control **control, struct error *error)
{
    struct control *c;
    status_t status = make_control(&c, error);
    if (status != STATUS_OK) return status;
    c->config = *config;
    send_hello(c);
    world_at(world_now_ns() + c->heartbeat_ns, WORLD_ARRIVES, beat, c, 0);
    *control = c;
    return STATUS_OK;
}

status_t office_line(office_order_fn *take, void *argument, struct control **line, struct error *error)
{
    struct control *c;
    status_t status = make_control(&c, error);
    if (status != STATUS_OK) return status;
    c->take = take;
    c->argument = argument;
    *line = c;
    return STATUS_OK;
}

void control_stop(struct control *c)
{
    if (!c) return;
    Refrain__WorkerReport report = empty_report(REFRAIN__WORKER_REPORT__BODY_GOODBYE);
    Refrain__Goodbye goodbye = REFRAIN__GOODBYE__INIT;
    report.goodbye = &goodbye;
    if (!c->over) send_report(c, &report);
    if (!c->over) c->since_ns = clock_now_ns();
    c->over = true;
    c->wake = NULL;
    close(c->descriptor);
}

void office_notify(struct control *c, void (*wake)(void *context), void *context)
{
    c->wake = wake;
    c->context = context;
}

void office_kill(struct control *c)
{
    c->over = true;
    c->since_ns = world_now_ns();
}

void office_stop(struct control *c, bool stopped)
{
    c->stopped = stopped;
    c->since_ns = world_now_ns();
    for (struct letter *letter; !stopped && (letter = queue_take(&c->unsaid));) report_arrives(letter, 0);
    for (struct letter *letter; !stopped && (letter = queue_take(&c->held));) deliver(c, letter);
}

void control_present(struct control *c, const struct presence *presence)
{
    c->presence = *presence;
    if (presence->epoch > c->last_epoch) c->last_epoch = presence->epoch;
}

Refrain__WorkerOrder *control_take(struct control *c)
{
    struct letter *letter = queue_take(&c->orders);
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
    return c->descriptor;
}
