/* event.c - events: how far a stream has come. */
#include "tests/fakegpu/fakegpu.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int open_events; /* gpu_lock */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void event_release(cudaEvent_t event)
{
    if (--event->references == 0) free(event);
}

int events_open(void)
{
    return open_events;
}

struct mark {
    cudaEvent_t event;
    uint64_t record;
};

static void drop_mark(void *data)
{
    event_release(((struct mark *)data)->event);
}

static void run_record(void *data)
{
    struct mark *mark = data;
    pthread_mutex_lock(&gpu_lock);
    if (mark->event->done < mark->record) mark->event->done = mark->record;
    mark->event->at_ms = now_ms();
    pthread_mutex_unlock(&gpu_lock);
}

static void run_wait(void *data)
{
    struct mark *mark = data;
    pthread_mutex_lock(&gpu_lock);
    while (mark->event->done < mark->record) pthread_cond_wait(&gpu_progress, &gpu_lock);
    pthread_mutex_unlock(&gpu_lock);
}

/* A task about the event as it was recorded last. gpu_lock held. */
static struct task *mark_task(const char *name, void (*run)(void *), cudaEvent_t event)
{
    struct mark mark = {event, event->recorded};
    struct task *task = task_new(TASK_EVENT, name, run, &mark, sizeof mark);
    if (!task) return NULL;
    task->drop = drop_mark;
    event->references++;
    return task;
}

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    cudaError_t error = call_begin("cudaEventCreate", cudaErrorMemoryAllocation);
    if (error) return error;
    *event = calloc(1, sizeof **event);
    if (!*event) return failed(cudaErrorMemoryAllocation);
    (*event)->references = 1;
    (*event)->flags = flags;
    pthread_mutex_lock(&gpu_lock);
    open_events++;
    pthread_mutex_unlock(&gpu_lock);
    return cudaSuccess;
}

EXPORT cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&gpu_lock);
    open_events--;
    event_release(event);
    pthread_mutex_unlock(&gpu_lock);
    return cudaSuccess;
}

EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    cudaError_t error = call_begin("cudaEventRecord", cudaErrorLaunchFailure);
    if (error) return error;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    struct task *task = NULL;
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    struct capture *capture = stream ? stream_capture(stream) : NULL;
    event->capture = 0;
    if (capture) {
        capture_event(capture, stream, event);
    } else if (stream) {
        event->recorded++;
        task = mark_task("cudaEventRecord", run_record, event);
    }
    pthread_mutex_unlock(&gpu_lock);
    if (!stream) return failed(cudaErrorInvalidResourceHandle);
    return capture ? cudaSuccess : stream_submit(handle, task);
}

EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags)
{
    return flags ? failed(cudaErrorNotSupported) : cudaEventRecord(event, stream);
}

EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int flags)
{
    cudaError_t error = call_begin("cudaStreamWaitEvent", cudaErrorLaunchFailure);
    if (error) return error;
    if (!event || flags) return failed(event ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    struct task *task = NULL;
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    bool capture = stream && (event->capture || stream_capture(stream));
    if (!stream)
        error = cudaErrorInvalidResourceHandle;
    else if (capture)
        error = capture_join(stream, event);
    else
        task = mark_task("cudaStreamWaitEvent", run_wait, event);
    pthread_mutex_unlock(&gpu_lock);
    return error || capture ? failed(error) : stream_submit(handle, task);
}

EXPORT cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = call_begin("cudaEventQuery", cudaErrorLaunchFailure);
    if (error) return error;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&gpu_lock);
    error = event->capture                  ? cudaErrorCapturedEvent
            : event->done < event->recorded ? cudaErrorNotReady
                                            : cudaSuccess;
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = call_begin("cudaEventSynchronize", cudaErrorLaunchFailure);
    if (error) return error;
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&gpu_lock);
    if (event->capture) error = cudaErrorCapturedEvent;
    uint64_t record = event->recorded;
    while (!error && event->done < record) pthread_cond_wait(&gpu_progress, &gpu_lock);
    pthread_mutex_unlock(&gpu_lock);
    return failed(error ? error : device_lost());
}

EXPORT cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    cudaError_t error = call_begin("cudaEventElapsedTime", cudaErrorLaunchFailure);
    if (error) return error;
    if (!start || !end) return failed(cudaErrorInvalidResourceHandle);
    pthread_mutex_lock(&gpu_lock);
    if ((start->flags | end->flags) & cudaEventDisableTiming || !start->recorded || !end->recorded)
        error = cudaErrorInvalidResourceHandle;
    else if (start->done < start->recorded || end->done < end->recorded)
        error = cudaErrorNotReady;
    else
        *ms = (float)(end->at_ms - start->at_ms);
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}
