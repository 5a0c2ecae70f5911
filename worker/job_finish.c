/*
 * job_finish.c - from the latent to the files. Home's compute thread.
 *
 * A job that compares decodes both of its latents, measures how far apart the videos are and shows them side
 * by side.
 */
#include <stdio.h>

#include "worker/job_state.h"
#include "worker/model/checkpoint.h"
#include "worker/trace.h"
#include "worker/video.h"

/* In rows times blocks. */
uint64_t job_frame_work(const struct job *j)
{
    uint64_t rows = (uint64_t)token_count(&j->grid) / (uint64_t)j->grid.frames;
    return FRAME_PASSES * rows * (uint64_t)j->engine->model->config.denoiser.layers;
}

/* A piece of the video whose turn it is. */
static status_t decode(struct job *j, int *pieces, struct error *error)
{
    struct engine *e = j->engine;
    struct vae_stream *stream;
    bool uncached = j->decoding < j->passes - 1, fresh;
    status_t status =
        engine_decoder(e, j, j->order.priority, j->latent_height, j->latent_width, &stream, &fresh, error);
    if (status != STATUS_OK) return status;
    if (fresh) j->decoded = 0;
    *pieces = vae_pieces(stream, j->latent_frames);
    return vae_decode(stream, e->team, uncached ? j->uncached_latent : j->latent, j->latent_frames,
                      j->decoded, uncached ? j->uncached_frames : j->frames, error);
}

/* One latent frame, of a band, a call, so that other jobs' steps fit between. */
enum job_result job_advance_decode(struct job *j)
{
    struct error error = {0};
    int pieces;
    if (!j->lean) { /* makes room for the decoder */
        if (engine_wait(j->engine, &error) != STATUS_OK) return job_fail(j, &error);
        job_shed(j);
        return JOB_ADVANCED;
    }
    if (decode(j, &pieces, &error) != STATUS_OK) return job_fail(j, &error);
    atomic_fetch_add(&j->engine->progress, 1);
    j->work += job_frame_work(j) * (uint64_t)j->latent_frames / (uint64_t)pieces;
    j->decoded++;
    j->status.done = j->decoding * pieces + j->decoded;
    j->status.of = j->passes * pieces;
    j->status.seconds_left =
        job_seconds_since(j->phase_began_ns) / j->status.done * (j->status.of - j->status.done);
    j->status.revision++;
    if (j->decoded < pieces) return JOB_ADVANCED;
    engine_end_decoder(j->engine, j);
    if (++j->decoding < j->passes) return JOB_ADVANCED;
    j->status.decode_seconds = job_seconds_since(j->phase_began_ns);
    job_enter_phase(j, LIFE_FILES, JOB_PHASE_ENCODE, 0);
    return JOB_ADVANCED;
}

static struct video_size film_size(const struct job *j)
{
    return (struct video_size){j->order.frames, j->order.width, j->order.height, j->order.fps};
}

/* Some frames of video.mp4. */
static status_t advance_film(struct job *j, struct error *error)
{
    char path[sizeof j->directory + 32];
    struct video_size size = film_size(j);
    int64_t frame = (int64_t)3 * size.width * size.height;
    status_t status = STATUS_OK;
    snprintf(path, sizeof path, "%s/video.mp4", j->directory);
    if (!j->film) status = video_open(path, &size, &j->film, error);
    for (int i = 0; i < FILM_FRAMES && j->filmed < size.frames && status == STATUS_OK; i++)
        status = video_add(j->film, j->frames + j->filmed++ * frame, error);
    if (status != STATUS_OK || j->filmed < size.frames) return status;
    struct video *film = j->film;
    j->film = NULL;
    return video_close(film, error);
}

/* Some frames of comparison.mp4; after the last one, comparison.png. */
static status_t advance_comparison(struct job *j, struct error *error)
{
    struct video_size size = film_size(j);
    status_t status = STATUS_OK;
    if (!j->comparison)
        status = comparison_open(j->directory, &size, j->uncached_frames, j->frames, &j->comparison, error);
    for (int i = 0; i < FILM_FRAMES && !j->shown && status == STATUS_OK; i++)
        status = comparison_step(j->comparison, &j->shown, error);
    return status;
}

/* Everything but the films. */
static status_t write_files(const struct job *j, struct error *error)
{
    char path[sizeof j->directory + 32];
    const struct job_order *o = &j->order;
    struct video_size size = film_size(j);
    snprintf(path, sizeof path, "%s/sheet.png", j->directory);
    status_t status = sheet_write(path, &size, j->frames, error);
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
    if (status == STATUS_OK && j->cache && reuse_plan(j->cache)->policy.trace) {
        snprintf(path, sizeof path, "%s/trace.json", j->directory);
        status = trace_write(path, j->cache, j->sigmas, o->shift, &j->engine->model->config, error);
    }
    return status;
}

/* The cached video against the uncached one, a latent frame a call. */
static status_t advance_quality(struct job *j, struct error *error)
{
    const struct video_size size = film_size(j);
    struct vae *encoder;
    status_t status = STATUS_OK;
    if (!j->quality) {
        status = model_encoder(j->engine->model, &encoder, error);
        if (status == STATUS_OK)
            status = quality_open(encoder, &size, j->uncached_frames, j->frames, j->engine->decode_memory,
                                  &j->quality, error);
    }
    if (status == STATUS_OK)
        status = quality_step(j->quality, j->engine->team, &j->report.compared, &j->report.quality, error);
    return status;
}

enum job_result job_advance_files(struct job *j)
{
    struct error error = {0};
    status_t status;
    bool compares = j->passes > 1, last = false;
    if (compares && !j->report.compared) {
        status = advance_quality(j, &error);
    } else if (j->filmed < j->order.frames) {
        status = advance_film(j, &error);
    } else if (compares && !j->shown) {
        status = advance_comparison(j, &error);
    } else {
        status = write_files(j, &error);
        last = true;
    }
    atomic_fetch_add(&j->engine->progress, 1);
    j->work += job_frame_work(j);
    if (status != STATUS_OK) return job_fail(j, &error);
    if (!last) return JOB_ADVANCED;
    j->status.encode_seconds = job_seconds_since(j->phase_began_ns);
    j->status.seconds_left = 0;
    j->life = LIFE_FINISHED;
    return JOB_ADVANCED;
}
