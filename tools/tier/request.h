/*
 * request.h - one request of a trace, what its work costs, and the file format.
 *
 * A trace is a text file, one JSON object a line, by time:
 *     {"t": 12.5, "tenant": "ann", "model": "wan-14b", "width": 1280, "height": 720, "frames": 81, "steps": 50,
 *      "prompt": "p17", "negative": "n0", "seed": 42, "guidance": 5.0, "from": 3, "at": 30}
 * t: seconds. prompt, negative: any text that is equal when the prompts are (a hash will do). from, at: it goes on from
 * step `at` of the request on line `from` (0 is the first); left out: from noise. model: "wan-14b" or "wan-1.3b".
 *
 * Costs are operations by the sizes of Wan 2.1 over a rate, bytes as refrain's items have them.
 */
#ifndef REFRAIN_TOOLS_TIER_REQUEST_H
#define REFRAIN_TOOLS_TIER_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/status.h"

struct model {
    const char *name;
    int layers, width, ffn;
};
extern const struct model models[]; /* name NULL at the end */

struct request {
    double t;
    char tenant[32];
    const struct model *model;
    uint32_t width, height, frames, steps;
    uint64_t prompt, negative, seed; /* hashes of the texts */
    double guidance;
    int64_t from; /* -1: from noise */
    uint32_t at;
};

struct trace {
    struct request *request;
    size_t count, room;
};

/* What an item of a request takes and saves. */
struct costs {
    double text_s, forward_s; /* one branch of one step */
    uint64_t text_bytes, output_bytes, checkpoint_bytes, latent_bytes;
};
struct costs request_costs(const struct request *request);

void trace_add(struct trace *trace, const struct request *request);
status_t trace_read(FILE *file, struct trace *trace, struct error *error);
void trace_write(const struct trace *trace, FILE *file);

/* A made-up trace; false: no such name. Names: trace_names, NULL at the end. */
bool trace_make(const char *name, uint64_t seed, struct trace *trace);
extern const char *const trace_names[];

#endif
