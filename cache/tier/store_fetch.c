/* store_fetch.c - brings an entry's bytes to a level: from one memory to the other, or from disk. Under the lock, which is
 * let go while bytes move. */
#include <xxhash.h>
#include "base/log.h"
#include "cache/tier/store_core.h"

enum miss entry_fetch(struct store *store, uint32_t slot, enum level level, double worth)
{
    struct entry *entry = &store->entries[slot];
    struct error error = {0};
    if (!level_make_room(store, level, slot, entry->bytes, worth)) return MISS_NO_ROOM;
    enum level from = level == LEVEL_DEVICE            ? LEVEL_HOST
                      : level_has(entry, LEVEL_DEVICE) ? LEVEL_DEVICE
                                                       : LEVEL_DISK;
    const struct level_memory *memory = store->level[from == LEVEL_DISK ? level : LEVEL_DEVICE].memory;
    entry->fetching = true;
    void *to = level_address(store, level, entry);
    const void *source = from == LEVEL_DISK ? NULL : level_address(store, from, entry);
    struct disk_item item = {
        .key = entry->key, .bytes = entry->bytes, .xxh3 = entry->xxh3, .serial = entry->serial};
    pthread_mutex_unlock(&store->lock);
    status_t status;
    if (from == LEVEL_DISK)
        status = disk_read(&store->disk, &item, to, &error);
    else if (from == LEVEL_HOST)
        status = memory->from_host(memory->context, to, source, item.bytes, &error);
    else
        status = memory->to_host(memory->context, to, source, item.bytes, &error);
    if (from == LEVEL_DEVICE && status == STATUS_OK && XXH3_64bits(to, item.bytes) != item.xxh3)
        status = error_set(&error, STATUS_CORRUPT, "the device's bytes have another hash");
    if (status != STATUS_OK)
        log_line(LOG_WARN, "cache: an item of kind %s cannot be used: %s",
                 item_kind_name((enum item_kind)item.key.kind), error.text);
    pthread_mutex_lock(&store->lock);
    entry->fetching = false;
    pthread_cond_broadcast(&store->fetched);
    if (status == STATUS_OK && entry->state == ENTRY_HERE) {
        level_add(store, level, slot);
        return MISSES;
    }
    level_give_back(store, level, item.bytes, entry->extent[level]);
    if (entry->state != ENTRY_HERE) return MISS_ABSENT; /* forgotten meanwhile */
    if (from != LEVEL_HOST) entry_forget(store, slot);
    return status == STATUS_CORRUPT ? MISS_DAMAGED : MISS_UNREADABLE;
}

/* Worth the time that the next fetch from the host takes. */
void entry_lift(struct store *store, uint32_t slot)
{
    struct entry *entry = &store->entries[slot];
    if (entry->state != ENTRY_HERE || entry->fetching || level_has(entry, LEVEL_DEVICE) ||
        !level_has(entry, LEVEL_HOST))
        return;
    double age = store_seconds(store) - entry->last,
           seconds = (double)entry->bytes / store->config.bytes_per_second[LEVEL_HOST];
    entry_fetch(store, slot, LEVEL_DEVICE,
                seconds * worth_rate(&store->worth, habit_of(&entry->key, entry->uses), age));
}
