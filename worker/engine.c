/* engine.c - see engine.h. Compute thread. */
#include "worker/engine.h"

#include <stdlib.h>

#include "base/clock.h"
#include "worker/ulysses.h"

/* ---------------------------------------------------------------------------------------------- workspace */

/* Of work given to a device before it is waited for, so that heartbeats tell of work done. */
#define AHEAD_NS (SECOND_NS / 2)

/* The entry of a size, or the one that was used least recently, emptied. */
static struct engine_pace *find_pace(struct engine *e, uint32_t tokens)
{
    struct engine_pace *oldest = e->paces;
    for (int i = 0; i < ENGINE_PACES; i++) {
        struct engine_pace *p = &e->paces[i];
        if (atomic_load_explicit(&p->tokens, memory_order_relaxed) == tokens) return p;
        if (p->used < oldest->used) oldest = p;
    }
    atomic_store(&oldest->block_ns, 0);
    atomic_store(&oldest->tokens, tokens);
    return oldest;
}

static void note_pace(struct engine *e, double block_ns, int tokens)
{
    if (tokens <= 0) return;
    struct engine_pace *p = find_pace(e, (uint32_t)tokens);
    double mean = atomic_load_explicit(&p->block_ns, memory_order_relaxed);
    p->used = ++e->paced;
    atomic_store(&p->block_ns, mean > 0 ? 0.9 * mean + 0.1 * block_ns : block_ns);
}

/* Keeps the mean of what a block takes per token, for plans. */
static void take_pace(struct engine *e, int64_t ns, double rows)
{
    double mean = atomic_load_explicit(&e->block_token_ns, memory_order_relaxed), now = (double)ns / rows;
    atomic_store_explicit(&e->block_token_ns, mean > 0 ? 0.9 * mean + 0.1 * now : now, memory_order_relaxed);
}

status_t engine_wait(struct engine *e, struct error *error)
{
    struct error why = {0};
    status_t status = e->ops->wait(e->team, &why);
    e->waits++;
    if (status != STATUS_OK && e->failure.status == STATUS_OK) e->failure = why;
    if (status != STATUS_OK && error) *error = why;
    if (e->called == 0) return status;
    int64_t took_ns = clock_now_ns() - e->called_ns;
    if (status == STATUS_OK) take_pace(e, took_ns, e->called_rows);
    if (status == STATUS_OK) note_pace(e, (double)took_ns / e->called, e->called_tokens);
    atomic_fetch_add_explicit(&e->progress, (uint64_t)e->called, memory_order_relaxed);
    e->called = 0;
    e->called_rows = 0;
    return status;
}

static void disband(struct engine *e)
{
    if (e->ulysses) engine_wait(e, NULL);
    ulysses_destroy(e->ulysses);
    circle_destroy(e->circle);
    e->ulysses = NULL;
    e->circle = NULL;
}

static void drop_scratch(struct engine *e)
{
    engine_wait(e, NULL);
    stretches_forget(e->stretches, NULL);
    memory_give_back(e->ops, MEMORY_DEVICE, &e->arena);
}

void engine_clear(struct engine *e)
{
    if (!e->team) return;
    disband(e);
    drop_scratch(e);
}

/* Scratch for the largest grid so far serves all smaller ones. */
static status_t make_scratch(struct engine *e, int rows, struct error *error)
{
    struct arena arena = {0};
    struct denoiser_work work = {0};
    if (e->arena.base && rows <= e->rows) return STATUS_OK;
    denoiser_work_lay_out(&arena, &e->model->config.denoiser, e->ops->operand, rows, &work);
    drop_scratch(e); /* before allocating: two sets need not fit */
    status_t status = memory_arena(e->ops, MEMORY_DEVICE, &arena, error);
    if (status != STATUS_OK) return status;
    denoiser_work_lay_out(&arena, &e->model->config.denoiser, e->ops->operand, rows, &work);
    e->arena = arena;
    e->rows = rows;
    e->work = work;
    return STATUS_OK;
}

/* For rows [first, last) of the grid. */
static status_t prepare(struct engine *e, const struct token_grid *grid, int first, int last,
                        struct ulysses *ulysses, struct error *error)
{
    const struct rotary *rotary;
    status_t status = make_scratch(e, last - first, error);
    if (status != STATUS_OK) return status;
    e->work.first_row = first;
    e->work.rows = last - first;
    e->work.ulysses = ulysses;
    if (token_grid_equal(&e->work.grid, grid)) return STATUS_OK;
    e->work.grid = (struct token_grid){0}; /* its tables may have to make room */
    status = rotary_find(&e->model->rotary, e->team, grid, &rotary, error);
    if (status != STATUS_OK) return status;
    e->work.grid = *grid;
    e->work.cosines = rotary->cosines;
    e->work.sines = rotary->sines;
    return STATUS_OK;
}

status_t engine_prepare(struct engine *e, const struct token_grid *grid, struct error *error)
{
    return prepare(e, grid, 0, token_count(grid), NULL, error);
}

status_t engine_prepare_shard(struct engine *e, const struct token_grid *grid, struct error *error)
{
    int tokens = token_count(grid), width = circle_count(e->circle), place = circle_place(e->circle);
    status_t status = ulysses_fit(e->ulysses, &e->model->config.denoiser, tokens, error);
    if (status == STATUS_OK)
        status = prepare(e, grid, shard_row(tokens, width, place), shard_row(tokens, width, place + 1),
                         e->ulysses, error);
    if (status == STATUS_OK) ulysses_begin(e->ulysses, tokens);
    return status;
}

status_t engine_form_stage(struct engine *e, struct error *error)
{
    int width = split_width(&e->model->split), first = split_stage(&e->model->split, e->self);
    int members[CIRCLE_MEMBERS];
    status_t status = STATUS_OK;
    disband(e);
    if (width == 1) return STATUS_OK;
    if (width > CIRCLE_MEMBERS || (!e->fabric && !e->carrier))
        return error_set(error, STATUS_UNSUPPORTED, "stages of %d ranks: allowed are 1 to %d, over a fabric",
                         width, CIRCLE_MEMBERS);
    for (int i = 0; i < width; i++) members[i] = first + i;
    if (!e->circles) status = circles_open(e->fabric, &e->circles, error);
    if (status == STATUS_OK)
        status = circle_create(e->circles, (uint64_t)first, members, width, e->self, &e->circle, error);
    if (status == STATUS_OK) status = ulysses_create(e, e->circle, &e->ulysses, error);
    return status;
}

/* ------------------------------------------------------------------------------------------------ decoder */

bool engine_may_decode(const struct engine *e, const void *job, int priority)
{
    const struct engine_decoder *d = &e->decoder;
    return !d->stream || d->job == job || priority > d->priority;
}

status_t engine_decoder(struct engine *e, const void *job, int priority, int latent_height, int latent_width,
                        struct vae_stream **stream, bool *fresh, struct error *error)
{
    struct engine_decoder *d = &e->decoder;
    *fresh = !d->stream || d->job != job;
    if (*fresh) {
        engine_end_decoder(e, d->job);
        status_t status = vae_stream_open(e->model->vae, VAE_DECODER, latent_height, latent_width,
                                          e->decode_memory, &d->stream, error);
        if (status != STATUS_OK) return status;
        d->job = job;
        d->priority = priority;
    }
    *stream = d->stream;
    return STATUS_OK;
}

void engine_end_decoder(struct engine *e, const void *job)
{
    if (e->decoder.job != job) return;
    vae_stream_close(e->decoder.stream);
    e->decoder = (struct engine_decoder){0};
}

/* ----------------------------------------------------------------------------------------------- contexts */

uint64_t engine_new_context(struct engine *e)
{
    /* 48 bits count, and a job's cookies take 4 above: room for 4096 homes. */
    return (uint64_t)e->self << 48 | ++e->contexts;
}

void engine_lend(struct engine *e, struct engine_context *context)
{
    engine_withdraw(e, context);
    context->next = e->lent;
    e->lent = context;
}

void engine_withdraw(struct engine *e, struct engine_context *context)
{
    struct engine_context **at = &e->lent;
    while (*at && *at != context) at = &(*at)->next;
    if (*at) *at = context->next;
}

const struct engine_context *engine_lent(const struct engine *e, uint64_t id)
{
    const struct engine_context *c = e->lent;
    while (c && c->id != id) c = c->next;
    return c;
}

/* ------------------------------------------------------------------------------------------------ tickets */

static enum engine_way way_of(const struct ticket *t)
{
    switch (t->kind) {
    case TICKET_HOP:
        return t->flags & TICKET_DONE ? WAY_BRIEF : WAY_HOP;
    case TICKET_UNKNOWN_CONTEXT:
    case TICKET_FAILED:
    case TICKET_TURN:
        return WAY_BRIEF;
    default:
        return WAY_OPEN;
    }
}

/* Messages that are on an edge at most with one more of these: engine.h, Credits. */
static int most_on(const struct engine *e, enum engine_way way)
{
    int credits = fabric_credits(e->fabric), queue = e->lends ? ENGINE_LANDINGS : ENGINE_QUEUE;
    if (engine_wide(e))
        return way == WAY_HOP || way == WAY_BRIEF ? credits : credits - engine_wide_hops(e) - ENGINE_PARTS;
    if (queue > credits) queue = credits;
    if (way == WAY_BRIEF) return queue;
    if (way == WAY_ITEM) return queue - 2;
    return e->model && e->model->split.floating ? queue - 1 : queue;
}

bool engine_reaches(const struct engine *e, int peer, enum engine_way way)
{
    if (peer == e->self) return e->loops < ENGINE_LOOPS;
    return e->carrier || fabric_has_room(e->fabric, peer, most_on(e, way));
}

/* What one's own stage and home give each other stays where it is. */
bool engine_direct(const struct engine *e, int peer)
{
    return e->ops->local || e->lends || peer == e->self;
}

static status_t post_to_self(struct engine *e, const struct ticket *ticket, const void *payload,
                             uint64_t cookie)
{
    if (e->loops == ENGINE_LOOPS) return STATUS_AGAIN;
    e->loop[(e->loop_first + e->loops++) % ENGINE_LOOPS] = (struct engine_loop){
        .event = {.kind = FABRIC_RECEIVED, .peer = e->self, .ticket = *ticket, .payload = payload},
        .cookie = cookie};
    return STATUS_OK;
}

status_t engine_post(struct engine *e, int peer, struct ticket *ticket, const void *payload, uint64_t cookie,
                     struct error *error)
{
    bool probe = ticket->kind == TICKET_PROBE || ticket->kind == TICKET_PROBED;
    bool cargo = ticket->bytes > 0 && (ticket->kind == TICKET_HOP || ticket->kind == TICKET_OPEN || probe);
    ticket->epoch = e->epoch;
    ticket->sequence = e->sequence + 1;
    ticket->flags &= ~(uint32_t)TICKET_ON_DEVICE;
    if (e->lends && cargo && peer != e->self) ticket->flags |= TICKET_ON_DEVICE;
    if (peer == e->self) return post_to_self(e, ticket, payload, cookie);
    if (!engine_reaches(e, peer, way_of(ticket))) return STATUS_AGAIN;
    if (e->carrier) {
        e->carrier->carry(e->carrier, e->self, peer, ticket, payload, cookie);
        return STATUS_OK;
    }
    status_t status = fabric_post(e->fabric, peer, ticket, payload, cookie, error);
    if (status == STATUS_OK) e->sequence++;
    return status;
}

bool engine_next(struct engine *e, struct fabric_event *event)
{
    if (!e->loops && e->circles) return circles_next(e->circles, event) == STATUS_OK;
    if (!e->loops) return e->fabric && fabric_next(e->fabric, event) == STATUS_OK;
    struct engine_loop *l = &e->loop[e->loop_first];
    *event = l->event;
    if (!l->taken) {
        l->taken = true;
        return true;
    }
    *event = (struct fabric_event){.kind = FABRIC_SENT, .peer = e->self, .cookie = l->cookie};
    e->loop_first = (e->loop_first + 1) % ENGINE_LOOPS;
    e->loops--;
    return true;
}

void engine_drop_events(struct engine *e)
{
    e->loops = 0;
    disband(e);
    circles_close(e->circles);
    e->circles = NULL;
}

/* -------------------------------------------------------------------------------------- recorded stretches */

/* Calling an op takes the host some 4 us, and a block is 16 of them. A block that takes the device longer than this leaves the
 * host ahead of it, and replaying gains nothing (docs/gpu.md, "Recorded stretches"). */
#define RECORD_BELOW_NS 300000

static double block_ns(const struct engine *e)
{
    return atomic_load_explicit(&e->block_token_ns, memory_order_relaxed) * e->work.rows;
}

static bool begin(struct engine *e, struct stretch_key *key)
{
    double ns = block_ns(e);
    key->grid = e->work.grid;
    return stretches_begin(e->stretches, e->team, key, ns > 0 && ns < RECORD_BELOW_NS);
}

void engine_embed(struct engine *e, const struct denoiser_context *context, const float *latent, float *x)
{
    struct stretch_key key = {.kind = STRETCH_EMBED, .owner = context, .tensor = {latent, x}};
    for (bool call = begin(e, &key); call; call = stretches_end(e->stretches, e->team))
        denoiser_embed(denoiser_of(context), e->team, &e->work, latent, x);
}

void engine_first_input(struct engine *e, const struct denoiser_context *context, const float *modulation,
                        const float *x)
{
    struct stretch_key key = {.kind = STRETCH_INPUT, .owner = context, .tensor = {modulation, x}};
    for (bool call = begin(e, &key); call; call = stretches_end(e->stretches, e->team))
        denoiser_first_input(denoiser_of(context), e->team, &e->work, modulation, x);
}

void engine_output(struct engine *e, const struct denoiser_context *context, const float *modulation,
                   const float *x, float *velocity)
{
    struct stretch_key key = {.kind = STRETCH_OUTPUT, .owner = context, .tensor = {modulation, x, velocity}};
    for (bool call = begin(e, &key); call; call = stretches_end(e->stretches, e->team))
        denoiser_output(denoiser_of(context), e->team, &e->work, modulation, x, velocity);
}

void engine_drop_context(struct engine *e, struct denoiser_context *context)
{
    if (context) stretches_forget(e->stretches, context);
    denoiser_context_destroy(context);
}

/* ------------------------------------------------------------------------------------------------- blocks */

/* A run of blocks as one stretch, whose key holds the rotary tables too: they may have made room and come back. With a shard
 * of the rows it cannot be: between its ops it waits for others. */
static void call_blocks(struct engine *e, const struct denoiser_context *context, const float *modulation,
                        float *x, int begins, int ends)
{
    struct stretch_key key = {.kind = STRETCH_BLOCKS,
                              .owner = context,
                              .tensor = {modulation, x, e->work.cosines, e->work.sines},
                              .begin = begins,
                              .end = ends};
    int tokens = token_count(&e->work.grid);
    if (e->called == 0) e->called_ns = clock_now_ns();
    if (e->called == 0 || e->called_tokens != tokens) e->called_tokens = e->called == 0 ? tokens : -1;
    e->called += ends - begins;
    e->called_rows += (double)(ends - begins) * e->work.rows;
    bool shard = e->work.ulysses;
    for (bool call = shard || begin(e, &key); call; call = !shard && stretches_end(e->stretches, e->team))
        denoiser_blocks(denoiser_of(context), e->team, &e->work, context, modulation, x, begins,
                        ends - begins, NULL);
}

/* On a device that has not finished when this returns, time and progress are taken at the next wait. Where it
 * would be long in coming, or nobody knows yet, it is here. So many blocks at once as take a moment. */
static void compute_behind(struct engine *e, const struct denoiser_context *context, const float *modulation,
                           float *x, int begin, int end)
{
    for (int i = begin; i < end;) {
        double pace = block_ns(e);
        int count = pace > 0 && pace * (end - i) < (double)AHEAD_NS ? end - i : 1;
        call_blocks(e, context, modulation, x, i, i + count);
        i += count;
        pace = atomic_load_explicit(&e->block_token_ns, memory_order_relaxed);
        if (pace == 0 || pace * e->called_rows > (double)AHEAD_NS) engine_wait(e, NULL);
    }
}

static void compute(struct engine *e, const struct denoiser_context *context, const float *modulation,
                    float *x, int begin, int end)
{
    int64_t began_ns = clock_now_ns();
    if (begin >= end) return;
    if (!e->ops->local) {
        compute_behind(e, context, modulation, x, begin, end);
        return;
    }
    denoiser_blocks(denoiser_of(context), e->team, &e->work, context, modulation, x, begin, end - begin,
                    &e->progress);
    int64_t took_ns = clock_now_ns() - began_ns;
    take_pace(e, took_ns, (double)(end - begin) * e->work.rows);
    note_pace(e, (double)took_ns / (end - begin), token_count(&e->work.grid));
}

void engine_blocks(struct engine *e, const struct denoiser_context *context, struct blocks *cache, int step,
                   const float *modulation, float *x, int begin, int end, float *records)
{
    if (!cache) {
        compute(e, context, modulation, x, begin, end);
        return;
    }
    for (int i = begin; i < end; i++) {
        if (blocks_reuse(cache, e->team, step, i, x, records)) continue;
        blocks_enter(cache, e->team, i, x);
        compute(e, context, modulation, x, i, i + 1);
        blocks_leave(cache, e->team, i, x);
    }
}

static status_t create_context(struct engine *e, int expert, int branch, bool run, const float *text, int n,
                               struct denoiser_context **context, struct error *error)
{
    const struct model *m = e->model;
    int layers = m->config.denoiser.layers, chain = split_chain(&m->split, expert, branch);
    bool *wanted = calloc((size_t)layers, sizeof *wanted);
    if (!wanted) return error_set(error, STATUS_NO_MEMORY, "no memory for keys and values");
    (run ? model_list_run : model_list_own)(m, chain, wanted);
    for (int i = 0; i < layers && !run; i++) wanted[i] |= model_spares(m, i);
    status_t status = denoiser_context_create_of(m->denoiser[expert], e->team, text, n, m->config.text_length,
                                                 wanted, context, error);
    free(wanted);
    return status;
}

status_t engine_context_create(struct engine *e, int expert, int branch, const float *text, int n,
                               struct denoiser_context **context, struct error *error)
{
    return create_context(e, expert, branch, false, text, n, context, error);
}

status_t engine_run_context_create(struct engine *e, int expert, int branch, const float *text, int n,
                                   struct denoiser_context **context, struct error *error)
{
    return create_context(e, expert, branch, true, text, n, context, error);
}

static bool join_rows(void *engine, const void *own, size_t bytes, void *all)
{
    const struct engine *e = engine;
    return ulysses_join(e->ulysses, own, bytes, all);
}

static status_t create_blocks(struct engine *e, const struct cache_settings *settings, int steps,
                              int switch_at, const struct token_grid *grid, int branch, bool run,
                              struct blocks **cache, struct error *error)
{
    const struct denoiser_config *d = &e->model->config.denoiser;
    struct policy_job job = {.steps = steps, .layers = d->layers, .branches = 2, .switch_at = switch_at};
    bool *held = calloc(2 * (size_t)d->layers, sizeof *held), *ring = held + d->layers;
    if (!held) return error_set(error, STATUS_NO_MEMORY, "no memory for caching by blocks");
    for (int i = 0; i < e->model->config.experts; i++) {
        int chain = split_chain(&e->model->split, i, branch);
        (run ? model_list_run : model_list_own)(e->model, chain, held);
        if (!run && e->ulysses)
            model_list_run(e->model, chain, ring); /* its stage's, whose rows are others' too */
    }
    for (int i = 0; i < d->layers; i++) held[i] = held[i] && !ring[i];
    int tokens = token_count(grid), own = tokens;
    const struct blocks_rows rows = {.all = tokens, .join = join_rows, .context = e};
    bool shard = run && e->ulysses;
    if (shard) {
        int width = circle_count(e->circle), place = circle_place(e->circle);
        own = shard_row(tokens, width, place + 1) - shard_row(tokens, width, place);
    }
    status_t status =
        blocks_create(settings, &job, held, own, shard ? &rows : NULL, d->hidden, e->ops, cache, error);
    free(held);
    return status;
}

status_t engine_blocks_create(struct engine *e, const struct cache_settings *settings, int steps,
                              int switch_at, const struct token_grid *grid, int branch, struct blocks **cache,
                              struct error *error)
{
    return create_blocks(e, settings, steps, switch_at, grid, branch, false, cache, error);
}

status_t engine_run_blocks_create(struct engine *e, const struct cache_settings *settings, int steps,
                                  int switch_at, const struct token_grid *grid, int branch,
                                  struct blocks **cache, struct error *error)
{
    return create_blocks(e, settings, steps, switch_at, grid, branch, true, cache, error);
}
