/*
 * array.h - arrays of tests on the device: what surrounds them and lies between their rows must keep its bytes.
 *
 *     struct array x = array_random((struct array){.rows = 5, .width = 128, .stride = 136, .dtype = DTYPE_BF16}, 1, 42);
 *     cuda_something(stream, array_at(&x), x.stride, ...);
 *     array_download(&x);                       waits, checks the surroundings, and x.host has the values
 *     array_free(&x);
 *
 * `host` is [rows, width] float32 of values that `dtype` can hold, so that an error is one of arithmetic alone. Fails the
 * cmocka test it runs in. One thread.
 */
#ifndef REFRAIN_TESTS_GPU_ARRAY_H
#define REFRAIN_TESTS_GPU_ARRAY_H

#include "kernels/ops.h"

struct array {
    int rows, width, shift; /* shift: elements by which it misses alignment */
    int64_t stride;         /* elements; 0: width */
    dtype_t dtype;          /* float32 or bf16 */
    float *host;
    char *memory; /* of the device */
};

/* Uniform in [-size, size), rounded to the dtype; or bytes that show when they are read, everywhere. */
struct array array_random(struct array shape, float size, uint64_t seed);
struct array array_empty(struct array shape);
void array_free(struct array *a);

void *array_at(const struct array *a);
void array_upload(const struct array *a); /* after host was changed */
void array_download(struct array *a);

/* ||a - b|| / ||b|| of what the hosts have, and the largest |a - b|. */
double array_error(const struct array *a, const struct array *b);
double array_largest_error(const struct array *a, const struct array *b);

/* Rows [first, first + count) of `a` are the rows of `part`, bit by bit. */
void array_same_bits(const struct array *part, const struct array *a, int first, int count, const char *what);

/* Bytes of the device, and a copy there. */
void *gpu_bytes(size_t bytes);
void *gpu_copy(const void *host, size_t bytes);
void gpu_free(void *memory);
void gpu_wait(void);

#endif
