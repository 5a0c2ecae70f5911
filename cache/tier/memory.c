/* memory.c - see memory.h. Stateless; any thread. */
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

static status_t backend_allocate(void *ops, size_t bytes, void **arena, struct error *error)
{
    return ((const struct ops *)ops)->allocate(MEMORY_DEVICE, bytes, arena, error);
}

static void backend_release(void *ops, void *arena, size_t bytes)
{
    ((const struct ops *)ops)->release(MEMORY_DEVICE, arena);
}

static status_t backend_from_host(void *ops, void *arena_bytes, const void *host, size_t bytes,
                                  struct error *error)
{
    return ((const struct ops *)ops)->copy_now(arena_bytes, host, bytes, error);
}

static status_t backend_to_host(void *ops, void *host, const void *arena_bytes, size_t bytes,
                                struct error *error)
{
    return ((const struct ops *)ops)->copy_now(host, arena_bytes, bytes, error);
}

struct level_memory memory_of_backend(const struct ops *ops)
{
    return (struct level_memory){(void *)(uintptr_t)ops, backend_allocate, backend_release, backend_from_host,
                                 backend_to_host};
}
