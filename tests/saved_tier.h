/*
 * saved_tier.h - one cache tier that all of saved_run.h's rings ask: what one home made, the next finds.
 *
 *     saved_tier_open(16 << 20);
 *     ... run jobs on saved_rings ...
 *     saved_tier_settle();                          what they gave is whole
 *     saved_tier_count(ITEM_LATENT)
 *     saved_tier_close();                           fails the test if a view or a draft is out
 */
#ifndef REFRAIN_TESTS_SAVED_TIER_H
#define REFRAIN_TESTS_SAVED_TIER_H

#include "tests/saved_run.h"
#include "worker/tier.h"

extern struct tier *saved_tier; /* NULL: none is open */

void saved_tier_open(uint64_t bytes);
void saved_tier_close(void);
void saved_tier_settle(void);
size_t saved_tier_count(enum item_kind kind);
void saved_tier_forget(enum item_kind kind);
/* These bytes under that key, as if a job had given them. */
void saved_tier_put(const struct key *key, const void *bytes, size_t size);
/* The ring's home asks the tier, or none. */
void saved_tier_use(int ring, bool use);

#endif
