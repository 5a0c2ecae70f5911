/* log.c - see log.h. One write(2) per line, so that lines of several processes do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char identity[64] = "refrain"; /* written once before threads start */
static atomic_int threshold = -1;     /* -1: the environment was not read yet */

void log_identify(const char *who)
{
    snprintf(identity, sizeof identity, "%s", who);
}

static int level_wanted(void)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    int level = atomic_load(&threshold);
    if (level >= 0) return level;
    level = LOG_INFO;
    const char *wish = getenv("REFRAIN_LOG");
    for (int i = 0; wish && i < 4; i++)
        if (strcmp(wish, names[i]) == 0) level = i;
    atomic_store(&threshold, level);
    return level;
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char *const tags[] = {"ERROR", "WARN ", "INFO ", "DEBUG"};
    if ((int)level > level_wanted()) return;
    char line[1024];
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &parts);
    used += (size_t)snprintf(line + used, sizeof line - used, ".%03ldZ %s %s: ", now.tv_nsec / 1000000,
                             tags[level], identity);
    va_list arguments;
    va_start(arguments, format);
    int text = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    va_end(arguments);
    if (text < 0) return;
    size_t room = sizeof line - used - 2;
    used += (size_t)text < room ? (size_t)text : room;
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* nowhere left to complain */
}
