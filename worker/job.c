/*
 * job.c - see job.h. Home's compute thread.
 *
 * The life of a job: text -> open contexts on the stages -> steps -> close contexts -> decode -> files.
 * Both branches of a step (conditional, unconditional) are in flight together: while one is with the stages,
 * home computes its own blocks of the other.
 */
#include "worker/job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "worker/model/checkpoint.h"
#include "worker/model/noise.h"
#include "worker/video.h"

enum { BRANCHES = 2 };

/* A hop that has not come back after this long will not: the ranks' own silence is noticed within two
 * seconds, so this only bounds a rank that is alive and stuck. */
#define HOP_TIMEOUT_NS (600 * SECOND_NS)

enum cookie { COOKIE_HOP_0, COOKIE_HOP_1, COOKIE_OPEN, COOKIE_CLOSE };

enum life { LIFE_TEXT, LIFE_OPEN, LIFE_STEP, LIFE_CLOSE, LIFE_DECODE, LIFE_FILES, LIFE_FINISHED };

enum branch_state {
    BRANCH_READY,   /* to be embedded and run through home's head blocks */
    BRANCH_LEAVING, /* waits for a credit to the first stage */
    BRANCH_AWAY,    /* with the stages */
    BRANCH_BACK,    /* to be run through home's tail blocks and output layer */
    BRANCH_DONE,    /* its velocity is there */
};

struct branch {
    enum branch_state state;
    int lent;        /* posts of `hop` not yet SENT */
    bool came_back;  /* RECEIVED arrived before SENT: becomes BACK with it */
    int ids;         /* tokens of its prompt */
    float *text;     /* [denoiser_text_rows(ids), hidden]: what the stages' OPEN carries */
    float *hop;      /* modulation [6, hidden], then x [tokens, hidden] */
    float *velocity; /* [latent] */
    struct denoiser_context *context;
};

struct job {
    struct engine *engine;
    struct job_order order;
    char *prompt[BRANCHES];
    char directory[4096];
    uint64_t context;
    enum life life;
    bool cancelled;
    struct error failure; /* status STATUS_OK: none */
    struct job_status status;
    int64_t phase_began_ns, step_began_ns, deadline_ns;

    struct token_grid grid;
    int latent_frames, latent_height, latent_width;
    int64_t latent_count;                  /* in_channels * frames * height * width */
    int branches, step, told, outstanding; /* told: OPENs or CLOSEs posted; outstanding: posts not yet SENT */
    bool step_begun;
    struct branch branch[BRANCHES];
    struct solver *solver;
    struct arena arena;
    float *latent, *velocity, *output_modulation, *frames;
    struct vae_stream *decoder;
    int decoded; /* latent frames */
};

/* ---------------------------------------------------------------------------------------------------------
 * creation */

static void lay_out(struct job *j, struct arena *arena)
{
    const struct model_config *c = &j->engine->model->config;
    size_t hidden = (size_t)c->denoiser.hidden, text_rows = (size_t)c->text_length;
    for (int b = 0; b < j->branches; b++) {
        j->branch[b].text = arena_take(arena, text_rows * hidden, sizeof(float));
        j->branch[b].hop = arena_take(arena, hop_bytes(token_count(&j->grid), c->denoiser.hidden), 1);
        j->branch[b].velocity = arena_take(arena, (size_t)j->latent_count, sizeof(float));
    }
    j->latent = arena_take(arena, (size_t)j->latent_count, sizeof(float));
    j->velocity = arena_take(arena, (size_t)j->latent_count, sizeof(float));
    j->output_modulation = arena_take(arena, hidden, sizeof(float));
    j->frames = arena_take(
        arena, (size_t)j->order.frames * 3 * (size_t)j->order.width * (size_t)j->order.height, sizeof(float));
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
    j->latent_count =
        (int64_t)c->denoiser.in_channels * j->latent_frames * j->latent_height * j->latent_width;
    j->branches = o->guidance > 1 ? 2 : 1; /* as the reference: guidance is on only above 1 */
    return STATUS_OK;
}

status_t job_create(struct engine *engine, const struct job_order *order, const char *directory,
                    struct job **job, struct error *error)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j) return error_set(error, STATUS_NO_MEMORY, "no memory for job %lu", (unsigned long)order->job);
    j->engine = engine;
    j->order = *order;
    j->context = ++engine->contexts;
    j->deadline_ns = CLOCK_NEVER;
    j->status.phase = JOB_PHASE_TEXT;
    j->status.seconds_left = -1;
    snprintf(j->directory, sizeof j->directory, "%s", directory);
    status_t status = measure(j, error);
    if (status != STATUS_OK) goto err_job;
    const struct model_config *c = &engine->model->config;
    status = solver_create(&c->solver, order->solver, order->steps, order->shift, j->latent_count,
                           engine->ops, &j->solver, error);
    if (status != STATUS_OK) goto err_job;
    lay_out(j, &j->arena);
    status = arena_allocate(&j->arena, error);
    if (status != STATUS_OK) goto err_job;
    lay_out(j, &j->arena);
    j->prompt[0] = strdup(order->prompt ? order->prompt : "");
    j->prompt[1] = strdup(order->negative ? order->negative : "");
    if (!j->prompt[0] || !j->prompt[1]) {
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

void job_destroy(struct job *j)
{
    if (!j) return;
    vae_stream_close(j->decoder);
    solver_destroy(j->solver);
    for (int b = 0; b < BRANCHES; b++) {
        denoiser_context_destroy(j->branch[b].context);
        free(j->prompt[b]);
    }
    arena_free(&j->arena);
    free(j);
}

/* -------------------------------------------------------------------------------------------------------
 * small parts */

static enum job_result job_fail(struct job *j, const struct error *why)
{
    if (j->failure.status == STATUS_OK) j->failure = *why;
    j->deadline_ns = CLOCK_NEVER;
    j->told = 0;
    j->life = j->life > LIFE_TEXT && j->life < LIFE_DECODE ? LIFE_CLOSE : LIFE_FINISHED;
    return JOB_ADVANCED;
}

static void enter_phase(struct job *j, enum life life, enum job_phase phase, int of)
{
    j->life = life;
    j->phase_began_ns = clock_now_ns();
    j->status.phase = phase;
    j->status.done = 0;
    j->status.of = of;
    j->status.revision++;
}

static double seconds_since(int64_t ns)
{
    return (double)(clock_now_ns() - ns) / (double)SECOND_NS;
}

/* Posts one message about the whole job to stage after stage; true when all of them have it. */
static bool tell_stages(struct job *j, enum ticket_kind kind, int per_stage, struct error *error)
{
    struct engine *e = j->engine;
    int total = (e->members - 1) * per_stage;
    while (j->told < total) {
        int peer = 1 + j->told / per_stage, b = j->told % per_stage;
        struct ticket t = {
            .kind = (uint16_t)kind,
            .job = j->order.job,
            .context = j->context,
            .attempt = j->order.attempt,
            .grid = {(uint32_t)j->grid.frames, (uint32_t)j->grid.height, (uint32_t)j->grid.width}};
        const void *payload = NULL;
        if (kind == TICKET_OPEN) {
            int rows = denoiser_text_rows(j->branch[b].ids, e->model->config.text_length);
            t.dtype = TICKET_F32;
            t.branch = (uint16_t)b;
            t.row_count = (uint32_t)j->branch[b].ids;
            t.bytes = (uint64_t)rows * (uint64_t)e->model->config.denoiser.hidden * sizeof(float);
            payload = j->branch[b].text;
        }
        uint64_t cookie = j->context * JOB_COOKIES + (kind == TICKET_OPEN ? COOKIE_OPEN : COOKIE_CLOSE);
        if (engine_post(e, peer, &t, payload, cookie, error) != STATUS_OK) return false;
        j->outstanding++;
        j->told++;
    }
    return true;
}

/* -------------------------------------------------------------------------------------------------------------
 * text */

static status_t encode_text(struct job *j, int b, struct error *error)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    int limit = m->config.text_length;
    int32_t *ids = malloc((size_t)limit * sizeof *ids);
    float *rows = NULL;
    status_t status = ids ? tokenizer_encode(m->tokenizer, j->prompt[b], limit, ids, &j->branch[b].ids, error)
                          : error_set(error, STATUS_NO_MEMORY, "no memory for a prompt");
    int count = j->branch[b].ids;
    if (status != STATUS_OK) goto out;
    rows = malloc((size_t)count * (size_t)m->config.text.width * sizeof *rows);
    status = rows ? text_encoder_encode(m->text_encoder, e->team, ids, count, rows, error)
                  : error_set(error, STATUS_NO_MEMORY, "no memory for %d rows of text", count);
    if (status == STATUS_OK)
        status = denoiser_text(m->denoiser, e->team, rows, count, limit, j->branch[b].text, error);
    if (status == STATUS_OK)
        status = denoiser_context_create(m->denoiser, e->team, j->branch[b].text, count, limit,
                                         &j->branch[b].context, error);
    atomic_fetch_add(&e->progress, 1);
out:
    free(rows);
    free(ids);
    return status;
}

static enum job_result advance_text(struct job *j)
{
    struct error error = {0};
    for (int b = 0; b < j->branches; b++)
        if (encode_text(j, b, &error) != STATUS_OK) return job_fail(j, &error);
    noise_fill(j->order.seed, j->latent, j->latent_count);
    j->status.text_seconds = seconds_since(j->phase_began_ns);
    enter_phase(j, LIFE_OPEN, JOB_PHASE_DENOISE, j->order.steps);
    j->told = 0;
    return JOB_ADVANCED;
}

static enum job_result advance_open(struct job *j)
{
    struct error error = {0};
    if (!tell_stages(j, TICKET_OPEN, j->branches, &error)) {
        j->deadline_ns = j->deadline_ns == CLOCK_NEVER ? clock_now_ns() + HOP_TIMEOUT_NS : j->deadline_ns;
        return error.status == STATUS_OK || error.status == STATUS_AGAIN ? JOB_WAITS : job_fail(j, &error);
    }
    j->deadline_ns = CLOCK_NEVER;
    j->life = LIFE_STEP;
    return JOB_ADVANCED;
}

/* --------------------------------------------------------------------------------------------------------
 * step loop */

static void begin_step(struct job *j)
{
    const struct model *m = j->engine->model;
    size_t bytes = 6 * (size_t)m->config.denoiser.hidden * sizeof(float);
    j->step_began_ns = clock_now_ns();
    struct denoiser_modulation modulation = {.output = j->output_modulation, .blocks = j->branch[0].hop};
    denoiser_time(m->denoiser, j->engine->team, solver_timestep(j->solver, j->step), &modulation);
    for (int b = 0; b < j->branches; b++) {
        if (b) memcpy(j->branch[b].hop, j->branch[0].hop, bytes);
        j->branch[b].state = BRANCH_READY;
    }
    j->step_begun = true;
}

/* Embedding and home's head blocks; then the hidden state either leaves for the stages or is already where it
 * belongs. */
static void run_head(struct job *j, struct branch *b)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    float *x = b->hop + 6 * m->config.denoiser.hidden;
    denoiser_embed(m->denoiser, e->team, &e->work, j->latent, x);
    denoiser_blocks(m->denoiser, e->team, &e->work, b->context, b->hop, x, 0, m->count, &e->progress);
    b->state = e->members > 1 ? BRANCH_LEAVING : BRANCH_BACK;
}

/* Sends the hidden state to the first stage; the payload is lent until it is SENT. */
static status_t send_hop(struct job *j, int index, struct error *error)
{
    struct branch *b = &j->branch[index];
    int rows = token_count(&j->grid);
    struct ticket t = {.kind = TICKET_HOP,
                       .dtype = TICKET_F32,
                       .branch = (uint16_t)index,
                       .job = j->order.job,
                       .context = j->context,
                       .attempt = j->order.attempt,
                       .step = (uint32_t)j->step,
                       .timestep = solver_timestep(j->solver, j->step),
                       .grid = {(uint32_t)j->grid.frames, (uint32_t)j->grid.height, (uint32_t)j->grid.width},
                       .row_count = (uint32_t)rows,
                       .bytes = hop_bytes(rows, j->engine->model->config.denoiser.hidden)};
    status_t status = engine_post(j->engine, 1, &t, b->hop,
                                  j->context * JOB_COOKIES + (uint64_t)(COOKIE_HOP_0 + index), error);
    if (status != STATUS_OK) return status;
    b->lent++;
    b->state = BRANCH_AWAY;
    j->outstanding++;
    j->deadline_ns = clock_now_ns() + HOP_TIMEOUT_NS;
    return STATUS_OK;
}

static void run_tail(struct job *j, struct branch *b)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    float *x = b->hop + 6 * m->config.denoiser.hidden;
    denoiser_blocks(m->denoiser, e->team, &e->work, b->context, b->hop, x,
                    m->config.denoiser.layers - m->tail, m->tail, &e->progress);
    denoiser_output(m->denoiser, e->team, &e->work, j->output_modulation, x, b->velocity);
    b->state = BRANCH_DONE;
}

static bool all_finite(const float *x, int64_t count)
{
    float sum = 0; /* 0 * finite stays 0; 0 * inf and 0 * NaN are NaN */
    for (int64_t i = 0; i < count; i++) sum += 0 * x[i];
    return sum == 0;
}

/* v = unconditional + guidance (conditional - unconditional), rounded as the reference rounds; then the
 * solver. */
static enum job_result finish_step(struct job *j)
{
    struct engine *e = j->engine;
    const float *velocity = j->branch[0].velocity;
    if (j->branches == 2) {
        const float *c = j->branch[0].velocity, *u = j->branch[1].velocity;
        const float guidance = (float)j->order.guidance;
        e->ops->lincomb(e->team, 2, (const float[]){1, -1}, (const float *[]){c, u}, j->latent_count,
                        j->velocity);
        e->ops->lincomb(e->team, 2, (const float[]){1, guidance}, (const float *[]){u, j->velocity},
                        j->latent_count, j->velocity);
        velocity = j->velocity;
    }
    solver_step(j->solver, e->team, j->step, velocity, j->latent);
    j->step_begun = false;
    j->deadline_ns = CLOCK_NEVER;
    j->step++;
    j->status.done = j->step;
    double seconds = seconds_since(j->step_began_ns);
    j->status.step_seconds = j->step == 1 ? seconds : 0.8 * j->status.step_seconds + 0.2 * seconds;
    j->status.seconds_left = j->status.step_seconds * (j->order.steps - j->step);
    j->status.revision++;
    if (!all_finite(j->latent, j->latent_count)) {
        struct error error;
        error_set(&error, STATUS_CORRUPT,
                  "step %d of %d: the latent is not finite (NaN or infinity): the weights or the "
                  "settings are outside what the model can do",
                  j->step, j->order.steps);
        return job_fail(j, &error);
    }
    return JOB_ADVANCED;
}

/* The step loop: each call does the first thing that can be done, in the order home wants them done. */
static enum job_result advance_step(struct job *j)
{
    struct error error = {0};
    if (!j->step_begun) {
        if (j->cancelled || j->step == j->order.steps) {
            j->status.denoise_seconds = seconds_since(j->phase_began_ns);
            j->life = LIFE_CLOSE;
            j->told = 0;
            return JOB_ADVANCED;
        }
        if (engine_prepare(j->engine, &j->grid, &error) != STATUS_OK) return job_fail(j, &error);
        begin_step(j);
    }
    bool done = true;
    for (int i = 0; i < j->branches; i++) {
        struct branch *b = &j->branch[i];
        if (b->state == BRANCH_LEAVING) { /* first: it keeps the stages busy while home computes */
            status_t status = send_hop(j, i, &error);
            if (status == STATUS_OK) return JOB_ADVANCED;
            if (status != STATUS_AGAIN) return job_fail(j, &error);
        }
        done = done && b->state == BRANCH_DONE;
    }
    if (done) return finish_step(j);
    for (int i = 0; i < j->branches; i++) {
        struct branch *b = &j->branch[i];
        if (b->state != BRANCH_READY && b->state != BRANCH_BACK) continue;
        if (engine_prepare(j->engine, &j->grid, &error) != STATUS_OK) return job_fail(j, &error);
        if (b->state == BRANCH_READY)
            run_head(j, b);
        else
            run_tail(j, b);
        return JOB_ADVANCED;
    }
    return JOB_WAITS;
}

static enum job_result advance_close(struct job *j)
{
    struct error error = {0};
    if (!tell_stages(j, TICKET_CLOSE, 1, &error) &&
        (error.status == STATUS_OK || error.status == STATUS_AGAIN))
        return JOB_WAITS;
    if (j->cancelled || j->failure.status != STATUS_OK)
        j->life = LIFE_FINISHED;
    else
        enter_phase(j, LIFE_DECODE, JOB_PHASE_DECODE, j->latent_frames);
    return JOB_ADVANCED;
}

/* ----------------------------------------------------------------------------------------------------
 * decode, files */

/* One latent frame a call, so that other jobs' steps fit between. */
static enum job_result advance_decode(struct job *j)
{
    struct error error = {0};
    struct engine *e = j->engine;
    if (!j->decoder && vae_stream_open(e->model->vae, VAE_DECODER, j->latent_height, j->latent_width,
                                       &j->decoder, &error) != STATUS_OK)
        return job_fail(j, &error);
    vae_decode(j->decoder, e->team, j->latent, j->latent_frames, j->decoded, j->frames);
    atomic_fetch_add(&e->progress, 1);
    j->status.done = ++j->decoded;
    j->status.seconds_left = seconds_since(j->phase_began_ns) / j->decoded * (j->latent_frames - j->decoded);
    j->status.revision++;
    if (j->decoded < j->latent_frames) return JOB_ADVANCED;
    vae_stream_close(j->decoder);
    j->decoder = NULL;
    j->status.decode_seconds = seconds_since(j->phase_began_ns);
    enter_phase(j, LIFE_FILES, JOB_PHASE_ENCODE, 0);
    return JOB_ADVANCED;
}

static status_t write_video(const struct job *j, const char *path, const struct video_size *size,
                            struct error *error)
{
    struct video *video;
    status_t status = video_open(path, size, &video, error);
    if (status != STATUS_OK) return status;
    int64_t frame = (int64_t)3 * size->width * size->height;
    for (int i = 0; i < size->frames; i++) {
        status = video_add(video, j->frames + i * frame, error);
        if (status != STATUS_OK) {
            video_drop(video);
            return status;
        }
        atomic_fetch_add(&j->engine->progress, 1);
    }
    return video_close(video, error);
}

static status_t write_files(const struct job *j, struct error *error)
{
    char path[sizeof j->directory + 32];
    const struct job_order *o = &j->order;
    struct video_size size = {o->frames, o->width, o->height, o->fps};
    snprintf(path, sizeof path, "%s/video.mp4", j->directory);
    status_t status = write_video(j, path, &size, error);
    if (status != STATUS_OK) return status;
    snprintf(path, sizeof path, "%s/sheet.png", j->directory);
    status = sheet_write(path, &size, j->frames, error);
    if (status == STATUS_OK && o->save_latents) {
        snprintf(path, sizeof path, "%s/latents.safetensors", j->directory);
        const int64_t shape[] = {1, j->engine->model->config.denoiser.in_channels, j->latent_frames,
                                 j->latent_height, j->latent_width};
        status = safetensors_write_f32(path, "latents", 5, shape, j->latent, error);
    }
    if (status == STATUS_OK && o->save_frames) {
        snprintf(path, sizeof path, "%s/frames.safetensors", j->directory);
        const int64_t shape[] = {1, o->frames, 3, o->height, o->width};
        status = safetensors_write_f32(path, "frames", 5, shape, j->frames, error);
    }
    return status;
}

static enum job_result advance_files(struct job *j)
{
    struct error error = {0};
    if (write_files(j, &error) != STATUS_OK) return job_fail(j, &error);
    j->status.encode_seconds = seconds_since(j->phase_began_ns);
    j->status.seconds_left = 0;
    j->life = LIFE_FINISHED;
    return JOB_ADVANCED;
}

/* ----------------------------------------------------------------------------------------------------------
 * outside */

enum job_result job_advance(struct job *j)
{
    if (j->deadline_ns != CLOCK_NEVER && clock_now_ns() > j->deadline_ns) {
        struct error error;
        error_set(&error, STATUS_DEADLINE, "step %d of %d: the stages did not answer within %d s",
                  j->step + 1, j->order.steps, (int)(HOP_TIMEOUT_NS / SECOND_NS));
        return job_fail(j, &error);
    }
    bool between = j->life == LIFE_TEXT || j->life == LIFE_DECODE || j->life == LIFE_FILES;
    if (j->cancelled && between) j->life = LIFE_FINISHED;
    switch (j->life) {
    case LIFE_TEXT:
        return advance_text(j);
    case LIFE_OPEN:
        return advance_open(j);
    case LIFE_STEP:
        return advance_step(j);
    case LIFE_CLOSE:
        return advance_close(j);
    case LIFE_DECODE:
        return advance_decode(j);
    case LIFE_FILES:
        return advance_files(j);
    case LIFE_FINISHED:
        break;
    }
    return JOB_FINISHED;
}

/* A hop is back when both its rows have arrived and its outgoing buffer, which receives them, is ours again.
 */
static void land(struct job *j, struct branch *b)
{
    if (b->state == BRANCH_AWAY && b->came_back && !b->lent) {
        b->came_back = false;
        b->state = BRANCH_BACK;
    }
}

static void receive(struct job *j, const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    struct branch *b = &j->branch[t->branch % BRANCHES];
    int hidden = j->engine->model->config.denoiser.hidden;
    uint64_t bytes = (uint64_t)token_count(&j->grid) * (uint64_t)hidden * sizeof(float);
    struct error error;
    switch (t->kind) {
    case TICKET_HOP:
        if (t->bytes != bytes || t->branch >= j->branches) {
            error_set(&error, STATUS_CORRUPT, "a hop came back with %lu bytes instead of %lu",
                      (unsigned long)t->bytes, (unsigned long)bytes);
            job_fail(j, &error);
            return;
        }
        /* The rows came back, so the stage has read what we sent: the buffer may be written though SENT is
         * pending. */
        memcpy(b->hop + 6 * hidden, event->payload, bytes);
        b->came_back = true;
        land(j, b);
        return;
    case TICKET_UNKNOWN_CONTEXT: /* open everywhere again, then repeat this hop */
        b->state = BRANCH_LEAVING;
        j->told = 0;
        j->life = LIFE_OPEN;
        return;
    case TICKET_FAILED:
        error_set(&error, STATUS_NO_MEMORY, "member %d: %.*s", event->peer,
                  (int)(t->bytes < 400 ? t->bytes : 400), t->bytes ? (const char *)event->payload : "failed");
        job_fail(j, &error);
        return;
    default:
        return;
    }
}

void job_event(struct job *j, const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        uint64_t what = event->cookie % JOB_COOKIES;
        j->outstanding--;
        if (what > COOKIE_HOP_1) return;
        j->branch[what].lent--;
        land(j, &j->branch[what]);
    } else if (event->kind == FABRIC_RECEIVED) {
        bool current = event->ticket.attempt == j->order.attempt && event->ticket.step == (uint32_t)j->step;
        bool listening = j->life == LIFE_STEP || j->life == LIFE_OPEN;
        if (listening && j->step_begun && current) receive(j, event);
    }
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
    return job->deadline_ns;
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
