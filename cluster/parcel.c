/* parcel.c - see parcel.h. Locks only the shelf, and calls nothing while holding it but the C library. */
#include "cluster/parcel.h"

#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 64,     /* a cache line; what every vector load likes */
    KEPT_PARCELS = 128, /* the shelf is searched from end to end: keep it short */
    SMALLEST = 4096,
};
#define KEPT_BYTES ((size_t)256 << 20)

void parcel_shelf_init(struct parcel_shelf *shelf)
{
    *shelf = (struct parcel_shelf){0};
    pthread_mutex_init(&shelf->lock, NULL);
}

static void parcel_free(struct parcel *parcel)
{
    free(parcel->bytes);
    free(parcel);
}

void parcel_shelf_clear(struct parcel_shelf *shelf)
{
    while (shelf->first) {
        struct parcel *parcel = shelf->first;
        shelf->first = parcel->next;
        parcel_free(parcel);
    }
    pthread_mutex_destroy(&shelf->lock);
}

/* The smallest kept parcel that fits and is not absurdly large for it: a few text messages must not occupy
 * the buffers that the next hidden state needs. NULL if there is none. Lock held. */
static struct parcel *take_kept(struct parcel_shelf *shelf, size_t bytes)
{
    struct parcel **best = NULL;
    for (struct parcel **at = &shelf->first; *at; at = &(*at)->next) {
        size_t capacity = (*at)->capacity;
        if (capacity < bytes || capacity / 4 > bytes) continue;
        if (!best || capacity < (*best)->capacity) best = at;
    }
    if (!best) return NULL;
    struct parcel *parcel = *best;
    *best = parcel->next;
    shelf->kept--;
    shelf->kept_bytes -= parcel->capacity;
    return parcel;
}

static struct parcel *parcel_new(size_t capacity)
{
    struct parcel *parcel = calloc(1, sizeof *parcel);
    if (!parcel) return NULL;
    parcel->bytes = aligned_alloc(ALIGNMENT, capacity);
    if (!parcel->bytes) {
        free(parcel);
        return NULL;
    }
    parcel->capacity = capacity;
    return parcel;
}

struct parcel *parcel_take(struct parcel_shelf *shelf, uint64_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t capacity = bytes < SMALLEST ? SMALLEST : (size_t)bytes;
    capacity = (capacity + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pthread_mutex_lock(&shelf->lock);
    struct parcel *parcel = take_kept(shelf, capacity);
    shelf->taken++;
    pthread_mutex_unlock(&shelf->lock);
    if (!parcel) parcel = parcel_new(capacity);
    if (!parcel) {
        pthread_mutex_lock(&shelf->lock);
        shelf->taken--;
        pthread_mutex_unlock(&shelf->lock);
        return NULL;
    }
    *parcel = (struct parcel){.capacity = parcel->capacity, .bytes = parcel->bytes, .target = parcel->bytes};
    return parcel;
}

void parcel_give(struct parcel_shelf *shelf, struct parcel *parcel)
{
    pthread_mutex_lock(&shelf->lock);
    shelf->taken--;
    bool keep = shelf->kept < KEPT_PARCELS && parcel->capacity <= KEPT_BYTES - shelf->kept_bytes;
    if (keep) {
        parcel->next = shelf->first;
        shelf->first = parcel;
        shelf->kept++;
        shelf->kept_bytes += parcel->capacity;
    }
    pthread_mutex_unlock(&shelf->lock);
    if (!keep) parcel_free(parcel);
}
