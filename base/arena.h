/*
 * arena.h - one block of memory, sized when something is planned, handed out in pieces, freed at once.
 *
 *     struct arena arena = {0};                        measuring: no memory yet, pieces are NULL
 *     lay_out(&arena, plan, &buffers);                 the same function that will take the pieces for real
 *     arena_allocate(&arena, &error);                  exactly what was measured
 *     lay_out(&arena, plan, &buffers);
 *     arena_free(&arena);
 *
 * Running the layout twice means that the size on paper and the size in use cannot differ. Pieces are 64-byte
 * aligned and zeroed by the system on first touch. Owned by one thread.
 *
 * Memory need not be the system's: arena_measured says how much, and arena_use hands out what somebody else
 * allocated and will give back (kernels/memory.h does so with a backend's).
 */
#ifndef REFRAIN_BASE_ARENA_H
#define REFRAIN_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

struct arena {
    unsigned char *base; /* NULL while measuring */
    size_t used;         /* bytes handed out (or measured) so far */
    size_t size;         /* bytes allocated */
};

/* A piece of `count` elements of `size` bytes: NULL while measuring. Taking more than was measured is a bug
 * and gives NULL. An impossible size (overflow) sticks: arena_allocate then refuses. */
void *arena_take(struct arena *arena, size_t count, size_t size);

/* Allocates what was measured and starts handing out from the beginning. */
status_t arena_allocate(struct arena *arena, struct error *error);
void arena_free(struct arena *arena);

/* *bytes: what was measured, at least one alignment. STATUS_NO_MEMORY: a size that cannot be. */
status_t arena_measured(const struct arena *arena, size_t *bytes, struct error *error);
/* Starts handing out zeroed memory of the caller's; not to be given to arena_free. */
void arena_use(struct arena *arena, void *memory, size_t bytes);

#endif
