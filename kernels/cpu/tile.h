/*
 * tile.h - the one inner loop under dense layers, attention and convolutions: C[rows, cols] (+)= A[rows, k]
 * B[k, cols].
 *
 *     struct tile tile = {.rows = 12, .columns = 32, .a = x, .a_row = x_stride,
 *                         .segments = &(struct segment){0, 256}, .segment_count = 1, .b = panel,
 *                         .b_step = 32, .c = sums, .c_row = 32, .mode = TILE_STORE};
 *     FOR_ISA(tile_run)(&tile);
 *
 * Order of sums: each element of C is one chain of fused multiply-adds from 0 over k, ascending, and is then
 * stored or added to what is there. Nothing about it depends on rows, columns or the instruction set. Callers
 * cut long sums into blocks (TILE_BLOCK) and add the blocks in order, which also keeps rounding errors small.
 */
#ifndef REFRAIN_KERNELS_CPU_TILE_H
#define REFRAIN_KERNELS_CPU_TILE_H

#include "kernels/cpu/simd.h"

/* 12 rows of 2 vectors fill 24 of AVX-512's 32 registers with sums; AVX2 works through the same tile in
 * pieces. */
enum { TILE_ROWS = 12, TILE_COLUMNS = 32, TILE_BLOCK = 256 };

/* A run of k: `length` floats of each row of A that lie together, `offset` floats after its beginning. */
struct segment {
    int64_t offset;
    int length;
};

enum tile_mode {
    TILE_STORE, /* C = sum */
    TILE_ADD,   /* C = C + sum */
    TILE_SCALE, /* C = C scale[row] + sum, rounded once */
};

struct tile {
    int rows;       /* 1..TILE_ROWS */
    int columns;    /* 16 or 32 */
    const float *a; /* row r, segment s, element i: a[r * a_row + segments[s].offset + i] */
    int64_t a_row;
    const struct segment *segments;
    int segment_count;
    const void *b; /* [sum of lengths][b_step]; the first `columns` of each step are used */
    int64_t b_step;
    dtype_t b_type; /* a tile of one row may leave 16-bit weights as they are: each is used only once */
    float *c;       /* [rows] at distance c_row, `columns` each */
    int64_t c_row;
    enum tile_mode mode;
    const float *scale; /* [rows], TILE_SCALE only */
};

void FOR_ISA(tile_run)(const struct tile *tile);

/* Where part i of `parts` begins when `count` things are dealt out as evenly as can be; i = parts gives
 * count. */
INLINE int share_begin(int count, int parts, int i)
{
    return (int)((int64_t)count * i / parts);
}

INLINE int divide_up(int64_t count, int64_t by)
{
    return (int)((count + by - 1) / by);
}

#endif
