/*
 * trial.c - see trial.h. The teams are shared by all tests of a program, which run one after the other.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/plugin.h"
#include "kernels/weights.h"
#include "tests/trial.h"

enum { MAX_BACKENDS = 5, GUARD = 64, SMALL = 8000 /* elements */ };
static const int team_sizes[TRIAL_TEAMS] = {1, 2, 3, 5};

static float random_float(uint64_t *state) /* uniform in [-1, 1) */
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

float *random_floats(int64_t count, float scale, uint64_t seed)
{
    float *x = malloc((size_t)(count ? count : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++) x[i] = scale * random_float(&seed);
    return x;
}

void *random_weights(int64_t count, dtype_t dtype, float scale, uint64_t seed)
{
    size_t width = dtype_bytes(dtype);
    char *data = malloc((size_t)count * width + 2 * width);
    assert_non_null(data);
    for (int64_t i = 0; i < count; i++) {
        float value = scale * random_float(&seed);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = (uint16_t)(bits >> 16); /* bf16 by truncation */
        if (dtype == DTYPE_F16) half = (uint16_t)((bits >> 16 & 0x8000) | (0x2c00 + (bits >> 8 & 0xfff)));
        memcpy(data + width + (size_t)i * width, dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, width);
    }
    return data; /* the weights begin one element in */
}

struct matrix matrix_of(const void *data, dtype_t dtype, int rows, int columns)
{
    return (struct matrix){(const char *)data + dtype_bytes(dtype), dtype, rows, columns};
}

static const uint32_t guard_bits = 0x7fc0dead; /* a NaN: whoever reads it shows it */

static void sheet_fill(struct sheet *s)
{
    int64_t count = 2 * GUARD + s->rows * s->stride;
    for (int64_t i = 0; i < count; i++) memcpy(s->memory + i, &guard_bits, 4);
}

struct sheet sheet_new(int rows, int width, int64_t stride)
{
    struct sheet s = {.rows = rows, .width = width, .stride = stride};
    s.memory = malloc((size_t)(2 * GUARD + rows * stride) * sizeof(float));
    assert_non_null(s.memory);
    s.at = s.memory + GUARD;
    sheet_fill(&s);
    return s;
}

void sheet_free(struct sheet *s)
{
    free(s->memory);
}

void *sheet_row(const struct sheet *s, int row)
{
    return (char *)s->at + row * s->stride * (int64_t)dtype_bytes(s->dtype);
}

/* Rows outside [first, first + count) and everything between rows must be untouched. */
void sheet_check_guard(const struct sheet *s, int first, int count)
{
    int64_t begin = s->at - s->memory, total = 2 * GUARD + s->rows * s->stride;
    for (int64_t i = 0; i < total; i++) {
        int64_t row = (i - begin) / s->stride, column = (i - begin) % s->stride;
        bool inside = i >= begin && row >= first && row < first + count && column < s->width;
        if (!inside && memcmp(s->memory + i, &guard_bits, 4) != 0)
            fail_msg("written outside, at row %d", (int)row);
    }
}

void sheet_same_bits(const struct sheet *a, const struct sheet *b, int first, int count, const char *what)
{
    for (int row = first; row < first + count; row++)
        if (memcmp(a->at + row * a->stride, b->at + row * b->stride, (size_t)a->width * 4) != 0)
            fail_msg("%s: row %d has other bits", what, row);
}

/* ||a - b|| / ||b|| over all rows */
double sheet_error(const struct sheet *a, const struct sheet *b)
{
    double difference = 0, size = 0;
    for (int row = 0; row < a->rows; row++)
        for (int i = 0; i < a->width; i++) {
            double x = a->at[row * a->stride + i], y = b->at[row * b->stride + i];
            difference += (x - y) * (x - y);
            size += y * y;
        }
    return sqrt(difference) / (sqrt(size) + 1e-30);
}

/* ------------------------------------------------------------------------------------------------------ backends */

/* Linked into some programs; tests/cusim. */
extern const struct gpu_plugin refrain_gpu __attribute__((weak));
void cusim_set_seed(uint64_t seed) __attribute__((weak));

enum { SKIPPED = 77 };

/* The linked one; else, where REFRAIN_TEST_GPU asks for it, the machine's: without one there is nothing to test. */
static const struct ops *gpu_wanted(void)
{
    const struct ops *ops = NULL;
    struct error error;
    if (&refrain_gpu) return refrain_gpu.ops;
    if (!getenv("REFRAIN_TEST_GPU")) return NULL;
    if (ops_choose("cuda", &ops, &error) == STATUS_OK) return ops;
    fflush(stdout);
    fprintf(stderr, "%s\n", error.text);
    exit(SKIPPED);
}

const struct ops *const *trial_backends(void)
{
    static const struct ops *all[MAX_BACKENDS + 1];
    if (all[0]) return all;
    const struct ops *const *processor = ops_available();
    const struct ops *gpu = gpu_wanted();
    int count = 0;
    for (; processor[count]; count++) all[count] = processor[count];
    all[count] = gpu;
    return all;
}

bool trial_small(void)
{
    return getenv("REFRAIN_TEST_SMALL") != NULL;
}

static bool on_host(const struct ops *ops)
{
    return ops->local;
}

static void set_seed(uint64_t seed)
{
    if (cusim_set_seed) cusim_set_seed(seed);
}

static struct team *teams[TRIAL_TEAMS];

int trial_make_teams(void **state)
{
    struct error error = {0};
    setenv("REFRAIN_GPU", "0", 0); /* programs of tests share the emulated one */
    for (int i = 0; i < TRIAL_TEAMS; i++) {
        if (team_create(team_sizes[i], &teams[i], NULL)) return -1;
        for (const struct ops *const *ops = trial_backends(); *ops; ops++)
            if ((*ops)->open(teams[i], &error) != STATUS_OK) {
                print_error("%s: %s\n", (*ops)->name, error.text);
                return -1;
            }
    }
    return 0;
}

int trial_drop_teams(void **state)
{
    for (int i = 0; i < TRIAL_TEAMS; i++) {
        for (const struct ops *const *ops = trial_backends(); *ops; ops++) (*ops)->close(teams[i]);
        team_destroy(teams[i]);
    }
    return 0;
}

struct team *trial_team(int i)
{
    return teams[i];
}

/* -------------------------------------------------------------------------------------------- inputs and results */

enum { PLACES = 64 };
static void *places[PLACES];
static int place_count;

static void *take_place(const struct ops *ops, size_t bytes)
{
    struct error error;
    void *memory = NULL;
    assert_true(place_count < PLACES);
    if (ops->allocate(place_count % 2 ? MEMORY_SHARED : MEMORY_DEVICE, bytes ? bytes : 1, &memory, &error) !=
        STATUS_OK)
        fail_msg("%s: %s", ops->name, error.text);
    return places[place_count++] = memory;
}

const void *trial_place(const struct ops *ops, struct team *team, const void *host, size_t bytes)
{
    if (on_host(ops) || !host) return host;
    void *memory = take_place(ops, bytes);
    ops->copy(team, memory, host, bytes);
    return memory;
}

const float *trial_floats(const struct ops *ops, struct team *team, const float *host, int64_t count)
{
    return trial_place(ops, team, host, (size_t)count * sizeof *host);
}

const void *trial_elements(const struct ops *ops, struct team *team, const float *host, int64_t count,
                           dtype_t dtype)
{
    if (dtype == DTYPE_F32 || !host) return trial_floats(ops, team, host, count);
    uint16_t *narrow = malloc((size_t)count * sizeof *narrow + 1);
    assert_non_null(narrow);
    for (int64_t i = 0; i < count; i++) narrow[i] = bf16_from_float(host[i]);
    const void *placed = trial_place(ops, team, narrow, (size_t)count * sizeof *narrow);
    assert_int_equal(ops->wait(team, NULL), STATUS_OK);
    free(narrow);
    return placed;
}

void *trial_results(const struct ops *ops, struct team *team, const void *host, size_t bytes)
{
    return on_host(ops) ? (void *)(uintptr_t)host : (void *)(uintptr_t)trial_place(ops, team, host, bytes);
}

void trial_fetch(const struct ops *ops, struct team *team, const void *results, void *host, size_t bytes)
{
    struct error error;
    if (results != host) ops->copy(team, host, results, bytes);
    if (ops->wait(team, &error) != STATUS_OK) fail_msg("%s: %s", ops->name, error.text);
    while (place_count > 0)
        ops->release(MEMORY_DEVICE + (place_count - 1) % 2, places[place_count - 1]), place_count--;
}

/* ---------------------------------------------------------------------------------------------------------- trials */

/* The sheet of a backend whose memory is not the host's: `raw` is what is there, guards and all, as `dtype`. */
static void compute_away(const struct trial *t, const struct ops *ops, void *made, struct team *team,
                         int first, int count, struct sheet *s)
{
    dtype_t dtype = t->operand ? ops->operand : DTYPE_F32;
    size_t size = dtype_bytes(dtype), elements = (size_t)(2 * GUARD + s->rows * s->stride);
    unsigned char *raw = malloc(elements * size);
    assert_non_null(raw);
    memset(raw, 0xff, elements * size); /* a NaN of either type */
    struct sheet away = *s;
    away.dtype = dtype;
    away.memory = trial_results(ops, team, raw, elements * size);
    away.at = (float *)(void *)((char *)away.memory + GUARD * size);
    t->run(ops, made, team, t->inputs, first, count, &away);
    trial_fetch(ops, team, away.memory, raw, elements * size);
    for (size_t i = 0; i < elements; i++) {
        int64_t row = ((int64_t)i - GUARD) / s->stride, column = ((int64_t)i - GUARD) % s->stride;
        bool inside = i >= GUARD && row >= first && row < first + count && column < s->width;
        if (inside)
            s->at[row * s->stride + column] = weights_get(raw, dtype, (int64_t)i);
        else
            for (size_t b = 0; b < size; b++)
                if (raw[i * size + b] != 0xff)
                    fail_msg("%s, %s: written outside, at row %d", t->name, ops->name, (int)row);
    }
    free(raw);
}

static struct sheet compute(const struct trial *t, const struct ops *ops, void *made, struct team *team,
                            int first, int count)
{
    struct sheet s = sheet_new(t->items, t->width, t->width + t->gap);
    if (on_host(ops))
        t->run(ops, made, team, t->inputs, first, count, &s);
    else
        compute_away(t, ops, made, team, first, count, &s);
    sheet_check_guard(&s, first, count);
    return s;
}

/* The same items in other company: everything on other teams, then each alone or with some neighbours. */
static void check_company(const struct trial *t, const struct ops *ops, void *made, const struct sheet *whole)
{
    for (int i = 1; i < TRIAL_TEAMS; i++) {
        set_seed((uint64_t)i);
        struct sheet s = compute(t, ops, made, teams[i], 0, t->items);
        sheet_same_bits(&s, whole, 0, t->items, on_host(ops) ? "another number of threads" : "another order");
        sheet_free(&s);
    }
    set_seed(0);
    if (t->shape_bound && !on_host(ops)) return;
    for (int first = 0, n = 0; first < t->items; first += n % 3 == 0 ? 1 : t->items / 4 + 1, n++) {
        int count = n % 3 + (n % 5) * 4 + 1;
        if (count > t->items - first) count = t->items - first;
        struct sheet s = compute(t, ops, made, teams[n % TRIAL_TEAMS], first, count);
        sheet_same_bits(&s, whole, first, count, "other company");
        sheet_free(&s);
    }
}

void trial_check(const struct trial *t)
{
    const struct ops *const *backends = trial_backends();
    struct sheet results[MAX_BACKENDS];
    int count = 0;
    if (trial_small() && (int64_t)t->items * t->width > SMALL) return;
    for (int i = 0; backends[i]; i++) {
        const struct ops *ops = backends[i];
        if ((t->operand || trial_small()) && i > 0 && on_host(ops)) continue;
        void *made = t->make ? t->make(ops, t->inputs) : NULL;
        results[count] = compute(t, ops, made, teams[0], 0, t->items);
        double error = sheet_error(&results[count], &results[0]);
        double bound = !on_host(ops) && t->rounded_tolerance > 0 ? t->rounded_tolerance : t->tolerance;
        if (!(error <= bound)) fail_msg("%s, %s: error %g above %g", t->name, ops->name, error, bound);
        if (count > 0 && !trial_small()) check_company(t, ops, made, &results[count]);
        if (count > 1 && on_host(ops))
            sheet_same_bits(&results[count], &results[1], 0, t->items, "another instruction set");
        if (t->drop) t->drop(ops, made);
        count++;
    }
    for (int i = 0; i < count; i++) sheet_free(&results[i]);
}
