/*
 * elementwise.c - weighted sums and SiLU over flat arrays. Every element on its own; a task is one chunk of
 * them.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"

/* Floats of a task; and floats read below which one thread is done before another has woken up. */
enum { CHUNK = 16384, ALONE = 131072 };

struct lincomb_run {
    int terms;
    const float *weights;  /* [terms] or, by rows, [groups][terms] */
    const float *const *x; /* [terms], each [count] */
    float *y;              /* [count], may be one of x */
    int64_t count, chunk;
    /* by rows */
    const unsigned char *group; /* [rows] */
    int64_t rows, width;
};

/* More streams than PASS_TERMS at once are read at half the speed of memory: longer sums are made of passes
 * over a piece, the sums so far waiting in the first-level cache. */
enum { PASS_TERMS = 8, PIECE = 4096 };

struct pass {
    int terms;
    const float *weights;  /* [terms] */
    const float *const *x; /* [terms] */
    const float *sums;     /* of earlier passes; NULL: none */
};

/* 16 or 64 elements, `at` of each x, into y; the last vector has `lanes`. In order of terms, each product and
 * each sum rounded: solvers are checked bit for bit against such arithmetic. */
INLINE void combine(const struct pass *pass, const int vectors, int64_t at, int lanes, const float *sums,
                    float *y)
{
    v16 sum[4];
    int j = 0;
    if (sums) {
        UNROLL for (int v = 0; v < vectors; v++) sum[v] =
            v16_load_n(sums + v * LANES, v < vectors - 1 ? LANES : lanes);
    } else {
        v16 weight = v16_set1(pass->weights[0]);
        const float *x = pass->x[j++] + at;
        UNROLL for (int v = 0; v < vectors; v++) sum[v] =
            v16_mul(weight, v16_load_n(x + v * LANES, v < vectors - 1 ? LANES : lanes));
    }
    for (; j < pass->terms; j++) {
        v16 weight = v16_set1(pass->weights[j]);
        const float *x = pass->x[j] + at;
        UNROLL for (int v = 0; v < vectors; v++) sum[v] =
            v16_add(sum[v], v16_mul(weight, v16_load_n(x + v * LANES, v < vectors - 1 ? LANES : lanes)));
    }
    UNROLL for (int v = 0; v < vectors; v++)
        v16_store_n(y + v * LANES, sum[v], v < vectors - 1 ? LANES : lanes);
}

/* Elements [begin, end) of each x; y and the earlier sums begin at element `begin`. y may be those sums. */
static void run_pass(const struct pass *pass, int64_t begin, int64_t end, float *y)
{
    const float *sums = pass->sums;
    int64_t i = begin;
    for (; end - i >= 4 * LANES; i += 4 * LANES)
        combine(pass, 4, i, LANES, sums ? sums + (i - begin) : NULL, y + (i - begin));
    for (; end > i; i += LANES)
        combine(pass, 1, i, end - i < LANES ? (int)(end - i) : LANES, sums ? sums + (i - begin) : NULL,
                y + (i - begin));
}

/* scratch: [PIECE]. y may be one of x: it is written when a piece has been read to the last term. */
static void combine_span(const struct lincomb_run *run, const float *weights, int64_t begin, int64_t end,
                         float *scratch)
{
    int64_t piece = run->terms > PASS_TERMS ? PIECE : end - begin;
    for (; begin < end; begin += piece) {
        int64_t stop = begin + piece < end ? begin + piece : end;
        for (int j = 0; j < run->terms; j += PASS_TERMS) {
            bool last = run->terms - j <= PASS_TERMS;
            struct pass pass = {last ? run->terms - j : PASS_TERMS, weights + j, run->x + j,
                                j ? scratch : NULL};
            run_pass(&pass, begin, stop, last ? run->y + begin : scratch);
        }
    }
}

static void lincomb_task(void *arguments, int task, void *scratch)
{
    const struct lincomb_run *run = arguments;
    int64_t begin = task * run->chunk,
            end = begin + run->chunk < run->count ? begin + run->chunk : run->count;
    combine_span(run, run->weights, begin, end, scratch);
}

/* Neighbours of one group are one span. */
static void lincomb_rows_task(void *arguments, int task, void *scratch)
{
    const struct lincomb_run *run = arguments;
    int64_t row = task * run->chunk, end = row + run->chunk < run->rows ? row + run->chunk : run->rows;
    while (row < end) {
        int64_t first = row++;
        while (row < end && run->group[row] == run->group[first]) row++;
        combine_span(run, run->weights + run->group[first] * run->terms, first * run->width, row * run->width,
                     scratch);
    }
}

void FOR_ISA(lincomb)(struct team *team, int terms, const float *weights, const float *const *x,
                      int64_t count, float *y)
{
    struct lincomb_run run = {.terms = terms, .weights = weights, .x = x, .y = y, .count = count};
    run.chunk = terms * count <= ALONE ? count : CHUNK;
    if (count > 0) team_run(team, divide_up(count, run.chunk), lincomb_task, &run);
}

void FOR_ISA(lincomb_rows)(struct team *team, int terms, const float *weights, const unsigned char *group,
                           const float *const *x, int64_t rows, int64_t width, float *y)
{
    struct lincomb_run run = {.terms = terms, .weights = weights, .x = x, .y = y, .group = group};
    run.rows = rows;
    run.width = width;
    run.chunk = terms * rows * width <= ALONE ? rows : (CHUNK + width - 1) / width;
    if (rows > 0) team_run(team, divide_up(rows, run.chunk), lincomb_rows_task, &run);
}

struct silu_run {
    const float *x;
    float *y; /* may be x */
    int64_t count;
};

static void silu_task(void *arguments, int task, void *scratch)
{
    const struct silu_run *run = arguments;
    int64_t begin = (int64_t)task * CHUNK, end = begin + CHUNK < run->count ? begin + CHUNK : run->count;
    for (int64_t i = begin; i < end; i += LANES) {
        int lanes = end - i < LANES ? (int)(end - i) : LANES;
        v16_store_n(run->y + i, v16_silu(v16_load_n(run->x + i, lanes)), lanes);
    }
}

void FOR_ISA(silu)(struct team *team, const float *x, int64_t count, float *y)
{
    struct silu_run run = {x, y, count};
    team_run(team, divide_up(count, CHUNK), silu_task, &run);
}
