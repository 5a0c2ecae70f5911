/* product.c - the matrix product of the stand-in, fast enough for small whole models: tiles of A and B are
 * widened to float32 in the order in which they are used, and a tile of D is summed in registers.
 *
 * Every element is summed in the same order, k ascending in parts of DEPTH, whatever the shape: its bits do
 * not depend on how many rows or columns are computed with it. */
#include "tests/fakegpu/cublaslt/matmul.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 256, TILE_M = 32, TILE_N = 4, PANEL_N = 256 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAST_ON_EACH_CPU /* resolvers run before the sanitizers are ready */
#else
#define FAST_ON_EACH_CPU __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#endif

/* --- numbers -------------------------------------------------------------------------------------------- */

static inline float load(const void *data, cudaDataType_t type, int64_t at)
{
    if (type == CUDA_R_32F) return ((const float *)data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline void store(void *data, cudaDataType_t type, int64_t at, float f)
{
    if (type == CUDA_R_32F) {
        ((float *)data)[at] = f;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    ((uint16_t *)data)[at] = nan ? 0x7fff : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float to_tf32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* --- tiles ---------------------------------------------------------------------------------------------- */

/* to[k * width + i] = element (i, k) of the operand, for `width` rows from `first`, zeros from row `rows`
 * on. */
static void pack(float *to, const struct operand *from, int64_t first, int64_t rows, int width, int64_t k0,
                 int depth, bool tf32)
{
    for (int i = 0; i < width; i++) {
        bool inside = first + i < rows;
        for (int k = 0; k < depth; k++) {
            float f =
                inside ? load(from->data, from->type, (first + i) * from->row + (k0 + k) * from->column) : 0;
            to[k * width + i] = tf32 ? to_tf32(f) : f;
        }
    }
}

/* sum[j * TILE_M + i] += a[k * TILE_M + i] b[k * TILE_N + j] over k. Plain loops that compilers vectorise
 * over i: eight steps of k for one load and store of the sum. */
FAST_ON_EACH_CPU static void multiply_tile(float *restrict sum, const float *restrict a,
                                           const float *restrict b, int depth)
{
    enum { STEPS = 8 };
    for (int j = 0; j < TILE_N; j++) {
        float *s = sum + j * TILE_M;
        int k = 0;
        for (; k + STEPS <= depth; k += STEPS)
            for (int i = 0; i < TILE_M; i++) {
                float x = s[i];
                for (int step = 0; step < STEPS; step++)
                    x += a[(k + step) * TILE_M + i] * b[(k + step) * TILE_N + j];
                s[i] = x;
            }
        for (; k < depth; k++)
            for (int i = 0; i < TILE_M; i++) s[i] += a[k * TILE_M + i] * b[k * TILE_N + j];
    }
}

/* --- the epilogue --------------------------------------------------------------------------------------- */

/* cuBLASLt's GELU is the one with tanh. */
static float gelu(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* sums: [columns][TILE_M], of D's rows from i0, columns from j0. */
static void finish(const struct product *p, const float *sums, int64_t i0, int64_t j0, int64_t columns,
                   float alpha, float beta)
{
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < TILE_M && i0 + i < p->m; i++) {
            float f = alpha * sums[j * TILE_M + i];
            if (p->c && beta != 0) f += beta * load(p->c, p->c_type, (j0 + j) * p->c_ld + i0 + i);
            if (p->bias) f += load(p->bias, p->bias_type, i0 + i);
            if (p->epilogue & CUBLASLT_EPILOGUE_GELU) f = gelu(f);
            store(p->d, p->d_type, (j0 + j) * p->d_ld + i0 + i, f);
        }
}

/* --- the whole product ---------------------------------------------------------------------------------- */

struct tiles {
    float *a, *b;       /* [DEPTH][TILE_M]; [PANEL_N / TILE_N][DEPTH][TILE_N] */
    float *sums, *more; /* of a panel: [m / TILE_M][PANEL_N][TILE_M] */
    size_t panel;       /* floats in sums */
};

/* sums += k0 ... k1 of the panel's columns j0 ... */
static void sum_panel(const struct product *p, const struct tiles *t, float *sums, int64_t j0, int64_t k0,
                      int64_t k1)
{
    int64_t columns = p->n - j0 < PANEL_N ? p->n - j0 : PANEL_N;
    for (; k0 < k1; k0 += DEPTH) {
        int depth = (int)(k1 - k0 < DEPTH ? k1 - k0 : DEPTH);
        for (int64_t j = 0; j < columns; j += TILE_N)
            pack(t->b + j * DEPTH, &p->b, j0 + j, p->n, TILE_N, k0, depth, p->tf32);
        for (int64_t i0 = 0; i0 < p->m; i0 += TILE_M) {
            pack(t->a, &p->a, i0, p->m, TILE_M, k0, depth, p->tf32);
            for (int64_t j = 0; j < columns; j += TILE_N)
                multiply_tile(sums + i0 * PANEL_N + j * TILE_M, t->a, t->b + j * DEPTH, depth);
        }
    }
}

/* Both algorithms: the parts of k one after another, added in order. */
static void multiply_panel(const struct product *p, const struct tiles *t, int64_t j0)
{
    memset(t->sums, 0, t->panel * sizeof *t->sums);
    for (int split = 0; split < p->splits; split++) {
        float *into = split ? t->more : t->sums;
        if (split) memset(into, 0, t->panel * sizeof *into);
        sum_panel(p, t, into, j0, p->k * split / p->splits, p->k * (split + 1) / p->splits);
        for (size_t i = 0; split && i < t->panel; i++) t->sums[i] += into[i];
    }
}

void product_run(void *data)
{
    const struct product *p = data;
    struct tiles t = {.panel = (size_t)((p->m + TILE_M - 1) / TILE_M) * TILE_M * PANEL_N};
    size_t packed_a = DEPTH * TILE_M, packed_b = DEPTH * PANEL_N;
    t.a = aligned_alloc(64, (packed_a + packed_b + 2 * t.panel) * sizeof *t.a);
    if (!t.a) abort(); /* a GPU would not need it: nothing to tell the program */
    t.b = t.a + packed_a;
    t.sums = t.b + packed_b;
    t.more = t.sums + t.panel;
    float alpha = p->device_alpha ? *p->device_alpha : p->alpha;
    float beta = p->device_beta ? *p->device_beta : p->beta;
    for (int64_t j0 = 0; j0 < p->n; j0 += PANEL_N) {
        multiply_panel(p, &t, j0);
        int64_t columns = p->n - j0 < PANEL_N ? p->n - j0 : PANEL_N;
        for (int64_t i0 = 0; i0 < p->m; i0 += TILE_M)
            finish(p, t.sums + i0 * PANEL_N, i0, j0, columns, alpha, beta);
    }
    free(t.a);
}
