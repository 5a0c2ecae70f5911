/*
 * array.c - see array.h.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include "tests/gpu/array.h"
#include "tests/trial.h"

enum { GUARD = 128, CANARY = 0xff /* of either type: a NaN */ };

void *gpu_bytes(size_t bytes)
{
    void *memory = NULL;
    assert_int_equal(cudaMalloc(&memory, bytes ? bytes : 1), cudaSuccess);
    return memory;
}

void *gpu_copy(const void *host, size_t bytes)
{
    void *memory = gpu_bytes(bytes);
    assert_int_equal(cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return memory;
}

void gpu_free(void *memory)
{
    assert_int_equal(cudaFree(memory), cudaSuccess);
}

void gpu_wait(void)
{
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float float_of(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Under a checker for bounds memory ends where the array does: what reads beyond is found too. */
static size_t array_bytes(const struct array *a)
{
    size_t after = trial_small() ? 0 : GUARD, gap = trial_small() ? (size_t)(a->stride - a->width) : 0;
    size_t elements = (size_t)a->shift + (size_t)a->rows * (size_t)a->stride - (a->rows > 0 ? gap : 0);
    return GUARD + elements * dtype_bytes(a->dtype) + after;
}

static size_t offset(const struct array *a, int row, int column)
{
    return GUARD +
           ((size_t)a->shift + (size_t)row * (size_t)a->stride + (size_t)column) * dtype_bytes(a->dtype);
}

void *array_at(const struct array *a)
{
    return a->memory + offset(a, 0, 0);
}

struct array array_empty(struct array shape)
{
    struct array a = shape;
    if (!a.stride) a.stride = a.width;
    a.host = calloc((size_t)a.rows * (size_t)a.width, sizeof *a.host);
    assert_non_null(a.host);
    a.memory = gpu_bytes(array_bytes(&a));
    assert_int_equal(cudaMemset(a.memory, CANARY, array_bytes(&a)), cudaSuccess);
    return a;
}

void array_free(struct array *a)
{
    free(a->host);
    gpu_free(a->memory);
}

void array_upload(const struct array *a)
{
    char *bytes = malloc(array_bytes(a));
    assert_non_null(bytes);
    memset(bytes, CANARY, array_bytes(a));
    for (int row = 0; row < a->rows; row++)
        for (int i = 0; i < a->width; i++) {
            float value = a->host[(int64_t)row * a->width + i];
            uint16_t half = bf16_of(value);
            memcpy(bytes + offset(a, row, i), a->dtype == DTYPE_F32 ? (void *)&value : (void *)&half,
                   dtype_bytes(a->dtype));
        }
    assert_int_equal(cudaMemcpy(a->memory, bytes, array_bytes(a), cudaMemcpyHostToDevice), cudaSuccess);
    free(bytes);
}

struct array array_random(struct array shape, float size, uint64_t seed)
{
    struct array a = array_empty(shape);
    int64_t count = (int64_t)a.rows * a.width;
    free(a.host);
    a.host = random_floats(count, size, seed);
    for (int64_t i = 0; a.dtype == DTYPE_BF16 && i < count; i++) a.host[i] = float_of(bf16_of(a.host[i]));
    array_upload(&a);
    return a;
}

void array_download(struct array *a)
{
    size_t total = array_bytes(a), element = dtype_bytes(a->dtype);
    unsigned char *bytes = malloc(total);
    assert_non_null(bytes);
    gpu_wait();
    assert_int_equal(cudaMemcpy(bytes, a->memory, total, cudaMemcpyDeviceToHost), cudaSuccess);
    for (int row = 0; row < a->rows; row++)
        for (int i = 0; i < a->width; i++) {
            unsigned char *at = bytes + offset(a, row, i);
            uint16_t half;
            memcpy(&half, at, 2);
            float value = float_of(half);
            if (a->dtype == DTYPE_F32) memcpy(&value, at, 4);
            a->host[(int64_t)row * a->width + i] = value;
            memset(at, CANARY, element);
        }
    for (size_t i = 0; i < total; i++)
        if (bytes[i] != CANARY) fail_msg("written outside, at byte %zu of %zu", i, total);
    free(bytes);
}

double array_error(const struct array *a, const struct array *b)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < (int64_t)a->rows * a->width; i++) {
        double x = a->host[i], y = b->host[i];
        difference += (x - y) * (x - y);
        size += y * y;
    }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

double array_largest_error(const struct array *a, const struct array *b)
{
    double largest = 0;
    for (int64_t i = 0; i < (int64_t)a->rows * a->width; i++) {
        double error = fabs((double)a->host[i] - b->host[i]);
        if (!(error <= largest)) largest = error; /* a NaN stays */
    }
    return largest;
}

void array_same_bits(const struct array *part, const struct array *a, int first, int count, const char *what)
{
    for (int row = 0; row < count; row++)
        if (memcmp(part->host + (int64_t)row * a->width, a->host + (int64_t)(first + row) * a->width,
                   (size_t)a->width * sizeof(float)) != 0)
            fail_msg("%s: row %d has other bits", what, first + row);
}
