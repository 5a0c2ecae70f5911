/*
 * vae_distance.h - how different two videos look to the VAE's encoder: a perceptual distance that needs no
 * weights but the model's own.
 *
 *     vae_distance_open(vae, height / 8, width / 8, latent_frames, limit, &distance, &error);  vae holds its encoder
 *     for (int i = 0; i < vae_distance_pieces(distance); i++) vae_distance_step(distance, team, a, b, i, &error);
 *     double d = vae_distance_mean(distance);                                           0: the same
 *     vae_distance_close(distance);
 *
 * What is measured. Both videos are encoded. Features are what each level of the encoder hands to the next
 * (after its resampling, so at 1/2, 1/4 and 1/8 of the size, fewer frames where it resamples time) and the
 * normalised latent. As in LPIPS (Zhang et al. 2018, arXiv:1801.03924), a position's feature vector is
 * brought to length one over its channels, and the squared distance of the two vectors is averaged over
 * positions and frames; unlike there, channels have no learned weights, and levels count alike. Each level is
 * between 0 and 4, and so is their mean. Symmetric. Values of different models cannot be compared.
 *
 * One thread at a time, and a team. The encoder's convolutions dominate: two encodings. Within a limit they take bands of
 * rows, as decoding does (vae.h); what each band hands its middle is kept until the last one.
 */
#ifndef REFRAIN_WORKER_MODEL_VAE_DISTANCE_H
#define REFRAIN_WORKER_MODEL_VAE_DISTANCE_H

#include "worker/model/vae.h"

struct vae_distance;

/* Sizes in latent pixels and frames; limit: bytes of both encoders, 0: none. STATUS_CONFLICT if the VAE was loaded
 * without its encoder; STATUS_NO_MEMORY, before anything is allocated, where even the narrowest bands take more. */
status_t vae_distance_open(struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           size_t limit, struct vae_distance **distance, struct error *error);
void vae_distance_close(struct vae_distance *distance); /* NULL is fine */
/* Would vae_distance_open find its bands? With the same sentence where not; allocates nothing. */
status_t vae_distance_fits(const struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           size_t limit, struct error *error);
/* What both encoders would take without a limit. */
size_t vae_distance_bytes(const struct vae *vae, int latent_height, int latent_width, int latent_frames);

/* How many calls of vae_distance_step there are: a latent frame of a band each. */
int vae_distance_pieces(const struct vae_distance *distance);
/* piece = 0, 1, ... in order; a, b: all frames [F, channels, H, W] in 0..1, F = 1 + scale_t * (latent_frames - 1). */
status_t vae_distance_step(struct vae_distance *distance, struct team *team, const float *a, const float *b,
                           int piece, struct error *error);

/* After the last piece. The result depends neither on the number of threads nor on bands. */
double vae_distance_mean(const struct vae_distance *distance);

#endif
