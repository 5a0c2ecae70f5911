/*
 * test_cudart.c - the stand-in for the CUDA runtime behaves as the worst of real ones: asynchronous, with
 * errors that stay, and with every fault the environment asks for. What needs an environment of its own is a
 * part of this program, run as `test_cudart PART`, that returns 0 when it saw what it should.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include "tests/cusim/semantics/semantics.h"
#include "tests/outcome.h"

enum { N = 1000 };

static const char *self;

static cudaStream_t new_stream(void)
{
    cudaStream_t stream = NULL;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

static float *device_floats(float value)
{
    float *x, host[N];
    for (int i = 0; i < N; i++) host[i] = value;
    assert_int_equal(cudaMalloc((void **)&x, sizeof host), cudaSuccess);
    assert_int_equal(cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice), cudaSuccess);
    return x;
}

static void check_all(const float *x, float value)
{
    float host[N];
    assert_int_equal(cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int i = 0; i < N; i++) assert_true(host[i] == value);
}

/* Blocks a stream until it is opened. */
struct gate {
    atomic_bool open, reached;
};

static void wait_at_gate(void *argument)
{
    struct gate *gate = argument;
    gate->reached = true;
    while (!gate->open) usleep(100);
}

static void a_blocked_stream_blocks_neither_the_host_nor_another_stream(void **state)
{
    struct gate gate = {false, false};
    cudaStream_t blocked = new_stream(), other = new_stream();
    float *x = device_floats(1), *y = device_floats(1);
    assert_int_equal(cudaLaunchHostFunc(blocked, wait_at_gate, &gate), cudaSuccess);
    assert_int_equal(semantics_scale(blocked, x, N, 3), cudaSuccess);
    assert_int_equal(semantics_scale(other, y, N, 5), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(other), cudaSuccess);
    assert_int_equal(cudaStreamQuery(other), cudaSuccess);
    assert_int_equal(cudaStreamQuery(blocked), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaErrorNotReady);
    check_all(y, 5);
    check_all(x, 1);
    gate.open = true;
    assert_int_equal(cudaStreamSynchronize(blocked), cudaSuccess);
    check_all(x, 3);
    cudaStreamDestroy(blocked), cudaStreamDestroy(other);
    cudaFree(x), cudaFree(y);
}

static void a_stream_waits_for_an_event_as_it_was_when_asked(void **state)
{
    struct gate gate = {false, false};
    cudaStream_t first = new_stream(), second = new_stream();
    cudaEvent_t event;
    float *x = device_floats(1);
    assert_int_equal(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaStreamWaitEvent(second, event, 0), cudaSuccess); /* never recorded: no wait */
    assert_int_equal(cudaStreamSynchronize(second), cudaSuccess);
    cudaLaunchHostFunc(first, wait_at_gate, &gate);
    semantics_scale(first, x, N, 2);
    assert_int_equal(cudaEventRecord(event, first), cudaSuccess);
    assert_int_equal(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
    semantics_scale(second, x, N, 7);
    assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
    check_all(x, 1);
    gate.open = true;
    assert_int_equal(cudaStreamSynchronize(second), cudaSuccess);
    assert_int_equal(cudaEventQuery(event), cudaSuccess);
    check_all(x, 14);
    float ms;
    assert_int_equal(cudaEventElapsedTime(&ms, event, event), cudaErrorInvalidResourceHandle);
    cudaEventDestroy(event);
    cudaStreamDestroy(first), cudaStreamDestroy(second);
    cudaFree(x);
}

static void events_measure_the_time_between_them(void **state)
{
    cudaStream_t stream = new_stream();
    cudaEvent_t start, end;
    struct gate gate = {false, false};
    cudaEventCreate(&start), cudaEventCreate(&end);
    cudaEventRecord(start, stream);
    cudaLaunchHostFunc(stream, wait_at_gate, &gate);
    cudaEventRecord(end, stream);
    float ms = -1;
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaErrorNotReady);
    usleep(20000);
    gate.open = true;
    assert_int_equal(cudaEventSynchronize(end), cudaSuccess);
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaSuccess);
    assert_true(ms >= 19);
    cudaEventDestroy(start), cudaEventDestroy(end), cudaStreamDestroy(stream);
}

static void the_default_stream_and_blocking_streams_wait_for_each_other(void **state)
{
    struct gate gate = {false, false};
    cudaStream_t blocking;
    float *x = device_floats(1);
    assert_int_equal(cudaStreamCreate(&blocking), cudaSuccess);
    cudaLaunchHostFunc(blocking, wait_at_gate, &gate);
    semantics_scale(blocking, x, N, 2);
    semantics_scale(NULL, x, N, 3);
    semantics_scale(blocking, x, N, 5);
    assert_int_equal(cudaStreamQuery(NULL), cudaErrorNotReady);
    gate.open = true;
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    check_all(x, 30);
    cudaStreamDestroy(blocking), cudaFree(x);
}

static void copies_are_checked_against_allocations_and_direction(void **state)
{
    cudaStream_t stream = new_stream();
    float *x = device_floats(2), host[N];
    assert_int_equal(cudaMemcpy(host, x, sizeof host + 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(host, x, sizeof host, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(x, x, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemsetAsync(host, 0, sizeof host, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaMemset2DAsync(x + 1, 40, 0, 8, 25, stream), cudaSuccess);
    assert_int_equal(cudaMemcpy2DAsync(host, 8, x, 40, 8, 25, cudaMemcpyDefault, stream), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    for (int row = 0; row < 25; row++) assert_true(host[2 * row] == 2 && host[2 * row + 1] == 0);
    cudaStreamDestroy(stream), cudaFree(x);
}

/* From pageable memory a copy may not see what the host writes after the call; from pinned memory it does. */
static void only_pinned_memory_is_copied_asynchronously(void **state)
{
    struct gate gate = {false, false};
    cudaStream_t stream = new_stream();
    float *a = device_floats(0), *b = device_floats(0), *pinned, pageable[N];
    assert_int_equal(cudaHostAlloc((void **)&pinned, sizeof pageable, cudaHostAllocDefault), cudaSuccess);
    for (int i = 0; i < N; i++) pinned[i] = pageable[i] = 1;
    cudaLaunchHostFunc(stream, wait_at_gate, &gate);
    assert_int_equal(cudaMemcpyAsync(a, pageable, sizeof pageable, cudaMemcpyHostToDevice, stream),
                     cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(b, pinned, sizeof pageable, cudaMemcpyHostToDevice, stream),
                     cudaSuccess);
    for (int i = 0; i < N; i++) pinned[i] = pageable[i] = 2;
    gate.open = true;
    cudaStreamSynchronize(stream);
    check_all(a, 1);
    check_all(b, 2);
    cudaStreamDestroy(stream), cudaFree(a), cudaFree(b), cudaFreeHost(pinned);
}

static void registered_memory_counts_as_pinned_and_cannot_be_registered_twice(void **state)
{
    static float memory[N];
    struct cudaPointerAttributes attributes;
    assert_int_equal(cudaPointerGetAttributes(&attributes, memory), cudaSuccess);
    assert_int_equal(attributes.type, cudaMemoryTypeUnregistered);
    assert_int_equal(cudaHostRegister(memory, sizeof memory, cudaHostRegisterDefault), cudaSuccess);
    assert_int_equal(cudaHostRegister(memory + 5, 8, cudaHostRegisterDefault),
                     cudaErrorHostMemoryAlreadyRegistered);
    assert_int_equal(cudaPointerGetAttributes(&attributes, memory + 5), cudaSuccess);
    assert_int_equal(attributes.type, cudaMemoryTypeHost);
    assert_int_equal(cudaHostUnregister(memory), cudaSuccess);
    assert_int_equal(cudaHostUnregister(memory), cudaErrorHostMemoryNotRegistered);
    cudaGetLastError();
}

static void memory_in_use_is_accounted_and_unwritten_memory_is_nan(void **state)
{
    size_t free_before, total, free_after;
    float *x, host[N];
    cudaStream_t stream = new_stream();
    cudaMemGetInfo(&free_before, &total);
    assert_int_equal(cudaMallocAsync((void **)&x, sizeof host, stream), cudaSuccess);
    cudaMemGetInfo(&free_after, &total);
    assert_int_equal(free_before - free_after, sizeof host);
    cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost);
    assert_true(isnan(host[0]) && isnan(host[N - 1]));
    assert_int_equal(cudaFreeAsync(x, stream), cudaSuccess);
    cudaStreamSynchronize(stream);
    cudaMemGetInfo(&free_after, &total);
    assert_int_equal(free_before, free_after);
    assert_int_equal(cudaFree(&x), cudaErrorInvalidValue);
    cudaGetLastError();
    cudaStreamDestroy(stream);
}

static void launches_outside_the_limits_are_refused(void **state)
{
    cudaStream_t stream = new_stream();
    float *x = device_floats(1);
    assert_int_equal(semantics_sum(stream, x, x, N, 0, 64), cudaErrorInvalidConfiguration);
    assert_int_equal(semantics_sum(stream, x, x, N, 1, 2048), cudaErrorInvalidConfiguration);
    unsigned tall[3] = {1, 70000, 1}, one[3] = {1, 1, 1};
    assert_int_equal(semantics_places(stream, (uint64_t *)x, tall, one), cudaErrorInvalidConfiguration);
    void *arguments[] = {NULL};
    assert_int_equal(cudaLaunchKernel(new_stream, (dim3){1, 1, 1}, (dim3){1, 1, 1}, arguments, 0, stream),
                     cudaErrorInvalidDeviceFunction);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidDeviceFunction);
    assert_int_equal(semantics_sum((cudaStream_t)x, x, x, N, 1, 32), cudaErrorInvalidResourceHandle);
    cudaStreamDestroy(stream), cudaFree(x);
}

static cudaError_t inside;
static void call_cuda(void *argument)
{
    void *pointer;
    inside = cudaMalloc(&pointer, 16);
    (void)argument;
}
static void a_host_function_may_not_call_cuda(void **state)
{
    cudaStream_t stream = new_stream();
    cudaLaunchHostFunc(stream, call_cuda, NULL);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(inside, cudaErrorNotPermitted);
    cudaStreamDestroy(stream);
}

/* --- graphs --------------------------------------------------------------------------------------------- */

static cudaGraph_t capture(cudaStream_t stream, float *x, float by)
{
    cudaGraph_t graph = NULL;
    float *y = x + N / 2;
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(semantics_scale(stream, x, N / 2, by), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(y, x, N / 2 * sizeof *x, cudaMemcpyDeviceToDevice, stream), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    return graph;
}

static void a_captured_graph_runs_when_launched_and_as_often(void **state)
{
    cudaStream_t stream = new_stream();
    float *x = device_floats(1);
    cudaGraph_t graph = capture(stream, x, 2);
    cudaGraphExec_t exec;
    size_t nodes = 0;
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    check_all(x, 1);
    assert_int_equal(cudaGraphGetNodes(graph, NULL, &nodes), cudaSuccess);
    assert_int_equal(nodes, 2);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    for (int i = 0; i < 3; i++) assert_int_equal(cudaGraphLaunch(exec, stream), cudaSuccess);
    cudaStreamSynchronize(stream);
    check_all(x, 8);
    cudaGraphExecDestroy(exec), cudaStreamDestroy(stream), cudaFree(x);
}

static void a_graph_of_the_same_shape_is_updated_and_another_is_refused(void **state)
{
    cudaStream_t stream = new_stream();
    float *x = device_floats(1);
    cudaGraph_t twice = capture(stream, x, 2), thrice = capture(stream, x, 3), other;
    cudaGraphExec_t exec;
    cudaGraphExecUpdateResultInfo info;
    cudaGraphInstantiate(&exec, twice, 0);
    assert_int_equal(cudaGraphExecUpdate(exec, thrice, &info), cudaSuccess);
    cudaGraphLaunch(exec, stream);
    cudaStreamSynchronize(stream);
    check_all(x, 3);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    semantics_scale(stream, x, N, 2);
    cudaStreamEndCapture(stream, &other);
    assert_int_equal(cudaGraphExecUpdate(exec, other, &info), cudaErrorGraphExecUpdateFailure);
    assert_int_equal(info.result, cudaGraphExecUpdateErrorTopologyChanged);
    cudaGetLastError();
    cudaGraphDestroy(twice), cudaGraphDestroy(thrice), cudaGraphDestroy(other);
    cudaGraphExecDestroy(exec), cudaStreamDestroy(stream), cudaFree(x);
}

static void a_capture_follows_events_to_other_streams_and_must_be_joined(void **state)
{
    cudaStream_t stream = new_stream(), side = new_stream();
    cudaEvent_t fork_event, join_event;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *x = device_floats(1);
    cudaEventCreateWithFlags(&fork_event, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join_event, cudaEventDisableTiming);
    for (int joined = 0; joined < 2; joined++) {
        assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        semantics_scale(stream, x, N, 2);
        cudaEventRecord(fork_event, stream);
        assert_int_equal(cudaStreamWaitEvent(side, fork_event, 0), cudaSuccess);
        semantics_scale(side, x, N, 3);
        cudaEventRecord(join_event, side);
        assert_int_equal(cudaEventQuery(join_event), cudaErrorCapturedEvent);
        if (joined) assert_int_equal(cudaStreamWaitEvent(stream, join_event, 0), cudaSuccess);
        assert_int_equal(cudaStreamEndCapture(stream, &graph),
                         joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    }
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphLaunch(exec, stream);
    cudaStreamSynchronize(stream);
    check_all(x, 6);
    cudaGetLastError();
    cudaGraphDestroy(graph), cudaGraphExecDestroy(exec), cudaEventDestroy(fork_event),
        cudaEventDestroy(join_event);
    cudaStreamDestroy(stream), cudaStreamDestroy(side), cudaFree(x);
}

static void what_a_capture_does_not_allow_loses_it(void **state)
{
    cudaStream_t stream = new_stream();
    float *x = device_floats(1);
    cudaGraph_t graph;
    void *memory;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    assert_int_equal(cudaMalloc(&memory, 16), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    assert_int_equal(cudaMalloc(&memory, 16), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cudaGraphDestroy(graph);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState);
    cudaGetLastError();
    cudaFree(memory), cudaFree(x), cudaStreamDestroy(stream);
}

/* --- parts: programs of their own environment ----------------------------------------------------------- */

#define EXPECT(condition)                                                                                    \
    if (!(condition)) return printf("not so: %s\n", #condition), 1

static int part_sticky(void)
{
    cudaStream_t stream;
    float *x;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, N * sizeof *x);
    for (int i = 0; i < 4; i++) semantics_scale(stream, x, N, 1);
    EXPECT(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress);
    EXPECT(cudaMemsetAsync(x, 0, 4, stream) == cudaErrorIllegalAddress);
    EXPECT(cudaDeviceReset() == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    return 0;
}

static int part_nth(void)
{
    void *pointer;
    EXPECT(cudaMalloc(&pointer, 16) == cudaSuccess);
    EXPECT(cudaMalloc(&pointer, 16) == cudaErrorMemoryAllocation);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation);
    EXPECT(cudaMalloc(&pointer, 16) == cudaSuccess);
    cudaStream_t stream;
    EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaErrorLaunchTimeout);
    EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaErrorLaunchTimeout);
    return 0;
}

static int part_memory(void)
{
    void *first, *second;
    size_t free_bytes, total;
    EXPECT(cudaMalloc(&first, 3 << 20) == cudaSuccess);
    EXPECT(cudaMalloc(&second, 2 << 20) == cudaErrorMemoryAllocation);
    EXPECT(cudaMemGetInfo(&free_bytes, &total) == cudaSuccess && free_bytes == 1 << 20 && total == 4 << 20);
    EXPECT(cudaFree(first) == cudaSuccess);
    EXPECT(cudaMalloc(&second, 2 << 20) == cudaSuccess);
    return 0;
}

static int part_no_device(void)
{
    int count = 7;
    void *pointer;
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
    EXPECT(cudaMalloc(&pointer, 16) == cudaErrorNoDevice);
    return 0;
}

static int part_old_driver(void)
{
    int count = -1, version;
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == -1);
    EXPECT(cudaDriverGetVersion(&version) == cudaSuccess && version == 12080);
    EXPECT(strstr(cudaGetErrorString(cudaErrorInsufficientDriver), "driver version"));
    return 0;
}

static int part_mixed(void)
{
    struct cudaDeviceProp p;
    int count, major;
    EXPECT(cudaGetDeviceCount(&count) == cudaSuccess && count == 2);
    EXPECT(cudaGetDeviceProperties(&p, 0) == cudaSuccess && p.major == 8 && p.totalGlobalMem == 10u << 20);
    EXPECT(cudaGetDeviceProperties(&p, 1) == cudaSuccess && p.major == 7 && p.totalGlobalMem == 20u << 20);
    EXPECT(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 1) == cudaSuccess && major == 7);
    EXPECT(cudaSetDevice(2) == cudaErrorInvalidDevice);
    EXPECT(cudaSetDevice(1) == cudaSuccess);
    cudaStream_t stream;
    float *x;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, N * sizeof *x);
    EXPECT(semantics_scale(stream, x, N, 1) == cudaErrorNoKernelImageForDevice);
    return 0;
}

static int part_rank(void)
{
    struct cudaDeviceProp p;
    EXPECT(cudaGetDeviceProperties(&p, 0) == cudaSuccess && p.major == 12);
    return 0;
}

static int part_default_stream(void)
{
    float *x;
    cudaMalloc((void **)&x, N * sizeof *x);
    semantics_scale(NULL, x, N, 1);
    return 0;
}

static int part_pageable(void)
{
    float *x, host[N] = {0};
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, sizeof host);
    cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, stream);
    return 0;
}

static int part_leak(void)
{
    void *pointer;
    cudaStream_t stream;
    cudaMalloc(&pointer, 12345);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    return 0;
}

static int part_no_leak(void)
{
    void *pointer;
    cudaStream_t stream;
    cudaMalloc(&pointer, 12345);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamDestroy(stream);
    cudaFree(pointer);
    return 0;
}

static int part_touch(void)
{
    cudaStream_t stream;
    float *x, *pinned;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, N * sizeof *x);
    cudaHostAlloc((void **)&pinned, N * sizeof *x, cudaHostAllocDefault);
    for (int i = 0; i < N; i++) pinned[i] = 2;
    cudaMemcpyAsync(x, pinned, N * sizeof *x, cudaMemcpyHostToDevice, stream);
    semantics_scale(stream, x, N, 2);
    cudaMemcpyAsync(pinned, x, N * sizeof *x, cudaMemcpyDeviceToHost, stream);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess && pinned[7] == 4);
    printf("and now the host touches it\n");
    fflush(stdout);
    return x[7] == 4;
}

static int part_hang(void)
{
    cudaStream_t stream;
    float *x;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc((void **)&x, N * sizeof *x);
    semantics_scale(stream, x, N, 1);
    usleep(50000);
    EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} parts[] = {{"sticky", part_sticky},
             {"nth", part_nth},
             {"memory", part_memory},
             {"no-device", part_no_device},
             {"old-driver", part_old_driver},
             {"mixed", part_mixed},
             {"rank", part_rank},
             {"default-stream", part_default_stream},
             {"pageable", part_pageable},
             {"leak", part_leak},
             {"no-leak", part_no_leak},
             {"touch", part_touch},
             {"hang", part_hang}};

/* Runs a part; with what it must say, and how it must end. */
static void part(const char *name, const char *environment[], const char *says, int status, int ended_by)
{
    struct outcome o = outcome_of((const char *[]){self, name, NULL}, environment);
    if (o.status != status || o.signal != ended_by) print_message("%s", o.text);
    assert_true(outcome_says(&o, says));
    assert_int_equal(o.status, status);
    assert_int_equal(o.signal, ended_by);
    outcome_free(&o);
}
#define WITH(...)                                                                                            \
    (const char *[])                                                                                         \
    {                                                                                                        \
        __VA_ARGS__, NULL                                                                                    \
    }

static void a_fault_in_a_kernel_stays_until_the_device_is_reset(void **state)
{
    part("sticky", WITH("REFRAIN_FAKEGPU_FAIL=kernel:3"), "kernel fails with 700", 0, 0);
}

static void the_nth_call_fails_with_its_usual_or_a_given_error_once_or_from_then_on(void **state)
{
    part("nth", WITH("REFRAIN_FAKEGPU_FAIL=cudaMalloc:2,1/cudaMalloc:3,cudaStreamCreate:1+=702"),
         "cudaMalloc fails", 0, 0);
}

static void a_fault_that_does_not_parse_is_told(void **state)
{
    part("nth", WITH("REFRAIN_FAKEGPU_FAIL=cudaMalloc"), "\"cudaMalloc\" is not", 0, SIGABRT);
}

static void memory_is_limited_and_comes_back_when_freed(void **state)
{
    part("memory", WITH("REFRAIN_FAKEGPU_MEMORY_MB=4"), "2097152 bytes, of 3145728 in use", 0, 0);
}

static void without_a_device_every_call_says_so(void **state)
{
    part("no-device", WITH("REFRAIN_FAKEGPU_DEVICES=0"), "", 0, 0);
    part("no-device", WITH("CUDA_VISIBLE_DEVICES="), "", 0, 0);
    part("no-device", WITH("CUDA_VISIBLE_DEVICES=4,0"), "", 0, 0);
}

static void an_old_driver_is_told_and_the_count_left_alone(void **state)
{
    part("old-driver", WITH("REFRAIN_FAKEGPU_DRIVER=12080"), "", 0, 0);
}

static void devices_may_differ_and_old_ones_have_no_kernels(void **state)
{
    part("mixed",
         WITH("REFRAIN_FAKEGPU_DEVICES=2", "REFRAIN_FAKEGPU_CAPABILITY=8.0,7.5",
              "REFRAIN_FAKEGPU_MEMORY_MB=10,20"),
         "", 0, 0);
    part("rank", WITH("REFRAIN_FAKEGPU_CAPABILITY=9.0,8.0,12.0", "OMPI_COMM_WORLD_RANK=2"), "", 0, 0);
}

static void lints_end_a_program_that_uses_the_default_stream_or_pageable_copies(void **state)
{
    part("default-stream", WITH("REFRAIN_FAKEGPU_LINT=default-stream"),
         "scale_kernel<64, true> uses the default stream", 0, SIGABRT);
    part("pageable", WITH("REFRAIN_FAKEGPU_LINT=pageable,leaks"), "pageable memory is not asynchronous", 0,
         SIGABRT);
}

static void what_was_not_given_back_is_told_at_exit(void **state)
{
    part("leak", WITH("REFRAIN_FAKEGPU_LINT=leaks"), "12345 bytes of device memory were not given back", 1,
         0);
    part("no-leak", WITH("REFRAIN_FAKEGPU_LINT=leaks"), "", 0, 0);
}

static void the_host_cannot_touch_device_memory_when_it_is_protected(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    skip(); /* its handler of SIGSEGV comes first */
#endif
    part("touch", WITH("REFRAIN_FAKEGPU_PROTECT=1"), "the host touched device memory", 0, SIGSEGV);
}

static void work_that_hangs_leaves_its_stream_not_ready(void **state)
{
    part("hang", WITH("REFRAIN_FAKEGPU_FAIL=kernel:1=hang"), "", 0, 0);
}

int main(int count, char **arguments)
{
    self = arguments[0];
    for (size_t i = 0; count > 1 && i < sizeof parts / sizeof *parts; i++)
        if (strcmp(arguments[1], parts[i].name) == 0) return parts[i].run();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_blocked_stream_blocks_neither_the_host_nor_another_stream),
        cmocka_unit_test(a_stream_waits_for_an_event_as_it_was_when_asked),
        cmocka_unit_test(events_measure_the_time_between_them),
        cmocka_unit_test(the_default_stream_and_blocking_streams_wait_for_each_other),
        cmocka_unit_test(copies_are_checked_against_allocations_and_direction),
        cmocka_unit_test(only_pinned_memory_is_copied_asynchronously),
        cmocka_unit_test(registered_memory_counts_as_pinned_and_cannot_be_registered_twice),
        cmocka_unit_test(memory_in_use_is_accounted_and_unwritten_memory_is_nan),
        cmocka_unit_test(launches_outside_the_limits_are_refused),
        cmocka_unit_test(a_host_function_may_not_call_cuda),
        cmocka_unit_test(a_captured_graph_runs_when_launched_and_as_often),
        cmocka_unit_test(a_graph_of_the_same_shape_is_updated_and_another_is_refused),
        cmocka_unit_test(a_capture_follows_events_to_other_streams_and_must_be_joined),
        cmocka_unit_test(what_a_capture_does_not_allow_loses_it),
        cmocka_unit_test(a_fault_in_a_kernel_stays_until_the_device_is_reset),
        cmocka_unit_test(the_nth_call_fails_with_its_usual_or_a_given_error_once_or_from_then_on),
        cmocka_unit_test(a_fault_that_does_not_parse_is_told),
        cmocka_unit_test(memory_is_limited_and_comes_back_when_freed),
        cmocka_unit_test(without_a_device_every_call_says_so),
        cmocka_unit_test(an_old_driver_is_told_and_the_count_left_alone),
        cmocka_unit_test(devices_may_differ_and_old_ones_have_no_kernels),
        cmocka_unit_test(lints_end_a_program_that_uses_the_default_stream_or_pageable_copies),
        cmocka_unit_test(what_was_not_given_back_is_told_at_exit),
        cmocka_unit_test(the_host_cannot_touch_device_memory_when_it_is_protected),
        cmocka_unit_test(work_that_hangs_leaves_its_stream_not_ready),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
