/* line.c - see line.h. */
#include "base/line.h"

#include <stdarg.h>
#include <stdio.h>

void line_put(struct line *line, const char *format, ...)
{
    va_list arguments;
    if (line->used >= line->bytes) return;
    va_start(arguments, format);
    int length = vsnprintf(line->text + line->used, line->bytes - line->used, format, arguments);
    va_end(arguments);
    if (length > 0) line->used += (size_t)length;
}
