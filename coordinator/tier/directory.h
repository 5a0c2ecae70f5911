/*
 * directory.h - which rank of a group has which item of the cache tier.
 *
 *     directory_open(ranks, DIRECTORY_ITEMS, &directory, &error);
 *     directory_note(directory, rank, &item);  directory_gone(directory, rank, &item.key);    what the rank's store says
 *     directory_drop(directory, rank);                                 it is lost, or about to say everything anew
 *     if (directory_lease(directory, &key, asker, now_ns, patience_ns, &lease))
 *         ... the asker goes to lease.holder, and expects lease.item ...
 *     directory_end(directory, lease.number, stale);
 *
 * The stores know what they have; this is only what they were heard to say, and may be lost at any time: they say it
 * again. So nothing here is ever believed without being checked. A lease is the right to ask one holder for one item
 * until a deadline: of several holders the one with the fewest leases is named. What keeps the bytes in their place is
 * the holder's own view. A lease that ends with `stale` takes the holder out of the entry.
 *
 * An entry takes 64 bytes and 4 more of the index, for up to DIRECTORY_HOLDERS holders; further ones are not known.
 * When all entries are in use the one noted longest ago makes room: that item is not found until its rank says it again.
 * Ranks are named by their seats, which do not change when others are drained.
 * Keys hold the tenant, so no look-up crosses tenants. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_TIER_DIRECTORY_H
#define REFRAIN_COORDINATOR_TIER_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>
#include "cache/tier/key.h"

struct directory;

enum {
    DIRECTORY_ITEMS = 1 << 20,
    DIRECTORY_HOLDERS = 4,
    DIRECTORY_LEASES = 1024,
    DIRECTORY_RANKS_MAX = 1024
};

struct directory_item {
    struct key key;
    uint64_t bytes, xxh3;
    float seconds; /* that a hit saves */
};

struct directory_lease {
    uint64_t number; /* never 0 */
    uint32_t holder;
    struct directory_item item;
};

/* items: a power of two. STATUS_NO_MEMORY. Memory is taken as it is used. */
status_t directory_open(uint32_t ranks, uint32_t items, struct directory **directory, struct error *error);
void directory_close(struct directory *directory); /* NULL is fine */

/* Another size or hash than was known: the others' copies count no more. */
void directory_note(struct directory *directory, uint32_t rank, const struct directory_item *item);
void directory_gone(struct directory *directory, uint32_t rank, const struct key *key);
void directory_drop(struct directory *directory, uint32_t rank);

/* False: nobody but the asker has it, or too many leases are out. */
bool directory_lease(struct directory *directory, const struct key *key, uint32_t asker, int64_t now_ns,
                     int64_t patience_ns, struct directory_lease *lease);
/* One that is over, or was never given, is no matter. */
void directory_end(struct directory *directory, uint64_t lease, bool stale);

struct directory_stats {
    uint64_t items, copies, bytes; /* bytes: of the entries in use and the index */
    uint64_t leases;               /* out */
    uint64_t asked, answered;      /* look-ups; of these with a lease */
    uint64_t overwritten;          /* entries that made room */
};
void directory_stats(const struct directory *directory, struct directory_stats *stats);
/* Calls told() for items until it returns false; from the newest noted to the oldest, or nearly. */
void directory_list(const struct directory *directory,
                    bool (*told)(void *context, const struct directory_item *item, const uint16_t *ranks,
                                 int count),
                    void *context);
/* False: nobody is known to have it. */
bool directory_knows(const struct directory *directory, const struct key *key, struct directory_item *item);
/* Ranks known to have it: [most]; returns how many. *bytes: of the item, if there are any; NULL is fine. */
int directory_holders(const struct directory *directory, const struct key *key, uint32_t *ranks, int most,
                      uint64_t *bytes);

#endif
