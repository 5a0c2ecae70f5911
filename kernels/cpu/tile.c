/*
 * tile.c - the inner loop, once for every number of rows. Pure function of its arguments; any thread.
 *
 * Per step of k it loads one or two vectors of B, and each row broadcasts one float of A into as many fused
 * multiply-adds. The numbers of rows and vectors are constants in each copy, so that the sums live in
 * registers.
 */
#include "kernels/cpu/tile.h"

#ifdef ISA_avx512
enum { MAX_ROWS = 12, MAX_VECTORS = 2 };
#else
enum { MAX_ROWS = 6, MAX_VECTORS = 2 }; /* 6 x 1: 12 sums, 2 of B, 1 broadcast, of 16 registers; or 1 x 2 */
#endif

/* Stores finished sums to c: [rows][vectors * 16] at distance c_row. */
INLINE void finish(const enum tile_mode mode, const int rows, const int vectors,
                   v16 sum[MAX_ROWS][MAX_VECTORS], float *c, const int64_t c_row, const float *scale)
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            float *at = c + r * c_row + v * LANES;
            v16 value = sum[r][v];
            if (mode == TILE_ADD) value = v16_add(v16_load(at), value);
            if (mode == TILE_SCALE) value = v16_fma(v16_load(at), v16_set1(scale[r]), value);
            v16_store(at, value);
        }
    }
}

/* 16 elements of B from element `at` on, as float32 */
INLINE v16 load_b(const void *b, const dtype_t type, int64_t at)
{
    if (type == DTYPE_BF16) return v16_load_bf16((const uint16_t *)b + at);
    if (type == DTYPE_F16) return v16_load_f16((const uint16_t *)b + at);
    return v16_load((const float *)b + at);
}

/* The piece of the tile that begins at `row`, `column`; rows 1..MAX_ROWS, vectors 1..MAX_VECTORS and B's type
 * are constants at each call. */
INLINE void compute(const struct tile *t, const int rows, const int vectors, const dtype_t type, int row,
                    int column)
{
    const float *a = t->a + row * t->a_row;
    const int64_t a_row = t->a_row, b_step = t->b_step;
    int64_t at = column;
    v16 sum[MAX_ROWS][MAX_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = v16_zero();
    }
    for (int s = 0; s < t->segment_count; s++) {
        const float *from = a + t->segments[s].offset;
        for (int i = 0, length = t->segments[s].length; i < length; i++, at += b_step) {
            v16 w[MAX_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) w[v] = load_b(t->b, type, at + v * LANES);
            UNROLL for (int r = 0; r < rows; r++)
            {
                v16 x = v16_set1(from[r * a_row + i]);
                UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = v16_fma(x, w[v], sum[r][v]);
            }
        }
    }
    float *c = t->c + row * t->c_row + column;
    switch (t->mode) {
    case TILE_STORE:
        finish(TILE_STORE, rows, vectors, sum, c, t->c_row, NULL);
        break;
    case TILE_ADD:
        finish(TILE_ADD, rows, vectors, sum, c, t->c_row, NULL);
        break;
    case TILE_SCALE:
        finish(TILE_SCALE, rows, vectors, sum, c, t->c_row, t->scale + row);
        break;
    }
}

/* A tile of one row: all there is to do is to read B, in whatever type and as fast as memory gives it. */
INLINE void compute_one_row(const struct tile *t, const int vectors)
{
    if (t->b_type == DTYPE_F32) compute(t, 1, vectors, DTYPE_F32, 0, 0);
    if (t->b_type == DTYPE_BF16) compute(t, 1, vectors, DTYPE_BF16, 0, 0);
    if (t->b_type == DTYPE_F16) compute(t, 1, vectors, DTYPE_F16, 0, 0);
}

/* Turns the number of rows into a constant. */
#define ROWS(n)                                                                                              \
    case n:                                                                                                  \
        compute(t, n, vectors, DTYPE_F32, row, column);                                                      \
        break

INLINE void compute_rows(const struct tile *t, int rows, const int vectors, int row, int column)
{
    switch (rows) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
        ROWS(5);
        ROWS(6);
#ifdef ISA_avx512
        ROWS(7);
        ROWS(8);
        ROWS(9);
        ROWS(10);
        ROWS(11);
        ROWS(12);
#endif
    }
}

#ifdef ISA_avx512

INLINE void compute_tile(const struct tile *t, const int vectors)
{
    compute_rows(t, t->rows, vectors, 0, 0);
}

#else

/* Columns outside, rows inside: half a panel stays in the first-level cache for the second piece of rows. */
INLINE void compute_tile(const struct tile *t, const int vectors)
{
    int pieces = divide_up(t->rows, MAX_ROWS);
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < pieces; i++) {
            int row = share_begin(t->rows, pieces, i), end = share_begin(t->rows, pieces, i + 1);
            compute_rows(t, end - row, 1, row, v * LANES);
        }
}

#endif

void FOR_ISA(tile_run)(const struct tile *tile)
{
    bool wide = tile->columns == TILE_COLUMNS;
    if (tile->rows == 1 && wide)
        compute_one_row(tile, 2);
    else if (tile->rows == 1)
        compute_one_row(tile, 1);
    else if (wide)
        compute_tile(tile, 2);
    else
        compute_tile(tile, 1);
}
