/*
 * attention.c - softmax(q k^T) v without ever holding a row of logits: kv rows in tiles, a running maximum
 * and sum.
 *
 * Order of sums of one output row, whatever else is computed with it: kv rows in tiles of KV_TILE from row 0.
 * In a tile logits are one chain over head_dim each; the new maximum rescales what was summed before; the sum
 * of exponentials is kept in 16 lanes (column mod 16) and folded at the end; p v is one chain over the tile's
 * rows, added to the rescaled output. (Online softmax: Milakov and Gimelshein, arXiv:1805.02867; tiles:
 * FlashAttention, arXiv:2205.14135.)
 *
 * A task is one head and a block of q rows; more rows per block spread the cost of laying out k and v over
 * more work.
 */
#include <math.h>
#include <string.h>
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"

enum {
    MAX_HEAD_DIM = 512,
    KV_TILE = 128,
    P_ROW = KV_TILE + LANES,  /* floats between rows of weights: not a power of two */
    BLOCK_TILES = 16,         /* tiles of q rows a task has at most, */
    BLOCK_FLOATS = 192 * 272, /* and floats of q: 192 rows of heads up to 256, fewer of larger ones */
    MAX_ROWS = BLOCK_TILES * TILE_ROWS,
    TASKS_PER_THREAD = 4,
};

/* One thread's scratch. Rows of q and out are `row_floats` apart, so that a small head stays in a small
 * place. */
struct attention_scratch {
    float q[BLOCK_FLOATS];           /* scaled */
    float out[BLOCK_FLOATS];         /* not yet divided by the sum */
    float k[KV_TILE * MAX_HEAD_DIM]; /* transposed: panels of 32 kv rows, [panel][head_dim][32] */
    float v[KV_TILE * MAX_HEAD_DIM]; /* panels of 32 dimensions, [panel][kv rows][32] */
    float p[TILE_ROWS * P_ROW];      /* logits, then weights, of one tile of rows */
    float total[MAX_ROWS][LANES];    /* running sums of weights */
    float largest[MAX_ROWS + LANES]; /* running maxima; the rest is read, never used */
};
_Static_assert(sizeof(struct attention_scratch) <= TEAM_SCRATCH_BYTES,
               "a task of attention must fit its scratch");

struct attention_run {
    struct attention a;
    int row_tiles, row_parts; /* q rows in tiles, tiles in blocks */
    int row_floats;
};

/* What a task works on. */
struct block {
    const struct attention_run *run;
    struct attention_scratch *scratch;
    int head, first_row, first_kv, kv_rows; /* of the current kv tile; kv_rows 1..KV_TILE */
};

/* Eight rows of eight floats become eight columns. */
INLINE void transpose_8x8(__m256 r[8])
{
    __m256 t[8], u[8];
    UNROLL for (int i = 0; i < 8; i += 2)
    {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) UNROLL for (int j = 0; j < 2; j++)
    {
        u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
        u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* Floats of one panel of k: head_dim rounded up to whole transposed blocks. */
INLINE int64_t k_panel_floats(const struct attention *a)
{
    return (int64_t)divide_up(a->head_dim, 8) * 8 * TILE_COLUMNS;
}

/* k^T of the current tile into panels; rows beyond the last are zeros, to a multiple of 16. */
static void load_k(const struct block *b)
{
    static const float zeros[MAX_HEAD_DIM];
    const struct attention *a = &b->run->a;
    const float *k = (const float *)a->k + b->first_kv * a->k_stride + (int64_t)b->head * a->head_dim;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int j = 0; j < divide_up(b->kv_rows, LANES) * LANES; j += 8) {
        float *panel = b->scratch->k + j / TILE_COLUMNS * k_panel_floats(a) + j % TILE_COLUMNS;
        const float *from[8];
        for (int i = 0; i < 8; i++) from[i] = j + i < b->kv_rows ? k + (j + i) * a->k_stride : zeros;
        for (int d = 0; d < a->head_dim; d += 8) {
            __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(a->head_dim - d), lane);
            __m256 rows[8];
            UNROLL for (int i = 0; i < 8; i++) rows[i] = _mm256_maskload_ps(from[i] + d, mask);
            transpose_8x8(rows);
            UNROLL for (int i = 0; i < 8; i++)
                _mm256_storeu_ps(panel + (int64_t)(d + i) * TILE_COLUMNS, rows[i]);
        }
    }
}

/* v of the current tile into panels of 32 dimensions; dimensions beyond the head are zeros, to a multiple
 * of 16. */
static void load_v(const struct block *b)
{
    const struct attention *a = &b->run->a;
    const float *v = (const float *)a->v + b->first_kv * a->v_stride + (int64_t)b->head * a->head_dim;
    for (int j = 0; j < b->kv_rows; j++, v += a->v_stride)
        for (int d = 0; d < a->head_dim; d += LANES) {
            float *panel =
                b->scratch->v + (int64_t)(d / TILE_COLUMNS) * KV_TILE * TILE_COLUMNS + d % TILE_COLUMNS;
            v16_store(panel + j * TILE_COLUMNS, v16_load_n(v + d, a->head_dim - d));
        }
}

/* Asks for part i of `parts` of the next kv tile's rows. A head's rows are short and a whole tensor row
 * apart, so that the processor does not foresee them; laying them out would otherwise wait for each line. */
static void prefetch_kv(const struct block *b, int i, int parts)
{
    const struct attention *a = &b->run->a;
    int next = b->first_kv + KV_TILE, rows = a->kv_rows - next < KV_TILE ? a->kv_rows - next : KV_TILE;
    if (rows <= 0) return;
    for (int j = next + share_begin(rows, parts, i); j < next + share_begin(rows, parts, i + 1); j++) {
        const float *k = (const float *)a->k + j * a->k_stride + (int64_t)b->head * a->head_dim;
        const float *v = (const float *)a->v + j * a->v_stride + (int64_t)b->head * a->head_dim;
        for (int d = 0; d < a->head_dim; d += LANES) {
            _mm_prefetch((const char *)(k + d), _MM_HINT_T1);
            _mm_prefetch((const char *)(v + d), _MM_HINT_T1);
        }
    }
}

/* The block's q rows, times scale. */
static void load_q(const struct block *b, int rows)
{
    const struct attention *a = &b->run->a;
    v16 scale = v16_set1(a->scale);
    for (int r = 0; r < rows; r++) {
        const float *q =
            (const float *)a->q + (b->first_row + r) * a->q_stride + (int64_t)b->head * a->head_dim;
        for (int d = 0; d < a->head_dim; d += LANES)
            v16_store(b->scratch->q + r * b->run->row_floats + d,
                      v16_mul(v16_load_n(q + d, a->head_dim - d), scale));
    }
}

/* Logits of one tile of rows against the current kv tile: p[rows][kv_rows rounded up to 16]. */
static void logits(const struct block *b, int row, int rows)
{
    int head_dim = b->run->a.head_dim;
    for (int j = 0; j < b->kv_rows; j += TILE_COLUMNS) {
        struct tile tile = {
            .rows = rows,
            .columns = b->kv_rows - j > LANES ? TILE_COLUMNS : LANES,
            .a = b->scratch->q + row * b->run->row_floats,
            .a_row = b->run->row_floats,
            .segments = &(struct segment){0, head_dim},
            .segment_count = 1,
            .b = b->scratch->k + j / TILE_COLUMNS * k_panel_floats(&b->run->a),
            .b_step = TILE_COLUMNS,
            .c = b->scratch->p + j,
            .c_row = P_ROW,
            .mode = TILE_STORE,
        };
        FOR_ISA(tile_run)(&tile);
    }
}

/* Adds the bias row, the last row's extra logit, and minus infinity beyond the last row. `row` counts in the
 * block. */
static void adjust_logits(const struct block *b, int row, float *p)
{
    const struct attention *a = &b->run->a;
    if (a->bias) {
        const float *bias = a->bias + (int64_t)b->head * (a->q_rows + a->kv_rows - 1) + b->first_kv -
                            (b->first_row + row) + a->q_rows - 1;
        for (int j = 0; j < b->kv_rows; j += LANES)
            v16_store(p + j, v16_add(v16_load(p + j), v16_load_n(bias + j, b->kv_rows - j)));
    }
    if (b->first_kv + b->kv_rows == a->kv_rows) p[b->kv_rows - 1] += a->last_logit;
    int last = (b->kv_rows - 1) / LANES * LANES;
    v16_store(p + last, v16_first_n(v16_load(p + last), v16_set1(-INFINITY), b->kv_rows - last));
}

/* Turns the logits of one tile of rows into weights; scale[rows] is what earlier sums are to be times. */
static void weigh(const struct block *b, int row, int rows, float scale[LANES])
{
    struct attention_scratch *s = b->scratch;
    int columns = divide_up(b->kv_rows, LANES) * LANES;
    v16 before = v16_load(s->largest + row);
    float now[LANES] = {0}; /* what exponents are taken against */
    for (int r = 0; r < rows; r++) {
        float *p = s->p + r * P_ROW;
        adjust_logits(b, row + r, p);
        v16 largest = v16_load(p);
        for (int j = LANES; j < columns; j += LANES) largest = v16_max(largest, v16_load(p + j));
        now[r] = v16_max_lane(largest);
        if (now[r] < s->largest[row + r]) now[r] = s->largest[row + r];
        s->largest[row + r] = now[r];
        /* a bias may have masked every kv row so far: all weights are 0 then, and not inf - inf */
        if (now[r] == -INFINITY) now[r] = 0;
    }
    v16_store(scale, v16_exp(v16_sub(before, v16_load(now))));
    for (int r = 0; r < rows; r++) {
        float *p = s->p + r * P_ROW;
        v16 largest = v16_set1(now[r]), sum = v16_zero();
        for (int j = 0; j < columns; j += LANES) {
            v16 weight = v16_exp(v16_sub(v16_load(p + j), largest));
            v16_store(p + j, weight);
            sum = v16_add(sum, weight);
        }
        v16_store(s->total[row + r], v16_fma(v16_load(s->total[row + r]), v16_set1(scale[r]), sum));
    }
}

/* out = out scale + p v for one tile of rows. */
static void accumulate(const struct block *b, int row, int rows, const float *scale)
{
    for (int d = 0; d < b->run->a.head_dim; d += TILE_COLUMNS) {
        struct tile tile = {
            .rows = rows,
            .columns = b->run->a.head_dim - d > LANES ? TILE_COLUMNS : LANES,
            .a = b->scratch->p,
            .a_row = P_ROW,
            .segments = &(struct segment){0, b->kv_rows},
            .segment_count = 1,
            .b = b->scratch->v + d * KV_TILE,
            .b_step = TILE_COLUMNS,
            .c = b->scratch->out + row * b->run->row_floats + d,
            .c_row = b->run->row_floats,
            .mode = TILE_SCALE,
            .scale = scale,
        };
        FOR_ISA(tile_run)(&tile);
    }
}

/* Divides by the sum of weights and writes the block's rows. */
static void store_out(const struct block *b, int rows)
{
    const struct attention *a = &b->run->a;
    for (int r = 0; r < rows; r++) {
        float *out = (float *)a->out + (b->first_row + r) * a->out_stride + (int64_t)b->head * a->head_dim;
        v16 inverse = v16_set1(1 / v16_sum(v16_load(b->scratch->total[r])));
        for (int d = 0; d < a->head_dim; d += LANES)
            v16_store_n(out + d, v16_mul(v16_load(b->scratch->out + r * b->run->row_floats + d), inverse),
                        a->head_dim - d);
    }
}

/* Blocks of rows are the inner index: tasks that follow each other read the same head's k and v. */
static void attention_task(void *arguments, int task, void *memory)
{
    const struct attention_run *run = arguments;
    const struct attention *a = &run->a;
    int part = task % run->row_parts;
    int tile_begin = share_begin(run->row_tiles, run->row_parts, part);
    int tile_end = share_begin(run->row_tiles, run->row_parts, part + 1);
    struct block b = {.run = run, .scratch = memory, .head = task / run->row_parts};
    b.first_row = share_begin(a->q_rows, run->row_tiles, tile_begin);
    int rows = share_begin(a->q_rows, run->row_tiles, tile_end) - b.first_row;

    load_q(&b, rows);
    memset(b.scratch->out, 0, (size_t)rows * (size_t)run->row_floats * sizeof(float));
    memset(b.scratch->total, 0, (size_t)rows * sizeof b.scratch->total[0]);
    for (int r = 0; r < rows; r++) b.scratch->largest[r] = -INFINITY;

    for (b.first_kv = 0; b.first_kv < a->kv_rows; b.first_kv += KV_TILE) {
        b.kv_rows = a->kv_rows - b.first_kv < KV_TILE ? a->kv_rows - b.first_kv : KV_TILE;
        load_k(&b);
        load_v(&b);
        for (int i = tile_begin; i < tile_end; i++) {
            int row = share_begin(a->q_rows, run->row_tiles, i) - b.first_row;
            int count = share_begin(a->q_rows, run->row_tiles, i + 1) - b.first_row - row;
            float scale[LANES];
            prefetch_kv(&b, i - tile_begin, tile_end - tile_begin);
            logits(&b, row, count);
            weigh(&b, row, count, scale);
            accumulate(&b, row, count, scale);
        }
    }
    store_out(&b, rows);
}

void FOR_ISA(attention)(struct team *team, const struct attention *a)
{
    if (a->q_rows < 1) return;
    struct attention_run run = {
        .a = *a,
        .row_tiles = divide_up(a->q_rows, TILE_ROWS),
        .row_floats = divide_up(a->head_dim, LANES) * LANES + LANES, /* not a power of two */
    };
    int largest = BLOCK_FLOATS / (run.row_floats * TILE_ROWS);
    if (largest > BLOCK_TILES) largest = BLOCK_TILES;
    int threads = team_threads(team),
        wanted = threads == 1 ? 1 : divide_up(TASKS_PER_THREAD * threads, a->heads);
    int fewest = divide_up(run.row_tiles, largest), most = divide_up(run.row_tiles, 2);
    run.row_parts = wanted < fewest ? fewest : wanted > most ? most : wanted;
    team_run(team, a->heads * run.row_parts, attention_task, &run);
}
