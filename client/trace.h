/*
 * trace.h - what a run with the policy `calibrate` measured: its trace.json, read.
 *
 *     struct trace *trace;
 *     status_t status = trace_read("trace.json", &trace, &error);
 *     const struct sums *sums = trace_at(trace, TRACE_RESIDUAL, branch, step, lag);     NULL: not measured
 *     trace_free(trace);
 *
 * A record compares the tensors of step `step` with those of step `step - lag`, in every kind of tensor that
 * policies look at; lag 0 has only `residual`, and of it only now2, the square of its length. The file is
 * made by worker/job.c. Any thread.
 */
#ifndef REFRAIN_CLIENT_TRACE_H
#define REFRAIN_CLIENT_TRACE_H

#include "cache/policy.h"

enum trace_tensor {
    TRACE_RESIDUAL,   /* what all blocks added to the hidden state */
    TRACE_OUTPUT,     /* velocity of the branch */
    TRACE_LATENT,     /* what the step started from */
    TRACE_TIME,       /* time embedding; lag 1 only */
    TRACE_PROJECTION, /* its projection; lag 1 only */
    TRACE_TENSORS
};

enum { TRACE_LAGS = 64, TRACE_NAME_BYTES = 65 };

struct trace {
    int steps, branches, lags; /* lags 1..lags were measured */
    double shift;
    double sigmas[CACHE_STEPS + 1]; /* [steps + 1] */
    struct cache_model model;
    char name[TRACE_NAME_BYTES]; /* of the model; "": it does not say */
    struct trace_record {
        bool known[TRACE_TENSORS];
        struct sums sums[TRACE_TENSORS];
    } records[]; /* [branches][steps][lags + 1] */
};

/* A trace without records; NULL when memory is short. For tests and trace_read. */
struct trace *trace_new(int steps, int branches, int lags);
void trace_free(struct trace *trace); /* NULL is fine */

/* The record's place; step, branch and lag must be within the trace. */
struct trace_record *trace_record(const struct trace *trace, int branch, int step, int lag);

/* NULL: not measured. */
const struct sums *trace_at(const struct trace *trace, enum trace_tensor tensor, int branch, int step,
                            int lag);

/* CORRUPT or IO, with a sentence that names the file and what is wrong with it. */
status_t trace_read(const char *path, struct trace **trace, struct error *error);

#endif
