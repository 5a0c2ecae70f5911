/* graph.c - stream capture and graphs. A graph is the list of captured tasks in the order of the host's
 * calls, which respects every dependency a capture can express; it runs in that order. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list {
    struct task **task; /* a reference to each */
    size_t count, room;
};

struct CUgraph_st {
    struct list list;
};
struct CUgraphExec_st {
    struct list list;
};

enum { PARTS_MAX = 16 };

struct capture {
    uint64_t id;
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
    struct list list;
    int parts; /* streams that take part; the first began it */
    struct part {
        struct CUstream_st *stream;
        size_t tasks,
            joined; /* tasks of the list when it added last; and when another stream waited for it last */
    } part[PARTS_MAX];
    struct capture *next;
};

static struct capture *captures; /* gpu_lock, as all here */
static uint64_t last_id;
static int open_graphs;

static bool list_add(struct list *list, struct task *task)
{
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        struct task **more = realloc(list->task, room * sizeof *more);
        if (!more) return false;
        list->task = more;
        list->room = room;
    }
    task->references++;
    list->task[list->count++] = task;
    return true;
}

static void list_free(struct list *list)
{
    for (size_t i = 0; i < list->count; i++) task_release(list->task[i]);
    free(list->task);
    *list = (struct list){0};
}

static bool list_copy(struct list *to, const struct list *from)
{
    *to = (struct list){0};
    for (size_t i = 0; i < from->count; i++)
        if (!list_add(to, from->task[i])) {
            list_free(to);
            return false;
        }
    return true;
}

int graphs_open(void)
{
    return open_graphs;
}

/* --- captures ------------------------------------------------------------------------------------------- */

static struct part *part_of(struct capture *capture, struct CUstream_st *stream)
{
    for (int i = 0; i < capture->parts; i++)
        if (capture->part[i].stream == stream) return &capture->part[i];
    return NULL;
}

static struct capture *capture_by_id(uint64_t id)
{
    struct capture *capture = captures;
    while (capture && capture->id != id) capture = capture->next;
    return capture;
}

bool capture_add(struct capture *capture, struct CUstream_st *stream, struct task *task)
{
    if (!list_add(&capture->list, task)) return false;
    part_of(capture, stream)->tasks = capture->list.count;
    return true;
}

void capture_event(struct capture *capture, struct CUstream_st *stream, cudaEvent_t event)
{
    event->capture = capture->id;
    event->capture_stream = stream;
    event->capture_tasks = part_of(capture, stream)->tasks;
}

cudaError_t capture_join(struct CUstream_st *stream, cudaEvent_t event)
{
    struct capture *own = stream_capture(stream), *other = capture_by_id(event->capture);
    if (!other || (own && own != other)) {
        if (own) own->invalid = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (!own) {
        if (other->parts == PARTS_MAX) return cudaErrorNotSupported;
        other->part[other->parts++] = (struct part){.stream = stream};
        stream_set_capture(stream, other);
    }
    struct part *waited = part_of(other, event->capture_stream);
    if (waited->stream != stream && waited->joined < event->capture_tasks)
        waited->joined = event->capture_tasks;
    return cudaSuccess;
}

static cudaError_t forbid(struct capture *capture, const char *call)
{
    capture->invalid = true;
    fprintf(stderr, "fakegpu: %s: not allowed while a stream is captured; the capture is lost\n", call);
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t capture_forbids(cudaStream_t handle, const char *call)
{
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&gpu_lock);
    if (captures) {
        struct CUstream_st *stream = stream_of(handle);
        if (stream && stream_capture(stream)) error = forbid(stream_capture(stream), call);
    }
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

/* How much of others' captures, and of its own, the thread respects. */
static _Thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    cudaError_t error = call_begin("cudaThreadExchangeStreamCaptureMode", cudaErrorInvalidValue);
    if (error) return error;
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

cudaError_t capture_forbids_anywhere(const char *call)
{
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&gpu_lock);
    for (struct capture *capture = captures; capture; capture = capture->next) {
        bool ours = pthread_equal(capture->thread, pthread_self());
        if (thread_mode != cudaStreamCaptureModeRelaxed &&
            ((ours && capture->mode != cudaStreamCaptureModeRelaxed) ||
             (thread_mode == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal)))
            error = forbid(capture, call);
    }
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    cudaError_t error = call_begin("cudaStreamBeginCapture", cudaErrorStreamCaptureUnsupported);
    if (error) return error;
    if (!handle || handle == cudaStreamLegacy) return failed(cudaErrorStreamCaptureUnsupported);
    struct capture *capture = calloc(1, sizeof *capture);
    if (!capture) return failed(cudaErrorMemoryAllocation);
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    if (!stream)
        error = cudaErrorInvalidResourceHandle;
    else if (stream_capture(stream))
        error = cudaErrorIllegalState;
    if (!error) {
        *capture = (struct capture){.id = ++last_id, .mode = mode, .thread = pthread_self(), .parts = 1};
        capture->part[0].stream = stream;
        capture->next = captures;
        captures = capture;
        stream_set_capture(stream, capture);
    }
    pthread_mutex_unlock(&gpu_lock);
    if (error) free(capture);
    return failed(error);
}

static cudaError_t end_error(struct capture *capture, struct CUstream_st *stream)
{
    if (!capture) return cudaErrorIllegalState;
    if (capture->part[0].stream != stream) return cudaErrorStreamCaptureUnmatched;
    if (capture->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(capture->thread, pthread_self()))
        return cudaErrorStreamCaptureWrongThread;
    return cudaSuccess;
}

/* The capture is over, whatever came of it. */
static void capture_end(struct capture *capture)
{
    struct capture **link = &captures;
    while (*link != capture) link = &(*link)->next;
    *link = capture->next;
    for (int i = 0; i < capture->parts; i++) stream_set_capture(capture->part[i].stream, NULL);
    list_free(&capture->list);
    free(capture);
}

EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    cudaError_t error = call_begin("cudaStreamEndCapture", cudaErrorStreamCaptureInvalidated);
    *graph = NULL;
    struct CUgraph_st *made = calloc(1, sizeof *made);
    if (!made) return failed(cudaErrorMemoryAllocation);
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    struct capture *capture = stream ? stream_capture(stream) : NULL;
    cudaError_t told = error; /* as REFRAIN_FAKEGPU_FAIL says; the capture ends as it does after any error */
    error = end_error(capture, stream);
    if (!error) {
        if (told)
            error = told;
        else if (capture->invalid)
            error = cudaErrorStreamCaptureInvalidated;
        for (int i = 1; i < capture->parts && !error; i++)
            if (capture->part[i].joined < capture->part[i].tasks) error = cudaErrorStreamCaptureUnjoined;
        if (!error) {
            made->list = capture->list;
            capture->list = (struct list){0};
            open_graphs++;
        }
        capture_end(capture);
    }
    pthread_mutex_unlock(&gpu_lock);
    if (error)
        free(made);
    else
        *graph = made;
    return failed(error);
}

EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    struct capture *capture = stream ? stream_capture(stream) : NULL;
    *status = !capture           ? cudaStreamCaptureStatusNone
              : capture->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    pthread_mutex_unlock(&gpu_lock);
    return failed(stream ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

/* --- graphs --------------------------------------------------------------------------------------------- */

EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (!graph || !count) return failed(cudaErrorInvalidValue);
    size_t room = *count;
    *count = graph->list.count;
    for (size_t i = 0; nodes && i < room && i < *count; i++) nodes[i] = (cudaGraphNode_t)graph->list.task[i];
    return cudaSuccess;
}

EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    cudaError_t error = call_begin("cudaGraphInstantiate", cudaErrorMemoryAllocation);
    (void)flags;
    if (error) return error;
    if (!graph || !exec) return failed(cudaErrorInvalidValue);
    struct CUgraphExec_st *made = calloc(1, sizeof *made);
    pthread_mutex_lock(&gpu_lock);
    bool copied = made && list_copy(&made->list, &graph->list);
    if (copied) open_graphs++;
    pthread_mutex_unlock(&gpu_lock);
    if (!copied) {
        free(made);
        return failed(cudaErrorMemoryAllocation);
    }
    *exec = made;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    (void)stream;
    return exec ? call_begin("cudaGraphUpload", cudaErrorMemoryAllocation) : failed(cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaGraphLaunch", cudaErrorLaunchFailure);
    if (error) return error;
    if (!exec) return failed(cudaErrorInvalidValue);
    return stream_submit_all(stream, exec->list.task, exec->list.count);
}

/* The same shape with other arguments: the executable graph takes them over. */
EXPORT cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                       cudaGraphExecUpdateResultInfo *info)
{
    cudaError_t error = call_begin("cudaGraphExecUpdate", cudaErrorGraphExecUpdateFailure);
    if (error) return error;
    if (!exec || !graph || !info) return failed(cudaErrorInvalidValue);
    *info = (cudaGraphExecUpdateResultInfo){.result = cudaGraphExecUpdateSuccess};
    pthread_mutex_lock(&gpu_lock);
    struct list *old = &exec->list, *new = &graph->list, updated;
    if (old->count != new->count) info->result = cudaGraphExecUpdateErrorTopologyChanged;
    for (size_t i = 0; i < old->count && !info->result; i++)
        if (old->task[i]->kind != new->task[i]->kind) {
            info->result = cudaGraphExecUpdateErrorNodeTypeChanged;
            info->errorNode = (cudaGraphNode_t) new->task[i];
        }
    if (info->result)
        error = cudaErrorGraphExecUpdateFailure;
    else if (!list_copy(&updated, new))
        error = cudaErrorMemoryAllocation;
    if (!error) {
        list_free(old);
        *old = updated;
    }
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

static cudaError_t destroy(struct list *list, void *graph)
{
    pthread_mutex_lock(&gpu_lock);
    list_free(list);
    open_graphs--;
    pthread_mutex_unlock(&gpu_lock);
    free(graph);
    return cudaSuccess;
}

EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    return exec ? destroy(&exec->list, exec) : failed(cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return graph ? destroy(&graph->list, graph) : failed(cudaErrorInvalidValue);
}
