/* bench.c - see bench.h. One thread and its team; no fabric: the ring has one member. */
#include "worker/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "worker/engine.h"
#include "worker/job.h"
#include "worker/model/noise.h"

/* The pieces of one forward, laid out once. */
struct bench {
    struct engine engine;
    struct bench_config config;
    struct denoiser_context *context;
    struct vae_stream *decoder;
    struct arena device, shared, host;
    int latent_frames, latent_height, latent_width, ids;
    int64_t latent_count;
    int64_t began_ns; /* what is timed */
    float *velocity, *x, *modulation, *rows, *text; /* on the device */
    float *latent, *wave;                           /* shared */
    float *frames;                                  /* the host's */
};

static const char prompt[] = "a large red star spinning on a navy background";

static void lay_out(struct bench *b)
{
    const struct model_config *c = &b->engine.model->config;
    size_t hidden = (size_t)c->denoiser.hidden;
    struct arena *arena = &b->device;
    b->latent = arena_take(&b->shared, (size_t)b->latent_count, sizeof(float));
    b->wave = arena_take(&b->shared, (size_t)c->denoiser.freq_dim, sizeof(float));
    b->velocity = arena_take(arena, (size_t)b->latent_count, sizeof(float));
    b->x = arena_take(arena, hop_bytes(token_count(&b->engine.work.grid), c->denoiser.hidden), 1);
    b->modulation = arena_take(arena, 7 * hidden, sizeof(float));
    b->frames = arena_take(&b->host,
                           (size_t)b->config.frames * 3 * (size_t)b->config.width * (size_t)b->config.height,
                           sizeof(float));
    b->rows = arena_take(arena, (size_t)c->text_length * (size_t)c->text.width, sizeof(float));
    b->text = arena_take(arena, (size_t)c->text_length * hidden, sizeof(float));
}

static status_t time_text(struct bench *b, struct error *error)
{
    const struct model *m = b->engine.model;
    int32_t ids[512];
    status_t status = tokenizer_encode(m->tokenizer, prompt, m->config.text_length, ids, &b->ids, error);
    if (status == STATUS_OK)
        status = text_encoder_encode(m->text_encoder, b->engine.team, ids, b->ids, b->rows, error);
    if (status == STATUS_OK)
        status = denoiser_text(m->denoiser[0], b->engine.team, b->rows, b->ids, m->config.text_length,
                               b->text, error);
    return status;
}

static void run_blocks(struct bench *b, const float *modulation)
{
    struct engine *e = &b->engine;
    engine_blocks(e, b->context, NULL, 0, modulation, b->x, 0, e->model->config.denoiser.layers, NULL);
}

static struct denoiser_modulation modulation_of(struct bench *b)
{
    return (struct denoiser_modulation){.wave = b->wave,
                                        .output = b->modulation,
                                        .blocks = b->modulation + b->engine.model->config.denoiser.hidden};
}

static status_t time_forward(struct bench *b, struct error *error)
{
    struct engine *e = &b->engine;
    struct denoiser_modulation modulation = modulation_of(b);
    denoiser_time(e->model->denoiser[0], e->team, 721, &modulation);
    engine_embed(e, b->context, b->latent, b->x);
    run_blocks(b, modulation.blocks);
    engine_output(e, b->context, modulation.output, b->x, b->velocity);
    return engine_wait(e, error);
}

/* As a stage has them: of rows that have been embedded, and of the modulation that home sends. */
static status_t time_blocks(struct bench *b, struct error *error)
{
    struct engine *e = &b->engine;
    struct denoiser_modulation modulation = modulation_of(b);
    denoiser_time(e->model->denoiser[0], e->team, 721, &modulation);
    engine_embed(e, b->context, b->latent, b->x);
    status_t status = engine_wait(e, error);
    b->began_ns = clock_now_ns();
    run_blocks(b, modulation.blocks);
    return status == STATUS_OK ? engine_wait(e, error) : status;
}

static status_t time_decode(struct bench *b, struct error *error)
{
    vae_stream_close(b->decoder);
    b->decoder = NULL;
    status_t status = vae_stream_open(b->engine.model->vae, VAE_DECODER, b->latent_height, b->latent_width,
                                      b->config.decode_memory, &b->decoder, error);
    for (int i = 0; status == STATUS_OK && i < vae_pieces(b->decoder, b->latent_frames); i++)
        status = vae_decode(b->decoder, b->engine.team, b->latent, b->latent_frames, i, b->frames, error);
    return status;
}

/* A whole job without its files: text, `steps` guided steps, decode. */
static status_t time_run(struct bench *b, int steps, struct error *error)
{
    const struct model *m = b->engine.model;
    struct solver *solver;
    status_t status = time_text(b, error);
    if (status == STATUS_OK) status = time_text(b, error); /* the negative prompt's share */
    if (status != STATUS_OK) return status;
    status = solver_create(&m->config.solver, m->config.solver.kind, steps, m->config.solver.shift,
                           b->latent_count, b->engine.ops, &solver, error);
    if (status != STATUS_OK) return status;
    noise_fill(7, b->latent, b->latent_count);
    for (int i = 0; i < steps && status == STATUS_OK; i++) {
        status = time_forward(b, error);
        if (status == STATUS_OK) status = time_forward(b, error);
        solver_step(solver, b->engine.team, i, b->velocity, b->latent);
        if (status == STATUS_OK) status = engine_wait(&b->engine, error);
    }
    solver_destroy(solver);
    return status == STATUS_OK ? time_decode(b, error) : status;
}

static status_t prepare(struct bench *b, struct error *error)
{
    const struct model_config *c = &b->engine.model->config;
    b->latent_frames = (b->config.frames - 1) / c->vae.scale_t + 1;
    b->latent_height = b->config.height / c->vae.scale_y;
    b->latent_width = b->config.width / c->vae.scale_y;
    b->latent_count =
        (int64_t)c->denoiser.in_channels * b->latent_frames * b->latent_height * b->latent_width;
    struct token_grid grid = {b->latent_frames / c->denoiser.patch_t, b->latent_height / c->denoiser.patch_y,
                              b->latent_width / c->denoiser.patch_x};
    status_t status = engine_prepare(&b->engine, &grid, error);
    if (status != STATUS_OK) return status;
    lay_out(b);
    status = memory_arena(b->engine.ops, MEMORY_DEVICE, &b->device, error);
    if (status == STATUS_OK) status = memory_arena(b->engine.ops, MEMORY_SHARED, &b->shared, error);
    if (status == STATUS_OK) status = arena_allocate(&b->host, error);
    if (status != STATUS_OK) return status;
    lay_out(b);
    noise_fill(7, b->latent, b->latent_count);
    status = time_text(b, error);
    if (status != STATUS_OK) return status;
    return denoiser_context_create(b->engine.model->denoiser[0], b->engine.team, b->text, b->ids,
                                   c->text_length, &b->context, error);
}

static void serve(struct bench *b)
{
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        struct error error = {0};
        status_t status = STATUS_OK;
        int steps;
        b->began_ns = clock_now_ns();
        if (strncmp(line, "quit", 4) == 0) return;
        if (strncmp(line, "text", 4) == 0)
            status = time_text(b, &error);
        else if (strncmp(line, "forward", 7) == 0)
            status = time_forward(b, &error);
        else if (strncmp(line, "blocks", 6) == 0)
            status = time_blocks(b, &error);
        else if (strncmp(line, "decode", 6) == 0)
            status = time_decode(b, &error);
        else if (sscanf(line, "run %d", &steps) == 1 && steps > 0 && steps <= 1000)
            status = time_run(b, steps, &error);
        else
            status = error_set(&error, STATUS_INVALID, "text, forward, blocks, decode, run N or quit");
        if (status == STATUS_OK)
            printf("{\"seconds\": %.6f}\n", (double)(clock_now_ns() - b->began_ns) / (double)SECOND_NS);
        else
            printf("{\"error\": \"%s\"}\n", error.text);
        fflush(stdout);
    }
}

static void announce_and_serve(struct bench *b)
{
    printf("{\"ready\": true, \"backend\": \"%s\", \"threads\": %d}\n", b->engine.ops->name,
           b->config.threads);
    fflush(stdout);
    serve(b);
}

status_t bench_run(const struct bench_config *config, struct error *error)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b) return error_set(error, STATUS_NO_MEMORY, "no memory for the benchmark");
    struct model_config model;
    b->config = *config;
    b->engine.members = 1;
    status_t status = ops_choose(config->backend, &b->engine.ops, error);
    if (status == STATUS_OK) status = model_config_read(config->directory, &model, error);
    if (status != STATUS_OK) goto out;
    struct split split = {.members = 1, .head = model.denoiser.layers};
    const struct ops *ops = b->engine.ops;
    status = team_create(config->threads, &b->engine.team, error);
    if (status != STATUS_OK) goto out;
    status = ops->open(b->engine.team, error);
    if (status == STATUS_OK) status = stretches_create(ops, &b->engine.stretches, error);
    if (status == STATUS_OK)
        status = model_load(config->directory, ops, b->engine.team, &split, 0, &b->engine.model, error);
    if (status == STATUS_OK) status = prepare(b, error);
    if (status == STATUS_OK) announce_and_serve(b);
    engine_clear(&b->engine);
    stretches_destroy(b->engine.stretches);
    vae_stream_close(b->decoder);
    denoiser_context_destroy(b->context);
    memory_give_back(ops, MEMORY_DEVICE, &b->device);
    memory_give_back(ops, MEMORY_SHARED, &b->shared);
    arena_free(&b->host);
    model_destroy(b->engine.model);
    ops->close(b->engine.team);
    team_destroy(b->engine.team);
out:
    free(b);
    return status;
}
