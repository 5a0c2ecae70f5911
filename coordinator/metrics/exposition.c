/* exposition.c - see exposition.h. */
#include "coordinator/metrics/exposition.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(struct exposition *out, const char *text, size_t bytes)
{
    if (out->failed) return;
    if (bytes > out->room - out->bytes) {
        size_t room = out->room ? 2 * out->room : 4096;
        while (room - out->bytes < bytes) room *= 2;
        char *grown = realloc(out->text, room);
        if (!grown) {
            out->failed = true;
            return;
        }
        out->text = grown;
        out->room = room;
    }
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
}

static void say(struct exposition *out, const char *text)
{
    put(out, text, strlen(text));
}

/* Most numbers are whole ones, of many thousands; a text is made while the loop does nothing else. */
static void put_whole(struct exposition *out, uint64_t value)
{
    char text[24], *at = text + sizeof text;
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    put(out, at, (size_t)(text + sizeof text - at));
}

/* Others to the last digit that a double has; the format's own words for the rest. */
static void put_number(struct exposition *out, double value)
{
    char text[32];
    if (isnan(value))
        say(out, "NaN");
    else if (isinf(value))
        say(out, value > 0 ? "+Inf" : "-Inf");
    else if (value >= 0 && value < 1e18 && value == floor(value))
        put_whole(out, (uint64_t)value);
    else
        put(out, text, (size_t)snprintf(text, sizeof text, fabs(value) < 1e15 ? "%.15g" : "%.17g", value));
}

/* A byte that would end the value, or the line, is written as the format says. */
static void put_escaped(struct exposition *out, const char *value)
{
    for (;;) {
        size_t plain = strcspn(value, "\\\"\n");
        put(out, value, plain);
        value += plain;
        if (!*value) return;
        put(out, (const char[]){'\\', *value == '\n' ? 'n' : *value}, 2);
        value++;
    }
}

static void put_label(struct exposition *out, const char *before, const struct label *label)
{
    say(out, before);
    say(out, label->name);
    say(out, "=\"");
    put_escaped(out, label->value);
    say(out, "\"");
}

/* `last`: of a bucket, beside the others; NULL: none. */
static void put_labels(struct exposition *out, const struct label *labels, const struct label *last)
{
    const char *before = "{";
    for (; labels->name; labels++, before = ",") put_label(out, before, labels);
    if (last) put_label(out, before, last), before = ",";
    if (*before == ',') say(out, "}");
}

static void put_sample(struct exposition *out, const char *suffix, double value, const struct label *labels,
                       const struct label *last)
{
    say(out, out->family);
    say(out, suffix);
    put_labels(out, labels, last);
    say(out, " ");
    put_number(out, value);
    say(out, "\n");
}

void exposition_family(struct exposition *out, const char *name, enum exposed type, const char *help)
{
    static const char *const types[] = {"gauge", "counter", "histogram"};
    out->family = name;
    say(out, "# HELP "), say(out, name), say(out, " "), say(out, help), say(out, "\n");
    say(out, "# TYPE "), say(out, name), say(out, " "), say(out, types[type]), say(out, "\n");
}

void exposition_value(struct exposition *out, double value, const struct label *labels)
{
    put_sample(out, "", value, labels, NULL);
}

void histogram_add(struct histogram *histogram, double value, uint64_t times)
{
    uint32_t bucket = 0;
    if (!isfinite(value) || value < 0) return;
    while (bucket < histogram->buckets && value > histogram->bounds[bucket]) bucket++;
    histogram->count[bucket] += times;
    histogram->sum += value * (double)times;
}

/* Buckets hold all that is below their bound: the last one is the count. */
void exposition_histogram(struct exposition *out, const struct histogram *histogram,
                          const struct label *labels)
{
    uint64_t below = 0;
    for (uint32_t i = 0; i <= histogram->buckets; i++) {
        char bound[32] = "+Inf";
        struct label le = {"le", bound};
        if (i < histogram->buckets) snprintf(bound, sizeof bound, "%g", histogram->bounds[i]);
        below += histogram->count[i];
        put_sample(out, "_bucket", (double)below, labels, &le);
    }
    put_sample(out, "_sum", histogram->sum, labels, NULL);
    put_sample(out, "_count", (double)below, labels, NULL);
}

void exposition_free(struct exposition *out)
{
    free(out->text);
    *out = (struct exposition){0};
}
