/*
 * tally.h - a tally of the cache tier's store (cache/tier/store.h) as a message.
 *
 *     Refrain__TierTally told;
 *     tally_tell(&tally, &told);      then tenant and kind, where they are to be said
 *
 * Plain values; any thread.
 */
#ifndef REFRAIN_PROTO_TALLY_H
#define REFRAIN_PROTO_TALLY_H

#include "cache/tier/store.h"
#include "proto/refrain.pb-c.h"

/* Everything but whose and of what kind. The arrays are the tally's own, borrowed for the life of the message. */
void tally_tell(struct tally *tally, Refrain__TierTally *told);

#endif
