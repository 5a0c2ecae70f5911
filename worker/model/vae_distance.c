/*
 * vae_distance.c - see vae_distance.h. Two encoder streams in lockstep; the features are fetched, a frame at a
 * time, from where the encoder leaves them between its levels (vae_layers.h, `input`), which stay until the
 * next latent frame.
 */
#include "worker/model/vae_distance.h"

#include <math.h>
#include <stdlib.h>

#include "worker/model/vae_layers.h"

struct vae_distance {
    struct vae *vae;
    struct vae_stream *stream[2];
    float *latents[2];  /* [latent_channels, latent_frames, h, w] */
    float *features[2]; /* one frame of the widest level's; shared */
    double *rows;       /* one sum for each row of it */
    int height, width, latent_frames;
    double sum[VAE_MAX_LEVELS]; /* [levels]; the last one is the latent's */
    int64_t positions[VAE_MAX_LEVELS];
};

/* Rows of one frame at full size: more than features have. */
static size_t most_rows(const struct vae *vae, int latent_height)
{
    return (size_t)latent_height * (size_t)vae->config.scale_y;
}

/* Bytes of one frame of features of the level that has most. */
static size_t most_bytes(const struct vae *vae, int latent_height, int latent_width)
{
    size_t most = sizeof(float);
    size_t pixels =
        (size_t)latent_height * (size_t)latent_width * (size_t)(vae->config.scale_y * vae->config.scale_y);
    for (int i = 1; i < vae->config.levels; i++) {
        pixels /= 4;
        size_t bytes = pixels * (size_t)vae->encoder->levels[i].resnets[0].in_channels * sizeof(float);
        if (bytes > most) most = bytes;
    }
    return most;
}

static size_t latent_floats(const struct vae *vae, int h, int w, int frames)
{
    return (size_t)vae->config.latent_channels * (size_t)frames * (size_t)h * (size_t)w;
}

size_t vae_distance_bytes(const struct vae *vae, int latent_height, int latent_width, int latent_frames)
{
    return 2 * vae_stream_bytes(vae, VAE_ENCODER, latent_height, latent_width) +
           2 * latent_floats(vae, latent_height, latent_width, latent_frames) * sizeof(float) +
           2 * most_bytes(vae, latent_height, latent_width) + most_rows(vae, latent_height) * sizeof(double);
}

status_t vae_distance_open(struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           struct vae_distance **distance, struct error *error)
{
    status_t status = STATUS_NO_MEMORY;
    struct vae_distance *d = calloc(1, sizeof *d);
    if (!d) return error_set(error, status, "no memory to compare videos");
    d->vae = vae;
    d->height = latent_height;
    d->width = latent_width;
    d->latent_frames = latent_frames;
    for (int i = 0; i < 2; i++) {
        status = vae_stream_open(vae, VAE_ENCODER, latent_height, latent_width, 0, &d->stream[i], error);
        if (status != STATUS_OK) goto err_distance;
        d->latents[i] = calloc(latent_floats(vae, latent_height, latent_width, latent_frames), sizeof(float));
        void *memory;
        status =
            vae->ops->allocate(MEMORY_SHARED, most_bytes(vae, latent_height, latent_width), &memory, error);
        if (status != STATUS_OK) goto err_distance;
        d->features[i] = memory;
    }
    d->rows = calloc(most_rows(vae, latent_height), sizeof *d->rows);
    if (!d->rows || !d->latents[0] || !d->latents[1]) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory to compare videos");
        goto err_distance;
    }
    *distance = d;
    return STATUS_OK;
err_distance:
    vae_distance_close(d);
    return status;
}

void vae_distance_close(struct vae_distance *d)
{
    if (!d) return;
    for (int i = 0; i < 2; i++) {
        vae_stream_close(d->stream[i]);
        d->vae->ops->release(MEMORY_SHARED, d->features[i]);
        free(d->latents[i]);
    }
    free(d->rows);
    free(d);
}

/* The same features of both videos. Strides in floats. */
struct features {
    const float *a, *b;
    int width, channels;
    int64_t row, position, channel;
    double *sums; /* one for each row */
};

/* Of one position, as in LPIPS: both vectors brought to length one. */
static double position_distance(const struct features *f, int64_t at)
{
    double a2 = 0, b2 = 0, sum = 0;
    for (int c = 0; c < f->channels; c++) {
        double a = f->a[at + c * f->channel], b = f->b[at + c * f->channel];
        a2 += a * a;
        b2 += b * b;
    }
    double by_a = 1 / (sqrt(a2) + 1e-10), by_b = 1 / (sqrt(b2) + 1e-10);
    for (int c = 0; c < f->channels; c++) {
        double difference = f->a[at + c * f->channel] * by_a - f->b[at + c * f->channel] * by_b;
        sum += difference * difference;
    }
    return sum;
}

static void row_distance(void *arguments, int row, void *scratch)
{
    const struct features *f = arguments;
    double sum = 0;
    for (int x = 0; x < f->width; x++) sum += position_distance(f, row * f->row + x * f->position);
    f->sums[row] = sum;
}

/* Adds `rows` rows of features to a level, in order of rows whoever computed them. */
static void add_features(struct vae_distance *d, struct team *team, int level, int rows, struct features *f)
{
    f->sums = d->rows;
    team_run(team, rows, row_distance, f);
    for (int row = 0; row < rows; row++) d->sum[level] += d->rows[row];
    d->positions[level] += (int64_t)rows * f->width;
}

/* The features that a level hands to the next, `count` frames. */
static status_t add_level(struct vae_distance *d, struct team *team, int level, int count,
                          struct error *error)
{
    const struct ops *ops = d->vae->ops;
    const struct vae_level_buffers *next = &d->stream[0]->levels[level + 1];
    int channels = d->vae->encoder->levels[level + 1].resnets[0].in_channels;
    int64_t row = (int64_t)next->width * channels, floats = next->height * row;
    struct features f = {.a = d->features[0],
                         .b = d->features[1],
                         .width = next->width,
                         .channels = channels,
                         .row = row,
                         .position = channels,
                         .channel = 1};
    for (int frame = 0; frame < count; frame++) {
        for (int i = 0; i < 2; i++)
            ops->copy(team, d->features[i], d->stream[i]->levels[level + 1].input + frame * floats,
                      (size_t)floats * sizeof(float));
        status_t status = ops->wait(team, error);
        if (status != STATUS_OK) return status;
        add_features(d, team, level, next->height, &f);
    }
    return STATUS_OK;
}

status_t vae_distance_step(struct vae_distance *d, struct team *team, const float *a, const float *b, int t,
                           struct error *error)
{
    const struct vae_coder *coder = d->vae->encoder;
    int count = t == 0 ? 1 : d->vae->config.scale_t, last = d->vae->config.levels - 1;
    status_t status = vae_encode(d->stream[0], team, a, d->latent_frames, t, d->latents[0], error);
    if (status == STATUS_OK)
        status = vae_encode(d->stream[1], team, b, d->latent_frames, t, d->latents[1], error);

    for (int level = 0; level < last && status == STATUS_OK; level++) {
        if (coder->levels[level].temporal && t > 0) count /= 2;
        status = add_level(d, team, level, count, error);
    }
    if (status != STATUS_OK) return status;
    int64_t plane = (int64_t)d->height * d->width;
    struct features latent = {.a = d->latents[0] + t * plane,
                              .b = d->latents[1] + t * plane,
                              .width = d->width,
                              .channels = d->vae->config.latent_channels,
                              .row = d->width,
                              .position = 1,
                              .channel = d->latent_frames * plane};
    add_features(d, team, last, d->height, &latent);
    return STATUS_OK;
}

double vae_distance_mean(const struct vae_distance *d)
{
    double sum = 0;
    for (int level = 0; level < d->vae->config.levels; level++)
        sum += d->sum[level] / (double)d->positions[level];
    return sum / d->vae->config.levels;
}
