/* test_dense.c - solvers and eigenvalues of small matrices, against what they are defined by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "cache/dense.h"

/* cmocka's own for floating point is newer than Debian 12. */
#define assert_near(is, want, limit)                                                                         \
    do {                                                                                                     \
        double is_ = (is), want_ = (want);                                                                   \
        if (!(fabs(is_ - want_) <= (limit))) fail_msg("%s: %.12g, not %.12g", #is, is_, want_);              \
    } while (0)

enum { N = DENSE_EIGEN_MOST };

/* Numbers in [-1, 1) that look random and are the same everywhere. */
static double next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*seed >> 11) / (double)(UINT64_C(1) << 52) - 1;
}

static void random_square(uint64_t seed, int n, double *a)
{
    for (int i = 0; i < n * n; i++) a[i] = next(&seed);
}

/* a = r' r + tiny: positive definite. */
static void random_positive(uint64_t seed, int n, double *a)
{
    double r[N * N];
    random_square(seed, n, r);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            a[i * n + j] = i == j ? 1e-3 : 0;
            for (int k = 0; k < n; k++) a[i * n + j] += r[k * n + i] * r[k * n + j];
        }
}

static void a_positive_system_is_solved(void **state)
{
    for (int n = 1; n <= N; n++) {
        double a[N * N], b[N];
        random_positive((uint64_t)n, n, a);
        for (int i = 0; i < n; i++) {
            b[i] = 0;
            for (int j = 0; j < n; j++) b[i] += a[i * n + j] * (j + 1);
        }
        assert_true(dense_solve_positive(n, a, b));
        for (int i = 0; i < n; i++) assert_near(b[i], i + 1, 1e-8);
    }
}

static void what_is_not_positive_is_refused(void **state)
{
    double indefinite[4] = {1, 2, 2, 1}, singular[4] = {1, 1, 1, 1}, nan[4] = {NAN, 0, 0, 1};
    double b[2] = {1, 1};
    assert_false(dense_solve_positive(2, indefinite, b));
    assert_false(dense_solve_positive(2, singular, b));
    assert_false(dense_solve_positive(2, nan, b));
}

static void a_complex_system_is_solved_and_a_singular_one_refused(void **state)
{
    uint64_t seed = 5;
    for (int n = 1; n <= N; n++) {
        double complex a[N * N], b[N];
        for (int i = 0; i < n * n; i++) {
            double real = next(&seed);
            a[i] = CMPLX(real, next(&seed));
        }
        a[0] = 0; /* wants a row exchange, from n = 2 on */
        if (n == 1) a[0] = CMPLX(0, 2);
        for (int i = 0; i < n; i++) {
            b[i] = 0;
            for (int j = 0; j < n; j++) b[i] += a[i * n + j] * CMPLX(j, 1);
        }
        assert_true(dense_solve_complex(n, a, b));
        for (int i = 0; i < n; i++) assert_true(cabs(b[i] - CMPLX(i, 1)) < 1e-9);
    }
    double complex singular[4] = {1, 2, 2, 4}, b[2] = {1, 1};
    assert_false(dense_solve_complex(2, singular, b));
}

static void a_symmetric_matrix_is_taken_apart_into_orthonormal_vectors(void **state)
{
    for (int n = 1; n <= N; n++) {
        double a[N * N], values[N], v[N * N];
        random_positive((uint64_t)(100 + n), n, a);
        assert_true(dense_eigen_symmetric(n, a, values, v));
        for (int k = 0; k < n; k++) {
            if (k > 0) assert_true(values[k] <= values[k - 1]);
            for (int l = 0; l < n; l++) {
                double dot = 0;
                for (int i = 0; i < n; i++) dot += v[i * n + k] * v[i * n + l];
                assert_near(dot, k == l, 1e-12);
            }
            for (int i = 0; i < n; i++) {
                double sum = 0;
                for (int j = 0; j < n; j++) sum += a[i * n + j] * v[j * n + k];
                assert_near(sum, values[k] * v[i * n + k], 1e-12);
            }
        }
    }
}

static void a_tiny_eigenvalue_beside_large_ones_keeps_its_digits(void **state)
{
    double a[9] = {1, 0, 0, 0, 1e-8, 1e-9, 0, 1e-9, 1e-9}, values[3], v[9];
    assert_true(dense_eigen_symmetric(3, a, values, v));
    double middle = 5.5e-9, half = sqrt(4.5e-9 * 4.5e-9 + 1e-18);
    assert_near(values[1] / (middle + half), 1, 1e-12);
    assert_near(values[2] / (middle - half), 1, 1e-12);
}

/* a v = value v for every pair, and lengths of one. */
static void expect_eigen(int n, const double *a, double limit)
{
    double complex values[N], v[N * N];
    assert_true(dense_eigen(n, a, values, v));
    for (int k = 0; k < n; k++) {
        double length = 0;
        for (int i = 0; i < n; i++) {
            double complex sum = 0;
            for (int j = 0; j < n; j++) sum += a[i * n + j] * v[j * n + k];
            assert_true(cabs(sum - values[k] * v[i * n + k]) < limit);
            length += creal(v[i * n + k] * conj(v[i * n + k]));
        }
        assert_near(length, 1, 1e-12);
    }
}

static void any_matrix_times_its_eigenvector_is_the_vector_scaled(void **state)
{
    for (int n = 1; n <= N; n++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            double a[N * N];
            random_square(seed * 10 + (uint64_t)n, n, a);
            expect_eigen(n, a, 1e-12);
        }
}

static void rotations_cycles_and_jordan_blocks_converge(void **state)
{
    double turn[4] = {0, -1, 1, 0};
    double complex values[N], v[N * N];
    assert_true(dense_eigen(2, turn, values, v));
    assert_near(fabs(cimag(values[0])), 1, 1e-14);
    assert_near(creal(values[0]), 0, 1e-14);

    double cycle[16] = {0, 0, 0, 1, 1, 0, 0, 0,
                        0, 1, 0, 0, 0, 0, 1, 0}; /* a permutation: the fourth roots of 1 */
    expect_eigen(4, cycle, 1e-12);
    double jordan[9] = {1, 1, 0, 0, 1, 1, 0, 0, 1}, zero[9] = {0};
    expect_eigen(3, jordan, 1e-12);
    expect_eigen(3, zero, 1e-12);
    double nan[4] = {1, NAN, 0, 1};
    assert_false(dense_eigen(2, nan, values, v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_positive_system_is_solved),
        cmocka_unit_test(what_is_not_positive_is_refused),
        cmocka_unit_test(a_complex_system_is_solved_and_a_singular_one_refused),
        cmocka_unit_test(a_symmetric_matrix_is_taken_apart_into_orthonormal_vectors),
        cmocka_unit_test(a_tiny_eigenvalue_beside_large_ones_keeps_its_digits),
        cmocka_unit_test(any_matrix_times_its_eigenvector_is_the_vector_scaled),
        cmocka_unit_test(rotations_cycles_and_jordan_blocks_converge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
