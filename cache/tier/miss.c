/* miss.c - see miss.h. */
#include "cache/tier/miss.h"

static const char *const miss_names[MISSES] = {"absent",  "unfinished", "damaged", "unreadable",
                                               "no-room", "late",       "busy",    "stale",
                                               "lost",    "torn",       "spoiled", "foreign"};

const char *miss_name(enum miss reason)
{
    return (unsigned)reason < MISSES ? miss_names[reason] : "none";
}
