/*
 * fabric.c - the owner's side of the fabric: see fabric.h for the contract, fabric_core.h for the parts.
 *
 * Runs on the owner's thread (fabric_abort: any). What it wants of the I/O thread it leaves under
 * fabric->lock and rings wake_fd; what the I/O thread has for it lies in the event queue, and ready_fd says
 * so. Nothing here touches a socket.
 */
#include "cluster/fabric.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/fabric_core.h"

/* -------------------------------------------------------------------------------------------------- bells */

static void ring(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one); /* can only fail when it is rung already */
    (void)written;
}

static void silence(int fd)
{
    uint64_t count;
    ssize_t taken = read(fd, &count, sizeof count); /* non-blocking: fails when it was not rung */
    (void)taken;
}

void fabric_wake_io(struct fabric *fabric)
{
    if (!atomic_exchange(&fabric->awakened, true)) ring(fabric->wake_fd);
}

void fabric_signal_owner(struct fabric *fabric)
{
    if (fabric->ready_signalled) return;
    fabric->ready_signalled = true;
    ring(fabric->ready_fd);
}

/* Lock held. */
static void hush_owner(struct fabric *fabric)
{
    if (!fabric->ready_signalled) return;
    fabric->ready_signalled = false;
    silence(fabric->ready_fd);
}

/* ------------------------------------------------------------------------------------------------- events */

void fabric_push_event(struct fabric *fabric, struct event_node *node)
{
    node->next = NULL;
    *fabric->events_end = node;
    fabric->events_end = &node->next;
    fabric_signal_owner(fabric);
}

static struct event_node *pop_event(struct fabric *fabric)
{
    struct event_node *node = fabric->events;
    if (!node) return NULL;
    fabric->events = node->next;
    if (!fabric->events) fabric->events_end = &fabric->events;
    return node;
}

/* Device memory is the I/O thread's to give away again. Lock held. */
static void give_landed(struct fabric *fabric, struct parcel *parcel)
{
    parcel->next = fabric->landed;
    fabric->landed = parcel;
}

void fabric_give_parcel(struct fabric *fabric, struct parcel *parcel)
{
    bool on_device = parcel->on_device; /* once it is given, it is somebody else's */
    pthread_mutex_lock(&fabric->lock);
    fabric_place_done(parcel);
    if (on_device) give_landed(fabric, parcel);
    pthread_mutex_unlock(&fabric->lock);
    if (!on_device) parcel_give(&fabric->shelf, parcel);
}

/* A SENT event's record has done its work once the event is taken. Lock held. */
static void reuse_outgoing(struct fabric *fabric, struct event_node *node)
{
    struct outgoing *outgoing = (struct outgoing *)node;
    outgoing->next = fabric->spare;
    fabric->spare = outgoing;
}

void fabric_drop_events(struct fabric *fabric)
{
    for (struct event_node *node; (node = pop_event(fabric)) != NULL;) {
        if (node->event.kind == FABRIC_SENT) reuse_outgoing(fabric, node);
        if (node->event.kind != FABRIC_RECEIVED) continue;
        struct parcel *parcel = (struct parcel *)node;
        if (parcel->on_device)
            give_landed(fabric, parcel);
        else
            parcel_give(&fabric->shelf, parcel);
    }
    fabric->nudge = false;
    hush_owner(fabric);
}

status_t fabric_next(struct fabric *fabric, struct fabric_event *event)
{
    pthread_mutex_lock(&fabric->lock);
    struct event_node *node = pop_event(fabric);
    if (node) {
        *event = node->event;
        if (node->event.kind == FABRIC_SENT) reuse_outgoing(fabric, node);
    }
    if (!fabric->events) hush_owner(fabric);
    pthread_mutex_unlock(&fabric->lock);
    return node ? STATUS_OK : STATUS_AGAIN;
}

/* Device memory is free, and its credit, once what reads it is done: the I/O thread sees to both. */
static void release_on_device(struct fabric *fabric, struct parcel *parcel)
{
    fabric_nccl_mark_read(fabric, parcel);
    fabric_give_parcel(fabric, parcel);
    fabric_wake_io(fabric);
}

void fabric_release(struct fabric *fabric, struct fabric_event *event)
{
    if (event->kind != FABRIC_RECEIVED || !event->hold) return;
    struct parcel *parcel = event->hold;
    event->hold = NULL;
    event->payload = NULL;
    if (parcel->on_device) {
        release_on_device(fabric, parcel);
        return;
    }
    pthread_mutex_lock(&fabric->lock);
    /* A message that outlived its epoch has nobody left to tell. */
    bool tell = parcel->epoch == fabric->epoch && fabric->phase != PHASE_IDLE;
    if (tell) {
        struct peer *peer = &fabric->peers[event->peer];
        peer->released++;
        fabric->releases = true;
        /* Else it has credits enough, and hears of this one later. */
        tell = fabric_io_owes_word(peer);
    }
    pthread_mutex_unlock(&fabric->lock);
    parcel_give(&fabric->shelf, parcel);
    if (tell) fabric_wake_io(fabric);
}

/* Sleeps until ready_fd is readable or `deadline_ns`. */
static void sleep_until(struct fabric *fabric, int64_t deadline_ns)
{
    struct pollfd ready = {.fd = fabric->ready_fd, .events = POLLIN};
    if (deadline_ns == CLOCK_NEVER) {
        ppoll(&ready, 1, NULL, NULL);
        return;
    }
    int64_t left = deadline_ns - clock_now_ns();
    if (left < 0) left = 0;
    struct timespec limit = {.tv_sec = left / SECOND_NS, .tv_nsec = left % SECOND_NS};
    ppoll(&ready, 1, &limit, NULL); /* a signal ends it early; the caller looks again */
}

/* Why calls of this epoch fail. Lock held. */
static status_t report_over(const struct fabric *fabric, struct error *error)
{
    if (fabric->phase == PHASE_IDLE) return error_set(error, STATUS_CONFLICT, "fabric: no epoch is joined");
    if (fabric->aborted)
        return error_set(error, STATUS_ABORTED, "fabric: epoch %" PRIu64 " was aborted", fabric->epoch);
    return error_set(error, fabric->failure.status, "%s", fabric->failure.text);
}

status_t fabric_wait(struct fabric *fabric, int64_t deadline_ns, struct error *error)
{
    for (;;) {
        pthread_mutex_lock(&fabric->lock);
        bool something = fabric->events || fabric->nudge;
        bool over = fabric->phase != PHASE_READY;
        status_t status = STATUS_OK;
        if (!something && over) status = report_over(fabric, error);
        fabric->nudge = false;
        if (!fabric->events) hush_owner(fabric);
        pthread_mutex_unlock(&fabric->lock);
        if (something || over) return status;
        if (deadline_ns != CLOCK_NEVER && clock_now_ns() >= deadline_ns)
            return error_set(error, STATUS_DEADLINE, "fabric: nothing came before the deadline");
        sleep_until(fabric, deadline_ns);
    }
}

int fabric_descriptor(const struct fabric *fabric)
{
    return fabric->ready_fd;
}

/* -------------------------------------------------------------------------------------------------- posts */

/* A free record, or NULL without memory. Lock held. */
static struct outgoing *take_outgoing(struct fabric *fabric)
{
    struct outgoing *outgoing = fabric->spare;
    if (outgoing) fabric->spare = outgoing->next;
    return outgoing ? outgoing : malloc(sizeof *outgoing);
}

static status_t check_post(const struct fabric *fabric, int peer, const struct ticket *ticket,
                           const void *payload, struct error *error)
{
    if (fabric->phase == PHASE_IDLE) return error_set(error, STATUS_CONFLICT, "fabric: no epoch is joined");
    if (peer < 0 || peer >= fabric->count || peer == fabric->self)
        return error_set(error, STATUS_INVALID, "fabric: member %d: this is member %d of %d", peer,
                         fabric->self, fabric->count);
    if (ticket->bytes > fabric->max_bytes)
        return error_set(error, STATUS_INVALID,
                         "fabric: a payload of %" PRIu64 " bytes, the limit is %" PRIu64, ticket->bytes,
                         fabric->max_bytes);
    if (ticket->bytes > 0 && !payload)
        return error_set(error, STATUS_INVALID, "fabric: %" PRIu64 " bytes announced, no payload given",
                         ticket->bytes);
    if ((ticket->flags & TICKET_ON_DEVICE) && !fabric->nccl)
        return error_set(error, STATUS_INVALID, "fabric: a payload in device memory needs the nccl fabric");
    return STATUS_OK;
}

/* Uses up a credit and queues the message for the I/O thread. Lock held. */
static status_t enqueue(struct fabric *fabric, int peer, const struct outgoing *wanted, struct error *error)
{
    if (fabric->phase != PHASE_READY) return report_over(fabric, error);
    struct peer *to = &fabric->peers[peer];
    if (to->credits == 0) {
        to->starved = true;
        return STATUS_AGAIN;
    }
    struct outgoing *outgoing = take_outgoing(fabric);
    if (!outgoing) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for a message");
    *outgoing = *wanted;
    to->credits--;
    *fabric->posted_end = outgoing;
    fabric->posted_end = &outgoing->next;
    return STATUS_OK;
}

status_t fabric_post(struct fabric *fabric, int peer, const struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error)
{
    status_t status = check_post(fabric, peer, ticket, payload, error);
    if (status != STATUS_OK) return status;
    struct outgoing outgoing = {
        .note.event = {.kind = FABRIC_SENT, .peer = peer, .cookie = cookie},
        .fabric = fabric,
        .peer = peer,
        .payload = payload,
        .bytes = ticket->bytes,
        .on_device = ticket->flags & TICKET_ON_DEVICE,
        .yields = ticket->flags & TICKET_YIELDS,
    };
    struct ticket stamped = *ticket, decoded;
    stamped.epoch = fabric->epoch;
    ticket_encode(&stamped, outgoing.ticket);
    /* What the receiver would refuse, and lose this member for, is refused here. */
    if (ticket_decode(outgoing.ticket, TICKET_BYTES, &decoded, error) != STATUS_OK) return STATUS_INVALID;
    if (outgoing.on_device) status = fabric_nccl_mark(fabric, &outgoing, error);
    if (status != STATUS_OK) return status;
    pthread_mutex_lock(&fabric->lock);
    status = enqueue(fabric, peer, &outgoing, error);
    pthread_mutex_unlock(&fabric->lock);
    if (status == STATUS_OK)
        fabric_wake_io(fabric);
    else if (outgoing.on_device)
        fabric_nccl_unmark(fabric, &outgoing);
    return status;
}

bool fabric_can_post(const struct fabric *fabric, int peer)
{
    return fabric_has_room(fabric, peer, FABRIC_MAX_CREDITS);
}

bool fabric_has_room(const struct fabric *fabric, int peer, int most)
{
    struct fabric *own = (struct fabric *)fabric; /* for the lock, and to be woken when the answer changes */
    if (peer < 0 || peer >= fabric->count || peer == fabric->self) return false;
    pthread_mutex_lock(&own->lock);
    struct peer *to = &own->peers[peer];
    bool can = own->phase == PHASE_READY && to->credits > 0 && to->window - to->credits < most;
    if (own->phase == PHASE_READY && !can) to->starved = true;
    pthread_mutex_unlock(&own->lock);
    return can;
}

int fabric_in_flight(const struct fabric *fabric, int peer)
{
    struct fabric *own = (struct fabric *)fabric; /* for the lock */
    if (peer < 0 || peer >= fabric->count || peer == fabric->self) return 0;
    pthread_mutex_lock(&own->lock);
    int count = own->phase == PHASE_READY ? own->peers[peer].window - own->peers[peer].credits : 0;
    pthread_mutex_unlock(&own->lock);
    return count;
}

/* ----------------------------------------------------------------------------------------- join and leave */

static status_t check_membership(const struct fabric *fabric, const struct fabric_membership *membership,
                                 struct error *error)
{
    if (fabric->phase != PHASE_IDLE)
        return error_set(error, STATUS_CONFLICT, "fabric: epoch %" PRIu64 " was not left yet", fabric->epoch);
    if (membership->epoch <= fabric->epoch)
        return error_set(error, STATUS_INVALID, "fabric: epoch %" PRIu64 " is not newer than %" PRIu64,
                         membership->epoch, fabric->epoch);
    if (membership->count < 1 || membership->count > FABRIC_MAX_MEMBERS)
        return error_set(error, STATUS_INVALID, "fabric: %d members, allowed are 1 to %d", membership->count,
                         FABRIC_MAX_MEMBERS);
    if (membership->self < 0 || membership->self >= membership->count)
        return error_set(error, STATUS_INVALID, "fabric: own index %d of %d members", membership->self,
                         membership->count);
    for (int i = 0; i < membership->count; i++)
        if (!membership->addresses[i] || strlen(membership->addresses[i]) >= FABRIC_ADDRESS_BYTES)
            return error_set(error, STATUS_INVALID,
                             "fabric: member %d has no address, or one of %d bytes or more", i,
                             FABRIC_ADDRESS_BYTES);
    return STATUS_OK;
}

static struct peer *make_peers(int count)
{
    struct peer *peers = calloc((size_t)count, sizeof *peers);
    for (int i = 0; peers && i < count; i++) {
        for (int k = 0; k < ORDERS; k++) {
            peers[i].out[k].end = &peers[i].out[k].first;
            peers[i].in[k].end = &peers[i].in[k].first;
        }
    }
    return peers;
}

/* Leaves a wish and waits until the I/O thread has fulfilled it (for a join: begun). Lock held. */
static void make_wish(struct fabric *fabric, enum wish wish)
{
    fabric->wish = wish;
    fabric_wake_io(fabric);
    while (fabric->wish != WISH_NONE) pthread_cond_wait(&fabric->changed, &fabric->lock);
}

/* Waits until the epoch stands, is over, or the deadline has passed; STATUS_OK when it stands. Lock held. */
static status_t await_ready(struct fabric *fabric, int64_t deadline_ns, struct error *error)
{
    struct timespec limit = {.tv_sec = deadline_ns / SECOND_NS, .tv_nsec = deadline_ns % SECOND_NS};
    while (fabric->phase == PHASE_JOINING) {
        if (deadline_ns == CLOCK_NEVER)
            pthread_cond_wait(&fabric->changed, &fabric->lock);
        else if (pthread_cond_timedwait(&fabric->changed, &fabric->lock, &limit) == ETIMEDOUT)
            break;
    }
    if (fabric->phase == PHASE_READY) return STATUS_OK;
    if (fabric->phase == PHASE_OVER) return report_over(fabric, error);
    return STATUS_DEADLINE;
}

/* Names who did not answer in time; the I/O thread is quiet about this epoch by now. */
static status_t report_missing(const struct fabric *fabric, const struct fabric_membership *membership,
                               struct error *error)
{
    int missing = 0, first = -1;
    for (int i = 0; i < fabric->count; i++) {
        if (i == fabric->self || (fabric->peers[i].greeted && fabric->peers[i].welcomed)) continue;
        if (missing++ == 0) first = i;
    }
    if (first < 0 && fabric->nccl && fabric_nccl_missing(fabric) >= 0)
        return error_set(error, STATUS_DEADLINE,
                         "fabric: epoch %" PRIu64 ": NCCL did not connect this member with member %d in time",
                         fabric->epoch, fabric_nccl_missing(fabric));
    if (first < 0) return error_set(error, STATUS_DEADLINE, "fabric: joining took until the deadline");
    return error_set(error, STATUS_DEADLINE,
                     "fabric: %d of %d members did not join epoch %" PRIu64 " in time, first member %d at %s",
                     missing, fabric->count - 1, fabric->epoch, first, membership->addresses[first]);
}

static void free_peers(struct fabric *fabric)
{
    free(fabric->peers);
    fabric->peers = NULL;
    fabric->count = 0;
}

status_t fabric_join(struct fabric *fabric, const struct fabric_membership *membership, int64_t deadline_ns,
                     struct error *error)
{
    status_t status = check_membership(fabric, membership, error);
    if (status != STATUS_OK) return status;
    struct peer *peers = make_peers(membership->count);
    if (!peers)
        return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %d members", membership->count);

    pthread_mutex_lock(&fabric->lock);
    fabric->peers = peers;
    fabric->membership = membership;
    fabric->epoch = membership->epoch;
    fabric->self = membership->self;
    fabric->count = membership->count;
    memcpy(fabric->token, membership->token, sizeof fabric->token);
    fabric->aborted = false;
    make_wish(fabric, WISH_JOIN);
    fabric->membership = NULL;
    status = await_ready(fabric, deadline_ns, error);
    if (status != STATUS_OK) {
        make_wish(fabric, WISH_LEAVE);
        if (status == STATUS_DEADLINE) report_missing(fabric, membership, error);
        free_peers(fabric);
    }
    pthread_mutex_unlock(&fabric->lock);
    return status;
}

void fabric_leave(struct fabric *fabric)
{
    if (fabric->phase == PHASE_IDLE) return;
    pthread_mutex_lock(&fabric->lock);
    make_wish(fabric, WISH_LEAVE);
    free_peers(fabric);
    pthread_mutex_unlock(&fabric->lock);
}

void fabric_abort(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
    bool begins = fabric->wish == WISH_JOIN; /* the I/O thread then sees `aborted` */
    if ((begins || fabric->phase != PHASE_IDLE) && !fabric->aborted) {
        fabric->aborted = true;
        if (fabric->phase != PHASE_IDLE) fabric->phase = PHASE_OVER;
        fabric->abort_note.event = (struct fabric_event){.kind = FABRIC_ABORTED, .peer = fabric->self};
        fabric_push_event(fabric, &fabric->abort_note);
        pthread_cond_broadcast(&fabric->changed);
        fabric_wake_io(fabric); /* communicators are given up at once */
    }
    pthread_mutex_unlock(&fabric->lock);
}

/* ----------------------------------------------------------------------------------------- open and close */

/* With nccl all but payloads in device memory goes over ZeroMQ. */
static status_t check_config(const struct fabric_config *config, const struct transport **transport,
                             struct error *error)
{
    static const struct {
        const char *kind;
        const struct transport *transport;
    } known[] = {
        {"zmq", &fabric_transport_zmq}, {"mpi", &fabric_transport_mpi}, {"nccl", &fabric_transport_zmq}};
    if (!config->kind)
        return error_set(error, STATUS_INVALID, "fabric: no kind given; known are zmq, mpi and nccl");
    *transport = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(config->kind, known[i].kind) == 0) *transport = known[i].transport;
    if (!*transport)
        return error_set(error, STATUS_INVALID, "fabric: kind \"%s\" is unknown; known are zmq, mpi and nccl",
                         config->kind);
    if (config->credits < 1 || config->credits > FABRIC_MAX_CREDITS)
        return error_set(error, STATUS_INVALID, "fabric: %d credits, allowed are 1 to %d", config->credits,
                         FABRIC_MAX_CREDITS);
    if (config->max_bytes < 1)
        return error_set(error, STATUS_INVALID, "fabric: max_bytes is 0: no payload could be received");
    return STATUS_OK;
}

static void init_queues(struct fabric *fabric)
{
    fabric->events_end = &fabric->events;
    fabric->posted_end = &fabric->posted;
    pthread_mutex_init(&fabric->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&fabric->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    parcel_shelf_init(&fabric->shelf);
}

/* Signals are for the process's own threads, never for this one. */
static int start_io_thread(struct fabric *fabric)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&fabric->thread, NULL, fabric_io_main, fabric);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

static void free_fabric(struct fabric *fabric)
{
    while (fabric->spare) {
        struct outgoing *outgoing = fabric->spare;
        fabric->spare = outgoing->next;
        free(outgoing);
    }
    if (fabric->shelf.taken > 0)
        log_line(LOG_WARN, "fabric: closed with %d received messages not released", fabric->shelf.taken);
    parcel_shelf_clear(&fabric->shelf);
    fabric_nccl_close(fabric);
    pthread_cond_destroy(&fabric->changed);
    pthread_mutex_destroy(&fabric->lock);
    if (fabric->ready_fd >= 0) close(fabric->ready_fd);
    if (fabric->wake_fd >= 0) close(fabric->wake_fd);
    free(fabric);
}

status_t fabric_open(const struct fabric_config *config, struct fabric **out, struct error *error)
{
    const struct transport *transport = NULL;
    status_t status = check_config(config, &transport, error);
    if (status != STATUS_OK) return status;
    struct fabric *fabric = calloc(1, sizeof *fabric);
    if (!fabric) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory");
    fabric->transport = transport;
    fabric->credits = config->credits;
    fabric->max_bytes = config->max_bytes;
    init_queues(fabric);
    fabric->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fabric->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fabric->ready_fd < 0 || fabric->wake_fd < 0) {
        status = error_set(error, STATUS_IO, "fabric: no event descriptor: %m");
        goto fail;
    }
    if (strcmp(config->kind, "nccl") == 0) status = fabric_nccl_open(fabric, config, error);
    if (status != STATUS_OK) goto fail;
    status = transport->open(fabric, config, &fabric->link, fabric->address, error);
    if (status != STATUS_OK) goto fail;
    errno = start_io_thread(fabric);
    if (errno) {
        status = error_set(error, STATUS_IO, "fabric: no I/O thread: %m");
        goto fail_link;
    }
    *out = fabric;
    return STATUS_OK;

fail_link:
    transport->close(fabric->link);
fail:
    free_fabric(fabric);
    return status;
}

void fabric_close(struct fabric *fabric)
{
    if (!fabric) return;
    fabric_leave(fabric);
    pthread_mutex_lock(&fabric->lock);
    fabric->wish = WISH_CLOSE;
    fabric_wake_io(fabric);
    pthread_mutex_unlock(&fabric->lock);
    pthread_join(fabric->thread, NULL);
    free_fabric(fabric);
}

const char *fabric_address(const struct fabric *fabric)
{
    return fabric->address;
}

int fabric_credits(const struct fabric *fabric)
{
    return fabric->credits;
}

uint64_t fabric_largest(const struct fabric *fabric)
{
    return fabric->max_bytes;
}

void fabric_traffic(const struct fabric *fabric, struct fabric_traffic *traffic)
{
    *traffic = (struct fabric_traffic){
        .messages_sent = atomic_load(&fabric->messages_sent),
        .messages_received = atomic_load(&fabric->messages_received),
        .bytes_sent = atomic_load(&fabric->bytes_sent),
        .bytes_received = atomic_load(&fabric->bytes_received),
    };
}
