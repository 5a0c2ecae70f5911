/* local.c - see local.h. Any thread. */
#include "kernels/local.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ALIGNMENT bytes stand before the memory and say where it came from. SLICE: one task of a large copy, more than a
 * cache line can be torn by. */
enum { ALIGNMENT = 256, MAP_FROM = 4 << 20, SLICE = 64 << 10 };

status_t local_open(struct team *team, struct error *error)
{
    return STATUS_OK;
}

void local_close(struct team *team) {}

status_t local_wait(struct team *team, struct error *error)
{
    return STATUS_OK;
}

status_t local_allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    bool mapped = bytes >= MAP_FROM;
    void *made = NULL;
    if (whole < bytes) {
        made = NULL;
    } else if (mapped) { /* from the system: zeroed on first touch; huge pages spare the TLB */
        made = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) made = NULL;
        if (made) madvise(made, whole, MADV_HUGEPAGE);
    } else {
        made = aligned_alloc(ALIGNMENT, whole);
        if (made) memset(made, 0, whole);
    }
    if (!made)
        return error_set(error, STATUS_NO_MEMORY, "%.1f MB of memory cannot be allocated",
                         (double)bytes / 1e6);
    *(size_t *)made = mapped ? whole : 0;
    *memory = (char *)made + ALIGNMENT;
    return STATUS_OK;
}

void local_release(enum memory kind, void *memory)
{
    if (!memory) return;
    void *made = (char *)memory - ALIGNMENT;
    size_t mapped = *(size_t *)made;
    if (mapped)
        munmap(made, mapped);
    else
        free(made);
}

struct copy {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_slice(void *arguments, int task, void *scratch)
{
    const struct copy *c = arguments;
    size_t at = (size_t)task * SLICE, left = c->bytes - at;
    memcpy(c->to + at, c->from + at, left < SLICE ? left : SLICE);
}

void local_copy(struct team *team, void *to, const void *from, size_t bytes)
{
    struct copy copy = {to, from, bytes};
    if (bytes <= 2 * SLICE)
        memcpy(to, from, bytes);
    else
        team_run(team, (int)((bytes + SLICE - 1) / SLICE), copy_slice, &copy);
}

void local_copy_rows(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                     size_t row_bytes, int64_t rows)
{
    for (int64_t row = 0; row < rows; row++)
        memcpy((char *)to + (size_t)row * to_stride, (const char *)from + (size_t)row * from_stride,
               row_bytes);
}

void local_zero(struct team *team, void *memory, size_t bytes)
{
    memset(memory, 0, bytes);
}

status_t local_copy_now(void *to, const void *from, size_t bytes, struct error *error)
{
    memcpy(to, from, bytes);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------ patches */

/* Strides of a latent whose rows are contiguous, and where a token's patch begins. */
struct lattice {
    int64_t plane, frame, volume;
};

static struct lattice lattice_of(const struct patching *p)
{
    int64_t plane = (int64_t)p->width * p->patch_x, frame = plane * p->height * p->patch_y;
    return (struct lattice){plane, frame, frame * p->frames * p->patch_t};
}

static int64_t patch_origin(const struct patching *p, const struct lattice *l, int token)
{
    int x = token % p->width, y = token / p->width % p->height, t = token / p->width / p->height;
    return (int64_t)t * p->patch_t * l->frame + (int64_t)y * p->patch_y * l->plane + (int64_t)x * p->patch_x;
}

void local_cut_patches(struct team *team, const struct patching *p, const float *latent, void *rows,
                       dtype_t dtype)
{
    const struct lattice l = lattice_of(p);
    float *to = rows;
    for (int token = 0; token < p->frames * p->height * p->width; token++) {
        const float *origin = latent + patch_origin(p, &l, token);
        for (int c = 0; c < p->channels; c++)
            for (int i = 0; i < p->patch_t; i++)
                for (int j = 0; j < p->patch_y; j++)
                    for (int k = 0; k < p->patch_x; k++)
                        *to++ = origin[c * l.volume + i * l.frame + j * l.plane + k];
    }
}

void local_join_patches(struct team *team, const struct patching *p, const float *rows, float *latent)
{
    const struct lattice l = lattice_of(p);
    for (int token = 0; token < p->frames * p->height * p->width; token++) {
        float *origin = latent + patch_origin(p, &l, token);
        for (int i = 0; i < p->patch_t; i++)
            for (int j = 0; j < p->patch_y; j++)
                for (int k = 0; k < p->patch_x; k++)
                    for (int c = 0; c < p->channels; c++)
                        origin[c * l.volume + i * l.frame + j * l.plane + k] = *rows++;
    }
}
