/*
 * video.c - worker/video.h without libav: the files hold what was shown, so that they differ when the frames do.
 *
 * Links in place of worker/video.o: a thousand short films would cost a simulation more than all its blocks. One
 * thread.
 */
#include "worker/video.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/costs.h"

struct video {
    FILE *file;
    struct video_size size;
};

status_t video_open(const char *path, const struct video_size *size, struct video **video,
                    struct error *error)
{
    struct video *v = calloc(1, sizeof *v);
    if (!v || !(v->file = fopen(path, "wb"))) {
        free(v);
        return error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    }
    v->size = *size;
    *video = v;
    return STATUS_OK;
}

/* The mean of every colour is enough to tell frames apart. */
status_t video_add(struct video *v, const float *frame, struct error *error)
{
    costs_charge_film();
    int pixels = v->size.width * v->size.height;
    for (int colour = 0; colour < 3; colour++) {
        double mean = 0;
        for (int i = 0; i < pixels; i++) mean += frame[colour * pixels + i] / pixels;
        fprintf(v->file, "%a\n", mean);
    }
    return STATUS_OK;
}

status_t video_close(struct video *v, struct error *error)
{
    status_t status = fclose(v->file) == 0 ? STATUS_OK : error_set(error, STATUS_IO, "video: %m");
    free(v);
    return status;
}

void video_drop(struct video *v)
{
    if (!v) return;
    fclose(v->file);
    free(v);
}

status_t sheet_write(const char *path, const struct video_size *size, const float *frames,
                     struct error *error)
{
    FILE *file = fopen(path, "wb");
    if (!file) return error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    fprintf(file, "%d %d %d\n", size->frames, size->width, size->height);
    return fclose(file) == 0 ? STATUS_OK : error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
}

status_t thumbnail_make(const struct video_size *size, const float *frame, uint8_t **png, size_t *bytes,
                        struct error *error)
{
    static const uint8_t signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0};
    if (!(*png = malloc(sizeof signature))) return error_set(error, STATUS_NO_MEMORY, "no memory");
    memcpy(*png, signature, sizeof signature);
    *bytes = sizeof signature;
    return STATUS_OK;
}
