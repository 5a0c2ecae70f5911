/*
 * store_settle.c - a store's work in the background: new items are copied to the levels below, used ones to the
 * device, files that are not wanted any more are removed. One thread at a time, who holds `duty`; the lock is let go while bytes move.
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
        !level_make_room(store, LEVEL_DISK, slot, entry->bytes, level_worth(store, entry, now)))
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

/* An item that was made on the device goes to the host first. */
static void copy_down(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    if (entry->state == ENTRY_HERE && !level_has(entry, LEVEL_HOST) && !entry->fetching)
        entry_fetch(store, slot, LEVEL_HOST, level_worth(store, entry, store_seconds(store)));
    if (store->disk.root >= 0 && entry->state == ENTRY_HERE && level_has(entry, LEVEL_HOST))
        copy_to_disk(store, slot);
}

/* False: nothing waits to be copied. */
static bool copy_next(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    bool down = store->level[LEVEL_DISK].oldest[LIST_QUEUE] != SLOT_NONE;
    uint32_t slot = queue_take(store, down ? LEVEL_DISK : LEVEL_DEVICE);
    if (slot != SLOT_NONE) {
        store->entries[slot].readers++;
        (down ? copy_down : entry_lift)(store, slot);
        entry_leave(store, slot);
    }
    pthread_mutex_unlock(&store->lock);
    return slot != SLOT_NONE;
}

static bool idle(const struct store *store)
{
    return !store->waste_count && store->level[LEVEL_DISK].oldest[LIST_QUEUE] == SLOT_NONE &&
           store->level[LEVEL_DEVICE].oldest[LIST_QUEUE] == SLOT_NONE;
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
        if (idle(store)) {
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
