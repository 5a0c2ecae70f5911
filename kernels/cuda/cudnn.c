/* cudnn.c - see cudnn.h. */
#include "kernels/cuda/cudnn.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "kernels/cuda/cudnn_plan.h"

/* With emulated kernels another name, so that a cuDNN of the machine never meets an emulated stream. */
#ifndef CUDNN_LIBRARY
#define CUDNN_LIBRARY CUDNN_SONAME
#endif

/* More shapes than this and the oldest is planned anew. */
enum { MOST_SHAPES = 256, HOPPER = 90, WIDEST_HEAD = 128 };

struct shape_plan {
    struct attention_shape shape;
    struct cudnn_plan *plan; /* NULL: refused */
};

struct cudnn {
    enum { CUDNN_UNLOADED, CUDNN_LOADED, CUDNN_UNUSABLE } state;
    bool forced;
    struct cudnn_library library;
    cudnnHandle_t handle;
    struct shape_plan shapes[MOST_SHAPES];
    int count, next; /* next: to be replaced */
};

/* ------------------------------------------------------------------------------------------------ opening, closing */

status_t cudnn_open(struct cudnn **result, struct error *error)
{
    const char *wish = getenv("REFRAIN_ATTENTION");
    bool automatic = !wish || !*wish || strcmp(wish, "auto") == 0;
    struct device_identity device;
    if (!automatic && strcmp(wish, "own") != 0 && strcmp(wish, "cudnn") != 0)
        return error_set(error, STATUS_INVALID, "REFRAIN_ATTENTION=%s: must be own, cudnn or auto", wish);
    device_describe(&device);
    *result = NULL;
    if (automatic ? device.capability < HOPPER : strcmp(wish, "own") == 0) return STATUS_OK;
    struct cudnn *cudnn = calloc(1, sizeof *cudnn);
    if (!cudnn) return error_set(error, STATUS_NO_MEMORY, "no memory for plans of attention");
    cudnn->forced = !automatic;
    *result = cudnn;
    return STATUS_OK;
}

void cudnn_close(struct cudnn *cudnn)
{
    if (!cudnn) return;
    for (int i = 0; i < cudnn->count; i++) cudnn_plan_destroy(&cudnn->library, cudnn->shapes[i].plan);
    /* it waits for the device, which after a failure could be for ever */
    if (cudnn->handle && device_status(NULL) == STATUS_OK) cudnn->library.destroy(cudnn->handle);
    free(cudnn);
}

/* Our own kernel will do; or, where cuDNN was demanded, nothing will. */
static void decline(const struct cudnn *cudnn, const char *subject, const struct error *why)
{
    if (cudnn->forced)
        device_fail(why->status, "attention%s: %s (REFRAIN_ATTENTION=cudnn)", subject, why->text);
    else
        log_line(LOG_WARN,
                 "attention%s is computed by our own kernel, slower on this GPU than cuDNN's would be: %s",
                 subject, why->text);
}

/* Loads the library and takes a handle, once. */
static bool loaded(struct cudnn *cudnn, void *stream)
{
    static atomic_flag told = ATOMIC_FLAG_INIT; /* the reason is that of the machine: one line a process */
    struct error error;
    if (cudnn->state != CUDNN_UNLOADED) return cudnn->state == CUDNN_LOADED;
    cudnn->state = CUDNN_UNUSABLE;
    status_t status = cudnn_library_load(CUDNN_LIBRARY, &cudnn->library, &error);
    if (status == STATUS_OK) {
        cudnnStatus_t code = cudnn->library.create(&cudnn->handle);
        if (code != CUDNN_STATUS_SUCCESS)
            status = cudnn_library_refused(&cudnn->library, "to start", code, &error);
        else if ((code = cudnn->library.set_stream(cudnn->handle, stream)) != CUDNN_STATUS_SUCCESS)
            status = cudnn_library_refused(&cudnn->library, "a stream", code, &error);
    }
    if (status == STATUS_OK)
        cudnn->state = CUDNN_LOADED;
    else if (cudnn->forced || !atomic_flag_test_and_set(&told))
        decline(cudnn, "", &error);
    return status == STATUS_OK;
}

int cudnn_version(struct cudnn *cudnn, void *stream)
{
    return cudnn && loaded(cudnn, stream) ? cudnn->library.version : 0;
}

/* ---------------------------------------------------------------------------------------------------------- shapes */

static bool in_chunks(const void *data, int64_t stride)
{
    return (uintptr_t)data % CUDNN_ALIGNMENT == 0 && stride * 2 % CUDNN_ALIGNMENT == 0;
}

static bool suits(const struct attention *a)
{
    return a->dtype == DTYPE_BF16 && !a->bias && a->last_logit == 0 && a->q_rows > 0 && a->kv_rows > 0 &&
           a->head_dim % 8 == 0 && a->head_dim <= WIDEST_HEAD && in_chunks(a->q, a->q_stride) &&
           in_chunks(a->k, a->k_stride) && in_chunks(a->v, a->v_stride) && in_chunks(a->out, a->out_stride);
}

static struct shape_plan *add_shape(struct cudnn *cudnn)
{
    if (cudnn->count < MOST_SHAPES) return &cudnn->shapes[cudnn->count++];
    struct shape_plan *oldest = &cudnn->shapes[cudnn->next];
    cudnn->next = (cudnn->next + 1) % MOST_SHAPES;
    cudnn_plan_destroy(&cudnn->library, oldest->plan);
    return oldest;
}

static struct cudnn_plan *plan_shape(struct cudnn *cudnn, const struct attention_shape *shape,
                                     size_t workspace_bytes)
{
    struct error error;
    struct shape_plan *made = add_shape(cudnn);
    *made = (struct shape_plan){.shape = *shape};
    char subject[128];
    snprintf(subject, sizeof subject, " of %d rows to %d, %d heads of %d", shape->q_rows, shape->kv_rows,
             shape->heads, shape->head_dim);
    if (cudnn_plan_make(&cudnn->library, &(struct cudnn_target){.handle = cudnn->handle}, shape,
                        workspace_bytes, &made->plan, &error) != STATUS_OK) {
        decline(cudnn, subject, &error);
        return NULL;
    }
    struct cudnn_choice choice = cudnn_plan_choice(made->plan);
    log_line(LOG_DEBUG, "attention%s: engine %ld of cuDNN %d.%d.%d, %ld bytes of workspace", subject,
             (long)choice.engine, cudnn->library.version / 10000, cudnn->library.version / 100 % 100,
             cudnn->library.version % 100, (long)choice.workspace_bytes);
    return made->plan;
}

/* The shape's plan; NULL where cuDNN is not to compute it. */
static struct cudnn_plan *find(struct lane *lane, const struct attention *a)
{
    struct cudnn *cudnn = lane->cudnn;
    const struct attention_shape shape = {a->q_stride, a->k_stride, a->v_stride, a->out_stride,
                                          a->q_rows,   a->kv_rows,  a->heads,    a->head_dim};
    for (int i = 0; i < cudnn->count; i++)
        if (memcmp(&cudnn->shapes[i].shape, &shape, sizeof shape) == 0) return cudnn->shapes[i].plan;
    if (cudnn->state == CUDNN_UNUSABLE) return NULL;
    /* Loading code is forbidden while ops are recorded, unless the thread says that it knows what it does: none
     * of this is work of the stream. */
    struct cudnn_plan *plan = NULL;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    if (!device_try("attention", cudaThreadExchangeStreamCaptureMode(&mode))) return NULL;
    if (loaded(cudnn, lane->stream)) plan = plan_shape(cudnn, &shape, LANE_CUBLAS_BYTES + lane->piece_bytes);
    device_try("attention", cudaThreadExchangeStreamCaptureMode(&mode));
    return plan;
}

bool cudnn_attention(struct lane *lane, const struct attention *a)
{
    struct error error;
    if (!lane->cudnn || !suits(a)) return false;
    const struct cudnn_plan *plan = find(lane, a);
    if (!plan) return !device_try("attention", cudaSuccess);
    if (cudnn_plan_run(&lane->cudnn->library, lane->cudnn->handle, plan, a, lane->workspace, &error) !=
        STATUS_OK)
        device_fail(STATUS_IO, "attention: %s; this rank has to be started again", error.text);
    return true;
}

/* FNV-1a */
static uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t count)
{
    for (const unsigned char *at = bytes; count--; at++) hash = (hash ^ *at) * UINT64_C(0x100000001b3);
    return hash;
}

struct cudnn_choices cudnn_choices(const struct cudnn *cudnn)
{
    struct cudnn_choices choices = {0};
    if (!cudnn || cudnn->state != CUDNN_LOADED) return choices;
    choices.version = cudnn->library.version;
    for (int i = 0; i < cudnn->count; i++) {
        const struct shape_plan *s = &cudnn->shapes[i];
        struct cudnn_choice choice = s->plan ? cudnn_plan_choice(s->plan) : (struct cudnn_choice){-1, -1};
        choices.planned += s->plan != NULL;
        choices.refused += s->plan == NULL;
        uint64_t hash = mix_bytes(UINT64_C(0xcbf29ce484222325), &s->shape, sizeof s->shape);
        hash = mix_bytes(hash, &choices.version, sizeof choices.version);
        choices.fingerprint ^= mix_bytes(hash, &choice, sizeof choice);
    }
    return choices;
}
