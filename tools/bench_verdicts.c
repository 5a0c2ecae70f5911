/*
 * bench_verdicts.c - what deciding costs: everything the caching engine does in a computed step (measuring,
 * asking, keeping), against the step itself.
 *
 *     bench_verdicts MODEL [THREADS]
 *
 * The engine is driven as job_step.c drives it, over random tensors of the model's default clip, with
 * thresholds of 0, so that every step is measured, asked about, computed and kept. The step is one of an
 * uncached job on the same team.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "worker/job.h"

enum { STEPS = 200, BRANCHES = 2 };

static void die(const struct error *error)
{
    fprintf(stderr, "bench_verdicts: %s\n", error->text);
    exit(1);
}

/* On the device. */
static float *noise(struct engine *engine, int64_t count)
{
    size_t bytes = (size_t)count * sizeof(float);
    float *x = malloc(bytes);
    void *memory;
    struct error error;
    for (int64_t i = 0; i < count; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    if (engine->ops->allocate(MEMORY_DEVICE, bytes, &memory, &error) != STATUS_OK) die(&error);
    engine->ops->copy(engine->team, memory, x, bytes);
    if (engine_wait(engine, &error) != STATUS_OK) die(&error);
    free(x);
    return memory;
}

static double step_seconds(struct engine *engine, const struct job_order *order)
{
    struct job *job;
    struct error error;
    if (job_create(engine, order, "/nowhere", &job, &error) != STATUS_OK) die(&error);
    while (job_advance(job) != JOB_FINISHED && !job_frames(job)) continue;
    double seconds = job_status(job)->denoise_seconds / order->steps;
    job_destroy(job);
    return seconds;
}

static double verdict_seconds(struct engine *engine, const char *text, const struct reuse_shape *shape)
{
    struct cache_settings settings;
    struct reuse *reuse;
    struct error error;
    int64_t whole = (int64_t)shape->frames * shape->height * shape->width * shape->hidden;
    int64_t latent = shape->latent_rows * shape->latent_width;
    float *x = noise(engine, whole), *y = noise(engine, whole), *l = noise(engine, latent),
          *v = noise(engine, latent), *t = noise(engine, 7 * shape->hidden);
    if (cache_settings_read(text, &settings, &error) != STATUS_OK ||
        reuse_create(&settings, shape, engine->ops, engine->team, &reuse, &error) != STATUS_OK)
        die(&error);
    struct reuse_seen seen = {
        .latent = l, .time = t, .projection = t + shape->hidden, .embedding = x, .input = y};
    bool span = reuse_plan(reuse)->policy.site == SITE_SPAN;
    int64_t began_ns = 0;
    for (int step = 0; step < STEPS; step++) {
        if (step == 20) began_ns = clock_now_ns(); /* warm, and the history full */
        reuse_step(reuse, engine->team, step);
        for (int b = 0; b < BRANCHES; b++) {
            if (reuse_begin(reuse, engine->team, b, &seen) == ACTION_REUSE) {
                fprintf(stderr, "bench_verdicts: %s: reused a step\n", text);
                exit(1);
            }
            if (span) {
                reuse_embedded(reuse, engine->team, b, x);
                reuse_probe(reuse, engine->team, b, y);
                reuse_enter(reuse, engine->team, b, x);
                reuse_leave(reuse, engine->team, b, y);
            }
            reuse_observe(reuse, engine->team, b, l, v);
        }
        if (engine_wait(engine, &error) != STATUS_OK) die(&error);
    }
    double seconds = (double)(clock_now_ns() - began_ns) / (double)SECOND_NS / (STEPS - 20);
    reuse_destroy(reuse);
    float *tensors[] = {x, y, l, v, t};
    for (int i = 0; i < 5; i++) engine->ops->release(MEMORY_DEVICE, tensors[i]);
    return seconds;
}

int main(int argc, char **argv)
{
    static const char *const texts[] = {
        "interval:N=1",
        "interval:N=1,forecast=dmd",
        "interval:N=1,forecast=worldcache",
        "fbcache:threshold=0",
        "dbcache:F1B0,threshold=0,forecast=taylor1",
        "easycache:threshold=0,first=0",
        "dicache:threshold=0,retention=0",
        "seacache:threshold=0,forecast=taylor1",
    };
    struct error error;
    struct model_config config;
    struct split split = {.members = 1};
    struct engine engine = {.ops = ops_find("auto"), .members = 1};
    if (argc < 2) {
        fprintf(stderr, "usage: bench_verdicts MODEL [THREADS]\n");
        return 2;
    }
    if (model_config_read(argv[1], &config, &error) != STATUS_OK) die(&error);
    split.head = config.denoiser.layers;
    if (team_create(argc > 2 ? atoi(argv[2]) : 1, &engine.team, &error) != STATUS_OK ||
        engine.ops->open(engine.team, &error) != STATUS_OK ||
        model_load(argv[1], engine.ops, engine.team, &split, 0, &engine.model, &error) != STATUS_OK)
        die(&error);
    const struct clip_config *c = &config.clip;
    struct job_order order = {.job = 1,
                              .attempt = 1,
                              .prompt = "a large red star spinning on a navy background",
                              .steps = 10,
                              .width = c->width,
                              .height = c->height,
                              .frames = c->frames,
                              .fps = 16,
                              .guidance = 4,
                              .shift = config.solver.shift,
                              .solver = config.solver.kind};
    int frames = (c->frames - 1) / config.vae.scale_t + 1, height = c->height / config.vae.scale_y,
        width = c->width / config.vae.scale_y;
    double *sigmas = malloc((STEPS + 1) * sizeof *sigmas);
    for (int i = 0; i <= STEPS; i++) sigmas[i] = 0.999 - 0.99 * i / STEPS;
    struct reuse_shape shape = {.job = {.steps = STEPS,
                                        .layers = config.denoiser.layers,
                                        .branches = BRANCHES,
                                        .shift = config.solver.shift,
                                        .sigmas = sigmas},
                                .frames = frames / config.denoiser.patch_t,
                                .height = height / config.denoiser.patch_y,
                                .width = width / config.denoiser.patch_x,
                                .hidden = config.denoiser.hidden,
                                .latent_rows = (int64_t)config.denoiser.in_channels * frames,
                                .latent_width = (int64_t)height * width};
    double step = step_seconds(&engine, &order);
    printf("| policy | a step's decisions, both branches | of a computed step (%.2f ms) |\n|---|---|---|\n",
           1e3 * step);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        double seconds = verdict_seconds(&engine, texts[i], &shape);
        printf("| `%s` | %.0f µs | %.2f %% |\n", texts[i], 1e6 * seconds, 100 * seconds / step);
    }
    free(sigmas);
    engine_clear(&engine);
    model_destroy(engine.model);
    engine.ops->close(engine.team);
    team_destroy(engine.team);
    return 0;
}
