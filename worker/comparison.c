/*
 * comparison.c - see comparison.h.
 */
#include "worker/comparison.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, CHANNELS = 3, SHEET_FRAMES = 8 };

static const int64_t PANES = 3;

struct comparison {
    struct video_size size; /* of each video */
    const float *reference, *video;
    char directory[PATH_BYTES - 32];
    struct video *film; /* NULL once it is whole */
    float *frame;       /* [3, height, 3 width] */
    int64_t frame_floats;
    int64_t next; /* frame */
};

/* One row of the three panes: what was made without, what was made with caching, what differs. width floats
 * each, `pane` floats apart. */
static void write_row(const float *reference, const float *video, int width, int64_t pane, float *to)
{
    memcpy(to, reference, (size_t)width * sizeof *to);
    memcpy(to + pane, video, (size_t)width * sizeof *to);
    for (int x = 0; x < width; x++) to[2 * pane + x] = COMPARISON_GAIN * fabsf(reference[x] - video[x]);
}

/* One frame's panes side by side, to [3, height, 3 width]; or one above the other, to [3, 3 height, width].
 */
static void write_panes(const struct video_size *size, const float *reference, const float *video,
                        bool beside, float *to)
{
    int64_t width = size->width, height = size->height, plane = width * height;
    for (int c = 0; c < CHANNELS; c++)
        for (int64_t y = 0; y < height; y++)
            write_row(reference + c * plane + y * width, video + c * plane + y * width, size->width,
                      beside ? width : plane, to + PANES * c * plane + y * width * (beside ? PANES : 1));
}

/* The frames worker/video.h would choose; only those are put together. */
static status_t write_sheet(const char *path, const struct video_size *size, const float *reference,
                            const float *video, struct error *error)
{
    int count = size->frames < SHEET_FRAMES ? size->frames : SHEET_FRAMES;
    int64_t frame_floats = (int64_t)CHANNELS * size->height * size->width;
    struct video_size high = {count, size->width, (int)PANES * size->height, size->fps};
    float *frames = malloc((size_t)(PANES * count * frame_floats) * sizeof *frames);
    if (!frames) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %d frames", path, count);
    for (int64_t i = 0; i < count; i++) {
        int64_t source = count == 1 ? 0 : i * (size->frames - 1) / (count - 1);
        write_panes(size, reference + source * frame_floats, video + source * frame_floats, false,
                    frames + i * PANES * frame_floats);
    }
    status_t status = sheet_write(path, &high, frames, error);
    free(frames);
    return status;
}

status_t comparison_open(const char *directory, const struct video_size *size, const float *reference,
                         const float *video, struct comparison **comparison, struct error *error)
{
    char path[PATH_BYTES];
    struct comparison *c = calloc(1, sizeof *c);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for a comparison", directory);
    struct video_size wide = {size->frames, (int)PANES * size->width, size->height, size->fps};
    c->size = *size;
    c->reference = reference;
    c->video = video;
    c->frame_floats = (int64_t)CHANNELS * size->height * size->width;
    snprintf(c->directory, sizeof c->directory, "%s", directory);
    snprintf(path, sizeof path, "%s/comparison.mp4", directory);
    c->frame = malloc((size_t)(PANES * c->frame_floats) * sizeof *c->frame);
    status_t status = c->frame ? video_open(path, &wide, &c->film, error)
                               : error_set(error, STATUS_NO_MEMORY, "%s: no memory for a frame", path);
    if (status != STATUS_OK) {
        comparison_drop(c);
        return status;
    }
    *comparison = c;
    return STATUS_OK;
}

static status_t finish(struct comparison *c, struct error *error)
{
    char path[PATH_BYTES];
    struct video *film = c->film;
    c->film = NULL;
    status_t status = video_close(film, error);
    if (status != STATUS_OK) return status;
    snprintf(path, sizeof path, "%s/comparison.png", c->directory);
    return write_sheet(path, &c->size, c->reference, c->video, error);
}

status_t comparison_step(struct comparison *c, bool *done, struct error *error)
{
    int64_t at = c->next++ * c->frame_floats;
    write_panes(&c->size, c->reference + at, c->video + at, true, c->frame);
    status_t status = video_add(c->film, c->frame, error);
    *done = status == STATUS_OK && c->next == c->size.frames;
    return *done ? finish(c, error) : status;
}

void comparison_drop(struct comparison *c)
{
    if (!c) return;
    video_drop(c->film);
    free(c->frame);
    free(c);
}

status_t comparison_write(const char *directory, const struct video_size *size, const float *reference,
                          const float *video, struct error *error)
{
    struct comparison *c;
    bool done = false;
    status_t status = comparison_open(directory, size, reference, video, &c, error);
    if (status != STATUS_OK) return status;
    while (status == STATUS_OK && !done) status = comparison_step(c, &done, error);
    comparison_drop(c);
    return status;
}
