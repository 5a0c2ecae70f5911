/*
 * circle.h - what some members of an epoch do together: everybody gives everybody else a part, or adds up, or puts
 * side by side.
 *
 *     circles_open(fabric, &circles, &error);                     once; then events are taken from it:
 *     while (circles_next(circles, &event) == STATUS_OK) ...      fabric_next, without what is a circle's own
 *     circle_create(circles, 7, (const int[]){2, 3}, 2, self, &circle, &error);      on members 2 and 3
 *
 *     circle_begin(circle, &parts, &exchange, &error);            the parts leave; compute meanwhile
 *     exchange_take(exchange, place, deadline_ns, &event, &error);                   the part from that place
 *     fabric_release(fabric, &event);
 *     exchange_end(exchange, deadline_ns, &error);                what was given is the caller's again
 *
 * Made of fabric_post and fabric_next alone, so it works over every fabric, with its credits, losses and aborts, for
 * payloads on the host and in device memory. A circle's members are numbered by their places. All of them make the same
 * exchanges in the same order, each with a number that travels in the part's ticket (TICKET_PART: `context` is the
 * circle's number, `sequence` the exchange's, `step` what it is for). What comes late, twice, from a stranger, for another
 * purpose or in another size is refused with a sentence, and then nothing of the circles works any more: what one member
 * computes from wrong parts the others would believe.
 *
 * Up to CIRCLE_ROUNDS exchanges of a circle may be under way, ended in any order. A part that comes before its exchange
 * has begun here is kept, with its sender's credit. While a member waits in here, events that are not a circle's wait
 * for circles_next in their order, and the fabric's I/O thread keeps up heartbeats. A wait ends with STATUS_PEER_LOST or
 * STATUS_ABORTED when the epoch does (the fabric's own event tells more, and follows), with STATUS_DEADLINE, or with
 * STATUS_CORRUPT after a refusal. Any of them ends the epoch for its owner: fabric_leave, circles_drop.
 *
 * All calls are the fabric's owner's; there are no locks.
 */
#ifndef REFRAIN_CLUSTER_CIRCLE_H
#define REFRAIN_CLUSTER_CIRCLE_H

#include "cluster/fabric.h"

struct circles;
struct circle;
struct exchange;

enum { CIRCLE_MEMBERS = 64, CIRCLE_ROUNDS = 8 };

/* Cookies of parts begin with these two bits; those of the owner's own posts may not. */
#define CIRCLE_COOKIE_BITS 62
#define CIRCLE_COOKIE      UINT64_C(2)

status_t circles_open(struct fabric *fabric, struct circles **circles, struct error *error);
/* Before fabric_close; NULL is fine. */
void circles_close(struct circles *circles);
/* With fabric_leave: all circles are gone, what they kept is released, a refusal is forgotten. */
void circles_drop(struct circles *circles);

/* The next event that is not a circle's own; STATUS_AGAIN: there is none. After a refusal everything still comes. */
status_t circles_next(struct circles *circles, struct fabric_event *event);
/* What was refused, if something was: for owners that take events and are in no wait. STATUS_OK: nothing. */
status_t circles_check(const struct circles *circles, struct error *error);

/* members: [count], 1..CIRCLE_MEMBERS different indices of the epoch, the same list on all of them, `self`, this member,
 * among them. No two circles of an epoch have the same number. A part may come as soon as one member has created its circle:
 * all have to before any begins. */
status_t circle_create(struct circles *circles, uint64_t number, const int *members, int count, int self,
                       struct circle **circle, struct error *error);
/* Of which no exchange is under way, or after circles_drop made it void. NULL is fine. */
void circle_destroy(struct circle *circle);
int circle_count(const struct circle *circle);
int circle_place(const struct circle *circle); /* of this member */

struct circle_parts {
    uint32_t purpose;        /* the same on all members */
    enum ticket_dtype dtype; /* of the parts that are not empty */
    bool on_device;          /* the payloads; here and there: TICKET_ON_DEVICE */
    const void *const
        *give; /* [count]: to each place, the circle's until exchange_end; the own is not looked at */
    const uint64_t *give_bytes, *take_bytes; /* [count]: any of them may be 0 */
};

/* Nothing blocks; the arrays are copied. STATUS_CONFLICT: CIRCLE_ROUNDS are under way. */
status_t circle_begin(struct circle *circle, const struct circle_parts *parts, struct exchange **exchange,
                      struct error *error);
/* Has the part from that place come? Takes in what the fabric has, and sends what could not be sent before. */
bool exchange_ready(struct exchange *exchange, int place);
/* Waits for the part from that place, once each, the own excepted: event->payload has event->ticket.bytes bytes, until
 * fabric_release. */
status_t exchange_take(struct exchange *exchange, int place, int64_t deadline_ns, struct fabric_event *event,
                       struct error *error);
/* All parts were taken; waits until all are sent. The exchange is gone, also if that fails. */
status_t exchange_end(struct exchange *exchange, int64_t deadline_ns, struct error *error);

/* sum[i] = the members' mine[i], added in the order of places: the same bits everywhere. Of memory of the host; sum may
 * not be mine. Waits. For few numbers: each member sends all of them to all others. */
status_t circle_sum(struct circle *circle, const float *mine, int count, int64_t deadline_ns, float *sum,
                    struct error *error);
/* all: the members' bytes side by side in the order of places, bytes[place] from each; mine lies outside. Members that
 * hold tokens in that order so put sums of single tokens (kernels/ops.h, reduce2) into token order. Waits. */
status_t circle_concatenate(struct circle *circle, const void *mine, const uint64_t *bytes,
                            int64_t deadline_ns, void *all, struct error *error);

#endif
