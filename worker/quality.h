/*
 * quality.h - how close one video is to another: PSNR, SSIM and a perceptual distance.
 *
 *     quality_open(vae, &(struct video_size){17, 64, 64, 16}, reference, video, limit, &run, &error);
 *     do quality_step(run, team, &done, &quality, &error); while (!done);   a latent frame (of a band) a call: work
 *                                                                           of others fits between
 *     quality_close(run);
 *
 * PSNR and SSIM are those of the pictures a person gets: values are clamped and rounded to 256 levels as
 * worker/video.h does. SSIM is Wang et al. 2004 as scikit-image computes it with gaussian_weights=True,
 * sigma=1.5, use_sample_covariance=False, data_range=255, channel by channel: an 11 x 11 window that stays
 * inside the frame, K1 0.01, K2 0.03. The perceptual distance is worker/model/vae_distance.h's.
 *
 * Both videos are borrowed until quality_close. Results do not depend on the number of threads.
 */
#ifndef REFRAIN_WORKER_QUALITY_H
#define REFRAIN_WORKER_QUALITY_H

#include <stdbool.h>
#include "worker/model/vae.h"
#include "worker/video.h"

struct quality {
    double psnr;       /* dB, over all pixels of all frames; INFINITY: not one pixel differs */
    double psnr_worst; /* dB, of the frame that differs most */
    double ssim; /* 1: identical; mean over frames. NAN: a side is shorter than the window's 11 pixels */
    double perceptual; /* 0: identical; NAN: measured without a VAE */
};

struct quality_run;

/* vae: holds its encoder, and the sizes are those it makes (STATUS_INVALID otherwise); NULL: no perceptual
 * distance. reference, video: [size->frames, 3, height, width]. limit: bytes of the encoders (vae_distance_open). */
status_t quality_open(struct vae *vae, const struct video_size *size, const float *reference,
                      const float *video, size_t limit, struct quality_run **run, struct error *error);
void quality_close(struct quality_run *run); /* NULL is fine */

/* Measures a piece: the frames of one latent frame (without a VAE: one frame), and the encoders' rows of one band.
 * *done: it was the last; *quality is written then. */
status_t quality_step(struct quality_run *run, struct team *team, bool *done, struct quality *quality,
                      struct error *error);
/* How many steps there are. */
int quality_steps(const struct quality_run *run);

/* All of it at once. reference, video: [frames, 3, height, width]. */
status_t quality_measure(struct vae *vae, struct team *team, const float *reference, const float *video,
                         int frames, int height, int width, struct quality *quality, struct error *error);

#endif
