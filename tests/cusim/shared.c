/* shared.c - a block's shared memory: poisoned before each block; the dynamic part is guarded on both
 * sides. */
#include "tests/cusim/block.h"
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 256, GUARD = 0x5c };

void shared_prepare(struct block *block, size_t bytes)
{
    if (bytes + 2 * GUARD_BYTES > block->shared_room) {
        free(block->shared);
        block->shared_room = bytes + 2 * GUARD_BYTES;
        block->shared =
            aligned_alloc(GUARD_BYTES, (block->shared_room + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES);
        if (!block->shared) report("no memory for %zu bytes of shared memory", bytes);
    }
    block->shared_bytes = bytes;
    block->place.dynamic_shared = block->shared + GUARD_BYTES;
    memset(block->shared, GUARD, GUARD_BYTES);
    memset(block->shared + GUARD_BYTES + bytes, GUARD, GUARD_BYTES);
}

void shared_poison(struct block *block)
{
    memset(block->place.dynamic_shared, SHARED_POISON, block->shared_bytes);
    statics_poison(block->kernel);
}

void shared_check(struct block *block)
{
    const unsigned char *below = block->shared, *above = block->shared + GUARD_BYTES + block->shared_bytes;
    uint3 b = block->place.index;
    for (int i = 0; i < GUARD_BYTES; i++) {
        if (above[i] != GUARD)
            report("kernel %s, block (%u,%u,%u) wrote %d bytes past its %zu bytes of dynamic shared memory",
                   block->kernel->name, b.x, b.y, b.z, i + 1, block->shared_bytes);
        if (below[GUARD_BYTES - 1 - i] != GUARD)
            report("kernel %s, block (%u,%u,%u) wrote %d bytes below its dynamic shared memory",
                   block->kernel->name, b.x, b.y, b.z, i + 1);
    }
}

void shared_free(struct block *block)
{
    free(block->shared);
}
