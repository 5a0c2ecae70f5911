/* copy.c - copies and fills. Each end must be what the direction says, and lie inside its allocation.
 *
 * Pageable host memory makes a copy synchronous, or staged, as on a GPU: a source is copied away before the
 * call returns, a target is complete when it returns. A lint forbids it. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct copy {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
    void *staged; /* freed after the copy */
};

static void run_copy(void *data)
{
    const struct copy *c = data;
    for (size_t row = 0; row < c->height; row++)
        memmove(c->to + row * c->to_pitch, c->from + row * c->from_pitch, c->width);
}

static void drop_copy(void *data)
{
    free(((struct copy *)data)->staged);
}

static size_t extent(size_t pitch, size_t width, size_t height)
{
    return height ? (height - 1) * pitch + width : 0;
}

/* One end of a copy. `device`, `host`: what the direction allows. */
static cudaError_t check_end(const char *call, const char *which, const void *pointer, size_t bytes,
                             bool device, bool host, enum place *place)
{
    int of;
    if (!memory_place(pointer, bytes, place, &of))
        return refuse(cudaErrorInvalidValue, call, "the %s leaves its allocation (%p, %zu bytes)", which,
                      pointer, bytes);
    if (*place == PLACE_DEVICE ? !device : !host)
        return refuse(cudaErrorInvalidValue, call, "the %s %p is %s memory, the direction says otherwise",
                      which, pointer, *place == PLACE_DEVICE ? "device" : "host");
    return cudaSuccess;
}

static cudaError_t stage(struct copy *copy)
{
    size_t bytes = extent(copy->from_pitch, copy->width, copy->height);
    copy->staged = malloc(bytes);
    if (!copy->staged) return failed(cudaErrorMemoryAllocation);
    memcpy(copy->staged, copy->from, bytes);
    copy->from = copy->staged;
    return cudaSuccess;
}

static cudaError_t submit(const char *call, struct copy copy, enum cudaMemcpyKind kind, cudaStream_t stream,
                          bool wait)
{
    enum place to, from;
    bool any = kind == cudaMemcpyDefault;
    if (copy.width > copy.to_pitch || copy.width > copy.from_pitch) return failed(cudaErrorInvalidValue);
    if ((unsigned)kind > cudaMemcpyDefault) return failed(cudaErrorInvalidMemcpyDirection);
    if (!copy.width || !copy.height) return cudaSuccess;
    cudaError_t error = check_end(call, "target", copy.to, extent(copy.to_pitch, copy.width, copy.height),
                                  any || kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice,
                                  any || kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost, &to);
    if (!error)
        error = check_end(call, "source", copy.from, extent(copy.from_pitch, copy.width, copy.height),
                          any || kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice,
                          any || kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost, &from);
    if (error) return error;
    if (!wait && (to == PLACE_PAGEABLE || from == PLACE_PAGEABLE)) {
        if (world()->lints & LINT_PAGEABLE) {
            fprintf(stderr, "fakegpu: %s with pageable memory is not asynchronous\n", call);
            abort();
        }
        error = capture_forbids(stream, call);
        if (!error && from == PLACE_PAGEABLE) error = stage(&copy);
        wait = to == PLACE_PAGEABLE;
    }
    if (error) return error;
    struct task *task = task_new(TASK_COPY, call, run_copy, &copy, sizeof copy);
    if (task) task->drop = drop_copy;
    error = stream_submit(stream, task);
    if (error || !wait) return error;
    stream_drain(stream);
    return failed(device_lost());
}

static struct copy flat(void *to, const void *from, size_t bytes)
{
    return (struct copy){to, from, bytes, bytes, bytes, 1, NULL};
}

EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMemcpyAsync", cudaErrorInvalidValue);
    return error ? error : submit("cudaMemcpyAsync", flat(to, from, bytes), kind, stream, false);
}

EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t error = call_begin("cudaMemcpy", cudaErrorInvalidValue);
    if (!error) error = capture_forbids_anywhere("cudaMemcpy");
    return error ? error : submit("cudaMemcpy", flat(to, from, bytes), kind, NULL, true);
}

EXPORT cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                     size_t width, size_t height, enum cudaMemcpyKind kind,
                                     cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMemcpy2DAsync", cudaErrorInvalidValue);
    struct copy copy = {to, from, to_pitch, from_pitch, width, height, NULL};
    return error ? error : submit("cudaMemcpy2DAsync", copy, kind, stream, false);
}

EXPORT cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                                size_t height, enum cudaMemcpyKind kind)
{
    cudaError_t error = call_begin("cudaMemcpy2D", cudaErrorInvalidValue);
    if (!error) error = capture_forbids_anywhere("cudaMemcpy2D");
    struct copy copy = {to, from, to_pitch, from_pitch, width, height, NULL};
    return error ? error : submit("cudaMemcpy2D", copy, kind, NULL, true);
}

EXPORT cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                       size_t bytes, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMemcpyPeerAsync", cudaErrorInvalidValue);
    (void)to_device, (void)from_device;
    return error ? error
                 : submit("cudaMemcpyPeerAsync", flat(to, from, bytes), cudaMemcpyDeviceToDevice, stream,
                          false);
}

/* --- fills ---------------------------------------------------------------------------------------------- */

struct fill {
    char *to;
    int value;
    size_t pitch, width, height;
};

static void run_fill(void *data)
{
    const struct fill *f = data;
    for (size_t row = 0; row < f->height; row++) memset(f->to + row * f->pitch, f->value, f->width);
}

static cudaError_t submit_fill(const char *call, struct fill fill, cudaStream_t stream)
{
    enum place place;
    if (fill.width > fill.pitch) return failed(cudaErrorInvalidValue);
    if (!fill.width || !fill.height) return cudaSuccess;
    size_t bytes = extent(fill.pitch, fill.width, fill.height);
    cudaError_t error = check_end(call, "target", fill.to, bytes, true, false, &place);
    return error ? error : stream_submit(stream, task_new(TASK_FILL, call, run_fill, &fill, sizeof fill));
}

EXPORT cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMemsetAsync", cudaErrorInvalidValue);
    return error ? error : submit_fill("cudaMemsetAsync", (struct fill){to, value, bytes, bytes, 1}, stream);
}

EXPORT cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    cudaError_t error = call_begin("cudaMemset", cudaErrorInvalidValue);
    if (!error) error = capture_forbids_anywhere("cudaMemset");
    return error ? error : submit_fill("cudaMemset", (struct fill){to, value, bytes, bytes, 1}, NULL);
}

EXPORT cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height,
                                     cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaMemset2DAsync", cudaErrorInvalidValue);
    return error ? error
                 : submit_fill("cudaMemset2DAsync", (struct fill){to, value, pitch, width, height}, stream);
}
