/* engine.c - see engine.h. Compute thread. */
#include "worker/engine.h"

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
