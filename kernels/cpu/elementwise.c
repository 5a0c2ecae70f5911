/*
 * elementwise.c - weighted sums and SiLU over flat arrays. Every element on its own; a task is one chunk of
 * them.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"

enum { CHUNK = 16384 };

struct lincomb_run {
    int terms;
    const float *weights;  /* [terms] */
    const float *const *x; /* [terms], each [count] */
    float *y;              /* [count], may be one of x */
    int64_t count;
};

/* In order of terms, each product and each sum rounded: solvers are checked bit for bit against such
 * arithmetic. */
static void lincomb_task(void *arguments, int task, void *scratch)
{
    const struct lincomb_run *run = arguments;
    int64_t begin = (int64_t)task * CHUNK, end = begin + CHUNK < run->count ? begin + CHUNK : run->count;
    for (int64_t i = begin; i < end; i += LANES) {
        int lanes = end - i < LANES ? (int)(end - i) : LANES;
        v16 sum = v16_mul(v16_set1(run->weights[0]), v16_load_n(run->x[0] + i, lanes));
        for (int j = 1; j < run->terms; j++)
            sum = v16_add(sum, v16_mul(v16_set1(run->weights[j]), v16_load_n(run->x[j] + i, lanes)));
        v16_store_n(run->y + i, sum, lanes);
    }
}

void FOR_ISA(lincomb)(struct team *team, int terms, const float *weights, const float *const *x,
                      int64_t count, float *y)
{
    struct lincomb_run run = {terms, weights, x, y, count};
    team_run(team, divide_up(count, CHUNK), lincomb_task, &run);
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
