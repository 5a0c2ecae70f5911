/*
 * circle.c - see circle.h. The fabric's owner's thread; no locks.
 *
 * Parts of a circle's peer come in the order of their exchanges, because an edge keeps its order. A peer can be ahead of
 * this member, but not by more than KEPT: it begins a CIRCLE_ROUNDS-th exchange beyond one of which this member's part
 * has come, and this member may have that many begun and not taken.
 */
#include "cluster/circle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { KEPT = 2 * CIRCLE_ROUNDS };

/* The purposes of what is made in here; the callers' are below. */
#define PURPOSE_SUM         UINT32_C(0xfffffffe)
#define PURPOSE_CONCATENATE UINT32_C(0xffffffff)

struct part_out {
    const void *payload;
    uint64_t bytes;
    bool sent;
};

struct exchange {
    struct circle *circle;
    uint64_t number; /* from 1 on */
    bool under_way;
    uint32_t purpose;
    enum ticket_dtype dtype;
    bool on_device;
    struct part_out out[CIRCLE_MEMBERS];
    uint64_t take_bytes[CIRCLE_MEMBERS];
    bool taken[CIRCLE_MEMBERS];
};

/* What is known of the member at a place. */
struct neighbour {
    int member;
    uint64_t posted, came;          /* numbers of the last exchange a part was posted for, and came for */
    struct fabric_event kept[KEPT]; /* by number; kind 0: none */
};

struct circle {
    struct circles *circles; /* NULL: dropped */
    struct circle *next;
    uint64_t number;
    int id; /* names it in cookies */
    int count, place;
    uint64_t begun; /* exchanges so far */
    struct exchange exchanges[CIRCLE_ROUNDS];
    struct neighbour neighbours[];
};

/* Events that are the owner's, and came while it waited in here. */
struct waiting {
    struct waiting *next;
    struct fabric_event event;
};

struct circles {
    struct fabric *fabric;
    struct circle *first;
    int ids;
    struct waiting *oldest, **newest_end;
    struct error refusal; /* status STATUS_OK: none */
};

/* --------------------------------------------------------------------------------------------- all circles */

status_t circles_open(struct fabric *fabric, struct circles **circles, struct error *error)
{
    struct circles *c = calloc(1, sizeof *c);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "no memory for circles of members");
    c->fabric = fabric;
    c->newest_end = &c->oldest;
    *circles = c;
    return STATUS_OK;
}

void circles_drop(struct circles *c)
{
    if (!c) return;
    for (struct circle *circle = c->first; circle; circle = circle->next) {
        for (int p = 0; p < circle->count; p++)
            for (int i = 0; i < KEPT; i++) fabric_release(c->fabric, &circle->neighbours[p].kept[i]);
        circle->circles = NULL;
    }
    while (c->oldest) {
        struct waiting *w = c->oldest;
        c->oldest = w->next;
        fabric_release(c->fabric, &w->event);
        free(w);
    }
    *c = (struct circles){.fabric = c->fabric, .ids = c->ids, .newest_end = &c->oldest};
}

void circles_close(struct circles *c)
{
    circles_drop(c);
    free(c);
}

status_t circles_check(const struct circles *c, struct error *error)
{
    if (c->refusal.status != STATUS_OK && error) *error = c->refusal;
    return c->refusal.status;
}

/* --------------------------------------------------------------------------------------------- what arrives */

static void refuse(struct circles *c, struct fabric_event *event, const char *why)
{
    const struct ticket *t = &event->ticket;
    if (c->refusal.status == STATUS_OK)
        error_set(&c->refusal, STATUS_CORRUPT,
                  "member %d sent part %" PRIu64 " of %" PRIu64 " bytes to circle %" PRIu64 ": %s",
                  event->peer, t->sequence, t->bytes, t->context, why);
    fabric_release(c->fabric, event);
}

static struct exchange *exchange_numbered(struct circle *circle, uint64_t number)
{
    struct exchange *x = &circle->exchanges[number % CIRCLE_ROUNDS];
    return x->under_way && x->number == number ? x : NULL;
}

/* What is wrong with a part of an exchange that has begun here, or NULL. */
static const char *misfit(const struct exchange *x, int place, const struct ticket *t)
{
    if (t->step != x->purpose) return "it is for something else than what is done here";
    if (t->bytes != x->take_bytes[place]) return "another size was expected";
    bool on_device = t->flags & TICKET_ON_DEVICE;
    if (t->bytes > 0 && (t->dtype != x->dtype || on_device != x->on_device))
        return "it is of another type or in other memory than expected";
    return NULL;
}

static void take_part(struct circles *c, struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    struct circle *circle = c->first;
    int place = 0;
    while (circle && circle->number != t->context) circle = circle->next;
    while (circle && place < circle->count && circle->neighbours[place].member != event->peer) place++;
    if (!circle || place == circle->count) {
        refuse(c, event, circle ? "it is not of that circle" : "there is no such circle here");
        return;
    }
    struct neighbour *from = &circle->neighbours[place];
    struct fabric_event *keep = &from->kept[t->sequence % KEPT];
    const struct exchange *x = exchange_numbered(circle, t->sequence);
    const char *wrong = NULL;
    if (t->sequence <= from->came)
        wrong = "it comes late or twice";
    else if (t->sequence != from->came + 1)
        wrong = "parts before it are missing";
    else if (keep->kind)
        wrong = "it is further ahead than can be";
    else if (x)
        wrong = misfit(x, place, t);
    if (wrong) {
        refuse(c, event, wrong);
        return;
    }
    from->came++;
    *keep = *event;
}

/* The circle may have been dropped or destroyed since. */
static void take_sent(struct circles *c, const struct fabric_event *event)
{
    int id = (int)(event->cookie >> 48 & 0x3fff);
    struct circle *circle = c->first;
    while (circle && circle->id != id) circle = circle->next;
    struct exchange *x = circle ? exchange_numbered(circle, event->cookie & ((UINT64_C(1) << 48) - 1)) : NULL;
    for (int p = 0; x && p < circle->count; p++)
        if (circle->neighbours[p].member == event->peer) x->out[p].sent = true;
}

/* Is it a circle's own? Then it has been seen to. */
static bool sort(struct circles *c, struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT && event->cookie >> CIRCLE_COOKIE_BITS == CIRCLE_COOKIE) {
        take_sent(c, event);
        return true;
    }
    if (event->kind != FABRIC_RECEIVED || event->ticket.kind != TICKET_PART) return false;
    if (c->refusal.status != STATUS_OK)
        fabric_release(c->fabric, event);
    else
        take_part(c, event);
    return true;
}

status_t circles_next(struct circles *c, struct fabric_event *event)
{
    struct waiting *w = c->oldest;
    if (w) {
        c->oldest = w->next;
        if (!c->oldest) c->newest_end = &c->oldest;
        *event = w->event;
        free(w);
        return STATUS_OK;
    }
    while (fabric_next(c->fabric, event) == STATUS_OK)
        if (!sort(c, event)) return STATUS_OK;
    return STATUS_AGAIN;
}

/* Takes in all events there are; false: there was none. */
static bool take_all(struct circles *c)
{
    struct fabric_event event;
    bool some = false;
    for (; fabric_next(c->fabric, &event) == STATUS_OK; some = true) {
        if (sort(c, &event)) continue;
        struct waiting *w = malloc(sizeof *w);
        if (!w) {
            error_set(&c->refusal, STATUS_NO_MEMORY, "no memory for an event of the fabric");
            fabric_release(c->fabric, &event);
            continue;
        }
        *w = (struct waiting){.event = event};
        *c->newest_end = w;
        c->newest_end = &w->next;
    }
    return some;
}

/* ------------------------------------------------------------------------------------------------- a circle */

status_t circle_create(struct circles *c, uint64_t number, const int *members, int count, int self,
                       struct circle **circle, struct error *error)
{
    if (count < 1 || count > CIRCLE_MEMBERS)
        return error_set(error, STATUS_INVALID, "a circle of %d members, allowed are 1 to %d", count,
                         CIRCLE_MEMBERS);
    for (const struct circle *other = c->first; other; other = other->next)
        if (other->number == number)
            return error_set(error, STATUS_CONFLICT, "a second circle of number %" PRIu64, number);
    struct circle *made = calloc(1, sizeof *made + (size_t)count * sizeof *made->neighbours);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a circle of %d members", count);
    made->circles = c;
    made->number = number;
    made->id = c->ids++ & 0x3fff;
    made->count = count;
    made->place = -1;
    for (int p = 0; p < count; p++) {
        made->neighbours[p].member = members[p];
        if (members[p] == self) made->place = p;
    }
    if (made->place < 0) {
        free(made);
        return error_set(error, STATUS_INVALID, "a circle without this member");
    }
    made->next = c->first;
    c->first = made;
    *circle = made;
    return STATUS_OK;
}

void circle_destroy(struct circle *circle)
{
    if (!circle) return;
    struct circles *c = circle->circles;
    for (struct circle **at = c ? &c->first : NULL; at && *at; at = &(*at)->next) {
        if (*at != circle) continue;
        *at = circle->next;
        break;
    }
    for (int p = 0; c && p < circle->count; p++)
        for (int i = 0; i < KEPT; i++) fabric_release(c->fabric, &circle->neighbours[p].kept[i]);
    free(circle);
}

int circle_count(const struct circle *circle)
{
    return circle->count;
}

int circle_place(const struct circle *circle)
{
    return circle->place;
}

/* ---------------------------------------------------------------------------------------------- an exchange */

static status_t post_part(struct circle *circle, const struct exchange *x, int place, struct error *error)
{
    const struct part_out *out = &x->out[place];
    struct ticket t = {.kind = TICKET_PART,
                       .dtype = (uint16_t)(out->bytes ? x->dtype : TICKET_NO_DATA),
                       .context = circle->number,
                       .sequence = x->number,
                       .step = x->purpose,
                       .flags = out->bytes && x->on_device ? TICKET_ON_DEVICE : 0,
                       .bytes = out->bytes};
    uint64_t cookie = CIRCLE_COOKIE << CIRCLE_COOKIE_BITS | (uint64_t)circle->id << 48 | x->number;
    return fabric_post(circle->circles->fabric, circle->neighbours[place].member, &t, out->payload, cookie,
                       error);
}

/* Posts what is begun and not posted yet, as far as there are credits. */
static status_t post_parts(struct circle *circle, struct error *error)
{
    for (int p = 0; p < circle->count; p++) {
        struct neighbour *to = &circle->neighbours[p];
        while (p != circle->place && to->posted < circle->begun) {
            /* It is under way: it cannot have ended before its parts are sent. */
            const struct exchange *x = &circle->exchanges[(to->posted + 1) % CIRCLE_ROUNDS];
            status_t status = post_part(circle, x, p, error);
            if (status == STATUS_AGAIN) break;
            if (status != STATUS_OK) return status;
            to->posted++;
        }
    }
    return STATUS_OK;
}

/* Why nothing of this circle works any more, if so. */
static status_t check(const struct circle *circle, struct error *error)
{
    if (!circle->circles) return error_set(error, STATUS_ABORTED, "the circle's epoch is over");
    return circles_check(circle->circles, error);
}

status_t circle_begin(struct circle *circle, const struct circle_parts *parts, struct exchange **exchange,
                      struct error *error)
{
    status_t status = check(circle, error);
    if (status != STATUS_OK) return status;
    uint64_t number = circle->begun + 1;
    struct exchange *x = &circle->exchanges[number % CIRCLE_ROUNDS];
    if (x->under_way)
        return error_set(error, STATUS_CONFLICT, "more than %d exchanges of a circle under way",
                         CIRCLE_ROUNDS);
    *x = (struct exchange){.circle = circle,
                           .number = number,
                           .under_way = true,
                           .purpose = parts->purpose,
                           .dtype = parts->dtype,
                           .on_device = parts->on_device};
    for (int p = 0; p < circle->count; p++) {
        bool own = p == circle->place;
        x->out[p] = (struct part_out){
            .payload = own ? NULL : parts->give[p], .bytes = own ? 0 : parts->give_bytes[p], .sent = own};
        x->take_bytes[p] = own ? 0 : parts->take_bytes[p];
        x->taken[p] = own;
    }
    circle->begun = number;
    /* What came before it was expected. */
    for (int p = 0; p < circle->count; p++) {
        struct fabric_event *kept = &circle->neighbours[p].kept[number % KEPT];
        const char *wrong = kept->kind ? misfit(x, p, &kept->ticket) : NULL;
        if (!wrong) continue;
        refuse(circle->circles, kept, wrong);
        kept->kind = 0;
    }
    status = check(circle, error);
    if (status == STATUS_OK) status = post_parts(circle, error);
    if (status != STATUS_OK) {
        x->under_way = false;
        return status;
    }
    *exchange = x;
    return STATUS_OK;
}

/* Lets things happen until `done` holds, for a place or for all. */
static status_t wait_until(struct exchange *x, bool (*done)(const struct exchange *x, int place), int place,
                           int64_t deadline_ns, const char *what, struct error *error)
{
    struct circle *circle = x->circle;
    for (;;) {
        status_t status = check(circle, error);
        if (status == STATUS_OK && done(x, place)) return STATUS_OK;
        if (status == STATUS_OK) status = post_parts(circle, error);
        if (status == STATUS_OK && take_all(circle->circles)) continue;
        if (status == STATUS_OK) status = fabric_wait(circle->circles->fabric, deadline_ns, error);
        if (status == STATUS_DEADLINE)
            return error_set(error, status, "circle %" PRIu64 ": part %" PRIu64 " %s member %d in time",
                             circle->number, x->number, what, circle->neighbours[place].member);
        if (status != STATUS_OK) return status;
    }
}

static bool has_come(const struct exchange *x, int place)
{
    return x->circle->neighbours[place].came >= x->number;
}

static bool was_sent(const struct exchange *x, int place)
{
    return x->out[place].sent;
}

bool exchange_ready(struct exchange *x, int place)
{
    if (check(x->circle, NULL) != STATUS_OK) return false;
    take_all(x->circle->circles);
    return post_parts(x->circle, NULL) == STATUS_OK && has_come(x, place);
}

status_t exchange_take(struct exchange *x, int place, int64_t deadline_ns, struct fabric_event *event,
                       struct error *error)
{
    if (place < 0 || place >= x->circle->count || x->taken[place])
        return error_set(error, STATUS_INVALID, "circle: the part from place %d is not to be taken", place);
    status_t status = wait_until(x, has_come, place, deadline_ns, "did not come from", error);
    if (status != STATUS_OK) return status;
    struct fabric_event *kept = &x->circle->neighbours[place].kept[x->number % KEPT];
    *event = *kept;
    kept->kind = 0;
    x->taken[place] = true;
    return STATUS_OK;
}

status_t exchange_end(struct exchange *x, int64_t deadline_ns, struct error *error)
{
    status_t status = STATUS_OK;
    for (int p = 0; p < x->circle->count && status == STATUS_OK; p++) {
        if (!x->taken[p])
            status = error_set(error, STATUS_CONFLICT, "circle: the part from place %d was not taken", p);
        else
            status = wait_until(x, was_sent, p, deadline_ns, "was not sent to", error);
    }
    x->under_way = false;
    return status;
}

/* ---------------------------------------------------------------------------------------- made of exchanges */

/* The same bytes to everybody. */
static status_t begin_same(struct circle *circle, uint32_t purpose, enum ticket_dtype dtype, const void *mine,
                           uint64_t bytes, const uint64_t *take_bytes, struct exchange **exchange,
                           struct error *error)
{
    const void *give[CIRCLE_MEMBERS];
    uint64_t give_bytes[CIRCLE_MEMBERS];
    for (int p = 0; p < circle->count; p++) {
        give[p] = mine;
        give_bytes[p] = bytes;
    }
    const struct circle_parts parts = {
        .purpose = purpose, .dtype = dtype, .give = give, .give_bytes = give_bytes, .take_bytes = take_bytes};
    return circle_begin(circle, &parts, exchange, error);
}

status_t circle_sum(struct circle *circle, const float *mine, int count, int64_t deadline_ns, float *sum,
                    struct error *error)
{
    struct exchange *x;
    struct fabric_event event;
    uint64_t bytes[CIRCLE_MEMBERS];
    if (count < 1) return error_set(error, STATUS_INVALID, "a sum of %d numbers", count);
    for (int p = 0; p < circle->count; p++) bytes[p] = (uint64_t)count * sizeof *mine;
    status_t status = begin_same(circle, PURPOSE_SUM, TICKET_F32, mine, bytes[0], bytes, &x, error);
    if (status != STATUS_OK) return status;
    memset(sum, 0, bytes[0]);
    for (int p = 0; p < circle->count; p++) {
        bool own = p == circle->place;
        if (!own) status = exchange_take(x, p, deadline_ns, &event, error);
        if (status != STATUS_OK) return status;
        const float *theirs = own ? mine : event.payload;
        for (int i = 0; i < count; i++) sum[i] += theirs[i];
        if (!own) fabric_release(circle->circles->fabric, &event);
    }
    return exchange_end(x, deadline_ns, error);
}

status_t circle_concatenate(struct circle *circle, const void *mine, const uint64_t *bytes,
                            int64_t deadline_ns, void *all, struct error *error)
{
    struct exchange *x;
    struct fabric_event event;
    char *at = all;
    status_t status =
        begin_same(circle, PURPOSE_CONCATENATE, TICKET_F32, mine, bytes[circle->place], bytes, &x, error);
    if (status != STATUS_OK) return status;
    for (int p = 0; p < circle->count; at += bytes[p++]) {
        bool own = p == circle->place;
        if (!own) status = exchange_take(x, p, deadline_ns, &event, error);
        if (status != STATUS_OK) return status;
        if (bytes[p]) memcpy(at, own ? mine : event.payload, bytes[p]);
        if (!own) fabric_release(circle->circles->fabric, &event);
    }
    return exchange_end(x, deadline_ns, error);
}
