/*
 * vae_distance.h - how different two videos look to the VAE's encoder: a perceptual distance that needs no
 * weights but the model's own.
 *
 *     vae_distance_open(vae, height / 8, width / 8, latent_frames, &distance, &error);  vae holds its encoder
 *     for (int t = 0; t < latent_frames; t++) vae_distance_step(distance, team, a, b, t, &error);
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
 * One thread at a time, and a team. The encoder's convolutions dominate: two encodings.
 */
#ifndef REFRAIN_WORKER_MODEL_VAE_DISTANCE_H
#define REFRAIN_WORKER_MODEL_VAE_DISTANCE_H

#include "worker/model/vae.h"

struct vae_distance;

/* Sizes in latent pixels and frames. STATUS_CONFLICT if the VAE was loaded without its encoder. */
status_t vae_distance_open(struct vae *vae, int latent_height, int latent_width, int latent_frames,
                           struct vae_distance **distance, struct error *error);
void vae_distance_close(struct vae_distance *distance); /* NULL is fine */
/* What vae_distance_open would allocate, about. */
size_t vae_distance_bytes(const struct vae *vae, int latent_height, int latent_width, int latent_frames);

/* Latent frame t = 0, 1, ... in order; a, b: all frames [F, channels, H, W] in 0..1, F = 1 + scale_t *
 * (latent_frames - 1). */
status_t vae_distance_step(struct vae_distance *distance, struct team *team, const float *a, const float *b,
                           int t, struct error *error);

/* Of the steps so far. The result does not depend on the number of threads. */
double vae_distance_mean(const struct vae_distance *distance);

#endif
