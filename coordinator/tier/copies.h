/*
 * copies.h - second copies of a group's dear items of the cache tier, so that the loss of a rank does not lose them: which
 * item, to which rank, when.
 *
 *     copies_want(&copies, &key);                              a rank says that it is dear
 *     if (copies_next(&copies, directory, ranks, count, now_ns, &order))
 *         ... rank order.rank is told to fetch order.key ...
 *
 * One item of a group is on its way at a time, until the directory knows of the copy or COPIES_PATIENCE_NS have passed, and no
 * more than COPIES_BYTES_PER_SECOND on average: what nobody waits for takes next to nothing of the links. The rank with the
 * most room is told, on another host than the holder's if there is one; whether it lets the item in is its store's to say. What is
 * not let in is wanted again when it is used again. Nothing here has to be right, or to survive.
 *
 * A plain value; zero at first. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_TIER_COPIES_H
#define REFRAIN_COORDINATOR_TIER_COPIES_H

#include "base/clock.h"
#include "coordinator/tier/directory.h"

enum { COPIES_WANTED = 256 };
#define COPIES_PATIENCE_NS      (30 * SECOND_NS)
#define COPIES_BYTES_PER_SECOND 50e6

struct copies {
    struct key wanted[COPIES_WANTED]; /* a ring; the oldest goes when there are more */
    uint32_t first, count;
    bool under_way;
    struct key key; /* under way, to that seat */
    uint32_t seat;
    int64_t until_ns, next_ns; /* given up then; nothing new before */
};

/* A rank that is in the epoch. */
struct copies_rank {
    uint32_t seat;
    const char *host;
    uint64_t limit_bytes, used_bytes; /* of its store's memory */
};

struct copies_order {
    struct key key;
    uint32_t rank; /* place in the list */
};

void copies_want(struct copies *copies, const struct key *key);
/* ranks: [count]. False: nothing is to be told now. */
bool copies_next(struct copies *copies, const struct directory *directory, const struct copies_rank *ranks,
                 uint32_t count, int64_t now_ns, struct copies_order *order);

#endif
