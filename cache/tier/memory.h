/*
 * memory.h - where a level's arena comes from: the host's memory, or a device's behind four functions.
 *
 *     struct level_memory device = memory_of_backend(ops);
 *     config.device = &device;
 *
 * An arena is allocated and registered once, when a store is opened, and released when it is closed; copies go to and
 * from pieces of it. The functions are called by any thread, without a lock of the store's, several at a time.
 */
#ifndef REFRAIN_CACHE_TIER_MEMORY_H
#define REFRAIN_CACHE_TIER_MEMORY_H

#include <stddef.h>
#include "base/status.h"
#include "kernels/ops.h"

struct level_memory {
    void *context;
    /* Aligned to 256 bytes at least; STATUS_NO_MEMORY. */
    status_t (*allocate)(void *context, size_t bytes, void **arena, struct error *error);
    void (*release)(void *context, void *arena, size_t bytes);
    /* Return when the bytes are there. */
    status_t (*from_host)(void *context, void *arena_bytes, const void *host, size_t bytes,
                          struct error *error);
    status_t (*to_host)(void *context, void *host, const void *arena_bytes, size_t bytes,
                        struct error *error);
};

/* Pages of this process, taken from the system when they are first touched. */
extern const struct level_memory memory_host;

/* MEMORY_DEVICE of a backend, whose team is open as long as the arena is there. Copies keep to no order with ops: a piece is
 * copied when what wrote it has been waited for. */
struct level_memory memory_of_backend(const struct ops *ops);

#endif
