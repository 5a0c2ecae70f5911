/*
 * quality.c - see quality.h. One step: the frames to 8 bits, then a task for each row of pixels, then the
 * encoder.
 *
 * A row's sums go to a place of their own and are added in order, so that threads do not show in the result.
 */
#include "worker/quality.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/model/vae_distance.h"
#include "worker/model/vae_layers.h"

enum { CHANNELS = 3, RADIUS = 5, WINDOW = 2 * RADIUS + 1, MOMENTS = 5 };

static const double LEVELS = 255, SIGMA = 1.5, K1 = 0.01, K2 = 0.03;

struct quality_run {
    struct video_size size;
    const float *reference, *video;
    struct vae_distance *distance; /* NULL: none */
    int per_step;                  /* frames of a step after the first, which has one */
    int step, steps, frame;        /* done; that see frames; the next one's first frame */
    double window[WINDOW];         /* adds up to 1 */
    uint8_t *a, *b;                /* [per_step, 3, height, width] of this step */
    double *ssim;                  /* [per_step, 3, height], sums over a row */
    int64_t *squares;              /* likewise, of the differences */
    int64_t all_squares, worst_squares;
    double all_ssim; /* sum over frames of a frame's mean */
};

static int64_t step_rows(const struct quality_run *q)
{
    return (int64_t)q->per_step * CHANNELS * q->size.height;
}

static int frames_per_step(const struct vae *vae)
{
    return vae ? vae->config.scale_t : 1;
}

/* The weights scipy's gaussian_filter has with sigma 1.5 and truncate 3.5. */
static void make_window(double *window)
{
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        window[i] = exp(-0.5 * (i - RADIUS) * (i - RADIUS) / (SIGMA * SIGMA));
        sum += window[i];
    }
    for (int i = 0; i < WINDOW; i++) window[i] /= sum;
}

static status_t check_size(const struct vae *vae, const struct video_size *size, struct error *error)
{
    if (size->frames < 1 || size->height < 1 || size->width < 1)
        return error_set(error, STATUS_INVALID, "quality: a video of %d frames of %d x %d pixels",
                         size->frames, size->width, size->height);
    if (!vae) return STATUS_OK;
    const struct vae_config *c = &vae->config;
    if (size->height % c->scale_y || size->width % c->scale_y || (size->frames - 1) % c->scale_t ||
        c->in_channels != CHANNELS)
        return error_set(
            error, STATUS_INVALID,
            "quality: %d frames of %d x %d pixels; this VAE encodes 1 + a multiple of %d frames, "
            "sides a multiple of %d",
            size->frames, size->width, size->height, c->scale_t, c->scale_y);
    return STATUS_OK;
}

status_t quality_open(struct vae *vae, const struct video_size *size, const float *reference,
                      const float *video, size_t limit, struct quality_run **run, struct error *error)
{
    status_t status = check_size(vae, size, error);
    if (status != STATUS_OK) return status;
    struct quality_run *q = calloc(1, sizeof *q);
    if (!q) return error_set(error, STATUS_NO_MEMORY, "no memory to compare videos");
    *q = (struct quality_run){
        .size = *size, .reference = reference, .video = video, .per_step = frames_per_step(vae)};
    q->steps = 1 + (size->frames - 1) / q->per_step;
    make_window(q->window);
    size_t rows = (size_t)step_rows(q), bytes = rows * (size_t)size->width;
    q->a = malloc(bytes);
    q->b = malloc(bytes);
    q->ssim = malloc(rows * sizeof *q->ssim);
    q->squares = malloc(rows * sizeof *q->squares);
    if (!q->a || !q->b || !q->ssim || !q->squares) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory to compare videos of %d x %d", size->width,
                           size->height);
        goto err_run;
    }
    if (vae)
        status = vae_distance_open(vae, size->height / vae->config.scale_y, size->width / vae->config.scale_y,
                                   q->steps, limit, &q->distance, error);
    if (status != STATUS_OK) goto err_run;
    *run = q;
    return STATUS_OK;
err_run:
    quality_close(q);
    return status;
}

void quality_close(struct quality_run *q)
{
    if (!q) return;
    vae_distance_close(q->distance);
    free(q->a);
    free(q->b);
    free(q->ssim);
    free(q->squares);
    free(q);
}

int quality_steps(const struct quality_run *q)
{
    return q->distance ? vae_distance_pieces(q->distance) : q->steps;
}

/* ------------------------------------------------------------------------------------------------ rows */

static uint8_t to_level(float value)
{
    value = value > 0 ? (value < 1 ? value : 1) : 0; /* NaN becomes 0, as in a written video */
    return (uint8_t)lrintf(value * 255);
}

/* Row `task` of the step's frames, of both videos. */
static void round_row(void *arguments, int task, void *scratch)
{
    const struct quality_run *q = arguments;
    int64_t width = q->size.width, to = task * width;
    int64_t from = ((int64_t)q->frame * CHANNELS * q->size.height + task) * width;
    int64_t sum = 0;
    for (int64_t x = 0; x < width; x++) {
        q->a[to + x] = to_level(q->reference[from + x]);
        q->b[to + x] = to_level(q->video[from + x]);
        int64_t difference = (int64_t)q->a[to + x] - q->b[to + x];
        sum += difference * difference;
    }
    q->squares[task] = sum;
}

/* Down the columns around a row: weighted means of a, b, a a, b b, a b. moments: [MOMENTS][width] */
static void filter_columns(const struct quality_run *q, const uint8_t *a, const uint8_t *b, double *moments)
{
    int64_t width = q->size.width;
    for (int64_t i = 0; i < MOMENTS * width; i++) moments[i] = 0;
    for (int k = -RADIUS; k <= RADIUS; k++) {
        double w = q->window[k + RADIUS];
        for (int64_t x = 0; x < width; x++) {
            double p = a[k * width + x], r = b[k * width + x];
            moments[x] += w * p;
            moments[width + x] += w * r;
            moments[2 * width + x] += w * (p * p);
            moments[3 * width + x] += w * (r * r);
            moments[4 * width + x] += w * (p * r);
        }
    }
}

static double ssim_at(const struct quality_run *q, const double *moments, int64_t x)
{
    const double c1 = K1 * K1 * LEVELS * LEVELS, c2 = K2 * K2 * LEVELS * LEVELS;
    double mean[MOMENTS] = {0};
    for (int m = 0; m < MOMENTS; m++)
        for (int k = -RADIUS; k <= RADIUS; k++)
            mean[m] += q->window[k + RADIUS] * moments[(int64_t)m * q->size.width + x + k];
    double a = mean[0], b = mean[1];
    double a_variance = mean[2] - a * a, b_variance = mean[3] - b * b, covariance = mean[4] - a * b;
    return (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (a_variance + b_variance + c2));
}

/* Row `task`: the sum of SSIM over the pixels whose window is inside the frame. */
static void ssim_row(void *arguments, int task, void *scratch)
{
    const struct quality_run *q = arguments;
    int64_t width = q->size.width, at = task * width;
    int row = task % q->size.height;
    q->ssim[task] = 0;
    if (row < RADIUS || row >= q->size.height - RADIUS) return;
    filter_columns(q, q->a + at, q->b + at, scratch);
    for (int64_t x = RADIUS; x < width - RADIUS; x++) q->ssim[task] += ssim_at(q, scratch, x);
}

/* ---------------------------------------------------------------------------------------------- frames */

static bool holds_window(const struct video_size *size)
{
    _Static_assert(MOMENTS * sizeof(double) * 32768 <= TEAM_SCRATCH_BYTES, "a row of moments fits");
    return size->width >= WINDOW && size->height >= WINDOW && size->width <= 32768;
}

static void add_frame(struct quality_run *q, int frame)
{
    int rows = CHANNELS * q->size.height;
    double places = (double)CHANNELS * (q->size.height - 2 * RADIUS) * (q->size.width - 2 * RADIUS), ssim = 0;
    int64_t squares = 0;
    for (int row = frame * rows; row < (frame + 1) * rows; row++) {
        squares += q->squares[row];
        ssim += q->ssim[row];
    }
    q->all_squares += squares;
    if (squares > q->worst_squares) q->worst_squares = squares;
    q->all_ssim += ssim / places;
}

static double psnr_of(int64_t squares, double values)
{
    return squares ? 10 * log10(LEVELS * LEVELS * values / (double)squares) : INFINITY;
}

static void finish(const struct quality_run *q, struct quality *quality)
{
    double values = (double)CHANNELS * q->size.height * q->size.width;
    quality->psnr = psnr_of(q->all_squares, values * q->size.frames);
    quality->psnr_worst = psnr_of(q->worst_squares, values);
    quality->ssim = holds_window(&q->size) ? q->all_ssim / q->size.frames : NAN;
    quality->perceptual = q->distance ? vae_distance_mean(q->distance) : NAN;
}

/* Of the frames of a latent frame. */
static void compare_pixels(struct quality_run *q, struct team *team)
{
    int count = q->step == 0 ? 1 : q->per_step, rows = count * CHANNELS * q->size.height;
    team_run(team, rows, round_row, q);
    for (int row = 0; row < rows; row++) q->ssim[row] = 0;
    if (holds_window(&q->size)) team_run(team, rows, ssim_row, q);
    for (int frame = 0; frame < count; frame++) add_frame(q, frame);
    q->frame += count;
}

status_t quality_step(struct quality_run *q, struct team *team, bool *done, struct quality *quality,
                      struct error *error)
{
    status_t status = STATUS_OK;
    if (q->step < q->steps) compare_pixels(q, team);
    if (q->distance) status = vae_distance_step(q->distance, team, q->reference, q->video, q->step, error);
    *done = status == STATUS_OK && ++q->step == quality_steps(q);
    if (*done) finish(q, quality);
    return status;
}

status_t quality_measure(struct vae *vae, struct team *team, const float *reference, const float *video,
                         int frames, int height, int width, struct quality *quality, struct error *error)
{
    struct quality_run *run = NULL;
    struct video_size size = {.frames = frames, .width = width, .height = height};
    status_t status = quality_open(vae, &size, reference, video, 0, &run, error);
    if (!run) return status;
    for (bool done = false; status == STATUS_OK && !done;)
        status = quality_step(run, team, &done, quality, error);
    quality_close(run);
    return status;
}
