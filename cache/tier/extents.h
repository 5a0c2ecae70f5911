/*
 * extents.h - which parts of one arena are taken: contiguous extents, the smallest fitting hole first, holes joined
 * when they touch. Knows nothing of the memory itself, which may be a device's.
 *
 *     extents_open(&extents, bytes, most, &error);
 *     uint32_t extent = extents_take(&extents, bytes, owner);       EXTENT_NONE: no hole is large enough
 *     base + extents_offset(&extents, extent)
 *     extents_give(&extents, extent);
 *
 * Holes lie in lists by size (powers of two, each cut in sixteen), with a bit for each list that has any: taking and
 * giving cost the same whatever there is ("two-level segregated fit", Masmano et al. 2004). Sizes are rounded up to
 * 256 bytes; nothing else is lost but what lies in holes, and extents_stats says how much that is. Not locked.
 */
#ifndef REFRAIN_CACHE_TIER_EXTENTS_H
#define REFRAIN_CACHE_TIER_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

enum {
    EXTENT_UNIT = 256, /* bytes */
    EXTENT_CUTS = 16,
    EXTENT_LISTS = 29 * EXTENT_CUTS,
};
#define EXTENT_NONE UINT32_MAX
#define EXTENT_FIRST                                                                                         \
    0 /* what the arena begins with, hole or not: it was the first, and joins keep the one before */

struct extent {
    uint32_t start, size;    /* units */
    uint32_t before, after;  /* neighbours in the arena; of an unused one: after is the next unused */
    uint32_t previous, next; /* in the list of holes; of a taken one: EXTENT_TAKEN, and whose it is */
};

struct extents {
    struct extent *extent;        /* [most], mapped, touched as needed */
    uint32_t most, fresh, unused; /* never used from `fresh` on; given back: a list */
    uint32_t units, free_units;
    uint32_t hole[EXTENT_LISTS]; /* first of each list */
    uint64_t has[(EXTENT_LISTS + 63) / 64];
};

/* bytes: of the arena, at most 1 TiB; most: extents taken at once. */
status_t extents_open(struct extents *extents, uint64_t bytes, uint32_t most, struct error *error);
void extents_close(struct extents *extents); /* one that is all zeros is fine */

uint32_t extents_take(struct extents *extents, uint64_t bytes, uint32_t owner); /* bytes > 0 */
void extents_give(struct extents *extents, uint32_t extent);
bool extents_fit(const struct extents *extents, uint64_t bytes); /* would it be taken? */

static inline uint64_t extents_offset(const struct extents *extents, uint32_t extent)
{
    return (uint64_t)extents->extent[extent].start * EXTENT_UNIT;
}
/* With rounding: what it takes from the level's limit. */
static inline uint64_t extents_bytes(const struct extents *extents, uint32_t extent)
{
    return (uint64_t)extents->extent[extent].size * EXTENT_UNIT;
}
static inline uint64_t extents_rounded(uint64_t bytes)
{
    return (bytes + EXTENT_UNIT - 1) / EXTENT_UNIT * EXTENT_UNIT;
}

/* What lies beside it in the arena, hole or not; EXTENT_NONE: its end. */
static inline uint32_t extents_before(const struct extents *extents, uint32_t extent)
{
    return extents->extent[extent].before;
}
static inline uint32_t extents_after(const struct extents *extents, uint32_t extent)
{
    return extents->extent[extent].after;
}
/* As it was taken for; EXTENT_NONE: it is a hole. */
uint32_t extents_owner(const struct extents *extents, uint32_t extent);

struct extents_stats {
    uint64_t bytes, free_bytes, largest_hole;
    uint32_t holes;
};
void extents_stats(const struct extents *extents, struct extents_stats *stats);

#endif
