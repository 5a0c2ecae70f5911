/*
 * dense.h - linear algebra on matrices of a few rows, in double: what forecasts that are fitted need.
 *
 *     double a[2 * 2] = {2, 1, 1, 2}, b[2] = {3, 3};
 *     if (dense_solve_positive(2, a, b)) ...                   b is now {1, 1}
 *
 * Matrices are row-major and dense, [n, n] with n at most DENSE_MOST. Everything runs in one order of
 * operations, without allocation and without a library: the same input gives the same bits. False means that
 * the answer would have no meaning (singular, not positive, not finite); outputs are then undefined.
 */
#ifndef REFRAIN_CACHE_DENSE_H
#define REFRAIN_CACHE_DENSE_H

#include <complex.h>
#include <stdbool.h>

#undef I /* complex.h's: too short a name to take from everybody */

enum { DENSE_MOST = 16, DENSE_EIGEN_MOST = 8 };

/* Solves a x = b for a symmetric positive definite a (Cholesky); b: [n], becomes x. a is not changed. */
bool dense_solve_positive(int n, const double *a, double *b);

/* Solves a x = b for complex a by elimination with row exchanges; b: [n], becomes x. a is not changed. */
bool dense_solve_complex(int n, const double complex *a, double complex *b);

/* Eigenvalues (largest first) and orthonormal eigenvectors (column k belongs to value k) of a symmetric a, by
 * Jacobi's rotations. */
bool dense_eigen_symmetric(int n, const double *a, double *values, double *vectors);

/* Eigenvalues and eigenvectors (columns, of length 1) of any real a, n at most DENSE_EIGEN_MOST, by the
 * shifted QR method on complex Hessenberg form. Of a defective matrix the vectors come out parallel up to
 * rounding. */
bool dense_eigen(int n, const double *a, double complex *values, double complex *vectors);

#endif
