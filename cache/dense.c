/*
 * dense.c - Cholesky, elimination, Jacobi and QR for matrices of a few rows; see dense.h. Textbook methods
 * (Golub and Van Loan, Matrix Computations, 4.2, 3.4, 8.5, 7.4-7.6).
 */
#include "cache/dense.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ solving */

bool dense_solve_positive(int n, const double *a, double *b)
{
    double l[DENSE_MOST][DENSE_MOST];
    for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++) {
            double sum = a[i * n + j];
            for (int k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
            if (i != j)
                l[i][j] = sum / l[j][j];
            else if (sum > 0 && isfinite(sum))
                l[i][i] = sqrt(sum);
            else
                return false;
        }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) b[i] -= l[i][k] * b[k];
        b[i] /= l[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++) b[i] -= l[k][i] * b[k];
        b[i] /= l[i][i];
        if (!isfinite(b[i])) return false;
    }
    return true;
}

static void swap_complex(double complex *x, double complex *y)
{
    double complex held = *x;
    *x = *y;
    *y = held;
}

bool dense_solve_complex(int n, const double complex *a, double complex *b)
{
    double complex m[DENSE_MOST][DENSE_MOST];
    for (int i = 0; i < n; i++) memcpy(m[i], a + i * n, (size_t)n * sizeof *a);
    for (int k = 0; k < n; k++) {
        int pivot = k;
        for (int i = k + 1; i < n; i++)
            if (cabs(m[i][k]) > cabs(m[pivot][k])) pivot = i;
        double size = cabs(m[pivot][k]);
        if (!(size > 0) || !isfinite(size)) return false;
        for (int j = k; j < n; j++) swap_complex(&m[k][j], &m[pivot][j]);
        swap_complex(&b[k], &b[pivot]);
        for (int i = k + 1; i < n; i++) {
            double complex factor = m[i][k] / m[k][k];
            for (int j = k; j < n; j++) m[i][j] -= factor * m[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++) b[i] -= m[i][j] * b[j];
        b[i] /= m[i][i];
        if (!isfinite(creal(b[i])) || !isfinite(cimag(b[i]))) return false;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- symmetric */

/* Turns rows and columns p, q so that m[p][q] becomes 0, and the vectors with them. */
static void jacobi(int n, double m[DENSE_MOST][DENSE_MOST], double v[DENSE_MOST][DENSE_MOST], int p, int q)
{
    if (m[p][q] == 0) return;
    double tau = (m[q][q] - m[p][p]) / (2 * m[p][q]);
    double t = (tau >= 0 ? 1 : -1) / (fabs(tau) + sqrt(1 + tau * tau));
    double c = 1 / sqrt(1 + t * t), s = t * c;
    for (int k = 0; k < n; k++) {
        double x = m[k][p], y = m[k][q];
        m[k][p] = c * x - s * y;
        m[k][q] = s * x + c * y;
    }
    for (int k = 0; k < n; k++) {
        double x = m[p][k], y = m[q][k];
        m[p][k] = c * x - s * y;
        m[q][k] = s * x + c * y;
    }
    for (int k = 0; k < n; k++) {
        double x = v[k][p], y = v[k][q];
        v[k][p] = c * x - s * y;
        v[k][q] = s * x + c * y;
    }
}

bool dense_eigen_symmetric(int n, const double *a, double *values, double *vectors)
{
    enum { SWEEPS = 60 };
    double m[DENSE_MOST][DENSE_MOST], v[DENSE_MOST][DENSE_MOST] = {{0}};
    double size = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            m[i][j] = a[i * n + j];
            v[i][j] = i == j;
            size += fabs(m[i][j]);
        }
    if (!isfinite(size)) return false;
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double off = 0;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++) off += fabs(m[p][q]);
        if (off <= DBL_EPSILON * DBL_EPSILON * size) break;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++) jacobi(n, m, v, p, q);
    }

    bool taken[DENSE_MOST] = {false};
    for (int k = 0; k < n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || m[i][i] > m[best][best])) best = i;
        taken[best] = true;
        values[k] = m[best][best];
        for (int i = 0; i < n; i++) vectors[i * n + k] = v[i][best];
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------ general */

/* The unitary 2 x 2 that takes (x, y) to (r, 0): {{conj(c), conj(s)}, {-s, c}}. */
struct turn {
    double complex c, s;
};

static struct turn turn_of(double complex x, double complex y)
{
    double r = hypot(cabs(x), cabs(y));
    return r == 0 ? (struct turn){1, 0} : (struct turn){x / r, y / r};
}

typedef double complex square[DENSE_EIGEN_MOST][DENSE_EIGEN_MOST];

/* Rows p, p + 1 of columns [from, n). */
static void turn_rows(square m, int n, struct turn t, int p, int from)
{
    for (int k = from; k < n; k++) {
        double complex x = m[p][k], y = m[p + 1][k];
        m[p][k] = conj(t.c) * x + conj(t.s) * y;
        m[p + 1][k] = t.c * y - t.s * x;
    }
}

/* Columns p, p + 1 of rows [0, to), by the adjoint: with turn_rows a similarity. */
static void turn_columns(square m, int to, struct turn t, int p)
{
    for (int k = 0; k < to; k++) {
        double complex x = m[k][p], y = m[k][p + 1];
        m[k][p] = t.c * x + t.s * y;
        m[k][p + 1] = conj(t.c) * y - conj(t.s) * x;
    }
}

static void hessenberg(int n, square h, square q)
{
    for (int k = 0; k + 2 < n; k++)
        for (int i = n - 2; i > k; i--) {
            struct turn t = turn_of(h[i][k], h[i + 1][k]);
            turn_rows(h, n, t, i, 0);
            turn_columns(h, n, t, i);
            turn_columns(q, n, t, i);
        }
}

/* Wilkinson's: the eigenvalue of the last 2 x 2 that is nearer to its last element. */
static double complex shift_of(square h, int last)
{
    double complex a = h[last - 1][last - 1], d = h[last][last];
    double complex half = (a - d) / 2, root = csqrt(half * half + h[last - 1][last] * h[last][last - 1]);
    double complex one = d + half + root, other = d + half - root;
    return cabs(one - d) < cabs(other - d) ? one : other;
}

/* One QR step with a shift on rows and columns [first, last]. */
static void qr_step(int n, square h, square q, int first, int last, double complex shift)
{
    struct turn turns[DENSE_EIGEN_MOST];
    for (int k = first; k <= last; k++) h[k][k] -= shift;
    for (int k = first; k < last; k++) {
        turns[k] = turn_of(h[k][k], h[k + 1][k]);
        turn_rows(h, n, turns[k], k, k);
        h[k + 1][k] = 0;
    }
    for (int k = first; k < last; k++) {
        turn_columns(h, k + 2, turns[k], k);
        turn_columns(q, n, turns[k], k);
    }
    for (int k = first; k <= last; k++) h[k][k] += shift;
}

/* h becomes upper triangular, q the unitary matrix of its columns. */
static bool schur(int n, square h, square q)
{
    enum { TRIES = 60 };
    int tries = 0;
    for (int last = n - 1; last > 0;) {
        int first = last;
        while (first > 0) {
            double around = cabs(h[first][first]) + cabs(h[first - 1][first - 1]);
            if (cabs(h[first][first - 1]) <= DBL_EPSILON * around) break;
            first--;
        }
        if (first > 0) h[first][first - 1] = 0;
        if (first == last) {
            last--;
            tries = 0;
            continue;
        }
        if (++tries > TRIES) return false;
        /* An odd shift now and then breaks the rare cycles (a rotation matrix has one). */
        double complex shift = tries % 10 == 0 ? h[last][last] + cabs(h[last][last - 1]) : shift_of(h, last);
        qr_step(n, h, q, first, last, shift);
    }
    return true;
}

/* The eigenvector of the upper triangular h for value k, turned back by q. */
static void eigenvector(int n, square h, square q, int k, double size, double complex *column)
{
    double complex x[DENSE_EIGEN_MOST] = {0};
    x[k] = 1;
    for (int i = k - 1; i >= 0; i--) {
        double complex sum = 0, gap = h[k][k] - h[i][i];
        for (int j = i + 1; j <= k; j++) sum += h[i][j] * x[j];
        if (cabs(gap) < DBL_EPSILON * size)
            gap = DBL_EPSILON * size; /* equal values: nearly parallel vectors */
        x[i] = sum / gap;
    }
    double complex y[DENSE_EIGEN_MOST];
    double length = 0;
    for (int i = 0; i < n; i++) {
        y[i] = 0;
        for (int j = 0; j <= k; j++) y[i] += q[i][j] * x[j];
        length += creal(y[i]) * creal(y[i]) + cimag(y[i]) * cimag(y[i]);
    }
    for (int i = 0; i < n; i++) column[i * n] = y[i] / sqrt(length);
}

bool dense_eigen(int n, const double *a, double complex *values, double complex *vectors)
{
    square h, q;
    double size = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            h[i][j] = a[i * n + j];
            q[i][j] = i == j;
            size += fabs(a[i * n + j]);
        }
    if (!isfinite(size)) return false;
    hessenberg(n, h, q);
    if (!schur(n, h, q)) return false;
    if (size == 0) size = 1;
    for (int k = 0; k < n; k++) {
        values[k] = h[k][k];
        eigenvector(n, h, q, k, size, vectors + k);
    }
    return true;
}
