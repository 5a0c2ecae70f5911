/* memory.c - see memory.h: the host's. Stateless; any thread. */
#include "cache/tier/memory.h"

#include <string.h>
#include <sys/mman.h>

static status_t allocate(void *context, size_t bytes, void **arena, struct error *error)
{
    void *mapped =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return error_set(error, STATUS_NO_MEMORY, "%zu bytes of memory cannot be had: %m", bytes);
    madvise(mapped, bytes, MADV_HUGEPAGE); /* large items: fewer page faults; refused is fine */
    *arena = mapped;
    return STATUS_OK;
}

static void release(void *context, void *arena, size_t bytes)
{
    munmap(arena, bytes);
}

static status_t from_host(void *context, void *arena_bytes, const void *host, size_t bytes,
                          struct error *error)
{
    memcpy(arena_bytes, host, bytes);
    return STATUS_OK;
}

static status_t to_host(void *context, void *host, const void *arena_bytes, size_t bytes, struct error *error)
{
    memcpy(host, arena_bytes, bytes);
    return STATUS_OK;
}

const struct level_memory memory_host = {
    .allocate = allocate, .release = release, .from_host = from_host, .to_host = to_host};
