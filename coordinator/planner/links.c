/* links.c - see links.h. */
#include "coordinator/planner/links.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NEWEST 0.5 /* of a link that is measured again: now and then something else was going on */

/* ------------------------------------------------------------------------------------------- the tournament */

uint32_t links_rounds(uint32_t ranks)
{
    return ranks % 2 ? ranks : ranks - 1;
}

/* Of an odd number of rounds m: those whose numbers add up to the round, modulo m, meet. Who would meet itself meets the last
 * one, where the number of ranks is even, or rests. */
uint32_t links_partner(uint32_t ranks, uint32_t round, uint32_t rank)
{
    uint32_t m = links_rounds(ranks);
    if (rank == m) return (uint32_t)((uint64_t)round * (m + 1) / 2 % m);
    uint32_t other = (round + m - rank) % m;
    return other != rank ? other : m;
}

/* --------------------------------------------------------------------------------------------- what is known */

static struct link *place_of(const struct links *l, uint32_t a, uint32_t b)
{
    uint32_t low = a < b ? a : b, high = a < b ? b : a;
    if (!l->link || low == high || high >= l->seats) return NULL;
    return &l->link[(size_t)high * (high - 1) / 2 + low];
}

bool links_find(const struct links *l, uint32_t seat, uint32_t other, struct link *link)
{
    const struct link *known = place_of(l, seat, other);
    if (!known || known->bytes_per_second <= 0) return false;
    *link = *known;
    return true;
}

void links_forget(struct links *l, uint32_t seat)
{
    for (uint32_t other = 0; other < l->seats; other++) {
        struct link *known = place_of(l, seat, other);
        if (known) *known = (struct link){0};
    }
}

/* ------------------------------------------------------------------------------------------------- the rounds */

static void begin_pass(struct links *l, bool all, int64_t at_ns)
{
    l->all = all;
    l->failed = false;
    l->round = l->waiting = 0;
    l->round_ns = 0;
    l->next_ns = at_ns;
}

status_t links_begin(struct links *l, uint32_t seats, const uint32_t *seat, uint32_t ranks, uint64_t epoch,
                     int64_t now_ns, struct error *error)
{
    uint32_t *own = calloc(ranks ? ranks : 1, sizeof *own);
    bool *asked = calloc(ranks ? ranks : 1, sizeof *asked);
    struct link *link = l->link ? l->link : calloc((size_t)seats * seats / 2 + 1, sizeof *link);
    if (!own || !asked || !link) {
        free(own);
        free(asked);
        if (!l->link) free(link);
        return error_set(error, STATUS_NO_MEMORY, "no memory for the links of %u ranks", seats);
    }
    memcpy(own, seat, ranks * sizeof *own);
    free(l->seat);
    free(l->asked);
    *l = (struct links){
        .seats = seats, .ranks = ranks, .epoch = epoch, .link = link, .seat = own, .asked = asked};
    begin_pass(l, false, now_ns);
    return STATUS_OK;
}

void links_close(struct links *l)
{
    free(l->link);
    free(l->seat);
    free(l->asked);
    *l = (struct links){0};
}

bool links_asks(const struct links *l, uint32_t rank, uint32_t *peer)
{
    if (l->round_ns == 0 || rank >= l->ranks || !l->asked[rank]) return false;
    *peer = links_partner(l->ranks, l->round, rank);
    return true;
}

/* The pairs of the round that are to be measured: the smaller rank of each says how fast it is. */
static uint32_t ask_pairs(struct links *l)
{
    uint32_t pairs = 0;
    struct link link;
    for (uint32_t rank = 0; rank < l->ranks; rank++) {
        uint32_t peer = links_partner(l->ranks, l->round, rank);
        l->asked[rank] =
            peer > rank && peer < l->ranks && (l->all || !links_find(l, l->seat[rank], l->seat[peer], &link));
        pairs += l->asked[rank];
    }
    return pairs;
}

/* What was known is measured again later, what could not be measured soon. */
static void end_pass(struct links *l, int64_t now_ns)
{
    begin_pass(l, !l->failed, now_ns + (l->failed ? LINKS_RETRY_NS : LINKS_AGAIN_NS));
}

static bool begin_round(struct links *l, int64_t now_ns)
{
    for (; l->round < links_rounds(l->ranks); l->round++) {
        l->waiting = ask_pairs(l);
        if (l->waiting == 0) continue;
        l->round_ns = now_ns;
        return true;
    }
    end_pass(l, now_ns);
    return false;
}

bool links_turn(struct links *l, bool idle, int64_t now_ns)
{
    if (l->ranks < 2 || !l->link) return false;
    if (!idle) {
        l->round_ns = 0; /* what comes of this round does not count; it begins anew */
        return false;
    }
    if (l->round_ns) {
        if (l->waiting > 0 && now_ns - l->round_ns < LINKS_ROUND_NS) return false;
        l->failed |= l->waiting > 0;
        l->round++;
        l->round_ns = 0;
    }
    return now_ns >= l->next_ns && begin_round(l, now_ns);
}

void links_answer(struct links *l, uint32_t rank, uint32_t peer, double bytes_per_second, double latency)
{
    uint32_t partner;
    if (!links_asks(l, rank, &partner) || partner != peer) return;
    l->asked[rank] = false;
    l->waiting--;
    struct link *known = place_of(l, l->seat[rank], l->seat[peer]);
    bool sane = bytes_per_second >= 1 && bytes_per_second < 1e16 && latency >= 0 && latency < 10;
    if (!sane) {
        l->failed = true;
        return;
    }
    double part = known->bytes_per_second > 0 ? NEWEST : 1;
    known->bytes_per_second += (float)(part * (bytes_per_second - known->bytes_per_second));
    known->latency += (float)(part * (latency - known->latency));
}
