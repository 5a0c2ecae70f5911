/* stream.c - a stream is an OS thread with a queue of tasks: nothing that is submitted runs in the caller.
 *
 * The default stream waits for all work of the device's blocking streams, and they for it, as CUDA's legacy
 * stream does; a lint forbids it. After a fault (fakegpu_lose_device) queues run empty without doing
 * anything. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pthread_mutex_t gpu_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t gpu_progress = PTHREAD_COND_INITIALIZER;

struct entry {
    struct task *task;
    struct entry *next;
    size_t gates; /* what must be done before: stream, how many of its tasks */
    struct gate {
        uint64_t stream, tasks;
    } gate[];
};

struct CUstream_st {
    uint64_t id; /* never used again, unlike the address */
    unsigned flags;
    int device;
    bool closing, is_default;
    struct entry *first, **end;
    uint64_t submitted, done;
    struct capture *capture;
    struct CUstream_st *next;
};

static struct CUstream_st *streams; /* gpu_lock, as everything of a stream */
static uint64_t last_id;
static __thread bool in_host_function;

/* --- tasks ---------------------------------------------------------------------------------------------- */

struct task *task_new(enum task_kind kind, const char *name, void (*run)(void *), const void *data,
                      size_t bytes)
{
    struct task *task = malloc(sizeof *task + bytes);
    if (!task) return NULL;
    *task = (struct task){.references = 1, .kind = kind, .name = name, .run = run};
    memcpy(task->data, data, bytes);
    return task;
}

void task_release(struct task *task)
{
    if (--task->references) return;
    if (task->drop) task->drop(task->data);
    free(task);
}

/* Work that faults, as REFRAIN_FAKEGPU_FAIL says. False: it is not to be done. */
static bool may_run(const struct task *task)
{
    if (task->kind == TASK_EVENT) return true;
    if (device_lost()) return false;
    static const char *const names[] = {[TASK_KERNEL] = "kernel",
                                        [TASK_COPY] = "copy",
                                        [TASK_FILL] = "fill",
                                        [TASK_HOST] = "host-function",
                                        [TASK_OTHER] = "library"};
    int due = fakegpu_fault(names[task->kind],
                            task->kind == TASK_KERNEL ? cudaErrorIllegalAddress : cudaErrorLaunchFailure);
    if (!due) return true;
    if (due == FAULT_HANG) {
        pthread_mutex_lock(&gpu_lock);
        while (!device_lost()) pthread_cond_wait(&gpu_progress, &gpu_lock);
        pthread_mutex_unlock(&gpu_lock);
    } else {
        fakegpu_lose_device((cudaError_t)due);
    }
    return false;
}

static void run_task(struct task *task)
{
    if (!may_run(task)) return;
    bool touches_memory = task->kind != TASK_EVENT && task->kind != TASK_HOST;
    if (touches_memory) memory_open();
    in_host_function = task->kind == TASK_HOST;
    task->run(task->data);
    in_host_function = false;
    if (touches_memory) memory_close();
}

/* --- the thread of a stream ----------------------------------------------------------------------------- */

static struct CUstream_st *by_id(uint64_t id)
{
    struct CUstream_st *stream = streams;
    while (stream && stream->id != id) stream = stream->next;
    return stream;
}

static bool gates_open(const struct entry *entry)
{
    for (size_t i = 0; i < entry->gates; i++) {
        struct CUstream_st *stream = by_id(entry->gate[i].stream);
        if (stream && stream->done < entry->gate[i].tasks) return false;
    }
    return true;
}

static void remove_stream(struct CUstream_st *stream)
{
    struct CUstream_st **link = &streams;
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    free(stream);
}

static void *stream_main(void *argument)
{
    struct CUstream_st *stream = argument;
    pthread_mutex_lock(&gpu_lock);
    for (;;) {
        struct entry *entry = stream->first;
        if (!entry && stream->closing) break;
        if (!entry || !gates_open(entry)) {
            pthread_cond_wait(&gpu_progress, &gpu_lock);
            continue;
        }
        stream->first = entry->next;
        if (!stream->first) stream->end = &stream->first;
        pthread_mutex_unlock(&gpu_lock);
        run_task(entry->task);
        pthread_mutex_lock(&gpu_lock);
        stream->done++;
        task_release(entry->task);
        free(entry);
        pthread_cond_broadcast(&gpu_progress);
    }
    remove_stream(stream);
    pthread_cond_broadcast(&gpu_progress);
    pthread_mutex_unlock(&gpu_lock);
    return NULL;
}

static struct CUstream_st *stream_new(unsigned flags, int device)
{
    struct CUstream_st *stream = calloc(1, sizeof *stream);
    pthread_t thread;
    if (!stream) return NULL;
    *stream = (struct CUstream_st){.id = ++last_id, .flags = flags, .device = device, .next = streams};
    stream->end = &stream->first;
    if (pthread_create(&thread, NULL, stream_main, stream) != 0) {
        free(stream);
        return NULL;
    }
    pthread_detach(thread);
    return streams = stream;
}

static struct CUstream_st *default_stream(void)
{
    int device = 0;
    cudaGetDevice(&device);
    struct CUstream_st *stream = streams;
    while (stream && !(stream->is_default && stream->device == device)) stream = stream->next;
    if (!stream && (stream = stream_new(cudaStreamDefault, device))) stream->is_default = true;
    return stream;
}

struct CUstream_st *stream_of(cudaStream_t handle)
{
    if (!handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread) return default_stream();
    struct CUstream_st *stream = streams;
    while (stream && (stream != handle || stream->closing)) stream = stream->next;
    return stream;
}

struct capture *stream_capture(struct CUstream_st *stream)
{
    return stream->capture;
}

void stream_set_capture(struct CUstream_st *stream, struct capture *capture)
{
    stream->capture = capture;
}

/* --- submitting ----------------------------------------------------------------------------------------- */

/* Default and blocking streams of a device wait for each other. */
static bool wait_for_each_other(const struct CUstream_st *a, const struct CUstream_st *b)
{
    return a != b && a->device == b->device && a->is_default != b->is_default &&
           !(a->flags & cudaStreamNonBlocking) && !(b->flags & cudaStreamNonBlocking);
}

static bool append(struct CUstream_st *stream, struct task *task)
{
    size_t gates = 0;
    for (struct CUstream_st *other = streams; other; other = other->next)
        gates += wait_for_each_other(stream, other);
    struct entry *entry = malloc(sizeof *entry + gates * sizeof *entry->gate);
    if (!entry) return false;
    *entry = (struct entry){.task = task};
    for (struct CUstream_st *other = streams; other; other = other->next)
        if (wait_for_each_other(stream, other))
            entry->gate[entry->gates++] = (struct gate){other->id, other->submitted};
    task->references++;
    *stream->end = entry;
    stream->end = &entry->next;
    stream->submitted++;
    return true;
}

static void check_default(cudaStream_t handle, const char *name)
{
    bool is_default = !handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread;
    if (!is_default || !(world()->lints & LINT_DEFAULT_STREAM)) return;
    fprintf(stderr, "fakegpu: %s uses the default stream\n", name);
    abort();
}

cudaError_t stream_submit_all(cudaStream_t handle, struct task **tasks, size_t count)
{
    cudaError_t error = cudaSuccess;
    if (count) check_default(handle, tasks[0]->name);
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    if (!stream) error = cudaErrorInvalidResourceHandle;
    for (size_t i = 0; i < count && !error; i++) {
        bool kept =
            stream->capture ? capture_add(stream->capture, stream, tasks[i]) : append(stream, tasks[i]);
        if (!kept) error = cudaErrorMemoryAllocation;
    }
    pthread_cond_broadcast(&gpu_progress);
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

cudaError_t stream_submit(cudaStream_t handle, struct task *task)
{
    if (!task) return failed(cudaErrorMemoryAllocation);
    cudaError_t error = stream_submit_all(handle, &task, 1);
    pthread_mutex_lock(&gpu_lock);
    task_release(task);
    pthread_mutex_unlock(&gpu_lock);
    return error;
}

cudaError_t fakegpu_submit(cudaStream_t stream, const char *name, void (*run)(void *), const void *data,
                           size_t bytes)
{
    return stream_submit(stream, task_new(TASK_OTHER, name, run, data, bytes));
}

/* --- waiting -------------------------------------------------------------------------------------------- */

static void drain(uint64_t id, uint64_t tasks)
{
    struct CUstream_st *stream;
    while ((stream = by_id(id)) && stream->done < tasks) pthread_cond_wait(&gpu_progress, &gpu_lock);
}

void stream_drain(cudaStream_t handle)
{
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    if (stream) drain(stream->id, stream->submitted);
    pthread_mutex_unlock(&gpu_lock);
}

/* Streams may come and go meanwhile: look again after each wait. */
void streams_drain(int device)
{
    pthread_mutex_lock(&gpu_lock);
    uint64_t newest = last_id;
    for (uint64_t id = 1; id <= newest; id++) {
        struct CUstream_st *stream = by_id(id);
        if (stream && stream->device == device) drain(id, stream->submitted);
    }
    pthread_mutex_unlock(&gpu_lock);
}

bool stream_in_host_function(void)
{
    return in_host_function;
}

int streams_open(void)
{
    int open = 0;
    for (struct CUstream_st *stream = streams; stream; stream = stream->next)
        open += !stream->is_default && !stream->closing;
    return open;
}

/* --- the calls ------------------------------------------------------------------------------------------ */

EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority)
{
    cudaError_t error = call_begin("cudaStreamCreate", cudaErrorMemoryAllocation);
    (void)priority;
    if (error) return error;
    if (!stream || flags > cudaStreamNonBlocking) return failed(cudaErrorInvalidValue);
    int device = 0;
    cudaGetDevice(&device);
    pthread_mutex_lock(&gpu_lock);
    *stream = stream_new(flags, device);
    pthread_mutex_unlock(&gpu_lock);
    return failed(*stream ? cudaSuccess : cudaErrorMemoryAllocation);
}

EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

EXPORT cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

/* Returns at once; the thread ends after the work that is queued. */
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = handle ? stream_of(handle) : NULL;
    if (stream && !stream->is_default)
        stream->closing = true;
    else
        error = cudaErrorInvalidResourceHandle;
    pthread_cond_broadcast(&gpu_progress);
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    cudaError_t error = call_begin("cudaStreamSynchronize", cudaErrorLaunchFailure);
    if (!error) error = capture_forbids(stream, "cudaStreamSynchronize");
    if (error) return error;
    check_default(stream, "cudaStreamSynchronize");
    stream_drain(stream);
    return failed(device_lost());
}

EXPORT cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    cudaError_t error = call_begin("cudaStreamQuery", cudaErrorLaunchFailure);
    if (!error) error = capture_forbids(handle, "cudaStreamQuery");
    if (error) return error;
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    error = !stream                            ? cudaErrorInvalidResourceHandle
            : stream->done < stream->submitted ? cudaErrorNotReady
                                               : cudaSuccess;
    pthread_mutex_unlock(&gpu_lock);
    return failed(error);
}

EXPORT cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned int *flags)
{
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    if (stream) *flags = stream->flags;
    pthread_mutex_unlock(&gpu_lock);
    return failed(stream ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaStreamGetDevice(cudaStream_t handle, int *device)
{
    pthread_mutex_lock(&gpu_lock);
    struct CUstream_st *stream = stream_of(handle);
    if (stream) *device = stream->device;
    pthread_mutex_unlock(&gpu_lock);
    return failed(stream ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

struct host_call {
    cudaHostFn_t function;
    void *user;
};

static void run_host_call(void *data)
{
    struct host_call *call = data;
    call->function(call->user);
}

EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user)
{
    cudaError_t error = call_begin("cudaLaunchHostFunc", cudaErrorLaunchFailure);
    if (error) return error;
    if (!function) return failed(cudaErrorInvalidValue);
    struct host_call call = {function, user};
    return stream_submit(stream,
                         task_new(TASK_HOST, "cudaLaunchHostFunc", run_host_call, &call, sizeof call));
}
