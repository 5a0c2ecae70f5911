/* rotary.c - see rotary.h. Compute thread. */
#include "worker/model/rotary.h"

#include <math.h>
#include <stdlib.h>

/* A head's features are [time pairs | row pairs | column pairs]; pair j of an axis with d features turns by
 * position / 10000^(2j/d). Angles in double, tables in float, as the reference. */
static void fill(const struct denoiser_config *config, const struct token_grid *grid, float *cosines,
                 float *sines)
{
    int half = config->head_dim / 2;
    int spatial = 2 * (config->head_dim / 6);
    int features[3] = {config->head_dim - 2 * spatial, spatial, spatial};
    int64_t row = 0;
    for (int t = 0; t < grid->frames; t++)
        for (int y = 0; y < grid->height; y++)
            for (int x = 0; x < grid->width; x++, row++) {
                int position[3] = {t, y, x};
                int64_t at = row * half;
                for (int axis = 0; axis < 3; axis++)
                    for (int j = 0; j < features[axis] / 2; j++, at++) {
                        double angle = position[axis] * (1.0 / pow(10000.0, 2.0 * j / features[axis]));
                        cosines[at] = (float)cos(angle);
                        sines[at] = (float)sin(angle);
                    }
            }
}

static void drop(struct rotary_shelf *s, struct rotary *rotary)
{
    s->bytes -= rotary->bytes;
    s->ops->release(MEMORY_DEVICE, rotary->cosines);
    *rotary = s->rotary[--s->count];
}

static void make_room(struct rotary_shelf *s, size_t bytes)
{
    while (s->count == ROTARY_GRIDS || (s->count > 0 && s->bytes + bytes > ROTARY_BYTES)) {
        struct rotary *oldest = s->rotary;
        for (struct rotary *r = s->rotary; r < s->rotary + s->count; r++)
            if (r->asked < oldest->asked) oldest = r;
        drop(s, oldest);
    }
}

static status_t make(struct rotary_shelf *s, struct team *team, const struct token_grid *grid,
                     const struct rotary **rotary, struct error *error)
{
    size_t half =
        ((size_t)token_count(grid) * (size_t)(s->config->head_dim / 2) * sizeof(float) + 63) / 64 * 64;
    struct rotary made = {.grid = *grid, .bytes = 2 * half, .asked = s->questions};
    void *memory;
    status_t status = s->ops->wait(team, error); /* for those that use what makes room */
    if (status != STATUS_OK) return status;
    make_room(s, made.bytes);
    float *table = malloc(made.bytes);
    if (!table)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the rotary tables of %d tokens",
                         token_count(grid));
    status = s->ops->allocate(MEMORY_DEVICE, made.bytes, &memory, error);
    if (status != STATUS_OK) {
        free(table);
        error_prefix(error, "rotary tables of %d tokens", token_count(grid));
        return status;
    }
    made.cosines = memory;
    made.sines = made.cosines + half / sizeof(float);
    fill(s->config, grid, table, table + half / sizeof(float));
    s->ops->copy(team, memory, table, made.bytes);
    status = s->ops->wait(team, error);
    free(table);
    if (status != STATUS_OK) {
        s->ops->release(MEMORY_DEVICE, memory);
        return status;
    }
    s->bytes += made.bytes;
    s->made++;
    s->rotary[s->count] = made;
    *rotary = &s->rotary[s->count++];
    return STATUS_OK;
}

status_t rotary_find(struct rotary_shelf *s, struct team *team, const struct token_grid *grid,
                     const struct rotary **rotary, struct error *error)
{
    s->questions++;
    for (struct rotary *r = s->rotary; r < s->rotary + s->count; r++) {
        if (!token_grid_equal(&r->grid, grid)) continue;
        r->asked = s->questions;
        *rotary = r;
        return STATUS_OK;
    }
    return make(s, team, grid, rotary, error);
}

void rotary_clear(struct rotary_shelf *s)
{
    while (s->count) drop(s, s->rotary);
}
