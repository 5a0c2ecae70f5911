/* extents.c - see extents.h. The caller's lock. */
#include "cache/tier/extents.h"

#include <string.h>
#include <sys/mman.h>

#define EXTENT_TAKEN (UINT32_MAX - 1)

/* Sizes below EXTENT_CUTS units have a list each; above, each power of two has EXTENT_CUTS. */
static uint32_t list_of(uint32_t units)
{
    if (units < EXTENT_CUTS) return units;
    uint32_t power = 31 - (uint32_t)__builtin_clz(units); /* 4.. */
    return (power - 3) * EXTENT_CUTS + (units >> (power - 4)) - EXTENT_CUTS;
}

/* The first list whose every hole is large enough. */
static uint32_t list_for(uint32_t units)
{
    uint32_t list = list_of(units);
    if (units < EXTENT_CUTS) return list;
    uint32_t power = 31 - (uint32_t)__builtin_clz(units);
    return list + ((units & ((UINT32_C(1) << (power - 4)) - 1)) != 0);
}

/* EXTENT_LISTS: none from `list` on has a hole. */
static uint32_t next_list(const struct extents *extents, uint32_t list)
{
    for (uint32_t word = list / 64; word < sizeof extents->has / sizeof *extents->has; word++) {
        uint64_t bits = extents->has[word];
        if (word == list / 64) bits &= ~UINT64_C(0) << (list % 64);
        if (bits) return word * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return EXTENT_LISTS;
}

static void add_hole(struct extents *extents, uint32_t at)
{
    uint32_t list = list_of(extents->extent[at].size), first = extents->hole[list];
    extents->extent[at].previous = EXTENT_NONE;
    extents->extent[at].next = first;
    if (first != EXTENT_NONE) extents->extent[first].previous = at;
    extents->hole[list] = at;
    extents->has[list / 64] |= UINT64_C(1) << (list % 64);
}

static void remove_hole(struct extents *extents, uint32_t at)
{
    struct extent *hole = &extents->extent[at];
    uint32_t list = list_of(hole->size);
    if (hole->next != EXTENT_NONE) extents->extent[hole->next].previous = hole->previous;
    if (hole->previous != EXTENT_NONE)
        extents->extent[hole->previous].next = hole->next;
    else
        extents->hole[list] = hole->next;
    if (extents->hole[list] == EXTENT_NONE) extents->has[list / 64] &= ~(UINT64_C(1) << (list % 64));
}

static uint32_t new_extent(struct extents *extents)
{
    uint32_t at = extents->unused;
    if (at != EXTENT_NONE)
        extents->unused = extents->extent[at].after;
    else if (extents->fresh < extents->most)
        at = extents->fresh++;
    return at;
}

static void drop_extent(struct extents *extents, uint32_t at)
{
    extents->extent[at].after = extents->unused;
    extents->unused = at;
}

status_t extents_open(struct extents *extents, uint64_t bytes, uint32_t most, struct error *error)
{
    uint64_t units = bytes / EXTENT_UNIT;
    if (units == 0 || units > UINT32_MAX)
        return error_set(error, STATUS_INVALID, "%llu bytes: an arena has %d bytes to 1 TiB",
                         (unsigned long long)bytes, EXTENT_UNIT);
    memset(extents, 0, sizeof *extents);
    extents->most = 2 * most + 2; /* no two holes touch: at most one more of them than taken ones */
    void *table = mmap(NULL, extents->most * sizeof(struct extent), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) return error_set(error, STATUS_NO_MEMORY, "no memory for %u extents: %m", most);
    extents->extent = table;
    extents->unused = EXTENT_NONE;
    extents->units = extents->free_units = (uint32_t)units;
    memset(extents->hole, 0xff, sizeof extents->hole);
    uint32_t all = new_extent(extents);
    extents->extent[all] =
        (struct extent){.size = (uint32_t)units, .before = EXTENT_NONE, .after = EXTENT_NONE};
    add_hole(extents, all);
    return STATUS_OK;
}

void extents_close(struct extents *extents)
{
    if (extents->extent) munmap(extents->extent, extents->most * sizeof(struct extent));
    extents->extent = NULL;
}

/* A hole of at least `units`. The lists above are asked first; the one that also has smaller ones is looked through,
 * so that a hole that would just do is not missed. */
static uint32_t find_hole(const struct extents *extents, uint32_t units)
{
    uint32_t list = next_list(extents, list_for(units));
    if (list < EXTENT_LISTS) return extents->hole[list];
    for (uint32_t at = extents->hole[list_of(units)]; at != EXTENT_NONE; at = extents->extent[at].next)
        if (extents->extent[at].size >= units) return at;
    return EXTENT_NONE;
}

uint32_t extents_take(struct extents *extents, uint64_t bytes, uint32_t owner)
{
    uint64_t wanted = (bytes + EXTENT_UNIT - 1) / EXTENT_UNIT;
    if (wanted == 0 || wanted > extents->free_units) return EXTENT_NONE;
    uint32_t units = (uint32_t)wanted, at = find_hole(extents, units);
    if (at == EXTENT_NONE) return EXTENT_NONE;
    struct extent *taken = &extents->extent[at];
    uint32_t rest = EXTENT_NONE;
    if (taken->size > units && (rest = new_extent(extents)) == EXTENT_NONE) return EXTENT_NONE;
    remove_hole(extents, at);
    if (rest != EXTENT_NONE) {
        extents->extent[rest] = (struct extent){
            .start = taken->start + units, .size = taken->size - units, .before = at, .after = taken->after};
        if (taken->after != EXTENT_NONE) extents->extent[taken->after].before = rest;
        taken->after = rest;
        taken->size = units;
        add_hole(extents, rest);
    }
    taken->previous = EXTENT_TAKEN;
    taken->next = owner;
    extents->free_units -= units;
    return at;
}

bool extents_fit(const struct extents *extents, uint64_t bytes)
{
    uint64_t wanted = (bytes + EXTENT_UNIT - 1) / EXTENT_UNIT;
    return wanted > 0 && wanted <= extents->free_units && find_hole(extents, (uint32_t)wanted) != EXTENT_NONE;
}

/* `after` follows `at` in the arena, both are holes and in no list: becomes part of it. */
static void join(struct extents *extents, uint32_t at, uint32_t after)
{
    struct extent *hole = &extents->extent[at], *gone = &extents->extent[after];
    hole->size += gone->size;
    hole->after = gone->after;
    if (gone->after != EXTENT_NONE) extents->extent[gone->after].before = at;
    drop_extent(extents, after);
}

static bool is_hole(const struct extents *extents, uint32_t at)
{
    return at != EXTENT_NONE && extents->extent[at].previous != EXTENT_TAKEN;
}

uint32_t extents_owner(const struct extents *extents, uint32_t at)
{
    return is_hole(extents, at) ? EXTENT_NONE : extents->extent[at].next;
}

void extents_give(struct extents *extents, uint32_t at)
{
    uint32_t before = extents->extent[at].before, after = extents->extent[at].after;
    extents->free_units += extents->extent[at].size;
    if (is_hole(extents, after)) {
        remove_hole(extents, after);
        join(extents, at, after);
    }
    if (is_hole(extents, before)) {
        remove_hole(extents, before);
        join(extents, before, at);
        at = before;
    }
    add_hole(extents, at);
}

void extents_stats(const struct extents *extents, struct extents_stats *stats)
{
    *stats = (struct extents_stats){.bytes = (uint64_t)extents->units * EXTENT_UNIT,
                                    .free_bytes = (uint64_t)extents->free_units * EXTENT_UNIT};
    uint64_t largest = 0;
    for (uint32_t list = 0; (list = next_list(extents, list)) < EXTENT_LISTS; list++)
        for (uint32_t at = extents->hole[list]; at != EXTENT_NONE; at = extents->extent[at].next) {
            if (extents->extent[at].size > largest) largest = extents->extent[at].size;
            stats->holes++;
        }
    stats->largest_hole = largest * EXTENT_UNIT;
}
