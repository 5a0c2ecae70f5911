/*
 * memory.h - a backend's memory in use: arenas of it, and places in buffers of either type.
 *
 *     lay_out(&arena, plan, &buffers);                            measures, base/arena.h
 *     memory_arena(ops, MEMORY_DEVICE, &arena, &error);           one allocation
 *     lay_out(&arena, plan, &buffers);
 *     memory_give_back(ops, MEMORY_DEVICE, &arena);               after `wait`
 *
 * Any thread.
 */
#ifndef REFRAIN_KERNELS_MEMORY_H
#define REFRAIN_KERNELS_MEMORY_H

#include "base/arena.h"
#include "kernels/ops.h"

/* arena_allocate and arena_free with memory of that kind. */
status_t memory_arena(const struct ops *ops, enum memory kind, struct arena *arena, struct error *error);
void memory_give_back(const struct ops *ops, enum memory kind, struct arena *arena);

/* Element `at` of a buffer of that type. */
static inline void *memory_at(const void *buffer, dtype_t dtype, int64_t at)
{
    return (char *)(uintptr_t)buffer + at * (int64_t)dtype_bytes(dtype);
}

#endif
