/* status.c - see status.h. Stateless; any thread. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A sentence may quote bytes from outside: keep terminals and logs safe from them. UTF-8 passes. */
static void make_printable(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f) *c = '?';
}

status_t error_set(struct error *error, status_t status, const char *format, ...)
{
    if (!error) return status;
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    make_printable(error->text);
    return status;
}

void error_prefix(struct error *error, const char *format, ...)
{
    if (!error) return;
    char inner[ERROR_TEXT_BYTES];
    memcpy(inner, error->text, sizeof inner);
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    if (used < 0) used = 0;
    size_t at = (size_t)used;
    if (at + 3 < sizeof error->text) /* ": ", what fits of the sentence, and its end */
        snprintf(error->text + at, sizeof error->text - at, ": %.*s", (int)(sizeof error->text - at - 3),
                 inner);
    make_printable(error->text);
}

const char *status_name(status_t status)
{
    static const char *const names[] = {"ok",           "try again",     "invalid",         "not found",
                                        "conflict",     "denied",        "corrupt",         "unsupported",
                                        "system error", "out of memory", "deadline passed", "peer lost",
                                        "aborted",      "internal error"};
    size_t index = (size_t)status;
    return index < sizeof names / sizeof *names ? names[index] : "unknown status";
}
