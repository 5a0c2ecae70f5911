/*
 * test_caching_ops.c - what caching adds to the op table: weighted sums of many terms and by groups of rows,
 * the sums a verdict is made of, and linear maps along one axis; how: trial.h.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/trial.h"

/* -------------------------------------------------------------------------------------- weighted sums */

enum { GROUPS = LINCOMB_GROUPS };

struct combination {
    int terms, width;
    const float *weights, *x[LINCOMB_TERMS]; /* [GROUPS][terms]; each [rows, width] */
    const unsigned char *group;              /* [rows]; NULL: lincomb, with the first set */
    bool in_place;                           /* y is the last term */
};

static void combination_run(const struct ops *ops, void *made, struct team *team, const void *inputs,
                            int first, int count, const struct sheet *out)
{
    const struct combination *in = inputs;
    const float *x[LINCOMB_TERMS];
    int64_t at = (int64_t)first * in->width, floats = (int64_t)count * in->width;
    float *y = out->at + at;
    for (int j = 0; j < in->terms; j++) x[j] = trial_floats(ops, team, in->x[j] + at, floats);
    if (in->in_place) {
        ops->copy(team, y, x[in->terms - 1], (size_t)floats * sizeof *y);
        x[in->terms - 1] = y;
    }
    if (in->group)
        ops->lincomb_rows(team, in->terms, in->weights,
                          trial_place(ops, team, in->group + first, (size_t)count), x, count, in->width, y);
    else
        ops->lincomb(team, in->terms, in->weights, x, (int64_t)count * in->width, y);
}

static void check_combination(int rows, int width, int terms, bool by_rows, bool in_place)
{
    struct combination in = {.terms = terms, .width = width, .in_place = in_place};
    float *weights = random_floats(GROUPS * terms, 2, 1), *x[LINCOMB_TERMS];
    unsigned char *group = malloc((size_t)rows + 1);
    assert_non_null(group);
    for (int i = 0; i < rows; i++) group[i] = (unsigned char)(i * i / 3 % GROUPS);
    for (int j = 0; j < terms; j++) in.x[j] = x[j] = random_floats((int64_t)rows * width, 1, 2 + (uint64_t)j);
    in.weights = weights;
    in.group = by_rows ? group : NULL;
    /* Tolerance 0: the op is defined by its roundings. */
    trial_check(&(struct trial){.name = by_rows ? "lincomb_rows" : "lincomb",
                                .items = rows,
                                .width = width,
                                .run = combination_run,
                                .inputs = &in,
                                .tolerance = 0});
    for (int j = 0; j < terms; j++) free(x[j]);
    free(weights), free(group);
}

static void weighted_sums_have_the_same_bits_on_every_backend_for_any_number_of_terms(void **state)
{
    static const int widths[] = {1, 15, 16, 63, 64, 65, 100, 1100};
    for (int terms = 1; terms <= LINCOMB_TERMS; terms++)
        for (int by_rows = 0; by_rows < 2; by_rows++)
            check_combination(terms * 7 % 70 + 1, widths[terms % 8], terms, by_rows, terms % 3 == 0);
}

static void weighted_sums_cut_into_many_tasks_have_the_same_bits(void **state)
{
    check_combination(70, 4099, 3, false, true);
    check_combination(70, 4099, 3, true, true);
    check_combination(3000, 33, 4, true, false);
    check_combination(2, 70001, 2, true, false); /* rows longer than a task */
}

static void weighted_sums_of_no_rows_touch_nothing(void **state)
{
    check_combination(0, 24, 2, false, false);
    check_combination(0, 24, 2, true, false);
}

/* --------------------------------------------------------------------------------------------- reduce2 */

/* [rows][REDUCE_SUMS], made by one call or by one call a row. */
static double *reduce(const struct ops *ops, struct team *team, const float *a, const float *b, int rows,
                      int width, bool one_by_one)
{
    double *partials = malloc(((size_t)rows * REDUCE_SUMS + 1) * sizeof *partials);
    assert_non_null(partials);
    partials[(size_t)rows * REDUCE_SUMS] = 12345;
    size_t bytes = ((size_t)rows * REDUCE_SUMS + 1) * sizeof *partials;
    a = trial_floats(ops, team, a, (int64_t)rows * width);
    b = trial_floats(ops, team, b, (int64_t)rows * width);
    double *results = trial_results(ops, team, partials, bytes);
    if (one_by_one)
        for (int row = rows - 1; row >= 0; row--)
            ops->reduce2(team, a + (int64_t)row * width, b + (int64_t)row * width, 1, width,
                         results + (int64_t)row * REDUCE_SUMS);
    else
        ops->reduce2(team, a, b, rows, width, results);
    trial_fetch(ops, team, results, partials, bytes);
    assert_true(partials[(size_t)rows * REDUCE_SUMS] == 12345);
    return partials;
}

/* Sums of one sign against themselves; the product, where terms cancel, against what it could be at most. */
static void check_sums(const double *sums, const double *right, int rows)
{
    for (int row = 0; row < rows; row++, sums += REDUCE_SUMS, right += REDUCE_SUMS)
        for (int s = 0; s < REDUCE_SUMS; s++) {
            double size = s == REDUCE_PRODUCT ? sqrt(right[REDUCE_A2] * right[REDUCE_B2]) : right[s];
            if (!(fabs(sums[s] - right[s]) <= 2e-7 * size))
                fail_msg("row %d, sum %d: %.9g instead of %.9g", row, s, sums[s], right[s]);
        }
}

static void check_reduce(int rows, int width)
{
    const struct ops *const *backends = trial_backends();
    size_t bytes = (size_t)rows * REDUCE_SUMS * sizeof(double);
    if (trial_small() && (rows * width > 5200 || width % 9 > 1)) return;
    float *a = random_floats((int64_t)rows * width, 3, 1), *b = random_floats((int64_t)rows * width, 2, 2);
    double *right = reduce(backends[0], trial_team(0), a, b, rows, width, false), *first = NULL;
    for (int i = 1; backends[i]; i++)
        for (int t = 0; t < (trial_small() ? 2 : 2 * TRIAL_TEAMS); t++) {
            double *sums = reduce(backends[i], trial_team(t / 2), a, b, rows, width, t % 2);
            if (!first) check_sums(sums, right, rows);
            if (!first) first = sums;
            assert_memory_equal(sums, first, bytes);
            if (sums != first) free(sums);
        }
    free(first), free(right), free(a), free(b);
}

static void sums_of_a_row_equal_ref_whatever_the_width_threads_company_and_instruction_set(void **state)
{
    for (int width = 1; width <= 1100; width += width < 70 ? 1 : 59) check_reduce(width % 71, width);
    check_reduce(0, 24);
    check_reduce(3, 1023);
    check_reduce(3, 1024);
    check_reduce(3, 1025);
    check_reduce(3, 5120);
    check_reduce(700, 1100); /* many tasks */
    check_reduce(2, 70001);
}

static void sums_of_known_rows_are_known(void **state)
{
    const float a[] = {1, -2, 3}, b[] = {2, 2, -1};
    const double right[REDUCE_SUMS] = {9, 6, 5, -5, 14, 9, 33};
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        double *sums = reduce(*ops, trial_team(0), a, b, 1, 3, false);
        for (int s = 0; s < REDUCE_SUMS; s++) assert_true(sums[s] == right[s]);
        free(sums);
    }
}

/* What the engine tells by: a verdict is never made of sums that hide a bad value. */
static void a_value_that_is_not_finite_shows_in_every_sum_it_belongs_to(void **state)
{
    enum { ROWS = 3, WIDTH = 1100 };
    static const int columns[] = {0, 13, 16, 1023, 1024, 1088, 1099};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (const struct ops *const *ops = trial_backends(); *ops; ops++)
        for (int c = 0; c < 7; c += trial_small() ? 3 : 1)
            for (int v = 0; v < 3; v += trial_small() ? 2 : 1)
                for (int in_b = 0; in_b < 2; in_b++) {
                    float *x[2] = {random_floats(ROWS * WIDTH, 1, 1), random_floats(ROWS * WIDTH, 1, 2)};
                    x[in_b][WIDTH + columns[c]] = bad[v];
                    double *sums = reduce(*ops, trial_team(1), x[0], x[1], ROWS, WIDTH, false);
                    for (int i = 0; i < ROWS * REDUCE_SUMS; i++) {
                        int row = i / REDUCE_SUMS, s = i % REDUCE_SUMS;
                        bool other = in_b ? s == REDUCE_A || s == REDUCE_A2 : s == REDUCE_B || s == REDUCE_B2;
                        assert_int_equal(!isfinite(sums[i]), row == 1 && !other);
                    }
                    free(sums), free(x[0]), free(x[1]);
                }
}

/* ------------------------------------------------------------------------------------------------- mix */

struct mix_inputs {
    int n, inner;
    const float *matrix, *x; /* [n, n], [outer, n, inner] */
};

static void mix_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                    int count, const struct sheet *out)
{
    const struct mix_inputs *in = inputs;
    int64_t at = (int64_t)first * in->n * in->inner;
    ops->mix(team, trial_floats(ops, team, in->matrix, (int64_t)in->n * in->n), count, in->n, in->inner,
             trial_floats(ops, team, in->x + at, (int64_t)count * in->n * in->inner), out->at + at);
}

static void check_mix(int outer, int n, int inner)
{
    float *matrix = random_floats((int64_t)n * n, 1, 1), *x = random_floats((int64_t)outer * n * inner, 1, 2);
    struct mix_inputs in = {n, inner, matrix, x};
    trial_check(&(struct trial){
        .name = "mix", .items = outer, .width = n * inner, .run = mix_run, .inputs = &in, .tolerance = 2e-6});
    free(matrix), free(x);
}

static void mix_equals_ref_over_odd_shapes(void **state)
{
    static const int shapes[][3] = {
        /* outer, n, inner */
        {1, 1, 1},   {3, 2, 7},     {5, 4, 16},   {80, 4, 33}, {2, 11, 31},  {2, 12, 32},
        {7, 13, 48}, {2, 25, 257},  {1, 5, 5000}, {4, 1, 100}, {30, 21, 96}, {1, 240, 100},
        {0, 3, 20},  {3, 52, 4096}, {2, 70, 30} /* two steps of a GPU's, and small */};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_mix(shapes[i][0], shapes[i][1], shapes[i][2]);
}

/* An orthonormal cosine transform and its transpose: what frequency bands do. */
static void a_cosine_transform_along_the_middle_axis_is_undone_by_its_transpose(void **state)
{
    enum { OUTER = 3, N = 21, INNER = 70, COUNT = OUTER * N * INNER };
    float forward[N * N], backward[N * N];
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            double value = sqrt((i ? 2.0 : 1.0) / N) * cos(M_PI / N * (k + 0.5) * i);
            forward[i * N + k] = backward[k * N + i] = (float)value;
        }
    float *x = random_floats(COUNT, 1, 5), *y = random_floats(COUNT, 1, 6), *z = random_floats(COUNT, 1, 7);
    for (const struct ops *const *ops = trial_backends(); *ops; ops++) {
        struct team *team = trial_team(1);
        const float *from = trial_floats(*ops, team, x, COUNT),
                    *there = trial_floats(*ops, team, forward, N * N),
                    *back = trial_floats(*ops, team, backward, N * N);
        float *middle = trial_results(*ops, team, y, COUNT * sizeof *y),
              *end = trial_results(*ops, team, z, COUNT * sizeof *z);
        (*ops)->mix(team, there, OUTER, N, INNER, from, middle);
        (*ops)->mix(team, back, OUTER, N, INNER, middle, end);
        trial_fetch(*ops, team, end, z, COUNT * sizeof *z);
        for (int i = 0; i < COUNT; i++) assert_true(fabs(z[i] - x[i]) < 2e-6);
    }
    free(x), free(y), free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weighted_sums_have_the_same_bits_on_every_backend_for_any_number_of_terms),
        cmocka_unit_test(weighted_sums_cut_into_many_tasks_have_the_same_bits),
        cmocka_unit_test(weighted_sums_of_no_rows_touch_nothing),
        cmocka_unit_test(sums_of_a_row_equal_ref_whatever_the_width_threads_company_and_instruction_set),
        cmocka_unit_test(sums_of_known_rows_are_known),
        cmocka_unit_test(a_value_that_is_not_finite_shows_in_every_sum_it_belongs_to),
        cmocka_unit_test(mix_equals_ref_over_odd_shapes),
        cmocka_unit_test(a_cosine_transform_along_the_middle_axis_is_undone_by_its_transpose),
    };
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
