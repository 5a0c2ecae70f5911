/*
 * heartbeat.h - what a rank's blocks take, as its heartbeats say it.
 *
 *     struct heartbeat_paces paces;
 *     heartbeat_paces(engine->paces, &paces, &heartbeat);       the message borrows from `paces`
 */
#ifndef REFRAIN_WORKER_HEARTBEAT_H
#define REFRAIN_WORKER_HEARTBEAT_H

#include "proto/refrain.pb-c.h"
#include "worker/engine.h"

struct heartbeat_paces {
    Refrain__BlockPace pace[ENGINE_PACES], *list[ENGINE_PACES];
};

/* engine: [ENGINE_PACES], written meanwhile by the compute thread; NULL: nothing is said. Any thread. */
void heartbeat_paces(const struct engine_pace *engine, struct heartbeat_paces *paces,
                     Refrain__Heartbeat *heartbeat);

#endif
