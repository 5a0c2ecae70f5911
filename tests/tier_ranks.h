/*
 * tier_ranks.h - several ranks' tiers in one thread, with a real fabric between them, real control threads, and a
 * coordinator that is the test around a real directory.
 *
 *     struct tier_ranks ranks = {.count = 2};
 *     tier_ranks_open(&ranks);
 *     tier_ranks_put(&ranks, 0, &key, bytes);
 *     assert_int_equal(tier_ranks_get(&ranks, 1, &key, bytes, 20000), MISSES);     fetched from rank 0, and right
 *     tier_ranks_close(&ranks);                                                    no view, no draft is left
 *
 * What goes wrong is planted: a rank that is gone or does nothing, a coordinator that is deaf, events that are changed or
 * dropped before the tier sees them.
 */
#ifndef REFRAIN_TESTS_TIER_RANKS_H
#define REFRAIN_TESTS_TIER_RANKS_H

#include "base/scratch.h"
#include "coordinator/tier/directory.h"
#include "worker/control.h"
#include "worker/engine.h"
#include "worker/tier_core.h"

enum { TIER_RANKS = 4, TIER_RANK_BYTES = 32 << 20 };

struct tier_rank {
    struct engine engine;
    struct control *control;
    char directory[SCRATCH_PATH_BYTES + 32];
    unsigned char identity[16];
    size_t identity_bytes;
    bool in_epoch, still, lost; /* still: it does nothing; lost: a member of its epoch was */
    int parts;                  /* ITEMs received */
};

struct tier_ranks {
    int count;
    const char *kind;      /* of the fabric; NULL: zmq */
    uint64_t memory, disk; /* bytes; 0: TIER_RANK_BYTES, none */
    /* Looks at an event before the tier does, and may change it; true: it is not told. */
    bool (*tamper)(struct tier_ranks *ranks, int rank, struct fabric_event *event);
    bool deaf;                             /* the coordinator neither hears nor speaks */
    int asks, ends, stale, welcomes, dear; /* dear: items that ranks called so */
    uint64_t epoch;
    struct directory *book;
    struct scratch scratch;
    void *zmq, *socket;
    struct tier_rank rank[TIER_RANKS];
};

void tier_ranks_open(struct tier_ranks *ranks);
void tier_ranks_close(struct tier_ranks *ranks);
void tier_ranks_join(struct tier_ranks *ranks); /* the next epoch, of all */
/* The rank is gone, to the others as if it was killed; it says nothing any more. */
void tier_ranks_kill(struct tier_ranks *ranks, int rank);
/* A coordinator that was restarted: it knows nothing, and asks who is there. */
void tier_ranks_restart(struct tier_ranks *ranks);
/* The coordinator wants a second copy there. */
void tier_ranks_copy(struct tier_ranks *ranks, int rank, const struct key *key);
/* Everything that has come, once; sleeps a little if there is nothing. */
void tier_ranks_turn(struct tier_ranks *ranks);

void tier_ranks_put(struct tier_ranks *ranks, int rank, const struct key *key, uint64_t bytes);
/* Asks, as a job does, for so long. MISSES: a hit whose bytes are right. */
enum miss tier_ranks_get(struct tier_ranks *ranks, int rank, const struct key *key, uint64_t bytes, int ms);
/* Until the directory knows so many holders of it; fails after 20 s. */
void tier_ranks_await(struct tier_ranks *ranks, const struct key *key, int holders);
/* Until no rank has a view or a draft; fails after 20 s. */
void tier_ranks_await_idle(struct tier_ranks *ranks);
struct tally tier_ranks_tally(struct tier_ranks *ranks, int rank, uint64_t tenant, enum item_kind kind);

#endif
