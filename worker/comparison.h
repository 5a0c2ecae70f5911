/*
 * comparison.h - two videos side by side, for the eye: comparison.mp4 and comparison.png.
 *
 *     comparison_write(directory, &size, uncached, cached, &error);
 *
 * The film has the reference on the left, the video in the middle, and on the right how much they differ:
 * |difference| of each colour, times COMPARISON_GAIN. The sheet has the same three one above the other, for
 * up to eight frames.
 */
#ifndef REFRAIN_WORKER_COMPARISON_H
#define REFRAIN_WORKER_COMPARISON_H

#include "worker/video.h"

enum { COMPARISON_GAIN = 5 };

/* reference, video: [size->frames, 3, height, width] in 0..1. Existing files are replaced. Any thread. */
status_t comparison_write(const char *directory, const struct video_size *size, const float *reference,
                          const float *video, struct error *error);

#endif
