/*
 * tier_rig.h - a store under test: items whose bytes follow from their key, a clock that stands until it is told, a
 * directory of its own, and a device whose memory nobody but its own functions can touch.
 *
 *     struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 1 << 20};
 *     tier_rig_open(&rig);
 *     struct key key = tier_rig_key(7, ITEM_TEXT, 1);
 *     assert_int_equal(tier_rig_put(&rig, &key, 4096, 1.0), STATUS_OK);
 *     assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);        a hit, and its bytes are right
 *     tier_rig_close(&rig);                                                  and nothing is left
 */
#ifndef REFRAIN_TESTS_TIER_RIG_H
#define REFRAIN_TESTS_TIER_RIG_H

#include "base/scratch.h"
#include "cache/tier/store.h"

enum { TIER_PATH = SCRATCH_PATH_BYTES + 128 };

struct tier_device {
    void *shadow; /* the same memory, where it can be touched */
    void *arena;  /* where it cannot */
    int copies;   /* to and from it */
    bool fails;
};

struct tier_rig {
    struct store_config config; /* limits and what else is not usual, set before tier_rig_open */
    struct store *store;
    struct scratch scratch;
    char items[TIER_PATH]; /* the store's directory, in there */
    struct tier_device device;
    struct level_memory memory;
    int64_t now_ns;
};

void tier_rig_open(struct tier_rig *rig);
void tier_rig_reopen(struct tier_rig *rig); /* the same directory */
void tier_rig_close(struct tier_rig *rig);  /* asserts that no draft and no view is left */
void tier_rig_sleep(struct tier_rig *rig, double seconds);

struct key tier_rig_key(uint64_t number, enum item_kind kind, uint64_t tenant);
void tier_rig_fill(const struct key *key, void *bytes, uint64_t size);
bool tier_rig_fits(const struct key *key, const void *bytes, uint64_t size);

/* Reserves, writes, commits. */
status_t tier_rig_put(struct tier_rig *rig, const struct key *key, uint64_t bytes, double seconds);
status_t tier_rig_put_at(struct tier_rig *rig, const struct key *key, uint64_t bytes, double seconds,
                         enum level level);
/* MISSES: a hit. Fails the test when its bytes are not the key's. */
enum miss tier_rig_get(struct tier_rig *rig, const struct key *key, enum level level);
/* Bit 1 << level for each copy; 0: not here. */
int tier_rig_copies(struct tier_rig *rig, const struct key *key);
struct tally tier_rig_sum(struct tier_rig *rig); /* over kinds */
/* The only file below the directory; fails if there is not exactly one. */
void tier_rig_file(const struct tier_rig *rig, char path[TIER_PATH]);
int tier_rig_files(const struct tier_rig *rig);

#endif
