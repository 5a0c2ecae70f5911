/*
 * store.h - one rank's items of the cache tier: device, host, disk, each under a byte limit.
 *
 *     if (store_get(store, &key, LEVEL_HOST, &view, &error) == STATUS_OK) {          a hit: pinned while it is read
 *         use(view.bytes, view.size); store_release(store, &view);
 *     } else if (store_reserve(store, &key, &about, LEVEL_HOST, &draft, &error) == STATUS_OK) {
 *         compute_into(draft.bytes); store_commit(store, &draft, NULL, &error);      or store_abort
 *     }
 *
 * Items are immutable. They are published in two phases: what is reserved is nobody's business until it is committed
 * with its hash (XXH3, 64 bits), and then it is whole. A view keeps the item, and its place, until it is released,
 * whatever is evicted or forgotten meanwhile. Bytes that were written elsewhere are checked: an item that was
 * received, when it is committed; one from disk, each time it is read. What does not fit its hash is a miss.
 *
 * An item may have a copy at each level. New ones are copied downwards in the background (store_settle), not when room
 * is needed: eviction then only lets go of copies, and never waits for a disk. An item asked for at a level is brought
 * there, if that makes sense. What is evicted is the copy whose loss costs least: seconds that a hit saves (or, with a
 * copy further down, that fetching takes), times the rate of hits that worth.h expects, by bytes. A new item for which
 * more than its own worth would have to go is not let in, nor is one that is sooner computed than copied.
 *
 * Threads. Every function may be called by any thread, but store_open and store_close. `lock` guards index, levels and
 * statistics; it is held for look-ups and accounting, never while bytes are copied, hashed, read, written or compared,
 * and nothing is waited for under it but the end of another thread's fetching of the same item. `duty` is held by
 * whoever settles: one thread at a time writes and removes files. Order: duty, then lock. store_get touches the disk
 * when the item is only there, and copies between memories (store_try does neither); reserve, commit, abort, release, pin, forget, stats and changes never
 * do. With `thread`, the store settles in a thread of its own; without, when it is told to.
 *
 * Nothing is allocated after store_open.
 */
#ifndef REFRAIN_CACHE_TIER_STORE_H
#define REFRAIN_CACHE_TIER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/tier/key.h"
#include "cache/tier/memory.h"
#include "cache/tier/miss.h"

struct store;

enum level { LEVEL_DEVICE, LEVEL_HOST, LEVEL_DISK, LEVELS };

enum eviction {
    EVICT_LEAST_WORTH, /* as above */
    EVICT_OLDEST,      /* least recently used, everything is let in: what benchmarks compare with */
};

enum { STORE_SPARE = 16 };
enum { STORE_ITEMS = 65536, STORE_ITEMS_MAX = 1 << 24, STORE_HOST_LEAST = 1 << 16 };
enum {
    STORE_TENANTS = 1024,
    STORE_TALLIES = STORE_TENANTS * ITEM_KINDS
}; /* told apart in figures; place 0: all further ones */

struct store_config {
    uint64_t limit_bytes[LEVELS]; /* 0: no such level; the host's must be STORE_HOST_LEAST at least */
    const struct level_memory *device, *host; /* NULL: no device level; memory_host. Borrowed */
    const char *directory; /* of the disk level, this store's alone; made if it is not there */
    uint32_t items;        /* at most; 0: STORE_ITEMS */
    uint32_t ghosts;       /* remembered of what is gone; 0: as many as items */
    enum eviction eviction;
    double bytes_per_second[LEVELS]; /* of fetching from there; 0: 20e9, 5e9, 1e9 */
    bool thread;                     /* settle in the background */
    int64_t (*now_ns)(void *clock);  /* NULL: clock_now_ns */
    void *clock;
};

/* STATUS_INVALID: a limit; STATUS_CONFLICT: the directory is in use; STATUS_IO, STATUS_NO_MEMORY. Items found on disk
 * are there again. */
status_t store_open(const struct store_config *config, struct store **store, struct error *error);
/* NULL is fine. Settles first. No view and no draft may be left. */
void store_close(struct store *store);

/* ---------------------------------------------------------------------------------------------- publishing */

#define STORE_SECONDS_MOST 1e9 /* thirty years: more is no time */

struct item {
    uint64_t bytes;
    double seconds; /* of a processor's time that a hit saves: 0..STORE_SECONDS_MOST */
    bool spare;     /* another rank has it: it is worth a STORE_SPARE-th here, until it is used */
};

struct draft {
    void *bytes; /* the arena's, 256-byte aligned: [size], the caller's until commit or abort */
    uint64_t size;
    enum level level; /* LEVEL_DEVICE: bytes are the device's */
    uint32_t slot;
};

/* level: LEVEL_HOST, or LEVEL_DEVICE: there, or on the host where no device has room (draft->level). STATUS_CONFLICT: it
 * is here, or being published; STATUS_INVALID: larger than the level, or sooner computed than copied; STATUS_NO_MEMORY: what
 * would have to go is worth more, or is in use. All of them mean: go on without. */
status_t store_reserve(struct store *store, const struct key *key, const struct item *item, enum level level,
                       struct draft *draft, struct error *error);
/* announced: the hash that the sender told; NULL: the bytes were made here. STATUS_CORRUPT: they do not fit it. Either
 * way the draft is over. */
status_t store_commit(struct store *store, struct draft *draft, const uint64_t *announced,
                      struct error *error);
/* The same for who has hashed the bytes already, as they came: `hash` is theirs. */
status_t store_commit_hashed(struct store *store, struct draft *draft, uint64_t hash,
                             const uint64_t *announced, struct error *error);
void store_abort(struct store *store, struct draft *draft);

/* ------------------------------------------------------------------------------------------------- reading */

struct view {
    const void *bytes; /* [size], until store_release */
    uint64_t size, xxh3;
    double seconds;
    enum level level; /* whose memory it is */
    uint32_t slot;
};

/* level: LEVEL_DEVICE may be answered with the host's copy, when the device has no room. STATUS_NOT_FOUND: a miss,
 * *reason says which (NULL is fine). */
status_t store_get(struct store *store, const struct key *key, enum level level, struct view *view,
                   enum miss *reason);
void store_release(struct store *store, struct view *view);

/* As store_get, but nothing is copied, read from disk or waited for: STATUS_AGAIN where that has to be. (An item wanted on
 * the device that is on the host is lifted in the background, for the next time.) Only a hit counts, because
 * who gets no hit may look elsewhere: that ends with store_missed, or with an item that is committed and store_fetched. */
status_t store_try(struct store *store, const struct key *key, enum level level, struct view *view,
                   enum miss *reason);
/* It was asked for in vain, here and elsewhere. */
void store_missed(struct store *store, const struct key *key, enum miss reason);
/* As store_try, for what was asked for here and came from another rank: a hit there, not of what was here. */
status_t store_fetched(struct store *store, const struct key *key, enum level level, struct view *view,
                       enum miss *reason);
/* For another rank, which counts it: the host's copy. Without `waits` as store_try, with it as store_get. */
status_t store_lend(struct store *store, const struct key *key, bool waits, struct view *view,
                    enum miss *reason);

/* ------------------------------------------------------------------------------ what is here, and what goes */

/* All zero: everything. */
struct store_match {
    const struct key *key; /* NULL: any */
    bool by_tenant, by_kind;
    uint64_t tenant; /* of key_tenant */
    enum item_kind kind;
};

struct store_entry {
    struct key key;
    uint64_t bytes, xxh3;
    double seconds, age; /* since its last use, seconds */
    uint32_t uses, readers;
    uint8_t copies; /* bit 1 << level; 0: it has gone */
    bool pinned;
    bool
        dear; /* pinned; or used again, and worth its way to another rank: it should not be lost with this one */
};

/* Calls told() for committed items, without a lock; returns how many. */
size_t store_list(struct store *store, const struct store_match *match,
                  void (*told)(void *context, const struct store_entry *entry), void *context);
/* What came and went, or became dear, since the last call, in order, at most `most`; returns how many. *lost: there was more than is
 * remembered, ask store_list. For one caller: the directory's messenger. */
size_t store_changes(struct store *store, struct store_entry *changes, size_t most, bool *lost);

/* A pinned item keeps its last copy. STATUS_NOT_FOUND; STATUS_NO_MEMORY: half of the host's level is pinned. Not kept
 * over a restart. */
status_t store_pin(struct store *store, const struct key *key, bool pinned, struct error *error);
/* Nobody finds them from now on, views stay; files are gone after the next store_settle. Drafts are not touched.
 * Returns how many. */
size_t store_forget(struct store *store, const struct store_match *match);
/* Copies downwards what is new, to the device what was wanted there, and removes files: all there is to do. */
void store_settle(struct store *store);

/* -------------------------------------------------------------------------------------------------- figures */

struct tally {
    uint64_t items, bytes[LEVELS]; /* here now, with rounding; drafts are not counted */
    uint64_t published, refused;   /* committed; not let in */
    uint64_t spoiled;              /* did not fit the announced hash */
    uint64_t hits[LEVELS];         /* by where they were found */
    uint64_t fetched, lent;        /* hits on other ranks; other ranks' hits here */
    uint64_t copied;               /* published as spare */
    uint64_t misses[MISSES];
    uint64_t evictions[LEVELS]; /* copies */
    double seconds_saved;
};

struct store_stats {
    struct tally kinds[ITEM_KINDS];
    uint64_t limit_bytes[LEVELS], used_bytes[LEVELS]; /* drafts included */
    uint64_t largest_hole[LEVELS];                    /* contiguous room, device and host */
    uint64_t pinned_bytes, drafts, views;
    uint64_t index_bytes; /* of memory beside the arenas, for the items there may be */
    uint64_t write_failures;
};
/* tenant: of key_tenant, its kinds only and no more than its own; NULL: everybody's. */
void store_stats(struct store *store, const uint64_t *tenant, struct store_stats *stats);
/* Calls told() for each tenant and kind of which anything was counted, without a lock. place: below STORE_TALLIES, the
 * same one for as long as the store is open. */
void store_tallies(struct store *store,
                   void (*told)(void *context, uint32_t place, uint64_t tenant, enum item_kind kind,
                                const struct tally *tally),
                   void *context);

#endif
