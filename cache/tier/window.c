/*
 * window.c - which neighbours go together, so that an item fits in one piece. Under the store's lock.
 *
 * Letting the least worth go, wherever it lies, leaves holes that are too small for a large item, and much that was worth
 * something goes for nothing: of a store in which a dozen of the largest items fit, more than half. So what goes is the one that
 * is worth least for its bytes, if that is enough; else the run of neighbours, copies and holes, whose loss costs least in all.
 * All are looked at for that, a tenth of a microsecond each: the store does without where it has more than WINDOW_ITEMS.
 */
#include <math.h>
#include "cache/tier/store_core.h"

struct window {
    uint32_t first, last; /* extents */
    uint64_t bytes;
    double cost;
};

/* INFINITY: it cannot go. */
static double cost_of(struct store *store, enum level level, uint32_t extent, double now)
{
    uint32_t slot = extents_owner(&store->level[level].extents, extent);
    if (slot == EXTENT_NONE) return 0;
    const struct entry *entry = &store->entries[slot];
    bool may_go = entry->state == ENTRY_HERE && level_has(entry, level) && level_may_go(entry, level);
    return may_go ? level_loss(store, level, entry, now) : INFINITY;
}

static void clear(struct store *store, enum level level, const struct window *w, double now)
{
    const struct extents *extents = &store->level[level].extents;
    uint32_t victims = SLOT_NONE;
    for (uint32_t at = w->first;; at = extents_after(extents, at)) {
        uint32_t slot = extents_owner(extents, at);
        if (slot != EXTENT_NONE) {
            level_unlist(store, level, slot);
            store->entries[slot].older[level] = victims;
            victims = slot;
        }
        if (at == w->last) break;
    }
    for (uint32_t next; victims != SLOT_NONE; victims = next) {
        next = store->entries[victims].older[level];
        level_evict(store, level, victims, now);
    }
}

/* The one whose loss costs least for its bytes, with the holes beside it. */
static bool take_least(struct store *store, enum level level, uint64_t need, double now, struct window *w)
{
    const struct extents *extents = &store->level[level].extents;
    uint32_t slot = level_least(store, level, now);
    if (slot == SLOT_NONE) return false;
    uint32_t at = store->entries[slot].extent[level], before = extents_before(extents, at),
             after = extents_after(extents, at);
    *w = (struct window){at, at, extents_bytes(extents, at),
                         level_loss(store, level, &store->entries[slot], now)};
    if (before != EXTENT_NONE && extents_owner(extents, before) == EXTENT_NONE)
        w->bytes += extents_bytes(extents, before);
    if (after != EXTENT_NONE && extents_owner(extents, after) == EXTENT_NONE)
        w->bytes += extents_bytes(extents, after);
    return w->bytes >= need;
}

/* Of all that are long enough, and begin and end with what they need. */
static struct window find_cheapest(struct store *store, enum level level, uint64_t need, double now)
{
    const struct extents *extents = &store->level[level].extents;
    struct window best = {.cost = INFINITY}, w = {.first = EXTENT_NONE};
    for (uint32_t at = EXTENT_FIRST; at != EXTENT_NONE; at = extents_after(extents, at)) {
        double cost = cost_of(store, level, at, now);
        if (cost == INFINITY) {
            w = (struct window){.first = EXTENT_NONE};
            continue;
        }
        if (w.first == EXTENT_NONE) w.first = at;
        w.last = at;
        w.cost += cost;
        w.bytes += extents_bytes(extents, at);
        while (w.bytes - extents_bytes(extents, w.first) >= need) {
            w.cost -= cost_of(store, level, w.first, now);
            w.bytes -= extents_bytes(extents, w.first);
            w.first = extents_after(extents, w.first);
        }
        if (w.bytes >= need && w.cost < best.cost) best = w;
    }
    return best;
}

bool window_clear(struct store *store, enum level level, uint64_t bytes, double worth, double now)
{
    uint64_t need = level_bytes(level, bytes);
    struct window w;
    if (!take_least(store, level, need, now, &w)) w = find_cheapest(store, level, need, now);
    if (w.cost > worth || w.cost == INFINITY) return false;
    clear(store, level, &w, now);
    return true;
}
