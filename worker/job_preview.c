/*
 * job_preview.c - what a job's video will look like, while its steps are made. Home's compute thread.
 *
 * A flow model's velocity is noise minus clean, and a latent is (1 - sigma) clean + sigma noise; so latent - sigma *
 * velocity is the clean latent as the step sees it (diffusers, UniPCMultistepScheduler.convert_model_output,
 * flow_prediction). Its first latent frame goes through the decoder: that is one frame of the video at full quality, for
 * one of the decoder's pieces of work. The decoder is causal, so any later frame would cost all those before it.
 *
 * Nothing of it enters the job: the clean latent has a place of its own, and what fails here is only logged. Decoding is
 * not among the job's moves but beside them (home.c offers it as PIECE_DECODE): steps go on meanwhile, and of two that
 * wait the newer counts. While a job's video is being decoded there is no memory for a second decoder, and previews wait.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "worker/job_state.h"
#include "worker/video.h"

void job_preview_lay_out(struct job *j, struct arena *shared, struct arena *host)
{
    struct preview *p = &j->preview;
    if (!j->order.preview_every) return;
    size_t plane = (size_t)j->latent_height * (size_t)j->latent_width;
    size_t channels = (size_t)j->latent_count / (size_t)j->latent_frames / plane;
    p->clean = arena_take(shared, (size_t)j->latent_count, sizeof(float));
    p->latent = arena_take(host, channels * plane, sizeof(float));
    p->pixels = arena_take(host, (size_t)3 * (size_t)j->order.width * (size_t)j->order.height, sizeof(float));
}

/* The last step's is the video itself; of a job that compares the run with caching is shown. */
static bool is_due(const struct job *j)
{
    int every = j->order.preview_every, done = j->step + 1;
    return every && !j->replaying && j->pass + 1 == j->passes && done % every == 0 && done < j->order.steps;
}

void job_preview_predict(struct job *j)
{
    float sigma = (float)solver_sigma(j->solver[j->pass], j->step);
    j->preview.predicted = is_due(j);
    if (j->preview.predicted)
        j->engine->ops->lincomb(j->engine->team, 2, (const float[]){1, -sigma},
                                (const float *[]){j->latent, j->velocity}, j->latent_count, j->preview.clean);
}

/* clean is [channels, frames, h, w]. */
void job_preview_take(struct job *j)
{
    struct preview *p = &j->preview;
    if (!p->predicted) return;
    int64_t plane = (int64_t)j->latent_height * j->latent_width, volume = plane * j->latent_frames;
    for (int64_t c = 0; c * volume < j->latent_count; c++)
        memcpy(p->latent + c * plane, p->clean + c * volume, (size_t)plane * sizeof *p->latent);
    p->predicted = false;
    p->waiting = j->step;
}

bool job_preview_waits(const struct job *j)
{
    return j->preview.waiting && j->life == LIFE_STEP && !j->cancelled && !j->engine->decoder.stream;
}

void job_preview_make(struct job *j)
{
    struct preview *p = &j->preview;
    struct error error = {0};
    struct engine *e = j->engine;
    struct vae_stream *stream = NULL;
    const struct video_size size = {1, j->order.width, j->order.height, j->order.fps};
    uint8_t *png = NULL;
    size_t bytes = 0;
    int step = p->waiting;
    p->waiting = 0;
    status_t status = vae_stream_open(e->model->vae, VAE_DECODER, j->latent_height, j->latent_width,
                                      e->decode_memory, &stream, &error);
    for (int i = 0; status == STATUS_OK && i < vae_pieces(stream, 1); i++)
        status = vae_decode(stream, e->team, p->latent, 1, i, p->pixels, &error);
    vae_stream_close(stream);
    if (status == STATUS_OK) status = thumbnail_make(&size, p->pixels, &png, &bytes, &error);
    atomic_fetch_add(&e->progress, 1);
    j->work += job_frame_work(j);
    if (status != STATUS_OK) {
        log_line(LOG_WARN, "job %lu: no preview of step %d: %s", (unsigned long)j->order.job, step,
                 error.text);
        return;
    }
    free(p->png);
    p->png = png;
    p->bytes = bytes;
    p->step = step;
    j->status.revision++;
}

int job_preview(const struct job *j, const uint8_t **png, size_t *bytes)
{
    *png = j->preview.png;
    *bytes = j->preview.bytes;
    return j->preview.step;
}
