/* world.c - see world.h. One thread. */
#include "tools/sim/world.h"

#include <math.h>
#include <stdlib.h>

#define WALL_BEGIN_MS  INT64_C(1700000000000) /* some day: deadlines of jobs are wall clock times */
#define WORLD_BEGIN_NS SECOND_NS              /* not 0: a time of 0 means "never was" in places */

struct event {
    int64_t when_ns;
    enum world_rank rank;
    uint64_t number; /* of its announcement */
    world_event_fn *happens;
    void *context;
    uint64_t value;
};

static struct world {
    int64_t now_ns, charged_ns;
    double speed;
    bool computing;
    struct event *heap; /* [count]: the first to happen at 0 */
    size_t count, capacity;
    uint64_t announced, happened;
} world;

static bool before(const struct event *a, const struct event *b)
{
    if (a->when_ns != b->when_ns) return a->when_ns < b->when_ns;
    if (a->rank != b->rank) return a->rank < b->rank;
    return a->number < b->number;
}

status_t world_open(struct error *error)
{
    enum { FIRST_EVENTS = 1024 };
    world = (struct world){.now_ns = WORLD_BEGIN_NS, .speed = 1};
    world.heap = malloc(FIRST_EVENTS * sizeof *world.heap);
    if (!world.heap) return error_set(error, STATUS_NO_MEMORY, "no memory for a world");
    world.capacity = FIRST_EVENTS;
    return STATUS_OK;
}

void world_close(void)
{
    free(world.heap);
    world = (struct world){0};
}

static void swap(struct event *a, struct event *b)
{
    struct event c = *a;
    *a = *b;
    *b = c;
}

/* A simulation without memory cannot go on, and nothing would be saved by unwinding. */
static void grow(void)
{
    struct event *more = realloc(world.heap, 2 * world.capacity * sizeof *more);
    if (!more) abort();
    world.heap = more;
    world.capacity *= 2;
}

void world_at(int64_t when_ns, enum world_rank rank, world_event_fn *happens, void *context, uint64_t value)
{
    if (when_ns == CLOCK_NEVER) return;
    if (when_ns < world.now_ns) when_ns = world.now_ns;
    if (world.count == world.capacity) grow();
    size_t at = world.count++;
    world.heap[at] = (struct event){when_ns, rank, ++world.announced, happens, context, value};
    for (; at && before(&world.heap[at], &world.heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&world.heap[at], &world.heap[(at - 1) / 2]);
}

static struct event take_first(void)
{
    struct event first = world.heap[0];
    world.heap[0] = world.heap[--world.count];
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < world.count; child++)
            if (before(&world.heap[child], &world.heap[least])) least = child;
        if (least == at) return first;
        swap(&world.heap[at], &world.heap[least]);
        at = least;
    }
}

bool world_step(void)
{
    if (!world.count) return false;
    struct event event = take_first();
    world.now_ns = event.when_ns;
    world.happened++;
    event.happens(event.context, event.value);
    return true;
}

void world_run(int64_t until_ns)
{
    while (world.count && world.heap[0].when_ns <= until_ns) world_step();
    if (world.now_ns < until_ns) world.now_ns = until_ns;
}

int64_t world_now_ns(void)
{
    return world.now_ns;
}

void world_enter(double speed)
{
    world.computing = true;
    world.speed = speed;
    world.charged_ns = 0;
}

void world_charge(int64_t ns)
{
    if (world.computing) world.charged_ns += llrint((double)ns / world.speed);
}

int64_t world_leave(void)
{
    int64_t done_ns = world.now_ns + world.charged_ns;
    world.computing = false;
    world.charged_ns = 0;
    return done_ns;
}

uint64_t world_events(void)
{
    return world.happened;
}

int64_t clock_now_ns(void)
{
    return world.now_ns + world.charged_ns;
}

int64_t clock_wall_ms(void)
{
    return WALL_BEGIN_MS + clock_now_ns() / MILLISECOND_NS;
}
