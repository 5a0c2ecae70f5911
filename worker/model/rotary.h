/*
 * rotary.h - the rotary tables of the token grids at work, kept so that jobs of mixed sizes do not make them
 * anew at every turn.
 *
 *     struct rotary_shelf shelf = {.config = &config, .ops = ops};
 *     rotary_find(&shelf, team, &grid, &table, &error);     valid until the next rotary_find
 *     rotary_clear(&shelf);                                 after wait
 *
 * Bounded in number and bytes: the table that was not asked for the longest makes room. Derived from the
 * model's numbers and a grid alone; owned by a model, used by one thread.
 */
#ifndef REFRAIN_WORKER_MODEL_ROTARY_H
#define REFRAIN_WORKER_MODEL_ROTARY_H

#include "worker/model/denoiser.h"

enum { ROTARY_GRIDS = 16 };
#define ROTARY_BYTES                                                                                         \
    ((size_t)256 << 20) /* of all tables; a single one may be larger (a 720p table takes 39 MB) */

struct rotary {
    struct token_grid grid;
    size_t bytes;
    uint64_t asked;         /* when, in questions to the shelf */
    float *cosines, *sines; /* [S, head_dim / 2], one block of device memory */
};

struct rotary_shelf {
    const struct denoiser_config *config;
    const struct ops *ops;
    struct rotary rotary[ROTARY_GRIDS];
    int count;
    size_t bytes;
    uint64_t questions, made; /* made: tables that had to be computed */
};

/* A table that has to be made is waited for, one that is there is not. */
status_t rotary_find(struct rotary_shelf *shelf, struct team *team, const struct token_grid *grid,
                     const struct rotary **rotary, struct error *error);
void rotary_clear(struct rotary_shelf *shelf);

#endif
