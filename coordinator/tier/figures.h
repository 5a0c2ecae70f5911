/*
 * figures.h - what became of a group's items of the cache tier: the latest tally that each rank told, by tenant and kind.
 * A rank is named by its seat, which does not change when others are drained.
 *
 *     figures_take(&figures, rank, tally);          one TierTally
 *     figures_drop(&figures, rank);                 the rank is lost, or begins anew
 *     figures_sum(&figures, rank, kind, tenant, &sum);
 *
 * Bounded: of further tenants than FIGURES_MAX has room for nothing is kept. Values come from outside and are checked. One
 * thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_TIER_FIGURES_H
#define REFRAIN_COORDINATOR_TIER_FIGURES_H

#include <stdbool.h>
#include <stdint.h>
#include "cache/tier/store.h"
#include "proto/refrain.pb-c.h"

enum { FIGURES_MAX = 1 << 14 };

struct figure {
    uint64_t tenant;
    uint32_t rank, kind;
    struct tally tally;
};

struct figures {
    struct figure *list; /* [count], in no order */
    uint32_t count, room;
};

/* False: it makes no sense, or there is no room. */
bool figures_take(struct figures *figures, uint32_t rank, const Refrain__TierTally *tally);
void figures_drop(struct figures *figures, uint32_t rank);
void figures_free(struct figures *figures);

void figures_add(struct tally *sum, const struct tally *one);
/* tenant: NULL: all of them. Adds to *sum; false: there was nothing. */
bool figures_sum(const struct figures *figures, uint32_t rank, uint32_t kind, const uint64_t *tenant,
                 struct tally *sum);

#endif
