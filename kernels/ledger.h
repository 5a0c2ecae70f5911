/*
 * ledger.h - how much memory of a backend is in use, and was at most.
 *
 *     struct ledger ledger = {0};
 *     ledger_take(&ledger, LEDGER_DEVICE, bytes);
 *     ledger_give(&ledger, LEDGER_DEVICE, bytes);
 *     ... ledger.most_device, ledger.most_shared ...
 *
 * One thread's at a time.
 */
#ifndef REFRAIN_KERNELS_LEDGER_H
#define REFRAIN_KERNELS_LEDGER_H

#include "kernels/ops.h"

/* The first two are enum memory's: what is allocated. Weights in a backend's own layout are on the device too. */
enum ledger_kind {
    LEDGER_DEVICE = MEMORY_DEVICE,
    LEDGER_SHARED = MEMORY_SHARED,
    LEDGER_WEIGHTS,
    LEDGER_KINDS
};

struct ledger {
    size_t now[LEDGER_KINDS];
    size_t most_device, most_shared; /* at once; of the device with weights */
    size_t most_weights;
};

static inline size_t ledger_device(const struct ledger *l)
{
    return l->now[LEDGER_DEVICE] + l->now[LEDGER_WEIGHTS];
}

static inline void ledger_take(struct ledger *l, enum ledger_kind kind, size_t bytes)
{
    l->now[kind] += bytes;
    if (ledger_device(l) > l->most_device) l->most_device = ledger_device(l);
    if (l->now[LEDGER_WEIGHTS] > l->most_weights) l->most_weights = l->now[LEDGER_WEIGHTS];
    if (l->now[LEDGER_SHARED] > l->most_shared) l->most_shared = l->now[LEDGER_SHARED];
}

static inline void ledger_give(struct ledger *l, enum ledger_kind kind, size_t bytes)
{
    l->now[kind] -= bytes;
}

#endif
