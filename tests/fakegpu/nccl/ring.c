/*
 * ring.c - the shared memory of a communicator: a ring of bytes for each ordered pair of ranks.
 *
 * Named after the unique id, made by whoever comes first, unlinked when the last rank has attached: what
 * killed processes leave behind is at most what was being made.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fakegpu/nccl/fakenccl.h"

static void name_of(const struct comm *comm, char name[128])
{
    snprintf(name, 128, "/fakenccl-%.40s-%.40s", world()->name, comm->id.internal);
}

static int map(struct comm *comm, const char *name)
{
    size_t rings = (size_t)comm->ranks * (size_t)comm->ranks;
    comm->shared_bytes = sizeof(struct shared) + rings * sizeof(struct ring);
    int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (fd < 0) return SYSTEM_ERROR;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, (off_t)comm->shared_bytes) == 0)
        memory = mmap(NULL, comm->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) return SYSTEM_ERROR;
    comm->shared = memory;
    return NCCL_SUCCESS;
}

int ring_attach(struct comm *comm)
{
    char name[128];
    name_of(comm, name);
    int result = map(comm, name);
    if (result != NCCL_SUCCESS) return result;
    struct shared *shared = comm->shared;
    atomic_store(&shared->pids[comm->rank], (int)getpid());
    if (atomic_fetch_add(&shared->attached, 1) + 1 == comm->ranks) shm_unlink(name);
    while (atomic_load(&shared->attached) < comm->ranks) {
        if (atomic_load(&comm->aborted)) {
            shm_unlink(name);
            return INTERNAL_ERROR;
        }
        fault_nap_us(100);
    }
    return NCCL_SUCCESS;
}

void ring_detach(struct comm *comm)
{
    if (comm->shared) munmap(comm->shared, comm->shared_bytes);
}

size_t ring_filled(struct ring *ring)
{
    return (size_t)(atomic_load(&ring->head) - atomic_load(&ring->tail));
}

size_t ring_room(struct ring *ring)
{
    return RING_BYTES - ring_filled(ring);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t ring_put(struct ring *ring, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    size_t taken = least(count, ring_room(ring)), place = atomic_load(&ring->head) % RING_BYTES;
    size_t first = least(taken, RING_BYTES - place);
    memcpy(ring->bytes + place, from, first);
    memcpy(ring->bytes, from + first, taken - first);
    atomic_fetch_add(&ring->head, taken);
    return taken;
}

size_t ring_get(struct ring *ring, void *bytes, size_t count)
{
    uint8_t *to = bytes;
    size_t given = least(count, ring_filled(ring)), place = atomic_load(&ring->tail) % RING_BYTES;
    size_t first = least(given, RING_BYTES - place);
    memcpy(to, ring->bytes + place, first);
    memcpy(to + first, ring->bytes, given - first);
    atomic_fetch_add(&ring->tail, given);
    return given;
}
