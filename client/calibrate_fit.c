/* calibrate_fit.c - see calibrate_fit.h. */
#include "client/calibrate_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TERMS = 5 /* of a polynomial of degree 4 */, SENCACHE_LAGS = 10 };
static const double TIMESTEPS = 1000; /* of the schedule that the models were trained with: t = 1000 sigma */

const char *const calibration_kinds[] = {"magcache", "teacache", "sencache", "l2p", NULL};

struct traces {
    const struct trace *const *all; /* [count] */
    size_t count;
    int steps; /* of each */
};

/* A table of `rows` rows, zeros; NULL when memory is short. */
static double *new_table(struct calibration *to, const char *kind, const struct trace *trace, size_t rows,
                         unsigned width)
{
    double *values = calloc(rows * width, sizeof *values);
    if (!values) return NULL;
    snprintf(to->names[to->count], CALIBRATION_NAME_BYTES, "%s", trace->name);
    to->tables[to->count] = (struct refrain_cache_table){
        .kind = kind,
        .name = to->names[to->count],
        .layers = (unsigned)trace->model.layers,
        .heads = (unsigned)trace->model.heads,
        .head_dim = (unsigned)trace->model.head_dim,
        .ffn_dim = (unsigned)trace->model.ffn_dim,
        .latent_channels = (unsigned)trace->model.latent_channels,
        .experts = trace->model.experts > 1 ? (unsigned)trace->model.experts : 0,
        .steps = (unsigned)trace->steps,
        .shift = trace->shift,
        .width = width,
        .values = values,
        .count = rows * width,
    };
    to->count++;
    return values;
}

static status_t no_memory(struct error *error)
{
    return error_set(error, STATUS_NO_MEMORY, "no memory for a table");
}

static void set_note(struct calibration *to, const char *what, double value)
{
    snprintf(to->notes[to->count - 1], CALIBRATION_NOTE_BYTES, "%s %.3g", what, value);
}

/* ----------------------------------------------------------------------------------- magcache */

static status_t fit_magcache(struct calibration *to, const struct traces *traces, struct error *error)
{
    double largest_spread = 0;
    double *gamma = new_table(to, "magcache", traces->all[0], (size_t)traces->steps, 1);
    if (!gamma) return no_memory(error);
    gamma[0] = 1;
    for (int step = 1; step < traces->steps; step++) {
        double sum = 0, low = INFINITY, high = -INFINITY;
        int runs = 0;
        for (size_t i = 0; i < traces->count; i++)
            for (int branch = 0; branch < traces->all[i]->branches; branch++) {
                const struct sums *sums = trace_at(traces->all[i], TRACE_RESIDUAL, branch, step, 1);
                if (!sums || !isfinite(sums->row_ratio)) continue;
                sum += sums->row_ratio, runs++;
                low = fmin(low, sums->row_ratio), high = fmax(high, sums->row_ratio);
            }
        if (runs == 0)
            return error_set(error, STATUS_INVALID, "magcache: step %d has no measured ratio", step);
        gamma[step] = sum / runs;
        largest_spread = fmax(largest_spread, high - low);
    }
    set_note(to, "ratios differ between runs by at most", largest_spread);
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------- teacache */

/* Points (x, y) of the least squares. */
struct points {
    double *x, *y; /* [count] */
    size_t count;
};

/* Least squares of y on 1, x, ..., x^4, highest power first, by modified Gram-Schmidt on x / max|x|; a power
 * that the points cannot tell from the lower ones gets 0. matrix: [TERMS][count], scratch. */
static void fit_polynomial(const struct points *points, double *matrix, double coefficients[TERMS])
{
    size_t n = points->count;
    double scale = 0, r[TERMS][TERMS] = {{0}}, qy[TERMS] = {0}, c[TERMS] = {0};
    for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(points->x[i]));
    if (scale == 0) scale = 1;
    for (int k = 0; k < TERMS; k++) {
        double *q = matrix + (size_t)k * n, before = 0, after = 0;
        for (size_t i = 0; i < n; i++) q[i] = pow(points->x[i] / scale, k), before += q[i] * q[i];
        for (int j = 0; j < k; j++) {
            const double *other = matrix + (size_t)j * n;
            for (size_t i = 0; i < n; i++) r[j][k] += other[i] * q[i];
            for (size_t i = 0; i < n; i++) q[i] -= r[j][k] * other[i];
        }
        for (size_t i = 0; i < n; i++) after += q[i] * q[i];
        bool new = after > 1e-20 * before &&before > 0;
        r[k][k] = new ? sqrt(after) : 0;
        for (size_t i = 0; i < n; i++) q[i] = new ? q[i] / r[k][k] : 0, qy[k] += q[i] * points->y[i];
    }
    for (int k = TERMS - 1; k >= 0; k--) {
        double value = qy[k];
        for (int j = k + 1; j < TERMS; j++) value -= r[k][j] * c[j];
        c[k] = r[k][k] > 0 ? value / r[k][k] : 0;
        coefficients[TERMS - 1 - k] = c[k] / pow(scale, k);
    }
}

/* The share of the variance of y that the polynomial explains, 0...1. */
static double explained(const struct points *points, const double coefficients[TERMS])
{
    double mean = 0, rest = 0, all = 0;
    for (size_t i = 0; i < points->count; i++) mean += points->y[i] / (double)points->count;
    for (size_t i = 0; i < points->count; i++) {
        double fitted = 0;
        for (int k = 0; k < TERMS; k++) fitted = fitted * points->x[i] + coefficients[k];
        rest += (points->y[i] - fitted) * (points->y[i] - fitted);
        all += (points->y[i] - mean) * (points->y[i] - mean);
    }
    return all > 0 ? fmax(0, 1 - rest / all) : 1;
}

/* points has room for all. */
static void gather_changes(const struct traces *traces, enum trace_tensor signal, struct points *points)
{
    points->count = 0;
    for (size_t i = 0; i < traces->count; i++)
        for (int branch = 0; branch < traces->all[i]->branches; branch++)
            for (int step = 1; step < traces->steps; step++) {
                const struct sums *s = trace_at(traces->all[i], signal, branch, step, 1);
                const struct sums *r = trace_at(traces->all[i], TRACE_RESIDUAL, branch, step, 1);
                if (!s || !r) continue;
                double x = relative_change(s), y = relative_change(r);
                if (!isfinite(x) || !isfinite(y)) continue;
                points->x[points->count] = x, points->y[points->count++] = y;
            }
}

static status_t fit_teacache(struct calibration *to, const struct traces *traces, struct error *error)
{
    static const struct {
        enum trace_tensor signal;
        const char *kind;
    } modes[] = {{TRACE_TIME, "teacache"}, {TRACE_PROJECTION, "teacache-retention"}};
    size_t most = traces->count * 2 * (size_t)traces->steps;
    double *room = malloc(most * (2 + TERMS) * sizeof *room);
    if (!room) return no_memory(error);
    struct points points = {room, room + most, 0};
    status_t status = STATUS_OK;
    for (size_t i = 0; !status && i < sizeof modes / sizeof *modes; i++) {
        gather_changes(traces, modes[i].signal, &points);
        double *values = points.count < TERMS ? NULL : new_table(to, modes[i].kind, traces->all[0], 1, TERMS);
        if (points.count < TERMS)
            status = error_set(error, STATUS_INVALID,
                               "teacache: %zu measured changes, at least %d are needed", points.count, TERMS);
        else if (!values)
            status = no_memory(error);
        if (status) break;
        fit_polynomial(&points, room + 2 * most, values);
        snprintf(to->notes[to->count - 1], CALIBRATION_NOTE_BYTES,
                 "explains %.0f %% of the variance of the output's change", 100 * explained(&points, values));
    }
    free(room);
    return status;
}

/* ----------------------------------------------------------------------------------- sencache */

/* min |y - a u - b t|^2 with a, b >= 0, from the sums of products. Of the four cases (both free, one, none)
 * the unconstrained one if it is allowed, else the better edge. */
static void fit_pair(double uu, double ut, double tt, double uy, double ty, double *a, double *b)
{
    double determinant = uu * tt - ut * ut;
    *a = *b = 0;
    if (determinant > 1e-12 * uu * tt) {
        double free_a = (uy * tt - ty * ut) / determinant, free_b = (ty * uu - uy * ut) / determinant;
        if (free_a >= 0 && free_b >= 0) {
            *a = free_a, *b = free_b;
            return;
        }
    }
    double gain_a = uu > 0 ? uy * uy / uu : 0, gain_b = tt > 0 ? ty * ty / tt : 0;
    if (gain_a >= gain_b && uu > 0)
        *a = fmax(0, uy / uu);
    else if (tt > 0)
        *b = fmax(0, ty / tt);
}

struct pair_sums {
    double uu, ut, tt, uy, ty, yy;
    int count;
};

/* The samples of step c: every later step, up to the longest lag. */
static struct pair_sums sum_pairs(const struct traces *traces, int c)
{
    struct pair_sums sums = {0};
    for (size_t i = 0; i < traces->count; i++) {
        const struct trace *trace = traces->all[i];
        int longest = trace->lags < SENCACHE_LAGS ? trace->lags : SENCACHE_LAGS;
        for (int lag = 1; lag <= longest && c + lag < trace->steps; lag++) {
            const struct sums *output = trace_at(trace, TRACE_OUTPUT, 0, c + lag, lag);
            const struct sums *latent = trace_at(trace, TRACE_LATENT, 0, c + lag, lag);
            if (!output || !latent) continue;
            double y = sqrt(output->difference2), u = sqrt(latent->difference2);
            double t = TIMESTEPS * fabs(trace->sigmas[c + lag] - trace->sigmas[c]);
            if (!isfinite(y) || !isfinite(u)) continue;
            sums.uu += u * u, sums.ut += u * t, sums.tt += t * t;
            sums.uy += u * y, sums.ty += t * y, sums.yy += y * y;
            sums.count++;
        }
    }
    return sums;
}

static status_t fit_sencache(struct calibration *to, const struct traces *traces, struct error *error)
{
    double all = 0, rest = 0;
    double(*values)[2] = (double(*)[2])new_table(to, "sencache", traces->all[0], (size_t)traces->steps, 2);
    if (!values) return no_memory(error);
    for (int c = 0; c < traces->steps; c++) {
        struct pair_sums s = sum_pairs(traces, c);
        if (s.count == 0 && c == 0)
            return error_set(error, STATUS_INVALID, "sencache: step 0 has no measured differences");
        if (s.count == 0) {
            memcpy(values[c], values[c - 1], sizeof values[c]);
            continue;
        }
        fit_pair(s.uu, s.ut, s.tt, s.uy, s.ty, &values[c][0], &values[c][1]);
        double a = values[c][0], b = values[c][1];
        all += s.yy;
        rest += s.yy - 2 * (a * s.uy + b * s.ty) + a * a * s.uu + 2 * a * b * s.ut + b * b * s.tt;
    }
    set_note(to, "relative error of the predicted changes", all > 0 ? sqrt(fmax(0, rest) / all) : 0);
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------- l2p */

/* Mean square of a run's residuals; 0: not measured, or nothing that could be divided by. */
static double mean_square(const struct trace *trace, int branch)
{
    double sum = 0;
    for (int step = 0; step < trace->steps; step++) {
        const struct sums *sums = trace_at(trace, TRACE_RESIDUAL, branch, step, 0);
        if (!sums || !isfinite(sums->now2)) return 0;
        sum += sums->now2 / trace->steps;
    }
    return isfinite(sum) ? sum : 0;
}

static status_t fit_l2p(struct calibration *to, const struct traces *traces, struct error *error)
{
    size_t steps = (size_t)traces->steps;
    double *gram = new_table(to, "l2p", traces->all[0], steps, (unsigned)steps);
    if (!gram) return no_memory(error);
    int runs = 0, longest = 0;
    for (size_t i = 0; i < traces->count; i++) {
        const struct trace *trace = traces->all[i];
        if (trace->lags > longest) longest = trace->lags;
        for (int branch = 0; branch < trace->branches; branch++) {
            double scale = mean_square(trace, branch);
            if (scale <= 0) continue;
            runs++;
            for (int step = 0; step < trace->steps; step++)
                for (int lag = 0; lag <= trace->lags && lag <= step; lag++) {
                    const struct sums *sums = trace_at(trace, TRACE_RESIDUAL, branch, step, lag);
                    double product = !sums ? 0 : lag == 0 ? sums->now2 : sums->product;
                    if (!isfinite(product))
                        return error_set(error, STATUS_INVALID, "l2p: step %d was measured as not finite",
                                         step);
                    gram[(size_t)(step - lag) * steps + (size_t)step] += product / scale;
                }
        }
    }
    if (runs == 0) return error_set(error, STATUS_INVALID, "l2p: the residuals were not measured");
    for (size_t i = 0; i < steps * steps; i++) gram[i] /= runs;
    snprintf(to->notes[to->count - 1], CALIBRATION_NOTE_BYTES, "of %d runs, anchors up to %d steps away",
             runs, longest < traces->steps ? longest : traces->steps - 1);
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------- all */

static status_t check_alike(const struct trace *const *traces, size_t count, struct error *error)
{
    const struct trace *first = traces[0];
    for (size_t i = 1; i < count; i++)
        if (traces[i]->steps != first->steps || traces[i]->shift != first->shift ||
            memcmp(&traces[i]->model, &first->model, sizeof first->model) != 0)
            return error_set(
                error, STATUS_INVALID,
                "the runs differ in their model, number of steps or shift: %d steps and %d steps",
                first->steps, traces[i]->steps);
    return STATUS_OK;
}

status_t calibration_add(struct calibration *calibration, const char *kind, const struct trace *const *traces,
                         size_t count, struct error *error)
{
    typedef status_t fit(struct calibration * to, const struct traces *traces, struct error *error);
    static fit *const fits[] = {fit_magcache, fit_teacache, fit_sencache,
                                fit_l2p}; /* as in calibration_kinds */
    struct traces all = {traces, count, count ? traces[0]->steps : 0};
    size_t had = calibration->count;
    status_t status = count ? check_alike(traces, count, error)
                            : error_set(error, STATUS_INVALID, "there is no trace to fit to");
    int which = 0;
    while (calibration_kinds[which] && strcmp(calibration_kinds[which], kind) != 0) which++;
    if (!calibration_kinds[which]) return error_set(error, STATUS_INVALID, "%s: no kind of table", kind);
    if (!status && had + 2 > CALIBRATION_TABLES)
        status = error_set(error, STATUS_INVALID, "more than %d tables", CALIBRATION_TABLES);
    if (!status) status = fits[which](calibration, &all, error);
    while (status && calibration->count > had)
        free((double *)(uintptr_t)calibration->tables[--calibration->count].values);
    return status;
}

void calibration_free(struct calibration *calibration)
{
    while (calibration->count) free((double *)(uintptr_t)calibration->tables[--calibration->count].values);
}
