/* probe.c - see probe.h. */
#include "worker/probe.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/control.h"
#include "worker/engine.h"

/* EMPTY: messages without a payload. Sizes grow by GROWTH from SIZE_LEAST, EACH of one size, of which the fastest counts. */
enum { EMPTY = 8, EACH = 3, GROWTH = 8 };
#define SIZE_LEAST (UINT64_C(64) << 10)
#define SIZE_MOST  (UINT64_C(32) << 20)
/* Payloads land in memory that the fabric keeps on the GPU: no larger than that of a small hop. */
#define SIZE_LANDING (UINT64_C(4) << 20)
#define LONG_NS      (4 * MILLISECOND_NS) /* a round trip that is long enough to be believed */

/* Cookies: an echo's place, and what is sent from here. Jobs and stages have smaller ones, the cache tier larger ones. */
#define COOKIE_ECHO (UINT64_MAX - (UINT64_C(1) << 20))
#define COOKIE_OWN  (COOKIE_ECHO + PROBE_ECHOES)

static uint64_t work_done(const struct engine *e)
{
    return atomic_load_explicit(&e->progress, memory_order_relaxed);
}

/* ------------------------------------------------------------------------------------------------ from here */

/* Where hops lie when they are sent. */
static enum memory memory_of(const struct engine *e)
{
    return e->lends ? MEMORY_DEVICE : MEMORY_SHARED;
}

static uint64_t largest(const struct engine *e)
{
    uint64_t most = e->lends ? SIZE_LANDING : SIZE_MOST, allowed = fabric_largest(e->fabric);
    return most < allowed ? most : allowed;
}

/* What the fabric still reads stays until it says so, or the epoch ends. */
static void drop_payload(struct probe *p, struct engine *e)
{
    if (p->lent || !p->payload) return;
    e->ops->release(memory_of(e), p->payload);
    p->payload = NULL;
    p->touched = 0;
}

static void finish(struct probe *p, double bytes_per_second)
{
    struct engine *e = p->engine;
    Refrain__LinkMeasured measured = REFRAIN__LINK_MEASURED__INIT;
    measured.has_epoch = measured.has_peer = measured.has_bytes_per_second = measured.has_latency = 1;
    measured.epoch = e->epoch;
    measured.peer = (uint32_t)p->peer;
    measured.bytes_per_second = bytes_per_second;
    measured.latency = bytes_per_second > 0 ? (double)p->latency_ns / 2 / SECOND_NS : 0;
    control_report(p->control, REFRAIN__WORKER_REPORT__BODY_LINK_MEASURED, &measured);
    p->engine = NULL;
    p->waits = false;
    drop_payload(p, e);
}

static void give_up(struct probe *p, const char *why)
{
    log_line(LOG_DEBUG, "the link to member %d was not measured: %s", p->peer, why);
    finish(p, 0);
}

static status_t make_payload(struct probe *p, struct error *error)
{
    struct engine *e = p->engine;
    status_t status = STATUS_OK;
    if (p->bytes <= p->touched) return STATUS_OK;
    if (!p->payload) status = e->ops->allocate(memory_of(e), largest(e), &p->payload, error);
    if (status != STATUS_OK) return status;
    /* Real pages: those nobody wrote to are all the same one. */
    if (!e->lends) memset((char *)p->payload + p->touched, 1, p->bytes - p->touched);
    p->touched = p->bytes;
    return STATUS_OK;
}

static void send(struct probe *p)
{
    struct engine *e = p->engine;
    struct error error;
    struct ticket ticket = {.kind = TICKET_PROBE,
                            .context = p->number,
                            .step = (uint32_t)p->round,
                            .dtype = p->bytes ? TICKET_RAW : TICKET_NO_DATA,
                            .bytes = p->bytes};
    status_t status = make_payload(p, &error);
    if (status != STATUS_OK) {
        give_up(p, error.text);
        return;
    }
    p->sent_ns = clock_now_ns();
    status = engine_post(e, p->peer, &ticket, p->bytes ? p->payload : NULL, COOKIE_OWN, &error);
    p->waits = status == STATUS_AGAIN;
    if (status == STATUS_OK)
        p->lent++;
    else if (status != STATUS_AGAIN)
        give_up(p, error.text); /* the epoch is over, and its owner hears of that */
}

/* The largest size that was sent decides, less the latency: what a small message loses to it is not the link's. */
static double bandwidth(const struct probe *p)
{
    int64_t way_ns = (p->best_ns - p->latency_ns) / 2;
    return (double)p->bytes / (double)(way_ns > 1 ? way_ns : 1) * SECOND_NS;
}

static void next_message(struct probe *p)
{
    p->round++;
    if (p->round < EMPTY || (p->round - EMPTY) % EACH != 0) {
        send(p);
        return;
    }
    uint64_t larger = p->bytes ? p->bytes * GROWTH : SIZE_LEAST;
    if (larger > largest(p->engine) && p->bytes == 0) larger = largest(p->engine);
    bool enough = p->bytes && (p->best_ns > LONG_NS || larger > largest(p->engine));
    if (enough) {
        finish(p, bandwidth(p));
        return;
    }
    p->bytes = larger;
    p->best_ns = INT64_MAX;
    send(p);
}

void probe_begin(struct probe *p, struct engine *engine, struct control *control, const Refrain__Probe *order)
{
    if (p->engine) give_up(p, "another one was asked for");
    if (!engine->fabric || !engine->epoch || order->epoch != engine->epoch ||
        order->peer >= (uint32_t)engine->members || (int)order->peer == engine->self)
        return;
    p->engine = engine;
    p->control = control;
    p->peer = (int)order->peer;
    p->number++;
    p->deadline_ns = clock_now_ns() + PROBE_LIMIT_MS * MILLISECOND_NS;
    p->round = 0;
    p->bytes = 0;
    p->latency_ns = p->best_ns = INT64_MAX;
    p->here = work_done(engine);
    send(p);
}

static void take_echo(struct probe *p, const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    int64_t took_ns = clock_now_ns() - p->sent_ns;
    if (!p->engine || event->peer != p->peer || t->context != p->number || t->step != (uint32_t)p->round)
        return;
    if (p->round == 0) p->there = t->trace;
    if (p->here != work_done(p->engine) || p->there != t->trace) {
        give_up(p, "one of the two had work to do");
        return;
    }
    if (took_ns < p->best_ns) p->best_ns = took_ns;
    if (p->bytes == 0) p->latency_ns = p->best_ns;
    next_message(p);
}

/* -------------------------------------------------------------------------------------------- from elsewhere */

/* Sent back as it is, where it lies. Without room or a credit it is not: the other one's patience ends. */
static void send_back(struct probe *p, struct engine *e, struct fabric_event *event)
{
    struct ticket ticket = event->ticket;
    struct error error;
    int place = 0;
    while (place < PROBE_ECHOES && p->echo[place].taken) place++;
    ticket.kind = TICKET_PROBED;
    ticket.trace = work_done(e);
    bool sent = place < PROBE_ECHOES && engine_post(e, event->peer, &ticket, event->payload,
                                                    COOKIE_ECHO + (uint64_t)place, &error) == STATUS_OK;
    if (sent)
        p->echo[place] = (struct probe_echo){.event = *event, .taken = true};
    else
        fabric_release(e->fabric, event);
}

static void echo_sent(struct probe *p, struct engine *e, uint64_t place)
{
    struct probe_echo *echo = &p->echo[place];
    if (echo->taken) fabric_release(e->fabric, &echo->event);
    echo->taken = false;
}

/* --------------------------------------------------------------------------------------------------- the loop */

bool probe_concerns(const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) return event->cookie >= COOKIE_ECHO && event->cookie <= COOKIE_OWN;
    return event->kind == FABRIC_RECEIVED &&
           (event->ticket.kind == TICKET_PROBE || event->ticket.kind == TICKET_PROBED);
}

void probe_event(struct probe *p, struct engine *e, struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT && event->cookie < COOKIE_OWN) {
        echo_sent(p, e, event->cookie - COOKIE_ECHO);
    } else if (event->kind == FABRIC_SENT) {
        if (p->lent > 0) p->lent--;
        if (!p->engine) drop_payload(p, e);
    } else if (event->ticket.kind == TICKET_PROBE) {
        send_back(p, e, event);
    } else {
        take_echo(p, event);
        fabric_release(e->fabric, event);
    }
}

void probe_tend(struct probe *p, int64_t *deadline_ns)
{
    if (!p->engine) return;
    if (clock_now_ns() >= p->deadline_ns)
        give_up(p, "it took too long");
    else if (p->waits)
        send(p);
    if (p->engine && p->deadline_ns < *deadline_ns) *deadline_ns = p->deadline_ns;
}

void probe_leave(struct probe *p, struct engine *e)
{
    for (int i = 0; i < PROBE_ECHOES; i++) echo_sent(p, e, (uint64_t)i);
    p->engine = NULL;
    p->waits = false;
    p->lent = 0;
    drop_payload(p, e);
}
