/*
 * exposition.h - writes metrics in Prometheus' text format, version 0.0.4.
 *
 *     struct exposition out = {0};
 *     exposition_family(&out, "refrain_jobs", EXPOSED_GAUGE, "Unfinished jobs.");
 *     exposition_value(&out, 3, LABELS({"state", "queued"}));
 *     exposition_histogram(&out, &times, NO_LABELS);
 *     if (!out.failed) ... out.text, out.bytes ...
 *     exposition_free(&out);
 *
 * The format wants all values of a family together, after its HELP and TYPE. Names and help are the program's own; label
 * values may hold anything. Memory that is short shows in `failed`, and no half text is used. Plain values, no locks.
 */
#ifndef REFRAIN_COORDINATOR_METRICS_EXPOSITION_H
#define REFRAIN_COORDINATOR_METRICS_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum exposed { EXPOSED_GAUGE, EXPOSED_COUNTER, EXPOSED_HISTOGRAM };

struct exposition {
    char *text; /* [bytes], owned; not terminated */
    size_t bytes, room;
    const char *family; /* the one that values belong to */
    bool failed;
};

struct label {
    const char *name, *value; /* name NULL: the end */
};
#define LABELS(...) ((const struct label[]){__VA_ARGS__, {NULL, NULL}})
#define NO_LABELS   ((const struct label[]){{NULL, NULL}})

enum { HISTOGRAM_BUCKETS = 16 };

/* How often values were at most `bound[i]`, and above all of them. */
struct histogram {
    const double *bounds; /* [buckets], ascending; borrowed */
    uint32_t buckets;     /* at most HISTOGRAM_BUCKETS */
    uint64_t count[HISTOGRAM_BUCKETS + 1];
    double sum;
};

/* So many times that value; what is not a number, or below 0, is left out. */
void histogram_add(struct histogram *histogram, double value, uint64_t times);

void exposition_family(struct exposition *out, const char *name, enum exposed type, const char *help);
void exposition_value(struct exposition *out, double value, const struct label *labels);
void exposition_histogram(struct exposition *out, const struct histogram *histogram,
                          const struct label *labels);
void exposition_free(struct exposition *out);

#endif
