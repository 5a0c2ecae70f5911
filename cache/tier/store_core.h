/*
 * store_core.h - what the files of a store share: index.c finds entries, levels.c keeps their copies and chooses what
 * goes, window.c which neighbours go together, store.c publishes and reads, store_fetch.c brings copies to
 * levels, store_settle.c works in the background, store_report.c lists and counts. Nobody
 * else includes this.
 *
 * An entry is busy while somebody reads it, fetches it or copies it: `readers` counts all of them, none of its copies
 * goes then. Functions below are called under the lock.
 */
#ifndef REFRAIN_CACHE_TIER_STORE_CORE_H
#define REFRAIN_CACHE_TIER_STORE_CORE_H

#include <pthread.h>
#include "cache/tier/disk.h"
#include "cache/tier/extents.h"
#include "cache/tier/store.h"
#include "cache/tier/worth.h"

#define SLOT_NONE UINT32_MAX

enum {
    DENSITIES = 84,                              /* half octaves of seconds by byte */
    LISTS = ITEM_KINDS * WORTH_USES * DENSITIES, /* entries that differ by age alone */
    LIST_QUEUE = LISTS,                          /* not at that level yet; in its links */
    LIST_WORDS = LISTS / 64 + 1,
    ARENAS = 2, /* device and host */
    TENANTS = STORE_TENANTS,
    CHANGES = 1024,
};

enum entry_state { ENTRY_UNUSED, ENTRY_DRAFT, ENTRY_HERE, ENTRY_FORGOTTEN /* kept for its readers */ };

struct entry {
    struct key key;
    uint64_t bytes, xxh3;
    double last; /* use, on the store's clock, seconds */
    float seconds;
    uint32_t uses, readers, serial;
    uint32_t extent[ARENAS];
    uint32_t older[LEVELS],
        newer[LEVELS]; /* in its list at each level; unused entries: older[0] is the next one */
    uint16_t list, tenant;
    uint8_t copies, queued, state, counted; /* bits of levels, the first two; counted: worth.h */
    bool pinned, fetching, spare;
};

struct level_room {
    uint64_t limit, used; /* bytes, drafts included */
    const struct level_memory *memory;
    uint8_t *arena;
    struct extents extents;
    uint32_t oldest[LISTS + 1], newest[LISTS + 1];
    uint64_t occupied[LIST_WORDS]; /* lists with entries */
};

struct tenant_tally {
    uint64_t tenant;
    bool taken;
    struct tally kinds[ITEM_KINDS];
};

struct waste {
    struct key key;
    uint32_t serial;
};

struct store {
    struct store_config config;
    int64_t opened_ns, opened_wall_ms;
    struct disk disk;
    pthread_t thread;
    bool thread_runs, stop;

    pthread_mutex_t duty; /* held by whoever settles; first */
    pthread_mutex_t lock; /* guards what follows; never while bytes are touched */
    pthread_cond_t fetched, work;

    struct entry *entries;               /* [items] */
    uint32_t items, fresh, unused, live; /* never used from `fresh` on; a list; taken */
    uint32_t *buckets;                   /* [bucket_count]: slot + 1, 0 is empty; a power of two */
    uint32_t bucket_count, hand;
    struct level_room level[LEVELS];
    struct worth worth;
    uint32_t serial;     /* of the next file */
    struct waste *waste; /* [items]: files to be removed */
    uint32_t waste_count;
    uint64_t disk_full_limit;
    double disk_full_until; /* seconds; until then the disk's limit is what is in use */
    uint64_t pinned_bytes, drafts, views, write_failures;
    struct tenant_tally *tenants; /* [TENANTS] */
    struct store_entry *changes;  /* [CHANGES], a ring */
    uint32_t change_first, change_count;
    bool changes_lost;
};

/* ---- index.c */
status_t index_open(struct store *store, struct error *error);
void index_close(struct store *store);
uint32_t index_find(const struct store *store, const struct key *key); /* SLOT_NONE */
uint32_t index_add(struct store *store,
                   const struct key *key);           /* all else zero; SLOT_NONE: no slot is free */
void index_hide(struct store *store, uint32_t slot); /* it is not found any more */
void index_free(struct store *store, uint32_t slot); /* hidden before */

/* ---- levels.c */
double store_seconds(const struct store *store); /* since it was opened; no lock needed */
static inline uint8_t level_bit(enum level level)
{
    return level == LEVEL_DEVICE ? 1 : level == LEVEL_HOST ? 1 << LEVEL_HOST : 1 << LEVEL_DISK;
}
static inline bool level_has(const struct entry *entry, enum level level)
{
    return entry->copies & level_bit(level);
}
uint64_t level_bytes(enum level level, uint64_t bytes); /* with rounding */
void *level_address(const struct store *store, enum level level, const struct entry *entry);
/* The entry was used, or moves to another list. */
void level_touch(struct store *store, uint32_t slot, double now);
/* The bytes are there, and their room was made: the copy counts. */
void level_add(struct store *store, enum level level, uint32_t slot);
/* The copy is let go; a file becomes waste. The entry stays. */
void level_drop(struct store *store, enum level level, uint32_t slot);
/* Room for `bytes` of that entry, at the cost of what is worth less than `worth` (INFINITY: than anything) in all; on device
 * and host in one piece, its `extent`. What is given is counted as used. */
bool level_make_room(struct store *store, enum level level, uint32_t slot, uint64_t bytes, double worth);
void level_give_back(struct store *store, enum level level, uint64_t bytes, uint32_t extent);
/* Seconds saved per second of keeping it; of a spare copy, a part of that. */
double level_worth(struct store *store, const struct entry *entry, double now);
/* What letting this copy go costs, in seconds per second: the whole item, or only fetching it from further down. */
double level_loss(struct store *store, enum level level, const struct entry *entry, double now);
bool level_may_go(const struct entry *entry, enum level level);
/* The copy whose loss costs least for its bytes (or the oldest, where that is asked for); SLOT_NONE: none may go. */
uint32_t level_least(struct store *store, enum level level, double now);
/* Out of its list, to be evicted: level_evict does that. */
void level_unlist(struct store *store, enum level level, uint32_t slot);
void level_evict(struct store *store, enum level level, uint32_t slot, double now);
/* One item less, whatever its levels, if one can go. */
void level_evict_any(struct store *store);

/* LEVEL_DISK: to be copied downwards. LEVEL_DEVICE: to be lifted there. It has no copy at that level. */
void queue_add(struct store *store, enum level level, uint32_t slot);
uint32_t queue_take(struct store *store, enum level level); /* the oldest; SLOT_NONE */

/* Out of index, lists and levels; freed at once, or by its last reader. */
void entry_forget(struct store *store, uint32_t slot);
/* A reader less. */
void entry_leave(struct store *store, uint32_t slot);

/* ---- store_report.c */
struct tally *tally_of(struct store *store, uint16_t tenant, uint32_t kind);
uint16_t tally_slot(struct store *store, uint64_t tenant); /* found or made */
void change_note(struct store *store, uint32_t slot);      /* it came or went */

/* ---- window.c */
enum { WINDOW_ITEMS = 4096 };
/* Lets neighbours go until so many bytes lie free in one piece. False: they are worth more than `worth`, or in use. */
bool window_clear(struct store *store, enum level level, uint64_t bytes, double worth, double now);

/* ---- store_fetch.c; the caller is a reader of the entry */
/* Takes room for a copy at `level`, worth so much, and makes it; from the device its bytes are checked. MISSES: it is
 * there. */
enum miss entry_fetch(struct store *store, uint32_t slot, enum level level, double worth);
/* The host's copy to the device, if that is worth what has to go there. */
void entry_lift(struct store *store, uint32_t slot);

/* ---- store_settle.c */
void *settle_loop(void *store);

#endif
