/*
 * store_settle.c - a store's work in the background: new items are copied to the levels below, files that are not
 * wanted any more are removed. One thread at a time, who holds `duty`; the lock is let go while bytes move.
 */
#include <math.h>
#include <string.h>
#include "base/log.h"
#include "cache/tier/store_core.h"

enum {
    REMOVED_AT_ONCE = 32,
    FULL_S = 60, /* after a write has failed, the disk's level does not grow for so long */
    MARGIN = 2,  /* computing must take so many times as long as reading */
};

/* False: there was nothing to remove. */
static bool remove_waste(struct store *store)
{
    struct waste waste[REMOVED_AT_ONCE];
    pthread_mutex_lock(&store->lock);
    uint32_t count = store->waste_count < REMOVED_AT_ONCE ? store->waste_count : REMOVED_AT_ONCE;
    store->waste_count -= count;
    memcpy(waste, store->waste + store->waste_count, count * sizeof *waste);
    pthread_mutex_unlock(&store->lock);
    for (uint32_t i = 0; i < count; i++)
        disk_remove(&store->disk, &(struct disk_item){.key = waste[i].key, .serial = waste[i].serial});
    return count > 0;
}

/* An item that was made on the device; under the lock, which is let go meanwhile. */
static void copy_to_host(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    const struct level_memory *memory = store->level[LEVEL_DEVICE].memory;
    struct error error;
    uint32_t extent;
    if (entry->fetching || !level_make_room(store, LEVEL_HOST, entry->bytes,
                                            level_worth(store, entry, store_seconds(store)), &extent))
        return;
    entry->extent[LEVEL_HOST] = extent;
    entry->fetching = true;
    void *to = level_address(store, LEVEL_HOST, entry);
    const void *from = level_address(store, LEVEL_DEVICE, entry);
    uint64_t bytes = entry->bytes;
    pthread_mutex_unlock(&store->lock);
    status_t status = memory->to_host(memory->context, to, from, bytes, &error);
    if (status != STATUS_OK) log_line(LOG_WARN, "cache: a device's item cannot be copied: %s", error.text);
    pthread_mutex_lock(&store->lock);
    entry->fetching = false;
    pthread_cond_broadcast(&store->fetched);
    if (status == STATUS_OK && entry->state == ENTRY_HERE)
        level_add(store, LEVEL_HOST, slot);
    else
        level_give_back(store, LEVEL_HOST, bytes, extent);
}

static void note_failure(struct store *store, const struct error *error, double now)
{
    store->write_failures++;
    if (now >= store->disk_full_until)
        log_line(LOG_WARN, "cache: %s: %s; its files take no more room for %d s", store->config.directory,
                 error->text, FULL_S);
    store->disk_full_until = now + FULL_S;
    store->disk_full_limit = store->level[LEVEL_DISK].used;
}

/* Under the lock, which is let go meanwhile. An item that the disk does not take stays where it is. */
static void copy_to_disk(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    struct error error;
    double now = store_seconds(store);
    if ((double)entry->seconds * store->config.bytes_per_second[LEVEL_DISK] < MARGIN * (double)entry->bytes ||
        !level_make_room(store, LEVEL_DISK, entry->bytes, level_worth(store, entry, now), NULL))
        return;
    struct disk_item item = {.key = entry->key,
                             .bytes = entry->bytes,
                             .xxh3 = entry->xxh3,
                             .seconds = (double)entry->seconds,
                             .serial = store->serial++,
                             .made_ms = store->opened_wall_ms + (int64_t)(entry->last * 1e3)};
    const void *bytes = level_address(store, LEVEL_HOST, entry);
    pthread_mutex_unlock(&store->lock);
    while (remove_waste(store)) continue; /* what made room for it */
    status_t status = disk_write(&store->disk, &item, bytes, &error);
    pthread_mutex_lock(&store->lock);
    entry->serial = item.serial;
    if (status == STATUS_OK && entry->state == ENTRY_HERE) {
        level_add(store, LEVEL_DISK, slot);
        return;
    }
    level_give_back(store, LEVEL_DISK, item.bytes, 0);
    if (status == STATUS_OK) /* forgotten meanwhile */
        store->waste[store->waste_count++] = (struct waste){item.key, item.serial};
    else
        note_failure(store, &error, now);
}

/* False: nothing waits to be copied. */
static bool copy_next(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    uint32_t slot = queue_take(store);
    if (slot != SLOT_NONE) {
        struct entry *entry = &store->entries[slot];
        entry->readers++;
        if (!level_has(entry, LEVEL_HOST)) copy_to_host(store, slot);
        if (store->disk.root >= 0 && entry->state == ENTRY_HERE && level_has(entry, LEVEL_HOST))
            copy_to_disk(store, slot);
        entry_leave(store, slot);
    }
    pthread_mutex_unlock(&store->lock);
    return slot != SLOT_NONE;
}

void store_settle(struct store *store)
{
    pthread_mutex_lock(&store->duty);
    while (remove_waste(store) || copy_next(store)) continue;
    pthread_mutex_unlock(&store->duty);
}

void *settle_loop(void *argument)
{
    struct store *store = argument;
    pthread_mutex_lock(&store->lock);
    while (!store->stop) {
        if (!store->waste_count && store->level[LEVEL_DISK].oldest[LIST_QUEUE] == SLOT_NONE) {
            pthread_cond_wait(&store->work, &store->lock);
            continue;
        }
        pthread_mutex_unlock(&store->lock);
        store_settle(store);
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
