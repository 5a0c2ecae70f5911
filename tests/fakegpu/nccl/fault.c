/* fault.c - what the environment wants to go wrong; see fakenccl.h. Any thread. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/fakegpu/nccl/fakenccl.h"

static struct world here;
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { CALLS_MAX = 16 };

/* How often each call was made that REFRAIN_FAKENCCL_FAIL could name. */
static struct {
    char name[32];
    int count;
} calls[CALLS_MAX];
static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t number(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoll(text, NULL, 10) : otherwise;
}

static void read_world(void)
{
    const char *death = getenv("REFRAIN_FAKENCCL_ON_DEATH"), *link = getenv("REFRAIN_FAKENCCL_LINK"),
               *name = getenv("REFRAIN_FAKENCCL_NAME");
    here.name = name ? name : "x";
    here.version = (int)number("REFRAIN_FAKENCCL_VERSION", 22809);
    here.death_is_error = death && strcmp(death, "error") == 0;
    here.serial = number("REFRAIN_FAKENCCL_SERIAL", 0) != 0;
    here.outstanding = (int)number("REFRAIN_FAKENCCL_OUTSTANDING", 0);
    here.die_at = (int)number("REFRAIN_FAKENCCL_DIE_AT", 0);
    here.late_ns = number("REFRAIN_FAKENCCL_LATE_US", 0) * 1000;
    here.stuck_ns = number("REFRAIN_FAKENCCL_STUCK_MS", 0) * 1000000;
    int delay_us = 0;
    double mbs = 0;
    if (link && sscanf(link, "%d,%lf", &delay_us, &mbs) != 2)
        fault_lint("REFRAIN_FAKENCCL_LINK=%s: must be US,MBS", link);
    here.link_delay_ns = delay_us * INT64_C(1000);
    here.link_bytes_per_ns = mbs / 1000;
}

const struct world *world(void)
{
    pthread_once(&once, read_world);
    return &here;
}

/* The number of this call of that name, from 1. */
static int count_call(const char *name)
{
    int count = 0;
    pthread_mutex_lock(&calls_lock);
    for (int i = 0; i < CALLS_MAX && !count; i++) {
        if (!calls[i].name[0]) snprintf(calls[i].name, sizeof calls[i].name, "%s", name);
        if (strcmp(calls[i].name, name) == 0) count = ++calls[i].count;
    }
    pthread_mutex_unlock(&calls_lock);
    return count;
}

enum fault fault_due(const char *call)
{
    const char *wanted = getenv("REFRAIN_FAKENCCL_FAIL");
    size_t length = strlen(call);
    int count = count_call(call);
    if (!wanted || strncmp(wanted, call, length) != 0 || wanted[length] != ':') return FAULT_NONE;
    char *rest;
    if (strtol(wanted + length + 1, &rest, 10) != count) return FAULT_NONE;
    return strcmp(rest, ":hang") == 0 ? FAULT_HANG : FAULT_FAIL;
}

void fault_hang(void)
{
    for (;;) pause();
}

void fault_lint(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fakenccl[%d]: ", (int)getpid());
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

int64_t fault_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void fault_nap_us(long us)
{
    const struct timespec pause_for = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&pause_for, NULL);
}
