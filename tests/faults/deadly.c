/*
 * deadly.c - ends a rank by SIGKILL in the middle of what it says to another: preloaded into whole services (LD_PRELOAD), where no
 * test could find the moment from outside.
 *
 * REFRAIN_DEADLY names a file. While it is there, its three numbers are: an envelope's kind, a ticket's kind (for DATA), microseconds.
 * The first process whose fabric sends such a head over ZeroMQ removes the file, waits so long, and is gone: the head has been handed
 * over, what follows it has not.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cluster/envelope.h"
#include "cluster/wire.h"

int zmq_send(void *socket, const void *bytes, size_t size, int flags);

enum { TICKET_KIND_AT = ENVELOPE_BYTES + 6 };

static int is_deadly(const unsigned char *head, size_t size, const char *path, unsigned *wait_us)
{
    unsigned envelope_kind, ticket_kind;
    if (size < ENVELOPE_BYTES || memcmp(head, "RFFB", 4) != 0) return 0;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int read = fscanf(file, "%u %u %u", &envelope_kind, &ticket_kind, wait_us);
    fclose(file);
    if (read != 3 || head[5] != envelope_kind) return 0;
    if (envelope_kind != ENVELOPE_DATA) return 1;
    return size >= TICKET_KIND_AT + 2 && wire_get16(head + TICKET_KIND_AT) == ticket_kind;
}

int zmq_send(void *socket, const void *bytes, size_t size, int flags)
{
    static int (*real)(void *, const void *, size_t, int);
    const char *path = getenv("REFRAIN_DEADLY");
    unsigned wait_us;
    if (!real) real = (int (*)(void *, const void *, size_t, int))dlsym(RTLD_NEXT, "zmq_send");
    int sent = real(socket, bytes, size, flags);
    if (sent < 0 || !path || !is_deadly(bytes, size, path, &wait_us) || unlink(path) != 0) return sent;
    usleep(wait_us);
    kill(getpid(), SIGKILL);
    return sent;
}
