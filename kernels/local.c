/* local.c - see local.h. Any thread. */
#include "kernels/local.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 };

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
    size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *made = whole >= bytes ? aligned_alloc(ALIGNMENT, whole) : NULL;
    if (!made)
        return error_set(error, STATUS_NO_MEMORY, "%.1f MB of memory cannot be allocated",
                         (double)bytes / 1e6);
    memset(made, 0, whole);
    *memory = made;
    return STATUS_OK;
}

void local_release(enum memory kind, void *memory)
{
    free(memory);
}

void local_copy(struct team *team, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
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
