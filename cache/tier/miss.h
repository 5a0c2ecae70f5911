/* miss.h - why an item of the cache tier was not had. The numbers travel: append only. */
#ifndef REFRAIN_CACHE_TIER_MISS_H
#define REFRAIN_CACHE_TIER_MISS_H

enum miss {
    MISS_ABSENT,     /* never here, evicted, forgotten */
    MISS_UNFINISHED, /* being published */
    MISS_DAMAGED,    /* its file does not fit its hash; it is forgotten */
    MISS_UNREADABLE, /* its file is gone, or the disk failed; it is forgotten */
    MISS_NO_ROOM,    /* on disk, and everything in memory is in use */
    MISS_LATE,       /* it is being fetched, and that does not get done in time */
    /* Of items that come from other ranks (worker/tier.h). */
    MISS_BUSY,    /* too many are being fetched */
    MISS_STALE,   /* who was said to have it has it no more, or another one */
    MISS_LOST,    /* its rank was lost, or the epoch ended, under way */
    MISS_TORN,    /* parts of it did not come in order, or not all */
    MISS_SPOILED, /* it came, and does not fit its hash */
    MISS_FOREIGN, /* it is another tenant's */
    MISSES
};
const char *miss_name(enum miss reason); /* "absent", ... */

#endif
