/* engine.c - see engine.h. Compute thread. */
#include "worker/engine.h"

#include <stdlib.h>

status_t engine_prepare(struct engine *engine, const struct token_grid *grid, struct error *error)
{
    const struct token_grid *now = &engine->work.grid;
    if (engine->arena.base && now->frames == grid->frames && now->height == grid->height &&
        now->width == grid->width)
        return STATUS_OK;
    struct arena arena = {0};
    struct denoiser_work work;
    denoiser_work_lay_out(&arena, &engine->model->config.denoiser, grid, &work);
    arena_free(&engine->arena); /* before allocating: two sets need not fit */
    status_t status = arena_allocate(&arena, error);
    if (status != STATUS_OK) return status;
    denoiser_work_lay_out(&arena, &engine->model->config.denoiser, grid, &work);
    engine->arena = arena;
    engine->work = work;
    return STATUS_OK;
}

status_t engine_post(struct engine *engine, int peer, struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error)
{
    ticket->epoch = engine->epoch;
    ticket->sequence = engine->sequence + 1;
    status_t status = fabric_post(engine->fabric, peer, ticket, payload, cookie, error);
    if (status == STATUS_OK) engine->sequence++;
    return status;
}

void engine_blocks(struct engine *e, const struct denoiser_context *context, struct blocks *cache, int step,
                   const float *modulation, float *x, int begin, int end, float *records)
{
    const struct denoiser *denoiser = e->model->denoiser;
    if (!cache) {
        denoiser_blocks(denoiser, e->team, &e->work, context, modulation, x, begin, end - begin,
                        &e->progress);
        return;
    }
    for (int i = begin; i < end; i++) {
        if (blocks_reuse(cache, e->team, step, i, x, records)) continue;
        blocks_enter(cache, i, x);
        denoiser_blocks(denoiser, e->team, &e->work, context, modulation, x, i, 1, &e->progress);
        blocks_leave(cache, e->team, i, x);
    }
}

status_t engine_blocks_create(struct engine *e, const struct cache_settings *settings, int steps,
                              const struct token_grid *grid, struct blocks **cache, struct error *error)
{
    const struct denoiser_config *d = &e->model->config.denoiser;
    struct policy_job job = {.steps = steps, .layers = d->layers, .branches = 2};
    bool *held = calloc((size_t)d->layers, sizeof *held);
    if (!held) return error_set(error, STATUS_NO_MEMORY, "no memory for caching by blocks");
    for (int i = 0; i < d->layers; i++) held[i] = model_holder(e->model, i) == e->self;
    status_t status = blocks_create(settings, &job, held, token_count(grid), d->hidden, e->ops, cache, error);
    free(held);
    return status;
}
