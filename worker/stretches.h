/*
 * stretches.h - ops that come again with the same arguments: recorded once, replayed from then on (kernels/ops.h).
 *
 *     struct stretch_key key = {.kind = STRETCH_EMBED, .owner = context, .grid = grid, .tensor = {latent, x}};
 *     for (bool call = stretches_begin(s, team, &key, worth); call; call = stretches_end(s, team))
 *         denoiser_embed(...);                      called, or recorded, or not at all; once or twice
 *     stretches_forget(s, context);                 after a wait, before the context goes
 *
 * The first time ops are called, since a shape must have been computed before it can be recorded; the second time they are
 * recorded and replayed. Where recording is refused they are called as ever, then and later. A key holds whatever the ops'
 * arguments are made of, so that equal keys mean equal ops: pointers, sizes, numbers of blocks. What it does not hold
 * may not change unless the stretch is forgotten first: the model, a context's keys and values. Tensors are read anew each time.
 *
 * At most STRETCHES are known. A further one takes the place of the one that was used longest ago, if that has not been
 * for a while; else it is called as ever: more stretches than places would only push each other out, and each costs a
 * wait and a recording. Compute thread.
 */
#ifndef REFRAIN_WORKER_STRETCHES_H
#define REFRAIN_WORKER_STRETCHES_H

#include "kernels/ops.h"
#include "worker/model/denoiser.h"

struct stretches;

enum { STRETCHES = 128, STRETCH_TENSORS = 4 };

enum stretch_kind { STRETCH_BLOCKS = 1, STRETCH_EMBED, STRETCH_INPUT, STRETCH_OUTPUT };

/* Compared byte by byte: no padding between the members. */
struct stretch_key {
    const void *owner; /* it is forgotten with it */
    const void *tensor[STRETCH_TENSORS];
    struct token_grid grid;
    int kind, begin, end; /* blocks */
};

struct stretches_counts {
    int held; /* recorded, now */
    uint64_t recorded, replayed, refused;
};

/* *stretches is NULL, with which all functions do nothing and ops are called as ever, where ops are local or
 * REFRAIN_GPU_RECORD says never; always: whether it is worth it or not. An error says what else it said. */
status_t stretches_create(const struct ops *ops, struct stretches **stretches, struct error *error);
void stretches_destroy(struct stretches *stretches); /* after a wait; NULL is fine */

/* True: call the ops, then stretches_end, which says whether to call them once more. worth: of recording, for those that are
 * not yet. */
bool stretches_begin(struct stretches *stretches, struct team *team, const struct stretch_key *key,
                     bool worth);
bool stretches_end(struct stretches *stretches, struct team *team);

/* Those of an owner; NULL: all. After a wait. */
void stretches_forget(struct stretches *stretches, const void *owner);

struct stretches_counts stretches_counts(const struct stretches *stretches);

#endif
