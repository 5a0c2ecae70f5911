/* tally.c - see tally.h. */
#include "proto/tally.h"

void tally_tell(struct tally *tally, Refrain__TierTally *told)
{
    refrain__tier_tally__init(told);
    told->has_items = told->has_published = told->has_refused = told->has_fetched = told->has_lent =
        told->has_copied = told->has_seconds_saved = 1;
    told->items = tally->items;
    told->published = tally->published;
    told->refused = tally->refused;
    told->fetched = tally->fetched;
    told->lent = tally->lent;
    told->copied = tally->copied;
    told->seconds_saved = tally->seconds_saved;
    told->n_bytes = told->n_hits = told->n_evictions = LEVELS;
    told->bytes = tally->bytes;
    told->hits = tally->hits;
    told->evictions = tally->evictions;
    told->n_misses = MISSES;
    told->misses = tally->misses;
}
