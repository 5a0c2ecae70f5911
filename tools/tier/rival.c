/* rival.c - see rival.h: what all have, and the three policies. */
#include "tools/tier/rival.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BUCKETS = 1 << 16, QUEUES = 3, GHOSTS = 1 << 16, SKETCH_ROWS = 4, SKETCH = 1 << 16, SKETCH_MOST = 15 };

struct thing {
    struct key key;
    uint64_t bytes;
    double seconds, priority;
    int uses, queue;
    size_t place;                /* in the heap */
    struct thing *older, *newer; /* in its queue */
    struct thing *next;          /* in its bucket */
};

struct queue {
    struct thing *oldest, *newest;
    uint64_t bytes;
    size_t count;
};

struct policy {
    const char *name;
    void (*used)(struct rival *rival, struct thing *thing);
    void (*add)(struct rival *rival, struct thing *thing);
};

struct rival {
    const struct policy *policy;
    uint64_t limit, used;
    struct thing *buckets[BUCKETS];
    struct queue queues[QUEUES];
    /* gdsf */
    struct thing **heap;
    size_t heap_count, heap_room;
    double inflation;
    /* s3-fifo: names, by a part of their hash; how many went before */
    uint64_t ghosts[GHOSTS], ghost_at[GHOSTS], gone;
    /* w-tinylfu */
    uint8_t sketch[SKETCH_ROWS][SKETCH];
    uint64_t counted;
};

/* ------------------------------------------------------------------------------------------------------ things */

static uint64_t hash_of(const struct key *key)
{
    return XXH3_64bits(key, sizeof *key);
}

static struct thing **find(struct rival *r, const struct key *key)
{
    struct thing **at = &r->buckets[hash_of(key) % BUCKETS];
    while (*at && !key_equal(&(*at)->key, key)) at = &(*at)->next;
    return at;
}

static void leave(struct rival *r, struct thing *thing)
{
    struct queue *queue = &r->queues[thing->queue];
    *(thing->older ? &thing->older->newer : &queue->oldest) = thing->newer;
    *(thing->newer ? &thing->newer->older : &queue->newest) = thing->older;
    queue->bytes -= thing->bytes;
    queue->count--;
}

static void join(struct rival *r, struct thing *thing, int to)
{
    struct queue *queue = &r->queues[to];
    thing->queue = to;
    thing->newer = NULL;
    thing->older = queue->newest;
    *(queue->newest ? &queue->newest->newer : &queue->oldest) = thing;
    queue->newest = thing;
    queue->bytes += thing->bytes;
    queue->count++;
}

static void move(struct rival *r, struct thing *thing, int to)
{
    leave(r, thing);
    join(r, thing, to);
}

/* It is in no queue and no heap any more. */
static void end(struct rival *r, struct thing *thing)
{
    struct thing **at = find(r, &thing->key);
    *at = thing->next;
    r->used -= thing->bytes;
    free(thing);
}

/* -------------------------------------------------------------------------------------------------------- gdsf */

static void put_at(struct rival *r, size_t place, struct thing *thing)
{
    r->heap[place] = thing;
    thing->place = place;
}

static void settle(struct rival *r, struct thing *thing)
{
    size_t at = thing->place;
    for (; at > 0 && thing->priority < r->heap[(at - 1) / 2]->priority; at = (at - 1) / 2)
        put_at(r, at, r->heap[(at - 1) / 2]);
    for (size_t child; (child = 2 * at + 1) < r->heap_count; at = child) {
        if (child + 1 < r->heap_count && r->heap[child + 1]->priority < r->heap[child]->priority) child++;
        if (r->heap[child]->priority >= thing->priority) break;
        put_at(r, at, r->heap[child]);
    }
    put_at(r, at, thing);
}

static void gdsf_used(struct rival *r, struct thing *thing)
{
    thing->priority = r->inflation + (thing->uses + 1) * thing->seconds / (double)thing->bytes;
    settle(r, thing);
}

static void gdsf_add(struct rival *r, struct thing *thing)
{
    while (r->used > r->limit) {
        struct thing *least = r->heap[0], *last = r->heap[--r->heap_count];
        r->inflation = least->priority;
        if (last != least) {
            put_at(r, 0, last);
            settle(r, last);
        }
        end(r, least);
    }
    if (r->heap_count == r->heap_room) {
        r->heap_room = r->heap_room ? 2 * r->heap_room : 1024;
        r->heap = realloc(r->heap, r->heap_room * sizeof *r->heap);
        if (!r->heap) abort();
    }
    put_at(r, r->heap_count++, thing);
    gdsf_used(r, thing);
}

/* ----------------------------------------------------------------------------------------------------- s3-fifo */

enum { SMALL, MAIN };

static bool was_gone(struct rival *r, const struct key *key)
{
    uint64_t hash = hash_of(key);
    bool known =
        r->ghosts[hash % GHOSTS] == hash && r->gone - r->ghost_at[hash % GHOSTS] <= r->queues[MAIN].count;
    if (known) r->ghosts[hash % GHOSTS] = 0;
    return known;
}

static void remember(struct rival *r, const struct key *key)
{
    uint64_t hash = hash_of(key);
    r->ghosts[hash % GHOSTS] = hash;
    r->ghost_at[hash % GHOSTS] = r->gone++;
}

static void s3_evict(struct rival *r)
{
    struct thing *one;
    if (r->queues[SMALL].count && (r->queues[SMALL].bytes > r->limit / 10 || !r->queues[MAIN].count)) {
        one = r->queues[SMALL].oldest;
        if (one->uses > 1) {
            one->uses = 0;
            move(r, one, MAIN);
            return;
        }
        remember(r, &one->key);
    } else {
        one = r->queues[MAIN].oldest;
        if (one->uses > 0) {
            one->uses--;
            move(r, one, MAIN);
            return;
        }
    }
    leave(r, one);
    end(r, one);
}

static void s3_used(struct rival *r, struct thing *thing)
{
    if (thing->uses > 3) thing->uses = 3;
}

static void s3_add(struct rival *r, struct thing *thing)
{
    while (r->used > r->limit) s3_evict(r);
    join(r, thing, was_gone(r, &thing->key) ? MAIN : SMALL);
}

/* --------------------------------------------------------------------------------------------------- w-tinylfu */

enum { WINDOW, PROBATION, PROTECTED };

static uint8_t *counter(struct rival *r, const struct key *key, int row)
{
    return &r->sketch[row][XXH3_64bits_withSeed(key, sizeof *key, (uint64_t)row + 1) % SKETCH];
}

static int frequency(struct rival *r, const struct key *key)
{
    int least = SKETCH_MOST;
    for (int row = 0; row < SKETCH_ROWS; row++)
        if (*counter(r, key, row) < least) least = *counter(r, key, row);
    return least;
}

/* Halved whenever ten times as many were counted as are held. */
static void count(struct rival *r, const struct key *key)
{
    size_t held = r->queues[WINDOW].count + r->queues[PROBATION].count + r->queues[PROTECTED].count;
    for (int row = 0; row < SKETCH_ROWS; row++)
        if (*counter(r, key, row) < SKETCH_MOST) ++*counter(r, key, row);
    if (++r->counted < 10 * (held > 100 ? held : 100)) return;
    r->counted = 0;
    for (int row = 0; row < SKETCH_ROWS; row++)
        for (int i = 0; i < SKETCH; i++) r->sketch[row][i] /= 2;
}

static void tiny_used(struct rival *r, struct thing *thing)
{
    uint64_t most = (r->limit - r->limit / 100) / 5 * 4;
    move(r, thing, thing->queue == WINDOW ? WINDOW : PROTECTED);
    while (r->queues[PROTECTED].bytes > most) move(r, r->queues[PROTECTED].oldest, PROBATION);
}

static struct thing *next_victim(struct rival *r, struct thing *victim)
{
    if (victim && victim->newer) return victim->newer;
    if (victim && victim->queue == PROTECTED) return NULL;
    if (!victim && r->queues[PROBATION].oldest) return r->queues[PROBATION].oldest;
    return r->queues[PROTECTED].oldest;
}

/* The window's oldest leaves it: to the main part, if all that has to go there is asked for less. */
static void tiny_judge(struct rival *r)
{
    uint64_t main = r->limit - r->limit / 100, held = r->queues[PROBATION].bytes + r->queues[PROTECTED].bytes,
             freed = 0;
    struct thing *candidate = r->queues[WINDOW].oldest, *victim = NULL;
    int sum = 0;
    while (held + candidate->bytes > main + freed && (victim = next_victim(r, victim))) {
        freed += victim->bytes;
        sum += frequency(r, &victim->key);
    }
    leave(r, candidate);
    if (held + candidate->bytes > main + freed || (freed && frequency(r, &candidate->key) <= sum)) {
        end(r, candidate);
        return;
    }
    while (freed) {
        victim = next_victim(r, NULL);
        freed -= victim->bytes;
        leave(r, victim);
        end(r, victim);
    }
    join(r, candidate, PROBATION);
}

static void tiny_add(struct rival *r, struct thing *thing)
{
    join(r, thing, WINDOW);
    while (r->queues[WINDOW].count && r->queues[WINDOW].bytes > r->limit / 100) tiny_judge(r);
}

/* ------------------------------------------------------------------------------------------------------ for all */

static const struct policy policies[] = {
    {"gdsf", gdsf_used, gdsf_add}, {"s3-fifo", s3_used, s3_add}, {"w-tinylfu", tiny_used, tiny_add}};
const char *const rival_names[] = {"gdsf", "s3-fifo", "w-tinylfu", NULL};

struct rival *rival_open(const char *name, uint64_t limit_bytes)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (strcmp(policies[i].name, name) != 0) continue;
        struct rival *made = calloc(1, sizeof *made);
        if (!made) abort();
        made->policy = &policies[i];
        made->limit = limit_bytes;
        return made;
    }
    return NULL;
}

void rival_close(struct rival *r)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct thing *thing = r->buckets[i], *next; thing; thing = next) {
            next = thing->next;
            free(thing);
        }
    free(r->heap);
    free(r);
}

bool rival_get(struct rival *r, const struct key *key, double *seconds)
{
    struct thing *thing = *find(r, key);
    count(r, key);
    if (!thing) return false;
    thing->uses++;
    *seconds = thing->seconds;
    r->policy->used(r, thing);
    return true;
}

void rival_put(struct rival *r, const struct key *key, const struct item *item)
{
    struct thing **at = find(r, key);
    if (*at || item->bytes > r->limit) return;
    struct thing *thing = calloc(1, sizeof *thing);
    if (!thing) abort();
    *thing = (struct thing){.key = *key, .bytes = item->bytes, .seconds = item->seconds};
    *at = thing;
    r->used += thing->bytes;
    r->policy->add(r, thing);
}
