/*
 * levels.c - where copies lie, how much room they take, and which one goes first. Under the store's lock.
 *
 * Entries that differ by age alone (same kind, about as many uses, about as many seconds by byte) are in one list,
 * oldest first, at each level where they have a copy. What they are worth falls with age, so that the least of a list
 * is its oldest, and the least of all is found by looking at one entry of each list, whatever the number of items.
 */
#include <math.h>
#include "base/clock.h"
#include "cache/tier/store_core.h"

enum {
    LOOK = 4,
    NEAR = 64
}; /* busy ones passed over in a list; places an entry may have to move to be in order */

double store_seconds(const struct store *store)
{
    int64_t now = store->config.now_ns ? store->config.now_ns(store->config.clock) : clock_now_ns();
    return (double)(now - store->opened_ns) * 1e-9;
}

uint64_t level_bytes(enum level level, uint64_t bytes)
{
    return level == LEVEL_DISK ? disk_bytes(bytes) : extents_rounded(bytes);
}

void *level_address(const struct store *store, enum level level, const struct entry *entry)
{
    return store->level[level].arena + extents_offset(&store->level[level].extents, entry->extent[level]);
}

/* --------------------------------------------------------------------------------------------------- lists */

static uint16_t list_of(const struct store *store, const struct entry *entry)
{
    double factor = worth_factor(&store->worth, habit_of(&entry->key, entry->uses));
    if (entry->spare) factor /= STORE_SPARE;
    double density =
        2 * log2((double)entry->seconds * factor / (double)entry->bytes) + 2 * 38; /* from 2^-38 on */
    int cut = density > 0 ? (density < DENSITIES - 1 ? (int)density : DENSITIES - 1) : 0;
    return (uint16_t)(((int)entry->key.kind * WORTH_USES + worth_class(entry->uses)) * DENSITIES + cut);
}

static void list_remove(struct store *store, enum level level, uint32_t list, uint32_t slot)
{
    struct level_room *room = &store->level[level];
    uint32_t older = store->entries[slot].older[level], newer = store->entries[slot].newer[level];
    *(older == SLOT_NONE ? &room->oldest[list] : &store->entries[older].newer[level]) = newer;
    *(newer == SLOT_NONE ? &room->newest[list] : &store->entries[newer].older[level]) = older;
    if (list < LISTS && room->oldest[list] == SLOT_NONE)
        room->occupied[list / 64] &= ~(UINT64_C(1) << (list % 64));
}

/* Between `older` and the one after it; SLOT_NONE: it becomes the oldest. */
static void list_insert(struct store *store, enum level level, uint32_t list, uint32_t slot, uint32_t older)
{
    struct level_room *room = &store->level[level];
    uint32_t newer = older == SLOT_NONE ? room->oldest[list] : store->entries[older].newer[level];
    store->entries[slot].older[level] = older;
    store->entries[slot].newer[level] = newer;
    *(older == SLOT_NONE ? &room->oldest[list] : &store->entries[older].newer[level]) = slot;
    *(newer == SLOT_NONE ? &room->newest[list] : &store->entries[newer].older[level]) = slot;
    if (list < LISTS) room->occupied[list / 64] |= UINT64_C(1) << (list % 64);
}

/* By its last use: most are the newest. */
static void list_add(struct store *store, enum level level, uint32_t slot)
{
    const struct entry *entry = &store->entries[slot];
    uint32_t at = store->level[level].newest[entry->list];
    for (int passed = 0; at != SLOT_NONE && store->entries[at].last > entry->last && passed < NEAR; passed++)
        at = store->entries[at].older[level];
    list_insert(store, level, entry->list, slot, at);
}

void level_touch(struct store *store, uint32_t slot, double now)
{
    struct entry *entry = &store->entries[slot];
    uint16_t list = entry->list;
    entry->last = now;
    entry->list = list_of(store, entry);
    for (enum level level = LEVEL_DEVICE; level < LEVELS; level++)
        if (level_has(entry, level)) {
            list_remove(store, level, list, slot);
            list_add(store, level, slot);
        }
}

void queue_add(struct store *store, enum level level, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    if (entry->queued & level_bit(level)) return;
    entry->queued |= level_bit(level);
    list_insert(store, level, LIST_QUEUE, slot, store->level[level].newest[LIST_QUEUE]);
    pthread_cond_signal(&store->work);
}

static void queue_remove(struct store *store, enum level level, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    if (!(entry->queued & level_bit(level))) return;
    list_remove(store, level, LIST_QUEUE, slot);
    entry->queued &= (uint8_t)~level_bit(level);
}

uint32_t queue_take(struct store *store, enum level level)
{
    uint32_t slot = store->level[level].oldest[LIST_QUEUE];
    if (slot != SLOT_NONE) queue_remove(store, level, slot);
    return slot;
}

/* -------------------------------------------------------------------------------------------------- copies */

void level_add(struct store *store, enum level level, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    struct tally *tally = tally_of(store, entry->tenant, entry->key.kind);
    if (!entry->copies) {
        entry->list = list_of(store, entry);
        tally->items++;
    }
    queue_remove(store, level, slot); /* it has come another way */
    entry->copies |= level_bit(level);
    tally->bytes[level] += level_bytes(level, entry->bytes);
    list_add(store, level, slot);
}

void level_give_back(struct store *store, enum level level, uint64_t bytes, uint32_t extent)
{
    if (level != LEVEL_DISK) extents_give(&store->level[level].extents, extent);
    store->level[level].used -= level_bytes(level, bytes);
}

/* Its room and its file; it is in no list any more. */
static void copy_end(struct store *store, enum level level, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    struct tally *tally = tally_of(store, entry->tenant, entry->key.kind);
    entry->copies &= (uint8_t)~level_bit(level);
    tally->bytes[level] -= level_bytes(level, entry->bytes);
    if (!entry->copies) tally->items--;
    level_give_back(store, level, entry->bytes, level == LEVEL_DISK ? 0 : entry->extent[level]);
    if (level != LEVEL_DISK) return;
    store->waste[store->waste_count++] = (struct waste){entry->key, entry->serial};
    pthread_cond_signal(&store->work);
}

void level_drop(struct store *store, enum level level, uint32_t slot)
{
    list_remove(store, level, store->entries[slot].list, slot);
    copy_end(store, level, slot);
}

/* Nobody reads it, nothing of it is left. */
static void entry_end(struct store *store, uint32_t slot)
{
    queue_remove(store, LEVEL_DEVICE, slot);
    queue_remove(store, LEVEL_DISK, slot);
    if (store->entries[slot].pinned) store->pinned_bytes -= store->entries[slot].bytes;
    index_free(store, slot);
}

void entry_forget(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    uint8_t copies = entry->copies;
    index_hide(store, slot);
    entry->state = ENTRY_FORGOTTEN;
    entry->copies = 0;
    change_note(store, slot);
    entry->copies = copies;
    if (level_has(entry, LEVEL_DISK)) level_drop(store, LEVEL_DISK, slot);
    for (enum level level = LEVEL_DEVICE; level < LEVEL_DISK; level++)
        if (level_has(entry, level)) list_remove(store, level, entry->list, slot);
    entry->readers++;
    entry_leave(store, slot);
}

void entry_leave(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    if (--entry->readers || entry->state != ENTRY_FORGOTTEN) return;
    for (enum level level = LEVEL_DEVICE; level < LEVEL_DISK; level++)
        if (level_has(entry, level)) copy_end(store, level, slot);
    entry_end(store, slot);
}

/* ------------------------------------------------------------------------------------------------ eviction */

double level_worth(struct store *store, const struct entry *entry, double now)
{
    double worth = (double)entry->seconds *
                   worth_rate(&store->worth, habit_of(&entry->key, entry->uses), now - entry->last);
    return entry->spare ? worth / STORE_SPARE : worth;
}

double level_loss(struct store *store, enum level level, const struct entry *entry, double now)
{
    double worth = level_worth(store, entry, now);
    for (enum level below = level + 1; below < LEVELS; below++)
        if (level_has(entry, below)) {
            double fetching = (double)entry->bytes / store->config.bytes_per_second[below];
            return fetching < (double)entry->seconds ? worth * fetching / (double)entry->seconds : worth;
        }
    return worth;
}

bool level_may_go(const struct entry *entry, enum level level)
{
    return entry->readers == 0 && !(entry->pinned && entry->copies == level_bit(level));
}

/* The oldest of a list that may go, of the first `look`. */
static uint32_t list_victim(const struct store *store, enum level level, uint32_t list, int look)
{
    uint32_t slot = store->level[level].oldest[list];
    while (slot != SLOT_NONE && !level_may_go(&store->entries[slot], level))
        slot = --look > 0 ? store->entries[slot].newer[level] : SLOT_NONE;
    return slot;
}

static uint32_t victim_among(struct store *store, enum level level, double now, int look)
{
    const struct level_room *room = &store->level[level];
    uint32_t victim = SLOT_NONE;
    double least = INFINITY;
    for (uint32_t word = 0; word < LIST_WORDS; word++)
        for (uint64_t bits = room->occupied[word]; bits; bits &= bits - 1) {
            uint32_t slot = list_victim(store, level, word * 64 + (uint32_t)__builtin_ctzll(bits), look);
            if (slot == SLOT_NONE) continue;
            const struct entry *entry = &store->entries[slot];
            double order = store->config.eviction == EVICT_OLDEST
                               ? entry->last
                               : level_loss(store, level, entry, now) / (double)entry->bytes;
            if (order >= least && victim != SLOT_NONE) continue;
            least = order;
            victim = slot;
        }
    return victim;
}

uint32_t level_least(struct store *store, enum level level, double now)
{
    uint32_t victim = victim_among(store, level, now, LOOK);
    return victim != SLOT_NONE ? victim : victim_among(store, level, now, INT32_MAX);
}

void level_unlist(struct store *store, enum level level, uint32_t slot)
{
    list_remove(store, level, store->entries[slot].list, slot);
}

void level_evict(struct store *store, enum level level, uint32_t slot, double now)
{
    struct entry *entry = &store->entries[slot];
    tally_of(store, entry->tenant, entry->key.kind)->evictions[level]++;
    copy_end(store, level, slot);
    if (entry->copies) return;
    worth_remember(&store->worth, &entry->key, entry->uses, entry->last, now, entry->counted);
    change_note(store, slot);
    index_hide(store, slot);
    entry_end(store, slot);
}

static uint64_t limit_of(const struct store *store, enum level level, double now)
{
    uint64_t limit = store->level[level].limit;
    bool full = level == LEVEL_DISK && now < store->disk_full_until && store->disk_full_limit < limit;
    return full ? store->disk_full_limit : limit;
}

/* Takes victims out of their lists until `need` fits, and puts them back if they are worth more than `worth`. */
static bool gather(struct store *store, enum level level, uint64_t need, double worth, double now,
                   uint32_t *victims, double *cost)
{
    struct level_room *room = &store->level[level];
    uint64_t freed = 0, limit = limit_of(store, level, now);
    *victims = SLOT_NONE;
    while (need <= limit && room->used - freed > limit - need) {
        uint32_t slot = level_least(store, level, now);
        if (slot == SLOT_NONE) break;
        struct entry *entry = &store->entries[slot];
        *cost += level_loss(store, level, entry, now);
        if (*cost > worth) break;
        list_remove(store, level, entry->list, slot);
        entry->older[level] = *victims;
        *victims = slot;
        freed += level_bytes(level, entry->bytes);
    }
    if (need <= limit && room->used - freed <= limit - need) return true;
    for (uint32_t slot = *victims, next; slot != SLOT_NONE; slot = next) {
        next = store->entries[slot].older[level];
        list_insert(store, level, store->entries[slot].list, slot, SLOT_NONE);
    }
    return false;
}

/* The least worth in all, wherever they lie. */
static bool let_go(struct store *store, enum level level, uint64_t need, double worth, double now,
                   double *cost)
{
    uint32_t victims;
    if (!gather(store, level, need, worth, now, &victims, cost)) return false;
    for (uint32_t slot = victims, next; slot != SLOT_NONE; slot = next) {
        next = store->entries[slot].older[level];
        level_evict(store, level, slot, now);
    }
    return true;
}

/* There is room enough then, but perhaps not in one piece: then a little more goes. */
static bool let_go_some(struct store *store, enum level level, uint64_t bytes, double worth, double now)
{
    const struct extents *extents = &store->level[level].extents;
    double cost = 0;
    if (!let_go(store, level, level_bytes(level, bytes), worth, now, &cost)) return false;
    while (!extents_fit(extents, bytes)) {
        uint32_t slot = level_least(store, level, now);
        if (slot == SLOT_NONE || (cost += level_loss(store, level, &store->entries[slot], now)) > worth)
            return false;
        level_unlist(store, level, slot);
        level_evict(store, level, slot, now);
    }
    return true;
}

bool level_make_room(struct store *store, enum level level, uint32_t slot, uint64_t bytes, double worth)
{
    struct level_room *room = &store->level[level];
    double now = store_seconds(store), cost = 0;
    bool oldest = store->config.eviction == EVICT_OLDEST;
    if (oldest) worth = INFINITY;
    if (level == LEVEL_DISK) {
        if (!let_go(store, level, level_bytes(level, bytes), worth, now, &cost)) return false;
    } else {
        bool whole = !oldest && store->live <= WINDOW_ITEMS;
        if (!extents_fit(&room->extents, bytes) &&
            !(whole ? window_clear : let_go_some)(store, level, bytes, worth, now))
            return false;
        store->entries[slot].extent[level] = extents_take(&room->extents, bytes, slot);
    }
    room->used += level_bytes(level, bytes);
    return true;
}

void level_evict_any(struct store *store)
{
    double now = store_seconds(store);
    for (int level = LEVELS - 1; level >= 0; level--) {
        uint32_t slot = level_least(store, (enum level)level, now);
        if (slot == SLOT_NONE || store->entries[slot].pinned) continue;
        struct entry *entry = &store->entries[slot];
        tally_of(store, entry->tenant, entry->key.kind)->evictions[level]++;
        worth_remember(&store->worth, &entry->key, entry->uses, entry->last, now, entry->counted);
        entry_forget(store, slot);
        return;
    }
}
