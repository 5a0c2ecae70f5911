/* upload.c - see upload.h. */
#include "kernels/cuda/upload.h"

#include <pthread.h>
#include <string.h>
#include "kernels/cuda/lane.h"
#include "kernels/weights.h"

static struct {
    pthread_mutex_t mutex;
    int users;
    struct lane *lane;
} upload = {.mutex = PTHREAD_MUTEX_INITIALIZER};

status_t upload_open(struct error *error)
{
    status_t status = STATUS_OK;
    pthread_mutex_lock(&upload.mutex);
    if (upload.users == 0) status = lane_open(false, &upload.lane, error);
    if (status == STATUS_OK) upload.users++;
    pthread_mutex_unlock(&upload.mutex);
    return status;
}

void upload_close(void)
{
    pthread_mutex_lock(&upload.mutex);
    if (--upload.users == 0) {
        lane_close(upload.lane);
        upload.lane = NULL;
    }
    pthread_mutex_unlock(&upload.mutex);
}

status_t upload_zero(void *memory, size_t bytes, struct error *error)
{
    pthread_mutex_lock(&upload.mutex);
    lane_zero(upload.lane, memory, bytes);
    status_t status = lane_wait(upload.lane, error);
    pthread_mutex_unlock(&upload.mutex);
    return status;
}

status_t upload_copy(void *to, const void *from, size_t bytes, struct error *error)
{
    const size_t most = (size_t)LANE_STAGES * LANE_STAGE_BYTES;
    status_t status = STATUS_OK;
    for (size_t at = 0; at < bytes && status == STATUS_OK; at += most) {
        pthread_mutex_lock(&upload.mutex);
        lane_copy(upload.lane, (char *)to + at, (const char *)from + at,
                  bytes - at < most ? bytes - at : most);
        status = lane_wait(upload.lane, error);
        pthread_mutex_unlock(&upload.mutex);
    }
    return status;
}

/* `count` elements of w, from element `at` on. */
static void convert(const struct matrix *w, int64_t at, int64_t count, dtype_t dtype, char *to)
{
    size_t width = dtype_bytes(dtype);
    if (w->dtype == dtype) {
        memcpy(to, (const char *)w->data + (size_t)at * width, (size_t)count * width);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float value = weights_get(w->data, w->dtype, at + i);
        uint16_t brain = bf16_from_float(value);
        memcpy(to + (size_t)i * width, dtype == DTYPE_F32 ? (const void *)&value : (const void *)&brain,
               width);
    }
}

/* Elements [begin, end) of the padded matrix. */
static void fill(const struct matrix *w, int64_t padded, dtype_t dtype, int64_t begin, int64_t end, char *to)
{
    size_t width = dtype_bytes(dtype);
    while (begin < end) {
        int64_t row = begin / padded, column = begin % padded, count = padded - column;
        if (count > end - begin) count = end - begin;
        int64_t real = w->columns - column < 0       ? 0
                       : w->columns - column < count ? w->columns - column
                                                     : count;
        if (padded == w->columns) real = count = end - begin; /* rows follow one another */
        convert(w, row * w->columns + column, real, dtype, to);
        memset(to + (size_t)real * width, 0, (size_t)(count - real) * width);
        to += (size_t)count * width;
        begin += count;
    }
}

status_t upload_weights(const struct matrix *w, int64_t padded, dtype_t dtype, void *to, struct error *error)
{
    size_t width = dtype_bytes(dtype);
    int64_t total = w->rows * padded, step = LANE_STAGE_BYTES / (int64_t)width;
    pthread_mutex_lock(&upload.mutex);
    for (int64_t begin = 0; begin < total && lane_begin(upload.lane, "loading weights"); begin += step) {
        int64_t end = begin + step < total ? begin + step : total;
        struct lane_stage *stage = lane_stage_take(upload.lane);
        if (!stage) break;
        fill(w, padded, dtype, begin, end, stage->memory);
        lane_stage_send(upload.lane, stage, (char *)to + (size_t)begin * width,
                        (size_t)(end - begin) * width);
    }
    status_t status = lane_wait(upload.lane, error);
    pthread_mutex_unlock(&upload.mutex);
    return status;
}
