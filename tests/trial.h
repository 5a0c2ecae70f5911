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
 * bytes. */
struct sheet {
    float *memory, *at;
    int rows, width;
    int64_t stride;
};

struct sheet sheet_new(int rows, int width, int64_t stride);
void sheet_free(struct sheet *s);

/* Rows outside [first, first + count) and everything between rows must be untouched. */
void sheet_check_guard(const struct sheet *s, int first, int count);
void sheet_same_bits(const struct sheet *a, const struct sheet *b, int first, int count, const char *what);

/* ||a - b|| / ||b|| over all rows */
double sheet_error(const struct sheet *a, const struct sheet *b);

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
};

void trial_check(const struct trial *trial);

/* Teams of 1, 2, 3 and 5 threads: group fixtures, and the one of number i. */
enum { TRIAL_TEAMS = 4 };
int trial_make_teams(void **state);
int trial_drop_teams(void **state);
struct team *trial_team(int i);

#endif
