/* reuse_signals.c - what policies want to see, measured; see reuse_state.h. Compute thread of home. */
#include "cache/reuse_state.h"

#include "cache/bands.h"

/* -------------------------------------------------------------------------------------------- signals */

void reuse_measure(struct reuse *r, struct team *team, const float *now, const float *before, int64_t rows,
                   int64_t width, struct sums *to)
{
    if (r->measurements == r->places) reuse_settle(r, team);
    double *partials = r->partials + r->measurements * r->most_rows * REDUCE_SUMS;
    r->ops->reduce2(team, now, before, rows, width, partials);
    r->measured[r->measurements++] = (struct measurement){to, rows, width};
}

/* In token order: the sums must not depend on who computed which row. */
static struct sums add_up(const double *partials, int64_t rows, int64_t width)
{
    struct sums s = {.count = rows * width};
    for (int64_t i = 0; i < rows; i++) {
        const double *p = partials + i * REDUCE_SUMS;
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

void reuse_settle(struct reuse *r, struct team *team)
{
    static const struct sums nothing = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0};
    if (r->measurements == 0) return;
    bool fine = r->ops->wait(team, NULL) == STATUS_OK;
    for (int i = 0; i < r->measurements; i++) {
        const struct measurement *m = &r->measured[i];
        *m->to = fine ? add_up(r->partials + i * r->most_rows * REDUCE_SUMS, m->rows, m->width) : nothing;
    }
    r->measurements = 0;
}

void reuse_note(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                const float *before, int64_t rows, int64_t width)
{
    reuse_measure(r, team, now, before, rows, width, &b->signals.sums[signal]);
    b->signals.known |= SIGNAL_BIT(signal);
}

/* Measures against the reference, if there is one yet. */
void reuse_compare(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                   int64_t rows, int64_t width)
{
    if (b->has_reference[signal]) reuse_note(r, team, b, signal, now, b->reference[signal], rows, width);
}

void reuse_keep(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                int64_t elements)
{
    reuse_copy(r, team, b->reference[signal], now, elements);
    b->has_reference[signal] = true;
}

/* Step to step: compares and becomes the reference. */
void reuse_follow(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                  int64_t rows, int64_t width)
{
    if (!reuse_wants(r, signal)) return;
    reuse_compare(r, team, b, signal, now, rows, width);
    reuse_keep(r, team, b, signal, now, rows * width);
}

/* It depends on sigma alone: made once a step, for all branches. Since the last one somebody has waited. */
void reuse_prepare_filter(struct reuse *r, struct team *team)
{
    const struct reuse_shape *s = &r->shape;
    const int sides[3] = {s->frames, s->height, s->width};
    double gain = 1, mean;
    for (int i = 0; i < 3; i++) {
        bands_wiener(sides[i], s->job.sigmas[r->step], r->plan.policy.filter_power, r->filter_made[i], &mean);
        gain /= mean;
    }
    for (int i = 0; i < sides[0] * sides[0]; i++) r->filter_made[0][i] *= (float)gain;
    for (int i = 0; i < 3; i++)
        reuse_copy(r, team, r->filter[i], r->filter_made[i], (int64_t)sides[i] * sides[i]);
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
