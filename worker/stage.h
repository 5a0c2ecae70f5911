/*
 * stage.h - a rank's run of the ring: receives a ticket, runs its blocks, passes both on.
 *
 *     stage_create(&engine, &stage, &error);
 *     stage_event(stage, &event);              one event of the fabric
 *     stage_advance(stage, &worked, &error)    takes one ticket; *worked when it did something
 *
 * It decides nothing, so it cannot disagree with anybody. What it keeps per job is a context: keys and values
 * of the text for its own blocks, made by OPEN (one for each branch and expert), ended by CLOSE. Jobs of its own rank's home need none: home
 * lends it theirs (engine_lend).
 *
 * Which ticket is next: of those that can be worked on the one with the highest priority; where homes float, of these one
 * of a job that began earlier (share_elder); of these the oldest. A ticket never overtakes an older one of the same context, but for an OPEN, which hops may wait
 * for. A hop cannot be worked on while it could not be sent on (no credit, no buffer), and while its
 * context's OPEN, which comes another way than the hop, has not arrived.
 *
 * The members of a wide stage work on each hop together, so they have to take hops in one order, whoever sent them and
 * whenever they arrived. That order is the first member's: it chooses as above, and tells the others with a TURN before it
 * begins; they take the hops that they were told, one after the other, and wait for each to arrive. For this nothing may
 * keep one of them from a hop that the others work on: home sends hops only when all have answered OPEN by OPENED (what a
 * job needs of memory is there then), and CLOSE only when no hop is out.
 */
#ifndef REFRAIN_WORKER_STAGE_H
#define REFRAIN_WORKER_STAGE_H

#include "worker/engine.h"

struct stage;

/* The engine's place in the ring must be known; the model may still change. */
status_t stage_create(struct engine *engine, struct stage **stage, struct error *error);
/* Drops all contexts and hops; call after fabric_leave. NULL is fine. */
void stage_destroy(struct stage *stage);
/* Drops all contexts: another model comes. NULL is fine. */
void stage_forget(struct stage *stage);

/* Of the buffers for hops. */
size_t stage_buffer_bytes(const struct stage *stage, enum memory kind);

/* Is an event of the fabric the stage's, or home's? For ranks that are both. */
bool stage_concerns(const struct fabric_event *event);
/* Takes over a RECEIVED or SENT event (a received payload is released when its work is done). */
void stage_event(struct stage *stage, const struct fabric_event *event);

/* The priority of the ticket that would be worked on now; -1: there is none. */
int stage_next(struct stage *stage);
/* Does one piece of work if there is one. *worked says so. An error means the epoch is over. */
status_t stage_advance(struct stage *stage, bool *worked, struct error *error);

/* Cookies of a stage's posts are below this, those of jobs are not. */
enum { STAGE_COOKIES = 16 };

#endif
