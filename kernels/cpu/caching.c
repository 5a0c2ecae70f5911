/*
 * caching.c - what caching policies measure with (reduce2) and what frequency bands and filters are made with
 * (mix). Rows are cut into tasks; nothing about a row depends on the others.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

/* Floats of a task; and floats of a whole below which one thread is done before another has woken up. */
enum { CHUNK = 16384, ALONE = 65536, MULTIPLIES_ALONE = 1 << 20 };

/* ---------------------------------------------------------------------------------------------- reduce2 */

enum { BLOCK = 1024 }; /* columns summed in float32 lanes: at most 64 a lane */

struct reduce_run {
    const float *a, *b; /* [rows, width] */
    double *partials;   /* [rows][REDUCE_SUMS] */
    int64_t rows, width, chunk;
};

INLINE void add_columns(v16 sum[REDUCE_SUMS], v16 a, v16 b)
{
    v16 difference = v16_sub(a, b);
    sum[REDUCE_DIFFERENCE] = v16_add(sum[REDUCE_DIFFERENCE], v16_abs(difference));
    sum[REDUCE_A] = v16_add(sum[REDUCE_A], v16_abs(a));
    sum[REDUCE_B] = v16_add(sum[REDUCE_B], v16_abs(b));
    sum[REDUCE_PRODUCT] = v16_fma(a, b, sum[REDUCE_PRODUCT]);
    sum[REDUCE_A2] = v16_fma(a, a, sum[REDUCE_A2]);
    sum[REDUCE_B2] = v16_fma(b, b, sum[REDUCE_B2]);
    sum[REDUCE_DIFFERENCE2] = v16_fma(difference, difference, sum[REDUCE_DIFFERENCE2]);
}

/* Columns beyond the width read as 0 and add 0. */
static void reduce_row(const float *a, const float *b, int64_t width, double *partials)
{
    double total[REDUCE_SUMS] = {0};
    for (int64_t begin = 0; begin < width; begin += BLOCK) {
        int count = width - begin < BLOCK ? (int)(width - begin) : BLOCK, i = 0;
        v16 sum[REDUCE_SUMS];
        UNROLL for (int s = 0; s < REDUCE_SUMS; s++) sum[s] = v16_zero();
        for (; i <= count - LANES; i += LANES)
            add_columns(sum, v16_load(a + begin + i), v16_load(b + begin + i));
        if (i < count)
            add_columns(sum, v16_load_n(a + begin + i, count - i), v16_load_n(b + begin + i, count - i));
        UNROLL for (int s = 0; s < REDUCE_SUMS; s++) total[s] += v16_sum_wide(sum[s]);
    }
    UNROLL for (int s = 0; s < REDUCE_SUMS; s++) partials[s] = total[s];
}

static void reduce_task(void *arguments, int task, void *scratch)
{
    const struct reduce_run *run = arguments;
    int64_t begin = task * run->chunk, end = begin + run->chunk < run->rows ? begin + run->chunk : run->rows;
    for (int64_t row = begin; row < end; row++)
        reduce_row(run->a + row * run->width, run->b + row * run->width, run->width,
                   run->partials + row * REDUCE_SUMS);
}

void FOR_ISA(reduce2)(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                      double *partials)
{
    struct reduce_run run = {a, b, partials, rows, width, rows};
    if (rows < 1) return;
    if (rows * width > ALONE) run.chunk = (CHUNK + width - 1) / width;
    team_run(team, divide_up(rows, run.chunk), reduce_task, &run);
}

/* ------------------------------------------------------------------------------------------------- mix */

struct mix_run {
    const float *matrix; /* [n, n] */
    const float *x;      /* [outer, n, inner] */
    float *y;
    int64_t inner;
    int n, panels;        /* of TILE_COLUMNS columns in `inner` */
    int64_t total, chunk; /* panels in all; of a task */
};

/* Scratch of a task: one panel of x, its rows together, and a tile for columns that do not fill a vector. */
struct mix_scratch {
    float tile[TILE_ROWS * TILE_COLUMNS];
    float panel[]; /* [n][TILE_COLUMNS] */
};

/* `width` columns of x from its beginning on, its rows at distance `inner`, into rows of `columns`. */
INLINE void pack_panel(const float *x, int n, int64_t inner, int columns, int width, float *panel)
{
    for (int k = 0; k < n; k++)
        for (int c = 0; c < columns; c += LANES)
            v16_store(panel + k * columns + c, v16_load_n(x + k * inner + c, width - c));
}

/* Up to 32 columns of y. A large panel is packed: rows of x may lie a power of two apart, where they would
 * push each other out of the cache, and every tile reads them again. */
static void mix_panel(const struct mix_run *run, const float *x, float *y, int width,
                      struct mix_scratch *scratch)
{
    int n = run->n, columns = width > LANES ? TILE_COLUMNS : LANES;
    struct tile tile = {.columns = columns,
                        .a_row = n,
                        .segments = &(struct segment){0, n},
                        .segment_count = 1,
                        .b = x,
                        .b_step = run->inner,
                        .mode = TILE_STORE};
    if (n > TILE_ROWS || width < columns) {
        pack_panel(x, n, run->inner, columns, width, scratch->panel);
        tile.b = scratch->panel;
        tile.b_step = columns;
    }
    for (int row = 0; row < n; row += tile.rows) {
        tile.rows = n - row < TILE_ROWS ? n - row : TILE_ROWS;
        tile.a = run->matrix + (int64_t)row * n;
        tile.c = width < columns ? scratch->tile : y + row * run->inner;
        tile.c_row = width < columns ? columns : run->inner;
        FOR_ISA(tile_run)(&tile);
        for (int r = 0; width < columns && r < tile.rows; r++)
            for (int c = 0; c < width; c += LANES)
                v16_store_n(y + (row + r) * run->inner + c, v16_load(scratch->tile + r * columns + c),
                            width - c);
    }
}

static void mix_task(void *arguments, int task, void *scratch)
{
    const struct mix_run *run = arguments;
    int64_t begin = task * run->chunk,
            end = begin + run->chunk < run->total ? begin + run->chunk : run->total;
    for (int64_t panel = begin; panel < end; panel++) {
        int64_t column = panel % run->panels * TILE_COLUMNS, left = run->inner - column;
        int64_t at = panel / run->panels * run->n * run->inner + column;
        mix_panel(run, run->x + at, run->y + at, left < TILE_COLUMNS ? (int)left : TILE_COLUMNS, scratch);
    }
}

void FOR_ISA(mix)(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner, const float *x,
                  float *y)
{
    struct mix_run run = {.matrix = matrix, .x = x, .y = y, .inner = inner, .n = n};
    run.panels = divide_up(inner, TILE_COLUMNS);
    run.total = outer * run.panels;
    run.chunk =
        outer * n * inner * n <= MULTIPLIES_ALONE ? run.total : divide_up(CHUNK, (int64_t)n * TILE_COLUMNS);
    if (run.total > 0) team_run(team, divide_up(run.total, run.chunk), mix_task, &run);
}
