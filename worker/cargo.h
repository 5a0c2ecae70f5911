/*
 * cargo.h - what travels between ranks: a body that ops make and a tail that the host writes, in one piece.
 *
 *     cargo_lay_out(&cargo, ops, &device, &shared, bytes);           twice: base/arena.h
 *     cargo.body = ...;                                              bytes of the body; the tail begins there
 *     ... ops work in cargo.device, the host in cargo_tail(&cargo) ...
 *     cargo_send(&cargo, engine, peer, begin, tail, &payload, &error);
 *     engine_post(engine, peer, &ticket, payload, cookie, &error);
 *     ...
 *     cargo_receive(&cargo, engine, event.peer, begin, event.payload, tail, &error);
 *
 * Hops (modulation and rows; block records behind them) and what an OPEN carries (text; a policy's text behind
 * it) are this. A payload is in the memory that the way to that peer reads and writes: engine_direct knows
 * which. Where ops are local both sides are the same memory, and nothing is copied to send it. Compute thread.
 */
#ifndef REFRAIN_WORKER_CARGO_H
#define REFRAIN_WORKER_CARGO_H

#include "worker/engine.h"

struct cargo {
    char *device, *host; /* body and tail */
    size_t body;
    bool constant;    /* body and tail were made for good: the host's side of the body is brought once */
    bool brought;     /* and has been */
    uint64_t read_at; /* the engine's waits, plus one, when an op was to read the host's side; 0: never */
};

void cargo_lay_out(struct cargo *cargo, const struct ops *ops, struct arena *device, struct arena *shared,
                   size_t bytes);

/* Written by the host while no post of it is under way; of a constant one before the first, and on the device's side as well. */
static inline void *cargo_tail(const struct cargo *cargo)
{
    return cargo->host + cargo->body;
}

/* *payload: the body from byte `begin` on, and `tail` bytes of the tail. Waits where it must be the host's. */
status_t cargo_send(struct cargo *cargo, struct engine *engine, int peer, size_t begin, size_t tail,
                    const void **payload, struct error *error);
/* The other way. The payload may be released: whoever lends memory of the device takes it back in the order of
 * ops. */
status_t cargo_receive(struct cargo *cargo, struct engine *engine, int peer, size_t begin,
                       const void *payload, size_t tail, struct error *error);

/* `bytes` of the body alone, from byte `begin` on. */
status_t cargo_receive_part(struct cargo *cargo, struct engine *engine, int peer, size_t begin,
                            const void *payload, size_t bytes, struct error *error);

/* Some bytes of a payload, for the host. */
status_t cargo_read(struct engine *engine, int peer, const void *from, void *to, size_t bytes,
                    struct error *error);

#endif
