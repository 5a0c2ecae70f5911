/*
 * index.c - a store's entries and how they are found: an open-addressed table of slots, linear probing, no tombstones.
 * Sized once for all the items there may be; memory is the system's until it is touched. Under the store's lock.
 */
#include <string.h>
#include <sys/mman.h>
#include "cache/tier/store_core.h"

static void *map(size_t bytes)
{
    void *mapped =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

status_t index_open(struct store *store, struct error *error)
{
    store->bucket_count = 16;
    while (store->bucket_count < store->items + store->items / 2) store->bucket_count *= 2;
    store->entries = map(store->items * sizeof *store->entries);
    store->buckets = map(store->bucket_count * sizeof *store->buckets);
    store->waste = map((store->items + 1) * sizeof *store->waste);
    store->unused = SLOT_NONE;
    if (store->entries && store->buckets && store->waste) return STATUS_OK;
    return error_set(error, STATUS_NO_MEMORY, "no memory for an index of %u items: %m", store->items);
}

void index_close(struct store *store)
{
    if (store->entries) munmap(store->entries, store->items * sizeof *store->entries);
    if (store->buckets) munmap(store->buckets, store->bucket_count * sizeof *store->buckets);
    if (store->waste) munmap(store->waste, (store->items + 1) * sizeof *store->waste);
}

static uint32_t home_of(const struct store *store, const struct key *key)
{
    return (uint32_t)(key->low ^ key->tenant) & (store->bucket_count - 1);
}

/* The bucket that holds the key, or the empty one where it belongs. */
static uint32_t bucket_of(const struct store *store, const struct key *key)
{
    uint32_t bucket = home_of(store, key);
    while (store->buckets[bucket] && !key_equal(&store->entries[store->buckets[bucket] - 1].key, key))
        bucket = (bucket + 1) & (store->bucket_count - 1);
    return bucket;
}

uint32_t index_find(const struct store *store, const struct key *key)
{
    uint32_t found = store->buckets[bucket_of(store, key)];
    return found ? found - 1 : SLOT_NONE;
}

uint32_t index_add(struct store *store, const struct key *key)
{
    uint32_t slot = store->unused;
    if (slot != SLOT_NONE)
        store->unused = store->entries[slot].older[0];
    else if (store->fresh < store->items)
        slot = store->fresh++;
    else
        return SLOT_NONE;
    struct entry *entry = &store->entries[slot];
    memset(entry, 0, sizeof *entry);
    entry->key = *key;
    store->buckets[bucket_of(store, key)] = slot + 1;
    store->live++;
    return slot;
}

/* What follows moves up where it may, so that no search ends too early. */
void index_hide(struct store *store, uint32_t slot)
{
    uint32_t mask = store->bucket_count - 1, hole = bucket_of(store, &store->entries[slot].key);
    store->buckets[hole] = 0;
    for (uint32_t next = (hole + 1) & mask; store->buckets[next]; next = (next + 1) & mask) {
        uint32_t home = home_of(store, &store->entries[store->buckets[next] - 1].key);
        if (((next - home) & mask) < ((next - hole) & mask)) continue;
        store->buckets[hole] = store->buckets[next];
        store->buckets[next] = 0;
        hole = next;
    }
}

void index_free(struct store *store, uint32_t slot)
{
    store->entries[slot].state = ENTRY_UNUSED;
    store->entries[slot].older[0] = store->unused;
    store->unused = slot;
    store->live--;
}
