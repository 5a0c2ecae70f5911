/*
 * network.c - see network.h. One thread.
 *
 * Ports live until network_close: events on their way may still name one whose fabric was closed.
 */
#include "tools/sim/network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tools/sim/world.h"

enum { MAX_PORTS = 1024 };

#define LEAVE_NS (3 * MILLISECOND_NS) /* until a member that left on purpose is missed */

struct message {
    struct fabric *from, *to;
    uint64_t epoch, cookie;
    int64_t posted_ns;
    struct ticket ticket;
    struct message *next;             /* in a port's `early` or `held` */
    struct message *older, **younger; /* among all there are */
    void *payload;
    int holders; /* the sender until SENT; the way to the receiver, and the receiver until it is released */
};

struct note {
    struct note *next;
    struct fabric_event event;
};

struct fabric {
    int port, credits_each;
    uint64_t max_bytes;
    char address[FABRIC_ADDRESS_BYTES];
    bool closed, killed, stopped;
    int64_t since_ns; /* killed or stopped: what its turn under way would have sent later is not sent */
    int descriptor;   /* always readable: nobody ever sleeps on it here */
    void (*wake)(void *context);
    void (*wait)(void *context, int64_t deadline_ns);
    void *owner;

    uint64_t epoch; /* of the latest join */
    bool joined, over, aborted;
    uint8_t token[FABRIC_TOKEN_BYTES];
    int self, count;
    struct fabric *members[FABRIC_MAX_MEMBERS]; /* [count]; NULL: an address nobody has */
    struct peer {
        int window, credits; /* messages in flight either way at most; that may be posted now */
        int used, owed;      /* that came and whose credit is not on its way back; of those, released */
        bool starved;
    } peers[FABRIC_MAX_MEMBERS];
    struct note *first, **end;
    struct message *early; /* arrived for an epoch that is not joined here yet, newest first */
    struct message *held;  /* it would have sent them, but was stopped; newest first */
    struct fabric_traffic traffic;
    int64_t free_ns;                      /* when what was posted so far to its own node has left */
    struct network_traffic to[MAX_PORTS]; /* each port */
};

static struct network {
    struct network_config config;
    struct fabric *ports[MAX_PORTS];
    int count;
    int64_t free_ns[MAX_PORTS]; /* of each node: when what was posted so far to others has left */
    struct message *messages;   /* those with holders */
} network;

status_t network_open(const struct network_config *config, struct error *error)
{
    network = (struct network){.config = *config};
    return STATUS_OK;
}

static void message_drop(struct message *m)
{
    free(m->payload);
    m->payload = NULL;
    if (--m->holders) return;
    *m->younger = m->older;
    if (m->older) m->older->younger = m->younger;
    free(m);
}

void network_close(void)
{
    while (network.messages) {
        network.messages->holders = 1; /* the events they waited for do not happen any more */
        message_drop(network.messages);
    }
    for (int i = 0; i < network.count; i++) free(network.ports[i]);
    network = (struct network){0};
}

/* ------------------------------------------------------------------------------------------------- events */

static void push(struct fabric *f, const struct fabric_event *event)
{
    struct note *note = malloc(sizeof *note);
    if (!note) abort();
    *note = (struct note){.event = *event};
    *f->end = note;
    f->end = &note->next;
    if (f->wake) f->wake(f->owner);
}

static void end_epoch(struct fabric *f, const struct fabric_event *event)
{
    if (!f->joined || f->over) return;
    f->over = true;
    f->aborted = event->kind == FABRIC_ABORTED;
    push(f, event);
}

static void drop_events(struct fabric *f)
{
    for (struct note *note = f->first, *next; note; note = next) {
        next = note->next;
        if (note->event.kind == FABRIC_RECEIVED) message_drop(note->event.hold);
        free(note);
    }
    f->first = NULL;
    f->end = &f->first;
}

static int member_index(const struct fabric *f, const struct fabric *other)
{
    for (int i = 0; i < f->count; i++)
        if (f->members[i] == other) return i;
    return -1;
}

static bool in_epoch(const struct fabric *f, uint64_t epoch)
{
    return f->joined && !f->over && f->epoch == epoch && !f->killed;
}

/* ------------------------------------------------------------------------------------------------- losses */

/* Value: the port that went. */
static void missed(void *context, uint64_t port)
{
    struct fabric *f = context, *gone = network.ports[port];
    int index = f->joined ? member_index(f, gone) : -1;
    bool still_there = in_epoch(gone, f->epoch) && !gone->stopped;
    if (index >= 0 && !still_there && !f->killed)
        end_epoch(f, &(struct fabric_event){.kind = FABRIC_LOST, .peer = index});
}

static void let_others_miss(struct fabric *f, int64_t after_ns)
{
    if (!f->joined) return;
    for (int i = 0; i < f->count; i++)
        if (f->members[i] && f->members[i] != f)
            world_at(clock_now_ns() + after_ns, WORLD_ARRIVES, missed, f->members[i], (uint64_t)f->port);
}

void network_kill(int port)
{
    struct fabric *f = network.ports[port];
    let_others_miss(f, network.config.death_ns);
    f->killed = true;
    f->since_ns = world_now_ns();
}

void network_stop(int port)
{
    struct fabric *f = network.ports[port];
    f->stopped = true;
    f->since_ns = world_now_ns();
    let_others_miss(f, FABRIC_LOST_MS * MILLISECOND_NS);
}

static void arrive(void *message, uint64_t unused);

/* Lets a list that grew at its head arrive in the order in which it grew. */
static void arrive_all(struct message **list)
{
    struct message *oldest_first = NULL;
    for (struct message *m = *list, *next; m; m = next) {
        next = m->next;
        m->next = oldest_first;
        oldest_first = m;
    }
    *list = NULL;
    for (struct message *m = oldest_first, *next; m; m = next) {
        next = m->next;
        arrive(m, 0);
    }
}

/* Who was missed meanwhile finds that the others have gone on without him. */
void network_continue(int port)
{
    struct fabric *f = network.ports[port];
    f->stopped = false;
    for (int i = 0; f->joined && i < f->count; i++)
        if (f->members[i] && f->members[i] != f && !in_epoch(f->members[i], f->epoch))
            world_at(clock_now_ns(), WORLD_ARRIVES, missed, f, (uint64_t)f->members[i]->port);
    arrive_all(&f->held);
}

/* --------------------------------------------------------------------------------------------------- life */

status_t fabric_open(const struct fabric_config *config, struct fabric **fabric, struct error *error)
{
    if (network.count == MAX_PORTS)
        return error_set(error, STATUS_NO_MEMORY, "more than %d virtual ranks", MAX_PORTS);
    struct fabric *f = calloc(1, sizeof *f);
    if (!f) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual fabric");
    if ((f->descriptor = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        free(f);
        return error_set(error, STATUS_IO, "eventfd: %m");
    }
    f->port = network.count;
    f->credits_each = config->credits;
    f->max_bytes = config->max_bytes;
    f->end = &f->first;
    snprintf(f->address, sizeof f->address, "virtual:%d", f->port);
    network.ports[network.count++] = f;
    *fabric = f;
    return STATUS_OK;
}

void fabric_close(struct fabric *f)
{
    if (!f) return;
    fabric_leave(f);
    f->closed = true;
    f->wake = NULL;
    close(f->descriptor);
}

const char *fabric_address(const struct fabric *f)
{
    return f->address;
}

static struct fabric *find_address(const char *address)
{
    for (int i = 0; i < network.count; i++)
        if (strcmp(network.ports[i]->address, address) == 0) return network.ports[i];
    return NULL;
}

/* At the deadline of a join: who is not there is lost. */
static void look_for_members(void *context, uint64_t epoch)
{
    struct fabric *f = context;
    for (int i = 0; in_epoch(f, epoch) && i < f->count; i++)
        if (i != f->self && (!f->members[i] || !in_epoch(f->members[i], epoch) || f->members[i]->stopped))
            end_epoch(f, &(struct fabric_event){.kind = FABRIC_LOST, .peer = i});
}

status_t fabric_join(struct fabric *f, const struct fabric_membership *membership, int64_t deadline_ns,
                     struct error *error)
{
    if (f->joined) return error_set(error, STATUS_CONFLICT, "fabric: an epoch is joined already");
    if (membership->epoch <= f->epoch)
        return error_set(error, STATUS_INVALID, "fabric: epoch %lu is not newer than %lu",
                         (unsigned long)membership->epoch, (unsigned long)f->epoch);
    f->epoch = membership->epoch;
    f->self = membership->self;
    f->count = membership->count;
    memcpy(f->token, membership->token, sizeof f->token);
    for (int i = 0; i < f->count; i++) {
        f->members[i] = find_address(membership->addresses[i]);
        int theirs = f->members[i] ? f->members[i]->credits_each : 0;
        int window = theirs < f->credits_each ? theirs : f->credits_each;
        f->peers[i] = (struct peer){.window = window, .credits = window};
    }
    f->joined = true;
    f->over = f->aborted = false;
    world_at(deadline_ns, WORLD_ARRIVES, look_for_members, f, f->epoch);
    arrive_all(&f->early);
    return STATUS_OK;
}

void fabric_leave(struct fabric *f)
{
    if (!f->joined) return;
    if (!f->killed) let_others_miss(f, LEAVE_NS);
    f->joined = f->over = f->aborted = false;
    drop_events(f);
}

void fabric_abort(struct fabric *f)
{
    end_epoch(f, &(struct fabric_event){.kind = FABRIC_ABORTED, .peer = f->self});
}

/* ----------------------------------------------------------------------------------------------- messages */

static status_t report_over(const struct fabric *f, struct error *error)
{
    if (!f->joined) return error_set(error, STATUS_CONFLICT, "fabric: no epoch is joined");
    if (f->aborted)
        return error_set(error, STATUS_ABORTED, "fabric: epoch %lu was aborted", (unsigned long)f->epoch);
    return error_set(error, STATUS_PEER_LOST, "fabric: a member was lost");
}

static void sent(void *context, uint64_t unused)
{
    struct message *m = context;
    struct fabric_event event = {.kind = FABRIC_SENT, .cookie = m->cookie};
    if (in_epoch(m->from, m->epoch)) {
        event.peer = member_index(m->from, m->to);
        push(m->from, &event);
    }
    if (--m->holders == 0) { /* arrived and released already: without latency it can be */
        m->holders = 1;
        message_drop(m);
    }
}

/* Credits, as the fabric returns them (cluster/fabric_send.c): with what is sent there anyway, and by themselves when it could be
 * waited for them. Value: the epoch, the member's index, their number. */
static void credit_back(void *context, uint64_t value)
{
    struct fabric *f = context;
    struct peer *peer = &f->peers[value >> 8 & 0xffff];
    if (!in_epoch(f, value >> 24)) return;
    peer->credits += (int)(value & 0xff);
    if (peer->starved && f->wake) f->wake(f->owner);
    peer->starved = false;
}

static int64_t latency_ns(const struct fabric *from, const struct fabric *to);

/* To a member from `at_ns` on. */
static void tell_credits(struct fabric *f, int to, int64_t at_ns)
{
    struct peer *peer = &f->peers[to];
    struct fabric *other = f->members[to];
    uint64_t value = f->epoch << 24 | (uint64_t)f->self << 8 | (uint64_t)peer->owed;
    if (!peer->owed) return;
    world_at(at_ns + latency_ns(f, other), WORLD_ARRIVES, credit_back, other, value);
    peer->used -= peer->owed;
    peer->owed = 0;
}

static void tell_due_credits(struct fabric *f, int to)
{
    const struct peer *peer = &f->peers[to];
    if (peer->used > FABRIC_UNTOLD || 2 * peer->used >= peer->window) tell_credits(f, to, clock_now_ns());
}

/* What a member of the epoch sent before this one joined waits; all else that does not fit is dropped. */
static void arrive(void *context, uint64_t unused)
{
    struct message *m = context;
    struct fabric *f = m->to;
    bool never_sent = m->posted_ns > m->from->since_ns;
    if (m->from->stopped && never_sent) {
        m->next = m->from->held;
        m->from->held = m;
        return;
    }
    if (m->from->killed && never_sent) {
        message_drop(m);
        return;
    }
    if (!f->killed && !f->closed && m->epoch > f->epoch) {
        m->next = f->early;
        f->early = m;
        return;
    }
    int from = in_epoch(f, m->epoch) ? member_index(f, m->from) : -1;
    if (from < 0 || memcmp(f->token, m->from->token, sizeof f->token) != 0) {
        message_drop(m);
        return;
    }
    f->traffic.messages_received++;
    f->traffic.bytes_received += m->ticket.bytes;
    f->peers[from].used++;
    tell_due_credits(f, from);
    push(f,
         &(struct fabric_event){
             .kind = FABRIC_RECEIVED, .peer = from, .ticket = m->ticket, .payload = m->payload, .hold = m});
}

static int node_of(const struct fabric *f)
{
    return network.config.per_node ? f->port / network.config.per_node : 0;
}

static int64_t latency_ns(const struct fabric *from, const struct fabric *to)
{
    return node_of(from) == node_of(to) ? network.config.latency_ns : network.config.node_latency_ns;
}

/* A message is at its sender's way out: when has it left, and when did it begin? In the order of the moments at which they come
 * here, whoever shares that way. */
static int64_t occupy(const struct message *m, int64_t *begin_ns)
{
    bool near = node_of(m->from) == node_of(m->to);
    double rate = near ? network.config.bytes_per_second : network.config.node_bytes_per_second;
    int64_t *free_ns = near ? &m->from->free_ns : &network.free_ns[node_of(m->from)];
    double bytes =
        network.config.weigh ? network.config.weigh(&m->ticket) : (double)(m->ticket.bytes + TICKET_BYTES);
    double seconds = rate > 0 ? bytes / rate : 0;
    *begin_ns = world_now_ns() > *free_ns ? world_now_ns() : *free_ns;
    *free_ns = *begin_ns + (int64_t)(seconds * (double)SECOND_NS);
    return *free_ns;
}

static void leave(void *context, uint64_t unused)
{
    struct message *m = context;
    int64_t begin_ns, gone_ns = occupy(m, &begin_ns);
    if (in_epoch(m->from, m->epoch)) tell_credits(m->from, member_index(m->from, m->to), begin_ns);
    world_at(gone_ns, WORLD_ARRIVES, sent, m, 0);
    world_at(gone_ns + latency_ns(m->from, m->to), WORLD_ARRIVES, arrive, m, 0);
}

static struct message *make_message(struct fabric *f, struct fabric *to, const struct ticket *ticket,
                                    const void *payload, uint64_t cookie)
{
    struct message *m = calloc(1, sizeof *m);
    void *copy = aligned_alloc(64, (ticket->bytes + 64) / 64 * 64);
    if (!m || !copy) abort();
    if (ticket->bytes) memcpy(copy, payload, ticket->bytes);
    /* Through the wire's form, so that only what a ticket really carries arrives. */
    uint8_t wire[TICKET_BYTES];
    *m = (struct message){
        .from = f, .to = to, .epoch = f->epoch, .cookie = cookie, .payload = copy, .holders = 2};
    m->posted_ns = clock_now_ns();
    m->ticket = *ticket;
    m->ticket.epoch = f->epoch;
    ticket_encode(&m->ticket, wire);
    if (ticket_decode(wire, sizeof wire, &m->ticket, NULL) != STATUS_OK) abort();
    m->older = network.messages;
    m->younger = &network.messages;
    if (m->older) m->older->younger = &m->older;
    network.messages = m;
    return m;
}

status_t fabric_post(struct fabric *f, int peer, const struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error)
{
    if (!f->joined || f->over) return report_over(f, error);
    if (peer < 0 || peer >= f->count || peer == f->self || ticket->bytes > f->max_bytes ||
        (ticket->bytes && !payload))
        return error_set(error, STATUS_INVALID, "fabric: member %d of %d, %lu bytes", peer, f->count,
                         (unsigned long)ticket->bytes);
    if (f->peers[peer].credits == 0) {
        f->peers[peer].starved = true;
        return STATUS_AGAIN;
    }
    f->peers[peer].credits--;
    f->traffic.messages_sent++;
    f->traffic.bytes_sent += ticket->bytes;
    if (!f->members[peer]) return STATUS_OK; /* an address that leads nowhere: lost at the join's deadline */
    struct message *m = make_message(f, f->members[peer], ticket, payload, cookie);
    struct network_traffic *traffic = &f->to[m->to->port];
    traffic->messages++;
    traffic->hops += ticket->kind == TICKET_HOP;
    traffic->bytes += ticket->bytes;
    if (network.config.seen) network.config.seen(network.config.argument, f->port, m->to->port, &m->ticket);
    world_at(m->posted_ns, WORLD_ARRIVES, leave, m, 0);
    return STATUS_OK;
}

bool fabric_has_room(const struct fabric *f, int peer, int most)
{
    if (!f->joined || f->over || peer < 0 || peer >= f->count || peer == f->self) return false;
    struct peer *to = (struct peer *)(uintptr_t)&f->peers[peer];
    bool has = to->credits > 0 && to->window - to->credits < most;
    if (!has) to->starved = true; /* to be told of the next */
    return has;
}

int fabric_in_flight(const struct fabric *f, int peer)
{
    if (!f->joined || f->over || peer < 0 || peer >= f->count || peer == f->self) return 0;
    return f->peers[peer].window - f->peers[peer].credits;
}

bool fabric_can_post(const struct fabric *f, int peer)
{
    return fabric_has_room(f, peer, FABRIC_MAX_CREDITS);
}

status_t fabric_next(struct fabric *f, struct fabric_event *event)
{
    struct note *note = f->first;
    if (!note) return STATUS_AGAIN;
    *event = note->event;
    f->first = note->next;
    if (!f->first) f->end = &f->first;
    free(note);
    return STATUS_OK;
}

static void released(void *context, uint64_t unused)
{
    struct message *m = context;
    struct fabric *f = m->to;
    int from = in_epoch(f, m->epoch) ? member_index(f, m->from) : -1;
    message_drop(m);
    if (from < 0) return;
    f->peers[from].owed++;
    tell_due_credits(f, from);
}

void fabric_release(struct fabric *f, struct fabric_event *event)
{
    if (event->kind != FABRIC_RECEIVED || !event->hold) return;
    struct message *m = event->hold;
    event->hold = NULL;
    event->payload = NULL;
    world_at(clock_now_ns(), WORLD_ARRIVES, released, m, 0);
}

/* Who has a way to wait lets the clock go on; without one, ranks are woken and never wait. */
status_t fabric_wait(struct fabric *f, int64_t deadline_ns, struct error *error)
{
    bool may_wait = f->wait && !f->first && f->joined && !f->over && clock_now_ns() < deadline_ns;
    if (may_wait) f->wait(f->owner, deadline_ns);
    if (f->first) return STATUS_OK;
    if (!f->joined || f->over) return report_over(f, error);
    if (may_wait && clock_now_ns() < deadline_ns) return STATUS_OK; /* woken by a credit, say */
    return error_set(error, STATUS_DEADLINE, "fabric: nothing came before the deadline");
}

/* Messages lie in memory of their own here, as they may (cluster/fabric.h). */
void fabric_offer(struct fabric *f, struct fabric_place *place) {}

bool fabric_withdraw(struct fabric *f, struct fabric_place *place)
{
    return true;
}

int fabric_descriptor(const struct fabric *f)
{
    return f->descriptor;
}

int fabric_credits(const struct fabric *f)
{
    return f->credits_each;
}

uint64_t fabric_largest(const struct fabric *f)
{
    return f->max_bytes;
}

void fabric_traffic(const struct fabric *f, struct fabric_traffic *traffic)
{
    *traffic = f->traffic;
}

void network_notify(struct fabric *f, void (*wake)(void *context),
                    void (*wait)(void *context, int64_t deadline_ns), void *owner)
{
    f->wake = wake;
    f->wait = wait;
    f->owner = owner;
}

int network_port(const struct fabric *f)
{
    return f->port;
}

struct network_traffic network_traffic(int from, int to)
{
    return network.ports[from]->to[to];
}
