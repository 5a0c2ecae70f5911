/*
 * vae_decoder.c - latents -> frames, one latent frame of a band a call. See vae_layers.h for the words.
 *
 * Formulas: WanDecoder3d, WanResample in diffusers' autoencoder_kl_wan.py (with its feature cache). Of the
 * rules for the first frame only one is left here: it passes a temporal upsampler untouched and unseen.
 */
#include <assert.h>

#include "worker/model/vae_layers.h"

/* Latent frame t, back in the VAE's own scale: [z, T, h, w] -> [h, w, z]. */
static void load_latent(const struct vae_stream *s, const float *latents, int latent_frames, int t)
{
    const struct vae_config *config = &s->vae->config;
    int64_t pixels = (int64_t)s->latent_height * s->latent_width;
    int channels = config->latent_channels;
    for (int c = 0; c < channels; c++) {
        /* The reference divides by the reciprocal (pipeline_wan.py); same roundings here. */
        float reciprocal = 1.0f / config->std[c], mean = config->mean[c];
        const float *from = latents + ((int64_t)c * latent_frames + t) * pixels;
        for (int64_t i = 0; i < pixels; i++) s->latent[i * channels + c] = from[i] / reciprocal + mean;
    }
}

struct store {
    const float *pixels; /* [count, rows, W, channels], -1..1 */
    float *frames;       /* [count, channels, H, W], 0..1 */
    int first, rows;     /* of each frame */
    int height, width, channels;
};

/* One row of one frame: clamp, to 0..1, planar. NaN stays NaN. */
static void store_row(void *arguments, int task, void *scratch)
{
    const struct store *s = arguments;
    int frame = task / s->rows, row = s->first + task % s->rows;
    const float *from = s->pixels + (int64_t)task * s->width * s->channels;
    for (int c = 0; c < s->channels; c++) {
        float *to = s->frames + (((int64_t)frame * s->channels + c) * s->height + row) * s->width;
        for (int x = 0; x < s->width; x++) {
            float value = from[x * s->channels + c];
            value = value < -1.0f ? -1.0f : value > 1.0f ? 1.0f : value;
            to[x] = value * 0.5f + 0.5f;
        }
    }
}

/* The last level's output, `count` frames in x, through norm, SiLU and the last convolution, into the band's rows of
 * `frames`. */
static status_t run_output(struct vae_stream *s, struct team *team, const struct volume *x, float *frames,
                           struct error *error)
{
    const struct ops *ops = s->vae->ops;
    const struct vae_coder *coder = s->vae->decoder;
    const struct vae_config *config = &s->vae->config;
    const struct vae_level_buffers *b = &s->levels[config->levels - 1];
    int rows = s->bottom - s->top;
    struct volume inside = tape_inside(&s->conv_out, 0, x->frames);
    struct volume taps = volume_below(tape_taps(&s->conv_out, 0), s->top - b->first);
    struct volume pixels = volume_of(s->pixels, x->frames, rows, x->width, config->out_channels);

    ops->channel_norm(team, x, coder->gamma_out, true, &inside);
    ops->conv(team, coder->conv_out, &taps, NULL, &pixels);
    tape_advance(&s->conv_out, ops, team, x->frames);
    status_t status = ops->wait(team, error);
    if (status != STATUS_OK) return status;
    struct store store = {.pixels = s->pixels,
                          .frames = frames,
                          .first = s->top,
                          .rows = rows,
                          .height = s->latent_height * config->scale_y,
                          .width = x->width,
                          .channels = pixels.channels};
    team_run(team, x->frames * rows, store_row, &store);
    return STATUS_OK;
}

/* Frames `first`... of a level from the level before, doubled in y and x. */
static struct volume run_upsample(struct vae_stream *s, struct team *team, int level, int first, int count)
{
    const struct vae_level_buffers *b = &s->levels[level], *above = &s->levels[level - 1];
    struct volume taps = volume_below(tape_taps(&above->sample, first), b->first / 2 - above->first);
    struct volume x =
        volume_of(s->x[0], count, b->height, b->width, s->vae->decoder->levels[level].resnets[0].in_channels);
    s->vae->ops->conv(team, s->vae->decoder->levels[level - 1].sample, &taps, NULL, &x);
    return x;
}

/* Two frames from each of `count` in the time tape: even and odd ones are two convolutions writing in turn.
 */
static void run_double_frames(struct vae_stream *s, struct team *team, int level, int first, int count)
{
    const struct vae_level_buffers *b = &s->levels[level];
    struct volume taps = tape_taps(&b->time, 0);
    for (int odd = 0; odd < 2; odd++) {
        struct volume y = tape_inside(&b->sample, 2 * first + odd, count);
        y.stride_t *= 2;
        s->vae->ops->conv(team, s->vae->decoder->levels[level].time[odd], &taps, NULL, &y);
    }
    tape_advance(&b->time, s->vae->ops, team, count);
}

/* The band's rows of the first level, where the middle left them. */
static struct volume middle_rows(const struct vae_stream *s)
{
    const struct vae_level_buffers *b = &s->levels[0];
    int channels = s->vae->decoder->levels[0].resnets[0].in_channels;
    return volume_of(s->x[0] + (int64_t)b->first * b->width * channels, 1, b->height, b->width, channels);
}

/* One level on `count` frames from `first` on; the last level writes them to `frames`. */
static status_t run_batch(struct vae_stream *s, struct team *team, int level, int first, int count,
                          bool opening, float *frames, struct error *error)
{
    const struct vae_level *weights = &s->vae->decoder->levels[level];
    const struct vae_level_buffers *b = &s->levels[level];
    struct volume x = level == 0 ? middle_rows(s) : run_upsample(s, team, level, first, count);
    bool doubles = weights->temporal && !opening;
    struct volume out;
    if (!weights->resamples)
        out = volume_of(s->x[1], count, b->height, b->width, weights->channels);
    else if (doubles)
        out = tape_inside(&b->time, 0, count);
    else
        out = tape_inside(&b->sample, first, count);
    vae_run_resnets(s, team, weights, b, &x, &out);
    if (doubles) run_double_frames(s, team, level, first, count);
    return weights->resamples ? STATUS_OK : run_output(s, team, &out, frames, error);
}

/* The last level's output waits for everything, so that the next call may fill s->latent again. */
status_t vae_decode(struct vae_stream *s, struct team *team, const float *latents, int latent_frames,
                    int piece, float *frames, struct error *error)
{
    assert(s->part == VAE_DECODER && piece == s->next && piece < vae_pieces(s, latent_frames));
    int t = piece % latent_frames, band = piece / latent_frames;
    const struct ops *ops = s->vae->ops;
    const struct vae_config *config = &s->vae->config;
    const struct vae_coder *coder = s->vae->decoder;
    int h = s->latent_height, w = s->latent_width, count = 1;
    int64_t frame_floats = (int64_t)config->out_channels * h * w * config->scale_y * config->scale_y;
    frames += (t == 0 ? 0 : 1 + (int64_t)config->scale_t * (t - 1)) * frame_floats;

    if (band != s->band) vae_begin_band(s, team, band);
    load_latent(s, latents, latent_frames, t);
    struct volume latent = volume_of(s->latent, 1, h, w, config->latent_channels);
    struct volume x = volume_of(s->x[0], 1, h, w, coder->attention.channels);
    struct volume inside = tape_inside(&s->conv_in, 0, 1), taps = tape_taps(&s->conv_in, 0);
    ops->conv(team, coder->quant, &latent, NULL, &inside);
    ops->conv(team, coder->conv_in, &taps, NULL, &x);
    tape_advance(&s->conv_in, ops, team, 1);
    vae_run_middle(s, team, coder, &x);

    for (int level = 0; level < config->levels; level++) {
        int batch = s->levels[level].batch;
        for (int first = 0; first < count; first += batch) {
            status_t status = run_batch(s, team, level, first, count - first < batch ? count - first : batch,
                                        t == 0, frames + first * frame_floats, error);
            if (status != STATUS_OK) return status;
        }
        if (coder->levels[level].temporal && t > 0) count *= 2;
    }
    s->next++;
    return STATUS_OK;
}
