/*
 * calls.c - sends and receives of the stand-in, alone or in groups. What a group collects is the calling
 * thread's own; it becomes one operation per communicator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakegpu/nccl/api.h"

enum { GROUP_MAX = 64 };

struct pending {
    struct comm *comm;
    void *stream;
    struct message message;
};

static _Thread_local int depth, count;
static _Thread_local struct pending pending[GROUP_MAX];

bool calls_in_group(void)
{
    return depth > 0;
}

static size_t size_of(int type)
{
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* ncclInt8 .. ncclFloat8e5m2 */
    return type >= 0 && type < (int)(sizeof sizes / sizeof *sizes) ? sizes[type] : 0;
}

/* Everything pending for the first communicator there as one operation. */
static int enqueue_first(void)
{
    struct comm *comm = pending[0].comm;
    void *stream = pending[0].stream;
    struct operation *o = calloc(1, sizeof *o + (size_t)count * sizeof *o->messages);
    int kept = 0;
    if (!o) return SYSTEM_ERROR;
    o->comm = comm;
    for (int i = 0; i < count; i++) {
        if (pending[i].comm == comm)
            o->messages[o->count++] = pending[i].message;
        else
            pending[kept++] = pending[i];
    }
    count = kept;
    return operation_enqueue(o, stream);
}

static int flush(void)
{
    int result = NCCL_SUCCESS;
    while (count > 0) {
        int now = enqueue_first();
        if (now != NCCL_SUCCESS && (result == NCCL_SUCCESS || result == NCCL_IN_PROGRESS)) result = now;
    }
    return result;
}

EXPORT int ncclGroupStart(void)
{
    depth++;
    return NCCL_SUCCESS;
}

EXPORT int ncclGroupEnd(void)
{
    if (depth == 0) return INVALID_USAGE;
    return --depth == 0 ? flush() : NCCL_SUCCESS;
}

static int add(const char *call, bool send, void *memory, size_t elements, int type, int peer,
               struct comm *comm, void *stream)
{
    enum fault fault = fault_due(call);
    if (fault == FAULT_HANG) fault_hang();
    if (fault == FAULT_FAIL) return comm_fail(comm, INTERNAL_ERROR, "%s was to fail", call);
    if (!comm || peer < 0 || peer >= comm->ranks || !size_of(type)) return INVALID_ARGUMENT;
    int result = comm_check(comm, call);
    if (result != NCCL_SUCCESS) return result;
    if (count == GROUP_MAX) fault_lint("more than %d calls in a group", GROUP_MAX);
    pending[count++] = (struct pending){
        comm,
        stream,
        {.send = send, .peer = peer, .type = type, .memory = memory, .bytes = elements * size_of(type)}};
    return depth > 0 ? NCCL_SUCCESS : flush();
}

EXPORT int ncclSend(const void *memory, size_t elements, int type, int peer, struct comm *comm, void *stream)
{
    /* It is only read; a message just has no const. */
    return add("ncclSend", true, (void *)(uintptr_t)memory, elements, type, peer, comm, stream);
}

EXPORT int ncclRecv(void *memory, size_t elements, int type, int peer, struct comm *comm, void *stream)
{
    return add("ncclRecv", false, memory, elements, type, peer, comm, stream);
}
