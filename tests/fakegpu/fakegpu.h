/*
 * fakegpu.h - the stand-in CUDA runtime from the inside, for its own files and for the stand-ins beside it
 * (cublasLt, NCCL). Programs see only cuda_runtime_api.h.
 *
 *     struct copy { ... } copy = {...};
 *     return fakegpu_submit(stream, "cudaMemcpyAsync", run_copy, &copy, sizeof copy);
 *
 * Device memory is host memory, a stream is an OS thread with a queue (stream.c), a kernel is looked up in
 * the emulator (kernel.c). What the environment says about the machine: world.c, and README.
 *
 * One lock guards all state of streams, events, captures and memory; it is never held while work of a stream
 * runs.
 */
#ifndef REFRAIN_FAKEGPU_H
#define REFRAIN_FAKEGPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/fakegpu/include/cuda_runtime_api.h"

#define EXPORT __attribute__((visibility("default")))

/* --- world.c: what the environment says ----------------------------------------------------------------- */

enum { DEVICES_MAX = 16 };

enum lint {
    LINT_DEFAULT_STREAM = 1, /* end the process when the default stream is used */
    LINT_PAGEABLE = 2,       /* ... when an asynchronous copy is not from or to pinned memory */
    LINT_LEAKS = 4,          /* ... at exit, with status 1, when something was not given back */
};

struct gpu {
    int major, minor, multiprocessors;
    size_t memory_bytes, shared_optin_bytes;
    int identity; /* of the physical device */
};

struct world {
    int devices, driver_version, runtime_version, rank;
    unsigned lints;
    bool protect;             /* device memory is inaccessible while no stream works */
    const char *kernels_path; /* shared object of emulated kernels; NULL: linked in */
    struct gpu gpu[DEVICES_MAX];
};

const struct world *world(void);

/* --- fault.c: calls that are told to fail --------------------------------------------------------------- */

enum { FAULT_HANG = -1 };

/* The error that this call of `name` is to return, 0 mostly; FAULT_HANG for work that shall never end. */
EXPORT int fakegpu_fault(const char *name, int usual);

/* --- error.c -------------------------------------------------------------------------------------------- */

/* Remembers it as the calling thread's last error, and returns it. */
cudaError_t failed(cudaError_t error);

/* First thing in a call: refuses when the device is lost, inside a host function, without driver or device,
 * or when the call is told to fail (then with `usual`, unless the fault names an error). */
cudaError_t call_begin(const char *name, cudaError_t usual);

/* Says why, for the person, and returns failed(error). */
__attribute__((format(printf, 3, 4))) cudaError_t refuse(cudaError_t error, const char *call,
                                                         const char *format, ...);

/* From now on every call returns it, until cudaDeviceReset: what a fault inside a kernel does. */
EXPORT void fakegpu_lose_device(cudaError_t error);
cudaError_t device_lost(void);

/* --- stream.c: work and streams ------------------------------------------------------------------------- */

extern pthread_mutex_t gpu_lock;
extern pthread_cond_t gpu_progress; /* broadcast whenever work ends; with gpu_lock */

enum task_kind { TASK_KERNEL, TASK_COPY, TASK_FILL, TASK_HOST, TASK_EVENT, TASK_OTHER };

/* A piece of work for a stream; counted, since graphs run theirs many times. */
struct task {
    int references; /* gpu_lock */
    enum task_kind kind;
    const char *name;
    void (*run)(void *data);
    void (*drop)(void *data); /* before it is freed; may be NULL */
    max_align_t data[];
};

/* `data` is copied; NULL when there is no memory. */
struct task *task_new(enum task_kind kind, const char *name, void (*run)(void *), const void *data,
                      size_t bytes);
void task_release(struct task *task); /* gpu_lock held */

/* Puts work on a stream, or into the graph it captures, and takes over the caller's reference. */
cudaError_t stream_submit(cudaStream_t stream, struct task *task);
/* The same for all `count` together, which the caller keeps: a graph. */
cudaError_t stream_submit_all(cudaStream_t stream, struct task **tasks, size_t count);
/* task_new and stream_submit. */
EXPORT cudaError_t fakegpu_submit(cudaStream_t stream, const char *name, void (*run)(void *),
                                  const void *data, size_t bytes);

/* gpu_lock held. The stream behind a handle: the device's own one for NULL. NULL: there is no such stream. */
struct CUstream_st *stream_of(cudaStream_t handle);
struct capture *stream_capture(struct CUstream_st *stream);
void stream_set_capture(struct CUstream_st *stream, struct capture *capture);

/* Until everything submitted so far is done. */
void stream_drain(cudaStream_t stream);
void streams_drain(int device);

/* In a stream's thread during cudaLaunchHostFunc, where CUDA calls are forbidden. */
bool stream_in_host_function(void);
int streams_open(void);

/* --- event.c -------------------------------------------------------------------------------------------- */

struct CUevent_st {
    int references;
    unsigned flags;
    bool destroyed;
    uint64_t recorded, done; /* how often; how many of these the stream has reached */
    double at_ms;
    /* the last record was part of a capture: which, by which stream, after how many of its tasks. 0: no
     * capture */
    uint64_t capture;
    struct CUstream_st *capture_stream;
    size_t capture_tasks;
};
int events_open(void);

/* --- graph.c: captures ---------------------------------------------------------------------------------- */

/* gpu_lock held. */
bool capture_add(struct capture *capture, struct CUstream_st *stream, struct task *task);
void capture_event(struct capture *capture, struct CUstream_st *stream, cudaEvent_t event);
/* The stream is to wait for the event where one of them belongs to a capture: it joins it. */
cudaError_t capture_join(struct CUstream_st *stream, cudaEvent_t event);

/* For calls a capture does not allow, on this stream or anywhere: invalidates the capture. 0 when there is
 * none. */
cudaError_t capture_forbids(cudaStream_t stream, const char *call);
cudaError_t capture_forbids_anywhere(const char *call);
int graphs_open(void);

/* --- memory.c ------------------------------------------------------------------------------------------- */

enum place { PLACE_PAGEABLE, PLACE_PINNED, PLACE_DEVICE };
/* What kind of memory [pointer, pointer + bytes) is; PLACE_DEVICE sets *device. False: it leaves its
 * allocation. */
bool memory_place(const void *pointer, size_t bytes, enum place *place, int *device);
/* [pointer, pointer + bytes) lies inside one allocation of device memory. */
EXPORT bool fakegpu_device_memory(const void *pointer, size_t bytes);
/* Around all work of a stream: see world()->protect. */
void memory_open(void);
void memory_close(void);
/* What is not freed: told on stderr; the number. */
int memory_leaks(void);

#endif
