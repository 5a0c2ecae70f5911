/*
 * linear.c - y = epilogue(x w^T + bias) with weights packed once into panels.
 *
 * Layout of the weights: panels of 32 output columns, [n / 32][k][32] in the checkpoint's width; the last
 * panel may be 16 wide, and columns beyond n are zeros. So the inner loop reads them strictly in order, and a
 * panel of 16-bit weights is widened to float32 in scratch once for all the rows of a task.
 *
 * Order of sums of y[m, n], whatever the number of rows and threads: k in blocks of TILE_BLOCK from 0; inside
 * a block one chain of fused multiply-adds; blocks added in order; then the bias; then the epilogue.
 *
 * A task is some rows times some panels. It copies its rows of x block by block into scratch: rows of a
 * tensor are often a power of two apart, and twelve such rows would evict each other from the first-level
 * cache.
 */
#include <stdlib.h>
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"
#include "kernels/weights.h"

enum {
    TASK_ROWS = 12 * TILE_ROWS, /* at most, and a multiple of a tile: bounds what scratch holds */
    TASK_PANELS = 16,           /* likewise */
    X_ROW = TILE_BLOCK + LANES, /* floats between copied rows: not a power of two */
    TASKS_PER_THREAD = 16,      /* wished for, as long as a task stays worth its hand-out: */
    TASK_WORTH = 2 << 20,       /* fused multiply-adds; about 40 us of one core */
};

struct linear {
    int n, k;
    dtype_t dtype;
    void *panels; /* see above */
    float *bias;  /* [n rounded up to a panel], zeros beyond n and where there was none */
    /* A part of a whole layer has its memory, from the panel on in which the part begins; a whole one is its only part. */
    bool part;
    int skip;   /* columns of the first panel that are before the part */
    int packed; /* columns from the first panel to the whole's end */
};

/* What one thread's scratch holds. */
struct linear_scratch {
    float x[TASK_ROWS][X_ROW];
    float sums[TASK_PANELS][TASK_ROWS][TILE_COLUMNS];
    float panel[TILE_BLOCK][TILE_COLUMNS];
};
_Static_assert(sizeof(struct linear_scratch) <= TEAM_SCRATCH_BYTES, "a task of linear must fit its scratch");

/* ----------------------------------------------------------------------------------------- the weights */

static int panel_columns(int n, int panel)
{
    return n - panel * TILE_COLUMNS > LANES ? TILE_COLUMNS : LANES;
}

static int panel_count(int n)
{
    return divide_up(n, TILE_COLUMNS);
}

/* All panels together: n rounded up to half a panel. */
static size_t panel_elements(int n, int k)
{
    return (size_t)divide_up(n, LANES) * LANES * (size_t)k;
}

/* Those that a part reaches into. */
static int panels_of(const struct linear *linear)
{
    return panel_count(linear->skip + linear->n);
}

static size_t bias_bytes(int n)
{
    return (size_t)panel_count(n) * TILE_COLUMNS * sizeof(float);
}

void FOR_ISA(linear_destroy)(struct linear *linear)
{
    if (!linear) return;
    if (!linear->part) {
        free(linear->panels);
        free(linear->bias);
    }
    free(linear);
}

size_t FOR_ISA(linear_bytes)(const struct linear *linear)
{
    if (linear->part) return 0;
    return panel_elements(linear->n, linear->k) * dtype_bytes(linear->dtype) + bias_bytes(linear->n);
}

/* Transposes w [n, k] into panels; a few columns at a time, so that both sides stay near. */
static void pack(const struct matrix *w, void *panels)
{
    size_t width = dtype_bytes(w->dtype);
    for (int p = 0; p < panel_count(w->rows); p++) {
        int columns = panel_columns(w->rows, p), first = p * TILE_COLUMNS;
        int real = w->rows - first < columns ? w->rows - first : columns;
        char *panel = (char *)panels + (size_t)first * (size_t)w->columns * width;
        for (int k = 0; k < w->columns; k++)
            for (int c = 0; c < real; c++)
                memcpy(panel + ((size_t)k * (size_t)columns + (size_t)c) * width,
                       (const char *)w->data + ((size_t)(first + c) * (size_t)w->columns + (size_t)k) * width,
                       width);
    }
}

status_t FOR_ISA(linear_create)(const struct matrix *w, const struct matrix *bias, struct linear **result,
                                struct error *error)
{
    status_t status = weights_check_linear(w, bias, error);
    if (status) return status;

    struct linear *linear = malloc(sizeof *linear);
    if (!linear) goto no_memory;
    *linear = (struct linear){.n = w->rows, .k = w->columns, .dtype = w->dtype, .packed = w->rows};
    linear->panels = weights_alloc(panel_elements(w->rows, w->columns) * dtype_bytes(w->dtype));
    linear->bias = weights_alloc(bias_bytes(w->rows));
    if (!linear->panels || !linear->bias) goto no_memory;
    pack(w, linear->panels);
    for (int i = 0; bias && i < w->rows; i++) linear->bias[i] = weights_get(bias->data, bias->dtype, i);
    *result = linear;
    return STATUS_OK;

no_memory:
    FOR_ISA(linear_destroy)(linear);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a [%d, %d] weight", w->rows, w->columns);
}

/* Panels before the last one of a whole layer are full, so that a part begins at whole panels' distance from it. */
status_t FOR_ISA(linear_part)(const struct linear *whole, int first, int count, struct linear **result,
                              struct error *error)
{
    status_t status = weights_check_part(whole->n, first, count, error);
    if (status) return status;
    struct linear *part = malloc(sizeof *part);
    if (!part) return error_set(error, STATUS_NO_MEMORY, "no memory for a part of a weight");
    int skip = first % TILE_COLUMNS, begin = first - skip;
    *part = (struct linear){.n = count,
                            .k = whole->k,
                            .dtype = whole->dtype,
                            .panels = (char *)whole->panels +
                                      (size_t)begin * (size_t)whole->k * dtype_bytes(whole->dtype),
                            .bias = whole->bias + begin,
                            .part = true,
                            .skip = skip,
                            .packed = whole->n - begin};
    *result = part;
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------- the product */

struct linear_run {
    const struct linear *linear;
    const float *x; /* [rows, k] */
    float *y;       /* [rows, n] */
    int64_t x_stride, y_stride;
    struct epilogue epilogue;
    int rows, row_tiles, panels;
    int row_parts, panel_parts; /* the grid of tasks */
};

/* `count` 16-bit weights (a multiple of 16) to float32. */
static void widen(const uint16_t *from, dtype_t dtype, int count, float *to)
{
    if (dtype == DTYPE_BF16)
        for (int i = 0; i < count; i += LANES) v16_store(to + i, v16_load_bf16(from + i));
    else
        for (int i = 0; i < count; i += LANES) v16_store(to + i, v16_load_f16(from + i));
}

/* Points a tile at steps [k, k + length) of a panel: [length][columns], in place or widened into `scratch`.
 * Widening pays from the second row on; for a single one the tile reads what is stored. */
static void point_at_panel(const struct linear *linear, int panel, int k, int length, int rows,
                           float *scratch, struct tile *tile)
{
    int columns = panel_columns(linear->packed, panel);
    size_t at = (size_t)panel * TILE_COLUMNS * (size_t)linear->k + (size_t)k * (size_t)columns;
    tile->columns = columns;
    tile->b_step = columns;
    tile->b = (const char *)linear->panels + at * dtype_bytes(linear->dtype);
    tile->b_type = linear->dtype;
    if (linear->dtype == DTYPE_F32 || rows == 1) return;
    widen(tile->b, linear->dtype, length * columns, scratch);
    tile->b = scratch;
    tile->b_type = DTYPE_F32;
}

/* One vector of results: a holds the sums with bias, `at` counts columns from column 0 of the row. */
INLINE v16 apply(const struct epilogue *e, const enum epilogue_kind kind, v16 a, const float *other, int at,
                 int lanes)
{
    switch (kind) {
    case EPILOGUE_NONE:
        break;
    case EPILOGUE_GELU:
        return v16_gelu(a);
    case EPILOGUE_SILU:
        return v16_silu(a);
    case EPILOGUE_MULTIPLY:
        return v16_mul(a, v16_load_n(other + at, lanes));
    case EPILOGUE_ADD:
        return v16_add(v16_load_n(other + at, lanes), a);
    case EPILOGUE_GATE_ADD:
        return v16_fma(a, v16_load_n(e->gate + at, lanes), v16_load_n(other + at, lanes));
    }
    return a;
}

/* Bias and epilogue for one panel's sums, rows [first, first + rows); columns are counted from the first panel's. */
INLINE void store_panel(const struct linear_run *run, const enum epilogue_kind kind, int panel, int first,
                        int rows, const float (*sums)[TILE_COLUMNS])
{
    const struct epilogue *e = &run->epilogue;
    int skip = run->linear->skip, last = skip + run->linear->n, begin = panel * TILE_COLUMNS,
        end = begin + TILE_COLUMNS < last ? begin + TILE_COLUMNS : last;
    for (int r = 0; r < rows; r++) {
        const float *other = e->other ? e->other + (first + r) * e->other_stride : NULL;
        float *y = run->y + (first + r) * run->y_stride;
        for (int at = begin > skip ? begin : skip; at < end; at += LANES) {
            v16 a = v16_add(v16_load_n(sums[r] + at - begin, end - at),
                            v16_load_n(run->linear->bias + at, end - at));
            v16_store_n(y + at - skip, apply(e, kind, a, other, at - skip, end - at), end - at);
        }
    }
}

/* The kind is made a constant here, so that no row asks for it. */
static void finish_panel(const struct linear_run *run, int panel, int first, int rows,
                         const float (*sums)[TILE_COLUMNS])
{
    switch (run->epilogue.kind) {
    case EPILOGUE_NONE:
        store_panel(run, EPILOGUE_NONE, panel, first, rows, sums);
        break;
    case EPILOGUE_GELU:
        store_panel(run, EPILOGUE_GELU, panel, first, rows, sums);
        break;
    case EPILOGUE_SILU:
        store_panel(run, EPILOGUE_SILU, panel, first, rows, sums);
        break;
    case EPILOGUE_MULTIPLY:
        store_panel(run, EPILOGUE_MULTIPLY, panel, first, rows, sums);
        break;
    case EPILOGUE_ADD:
        store_panel(run, EPILOGUE_ADD, panel, first, rows, sums);
        break;
    case EPILOGUE_GATE_ADD:
        store_panel(run, EPILOGUE_GATE_ADD, panel, first, rows, sums);
        break;
    }
}

/* One part of the rows times one part of the panels. Row parts are the inner index: tasks that follow each
 * other use the same weights, which are then still in the shared cache. */
static void linear_task(void *arguments, int task, void *memory)
{
    const struct linear_run *run = arguments;
    const struct linear *linear = run->linear;
    struct linear_scratch *scratch = memory;
    int row_part = task % run->row_parts, panel_part = task / run->row_parts;
    int tile_begin = share_begin(run->row_tiles, run->row_parts, row_part);
    int tile_end = share_begin(run->row_tiles, run->row_parts, row_part + 1);
    int panel_begin = share_begin(run->panels, run->panel_parts, panel_part);
    int panel_end = share_begin(run->panels, run->panel_parts, panel_part + 1);
    int first = share_begin(run->rows, run->row_tiles, tile_begin);
    int rows = share_begin(run->rows, run->row_tiles, tile_end) - first;

    for (int k = 0; k < linear->k; k += TILE_BLOCK) {
        int length = linear->k - k < TILE_BLOCK ? linear->k - k : TILE_BLOCK;
        for (int r = 0; r < rows; r++)
            memcpy(scratch->x[r], run->x + (first + r) * run->x_stride + k, (size_t)length * sizeof(float));
        for (int panel = panel_begin; panel < panel_end; panel++) {
            float(*sums)[TILE_COLUMNS] = scratch->sums[panel - panel_begin];
            struct tile tile = {
                .a_row = X_ROW,
                .segments = &(struct segment){0, length},
                .segment_count = 1,
                .c_row = TILE_COLUMNS,
                .mode = k == 0 ? TILE_STORE : TILE_ADD,
            };
            point_at_panel(linear, panel, k, length, rows, scratch->panel[0], &tile);
            for (int i = tile_begin; i < tile_end; i++) {
                int row = share_begin(run->rows, run->row_tiles, i) - first;
                tile.rows = share_begin(run->rows, run->row_tiles, i + 1) - first - row;
                tile.a = scratch->x[row];
                tile.c = sums[row];
                FOR_ISA(tile_run)(&tile);
            }
            if (k + length == linear->k) finish_panel(run, panel, first, rows, sums);
        }
    }
}

/* Cuts the output into a grid of tasks: as large as scratch allows, then smaller until every thread has
 * several. Panels are cut first: that costs a copy of the rows, where cutting rows would read the weights
 * once more. */
static void plan_tasks(struct linear_run *run, int threads)
{
    int tiles = TASK_ROWS / TILE_ROWS, panels = TASK_PANELS;
    run->row_tiles = divide_up(run->rows, TILE_ROWS);
    run->panels = panels_of(run->linear);
    for (;;) {
        run->row_parts = divide_up(run->row_tiles, tiles);
        run->panel_parts = divide_up(run->panels, panels);
        int64_t tasks = (int64_t)run->row_parts * run->panel_parts;
        int64_t work = (int64_t)run->rows * run->linear->n * run->linear->k / tasks;
        if (threads == 1 || tasks >= TASKS_PER_THREAD * threads || work < 2 * TASK_WORTH) break;
        if (panels > 2)
            panels /= 2;
        else if (tiles > 3)
            tiles /= 2;
        else
            break;
    }
}

void FOR_ISA(linear)(struct team *team, const struct linear *linear, const void *x, int64_t x_stride,
                     int rows, const struct epilogue *epilogue, void *y, int64_t y_stride)
{
    if (rows < 1) return;
    struct linear_run run = {.linear = linear,
                             .x = x,
                             .y = y,
                             .x_stride = x_stride,
                             .y_stride = y_stride,
                             .epilogue = *epilogue,
                             .rows = rows};
    plan_tasks(&run, team_threads(team));
    team_run(team, run.row_parts * run.panel_parts, linear_task, &run);
}
