/* copies.c - see copies.h. Runs on the coordinator's loop thread. */
#include "coordinator/tier/copies.h"

#include <string.h>

void copies_want(struct copies *c, const struct key *key)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (key_equal(&c->wanted[(c->first + i) % COPIES_WANTED], key)) return;
    if (c->count == COPIES_WANTED) {
        c->first = (c->first + 1) % COPIES_WANTED;
        c->count--;
    }
    c->wanted[(c->first + c->count++) % COPIES_WANTED] = *key;
}

static bool is_among(uint32_t seat, const uint32_t *seats, int count)
{
    for (int i = 0; i < count; i++)
        if (seats[i] == seat) return true;
    return false;
}

/* It has come, or is not waited for any more. */
static bool is_over(const struct copies *c, const struct directory *directory, int64_t now_ns)
{
    uint32_t holders[DIRECTORY_HOLDERS];
    int count = directory_holders(directory, &c->key, holders, DIRECTORY_HOLDERS, NULL);
    return now_ns >= c->until_ns || count == 0 || is_among(c->seat, holders, count);
}

static const char *host_of(const struct copies_rank *ranks, uint32_t count, uint32_t seat)
{
    for (uint32_t i = 0; i < count; i++)
        if (ranks[i].seat == seat) return ranks[i].host;
    return "";
}

/* For an item with one holder; count: there is none. */
static uint32_t choose_rank(const struct copies_rank *ranks, uint32_t count, uint32_t holder, uint64_t bytes)
{
    const char *host = host_of(ranks, count, holder);
    uint32_t best = count;
    uint64_t best_room = 0;
    bool best_elsewhere = false;
    for (uint32_t i = 0; i < count; i++) {
        const struct copies_rank *one = &ranks[i];
        uint64_t room = one->limit_bytes > one->used_bytes ? one->limit_bytes - one->used_bytes : 0;
        bool elsewhere = strcmp(one->host, host) != 0;
        if (one->seat == holder || bytes > one->limit_bytes / 2) continue;
        if (best < count && (elsewhere != best_elsewhere ? best_elsewhere : room <= best_room)) continue;
        best = i;
        best_room = room;
        best_elsewhere = elsewhere;
    }
    return best;
}

bool copies_next(struct copies *c, const struct directory *directory, const struct copies_rank *ranks,
                 uint32_t count, int64_t now_ns, struct copies_order *order)
{
    if (c->under_way && !is_over(c, directory, now_ns)) return false;
    c->under_way = false;
    if (now_ns < c->next_ns) return false;
    for (uint32_t left = c->count; left > 0; left--) {
        struct key key = c->wanted[c->first];
        uint32_t holders[2];
        uint64_t bytes;
        c->first = (c->first + 1) % COPIES_WANTED;
        c->count--;
        if (directory_holders(directory, &key, holders, 2, &bytes) != 1) continue;
        uint32_t rank = choose_rank(ranks, count, holders[0], bytes);
        if (rank == count) { /* none now; perhaps later */
            copies_want(c, &key);
            continue;
        }
        *order = (struct copies_order){.key = key, .rank = rank};
        c->key = key;
        c->seat = ranks[rank].seat;
        c->until_ns = now_ns + COPIES_PATIENCE_NS;
        c->next_ns = now_ns + (int64_t)((double)bytes / COPIES_BYTES_PER_SECOND * 1e9);
        c->under_way = true;
        return true;
    }
    return false;
}
