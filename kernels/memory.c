/* memory.c - see memory.h. */
#include "kernels/memory.h"

status_t memory_arena(const struct ops *ops, enum memory kind, struct arena *arena, struct error *error)
{
    size_t bytes;
    void *memory;
    status_t status = arena_measured(arena, &bytes, error);
    if (status == STATUS_OK) status = ops->allocate(kind, bytes, &memory, error);
    if (status == STATUS_OK) arena_use(arena, memory, bytes);
    return status;
}

void memory_give_back(const struct ops *ops, enum memory kind, struct arena *arena)
{
    if (arena->base) ops->release(kind, arena->base);
    *arena = (struct arena){0};
}
