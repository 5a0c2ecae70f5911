/*
 * forecast_dmd.c - dynamic mode decomposition (Prony): the residual as a sum of growing, decaying and turning
 * exponentials, fitted to the last evenly spaced computed steps.
 *
 * Rule of HiCache++ (Archerkattri/hicache-plus-plus, merged in cache-dit as dmd.py): snapshots f_0 .. f_m,
 * oldest first, X = [f_0 .. f_m-1], X' = [f_1 .. f_m]; X = U S V' cut at 1e-4 of the largest singular value;
 * A = U' X' V / S; A W = W L; modes M = X' V / S W; b from M b = f_m; forecast Re(M L^k b), k = steps since
 * f_m / spacing.
 *
 * Modes lie in the span of the snapshots, so that the forecast is weights over them and everything needed is
 * in their inner products: S and V are the eigenvalues and -vectors of X'X, A = V' (X'X') V / S / S. b is
 * taken in two steps: c from (X' V / S) c = f_m, which is well conditioned, then W b = c, so that nearly
 * parallel modes (a straight line: a double eigenvalue 1) cost no accuracy. No answer: reuse.
 *
 * Fewer than four evenly spaced steps: Taylor, mended. cache-dit's stand-in takes its difference to the
 * computed step but one and divides it by the last gap.
 */
#include <string.h>
#include "cache/dense.h"
#include "cache/differences.h"
#include "cache/forecast.h"

enum { SLOTS, RANK, CUT, RIDGE, ORDER, FROM, PARAMETERS };
enum { FEWEST = 4, MOST = DENSE_EIGEN_MOST + 1 };

static const struct parameter parameters[PARAMETERS] = {
    [SLOTS] = {"slots", "history", NULL, PARAMETER_WHOLE, 6, FEWEST, MOST, "computed steps kept"},
    [RANK] = {"rank", NULL, NULL, PARAMETER_WHOLE, 0, 0, DENSE_EIGEN_MOST, "modes at most; 0: by `cut`"},
    [CUT] = {"cut", NULL, NULL, PARAMETER_REAL, 1e-4, 1e-7, 1,
             "singular values below this share of the largest are noise"},
    [RIDGE] = {"ridge", NULL, NULL, PARAMETER_REAL, 1e-8, 0, 1,
               "added to singular values that are divided by"},
    [ORDER] = {"order", "n_derivatives", NULL, PARAMETER_WHOLE, 1, 1, DIFFERENCES_ORDER,
               "of the Taylor series that stands in until there are four evenly spaced steps"},
    [FROM] = {"from", NULL, NULL, PARAMETER_WHOLE, 0, 0, CACHE_STEPS,
              "first step at which its differences are formed"},
};

static int slots(const double *value, const struct policy_job *job)
{
    return (int)value[SLOTS];
}

/* Computed steps at the end of the history that are as far apart as the last two; at most `most`. */
static int evenly_spaced(const struct history *h, int most)
{
    if (h->count < 2) return h->count;
    int count = 2, spacing = h->step[0] - h->step[1];
    while (count < h->count && count < most && h->step[count - 1] - h->step[count] == spacing) count++;
    return count;
}

/* What a fit works with. m: columns of X and of X'; r: rank. Everything row-major and dense. */
struct fit {
    int m, r;
    double xx[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST];         /* [m, m] X' X: inner products of f_0 .. f_m-1 */
    double xy[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST];         /* [m, m] of f_a and f_b+1 */
    double yy[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST];         /* [m, m] of f_a+1 and f_b+1 */
    double projection[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST]; /* [m, r] V / S: U = X projection */
};

static void fit_products(struct fit *f, const struct history *h)
{
    int m = f->m;
    for (int a = 0; a < m; a++)
        for (int b = 0; b < m; b++) { /* f_a is history entry m - a */
            f->xx[a * m + b] = h->gram[m - a][m - b];
            f->xy[a * m + b] = h->gram[m - a][m - b - 1];
            f->yy[a * m + b] = h->gram[m - a - 1][m - b - 1];
        }
}

/* Singular values and the reduced propagator, a: [r, r]. */
static bool fit_propagator(struct fit *f, const double *value, double *a)
{
    int m = f->m;
    double squares[DENSE_EIGEN_MOST], v[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST], s[DENSE_EIGEN_MOST];
    if (!dense_eigen_symmetric(m, f->xx, squares, v) || !(squares[0] > 0)) return false;
    for (int k = 0; k < m; k++) s[k] = sqrt(fmax(squares[k], 0));
    int r = 1, most = (int)value[RANK];
    if (most > 0)
        for (r = most < m ? most : m; r > 1 && !(s[r - 1] > 0);) r--;
    else
        while (r < m && s[r] > s[0] * value[CUT]) r++;
    f->r = r;
    for (int i = 0; i < m; i++)
        for (int k = 0; k < r; k++) f->projection[i * r + k] = v[i * m + k] / (s[k] + value[RIDGE]);
    for (int i = 0; i < r; i++)
        for (int j = 0; j < r; j++) {
            double sum = 0;
            for (int p = 0; p < m; p++)
                for (int q = 0; q < m; q++)
                    sum += v[p * m + i] / s[i] * f->xy[p * m + q] * f->projection[q * r + j];
            a[i * r + j] = sum;
        }
    return true;
}

/* c: [r] with X' projection c nearest to f_m. */
static bool fit_newest(const struct fit *f, double *c)
{
    int m = f->m, r = f->r;
    double normal[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST];
    for (int i = 0; i < r; i++) {
        c[i] = 0;
        for (int p = 0; p < m; p++) c[i] += f->projection[p * r + i] * f->yy[p * m + m - 1];
        for (int j = 0; j < r; j++) {
            double sum = 0;
            for (int p = 0; p < m; p++)
                for (int q = 0; q < m; q++)
                    sum += f->projection[p * r + i] * f->yy[p * m + q] * f->projection[q * r + j];
            normal[i * r + j] = sum;
        }
    }
    return dense_solve_positive(r, normal, c);
}

/* Weights over history entries 0 .. m - 1 at `ahead` spacings after the newest. False: no answer. */
static bool fit_forecast(struct fit *f, const double *value, double ahead, double *weights)
{
    int m = f->m;
    double a[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST], c[DENSE_EIGEN_MOST];
    double complex modes[DENSE_EIGEN_MOST * DENSE_EIGEN_MOST], speed[DENSE_EIGEN_MOST], b[DENSE_EIGEN_MOST];
    if (!fit_propagator(f, value, a) || !fit_newest(f, c)) return false;
    int r = f->r;
    if (!dense_eigen(r, a, speed, modes)) return false;
    for (int k = 0; k < r; k++) b[k] = c[k];
    if (!dense_solve_complex(r, modes, b)) return false;
    for (int k = 0; k < r; k++) b[k] *= speed[k] == 0 ? 0 : cpow(speed[k], ahead);
    for (int i = 0; i < r; i++) {
        double complex sum = 0;
        for (int k = 0; k < r; k++) sum += modes[i * r + k] * b[k];
        c[i] = creal(sum);
    }
    for (int p = 0; p < m; p++) {
        double sum = 0;
        for (int i = 0; i < r; i++) sum += f->projection[p * r + i] * c[i];
        if (!isfinite(sum)) return false;
        weights[m - 1 - p] = sum;
    }
    return true;
}

static void weights(const struct forecast_now *now, double weights[FORECAST_SETS][CACHE_SLOTS], void *state)
{
    const struct history *h = now->history;
    double d = now->step - h->step[0];
    int count = evenly_spaced(h, (int)now->value[SLOTS]);
    if (count < FEWEST) {
        double basis[DIFFERENCES_ORDER + 1] = {1};
        for (int k = 1; k <= DIFFERENCES_ORDER; k++) basis[k] = basis[k - 1] * d;
        differences_expand(h, (int)now->value[ORDER], (int)now->value[FROM], basis, weights[0]);
        return;
    }
    struct fit fit = {.m = count - 1};
    fit_products(&fit, h);
    memset(weights[0], 0, sizeof weights[0]);
    if (fit_forecast(&fit, now->value, d / (h->step[0] - h->step[1]), weights[0])) return;
    memset(weights[0], 0, sizeof weights[0]);
    weights[0][0] = 1;
}

const struct forecast forecast_dmd = {
    .name = "dmd",
    .summary = "HiCache++: exponential modes of the last evenly spaced computed steps",
    .source = "HiCache++; code Archerkattri/hicache-plus-plus, cache-dit",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .gram = true,
    .slots = slots,
    .weights = weights,
};
