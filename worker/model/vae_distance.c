/*
 * vae_distance.c - see vae_distance.h. Two encoder streams in lockstep; the features are fetched, a frame at a
 * time, from where the encoder leaves them between its levels, which stay until the next latent frame.
 *
 * Every row's sum has a place of its own, and they are added in order at the end: neither threads nor bands show in the
 * result.
 */
#include "worker/model/vae_distance.h"

#include <math.h>
#include <stdlib.h>

#include "worker/model/vae_layers.h"

/* What two encoders hand on at one level, or their latents. */
struct depth {
    int frames, height, width, channels;
    int per_step; /* frames of a step after the first, which has one */
    double *rows; /* [frames, height] */
};

struct vae_distance {
    struct vae *vae;
    struct vae_stream *stream[2];
    float *latents[2];                   /* [latent_channels, latent_frames, h, w] */
    struct depth depths[VAE_MAX_LEVELS]; /* [levels]; the last one is the latent */
    int height, width, latent_frames;
};

static size_t latent_floats(const struct vae *vae, int h, int w, int frames)
{
    return (size_t)vae->config.latent_channels * (size_t)frames * (size_t)h * (size_t)w;
}

static struct vae_limits limits_of(int latent_frames, size_t limit)
{
    return (struct vae_limits){
        .batch = VAE_BATCH_BYTES, .stream = limit / 2, .frames = latent_frames, .looks = true};
}

size_t vae_distance_bytes(const struct vae *vae, int latent_height, int latent_width, int latent_frames)
{
    const struct vae_limits limits = limits_of(latent_frames, 0);
    return 2 * vae_stream_bytes_within(vae, VAE_ENCODER, latent_height, latent_width, &limits);
}

status_t vae_distance_fits(const struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           size_t limit, struct error *error)
{
    const struct vae_limits limits = limits_of(latent_frames, limit);
    return vae_stream_fits_within(vae, VAE_ENCODER, latent_height, latent_width, &limits, error);
}

/* Sizes of what is compared, level by level, and places for sums. */
static status_t measure_depths(struct vae_distance *d)
{
    const struct vae_config *config = &d->vae->config;
    int last = config->levels - 1, count = config->scale_t;
    for (int i = 0; i <= last; i++) {
        int more = i == last ? 0 : last - 1 - i;
        if (i < last && d->vae->encoder->levels[i].temporal) count /= 2;
        d->depths[i] =
            (struct depth){.per_step = i == last ? 1 : count,
                           .frames = 1 + (d->latent_frames - 1) * (i == last ? 1 : count),
                           .height = d->height << more,
                           .width = d->width << more,
                           .channels = i == last ? config->latent_channels
                                                 : d->vae->encoder->levels[i + 1].resnets[0].in_channels};
        d->depths[i].rows = calloc((size_t)d->depths[i].frames * (size_t)d->depths[i].height, sizeof(double));
        if (!d->depths[i].rows) return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

status_t vae_distance_open(struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           size_t limit, struct vae_distance **distance, struct error *error)
{
    const struct vae_limits limits = limits_of(latent_frames, limit);
    status_t status = STATUS_OK;
    struct vae_distance *d = calloc(1, sizeof *d);
    if (!d) return error_set(error, STATUS_NO_MEMORY, "no memory to compare videos");
    d->vae = vae;
    d->height = latent_height;
    d->width = latent_width;
    d->latent_frames = latent_frames;
    for (int i = 0; i < 2 && status == STATUS_OK; i++)
        status = vae_stream_open_within(vae, VAE_ENCODER, latent_height, latent_width, &limits, &d->stream[i],
                                        error);
    if (status != STATUS_OK) goto err_distance;
    for (int i = 0; i < 2; i++)
        d->latents[i] = calloc(latent_floats(vae, latent_height, latent_width, latent_frames), sizeof(float));
    if (!d->latents[0] || !d->latents[1] || measure_depths(d) != STATUS_OK) {
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
        free(d->latents[i]);
    }
    for (int i = 0; i < VAE_MAX_LEVELS; i++) free(d->depths[i].rows);
    free(d);
}

int vae_distance_pieces(const struct vae_distance *d)
{
    return vae_pieces(d->stream[0], d->latent_frames);
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

/* The features of frame `frame` of the step that level `level` hands on, as far as the band has made them. */
static status_t add_frame(struct vae_distance *d, struct team *team, int level, int t, int frame,
                          struct error *error)
{
    const struct depth *depth = &d->depths[level];
    int first, end, at = t == 0 ? 0 : 1 + (t - 1) * depth->per_step + frame;
    const float *a = vae_features(d->stream[0], team, level, frame, &first, &end);
    const float *b = vae_features(d->stream[1], team, level, frame, &first, &end);
    struct features f = {.a = a,
                         .b = b,
                         .width = depth->width,
                         .channels = depth->channels,
                         .row = (int64_t)depth->width * depth->channels,
                         .position = depth->channels,
                         .channel = 1};
    status_t status = d->vae->ops->wait(team, error);
    if (status != STATUS_OK) return status;
    f.sums = depth->rows + (int64_t)at * depth->height + first;
    team_run(team, end - first, row_distance, &f);
    return STATUS_OK;
}

static void add_latent(struct vae_distance *d, struct team *team, int t)
{
    const struct depth *depth = &d->depths[d->vae->config.levels - 1];
    int64_t plane = (int64_t)d->height * d->width;
    struct features f = {.a = d->latents[0] + t * plane,
                         .b = d->latents[1] + t * plane,
                         .width = d->width,
                         .channels = depth->channels,
                         .row = d->width,
                         .position = 1,
                         .channel = d->latent_frames * plane,
                         .sums = depth->rows + (int64_t)t * d->height};
    team_run(team, d->height, row_distance, &f);
}

status_t vae_distance_step(struct vae_distance *d, struct team *team, const float *a, const float *b,
                           int piece, struct error *error)
{
    int t = piece % d->latent_frames, last = d->vae->config.levels - 1;
    const float *const videos[] = {a, b};
    status_t status = STATUS_OK;
    for (int i = 0; i < 2 && status == STATUS_OK; i++)
        status = vae_encode(d->stream[i], team, videos[i], d->latent_frames, piece, d->latents[i], error);
    for (int level = 0; level < last; level++)
        for (int frame = 0; frame < (t == 0 ? 1 : d->depths[level].per_step) && status == STATUS_OK; frame++)
            status = add_frame(d, team, level, t, frame, error);
    if (status == STATUS_OK && piece >= vae_distance_pieces(d) - d->latent_frames) add_latent(d, team, t);
    return status;
}

double vae_distance_mean(const struct vae_distance *d)
{
    double sum = 0;
    for (int level = 0; level < d->vae->config.levels; level++) {
        const struct depth *depth = &d->depths[level];
        int64_t rows = (int64_t)depth->frames * depth->height;
        double all = 0;
        for (int64_t row = 0; row < rows; row++) all += depth->rows[row];
        sum += all / (double)(rows * depth->width);
    }
    return sum / d->vae->config.levels;
}
