/*
 * vae.h - AutoencoderKLWan (2.1): latents -> frames and frames -> latents, one latent frame at a time.
 *
 *     vae_load(dir, &config.vae, ops, team, VAE_DECODER, &vae, &error);
 *     struct vae_stream *s;
 *     vae_stream_open(vae, VAE_DECODER, height / 8, width / 8, limit, &s, &error);   all memory for the whole decode
 *     for (int i = 0; i < vae_pieces(s, latent_frames); i++)
 *         vae_decode(s, team, latents, latent_frames, i, frames, &error);
 *     vae_stream_close(s);
 *
 * Equal to the reference, which also walks latent frames with a cache of the last two input frames of each
 * causal convolution; here the cache is the head of the convolution's own padded input buffer. A stream may
 * be dropped between any two calls. Weights are shared by all streams. Latents and frames are the host's (or
 * shared); a call waits for what it computes.
 *
 * That cache is most of a decoder's memory: two frames of every layer, 15 GB at 1280x720. Where that is more than
 * the limit, the video is decoded in bands of rows, one after another from the first latent frame to the last: each band
 * computes as many rows more, at each level, as its convolutions see beyond its own (the levels before the first
 * doubling excepted, whose attention sees everything and which are small). These rows are computed twice, so the fewest
 * bands that fit are taken; frames have the same bits in any number of bands.
 */
#ifndef REFRAIN_WORKER_MODEL_VAE_H
#define REFRAIN_WORKER_MODEL_VAE_H

#include "kernels/ops.h"
#include "worker/model/config.h"

struct vae;
struct vae_stream;

enum vae_part { VAE_DECODER = 1, VAE_ENCODER = 2 };

/* directory: the component's own ("…/vae"). parts: VAE_DECODER | VAE_ENCODER. */
status_t vae_load(const char *directory, const struct vae_config *config, const struct ops *ops,
                  struct team *team, int parts, struct vae **vae, struct error *error);
void vae_destroy(struct vae *vae); /* NULL is fine */
size_t vae_bytes(const struct vae *vae);
status_t vae_inspect(const char *directory, const struct vae_config *config, struct error *error);

enum { VAE_BAND_ROWS = 2 }; /* of the latent: bands are at least so high, and begin at multiples of it */

/* Sizes in latent pixels. limit: bytes that a decoder may take; 0: no limit. (An encoder takes whole frames here; in
 * bands it must know for how many, vae_layers.h.)
 * STATUS_NO_MEMORY, before anything is allocated, where even the narrowest bands take more. */
status_t vae_stream_open(struct vae *vae, enum vae_part part, int latent_height, int latent_width,
                         size_t limit, struct vae_stream **stream, struct error *error);
void vae_stream_close(struct vae_stream *stream); /* NULL is fine */
/* Would vae_stream_open find its bands? With the same sentence where not; allocates nothing. */
status_t vae_stream_fits(const struct vae *vae, int latent_height, int latent_width, size_t limit,
                         struct error *error);
/* What vae_stream_open without a limit would allocate. */
size_t vae_stream_bytes(const struct vae *vae, enum vae_part part, int latent_height, int latent_width);
/* How many calls of vae_decode or vae_encode make a video or a latent: a latent frame of a band each. */
int vae_pieces(const struct vae_stream *stream, int latent_frames);

/* latents: [latent_channels, latent_frames, h, w] as the denoiser has them (scaling by mean and std happens
 * inside); frames: [F, channels, H, W] in 0..1 (clamped), F = 1 + scale_t * (latent_frames - 1), written at
 * the right place. Call with piece = 0, 1, ... in order: 1 frame of a band for its first latent frame, then scale_t
 * frames for each. */
status_t vae_decode(struct vae_stream *stream, struct team *team, const float *latents, int latent_frames,
                    int piece, float *frames, struct error *error);

/* frames: [F, channels, H, W] in 0..1; the last band's pieces write the latent frames of latents [latent_channels,
 * latent_frames, h, w] one by one: the mean of the posterior, scaled as the denoiser wants it. Call with piece = 0,
 * 1, ... in order. */
status_t vae_encode(struct vae_stream *stream, struct team *team, const float *frames, int latent_frames,
                    int piece, float *latents, struct error *error);

#endif
