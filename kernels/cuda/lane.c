/* lane.c - see lane.h. */
#include "kernels/cuda/lane.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/passes.h"

enum { WAIT_SECONDS = 600 };

struct stretch {
    cudaGraphExec_t exec;
};

/* ------------------------------------------------------------------------------------------------ opening, closing */

/* A setting of the environment, a whole number from `least` up; `standard` where it is not set. */
static status_t setting(const char *name, long least, long most, long standard, long *value,
                        struct error *error)
{
    const char *text = getenv(name);
    char *end;
    *value = standard;
    if (!text || !*text) return STATUS_OK;
    *value = strtol(text, &end, 10);
    if (*end || *value < least || *value > most)
        return error_set(error, STATUS_INVALID, "%s=%s: must be a number from %ld to %ld", name, text, least,
                         most);
    return STATUS_OK;
}

static status_t open_stages(struct lane *lane, struct error *error)
{
    for (int i = 0; i < LANE_STAGES; i++) {
        struct lane_stage *stage = &lane->stages[i];
        void *memory;
        status_t status = device_allocate(MEMORY_SHARED, LANE_STAGE_BYTES, &memory, error);
        if (status != STATUS_OK) return status;
        stage->memory = memory;
        cudaEvent_t event;
        if (!device_try("opening", cudaEventCreateWithFlags(&event, cudaEventDisableTiming)))
            return device_status(error);
        stage->event = event;
    }
    return STATUS_OK;
}

static status_t open_workspace(struct lane *lane, struct error *error)
{
    long megabytes;
    void *memory;
    status_t status = setting("REFRAIN_GPU_WORKSPACE_MB", 1, 65536, LANE_PIECE_MEGABYTES, &megabytes, error);
    if (status != STATUS_OK) return status;
    lane->piece_bytes = (size_t)megabytes << 20;
    status = device_allocate(MEMORY_DEVICE, LANE_CUBLAS_BYTES + lane->piece_bytes, &memory, error);
    if (status != STATUS_OK) return status;
    lane->workspace = memory;
    lane->pieces = lane->workspace + LANE_CUBLAS_BYTES;
    status = linear_plans_create(&lane->plans, error);
    return status == STATUS_OK ? cudnn_open(&lane->cudnn, error) : status;
}

status_t lane_open(bool with_workspace, struct lane **result, struct error *error)
{
    long seconds;
    cudaStream_t stream;
    cudaEvent_t done;
    status_t status = device_open(error);
    if (status != STATUS_OK) return status;
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane) {
        device_close();
        return error_set(error, STATUS_NO_MEMORY, "no memory to use the GPU");
    }
    lane->last_op = "opening";
    status = setting("REFRAIN_GPU_WAIT", 1, 1000000, WAIT_SECONDS, &seconds, error);
    if (status != STATUS_OK) goto fail;
    lane->wait_ns = seconds * SECOND_NS;
    /* Not the default stream, nor one that waits for it: transfers of the fabric have streams of their own. */
    if (!device_try("opening", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) goto fail_device;
    lane->stream = stream;
    if (!device_try("opening", cudaEventCreateWithFlags(&done, cudaEventDisableTiming))) goto fail_device;
    lane->done = done;
    status = open_stages(lane, error);
    if (status == STATUS_OK && with_workspace) status = open_workspace(lane, error);
    if (status != STATUS_OK) goto fail;
    *result = lane;
    return STATUS_OK;

fail_device:
    status = device_status(error);
fail:
    lane_close(lane);
    return status;
}

void lane_close(struct lane *lane)
{
    if (!lane) return;
    device_enter();
    linear_plans_destroy(lane->plans);
    cudnn_close(lane->cudnn);
    device_release(MEMORY_DEVICE, lane->workspace);
    for (int i = 0; i < LANE_STAGES; i++) {
        device_release(MEMORY_SHARED, lane->stages[i].memory);
        if (lane->stages[i].event) cudaEventDestroy(lane->stages[i].event);
    }
    if (lane->done) cudaEventDestroy(lane->done);
    if (lane->stream) cudaStreamDestroy(lane->stream);
    free(lane);
    device_close();
}

bool lane_begin(struct lane *lane, const char *op)
{
    if (!device_try(op, cudaSuccess)) return false;
    lane->last_op = op;
    device_enter();
    return true;
}

/* ---------------------------------------------------------------------------------------------------------- waiting */

/* Short waits are looked for at once: most are the few microseconds of one op. Then in pauses of a hundredth of what
 * was waited so far, so that neither a core nor time is wasted. */
static bool await(struct lane *lane, cudaEvent_t event)
{
    int64_t began_ns = clock_now_ns();
    for (;;) {
        cudaError_t code = cudaEventQuery(event);
        if (code == cudaSuccess) return true;
        if (code != cudaErrorNotReady) return device_try(lane->last_op, code);
        cudaGetLastError(); /* "not ready" is kept as an error too, and the next launch would seem to have failed */
        int64_t waited_ns = clock_now_ns() - began_ns;
        if (waited_ns > lane->wait_ns) {
            device_fail(STATUS_DEADLINE,
                        "the GPU has not finished within %.0f s (REFRAIN_GPU_WAIT); the last op called was "
                        "%s; this rank "
                        "has to be started again",
                        (double)lane->wait_ns / 1e9, lane->last_op);
            return false;
        }
        if (waited_ns < 20000) continue;
        int64_t pause_ns = waited_ns / 100 < MILLISECOND_NS ? waited_ns / 100 : MILLISECOND_NS;
        nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
    }
}

/* The device is done with a stage: what it brought goes to the host's own memory. */
static void stage_settle(struct lane_stage *stage)
{
    const char *from = stage->memory;
    for (int64_t row = 0; stage->to && row < stage->rows; row++)
        memcpy(stage->to + (size_t)row * stage->to_stride, from + (size_t)row * stage->row_bytes,
               stage->row_bytes);
    stage->to = NULL;
    stage->used = false;
}

status_t lane_wait(struct lane *lane, struct error *error)
{
    if (lane->recording)
        return error_set(error, STATUS_CONFLICT,
                         "ops are being recorded: nothing runs that could be waited for");
    if (lane_begin(lane, lane->last_op) &&
        device_try(lane->last_op, cudaEventRecord(lane->done, lane->stream)) && await(lane, lane->done))
        for (int i = 0; i < LANE_STAGES; i++) {
            struct lane_stage *stage = &lane->stages[(lane->next_stage + i) % LANE_STAGES]; /* oldest first */
            if (stage->used) stage_settle(stage);
        }
    return device_status(error);
}

/* ----------------------------------------------------------------------------------------------------------- copies */

struct lane_stage *lane_stage_take(struct lane *lane)
{
    struct lane_stage *stage = &lane->stages[lane->next_stage];
    if (lane->recording) {
        device_fail(STATUS_CONFLICT, "%s: the host's own memory cannot take part in recorded ops",
                    lane->last_op);
        return NULL;
    }
    if (stage->used) {
        if (!await(lane, stage->event)) return NULL;
        stage_settle(stage);
    }
    lane->next_stage = (lane->next_stage + 1) % LANE_STAGES;
    return stage;
}

static void stage_mark(struct lane *lane, struct lane_stage *stage)
{
    stage->used = device_try(lane->last_op, cudaEventRecord(stage->event, lane->stream));
}

void lane_stage_send(struct lane *lane, struct lane_stage *stage, void *to, size_t bytes)
{
    if (device_try(lane->last_op, cudaMemcpyAsync(to, stage->memory, bytes, cudaMemcpyDefault, lane->stream)))
        stage_mark(lane, stage);
}

static enum cudaMemoryType type_of(const void *memory)
{
    struct cudaPointerAttributes attributes;
    return cudaPointerGetAttributes(&attributes, memory) == cudaSuccess ? attributes.type
                                                                        : cudaMemoryTypeUnregistered;
}

bool lane_on_device(const void *memory)
{
    return type_of(memory) == cudaMemoryTypeDevice;
}

/* Whether CUDA can reach it without our help: memory of `allocate`. */
static bool known(const void *memory)
{
    return type_of(memory) != cudaMemoryTypeUnregistered;
}

/* Rows that all fit into one stage. */
struct piece {
    char *to;
    const char *from;
    size_t to_stride, from_stride, row_bytes;
    int64_t rows;
};

static void fetch_piece(struct lane *lane, const struct piece *p)
{
    struct lane_stage *stage = lane_stage_take(lane);
    if (!stage || !device_try(lane->last_op, cudaMemcpy2DAsync(stage->memory, p->row_bytes, p->from,
                                                               p->from_stride, p->row_bytes, (size_t)p->rows,
                                                               cudaMemcpyDefault, lane->stream)))
        return;
    stage->to = p->to;
    stage->to_stride = p->to_stride;
    stage->row_bytes = p->row_bytes;
    stage->rows = p->rows;
    stage_mark(lane, stage);
}

static void send_piece(struct lane *lane, const struct piece *p)
{
    struct lane_stage *stage = lane_stage_take(lane);
    if (!stage) return;
    for (int64_t row = 0; row < p->rows; row++)
        memcpy(stage->memory + (size_t)row * p->row_bytes, p->from + (size_t)row * p->from_stride,
               p->row_bytes);
    if (device_try(lane->last_op,
                   cudaMemcpy2DAsync(p->to, p->to_stride, stage->memory, p->row_bytes, p->row_bytes,
                                     (size_t)p->rows, cudaMemcpyDefault, lane->stream)))
        stage_mark(lane, stage);
}

/* Between the host's own memory and memory of `allocate`, cut into what a stage holds. */
static void copy_staged(struct lane *lane, const struct piece *whole, bool fetch)
{
    size_t most = LANE_STAGE_BYTES;
    if (whole->row_bytes > most) { /* a row at a time, cut again */
        for (int64_t row = 0; row < whole->rows; row++)
            for (size_t at = 0; at < whole->row_bytes; at += most) {
                size_t bytes = whole->row_bytes - at < most ? whole->row_bytes - at : most;
                struct piece part = {whole->to + (size_t)row * whole->to_stride + at,
                                     whole->from + (size_t)row * whole->from_stride + at,
                                     bytes,
                                     bytes,
                                     bytes,
                                     1};
                (fetch ? fetch_piece : send_piece)(lane, &part);
            }
        return;
    }
    int64_t step = (int64_t)(most / whole->row_bytes);
    for (int64_t row = 0; row < whole->rows; row += step) {
        struct piece part = *whole;
        part.to += (size_t)row * whole->to_stride;
        part.from += (size_t)row * whole->from_stride;
        part.rows = whole->rows - row < step ? whole->rows - row : step;
        (fetch ? fetch_piece : send_piece)(lane, &part);
    }
}

void lane_copy_rows(struct lane *lane, void *to, size_t to_stride, const void *from, size_t from_stride,
                    size_t row_bytes, int64_t rows)
{
    if (rows < 1 || row_bytes == 0 || !lane_begin(lane, "copy")) return;
    if (rows > 1 && to_stride == row_bytes && from_stride == row_bytes) {
        row_bytes *= (size_t)rows;
        rows = 1;
    }
    if (rows == 1) to_stride = from_stride = row_bytes;
    const struct piece whole = {to, from, to_stride, from_stride, row_bytes, rows};
    bool to_known = known(to), from_known = known(from);
    if (to_known && from_known && rows == 1)
        device_try("copy", cudaMemcpyAsync(to, from, row_bytes, cudaMemcpyDefault, lane->stream));
    else if (to_known && from_known)
        device_try("copy", cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, (size_t)rows,
                                             cudaMemcpyDefault, lane->stream));
    else if (to_known || from_known)
        copy_staged(lane, &whole, from_known);
    else
        for (int64_t row = 0; row < rows; row++)
            memmove(whole.to + (size_t)row * to_stride, whole.from + (size_t)row * from_stride, row_bytes);
}

void lane_copy(struct lane *lane, void *to, const void *from, size_t bytes)
{
    lane_copy_rows(lane, to, bytes, from, bytes, bytes, 1);
}

void lane_zero(struct lane *lane, void *memory, size_t bytes)
{
    if (bytes == 0 || !lane_begin(lane, "zero")) return;
    enum cudaMemoryType type = type_of(memory);
    if (type == cudaMemoryTypeUnregistered)
        memset(memory, 0, bytes);
    else if (type == cudaMemoryTypeHost) /* CUDA's own fill is for the device's memory */
        device_try("zero", cuda_zero(lane->stream, memory, bytes));
    else
        device_try("zero", cudaMemsetAsync(memory, 0, bytes, lane->stream));
}

/* ------------------------------------------------------------------------------------------------ recorded stretches */

status_t lane_record(struct lane *lane, struct error *error)
{
    if (lane->recording) return error_set(error, STATUS_CONFLICT, "ops are being recorded already");
    device_record();
    /* of this thread: other teams may allocate meanwhile */
    if (lane_begin(lane, "recording") &&
        device_try("recording", cudaStreamBeginCapture(lane->stream, cudaStreamCaptureModeThreadLocal)))
        lane->recording = true;
    return lane->recording ? STATUS_OK : device_recorded(error);
}

status_t lane_recorded(struct lane *lane, struct stretch **result, struct error *error)
{
    cudaGraph_t graph = NULL;
    struct stretch *stretch = calloc(1, sizeof *stretch);
    if (!lane->recording) {
        free(stretch);
        return error_set(error, STATUS_CONFLICT, "no ops are being recorded");
    }
    lane->recording = false;
    cudaError_t code = cudaStreamEndCapture(lane->stream, &graph); /* whatever happened, it must end */
    if (!stretch) device_fail(STATUS_NO_MEMORY, "no memory to record ops");
    bool whole = device_try("recording", code) &&
                 device_try("recording", cudaGraphInstantiate(&stretch->exec, graph, 0));
    if (graph) cudaGraphDestroy(graph);
    status_t status = device_recorded(error);
    if (whole && status == STATUS_OK) {
        *result = stretch;
        return STATUS_OK;
    }
    if (whole) cudaGraphExecDestroy(stretch->exec);
    free(stretch);
    return status;
}

void lane_replay(struct lane *lane, const struct stretch *stretch)
{
    if (lane_begin(lane, "a recorded stretch"))
        device_try("a recorded stretch", cudaGraphLaunch(stretch->exec, lane->stream));
}

void lane_forget(struct stretch *stretch)
{
    if (!stretch) return;
    cudaGraphExecDestroy(stretch->exec);
    free(stretch);
}
