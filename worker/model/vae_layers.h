/*
 * vae_layers.h - what the files of the VAE share: weights by layer, buffers by convolution, the blocks built
 * of them.
 *
 * vae_weights.c reads the weights, vae_stream.c lays out the buffers, vae_blocks.c runs one block,
 * vae_decoder.c and vae_encoder.c walk through the levels. A level is a run of residual blocks at one
 * resolution followed by a resampling; level 0 is the decoder's coarsest and the encoder's finest.
 *
 * Activations are channels-last: [frames, height, width, channels], float32, on the device; what the host fills
 * or reads is in shared memory.
 */
#ifndef REFRAIN_WORKER_MODEL_VAE_LAYERS_H
#define REFRAIN_WORKER_MODEL_VAE_LAYERS_H

#include "base/arena.h"
#include "kernels/ops.h"
#include "worker/model/vae.h"

/* ---------------------------------------------------------------------------------------------- weights */

/* x + conv2(silu(norm2(conv1(silu(norm1(x)))))), x through `shortcut` when the number of channels changes. */
struct vae_resnet {
    int in_channels, out_channels;
    float *gamma1, *gamma2; /* [in], [out]; on the device, as all gammas */
    struct conv *conv1, *conv2, *shortcut;
};

/* Self-attention of one frame's pixels, one head as wide as the layer. */
struct vae_attention {
    int channels;
    float *gamma;              /* [channels] */
    struct linear *qkv, *proj; /* [3 channels, channels], [channels, channels] */
};

enum { VAE_MAX_RESNETS = 17 };

struct vae_level {
    int resnet_count;
    struct vae_resnet resnets[VAE_MAX_RESNETS];
    int channels;             /* after the resnets */
    bool resamples, temporal; /* false, false at the last level */
    struct conv *sample;      /* decoder: doubles y and x, halves the channels; encoder: halves y and x */
    struct conv *time[2];     /* decoder: makes the even and the odd frame; encoder: [0] halves the frames */
};

/* One direction's weights. */
struct vae_coder {
    struct conv *quant; /* 1x1x1, before the decoder or after the encoder (there only what makes the mean) */
    struct conv *conv_in, *conv_out;
    struct vae_resnet middle[2];
    struct vae_attention attention;
    struct vae_level levels[VAE_MAX_LEVELS];
    float *gamma_out;
};

struct vae {
    struct vae_config config;
    const struct ops *ops;
    struct vae_coder *decoder, *encoder; /* NULL when not asked for */
    size_t bytes;
};

/* ---------------------------------------------------------------------------------------------- buffers */

/* The input of a convolution: frames between a border of zeros, the last `history` frames before them.
 * Producers write into the inside; the border is never written, so the zeros it was made with stay. */
struct tape {
    float *data; /* [history + capacity, before + height + after, before + width + after, channels] */
    int history, capacity;
    int height, width, channels;
    int before, after; /* border pixels above and left, below and right */
};

/* Buffers of one level for one stream. */
struct vae_level_buffers {
    int frames, batch; /* of a whole chunk at this level's resnets, and of one pass through them */
    int first;         /* row of the level's image where the rows held here begin: see vae_begin_band */
    int height, width; /* of these rows */
    int tallest;       /* the largest height of any band */
    struct tape resnets[VAE_MAX_RESNETS][2];
    struct tape
        time; /* temporal resampling; decoder: [2 + batch], encoder: [1 + frames] after the spatial step */
    struct tape sample; /* spatial resampling; decoder: the whole chunk, after time; encoder: one batch */
    float *input;       /* encoder, levels > 0: [frames, height, width, channels of the level above] */
};

/* A pass through a level takes as many frames as fit in this: more would only cost memory, fewer repeat the copies of
 * history. */
enum { VAE_BATCH_BYTES = 24 << 20 };

/* What a stream may take. The result does not depend on it. */
struct vae_limits {
    size_t batch;  /* bytes of one layer's state in a pass through a level: fewer save memory and cost time */
    size_t stream; /* bytes of the stream; 0: no limit */
    int bands;     /* at least so many, if there are rows for them */
    int frames; /* of the latent: an encoder in bands keeps them all until its last band; 0: it takes no bands */
    bool looks; /* encoder: with room for what vae_features fetches */
};

struct vae_stream {
    struct vae *vae;
    enum vae_part part;
    struct arena arena, shared; /* of the device, and what the host sees */
    int latent_height, latent_width;
    struct vae_limits limits;
    int bands, band; /* how many, and which one this is */
    int top, bottom,
        tallest; /* rows of the coder's output that the band makes, from one to before the other */
    size_t kept; /* bytes at the arena's beginning that outlive a band */
    int next;    /* piece expected by the next call */
    struct tape conv_in, conv_out;
    struct tape middle[2][2];
    struct vae_level_buffers levels[VAE_MAX_LEVELS];
    /* Scratch, dead between passes. */
    float *x[2]; /* [batch, height, width, channels] of the largest level: a level's input, a level's state */
    float *hidden;   /* the same: between the two convolutions of a block */
    float *norm;     /* [pixels, channels] of the middle */
    float *qkv;      /* [pixels, 3 channels] */
    float *attended; /* [pixels, channels] */
    float *moments;  /* encoder: [1, h, w, 2 latent channels] */
    float *deep;     /* encoder in bands: [frames, h, w, channels] from the levels for the middle; kept */
    /* Shared. */
    float *latent; /* [1, h, w, latent channels] */
    float *pixels; /* decoder: [batch, rows of a band, W, 3]; encoder: [scale_t, rows of level 0, W, 3] */
    float
        *features; /* encoder that looks: [rows of a band, width, channels] of the level that hands most on */
};

/* What level `level` of an encoder has handed to the next one in the last call: rows *first to before *end (of the
 * level's whole image; the band's own) of frame `frame` of the chunk, [rows, width, channels], in shared memory until
 * the next call. After ops->wait. */
const float *vae_features(struct vae_stream *stream, struct team *team, int level, int frame, int *first,
                          int *end);

/* ----------------------------------------------------------------------------------------------- blocks */

/* vae_stream_open, vae_stream_fits and vae_stream_bytes (which asks for no limit) with all of them. */
status_t vae_stream_open_within(struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                                const struct vae_limits *limits, struct vae_stream **stream,
                                struct error *error);
status_t vae_stream_fits_within(const struct vae *vae, enum vae_part part, int latent_height,
                                int latent_width, const struct vae_limits *limits, struct error *error);
size_t vae_stream_bytes_within(const struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                               const struct vae_limits *limits);

/* Lays the buffers out anew for that band, empty but for what is kept: before its first latent frame. */
void vae_begin_band(struct vae_stream *stream, struct team *team, int band);

/* A contiguous volume over `data`. */
struct volume volume_of(float *data, int frames, int height, int width, int channels);
/* `count` frames of `volume` from `first` on. */
struct volume volume_frames(const struct volume *volume, int first, int count);
/* The same from `rows` rows further down. */
struct volume volume_below(struct volume volume, int rows);

/* `count` new frames from `first` on, without border and history: for producers. */
struct volume tape_inside(const struct tape *tape, int first, int count);
/* The first tap of output frame `first`: border and history included; sizes are those of the inside. */
struct volume tape_taps(const struct tape *tape, int first);
/* After `frames` new frames were used: the last `history` frames become the history. */
void tape_advance(const struct tape *tape, const struct ops *ops, struct team *team, int frames);

/* One residual block, x -> out; tapes: its two convolutions' inputs. out may be x if the channels do not
 * change. */
void vae_run_resnet(struct vae_stream *stream, struct team *team, const struct vae_resnet *resnet,
                    const struct tape tapes[2], const struct volume *x, const struct volume *out);

/* All residual blocks of a level on the frames of x (in scratch or a level's input); the last one writes
 * `out`. */
void vae_run_resnets(struct vae_stream *stream, struct team *team, const struct vae_level *level,
                     const struct vae_level_buffers *buffers, const struct volume *x,
                     const struct volume *out);

/* resnet, attention, resnet, in place on one frame. */
void vae_run_middle(struct vae_stream *stream, struct team *team, const struct vae_coder *coder,
                    const struct volume *x);

#endif
