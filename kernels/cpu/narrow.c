/*
 * narrow.c - see narrow.h. Pure function of its arguments; any thread.
 */
#include "kernels/cpu/narrow.h"

/* How many pixels share a load of weights: as many as keep their sums in registers. */
#ifdef ISA_avx512
enum { GROUP = 6 };
#else
enum { GROUP = 2 };
#endif

/* Pixels [first, first + pixels); pixels and outputs are constants at each call. */
INLINE void compute(const struct narrow *n, const int pixels, const int outputs, int first)
{
    const float *w = n->weights, *x = n->x + first * n->pixel;
    const int64_t pixel = n->pixel;
    v16 sum[GROUP][NARROW_OUTPUTS];
    UNROLL for (int p = 0; p < pixels; p++)
    {
        UNROLL for (int o = 0; o < outputs; o++) sum[p][o] = v16_zero();
    }
    for (int t = 0; t < n->taps_t; t++)
        for (int row = 0; row < n->taps_y; row++)
            for (int column = 0; column < n->taps_x; column++) {
                const float *from = x + t * n->x_t + row * n->x_y + column * n->x_x;
                for (int c = 0; c < n->channels; c += LANES, w += outputs * LANES)
                    UNROLL for (int p = 0; p < pixels; p++)
                    {
                        v16 a = v16_load_n(from + p * pixel + c, n->channels - c);
                        UNROLL for (int o = 0; o < outputs; o++) sum[p][o] =
                            v16_fma(a, v16_load(w + o * LANES), sum[p][o]);
                    }
            }
    UNROLL for (int p = 0; p < pixels; p++)
    {
        UNROLL for (int o = 0; o < outputs; o++) n->sums[(first + p) * n->sums_pixel + o] =
            v16_sum(sum[p][o]);
    }
}

/* The last group overlaps the one before rather than being short: the same pixels come out the same. */
INLINE void compute_all(const struct narrow *n, const int outputs)
{
    if (n->pixels < GROUP) {
        for (int first = 0; first < n->pixels; first++) compute(n, 1, outputs, first);
        return;
    }
    for (int first = 0; first + GROUP < n->pixels; first += GROUP) compute(n, GROUP, outputs, first);
    compute(n, GROUP, outputs, n->pixels - GROUP);
}

void FOR_ISA(narrow_run)(const struct narrow *narrow)
{
    switch (narrow->outputs) {
    case 1:
        compute_all(narrow, 1);
        break;
    case 2:
        compute_all(narrow, 2);
        break;
    case 3:
        compute_all(narrow, 3);
        break;
    case 4:
        compute_all(narrow, 4);
        break;
    }
}
