/* store.c - see store.h: opening, publishing, reading. Any thread; bytes are touched without the lock. */
#include "cache/tier/store.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/log.h"
#include "cache/tier/store_core.h"

enum {
    MARGIN = 2,       /* computing must take so many times as long as fetching */
    SWEEP = 2,        /* entries that one operation counts the waiting of */
    PATIENCE_S = 5,   /* for another thread that fetches the same item */
    PIECE = 64 << 10, /* of a device's bytes, to be hashed */
};

static const double usual_bytes_per_second[LEVELS] = {20e9, 5e9, 1e9};

/* ------------------------------------------------------------------------------------- opening and closing */

static status_t open_arena(struct store *store, enum level level, const struct level_memory *memory,
                           struct error *error)
{
    struct level_room *room = &store->level[level];
    void *arena;
    room->memory = memory;
    status_t status = extents_open(&room->extents, room->limit, store->items, error);
    if (status != STATUS_OK) return status;
    status = memory->allocate(memory->context, room->limit, &arena, error);
    if (status == STATUS_OK) room->arena = arena;
    return status;
}

struct finds {
    struct disk_item *item;
    size_t count, room;
};

static status_t note_find(void *context, const struct disk_item *item)
{
    struct finds *finds = context;
    if (finds->count == finds->room) {
        size_t room = finds->room ? 2 * finds->room : 1024;
        struct disk_item *grown = realloc(finds->item, room * sizeof *grown);
        if (!grown) return STATUS_NO_MEMORY;
        finds->item = grown;
        finds->room = room;
    }
    finds->item[finds->count++] = *item;
    return STATUS_OK;
}

static int newest_first(const void *a, const void *b)
{
    const struct disk_item *one = a, *other = b;
    if (one->made_ms != other->made_ms) return one->made_ms > other->made_ms ? -1 : 1;
    return one->serial > other->serial ? -1 : one->serial < other->serial;
}

/* False for NaN, too. */
static bool is_a_time(double seconds)
{
    return seconds >= 0 && seconds <= STORE_SECONDS_MOST;
}

/* A whole file of an earlier store. False: there is no place for it, or a newer one. */
static bool adopt(struct store *store, const struct disk_item *item)
{
    struct level_room *room = &store->level[LEVEL_DISK];
    uint64_t bytes = disk_bytes(item->bytes);
    if (item->serial >= store->serial) store->serial = item->serial + 1;
    if (item->bytes == 0 || !is_a_time(item->seconds) || bytes > room->limit - room->used ||
        item->bytes > store->level[LEVEL_HOST].limit || index_find(store, &item->key) != SLOT_NONE)
        return false;
    uint32_t slot = index_add(store, &item->key);
    if (slot == SLOT_NONE) return false;
    struct entry *entry = &store->entries[slot];
    entry->bytes = item->bytes;
    entry->xxh3 = item->xxh3;
    entry->seconds = (float)item->seconds;
    entry->serial = item->serial;
    entry->last = ((double)item->made_ms - (double)store->opened_wall_ms) * 1e-3;
    if (entry->last > 0) entry->last = 0; /* the wall clock was set back */
    entry->state = ENTRY_HERE;
    entry->tenant = tally_slot(store, item->key.tenant);
    room->used += bytes;
    level_add(store, LEVEL_DISK, slot);
    return true;
}

static status_t open_disk(struct store *store, struct error *error)
{
    struct finds finds = {0};
    struct disk_swept swept;
    if (!store->config.directory)
        return error_set(error, STATUS_INVALID, "cache: the disk level has a limit and no directory");
    status_t status = disk_open(store->config.directory, &store->disk, error);
    if (status == STATUS_OK) status = disk_scan(&store->disk, note_find, &finds, &swept, error);
    if (status != STATUS_OK) goto done;
    if (finds.count) qsort(finds.item, finds.count, sizeof *finds.item, newest_first);
    size_t kept = 0;
    for (size_t i = 0; i < finds.count; i++) {
        if (adopt(store, &finds.item[i]))
            kept++;
        else
            disk_remove(&store->disk, &finds.item[i]);
    }
    if (finds.count || swept.unfinished || swept.damaged || swept.other_version)
        log_line(LOG_INFO,
                 "cache: %zu items found in %s; removed: %zu without room, %u unfinished, %u damaged, %u of "
                 "another version",
                 kept, store->config.directory, finds.count - kept, swept.unfinished, swept.damaged,
                 swept.other_version);
done:
    free(finds.item);
    return status;
}

static status_t check_config(const struct store_config *config, struct error *error)
{
    if (config->limit_bytes[LEVEL_HOST] < STORE_HOST_LEAST)
        return error_set(error, STATUS_INVALID,
                         "cache: the host level has %" PRIu64 " bytes: at least %d are needed",
                         config->limit_bytes[LEVEL_HOST], STORE_HOST_LEAST);
    if (config->items > STORE_ITEMS_MAX)
        return error_set(error, STATUS_INVALID, "cache: %u items: at most %d are allowed", config->items,
                         STORE_ITEMS_MAX);
    if (config->limit_bytes[LEVEL_DEVICE] && !config->device)
        return error_set(error, STATUS_INVALID,
                         "cache: the device level has a limit, but there is no device");
    return STATUS_OK;
}

static status_t open_parts(struct store *store, struct error *error)
{
    const struct store_config *config = &store->config;
    status_t status = index_open(store, error);
    if (status == STATUS_OK)
        status = worth_open(&store->worth, config->ghosts ? config->ghosts : store->items, error);
    if (status != STATUS_OK) return status;
    store->tenants = calloc(TENANTS, sizeof *store->tenants);
    store->changes = calloc(CHANGES, sizeof *store->changes);
    if (!store->tenants || !store->changes)
        return error_set(error, STATUS_NO_MEMORY, "cache: no memory for figures");
    if (config->limit_bytes[LEVEL_DEVICE]) status = open_arena(store, LEVEL_DEVICE, config->device, error);
    if (status == STATUS_OK)
        status = open_arena(store, LEVEL_HOST, config->host ? config->host : &memory_host, error);
    if (status == STATUS_OK && config->limit_bytes[LEVEL_DISK]) status = open_disk(store, error);
    if (status != STATUS_OK || !config->thread) return status;
    if (pthread_create(&store->thread, NULL, settle_loop, store) != 0)
        return error_set(error, STATUS_NO_MEMORY, "cache: its thread cannot be made");
    store->thread_runs = true;
    return STATUS_OK;
}

status_t store_open(const struct store_config *config, struct store **store, struct error *error)
{
    pthread_condattr_t monotonic;
    status_t status = check_config(config, error);
    if (status != STATUS_OK) return status;
    struct store *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "cache: no memory for a store");
    made->config = *config;
    made->items = config->items ? config->items : STORE_ITEMS;
    made->disk.root = -1;
    made->opened_ns = config->now_ns ? config->now_ns(config->clock) : clock_now_ns();
    made->opened_wall_ms = clock_wall_ms();
    pthread_mutex_init(&made->duty, NULL);
    pthread_mutex_init(&made->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&made->fetched, &monotonic);
    pthread_cond_init(&made->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (int level = 0; level < LEVELS; level++) {
        struct level_room *room = &made->level[level];
        room->limit = config->limit_bytes[level];
        memset(room->oldest, 0xff, sizeof room->oldest);
        memset(room->newest, 0xff, sizeof room->newest);
        if (!(config->bytes_per_second[level] > 0))
            made->config.bytes_per_second[level] = usual_bytes_per_second[level];
    }
    if ((status = open_parts(made, error)) != STATUS_OK) {
        store_close(made);
        return status;
    }
    *store = made;
    return STATUS_OK;
}

void store_close(struct store *store)
{
    if (!store) return;
    if (store->thread_runs) {
        pthread_mutex_lock(&store->lock);
        store->stop = true;
        pthread_cond_signal(&store->work);
        pthread_mutex_unlock(&store->lock);
        pthread_join(store->thread, NULL);
    }
    if (store->disk.root >= 0) store_settle(store);
    disk_close(&store->disk);
    for (int level = 0; level < ARENAS; level++) {
        struct level_room *room = &store->level[level];
        if (room->arena) room->memory->release(room->memory->context, room->arena, room->limit);
        extents_close(&room->extents);
    }
    index_close(store);
    worth_close(&store->worth);
    free(store->tenants);
    free(store->changes);
    pthread_cond_destroy(&store->fetched);
    pthread_cond_destroy(&store->work);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->duty);
    free(store);
}

/* ---------------------------------------------------------------------------------------------- publishing */

/* So that those who wait without being asked for count as well: all are looked at in turn. */
static void sweep(struct store *store, double now)
{
    worth_look(&store->worth, now);
    for (int i = 0; i < SWEEP && store->fresh; i++) {
        struct entry *entry = &store->entries[store->hand++ % store->fresh];
        if (entry->state == ENTRY_HERE)
            worth_waited(&store->worth, habit_of(&entry->key, entry->uses), now - entry->last,
                         &entry->counted);
    }
}

static status_t check_item(const struct store *store, const struct key *key, const struct item *item,
                           enum level level, struct error *error)
{
    if (key->kind >= ITEM_KINDS || key->format != KEY_FORMAT)
        return error_set(error, STATUS_INVALID, "cache: no key of this program's");
    const char *kind = item_kind_name((enum item_kind)key->kind);
    if (level == LEVEL_DISK)
        return error_set(error, STATUS_INVALID, "cache: an item of kind %s is to be put where no memory is",
                         kind);
    if (item->bytes == 0 || item->bytes > store->level[level].limit)
        return error_set(error, STATUS_INVALID,
                         "cache: an item of kind %s has %" PRIu64 " bytes: 1 to %" PRIu64 " are allowed",
                         kind, item->bytes, store->level[level].limit);
    if (!is_a_time(item->seconds))
        return error_set(error, STATUS_INVALID, "cache: an item of kind %s saves %g seconds: no such time",
                         kind, item->seconds);
    return STATUS_OK;
}

/* Under the lock. Everything but the entry's kind and key is zero before. */
static status_t make_draft(struct store *store, const struct key *key, const struct item *item,
                           enum level level, uint32_t uses, struct draft *draft, struct error *error)
{
    const char *kind = item_kind_name((enum item_kind)key->kind);
    double worth = item->seconds * worth_rate(&store->worth, habit_of(key, uses), 0);
    if (item->spare) worth /= STORE_SPARE;
    if (item->seconds * store->config.bytes_per_second[level] < MARGIN * (double)item->bytes)
        return error_set(error, STATUS_INVALID,
                         "cache: an item of kind %s has %" PRIu64
                         " bytes and saves %g s: it is sooner computed than "
                         "copied",
                         kind, item->bytes, item->seconds);
    if (store->live == store->items) level_evict_any(store);
    uint32_t slot = index_add(store, key);
    if (slot == SLOT_NONE)
        return error_set(error, STATUS_NO_MEMORY, "cache: all of %u items are in use", store->items);
    bool room = level_make_room(store, level, slot, item->bytes, worth);
    if (!room && level == LEVEL_DEVICE)
        room = level_make_room(store, level = LEVEL_HOST, slot, item->bytes, worth);
    if (!room) {
        index_hide(store, slot);
        index_free(store, slot);
        return error_set(error, STATUS_NO_MEMORY,
                         "cache: for an item of kind %s with %" PRIu64
                         " bytes, what is worth more would have to go",
                         kind, item->bytes);
    }
    struct entry *entry = &store->entries[slot];
    entry->bytes = item->bytes;
    entry->seconds = (float)item->seconds;
    entry->uses = uses;
    entry->spare = item->spare;
    entry->state = ENTRY_DRAFT;
    entry->tenant = tally_slot(store, key->tenant);
    store->drafts++;
    *draft = (struct draft){
        .bytes = level_address(store, level, entry), .size = item->bytes, .level = level, .slot = slot};
    return STATUS_OK;
}

status_t store_reserve(struct store *store, const struct key *key, const struct item *item, enum level level,
                       struct draft *draft, struct error *error)
{
    if (level == LEVEL_DEVICE && item->bytes > store->level[LEVEL_DEVICE].limit) level = LEVEL_HOST;
    status_t status = check_item(store, key, item, level, error);
    if (status != STATUS_OK) return status;
    pthread_mutex_lock(&store->lock);
    double now = store_seconds(store);
    sweep(store, now);
    uint32_t slot = index_find(store, key);
    if (slot != SLOT_NONE) {
        status = error_set(error, STATUS_CONFLICT,
                           store->entries[slot].state == ENTRY_DRAFT ? "cache: the item is being published"
                                                                     : "cache: the item is here already");
    } else {
        uint32_t uses = worth_recall(&store->worth, key);
        status = make_draft(store, key, item, level, uses, draft, error);
        if (status != STATUS_OK) {
            worth_remember(&store->worth, key, uses, now, now, 0);
            tally_of(store, tally_slot(store, key->tenant), key->kind)->refused++;
        }
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* XXH3 of a level's bytes; a device's come through a small buffer. */
static status_t hash_level(const struct store *store, enum level level, const uint8_t *bytes, uint64_t size,
                           uint64_t *hash, struct error *error)
{
    if (level == LEVEL_HOST) {
        *hash = XXH3_64bits(bytes, size);
        return STATUS_OK;
    }
    uint8_t piece[PIECE];
    const struct level_memory *memory = store->level[level].memory;
    status_t status = STATUS_OK;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return error_set(error, STATUS_NO_MEMORY, "cache: no memory to hash a device's bytes");
    XXH3_64bits_reset(state);
    for (uint64_t at = 0; status == STATUS_OK && at < size; at += PIECE) {
        size_t part = size - at < PIECE ? size - at : PIECE;
        status = memory->to_host(memory->context, piece, bytes + at, part, error);
        XXH3_64bits_update(state, piece, part);
    }
    *hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return status;
}

/* Under the lock. */
static void end_draft(struct store *store, struct draft *draft)
{
    struct entry *entry = &store->entries[draft->slot];
    index_hide(store, draft->slot);
    level_give_back(store, draft->level, entry->bytes, entry->extent[draft->level]);
    index_free(store, draft->slot);
    store->drafts--;
    *draft = (struct draft){0};
}

/* status: of the hashing. */
static status_t commit(struct store *store, struct draft *draft, status_t status, uint64_t hash,
                       const uint64_t *announced, struct error *error)
{
    struct entry *entry = &store->entries[draft->slot];
    if (status == STATUS_OK && announced && hash != *announced)
        status = error_set(error, STATUS_CORRUPT,
                           "cache: an item of kind %s arrived damaged: its hash is %016" PRIx64
                           ", not %016" PRIx64,
                           item_kind_name((enum item_kind)entry->key.kind), hash, *announced);
    pthread_mutex_lock(&store->lock);
    struct tally *tally = tally_of(store, entry->tenant, entry->key.kind);
    if (status != STATUS_OK) {
        tally->spoiled++;
        end_draft(store, draft);
    } else {
        double now = store_seconds(store);
        entry->xxh3 = hash;
        entry->last = now;
        entry->state = ENTRY_HERE;
        level_add(store, draft->level, draft->slot);
        worth_waited(&store->worth, habit_of(&entry->key, entry->uses), 0, &entry->counted);
        tally->published++;
        tally->copied += entry->spare;
        store->drafts--;
        change_note(store, draft->slot);
        if (store->disk.root >= 0 || draft->level == LEVEL_DEVICE) queue_add(store, LEVEL_DISK, draft->slot);
        *draft = (struct draft){0};
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

status_t store_commit(struct store *store, struct draft *draft, const uint64_t *announced,
                      struct error *error)
{
    uint64_t hash = 0;
    status_t status = hash_level(store, draft->level, draft->bytes, draft->size, &hash, error);
    return commit(store, draft, status, hash, announced, error);
}

status_t store_commit_hashed(struct store *store, struct draft *draft, uint64_t hash,
                             const uint64_t *announced, struct error *error)
{
    return commit(store, draft, STATUS_OK, hash, announced, error);
}

void store_abort(struct store *store, struct draft *draft)
{
    pthread_mutex_lock(&store->lock);
    end_draft(store, draft);
    pthread_mutex_unlock(&store->lock);
}

/* ------------------------------------------------------------------------------------------------- reading */

/* The entry, once nobody else is fetching what is wanted of it. */
static uint32_t await(struct store *store, const struct key *key, enum level level, enum miss *reason)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_S;
    for (;;) {
        uint32_t slot = index_find(store, key);
        const struct entry *entry = slot == SLOT_NONE ? NULL : &store->entries[slot];
        *reason = !entry ? MISS_ABSENT : entry->state == ENTRY_DRAFT ? MISS_UNFINISHED : MISSES;
        if (*reason != MISSES) return SLOT_NONE;
        if (!entry->fetching || level_has(entry, LEVEL_HOST) || level_has(entry, level)) return slot;
        if (pthread_cond_timedwait(&store->fetched, &store->lock, &until) != 0) {
            *reason = MISS_LATE;
            return SLOT_NONE;
        }
    }
}

/* Brings the entry to where it can be read. MISSES: it is. To the device now if the caller waits, else soon: until then the
 * host's copy serves as well. */
static enum miss bring(struct store *store, uint32_t slot, enum level level, bool waits)
{
    struct entry *entry = &store->entries[slot];
    enum miss reason = MISSES;
    bool device = level == LEVEL_DEVICE && store->level[LEVEL_DEVICE].arena;
    if (!level_has(entry, LEVEL_HOST) && !(device && level_has(entry, LEVEL_DEVICE)))
        reason = entry_fetch(store, slot, LEVEL_HOST, INFINITY);
    if (reason != MISSES || !device || level_has(entry, LEVEL_DEVICE)) return reason;
    if (waits)
        entry_lift(store, slot);
    else
        queue_add(store, LEVEL_DEVICE, slot);
    return MISSES;
}

/* Where the entry's bytes would be read from now. */
static enum level nearest(const struct entry *entry, enum level wanted)
{
    return level_has(entry, wanted)         ? wanted
           : level_has(entry, LEVEL_HOST)   ? LEVEL_HOST
           : level_has(entry, LEVEL_DEVICE) ? LEVEL_DEVICE
                                            : LEVEL_DISK;
}

/* A reader of the entry gets its view. Under the lock. */
static void show(struct store *store, uint32_t slot, enum level level, struct view *view)
{
    struct entry *entry = &store->entries[slot];
    enum level where = level == LEVEL_DEVICE && level_has(entry, level) ? level : LEVEL_HOST;
    *view = (struct view){.bytes = level_address(store, where, entry),
                          .size = entry->bytes,
                          .xxh3 = entry->xxh3,
                          .seconds = (double)entry->seconds,
                          .level = where,
                          .slot = slot};
    store->views++;
}

/* What a view is for, and so how it counts. */
enum purpose {
    FOR_HIT,     /* a use here */
    FOR_FETCHED, /* it came from another rank a moment ago */
    FOR_LENT,    /* another rank's use */
};

static void count_use(struct store *store, uint32_t slot, enum purpose purpose, enum level found, double now)
{
    struct entry *entry = &store->entries[slot];
    struct tally *tally = tally_of(store, entry->tenant, entry->key.kind);
    if (purpose == FOR_HIT) tally->hits[found]++;
    if (purpose == FOR_FETCHED) tally->fetched++;
    if (purpose == FOR_LENT) tally->lent++;
    if (purpose != FOR_LENT) tally->seconds_saved += (double)entry->seconds;
    if (purpose != FOR_FETCHED)
        worth_reused(&store->worth, habit_of(&entry->key, entry->uses), now - entry->last, &entry->counted);
    bool more = worth_class(entry->uses + 1) > worth_class(entry->uses);
    entry->uses++;
    entry->spare = false;
    if (entry->state != ENTRY_HERE) return;
    level_touch(store, slot, now);
    if (more) change_note(store, slot);
}

static void count_miss(struct store *store, const struct key *key, enum miss why, double now)
{
    if (key->kind >= ITEM_KINDS) return;
    tally_of(store, tally_slot(store, key->tenant), key->kind)->misses[why]++;
    worth_missed(&store->worth, key, now);
}

/* The entry if its bytes are where they are wanted, or on the host. STATUS_AGAIN: they have to be brought. */
static status_t at_hand(const struct store *store, const struct key *key, enum level level, uint32_t *slot,
                        enum miss *reason)
{
    *slot = index_find(store, key);
    const struct entry *entry = *slot == SLOT_NONE ? NULL : &store->entries[*slot];
    *reason = !entry ? MISS_ABSENT : entry->state == ENTRY_DRAFT ? MISS_UNFINISHED : MISSES;
    if (*reason != MISSES) return STATUS_NOT_FOUND;
    return level_has(entry, LEVEL_HOST) || level_has(entry, level) ? STATUS_OK : STATUS_AGAIN;
}

static status_t get(struct store *store, const struct key *key, enum level level, enum purpose purpose,
                    bool waits, struct view *view, enum miss *reason)
{
    enum miss why;
    uint32_t slot;
    status_t status = STATUS_OK;
    if (level != LEVEL_DEVICE) level = LEVEL_HOST;
    pthread_mutex_lock(&store->lock);
    double now = store_seconds(store);
    sweep(store, now);
    if (waits)
        slot = await(store, key, level, &why);
    else
        status = at_hand(store, key, level, &slot, &why);
    if (why == MISSES && status == STATUS_OK) {
        struct entry *entry = &store->entries[slot];
        enum level found = nearest(entry, level);
        entry->readers++;
        why = bring(store, slot, level, waits);
        if (why == MISSES) {
            count_use(store, slot, purpose, found, now);
            show(store, slot, level, view);
        } else {
            entry_leave(store, slot);
        }
    }
    if (why != MISSES) {
        status = STATUS_NOT_FOUND;
        if (waits && purpose == FOR_HIT) count_miss(store, key, why, now);
        if (reason) *reason = why;
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

status_t store_get(struct store *store, const struct key *key, enum level level, struct view *view,
                   enum miss *reason)
{
    return get(store, key, level, FOR_HIT, true, view, reason);
}

status_t store_try(struct store *store, const struct key *key, enum level level, struct view *view,
                   enum miss *reason)
{
    return get(store, key, level, FOR_HIT, false, view, reason);
}

status_t store_fetched(struct store *store, const struct key *key, enum level level, struct view *view,
                       enum miss *reason)
{
    return get(store, key, level, FOR_FETCHED, false, view, reason);
}

status_t store_lend(struct store *store, const struct key *key, bool waits, struct view *view,
                    enum miss *reason)
{
    return get(store, key, LEVEL_HOST, FOR_LENT, waits, view, reason);
}

void store_missed(struct store *store, const struct key *key, enum miss reason)
{
    pthread_mutex_lock(&store->lock);
    count_miss(store, key, reason, store_seconds(store));
    pthread_mutex_unlock(&store->lock);
}

void store_release(struct store *store, struct view *view)
{
    pthread_mutex_lock(&store->lock);
    store->views--;
    entry_leave(store, view->slot);
    pthread_mutex_unlock(&store->lock);
    *view = (struct view){0};
}
