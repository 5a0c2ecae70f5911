/*
 * line.h - text for people, put together piece by piece in an array of the caller's.
 *
 *     struct line line = {text, sizeof text, 0};
 *     line_put(&line, "%u ranks", ranks);
 *     if (tail) line_put(&line, ", %u at the end", tail);
 *
 * It ends early where there is no more room, as a thousand ranks do not fit a line. Plain values, no allocation.
 */
#ifndef REFRAIN_BASE_LINE_H
#define REFRAIN_BASE_LINE_H

#include <stddef.h>

struct line {
    char *text; /* [bytes], terminated after the first line_put */
    size_t bytes, used;
};

void line_put(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
