/* reuse_signals.c - what policies want to see, measured; see reuse_state.h. Compute thread of home. */
#include "cache/reuse_state.h"

#include <string.h>

#include "cache/bands.h"

/* -------------------------------------------------------------------------------------------- signals */

struct sums reuse_measure(struct reuse *r, struct team *team, const float *now, const float *before,
                          int64_t rows, int64_t width)
{
    struct sums s = {.count = rows * width};
    r->ops->reduce2(team, now, before, rows, width, r->partials);
    for (int64_t i = 0; i < rows;
         i++) { /* in token order: the sums must not depend on who computed which row */
        const double *p = r->partials + i * REDUCE_SUMS;
        s.difference += p[REDUCE_DIFFERENCE];
        s.now += p[REDUCE_A];
        s.before += p[REDUCE_B];
        s.product += p[REDUCE_PRODUCT];
        s.now2 += p[REDUCE_A2];
        s.before2 += p[REDUCE_B2];
        s.difference2 += p[REDUCE_DIFFERENCE2];
        s.row_ratio += sqrt(p[REDUCE_A2] / p[REDUCE_B2]);
    }
    s.row_ratio /= (double)rows;
    return s;
}

void reuse_note(struct branch *b, enum signal signal, struct sums sums)
{
    b->signals.sums[signal] = sums;
    b->signals.known |= SIGNAL_BIT(signal);
}

/* Measures against the reference, if there is one yet. */
void reuse_compare(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                   int64_t rows, int64_t width)
{
    if (b->has_reference[signal])
        reuse_note(b, signal, reuse_measure(r, team, now, b->reference[signal], rows, width));
}

void reuse_keep(struct branch *b, enum signal signal, const float *now, int64_t elements)
{
    memcpy(b->reference[signal], now, (size_t)elements * sizeof *now);
    b->has_reference[signal] = true;
}

/* Step to step: compares and becomes the reference. */
void reuse_follow(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                  int64_t rows, int64_t width)
{
    if (!reuse_wants(r, signal)) return;
    reuse_compare(r, team, b, signal, now, rows, width);
    reuse_keep(b, signal, now, rows * width);
}

/* It depends on sigma alone: made once a step, for all branches. */
void reuse_prepare_filter(struct reuse *r)
{
    const struct reuse_shape *s = &r->shape;
    const int sides[3] = {s->frames, s->height, s->width};
    double gain = 1, mean;
    for (int i = 0; i < 3; i++) {
        bands_wiener(sides[i], s->job.sigmas[r->step], r->plan.policy.filter_power, r->filter[i], &mean);
        gain /= mean;
    }
    for (int i = 0; i < sides[0] * sides[0]; i++) r->filter[0][i] *= (float)gain;
}

/* SeaCache's filter: one linear map along each axis of the lattice. The result is in scratch 0. */
const float *reuse_filter(struct reuse *r, struct team *team, const float *input)
{
    const struct reuse_shape *s = &r->shape;
    int64_t plane = (int64_t)s->height * s->width * r->hidden;
    r->ops->mix(team, r->filter[0], 1, s->frames, plane, input, r->scratch[0]);
    r->ops->mix(team, r->filter[1], s->frames, s->height, s->width * r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->filter[2], (int64_t)s->frames * s->height, s->width, r->hidden, r->scratch[1],
                r->scratch[0]);
    return r->scratch[0];
}

bool reuse_finite(const struct reuse *r, const struct branch *b, unsigned which)
{
    which &= b->signals.known & r->plan.policy.signals;
    for (int i = 0; i < SIGNALS; i++)
        if (which & SIGNAL_BIT(i) && !isfinite(relative_change(&b->signals.sums[i]))) return false;
    return true;
}
