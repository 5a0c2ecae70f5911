/*
 * trial.h - how an op is put to the test: right (against `ref`), bit-identical in any company, with any
 * number of threads and on either instruction set, and writing nowhere but where it should.
 *
 *     struct trial t = {.name = "rms_norm", .items = rows, .width = width, .gap = 5, .run = norm_run,
 *                       .inputs = &in, .tolerance = 1e-6};
 *     trial_check(&t);
 *
 * An op is described by how to compute items [first, first + count) into a sheet; an item is what the
 * contract of kernels/ops.h calls a row. trial_check does the rest for all ops alike, and fails the cmocka
 * test it runs in.
 *
 * Backends: those of this machine's processor, and in programs that link it the emulated cuda (docs/gpu.md), under several
 * orders of execution of its threads. In others REFRAIN_TEST_GPU adds the machine's GPU (`make test-gpu`); where there is
 * none, the program says what is missing and ends with status 77. Inputs are made on the host; a run places them where its backend can read them.
 */
#ifndef REFRAIN_TESTS_TRIAL_H
#define REFRAIN_TESTS_TRIAL_H

#include "kernels/ops.h"

/* [count] numbers uniform in [-scale, scale), the same for the same seed; release with free(). */
float *random_floats(int64_t count, float scale, uint64_t seed);

/* A weight as checkpoints have it, [count] of a type, at an address that is aligned to nothing but its type:
 * one element after the beginning of what is returned, where matrix_of expects it. */
void *random_weights(int64_t count, dtype_t dtype, float scale, uint64_t seed);
struct matrix matrix_of(const void *data, dtype_t dtype, int rows, int columns);

/* A sheet is an output: [rows, width] at distance stride, with memory around and between that must keep its
 * bytes. What a run is given is of the backend, and of `dtype`; all others are the host's, and float32. */
struct sheet {
    float *memory, *at;
    int rows, width;
    int64_t stride;
    dtype_t dtype;
};

/* Where row `row` begins: for ops to write to. */
void *sheet_row(const struct sheet *s, int row);

struct sheet sheet_new(int rows, int width, int64_t stride);
void sheet_free(struct sheet *s);

/* Rows outside [first, first + count) and everything between rows must be untouched. */
void sheet_check_guard(const struct sheet *s, int first, int count);
void sheet_same_bits(const struct sheet *a, const struct sheet *b, int first, int count, const char *what);

/* ||a - b|| / ||b|| over all rows */
double sheet_error(const struct sheet *a, const struct sheet *b);

/* The backends under test, "ref" first, NULL at the end. */
const struct ops *const *trial_backends(void);

/* Copies of the host's arrays where `ops` can read them, until the results of this run were fetched (trial_fetch does it,
 * in trial_check unasked); on the processor the arrays themselves. NULL stays NULL. */
const void *trial_place(const struct ops *ops, struct team *team, const void *host, size_t bytes);
const float *trial_floats(const struct ops *ops, struct team *team, const float *host, int64_t count);
/* Floats as elements of `dtype`, rounded. */
const void *trial_elements(const struct ops *ops, struct team *team, const float *host, int64_t count,
                           dtype_t dtype);
/* Memory for `bytes` of results, filled from the host's; and the results, when all is done. */
void *trial_results(const struct ops *ops, struct team *team, const void *host, size_t bytes);
void trial_fetch(const struct ops *ops, struct team *team, const void *results, void *host, size_t bytes);

struct trial {
    const char *name;
    int items, width, gap; /* gap: floats between the items of the sheet */
    /* Computes items [first, first + count) into out, which holds all of them; `made` comes from `make`. */
    void (*run)(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                int count, const struct sheet *out);
    void *(*make)(const struct ops *ops, const void *inputs); /* weights, or NULL */
    void (*drop)(const struct ops *ops, void *made);
    const void *inputs;
    double tolerance;
    /* The output is of the backend's operand: only backends where that is not float32 are tried, and `tolerance` has the
     * rounding of inputs and outputs in it. */
    bool operand;
    /* Backends that compute in the operand's type round inputs to it whatever their type: their bound; 0: tolerance. And
     * bits of a row depend on the shape there, as far as the trial says. */
    double rounded_tolerance;
    bool shape_bound;
};

void trial_check(const struct trial *trial);

/* REFRAIN_TEST_SMALL is set: once each, on few and small shapes, by the GPU alone and beside `ref`: under a checker for races or bounds
 * (`make test-cuda`), which sees all that can go wrong the first time, and is slow. */
bool trial_small(void);

/* Teams of 1, 2, 3 and 5 threads: group fixtures, and the one of number i. */
enum { TRIAL_TEAMS = 4 };
int trial_make_teams(void **state);
int trial_drop_teams(void **state);
struct team *trial_team(int i);

#endif
