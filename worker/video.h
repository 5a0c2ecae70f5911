/*
 * video.h - frames into files a person can open: H.264 in MP4, and a contact sheet in PNG. Work done by
 * libav.
 *
 *     video_open("video.mp4", &(struct video_size){17, 64, 64, 16}, &video, &error);
 *     for each frame: video_add(video, frame, &error);       frame [3, height, width] in 0..1
 *     video_close(video, &error);                            writes what is pending; the file is then whole
 *
 * A video belongs to one thread. video_drop() gives one up at any point; its file is then not playable.
 */
#ifndef REFRAIN_WORKER_VIDEO_H
#define REFRAIN_WORKER_VIDEO_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

struct video;

struct video_size {
    int frames, width, height; /* pixels; width and height even */
    int fps;
};

status_t video_open(const char *path, const struct video_size *size, struct video **video,
                    struct error *error);
/* Values outside 0..1 are clamped; rounding is to the nearest of 256 levels. */
status_t video_add(struct video *video, const float *frame, struct error *error);
status_t video_close(struct video *video, struct error *error);
void video_drop(struct video *video); /* NULL is fine */

/* Up to eight frames, evenly spaced from first to last, in rows of four; small videos are enlarged. frames:
 * [size->frames, 3, height, width] in 0..1. */
status_t sheet_write(const char *path, const struct video_size *size, const float *frames,
                     struct error *error);

/* One frame [3, height, width] in 0..1 as a PNG, at most THUMBNAIL_WIDTH wide; small ones are enlarged by a whole number.
 * size->frames and fps do not matter. free(*png). */
enum { THUMBNAIL_WIDTH = 320 };
status_t thumbnail_make(const struct video_size *size, const float *frame, uint8_t **png, size_t *bytes,
                        struct error *error);

#endif
