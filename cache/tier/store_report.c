/* store_report.c - see store.h: lists, pins, forgetting, figures. Any thread. */
#include <inttypes.h>
#include <string.h>
#include "cache/tier/store_core.h"

enum { LISTED_AT_ONCE = 128 };
static const double LINK = 1e9; /* bytes a second between ranks, about */

/* ------------------------------------------------------------------------------------------------- figures */

struct tally *tally_of(struct store *store, uint16_t tenant, uint32_t kind)
{
    return &store->tenants[tenant].kinds[kind];
}

/* Where a tenant is, or would be; 0: all places are taken. */
static uint16_t find_tenant(const struct store *store, uint64_t tenant)
{
    for (uint32_t tried = 0; tried < TENANTS - 1; tried++) {
        uint16_t at = (uint16_t)(1 + (tenant + tried) % (TENANTS - 1));
        if (!store->tenants[at].taken || store->tenants[at].tenant == tenant) return at;
    }
    return 0;
}

uint16_t tally_slot(struct store *store, uint64_t tenant)
{
    uint16_t at = find_tenant(store, tenant);
    if (at) store->tenants[at].taken = true, store->tenants[at].tenant = tenant;
    return at;
}

static void tally_sum(struct tally *sum, const struct tally *one)
{
    sum->items += one->items;
    sum->published += one->published;
    sum->refused += one->refused;
    sum->spoiled += one->spoiled;
    sum->fetched += one->fetched;
    sum->lent += one->lent;
    sum->copied += one->copied;
    sum->seconds_saved += one->seconds_saved;
    for (int i = 0; i < MISSES; i++) sum->misses[i] += one->misses[i];
    for (int i = 0; i < LEVELS; i++) {
        sum->bytes[i] += one->bytes[i];
        sum->hits[i] += one->hits[i];
        sum->evictions[i] += one->evictions[i];
    }
}

static uint64_t index_bytes(const struct store *store)
{
    uint64_t each = sizeof(struct entry) + sizeof(struct waste), extents = 0;
    for (int level = 0; level < ARENAS; level++)
        if (store->level[level].arena) extents += store->level[level].extents.most * sizeof(struct extent);
    return store->items * each + store->bucket_count * sizeof *store->buckets + extents +
           store->worth.ghost_count * sizeof(struct ghost);
}

void store_stats(struct store *store, const uint64_t *tenant, struct store_stats *stats)
{
    *stats = (struct store_stats){0};
    pthread_mutex_lock(&store->lock);
    for (int at = 0; at < TENANTS; at++) {
        const struct tenant_tally *one = &store->tenants[at];
        if (tenant && (!one->taken || one->tenant != *tenant)) continue;
        for (int kind = 0; kind < ITEM_KINDS; kind++) tally_sum(&stats->kinds[kind], &one->kinds[kind]);
    }
    if (!tenant) {
        for (int level = 0; level < LEVELS; level++) {
            stats->limit_bytes[level] = store->level[level].limit;
            stats->used_bytes[level] = store->level[level].used;
            struct extents_stats holes = {0};
            if (level < ARENAS && store->level[level].arena)
                extents_stats(&store->level[level].extents, &holes);
            stats->largest_hole[level] = holes.largest_hole;
        }
        stats->pinned_bytes = store->pinned_bytes;
        stats->drafts = store->drafts;
        stats->views = store->views;
        stats->index_bytes = index_bytes(store);
        stats->write_failures = store->write_failures;
    }
    pthread_mutex_unlock(&store->lock);
}

void store_tallies(struct store *store,
                   void (*told)(void *context, uint32_t place, uint64_t tenant, enum item_kind kind,
                                const struct tally *tally),
                   void *context)
{
    static const struct tally nothing;
    for (uint32_t at = 0; at < TENANTS; at++) {
        pthread_mutex_lock(&store->lock);
        struct tenant_tally one = store->tenants[at];
        pthread_mutex_unlock(&store->lock);
        if (at && !one.taken) continue;
        for (uint32_t kind = 0; kind < ITEM_KINDS; kind++)
            if (memcmp(&one.kinds[kind], &nothing, sizeof nothing) != 0)
                told(context, at * ITEM_KINDS + kind, one.tenant, (enum item_kind)kind, &one.kinds[kind]);
    }
}

/* --------------------------------------------------------------------------------------------------- lists */

/* What was never asked for again, or takes a tenth of its seconds to be fetched, is not worth another rank's room. */
static bool is_dear(const struct entry *entry)
{
    return entry->pinned ||
           (entry->uses > 0 && !entry->spare && (double)entry->seconds * LINK > 10 * (double)entry->bytes);
}

static struct store_entry entry_report(const struct store *store, const struct entry *entry, double now)
{
    return (struct store_entry){.key = entry->key,
                                .bytes = entry->bytes,
                                .xxh3 = entry->xxh3,
                                .seconds = (double)entry->seconds,
                                .age = now - entry->last,
                                .uses = entry->uses,
                                .readers = entry->readers,
                                .copies = entry->copies,
                                .pinned = entry->pinned,
                                .dear = is_dear(entry)};
}

static bool matches(const struct entry *entry, const struct store_match *match)
{
    return entry->state == ENTRY_HERE && (!match->key || key_equal(match->key, &entry->key)) &&
           (!match->by_tenant || match->tenant == entry->key.tenant) &&
           (!match->by_kind || (uint32_t)match->kind == entry->key.kind);
}

/* The next entry from *slot on that matches; a key is looked up. Under the lock. */
static uint32_t next_match(const struct store *store, const struct store_match *match, uint32_t from)
{
    if (match->key) {
        uint32_t slot = index_find(store, match->key);
        return slot != SLOT_NONE && slot >= from && matches(&store->entries[slot], match) ? slot : SLOT_NONE;
    }
    for (uint32_t slot = from; slot < store->fresh; slot++)
        if (matches(&store->entries[slot], match)) return slot;
    return SLOT_NONE;
}

size_t store_list(struct store *store, const struct store_match *match,
                  void (*told)(void *context, const struct store_entry *entry), void *context)
{
    struct store_entry found[LISTED_AT_ONCE];
    size_t all = 0;
    for (uint32_t slot = 0; slot != SLOT_NONE;) {
        size_t count = 0;
        pthread_mutex_lock(&store->lock);
        double now = store_seconds(store);
        for (; count < LISTED_AT_ONCE && (slot = next_match(store, match, slot)) != SLOT_NONE; slot++)
            found[count++] = entry_report(store, &store->entries[slot], now);
        pthread_mutex_unlock(&store->lock);
        for (size_t i = 0; i < count && told; i++) told(context, &found[i]);
        all += count;
    }
    return all;
}

void change_note(struct store *store, uint32_t slot)
{
    const struct entry *entry = &store->entries[slot];
    uint32_t at = (store->change_first + store->change_count) % CHANGES;
    store->changes[at] = entry_report(store, entry, entry->last);
    if (store->change_count < CHANGES) {
        store->change_count++;
        return;
    }
    store->change_first = (store->change_first + 1) % CHANGES;
    store->changes_lost = true;
}

size_t store_changes(struct store *store, struct store_entry *changes, size_t most, bool *lost)
{
    size_t count = 0;
    pthread_mutex_lock(&store->lock);
    *lost = store->changes_lost;
    store->changes_lost = false;
    for (; count < most && store->change_count; count++, store->change_count--) {
        changes[count] = store->changes[store->change_first];
        store->change_first = (store->change_first + 1) % CHANGES;
    }
    pthread_mutex_unlock(&store->lock);
    return count;
}

/* ------------------------------------------------------------------------------------- pins and forgetting */

status_t store_pin(struct store *store, const struct key *key, bool pinned, struct error *error)
{
    status_t status = STATUS_OK;
    pthread_mutex_lock(&store->lock);
    uint32_t slot = index_find(store, key);
    struct entry *entry = slot == SLOT_NONE ? NULL : &store->entries[slot];
    uint64_t most = store->level[LEVEL_HOST].limit / 2;
    if (!entry || entry->state != ENTRY_HERE) {
        status = error_set(error, STATUS_NOT_FOUND, "cache: there is no such item to pin");
    } else if (pinned && !entry->pinned && store->pinned_bytes + entry->bytes > most) {
        status = error_set(error, STATUS_NO_MEMORY,
                           "cache: %" PRIu64 " bytes are pinned, and %" PRIu64
                           " more than half of the host's level, %" PRIu64,
                           store->pinned_bytes, entry->bytes, most);
    } else if (pinned != entry->pinned) {
        store->pinned_bytes += pinned ? entry->bytes : -entry->bytes;
        entry->pinned = pinned;
        if (pinned) change_note(store, slot);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

size_t store_forget(struct store *store, const struct store_match *match)
{
    size_t all = 0;
    for (uint32_t slot = 0; slot != SLOT_NONE;) {
        pthread_mutex_lock(&store->lock);
        for (int i = 0; i < LISTED_AT_ONCE && (slot = next_match(store, match, slot)) != SLOT_NONE;
             i++, slot++, all++)
            entry_forget(store, slot);
        pthread_mutex_unlock(&store->lock);
    }
    return all;
}
