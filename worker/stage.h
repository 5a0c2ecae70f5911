/*
 * stage.h - a rank that is not home: receives a ticket, runs its blocks, passes both on.
 *
 *     stage_create(&engine, &stage, &error);
 *     stage_event(stage, &event, &error);      one event of the fabric
 *     stage_advance(stage, &error)             computes at most one hop; true when it did something
 *
 * It decides nothing, so it cannot disagree with anybody. What it keeps per job is a context: keys and values
 * of the text for its own blocks, made by OPEN, ended by CLOSE.
 */
#ifndef REFRAIN_WORKER_STAGE_H
#define REFRAIN_WORKER_STAGE_H

#include "worker/engine.h"

struct stage;

status_t stage_create(struct engine *engine, struct stage **stage, struct error *error);
/* Drops all contexts and hops; call after fabric_leave. NULL is fine. */
void stage_destroy(struct stage *stage);

/* Takes over a RECEIVED or SENT event (a received payload is released when its work is done). */
void stage_event(struct stage *stage, const struct fabric_event *event);

/* Does one piece of work if there is one. *worked says so. An error means the epoch is over. */
status_t stage_advance(struct stage *stage, bool *worked, struct error *error);

#endif
