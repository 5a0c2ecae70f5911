/*
 * trial.c - see trial.h. The teams are shared by all tests of a program, which run one after the other.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/trial.h"

enum { MAX_BACKENDS = 4, GUARD = 64 };
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

static struct team *teams[TRIAL_TEAMS];

int trial_make_teams(void **state)
{
    for (int i = 0; i < TRIAL_TEAMS; i++)
        if (team_create(team_sizes[i], &teams[i], NULL)) return -1;
    return 0;
}

int trial_drop_teams(void **state)
{
    for (int i = 0; i < TRIAL_TEAMS; i++) team_destroy(teams[i]);
    return 0;
}

struct team *trial_team(int i)
{
    return teams[i];
}

static struct sheet compute(const struct trial *t, const struct ops *ops, void *made, struct team *team,
                            int first, int count)
{
    struct sheet s = sheet_new(t->items, t->width, t->width + t->gap);
    t->run(ops, made, team, t->inputs, first, count, &s);
    sheet_check_guard(&s, first, count);
    return s;
}

/* The same items in other company: everything on other teams, then each alone or with some neighbours. */
static void check_company(const struct trial *t, const struct ops *ops, void *made, const struct sheet *whole)
{
    for (int i = 1; i < TRIAL_TEAMS; i++) {
        struct sheet s = compute(t, ops, made, teams[i], 0, t->items);
        sheet_same_bits(&s, whole, 0, t->items, "another number of threads");
        sheet_free(&s);
    }
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
    const struct ops *const *backends = ops_available();
    struct sheet results[MAX_BACKENDS];
    int count = 0;
    for (; backends[count]; count++) {
        const struct ops *ops = backends[count];
        void *made = t->make ? t->make(ops, t->inputs) : NULL;
        results[count] = compute(t, ops, made, teams[0], 0, t->items);
        double error = sheet_error(&results[count], &results[0]);
        if (!(error <= t->tolerance))
            fail_msg("%s, %s: error %g above %g", t->name, ops->name, error, t->tolerance);
        if (count > 0) check_company(t, ops, made, &results[count]);
        if (count > 1) sheet_same_bits(&results[count], &results[1], 0, t->items, "another instruction set");
        if (t->drop) t->drop(ops, made);
    }
    for (int i = 0; i < count; i++) sheet_free(&results[i]);
}
