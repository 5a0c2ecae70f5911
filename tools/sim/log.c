/*
 * log.c - base/log.h with the virtual clock's seconds and whose turn it is. In place of base/log.o. One thread, and the
 * coordinator's sync thread.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static const char *const names[] = {"error", "warn", "info", "debug"};
static char speaker[64] = "coordinator";

void log_identify(const char *who)
{
    snprintf(speaker, sizeof speaker, "%s", who);
}

/* -1: nothing at all, unless somebody asks; a killed rank is no news here. */
static int wanted_level(void)
{
    const char *text = getenv("REFRAIN_LOG");
    for (int i = LOG_ERROR; text && i <= LOG_DEBUG; i++)
        if (strcmp(text, names[i]) == 0) return i;
    return -1;
}

void log_line(enum log_level level, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if ((int)level > wanted_level()) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%10.4f %-5s %s: %s\n", (double)clock_now_ns() / (double)SECOND_NS, names[level], speaker,
            text);
}
