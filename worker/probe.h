/*
 * probe.h - how fast the link to another rank is: its bandwidth and latency, by a few messages there and back.
 *
 *     probe_begin(&r->probe, r->engine, control, order->probe);           the coordinator wants to know it
 *     if (probe_concerns(&event)) probe_event(&r->probe, &event);         on both ranks
 *     probe_tend(&r->probe, &deadline_ns);
 *     probe_leave(&r->probe);                                             after fabric_leave
 *
 * One message at a time: empty ones, whose shortest way there and back is twice the latency, then growing ones, until a
 * round trip takes long against it. They take the way of hops, through both ranks' loops and, where the fabric carries
 * tensors of GPUs, from GPU to GPU. The other rank sends each back as it came. Who is measured, and when nothing else
 * disturbs it, is the coordinator's business (coordinator/planner/links.h); a rank that worked meanwhile says so, and the
 * measurement is none.
 *
 * Ends by its deadline with a LinkMeasured, of no bandwidth if it came to nothing. Compute thread.
 */
#ifndef REFRAIN_WORKER_PROBE_H
#define REFRAIN_WORKER_PROBE_H

#include "cluster/fabric.h"
#include "proto/refrain.pb-c.h"

struct control;
struct engine;

enum { PROBE_ECHOES = 4, PROBE_LIMIT_MS = 1000 };

struct probe {
    struct engine *engine; /* NULL: nothing is measured from here */
    struct control *control;
    int peer;
    uint64_t number;      /* of this measurement: older echoes are not its own */
    int64_t deadline_ns;  /* then it is given up */
    int64_t sent_ns;      /* the message that is under way */
    int round;            /* which one that is */
    uint64_t bytes;       /* of it */
    int64_t latency_ns;   /* the shortest empty round trip; INT64_MAX: none yet */
    int64_t best_ns;      /* of the messages of this size */
    uint64_t here, there; /* pieces of work that each had done before; `there` once known */
    bool waits;           /* for a credit */
    void *payload;        /* of the engine's memory; NULL: none */
    uint64_t touched;     /* bytes of it that were written */
    int lent;             /* messages that the fabric still reads */
    struct probe_echo {
        struct fabric_event event; /* of the message that is being sent back */
        bool taken;
    } echo[PROBE_ECHOES];
};

/* A measurement that is under way is given up. */
void probe_begin(struct probe *probe, struct engine *engine, struct control *control,
                 const Refrain__Probe *order);
/* Is an event of the fabric part of a measurement? Then it is taken over. */
bool probe_concerns(const struct fabric_event *event);
void probe_event(struct probe *probe, struct engine *engine, struct fabric_event *event);
/* Goes on where it had no credit, and ends what takes too long. *deadline_ns: when to call again at the latest. */
void probe_tend(struct probe *probe, int64_t *deadline_ns);
/* The epoch is over: nothing is said. */
void probe_leave(struct probe *probe, struct engine *engine);

#endif
