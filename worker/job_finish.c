/*
 * job_finish.c - from the latent to the files. Home's compute thread.
 *
 * A job that compares decodes both of its latents, measures how far apart the videos are and shows them side
 * by side.
 */
#include <stdio.h>

#include "worker/comparison.h"
#include "worker/comparison.h"
#include "worker/job_state.h"
#include "worker/model/checkpoint.h"
#include "worker/trace.h"
#include "worker/video.h"

/* One latent frame a call, so that other jobs' steps fit between. */
enum job_result job_advance_decode(struct job *j)
{
    struct error error = {0};
    struct engine *e = j->engine;
    if (!j->decoder && vae_stream_open(e->model->vae, VAE_DECODER, j->latent_height, j->latent_width,
                                       &j->decoder, &error) != STATUS_OK)
        return job_fail(j, &error);
    bool uncached = j->status.done < j->latent_frames * (j->passes - 1);
    vae_decode(j->decoder, e->team, uncached ? j->uncached_latent : j->latent, j->latent_frames, j->decoded,
               uncached ? j->uncached_frames : j->frames);
    atomic_fetch_add(&e->progress, 1);
    j->decoded++;
    j->status.done++;
    j->status.seconds_left =
        job_seconds_since(j->phase_began_ns) / j->status.done * (j->status.of - j->status.done);
    j->status.revision++;
    if (j->decoded < j->latent_frames) return JOB_ADVANCED;
    vae_stream_close(j->decoder);
    j->decoder = NULL;
    j->decoded = 0;
    if (uncached) return JOB_ADVANCED;
    j->status.decode_seconds = job_seconds_since(j->phase_began_ns);
    job_enter_phase(j, LIFE_FILES, JOB_PHASE_ENCODE, 0);
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
    if (status == STATUS_OK && j->cache && reuse_plan(j->cache)->policy.trace) {
        snprintf(path, sizeof path, "%s/trace.json", j->directory);
        status = trace_write(path, j->cache, j->sigmas, o->shift, &j->engine->model->config, error);
    }
    if (status == STATUS_OK && j->passes > 1)
        status = comparison_write(j->directory, &size, j->uncached_frames, j->frames, error);
    return status;
}

/* The cached video against the uncached one, a latent frame a call. */
static enum job_result advance_comparison(struct job *j)
{
    struct error error = {0};
    const struct job_order *o = &j->order;
    const struct video_size size = {o->frames, o->width, o->height, o->fps};
    struct vae *encoder;
    if (!j->quality &&
        (model_encoder(j->engine->model, &encoder, &error) != STATUS_OK ||
         quality_open(encoder, &size, j->uncached_frames, j->frames, &j->quality, &error) != STATUS_OK))
        return job_fail(j, &error);
    j->report.compared = quality_step(j->quality, j->engine->team, &j->report.quality);
    atomic_fetch_add(&j->engine->progress, 1);
    return JOB_ADVANCED;
}

enum job_result job_advance_files(struct job *j)
{
    struct error error = {0};
    if (j->passes > 1 && !j->report.compared) return advance_comparison(j);
    if (write_files(j, &error) != STATUS_OK) return job_fail(j, &error);
    j->status.encode_seconds = job_seconds_since(j->phase_began_ns);
    j->status.seconds_left = 0;
    j->life = LIFE_FINISHED;
    return JOB_ADVANCED;
}
