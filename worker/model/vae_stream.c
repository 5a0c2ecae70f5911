/*
 * vae_stream.c - the buffers of one decode or encode: sizes, layout, open and close.
 *
 * The layout is written once and run twice over an arena (base/arena.h): to measure, then to hand out. What a
 * convolution must remember between latent frames is the head of its own input tape, so that nothing is
 * copied together before a convolution; the price is a copy of two frames after it.
 */
#include "worker/model/vae_layers.h"

#include <stdlib.h>

#include "kernels/memory.h"

enum { MAX_LATENT_SIDE = 4096 };

static size_t frame_floats(int height, int width, int channels)
{
    return (size_t)height * (size_t)width * (size_t)channels;
}

static struct tape take_tape(struct arena *arena, int history, int capacity, int height, int width,
                             int channels, int before, int after)
{
    size_t floats = frame_floats(height + before + after, width + before + after, channels);
    return (struct tape){.data = arena_take(arena, (size_t)(history + capacity) * floats, sizeof(float)),
                         .history = history,
                         .capacity = capacity,
                         .height = height,
                         .width = width,
                         .channels = channels,
                         .before = before,
                         .after = after};
}

/* Input of a causal 3x3x3 convolution. */
static struct tape take_causal(struct arena *arena, int frames, int height, int width, int channels)
{
    return take_tape(arena, 2, frames, height, width, channels, 1, 1);
}

static void take_resnet(struct arena *arena, const struct vae_resnet *resnet, int frames, int height,
                        int width, struct tape tapes[2])
{
    tapes[0] = take_causal(arena, frames, height, width, resnet->in_channels);
    tapes[1] = take_causal(arena, frames, height, width, resnet->out_channels);
}

static int widest_channels(const struct vae_level *level)
{
    int in = level->resnets[0].in_channels;
    return in > level->channels ? in : level->channels;
}

/* Sizes and tapes of the residual blocks of one level. */
static void lay_out_level(struct arena *arena, size_t batch_bytes, const struct vae_level *level,
                          struct vae_level_buffers *b)
{
    size_t bytes = frame_floats(b->tallest, b->width, widest_channels(level)) * sizeof(float);
    b->batch = bytes * (size_t)b->frames <= batch_bytes ? b->frames : (int)(batch_bytes / bytes);
    if (b->batch < 1) b->batch = 1;
    for (int i = 0; i < level->resnet_count; i++)
        take_resnet(arena, &level->resnets[i], b->batch, b->height, b->width, b->resnets[i]);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* What a pass through the level needs of stream->x and stream->hidden. */
static size_t level_scratch(const struct vae_level *level, const struct vae_level_buffers *b)
{
    return (size_t)b->batch * frame_floats(b->height, b->width, widest_channels(level));
}

/* Tapes and scratch of the middle, at latent resolution. */
static void lay_out_middle(struct arena *arena, const struct vae_coder *coder, struct vae_stream *s)
{
    int h = s->latent_height, w = s->latent_width, channels = coder->attention.channels;
    for (int i = 0; i < 2; i++) take_resnet(arena, &coder->middle[i], 1, h, w, s->middle[i]);
    size_t floats = frame_floats(h, w, channels);
    s->norm = arena_take(arena, floats, sizeof(float));
    s->qkv = arena_take(arena, 3 * floats, sizeof(float));
    s->attended = arena_take(arena, floats, sizeof(float));
}

static void lay_out_scratch(struct arena *arena, size_t floats, struct vae_stream *s)
{
    s->x[0] = arena_take(arena, floats, sizeof(float));
    s->x[1] = arena_take(arena, floats, sizeof(float));
    s->hidden = arena_take(arena, floats, sizeof(float));
}

static void lay_out_decoder(struct arena *arena, struct arena *shared, struct vae_stream *s)
{
    const struct vae_config *config = &s->vae->config;
    const struct vae_coder *coder = s->vae->decoder;
    int h = s->latent_height, w = s->latent_width, frames = 1, last = config->levels - 1;
    size_t scratch = frame_floats(h, w, coder->attention.channels);
    bool tallest = s->band < 0;

    s->latent = arena_take(shared, frame_floats(h, w, config->latent_channels), sizeof(float));
    s->conv_in = take_causal(arena, 1, h, w, config->latent_channels);
    lay_out_middle(arena, coder, s);
    for (int i = 0; i <= last; i++, w *= 2) {
        const struct vae_level *level = &coder->levels[i];
        struct vae_level_buffers *b = &s->levels[i];
        if (tallest) b->height = b->tallest;
        b->frames = frames;
        b->width = w;
        h = b->height;
        lay_out_level(arena, s->limits.batch, level, b);
        scratch = larger(scratch, level_scratch(level, b));
        if (level->temporal) b->time = take_tape(arena, 2, b->batch, h, w, level->channels, 0, 0);
        if (level->temporal) frames *= 2;
        if (level->resamples) b->sample = take_tape(arena, 0, frames, h, w, level->channels, 1, 1);
    }
    struct vae_level_buffers *b = &s->levels[last];
    s->conv_out = take_causal(arena, b->batch, b->height, b->width, coder->levels[last].channels);
    s->pixels = arena_take(shared,
                           (size_t)b->batch * frame_floats(tallest ? s->tallest : s->bottom - s->top,
                                                           b->width, config->out_channels),
                           sizeof(float));
    lay_out_scratch(arena, scratch, s);
}

/* Floats of one frame that a level hands to the next, where these are most; of the tallest band. */
static size_t most_features(const struct vae_stream *s)
{
    const struct vae_coder *coder = s->vae->encoder;
    int last = s->vae->config.levels - 1;
    size_t most = 0;
    for (int i = 1; i <= last; i++)
        most = larger(most, frame_floats(s->tallest << (last - i), s->latent_width << (last - i),
                                         coder->levels[i].resnets[0].in_channels));
    return most;
}

static void lay_out_encoder(struct arena *arena, struct arena *shared, struct vae_stream *s)
{
    const struct vae_config *config = &s->vae->config;
    const struct vae_coder *coder = s->vae->encoder;
    int h = s->latent_height * config->scale_y, w = s->latent_width * config->scale_y,
        frames = config->scale_t;
    size_t scratch = 0;
    bool tallest = s->band < 0;

    s->deep = s->bands == 1
                  ? NULL
                  : arena_take(arena,
                               (size_t)s->limits.frames *
                                   frame_floats(s->latent_height, s->latent_width, coder->attention.channels),
                               sizeof(float));
    s->kept = arena->used;
    for (int i = 0; i < config->levels; i++) {
        const struct vae_level *level = &coder->levels[i];
        struct vae_level_buffers *b = &s->levels[i];
        if (tallest) b->height = b->tallest;
        b->frames = frames;
        b->width = w;
        h = b->height;
        if (i > 0)
            b->input = arena_take(arena, (size_t)frames * frame_floats(h, w, level->resnets[0].in_channels),
                                  sizeof(float));
        lay_out_level(arena, s->limits.batch, level, b);
        scratch = larger(scratch, level_scratch(level, b));
        if (!level->resamples) continue;
        b->sample = take_tape(arena, 0, b->batch, h, w, level->channels, 0, 1);
        w /= 2;
        h = tallest ? s->levels[i + 1].tallest : s->levels[i + 1].height;
        if (level->temporal) b->time = take_tape(arena, 1, frames, h, w, level->channels, 0, 0);
        if (level->temporal) frames /= 2;
    }
    struct vae_level_buffers *first = &s->levels[0];
    s->conv_in = take_causal(arena, first->batch, first->height, first->width, config->in_channels);
    lay_out_middle(arena, coder, s);
    h = s->latent_height;
    s->conv_out = take_causal(arena, 1, h, w, coder->attention.channels);
    s->moments = arena_take(arena, frame_floats(h, w, 2 * config->latent_channels), sizeof(float));
    s->latent = arena_take(shared, frame_floats(h, w, config->latent_channels), sizeof(float));
    if (s->limits.looks) s->features = arena_take(shared, most_features(s), sizeof(float));
    s->pixels = arena_take(
        shared, (size_t)config->scale_t * frame_floats(first->height, first->width, config->in_channels),
        sizeof(float));
    lay_out_scratch(arena, scratch, s);
}

static void lay_out(struct arena *arena, struct arena *shared, struct vae_stream *s)
{
    if (s->part == VAE_DECODER)
        lay_out_decoder(arena, shared, s);
    else
        lay_out_encoder(arena, shared, s);
}

/* ------------------------------------------------------------------------------------------------ bands */

static int image_height(const struct vae_stream *s, int level)
{
    return s->latent_height << (s->part == VAE_DECODER ? level : s->vae->config.levels - 1 - level);
}

/* Rows [*first, *end) and `more` on each side, as far as the level has them, from an even row to before one. */
static void widen(const struct vae_stream *s, int level, int more, int *first, int *end)
{
    int height = image_height(s, level);
    *first = *first > more ? (*first - more) / 2 * 2 : 0;
    *end = (*end + more + 1) / 2 * 2;
    if (*end > height) *end = height;
}

/* The latent row where a band begins. */
static int band_row(const struct vae_stream *s, int band)
{
    int steps = (s->latent_height + VAE_BAND_ROWS - 1) / VAE_BAND_ROWS;
    return band == s->bands ? s->latent_height : (int)((int64_t)steps * band / s->bands) * VAE_BAND_ROWS;
}

/* The rows of the video that a band makes, and of every level those it takes: two convolutions a residual block, and
 * before the frames or the doubling another one, which sees half a row of the small image on each side. */
static void find_decoder_rows(struct vae_stream *s, int band)
{
    const struct vae_coder *coder = s->vae->decoder;
    int last = s->vae->config.levels - 1, more = 1;
    int first = s->top = band_row(s, band) << last, end = s->bottom = band_row(s, band + 1) << last;
    for (int i = last; i >= 0; i--) {
        widen(s, i, more + 2 * coder->levels[i].resnet_count, &first, &end);
        s->levels[i].first = first;
        s->levels[i].height = end - first;
        first /= 2;
        end = (end + 1) / 2;
    }
}

/* The same for the rows of the latent. A row after halving is made of three: twice its number, and the next two. The
 * first level's input comes out of a convolution of its own. */
static void find_encoder_rows(struct vae_stream *s, int band)
{
    const struct vae_coder *coder = s->vae->encoder;
    int first = s->top = band_row(s, band), end = s->bottom = band_row(s, band + 1);
    for (int i = s->vae->config.levels - 1; i >= 0; i--) {
        widen(s, i, 2 * coder->levels[i].resnet_count + (i == 0), &first, &end);
        s->levels[i].first = first;
        s->levels[i].height = end - first;
        first = 2 * first;
        end = 2 * end + 1;
    }
}

static void find_rows(struct vae_stream *s, int band)
{
    if (s->part == VAE_DECODER)
        find_decoder_rows(s, band);
    else
        find_encoder_rows(s, band);
}

/* Of all bands the most rows, by level. */
static void find_tallest(struct vae_stream *s)
{
    s->tallest = 0;
    for (int i = 0; i < s->vae->config.levels; i++) s->levels[i].tallest = 0;
    for (int band = 0; band < s->bands; band++) {
        find_rows(s, band);
        if (s->bottom - s->top > s->tallest) s->tallest = s->bottom - s->top;
        for (int i = 0; i < s->vae->config.levels; i++) {
            struct vae_level_buffers *b = &s->levels[i];
            if (b->height > b->tallest) b->tallest = b->height;
        }
    }
}

/* What the buffers take with so many bands. */
static size_t measure(struct vae_stream *s, int bands)
{
    struct arena device = {0}, shared = {0};
    s->bands = bands;
    s->band = -1;
    find_tallest(s);
    lay_out(&device, &shared, s);
    return device.used + shared.used;
}

/* The fewest bands whose buffers are within the limit. */
static status_t choose_bands(struct vae_stream *s, struct error *error)
{
    bool whole = s->part == VAE_ENCODER && s->limits.frames == 0;
    int most = whole ? 1 : (s->latent_height + VAE_BAND_ROWS - 1) / VAE_BAND_ROWS;
    int bands = s->limits.bands > most ? most : s->limits.bands > 0 ? s->limits.bands : 1;
    size_t bytes = measure(s, bands), limit = s->limits.stream;
    if (whole || limit == 0) return STATUS_OK;
    while (bytes > limit && bands < most) bytes = measure(s, ++bands);
    if (bytes <= limit) return STATUS_OK;
    return error_set(error, STATUS_NO_MEMORY,
                     "%s a latent of %d x %d takes %.1f MB in the narrowest bands, the limit is %.1f MB",
                     s->part == VAE_DECODER ? "decoding" : "encoding", s->latent_width, s->latent_height,
                     (double)bytes / 1e6, (double)limit / 1e6);
}

void vae_begin_band(struct vae_stream *s, struct team *team, int band)
{
    if (s->band >= 0) s->vae->ops->zero(team, (char *)s->arena.base + s->kept, s->arena.size - s->kept);
    s->band = band;
    find_rows(s, band);
    s->arena.used = s->shared.used = 0;
    lay_out(&s->arena, &s->shared, s);
}

int vae_pieces(const struct vae_stream *s, int latent_frames)
{
    return s->bands * latent_frames;
}

/* ---------------------------------------------------------------------------------------- open and close */

static struct vae_stream unopened(const struct vae *vae, enum vae_part part, int latent_height,
                                  int latent_width, const struct vae_limits *limits)
{
    return (struct vae_stream){.vae = (struct vae *)vae,
                               .part = part,
                               .latent_height = latent_height,
                               .latent_width = latent_width,
                               .limits = *limits};
}

size_t vae_stream_bytes_within(const struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                               const struct vae_limits *limits)
{
    struct vae_stream s = unopened(vae, part, latent_height, latent_width, limits);
    return measure(&s, 1);
}

size_t vae_stream_bytes(const struct vae *vae, enum vae_part part, int latent_height, int latent_width)
{
    return vae_stream_bytes_within(vae, part, latent_height, latent_width,
                                   &(struct vae_limits){.batch = VAE_BATCH_BYTES});
}

status_t vae_stream_open(struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                         size_t limit, struct vae_stream **out, struct error *error)
{
    return vae_stream_open_within(vae, part, latent_height, latent_width,
                                  &(struct vae_limits){.batch = VAE_BATCH_BYTES, .stream = limit}, out,
                                  error);
}

status_t vae_stream_fits_within(const struct vae *vae, enum vae_part part, int latent_height,
                                int latent_width, const struct vae_limits *limits, struct error *error)
{
    struct vae_stream s = unopened(vae, part, latent_height, latent_width, limits);
    return choose_bands(&s, error);
}

status_t vae_stream_fits(const struct vae *vae, int latent_height, int latent_width, size_t limit,
                         struct error *error)
{
    return vae_stream_fits_within(vae, VAE_DECODER, latent_height, latent_width,
                                  &(struct vae_limits){.batch = VAE_BATCH_BYTES, .stream = limit}, error);
}

/* All memory, for the tallest of the bands. */
static status_t take_memory(struct vae_stream *s, struct error *error)
{
    status_t status = choose_bands(s, error);
    if (status != STATUS_OK) return status;
    lay_out(&s->arena, &s->shared, s);
    status = memory_arena(s->vae->ops, MEMORY_DEVICE, &s->arena, error);
    if (status == STATUS_OK) status = memory_arena(s->vae->ops, MEMORY_SHARED, &s->shared, error);
    return status;
}

status_t vae_stream_open_within(struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                                const struct vae_limits *limits, struct vae_stream **out, struct error *error)
{
    if (!(part == VAE_DECODER ? vae->decoder : vae->encoder))
        return error_set(error, STATUS_CONFLICT, "the %s of this VAE was not loaded",
                         part == VAE_DECODER ? "decoder" : "encoder");
    if (latent_height < 1 || latent_width < 1 || latent_height > MAX_LATENT_SIDE ||
        latent_width > MAX_LATENT_SIDE)
        return error_set(error, STATUS_INVALID, "a latent of %d x %d pixels; sides must be 1 to %d",
                         latent_width, latent_height, MAX_LATENT_SIDE);
    struct vae_stream *s = malloc(sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "out of memory");
    *s = unopened(vae, part, latent_height, latent_width, limits);
    status_t status = take_memory(s, error);
    if (status != STATUS_OK) {
        error_prefix(error, "VAE");
        vae_stream_close(s);
        return status;
    }
    vae_begin_band(s, NULL, 0);
    *out = s;
    return STATUS_OK;
}

void vae_stream_close(struct vae_stream *s)
{
    if (!s) return;
    memory_give_back(s->vae->ops, MEMORY_DEVICE, &s->arena);
    memory_give_back(s->vae->ops, MEMORY_SHARED, &s->shared);
    free(s);
}
