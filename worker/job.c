/*
 * job.c - see job.h. Home's compute thread.
 *
 * The life of a job: text (job_text.c) -> open contexts on the stages -> steps (job_step.c) -> close contexts
 * -> decode -> files (job_finish.c).
 */
#include "worker/job_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules/wide.h"
#include "worker/model/noise.h"
#include "worker/model/vae_distance.h"

/* ----------------------------------------------------------------------------------------------- creation */

static void lay_out(struct job *j)
{
    const struct denoiser_config *d = &j->engine->model->config.denoiser;
    const struct ops *ops = j->engine->ops;
    struct arena *device = &j->device, *shared = &j->shared;
    size_t hidden = (size_t)d->hidden, latent = (size_t)j->latent_count;
    size_t text = (size_t)j->engine->model->config.text_length * hidden * sizeof(float);
    for (int b = 0; b < j->branches; b++) {
        struct cargo *hop = &j->branch[b].hop;
        hop->body = hop_bytes(token_count(&j->grid), d->hidden);
        for (int e = j->first_expert; e <= j->last_expert; e++)
            cargo_lay_out(&j->branch[b].text[e], ops, device, shared, text + sizeof j->policy);
        cargo_lay_out(hop, ops, device, shared, hop->body + (size_t)d->layers * sizeof(float));
        for (int p = 0; p < job_width(j) && job_width(j) > 1; p++) {
            struct cargo *shard = &j->branch[b].shard[p];
            int tokens = token_count(&j->grid);
            int rows = shard_row(tokens, job_width(j), p + 1) - shard_row(tokens, job_width(j), p);
            shard->body = hop_bytes(rows, d->hidden);
            cargo_lay_out(shard, ops, device, shared, shard->body + (size_t)d->layers * sizeof(float));
        }
        j->branch[b].velocity = arena_take(device, latent, sizeof(float));
    }
    j->velocity = arena_take(device, latent, sizeof(float));
    j->output_modulation = arena_take(device, hidden, sizeof(float));
    j->latent = arena_take(shared, latent, sizeof(float));
    j->wave = arena_take(shared, (size_t)d->freq_dim, sizeof(float));
    size_t pixels = (size_t)j->order.frames * 3 * (size_t)j->order.width * (size_t)j->order.height;
    j->frames = arena_take(&j->host, pixels, sizeof(float));
    job_preview_lay_out(j, shared, &j->host);
    if (j->passes < 2) return;
    j->uncached_latent = arena_take(shared, latent, sizeof(float));
    j->uncached_frames = arena_take(&j->host, pixels, sizeof(float));
}

static status_t allocate(struct job *j, struct error *error)
{
    const struct ops *ops = j->engine->ops;
    lay_out(j);
    status_t status = memory_arena(ops, MEMORY_DEVICE, &j->device, error);
    if (status == STATUS_OK) status = memory_arena(ops, MEMORY_SHARED, &j->shared, error);
    if (status == STATUS_OK) status = arena_allocate(&j->host, error);
    if (status == STATUS_OK) lay_out(j);
    return status;
}

/* Derives the lattices from the order, or says which number does not fit the model. */
static status_t measure(struct job *j, struct error *error)
{
    const struct model_config *c = &j->engine->model->config;
    const struct job_order *o = &j->order;
    int pixel_y = c->vae.scale_y * c->denoiser.patch_y, pixel_x = c->vae.scale_y * c->denoiser.patch_x;
    if (o->width < pixel_x || o->width % pixel_x || o->height < pixel_y || o->height % pixel_y)
        return error_set(error, STATUS_INVALID, "size %dx%d: must be multiples of %dx%d", o->width, o->height,
                         pixel_x, pixel_y);
    if (o->frames < 1 || (o->frames - 1) % c->vae.scale_t)
        return error_set(error, STATUS_INVALID, "frames %d: must be %dn + 1", o->frames, c->vae.scale_t);
    j->latent_frames = (o->frames - 1) / c->vae.scale_t + 1;
    j->latent_height = o->height / c->vae.scale_y;
    j->latent_width = o->width / c->vae.scale_y;
    if (j->latent_frames % c->denoiser.patch_t)
        return error_set(error, STATUS_INVALID, "frames %d: %d latent frames cannot be cut in patches of %d",
                         o->frames, j->latent_frames, c->denoiser.patch_t);
    j->grid =
        (struct token_grid){j->latent_frames / c->denoiser.patch_t, j->latent_height / c->denoiser.patch_y,
                            j->latent_width / c->denoiser.patch_x};
    int longest = j->grid.frames > j->grid.height ? j->grid.frames : j->grid.height;
    if (j->grid.width > longest) longest = j->grid.width;
    if (longest > c->denoiser.max_position)
        return error_set(error, STATUS_INVALID,
                         "size %dx%dx%d: %d patches along one axis, the model knows positions up to %d",
                         o->width, o->height, o->frames, longest, c->denoiser.max_position);
    if (token_count(&j->grid) < job_width(j))
        return error_set(error, STATUS_INVALID,
                         "size %dx%dx%d: %d tokens cannot be dealt to stages of %d ranks", o->width,
                         o->height, o->frames, token_count(&j->grid), job_width(j));
    j->latent_count =
        (int64_t)c->denoiser.in_channels * j->latent_frames * j->latent_height * j->latent_width;
    j->branches = o->guidance > 1 ? 2 : 1; /* as the reference: guidance is on only above 1 */
    return STATUS_OK;
}

/* Which expert makes which steps; one that makes none of them is left out. */
static void share_steps(struct job *j)
{
    const struct model_config *c = &j->engine->model->config;
    int steps = j->order.steps;
    while (j->switch_at < steps && model_expert_at(c, solver_timestep(j->solver[0], j->switch_at)) == 0)
        j->switch_at++;
    j->first_expert = j->switch_at == 0;
    j->last_expert = j->switch_at < steps;
}

/* Tables come with a request that is gone when the job runs. */
static status_t copy_tables(struct job *j, const struct job_order *order, struct error *error)
{
    j->order.table_count = 0;
    if (order->table_count == 0) return STATUS_OK;
    j->tables = calloc((size_t)order->table_count, sizeof *j->tables);
    for (int i = 0; j->tables && i < order->table_count; i++) {
        size_t bytes = (size_t)order->tables[i].count * sizeof(double);
        double *values = malloc(bytes ? bytes : 1);
        char *kind = strdup(order->tables[i].kind), *name = strdup(order->tables[i].name);
        j->tables[i] = order->tables[i];
        j->tables[i].values = values;
        j->tables[i].kind = kind;
        j->tables[i].name = name;
        j->order.table_count = i + 1;
        if (!values || !kind || !name)
            return error_set(error, STATUS_NO_MEMORY, "no memory for a cache table");
        memcpy(values, order->tables[i].values, bytes);
    }
    return j->tables ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for cache tables");
}

static struct policy_job policy_job(const struct job *j)
{
    const struct denoiser_config *d = &j->engine->model->config.denoiser;
    return (struct policy_job){.steps = j->order.steps,
                               .layers = d->layers,
                               .branches = j->branches,
                               .switch_at = j->switch_at,
                               .shift = j->order.shift,
                               .sigmas = j->sigmas,
                               .tables = j->tables,
                               .table_count = j->order.table_count,
                               .model = {d->layers, d->heads, d->head_dim, d->ffn_dim,
                                         j->engine->model->config.vae.latent_channels,
                                         j->engine->model->config.experts}};
}

/* Everything the policy will ever hold is taken here, so that what it decides depends on nothing that runs
 * beside it. */
static status_t create_cache(struct job *j, struct error *error)
{
    const struct denoiser_config *d = &j->engine->model->config.denoiser;
    status_t status = cache_settings_read(j->order.cache ? j->order.cache : "", &j->settings, error);
    if (status != STATUS_OK || !j->settings.policy) return status;
    cache_settings_text(&j->settings, j->policy, sizeof j->policy);
    j->sigmas = malloc(((size_t)j->order.steps + 1) * sizeof *j->sigmas);
    if (!j->sigmas) return error_set(error, STATUS_NO_MEMORY, "no memory for a job's sigmas");
    for (int i = 0; i <= j->order.steps; i++) j->sigmas[i] = solver_sigma(j->solver[0], i);
    struct reuse_shape shape = {.job = policy_job(j),
                                .frames = j->grid.frames,
                                .height = j->grid.height,
                                .width = j->grid.width,
                                .hidden = d->hidden,
                                .latent_rows = (int64_t)d->in_channels * j->latent_frames,
                                .latent_width = (int64_t)j->latent_height * j->latent_width};
    status = reuse_create(&j->settings, &shape, j->engine->ops, j->engine->team, &j->cache, error);
    if (status != STATUS_OK) return status;
    const struct cache_plan *plan = reuse_plan(j->cache);
    j->cache_bytes =
        cache_plan_bytes(&j->settings, plan, &shape.job, token_count(&j->grid), d->hidden, j->latent_count);
    for (int b = 0; b < j->branches && plan->policy.site == SITE_BLOCKS && status == STATUS_OK; b++) {
        status = engine_blocks_create(j->engine, &j->settings, j->order.steps, j->switch_at, &j->grid, b,
                                      &j->branch[b].blocks, error);
        if (status == STATUS_OK && job_width(j) > 1)
            status = engine_run_blocks_create(j->engine, &j->settings, j->order.steps, j->switch_at, &j->grid,
                                              b, &j->branch[b].shard_blocks, error);
    }
    return status;
}

void job_enter_pass(struct job *j, int pass)
{
    const struct denoiser_config *d = &j->engine->model->config.denoiser;
    j->pass = pass;
    j->reuse = pass + 1 == j->passes ? j->cache : NULL;
    bool span = j->reuse && reuse_plan(j->reuse)->policy.site == SITE_SPAN;
    j->span_begin = span ? reuse_plan(j->reuse)->policy.head : d->layers;
    j->span_end = span ? d->layers - reuse_plan(j->reuse)->policy.tail : d->layers;
}

void job_begin_pass(struct job *j, int pass)
{
    job_enter_pass(j, pass);
    j->step = 0;
    j->run_seconds = 0;
    j->pass_began_ns = clock_now_ns();
    noise_fill(j->order.seed, j->latent, j->latent_count);
}

/* The encoder of one that compares is loaded here, so that a lack of it is said before the steps and not after. */
static status_t check_coders(const struct job *j, struct error *error)
{
    const struct engine *e = j->engine;
    struct vae *encoder;
    status_t status =
        vae_stream_fits(e->model->vae, j->latent_height, j->latent_width, e->decode_memory, error);
    if (status != STATUS_OK || !j->order.compare) return status;
    status = model_encoder(e->model, &encoder, error);
    if (status != STATUS_OK) return status;
    status = vae_distance_fits(encoder, j->latent_height, j->latent_width, j->latent_frames, e->decode_memory,
                               error);
    if (status != STATUS_OK)
        error_prefix(error, "comparing takes two encoders, half of --decode-memory each");
    return status;
}

status_t job_create(struct engine *engine, const struct job_order *order, const char *directory,
                    struct job **job, struct error *error)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j) return error_set(error, STATUS_NO_MEMORY, "no memory for job %lu", (unsigned long)order->job);
    j->engine = engine;
    j->order = *order;
    j->context = engine_new_context(engine);
    j->deadline_ns = CLOCK_NEVER;
    j->status.phase = JOB_PHASE_TEXT;
    j->status.seconds_left = -1;
    snprintf(j->directory, sizeof j->directory, "%s", directory);
    status_t status = copy_tables(j, order, error);
    if (status == STATUS_OK) status = measure(j, error);
    const struct model_config *c = &engine->model->config;
    if (order->priority < 0 || order->priority >= PRIORITIES)
        status =
            error_set(error, STATUS_INVALID, "priority %d: must be 0 to %d", order->priority, PRIORITIES - 1);
    j->passes = order->compare ? PASSES : 1;
    for (int i = 0; i < j->passes && status == STATUS_OK; i++)
        status = solver_create(&c->solver, order->solver, order->steps, order->shift, j->latent_count,
                               engine->ops, &j->solver[i], error);
    if (status != STATUS_OK) goto err_job;
    share_steps(j);
    status = create_cache(j, error);
    if (status != STATUS_OK) goto err_job;
    status = check_coders(j, error);
    if (status == STATUS_OK) status = allocate(j, error);
    if (status != STATUS_OK) goto err_job;
    j->prompt[0] = strdup(order->prompt ? order->prompt : "");
    j->prompt[1] = strdup(order->negative ? order->negative : "");
    j->tenant = strdup(order->tenant ? order->tenant : "");
    if (!j->prompt[0] || !j->prompt[1] || !j->tenant) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a prompt");
        goto err_job;
    }
    j->phase_began_ns = clock_now_ns();
    *job = j;
    return STATUS_OK;
err_job:
    job_destroy(j);
    return status;
}

void job_shed(struct job *j)
{
    engine_withdraw(j->engine, &j->lent);
    for (int b = 0; b < BRANCHES; b++) {
        struct branch *branch = &j->branch[b];
        for (int e = 0; e < MODEL_EXPERTS; e++) engine_drop_context(j->engine, branch->context[e]);
        blocks_destroy(branch->blocks);
        blocks_destroy(branch->shard_blocks);
        memset(branch->context, 0, sizeof branch->context);
        branch->blocks = branch->shard_blocks = NULL;
    }
    for (int i = 0; i < PASSES; i++) {
        solver_destroy(j->solver[i]);
        j->solver[i] = NULL;
    }
    if (j->cache) reuse_give_back(j->cache);
    memory_give_back(j->engine->ops, MEMORY_DEVICE, &j->device);
    j->lean = true;
}

void job_destroy(struct job *j)
{
    if (!j) return;
    const struct ops *ops = j->engine->ops;
    job_forget_hops(j);
    engine_wait(j->engine, NULL); /* ops may still be at work on what goes */
    text_encoder_end(j->text_run);
    ops->release(MEMORY_DEVICE, j->text_rows);
    free(j->tenant);
    job_shed(j);
    engine_end_decoder(j->engine, j);
    video_drop(j->film);
    comparison_drop(j->comparison);
    quality_close(j->quality);
    for (int b = 0; b < BRANCHES; b++) free(j->prompt[b]);
    reuse_destroy(j->cache);
    for (int i = 0; i < j->order.table_count; i++) {
        free((void *)(uintptr_t)j->tables[i].values);
        free((void *)(uintptr_t)j->tables[i].kind);
        free((void *)(uintptr_t)j->tables[i].name);
    }
    free(j->tables);
    free(j->sigmas);
    free(j->preview.png);
    job_reuse_end(j);
    memory_give_back(ops, MEMORY_SHARED, &j->shared);
    arena_free(&j->host);
    free(j);
}

/* -------------------------------------------------------------------------------------------- small parts */

enum job_result job_fail(struct job *j, const struct error *why)
{
    if (j->failure.status == STATUS_OK) j->failure = *why;
    if (!job_is_out(j)) job_forget_hops(j);
    if (j->life > LIFE_TEXT && j->life < LIFE_CLOSE)
        job_close(j);
    else
        j->life = LIFE_FINISHED;
    j->deadline_ns = CLOCK_NEVER;
    return JOB_ADVANCED;
}

void job_close(struct job *j)
{
    j->life = LIFE_CLOSE;
    j->told = 0;
    j->deadline_ns = CLOCK_NEVER;
}

void job_await(struct job *j)
{
    j->deadline_ns = clock_now_ns() + HOP_TIMEOUT_NS;
    j->waits_since = atomic_load(&j->engine->progress);
}

void job_enter_phase(struct job *j, enum life life, enum job_phase phase, int of)
{
    j->life = life;
    j->phase_began_ns = clock_now_ns();
    j->status.phase = phase;
    j->status.done = 0;
    j->status.of = of;
    j->status.revision++;
}

double job_seconds_since(int64_t ns)
{
    return (double)(clock_now_ns() - ns) / (double)SECOND_NS;
}

/* A stage whose blocks decide by themselves learns the policy with OPEN, behind the branch's text (job_text.c). */
static void add_policy(const struct job *j, struct ticket *t)
{
    t->text_bytes = (uint32_t)job_policy_bytes(j);
    if (!t->text_bytes) return;
    t->step = (uint32_t)j->order.steps;
    t->block_begin = (uint32_t)j->switch_at;
    t->bytes += t->text_bytes;
}

/* Stages are told of each expert and branch that they serve, numbered one member after the other: the next number from
 * `told` on, or told_all. */
struct telling {
    int peer, expert, branch;
};

static int told_each(const struct job *j)
{
    return j->branches * (j->last_expert - j->first_expert + 1);
}

static int told_all(const struct job *j)
{
    return j->engine->members * told_each(j);
}

static struct telling telling(const struct job *j, int at)
{
    int each = told_each(j), what = at % each;
    return (struct telling){at / each, j->first_expert + what / j->branches, what % j->branches};
}

/* Does a stage other than home's own run blocks of it? */
static bool serves(const struct job *j, const struct telling *t)
{
    const struct split *split = &j->engine->model->split;
    return t->peer != j->engine->self &&
           split_run(split, split_chain(split, t->expert, t->branch), t->peer) > 0;
}

static int told_next(const struct job *j)
{
    for (int at = j->told; at < told_all(j); at++) {
        struct telling t = telling(j, at);
        if (serves(j, &t)) return at;
    }
    return told_all(j);
}

/* Posts the OPEN of each branch and expert, or one CLOSE, to stage after stage. STATUS_AGAIN: not all of them have it yet. */
static status_t tell_stages(struct job *j, enum ticket_kind kind, struct error *error)
{
    struct engine *e = j->engine;
    for (int at; (at = told_next(j)) < told_all(j);) {
        const struct telling what = telling(j, at);
        struct ticket t = {
            .kind = (uint16_t)kind,
            .job = j->order.job,
            .context = j->context,
            .attempt = j->order.attempt,
            .home = (uint16_t)e->self,
            .priority = (uint16_t)j->order.priority,
            .age = j->order.age,
            .grid = {(uint32_t)j->grid.frames, (uint32_t)j->grid.height, (uint32_t)j->grid.width}};
        const void *payload = NULL;
        if (kind == TICKET_OPEN) {
            struct cargo *text = &j->branch[what.branch].text[what.expert];
            t.dtype = TICKET_F32;
            t.branch = (uint16_t)what.branch;
            t.expert = (uint16_t)what.expert;
            t.row_count = (uint32_t)j->branch[what.branch].ids;
            t.bytes = text->body;
            add_policy(j, &t);
            status_t status = cargo_send(text, e, what.peer, 0, t.text_bytes, &payload, error);
            if (status != STATUS_OK) return status;
        }
        uint64_t cookie = j->context * JOB_COOKIES + (kind == TICKET_OPEN ? COOKIE_OPEN : COOKIE_CLOSE);
        status_t status = engine_post(e, what.peer, &t, payload, cookie, error);
        if (status != STATUS_OK) return status;
        j->outstanding++;
        j->told = kind == TICKET_CLOSE ? (what.peer + 1) * told_each(j) : at + 1;
    }
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------------- its life */

static enum job_result advance_text(struct job *j)
{
    struct error error = {0};
    bool done, asked = j->asked;
    job_tend(j);
    if (j->life != LIFE_TEXT) return JOB_ADVANCED; /* there is nothing left to make */
    status_t status = job_encode_text(j, &done, &error);
    if (status == STATUS_AGAIN) return asked ? JOB_WAITS : JOB_ADVANCED;
    if (status != STATUS_OK) return job_fail(j, &error);
    if (!done) return JOB_ADVANCED;
    j->status.text_seconds = job_seconds_since(j->phase_began_ns);
    job_enter_phase(j, LIFE_OPEN, JOB_PHASE_DENOISE, j->order.steps * j->passes);
    if (j->resumed)
        job_resume(j);
    else
        job_begin_pass(j, 0);
    j->told = 0;
    return JOB_ADVANCED;
}

/* Not all stages have been told yet. told: how many had been before. */
static enum job_result wait_for_credit(struct job *j, int told)
{
    if (j->deadline_ns == CLOCK_NEVER || j->told != told) job_await(j);
    return j->told != told ? JOB_ADVANCED : JOB_WAITS;
}

/* The stage of home's own rank, where there is one, works in the job's own contexts and gets no OPEN. */
static void lend_contexts(struct job *j)
{
    engine_withdraw(j->engine, &j->lent);
    j->lent = (struct engine_context){.id = j->context, .attempt = j->order.attempt, .grid = j->grid};
    for (int b = 0; b < j->branches; b++) {
        memcpy(j->lent.branch[b], j->branch[b].context, sizeof j->lent.branch[b]);
        j->lent.blocks[b] = job_width(j) > 1 ? j->branch[b].shard_blocks : j->branch[b].blocks;
    }
    engine_lend(j->engine, &j->lent);
}

/* Wide stages have been told, and not all of them have answered. */
static bool awaits_opened(const struct job *j)
{
    int wanted = 0;
    for (int at = 0; at < told_all(j) && job_width(j) > 1; at++) {
        struct telling t = telling(j, at);
        wanted += serves(j, &t);
    }
    return j->told > 0 && told_next(j) == told_all(j) && j->opened < wanted;
}

static enum job_result advance_open(struct job *j)
{
    struct error error = {0};
    int told = j->told;
    if (told == 0) lend_contexts(j);
    status_t status = STATUS_OK;
    if (j->engine->ulysses)
        status = engine_prepare_shard(j->engine, &j->grid, &error); /* or it is refused now */
    if (status == STATUS_OK) status = tell_stages(j, TICKET_OPEN, &error);
    if (status == STATUS_AGAIN) return wait_for_credit(j, told);
    if (status != STATUS_OK) return job_fail(j, &error);
    if (awaits_opened(j)) return wait_for_credit(j, told);
    j->deadline_ns = CLOCK_NEVER;
    j->life = LIFE_STEP;
    return JOB_ADVANCED;
}

static enum job_result advance_close(struct job *j)
{
    struct error error = {0};
    int told = j->told;
    if (job_is_out(j)) return JOB_WAITS;
    /* A stage that cannot be told any more is lost, and with it the epoch. */
    if (tell_stages(j, TICKET_CLOSE, &error) == STATUS_AGAIN) return wait_for_credit(j, told);
    j->deadline_ns = CLOCK_NEVER;
    if (j->cancelled || j->failure.status != STATUS_OK)
        j->life = LIFE_FINISHED;
    else
        job_enter_phase(j, LIFE_DECODE, JOB_PHASE_DECODE, j->latent_frames * j->passes);
    return JOB_ADVANCED;
}

/* ------------------------------------------------------------------------------------------------ outside */

/* Between its pieces of these a job may simply stop. */
static bool between(const struct job *j)
{
    return j->life == LIFE_TEXT || j->life == LIFE_DECODE || j->life == LIFE_FILES;
}

static bool waited_long(const struct job *j)
{
    return j->deadline_ns != CLOCK_NEVER && clock_now_ns() > j->deadline_ns;
}

/* That others came first is no reason to give up; that nothing moves at all is one. */
static bool gives_up(struct job *j)
{
    if (!waited_long(j)) return false;
    if (atomic_load(&j->engine->progress) == j->waits_since) return true;
    job_await(j);
    return false;
}

enum job_piece job_next(const struct job *j)
{
    const struct engine *e = j->engine;
    if (waited_long(j) || (j->cancelled && between(j))) return PIECE_SEND;
    switch (j->life) {
    case LIFE_TEXT:
        return job_reuse_waits(j) ? PIECE_NONE : PIECE_TEXT;
    case LIFE_OPEN:
    case LIFE_CLOSE: {
        int at = told_next(j);
        if (j->life == LIFE_OPEN ? awaits_opened(j) : job_is_out(j)) return PIECE_NONE;
        return at == told_all(j) || engine_reaches(e, telling(j, at).peer, WAY_OPEN) ? PIECE_SEND
                                                                                     : PIECE_NONE;
    }
    case LIFE_STEP:
        return job_next_in_step(j);
    case LIFE_DECODE:
        if (!j->lean) return j->outstanding == 0 ? PIECE_SEND : PIECE_NONE;
        return engine_may_decode(e, j, j->order.priority) ? PIECE_DECODE : PIECE_NONE;
    case LIFE_FILES:
        return PIECE_FILES;
    case LIFE_FINISHED:
        break;
    }
    return PIECE_SEND;
}

enum job_result job_advance(struct job *j)
{
    if (gives_up(j)) {
        struct error error;
        error_set(&error, STATUS_DEADLINE, "step %d of %d: the stages did not answer within %d s",
                  j->step + 1, j->order.steps, (int)(HOP_TIMEOUT_NS / SECOND_NS));
        return job_fail(j, &error);
    }
    if (j->cancelled && between(j)) j->life = LIFE_FINISHED;
    switch (j->life) {
    case LIFE_TEXT:
        return advance_text(j);
    case LIFE_OPEN:
        return advance_open(j);
    case LIFE_STEP:
        return job_advance_step(j);
    case LIFE_CLOSE:
        return advance_close(j);
    case LIFE_DECODE:
        return job_next(j) == PIECE_NONE ? JOB_WAITS : job_advance_decode(j);
    case LIFE_FILES:
        return job_advance_files(j);
    case LIFE_FINISHED:
        break;
    }
    engine_end_decoder(j->engine, j);
    return JOB_FINISHED;
}

void job_event(struct job *j, const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        uint64_t what = event->cookie % JOB_COOKIES;
        j->outstanding--;
        if (what > COOKIE_HOP_1) return;
        job_sent(j, (int)what);
    } else if (event->kind == FABRIC_RECEIVED) {
        const struct ticket *t = &event->ticket;
        struct branch *b = &j->branch[t->branch % BRANCHES];
        if (t->kind == TICKET_HOP && b->parts > 0) b->parts--;
        if (t->kind == TICKET_OPENED) j->opened++;
        bool current = t->attempt == j->order.attempt;
        bool listening = j->life == LIFE_STEP || j->life == LIFE_OPEN;
        /* A stage may refuse an OPEN before the first step, and that ticket's step is none. */
        bool in_step = j->step_begun && t->step == (uint32_t)j->step;
        if (listening && current && (in_step || t->kind == TICKET_FAILED)) job_receive(j, event);
    }
}

void job_refuse(struct job *job, const struct error *why)
{
    job_fail(job, why);
}

void job_cancel(struct job *job)
{
    job->cancelled = true;
}
uint64_t job_context(const struct job *job)
{
    return job->context;
}
uint64_t job_number(const struct job *job)
{
    return job->order.job;
}
uint32_t job_attempt(const struct job *job)
{
    return job->order.attempt;
}
const struct job_status *job_status(const struct job *job)
{
    return &job->status;
}
int64_t job_deadline_ns(const struct job *job)
{
    int64_t reuse_ns = job_reuse_deadline_ns(job);
    return reuse_ns < job->deadline_ns ? reuse_ns : job->deadline_ns;
}
int job_priority(const struct job *job)
{
    return job->order.priority;
}
int64_t job_due_ms(const struct job *job)
{
    return job->order.deadline_ms;
}
const char *job_tenant(const struct job *job)
{
    return job->tenant;
}
uint64_t job_work(const struct job *job)
{
    return job->work;
}
int job_steps(const struct job *job)
{
    return job->order.steps * job->passes;
}
bool job_settled(const struct job *job)
{
    return job->outstanding == 0;
}

status_t job_outcome(const struct job *job, struct error *error)
{
    if (job->failure.status != STATUS_OK) {
        if (error) *error = job->failure;
        return job->failure.status;
    }
    if (job->cancelled && job->life == LIFE_FINISHED && job->status.encode_seconds == 0)
        return error_set(error, STATUS_ABORTED, "cancelled");
    return STATUS_OK;
}

const float *job_frames(const struct job *j)
{
    return j->status.phase == JOB_PHASE_ENCODE ? j->frames : NULL;
}

bool job_cache(const struct job *j, struct job_cache *cache)
{
    if (!j->cache) return false;
    double steps = j->order.steps - j->inherited, cached = j->pass_seconds[j->passes - 1];
    *cache = j->report;
    cache->policy = j->policy;
    cache->bytes = j->cache_bytes;
    reuse_describe(j->cache, &cache->report);
    cache->cached_seconds = cached;
    cache->uncached_seconds = j->passes > 1 ? j->pass_seconds[0] : j->report.computed_seconds * steps;
    bool skipped = false; /* by this job */
    for (int i = j->inherited * cache->report.branches; i < j->order.steps * cache->report.branches; i++)
        skipped |= cache->report.actions[i] != REUSE_COMPUTED;
    if (skipped && cached > 0 && cache->uncached_seconds > 0) /* otherwise the difference is chance */
        cache->seconds_saved = cache->uncached_seconds - cached;
    return true;
}
