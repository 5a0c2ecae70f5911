/*
 * control.h - the thread between this rank and the coordinator: never blocked by compute or transfers.
 *
 *     control_start(&config, &control, &error);
 *     control_present(control, &presence);                    what Hello and heartbeats say about this rank
 *     poll on control_descriptor(control);
 *     while ((order = control_take(control))) { ...; control_free(order); }
 *     control_report(control, body, &message);
 *     control_stop(control);
 *
 * The thread owns the ZeroMQ socket, sends heartbeats (with the compute thread's progress), says Hello again
 * when a restarted coordinator asks for it, and aborts the fabric as soon as an order arrives that ends the
 * epoch, so that a compute thread waiting there wakes up. When the coordinator is out of reach for longer
 * than the orphan time-out, a Shutdown order is made up here.
 */
#ifndef REFRAIN_WORKER_CONTROL_H
#define REFRAIN_WORKER_CONTROL_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/fabric.h"
#include "proto/refrain.pb-c.h"

struct engine_pace;
struct control;

enum { PRESENCE_MAX_JOBS = 64 };

struct control_config {
    const char *coordinator;                          /* endpoint of its worker socket */
    const char *public_key, *secret_key, *server_key; /* CURVE, Z85; NULL for none */
    int64_t orphan_ns;                                /* how long to live without a coordinator */
    Refrain__Hello hello; /* the fields that do not change; strings borrowed until control_stop */
    struct fabric *fabric;
    const _Atomic uint64_t *progress;
    const _Atomic double *block_token_ns; /* mean time of a block and token; NULL: not measured */
    const struct engine_pace *paces;      /* [ENGINE_PACES]; NULL: not measured */
};

/* What changes: copied. */
struct presence {
    uint64_t epoch, last_epoch;   /* now, 0 for none; the latest it ever was in */
    uint32_t members;             /* of the epoch now; 0: none */
    uint32_t ranks;               /* of the group, as the latest epoch said; 0: as it was started */
    char model[72];               /* "" for none */
    uint32_t first_block, blocks; /* held of it */
    uint64_t weight_bytes;
    int jobs;
    struct {
        uint64_t job;
        uint32_t attempt;
    } running[PRESENCE_MAX_JOBS];
};

status_t control_start(const struct control_config *config, struct control **control, struct error *error);
void control_stop(struct control *control); /* says Goodbye, joins the thread; NULL is fine */

void control_present(struct control *control, const struct presence *presence);
Refrain__WorkerOrder *control_take(struct control *control); /* NULL when there is none */
void control_free(Refrain__WorkerOrder *order);
int control_descriptor(const struct control *control);
/* Packs and queues one report; message: the one that `body` names. A failure is logged here. */
void control_report(struct control *control, Refrain__WorkerReport__BodyCase body, void *message);

#endif
