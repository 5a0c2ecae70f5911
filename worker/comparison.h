/*
 * comparison.h - two videos side by side, for the eye: comparison.mp4 and comparison.png.
 *
 *     comparison_open(directory, &size, uncached, cached, &comparison, &error);
 *     do comparison_step(comparison, &done, &error); while (!done);         some frames a call
 *     comparison_drop(comparison);
 * or all of it at once:
 *     comparison_write(directory, &size, uncached, cached, &error);
 *
 * The film has the reference on the left, the video in the middle, and on the right how much they differ:
 * |difference| of each colour, times COMPARISON_GAIN. The sheet has the same three one above the other, for
 * up to eight frames.
 */
#ifndef REFRAIN_WORKER_COMPARISON_H
#define REFRAIN_WORKER_COMPARISON_H

#include <stdbool.h>

#include "worker/video.h"

enum { COMPARISON_GAIN = 5 };

struct comparison;

/* reference, video: [size->frames, 3, height, width] in 0..1, borrowed until comparison_drop. Existing files
 * are replaced. Any thread, one at a time. */
status_t comparison_open(const char *directory, const struct video_size *size, const float *reference,
                         const float *video, struct comparison **comparison, struct error *error);
/* Encodes a frame of the film; with the last one, writes the sheet. *done: that was it, both files are whole.
 */
status_t comparison_step(struct comparison *comparison, bool *done, struct error *error);
void comparison_drop(struct comparison *comparison); /* at any point; NULL is fine */

status_t comparison_write(const char *directory, const struct video_size *size, const float *reference,
                          const float *video, struct error *error);

#endif
