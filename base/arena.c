/* arena.c - see arena.h. */
#include "base/arena.h"

#include <sys/mman.h>

enum { ALIGNMENT = 64 };

void *arena_take(struct arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - arena->used - ALIGNMENT) {
        arena->used = SIZE_MAX - ALIGNMENT;
        return NULL;
    }
    size_t at = arena->used;
    arena->used = (at + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return arena->base && arena->used <= arena->size ? arena->base + at : NULL;
}

status_t arena_measured(const struct arena *arena, size_t *bytes, struct error *error)
{
    if (arena->used >= SIZE_MAX / 2)
        return error_set(error, STATUS_NO_MEMORY, "a buffer of impossible size was planned");
    *bytes = arena->used ? arena->used : ALIGNMENT;
    return STATUS_OK;
}

void arena_use(struct arena *arena, void *memory, size_t bytes)
{
    *arena = (struct arena){.base = memory, .size = bytes};
}

status_t arena_allocate(struct arena *arena, struct error *error)
{
    size_t size;
    status_t status = arena_measured(arena, &size, error);
    if (status != STATUS_OK) return status;
    /* Straight from the system: zeroed, page-aligned, and given back whole. Huge pages spare the TLB. */
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return error_set(error, STATUS_NO_MEMORY, "%.1f MB of working memory cannot be allocated: %m",
                         (double)size / 1e6);
    madvise(base, size, MADV_HUGEPAGE);
    arena_use(arena, base, size);
    return STATUS_OK;
}

void arena_free(struct arena *arena)
{
    if (arena->base) munmap(arena->base, arena->size);
    *arena = (struct arena){0};
}
