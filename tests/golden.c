/* golden.c - see golden.h. For test programs only: a failure ends the running cmocka test. */
#include "tests/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/model/checkpoint.h"

/* What was handed out, freed with the golden. */
struct loan {
    struct loan *next;
    void *memory;
};

struct golden {
    struct checkpoint *file;
    struct loan *loans;
    char path[512];
};

const char *golden_path(char *buffer, int bytes, const char *relative)
{
    const char *root = getenv("REFRAIN_ROOT");
    if (relative[0] == '/')
        snprintf(buffer, (size_t)bytes, "%s", relative);
    else
        snprintf(buffer, (size_t)bytes, "%s/%s", root ? root : ".", relative);
    return buffer;
}

struct golden *golden_open_path(const char *path)
{
    struct error error = {0};
    struct golden *golden = calloc(1, sizeof *golden);
    assert_non_null(golden);
    snprintf(golden->path, sizeof golden->path, "%s", path);
    if (checkpoint_open_file(path, &golden->file, &error) != STATUS_OK) {
        free(golden);
        fail_msg("%s", error.text);
    }
    return golden;
}

struct golden *golden_open(const char *name)
{
    char relative[256], path[512];
    snprintf(relative, sizeof relative, "tests/golden/%s.safetensors", name);
    return golden_open_path(golden_path(path, sizeof path, relative));
}

void golden_close(struct golden *golden)
{
    if (!golden) return;
    for (struct loan *loan = golden->loans, *next; loan; loan = next) {
        next = loan->next;
        free(loan->memory);
        free(loan);
    }
    checkpoint_close(golden->file);
    free(golden);
}

bool golden_has(const struct golden *golden, const char *tensor)
{
    return checkpoint_has(golden->file, tensor);
}

static void *lend(struct golden *golden, void *memory)
{
    struct loan *loan = malloc(sizeof *loan);
    assert_non_null(memory);
    assert_non_null(loan);
    *loan = (struct loan){golden->loans, memory};
    golden->loans = loan;
    return memory;
}

/* The view of a float tensor of any shape: its rank is not known, so all are tried. */
static struct tensor view(struct golden *golden, const char *name)
{
    static const int64_t any[TENSOR_MAX_RANK] = {-1, -1, -1, -1, -1, -1, -1, -1};
    struct tensor tensor;
    struct error error = {0};
    for (int rank = 0; rank <= TENSOR_MAX_RANK; rank++)
        if (checkpoint_tensor(golden->file, name, rank, any, &tensor, &error) == STATUS_OK) return tensor;
    fail_msg("%s", error.text);
    return (struct tensor){0};
}

const float *golden_f32(struct golden *golden, const char *name, int64_t *count)
{
    struct tensor tensor = view(golden, name);
    float *values = lend(golden, malloc(((size_t)tensor.count + 1) * sizeof *values));
    tensor_to_f32(&tensor, values);
    if (count) *count = tensor.count;
    return values;
}

const int64_t *golden_i64(struct golden *golden, const char *name, int64_t *count)
{
    int64_t *values = NULL, found = 0;
    struct error error = {0};
    if (checkpoint_integers(golden->file, name, &values, &found, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    if (count) *count = found;
    return lend(golden, values);
}

int golden_shape(struct golden *golden, const char *name, int64_t shape[8])
{
    struct tensor tensor = view(golden, name);
    memcpy(shape, tensor.shape, sizeof tensor.shape);
    return tensor.rank;
}

double golden_relative_l2(const float *a, const float *b, int64_t count)
{
    double difference = 0, reference = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)a[i] - b[i];
        difference += d * d;
        reference += (double)b[i] * b[i];
    }
    if (reference == 0) return difference == 0 ? 0 : INFINITY;
    return sqrt(difference / reference);
}

double golden_max_abs(const float *a, const float *b, int64_t count)
{
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= largest)) largest = d; /* NaN stays */
    }
    return largest;
}

double golden_psnr(const float *a, const float *b, int64_t count)
{
    double squares = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)a[i] - b[i];
        squares += d * d;
    }
    return squares == 0 ? INFINITY : -10 * log10(squares / (double)count);
}

void golden_expect(struct golden *golden, const char *name, const float *ours, int64_t count, double limit)
{
    int64_t wanted;
    const float *reference = golden_f32(golden, name, &wanted);
    if (wanted != count)
        fail_msg("%s: %s has %lld elements, ours %lld", golden->path, name, (long long)wanted,
                 (long long)count);
    double distance = golden_relative_l2(ours, reference, count);
    if (!(distance <= limit))
        fail_msg("%s: %s: relative L2 %.3g above %.3g (largest difference %.3g)", golden->path, name,
                 distance, limit, golden_max_abs(ours, reference, count));
}
