/* bound.c - see bound.h. */
#include "tools/tier/bound.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BUCKETS = 1 << 18, PARTS = 96 };

/* What is known of a key so far. */
struct known {
    struct key key;
    double there; /* since when it would be there if it was not kept before; INFINITY: it never was */
    double kept;  /* since when, if it was: its latest use */
    double bytes, seconds;
    struct known *next;
};

struct chance {
    double from, to;  /* as short as can be: for `most` */
    double from_kept; /* as long as can be: for `least` */
    double bytes, seconds;
    size_t request;
    bool whole;
};

struct bound {
    struct known *buckets[BUCKETS];
    struct chance *chances; /* [count] */
    size_t count, room, requests;
    bool sorted;
};

static void *need(void *memory)
{
    if (!memory) abort();
    return memory;
}

struct bound *bound_open(void)
{
    return need(calloc(1, sizeof(struct bound)));
}

void bound_close(struct bound *b)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct known *one = b->buckets[i], *next; one; one = next) {
            next = one->next;
            free(one);
        }
    free(b->chances);
    free(b);
}

static struct known *find(struct bound *b, const struct key *key)
{
    struct known **at = &b->buckets[XXH3_64bits(key, sizeof *key) % BUCKETS];
    while (*at && !key_equal(&(*at)->key, key)) at = &(*at)->next;
    if (*at) return *at;
    *at = need(calloc(1, sizeof **at));
    **at = (struct known){.key = *key, .there = INFINITY, .kept = INFINITY};
    return *at;
}

/* The one made first counts, and after each use the next one. */
void bound_made(struct bound *b, const struct key *key, double t, uint64_t bytes, double seconds)
{
    struct known *known = find(b, key);
    known->bytes = (double)bytes;
    known->seconds = seconds;
    if (known->kept == INFINITY) known->kept = t;
    if (known->there == INFINITY || known->there < t) known->there = t;
}

bool bound_asked(struct bound *b, const struct key *key, double t, size_t request, bool whole)
{
    struct known *known = find(b, key);
    if (request >= b->requests) b->requests = request + 1;
    if (known->kept > t) return false; /* it was never there */
    if (b->count == b->room) {
        b->room = b->room ? 2 * b->room : 4096;
        b->chances = need(realloc(b->chances, b->room * sizeof *b->chances));
    }
    b->chances[b->count++] = (struct chance){.from = known->there < t ? known->there : t,
                                             .to = t,
                                             .from_kept = known->kept,
                                             .bytes = known->bytes,
                                             .seconds = known->seconds,
                                             .request = request,
                                             .whole = whole};
    known->kept = t;
    b->sorted = false;
    return true;
}

static double density(const struct chance *one)
{
    return one->seconds / (one->bytes * (one->to - one->from + 1));
}

static int densest_first(const void *a, const void *b)
{
    double x = density(a), y = density(b);
    return x > y ? -1 : x < y;
}

/* ---------------------------------------------------------------------------------------------------- at least */

/* Bytes held over time, as a tree over the moments at which something begins or ends. */
struct times {
    double *at; /* [count], sorted */
    size_t count, leaves;
    double *most, *all; /* [2 * leaves]: of the moments below, on top of `all` above */
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void times_open(struct times *times, const struct bound *b)
{
    times->at = need(malloc((2 * b->count + 1) * sizeof *times->at));
    for (size_t i = 0; i < b->count; i++) {
        times->at[2 * i] = b->chances[i].from_kept;
        times->at[2 * i + 1] = b->chances[i].to;
    }
    qsort(times->at, 2 * b->count, sizeof *times->at, by_value);
    times->count = 0;
    for (size_t i = 0; i < 2 * b->count; i++)
        if (!times->count || times->at[i] != times->at[times->count - 1])
            times->at[times->count++] = times->at[i];
    for (times->leaves = 1; times->leaves < times->count; times->leaves *= 2) continue;
    times->most = need(calloc(2 * times->leaves, sizeof *times->most));
    times->all = need(calloc(2 * times->leaves, sizeof *times->all));
}

static void times_close(struct times *times)
{
    free(times->at);
    free(times->most);
    free(times->all);
}

static size_t moment(const struct times *times, double t)
{
    const double *found = bsearch(&t, times->at, times->count, sizeof t, by_value);
    return (size_t)(found - times->at);
}

/* The most that is held in [from, to), of the moments [begin, begin + width) below a node. */
static double most_in(const struct times *times, size_t node, size_t begin, size_t width, size_t from,
                      size_t to)
{
    if (from >= begin + width || to <= begin) return 0;
    if (from <= begin && begin + width <= to) return times->most[node];
    double left = most_in(times, 2 * node, begin, width / 2, from, to);
    double right = most_in(times, 2 * node + 1, begin + width / 2, width / 2, from, to);
    return times->all[node] + (left > right ? left : right);
}

static void hold(struct times *times, size_t node, size_t begin, size_t width, size_t from, size_t to,
                 double bytes)
{
    if (from >= begin + width || to <= begin) return;
    if (from <= begin && begin + width <= to) {
        times->most[node] += bytes;
        times->all[node] += bytes;
        return;
    }
    hold(times, 2 * node, begin, width / 2, from, to, bytes);
    hold(times, 2 * node + 1, begin + width / 2, width / 2, from, to, bytes);
    double left = times->most[2 * node], right = times->most[2 * node + 1];
    times->most[node] = times->all[node] + (left > right ? left : right);
}

static double take_what_fits(const struct bound *b, double limit)
{
    struct times times;
    double saved = 0, *parts = need(calloc(b->requests + 1, sizeof *parts));
    bool *whole = need(calloc(b->requests + 1, sizeof *whole));
    times_open(&times, b);
    for (size_t i = 0; i < b->count; i++) {
        const struct chance *one = &b->chances[i];
        double gain = whole[one->request] ? 0
                      : one->whole        ? one->seconds - parts[one->request]
                                          : one->seconds;
        size_t from = moment(&times, one->from_kept), to = moment(&times, one->to);
        if (to == from) to++;
        if (gain <= 0 || one->bytes + most_in(&times, 1, 0, times.leaves, from, to) > limit) continue;
        hold(&times, 1, 0, times.leaves, from, to, one->bytes);
        saved += gain;
        whole[one->request] |= one->whole;
        parts[one->request] += one->whole ? 0 : one->seconds;
    }
    times_close(&times);
    free(parts);
    free(whole);
    return saved;
}

/* ----------------------------------------------------------------------------------------------------- at most */

static double take_on_average(const struct bound *b, double limit)
{
    double first = INFINITY, last = 0, saved = 0;
    for (size_t i = 0; i < b->count; i++) {
        first = fmin(first, b->chances[i].from);
        last = fmax(last, b->chances[i].to);
    }
    for (int part = 0; part < PARTS; part++) {
        double begin = first + (last - first) / PARTS * part,
               end = first + (last - first) / PARTS * (part + 1);
        double room = limit * (end - begin);
        for (size_t i = 0; i < b->count && room > 0; i++) {
            const struct chance *one = &b->chances[i];
            double time = one->to - one->from;
            double here = fmin(one->to, end) - fmax(one->from, begin);
            if (time <= 0 && one->to >= begin && (one->to < end || part == PARTS - 1)) saved += one->seconds;
            if (time <= 0 || here <= 0) continue;
            double share = fmin(1, room / (one->bytes * here));
            saved += one->seconds * share * here / time;
            room -= one->bytes * here * share;
        }
    }
    return saved;
}

void bound_at(struct bound *b, double limit_bytes, double *least, double *most)
{
    if (!b->sorted) qsort(b->chances, b->count, sizeof *b->chances, densest_first);
    b->sorted = true;
    *least = take_what_fits(b, limit_bytes);
    *most = fmin(take_on_average(b, limit_bytes), take_what_fits(b, INFINITY));
}
