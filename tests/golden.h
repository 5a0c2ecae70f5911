/*
 * golden.h - reference data for tests: tests/golden/NAME.safetensors, made by tools/reference.py, never by
 * our code.
 *
 *     struct golden *g = golden_open("vae_tiny");
 *     int64_t count;
 *     const float *want = golden_f32(g, "decoded", &count);
 *     ...
 *     golden_expect(g, "decoded", ours, count, 2e-5);           relative L2, prints the figures when it fails
 *     golden_close(g);
 *
 * A missing file or tensor fails the running cmocka test with a sentence. Arrays belong to the golden and
 * live until it is closed. Tests run from the repository's root; REFRAIN_ROOT names another place.
 */
#ifndef REFRAIN_TESTS_GOLDEN_H
#define REFRAIN_TESTS_GOLDEN_H

#include <stdbool.h>
#include <stdint.h>

struct golden;

/* A path below the repository's root, or one that begins with /, in a buffer of the caller. */
const char *golden_path(char *buffer, int bytes, const char *relative);

struct golden *golden_open(const char *name); /* never NULL */
struct golden *golden_open_path(const char *path);
void golden_close(struct golden *golden); /* NULL is fine */

bool golden_has(const struct golden *golden, const char *tensor);
/* As float32, widened from what is stored. count may be NULL. */
const float *golden_f32(struct golden *golden, const char *tensor, int64_t *count);
/* Integers and booleans, widened. count may be NULL. */
const int64_t *golden_i64(struct golden *golden, const char *tensor, int64_t *count);
/* Sizes of a float tensor; returns the rank. shape: [8]. */
int golden_shape(struct golden *golden, const char *tensor, int64_t shape[8]);

/* ||a - b||2 / ||b||2 in double; b is the reference. NaN in `a` gives NaN, which is below no limit. */
double golden_relative_l2(const float *a, const float *b, int64_t count);
double golden_max_abs(const float *a, const float *b, int64_t count);
/* In dB, for values in 0..1; infinite for equal ones. */
double golden_psnr(const float *a, const float *b, int64_t count);

/* Fails the test unless `ours` has `count` elements in the golden and relative L2 <= limit. */
void golden_expect(struct golden *golden, const char *tensor, const float *ours, int64_t count, double limit);

#endif
