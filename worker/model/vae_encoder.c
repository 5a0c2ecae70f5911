/*
 * vae_encoder.c - frames -> latents, one latent frame of a band a call. See vae_layers.h for the words.
 *
 * The middle's attention sees a whole frame: in bands, the levels' rows are kept until the last band has made the frame
 * whole.
 *
 * Formulas: WanEncoder3d, WanResample in diffusers' autoencoder_kl_wan.py. The first video frame is a latent
 * frame of its own; it passes the temporal downsamplers untouched, and they remember it.
 */
#include <assert.h>

#include "worker/model/vae_layers.h"

struct load {
    const float *frames; /* [count, channels, H, W], 0..1 */
    int first, height;   /* of its rows; H */
    struct volume to;    /* -1..1, shared */
};

/* One row of one frame: planar to channels-last, 0..1 to -1..1. */
static void load_row(void *arguments, int task, void *scratch)
{
    const struct load *l = arguments;
    const struct volume *to = &l->to;
    int frame = task / to->height, row = task % to->height;
    float *out = to->data + frame * to->stride_t + row * to->stride_y;
    for (int c = 0; c < to->channels; c++) {
        const float *from =
            l->frames + (((int64_t)frame * to->channels + c) * l->height + l->first + row) * to->width;
        for (int x = 0; x < to->width; x++) out[x * to->stride_x + c] = 2.0f * from[x] - 1.0f;
    }
}

/* The band's rows of all frames of the chunk, as the first convolution wants them, into s->pixels: nothing uses it between two
 * calls. */
static void load_frames(struct vae_stream *s, struct team *team, const float *frames, int count)
{
    const struct vae_level_buffers *b = &s->levels[0];
    struct load load = {frames, b->first, s->latent_height * s->vae->config.scale_y,
                        volume_of(s->pixels, count, b->height, b->width, s->vae->config.in_channels)};
    team_run(team, count * b->height, load_row, &load);
}

/* `count` frames of the chunk through the first convolution, into x[0]. */
static struct volume run_input(struct vae_stream *s, struct team *team, int first, int count)
{
    const struct ops *ops = s->vae->ops;
    const struct vae_coder *coder = s->vae->encoder;
    const struct vae_level_buffers *b = &s->levels[0];
    struct volume inside = tape_inside(&s->conv_in, 0, count), taps = tape_taps(&s->conv_in, 0);
    size_t row = (size_t)inside.width * (size_t)inside.channels * sizeof(float);
    struct volume x = volume_of(s->x[0], count, b->height, b->width, coder->levels[0].resnets[0].in_channels);
    for (int i = 0; i < count; i++)
        ops->copy_rows(team, inside.data + i * inside.stride_t, (size_t)inside.stride_y * sizeof(float),
                       s->pixels + (first + i) * (int64_t)inside.height * inside.width * inside.channels, row,
                       row, inside.height);
    ops->conv(team, coder->conv_in, &taps, NULL, &x);
    tape_advance(&s->conv_in, ops, team, count);
    return x;
}

/* Where the frames of a level come to lie for the next one. */
static struct volume input_of(const struct vae_stream *s, int level, int count)
{
    const struct vae_level_buffers *b = &s->levels[level];
    return volume_of(b->input, count, b->height, b->width,
                     s->vae->encoder->levels[level].resnets[0].in_channels);
}

/* One level on `count` frames in x, the `first` of the chunk on: blocks, then half the height and width. */
static void run_batch(struct vae_stream *s, struct team *team, int level, const struct volume *x, int first)
{
    const struct vae_level *weights = &s->vae->encoder->levels[level];
    const struct vae_level_buffers *b = &s->levels[level];
    if (!weights->resamples) {
        struct volume out = volume_of(s->x[1], x->frames, b->height, b->width, weights->channels);
        vae_run_resnets(s, team, weights, b, x, &out);
        return;
    }
    struct volume inside = tape_inside(&b->sample, 0, x->frames);
    struct volume taps = volume_below(tape_taps(&b->sample, 0), 2 * s->levels[level + 1].first - b->first);
    vae_run_resnets(s, team, weights, b, x, &inside);
    struct volume next = input_of(s, level + 1, first + x->frames);
    struct volume out =
        weights->temporal ? tape_inside(&b->time, first, x->frames) : volume_frames(&next, first, x->frames);
    s->vae->ops->conv(team, weights->sample, &taps, NULL, &out);
}

/* Half of `count` frames in the time tape, into the next level's input. Returns how many. */
static int run_halve_frames(struct vae_stream *s, struct team *team, int level, int count, bool opening)
{
    const struct vae_level_buffers *b = &s->levels[level];
    int left = opening ? 1 : count / 2;
    struct volume next = input_of(s, level + 1, left);
    if (opening) {
        struct volume frame = tape_inside(&b->time, 0, 1);
        s->vae->ops->lincomb(team, 1, (const float[]){1.0f}, (const float *const[]){frame.data},
                             frame.stride_t, next.data);
    } else {
        struct volume taps = tape_taps(&b->time, 0);
        s->vae->ops->conv(team, s->vae->encoder->levels[level].time[0], &taps, NULL, &next);
    }
    tape_advance(&b->time, s->vae->ops, team, count);
    return left;
}

/* Latent frame t out of the last level, as far as there are bands that have made it. */
static struct volume run_gather(struct vae_stream *s, struct team *team, int t)
{
    const struct vae_level_buffers *b = &s->levels[s->vae->config.levels - 1];
    int channels = s->vae->encoder->attention.channels;
    struct volume made =
        volume_below(volume_of(s->x[1], 1, b->height, b->width, channels), s->top - b->first);
    if (s->bands == 1) return made;
    struct volume whole = volume_of(s->deep, s->limits.frames, s->latent_height, s->latent_width, channels);
    whole = volume_frames(&whole, t, 1);
    s->vae->ops->copy(team, whole.data + s->top * whole.stride_y, made.data,
                      (size_t)((s->bottom - s->top) * whole.stride_y) * sizeof(float));
    return whole;
}

/* The middle's output through norm, SiLU and the last convolutions, scaled into latent frame t: [z, T, h, w].
 */
static status_t run_output(struct vae_stream *s, struct team *team, const struct volume *x, int latent_frames,
                           int t, float *latents, struct error *error)
{
    const struct ops *ops = s->vae->ops;
    const struct vae_config *config = &s->vae->config;
    const struct vae_coder *coder = s->vae->encoder;
    int channels = config->latent_channels;
    struct volume inside = tape_inside(&s->conv_out, 0, 1), taps = tape_taps(&s->conv_out, 0);
    struct volume moments = volume_of(s->moments, 1, x->height, x->width, 2 * channels);
    struct volume mean = volume_of(s->latent, 1, x->height, x->width, channels);

    ops->channel_norm(team, x, coder->gamma_out, true, &inside);
    ops->conv(team, coder->conv_out, &taps, NULL, &moments);
    tape_advance(&s->conv_out, ops, team, 1);
    ops->conv(team, coder->quant, &moments, NULL, &mean);
    status_t status = ops->wait(team, error);
    if (status != STATUS_OK) return status;

    int64_t pixels = (int64_t)x->height * x->width;
    for (int c = 0; c < channels; c++) {
        float reciprocal = 1.0f / config->std[c]; /* the reference multiplies by it (pipeline_wan_i2v.py) */
        float *to = latents + ((int64_t)c * latent_frames + t) * pixels;
        for (int64_t i = 0; i < pixels; i++)
            to[i] = (s->latent[i * channels + c] - config->mean[c]) * reciprocal;
    }
    return STATUS_OK;
}

const float *vae_features(struct vae_stream *s, struct team *team, int level, int frame, int *first, int *end)
{
    int last = s->vae->config.levels - 1;
    const struct vae_level_buffers *next = &s->levels[level + 1];
    int64_t row = (int64_t)next->width * s->vae->encoder->levels[level + 1].resnets[0].in_channels;
    *first = s->top << (last - level - 1);
    *end = s->bottom << (last - level - 1);
    s->vae->ops->copy(team, s->features, next->input + (frame * next->height + *first - next->first) * row,
                      (size_t)((*end - *first) * row) * sizeof(float));
    return s->features;
}

/* Every call waits for what it computes: the next one fills s->pixels again. */
status_t vae_encode(struct vae_stream *s, struct team *team, const float *frames, int latent_frames,
                    int piece, float *latents, struct error *error)
{
    assert(s->part == VAE_ENCODER && piece == s->next && piece < vae_pieces(s, latent_frames));
    assert(s->bands == 1 || latent_frames <= s->limits.frames);
    const struct vae_config *config = &s->vae->config;
    const struct vae_coder *coder = s->vae->encoder;
    int t = piece % latent_frames, band = piece / latent_frames, count = t == 0 ? 1 : config->scale_t;
    int64_t frame_floats =
        (int64_t)config->in_channels * s->latent_height * s->latent_width * config->scale_y * config->scale_y;
    frames += (t == 0 ? 0 : 1 + (int64_t)config->scale_t * (t - 1)) * frame_floats;
    if (band != s->band) vae_begin_band(s, team, band);
    load_frames(s, team, frames, count);

    for (int level = 0; level < config->levels; level++) {
        int batch = s->levels[level].batch;
        for (int first = 0; first < count; first += batch) {
            int some = count - first < batch ? count - first : batch;
            struct volume x = level == 0 ? run_input(s, team, first, some) : input_of(s, level, count);
            if (level > 0) x = volume_frames(&x, first, some);
            run_batch(s, team, level, &x, first);
        }
        if (coder->levels[level].temporal) count = run_halve_frames(s, team, level, count, t == 0);
    }
    s->next++;
    struct volume x = run_gather(s, team, t);
    if (band < s->bands - 1) return s->vae->ops->wait(team, error);
    vae_run_middle(s, team, coder, &x);
    return run_output(s, team, &x, latent_frames, t, latents, error);
}
