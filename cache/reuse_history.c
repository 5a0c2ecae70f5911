/*
 * reuse_history.c - what is kept of computed steps, and what is made of it; see reuse_state.h. Compute thread
 * of home.
 *
 * A ring's slots are pointers, newest first; pushing rotates them. At a computed step the span's input is
 * written into the slot that is about to be evicted and becomes the residual in place when the span's output
 * is there, so that the history takes no tensor more than it has slots.
 */
#include "cache/reuse_state.h"

#include <string.h>

/* -------------------------------------------------------------------------------------------- history */

/* The last slot becomes the first. */
void ring_rotate(struct ring *ring)
{
    float *pushed = ring->slot[ring->size - 1];
    memmove(ring->slot + 1, ring->slot, (size_t)(ring->size - 1) * sizeof *ring->slot);
    ring->slot[0] = pushed;
    if (ring->count < ring->size) ring->count++;
}

/* Of the newest tensor and each of the others. */
static void take_inner_products(struct reuse *r, struct team *team, struct branch *b)
{
    struct history *h = &b->history;
    struct sums sums[CACHE_SLOTS];
    bool span = r->plan.policy.site == SITE_SPAN;
    for (int i = 0; i < h->count; i++)
        reuse_measure(r, team, b->ring.slot[0], b->ring.slot[i], span ? r->tokens : r->shape.latent_rows,
                      span ? r->hidden : r->shape.latent_width, &sums[i]);
    reuse_settle(r, team);
    for (int i = 0; i < h->count; i++) h->gram[0][i] = h->gram[i][0] = sums[i].product;
}

void reuse_forget(struct reuse *r)
{
    for (int i = 0; i < r->branches; i++) {
        struct branch *b = &r->branch[i];
        memset(b->policy_state, 0, sizeof b->policy_state);
        if (b->forecast_state) memset(b->forecast_state, 0, r->settings.forecast->state_bytes);
        memset(&b->history, 0, sizeof b->history);
        memset(b->has_reference, 0, sizeof b->has_reference);
        b->signals.known = 0;
        b->ring.count = b->tail.count = b->probe.count = b->outputs.count = b->latents.count = 0;
        b->run = b->total = 0;
        if (r->block_counts[i].now)
            memset(r->block_counts[i].now, 0, 2 * (size_t)r->shape.job.layers * sizeof(uint32_t));
    }
}

/* The tensor in the last slot of the ring is this step's: stamps, inner products, rotation. */
void reuse_push(struct reuse *r, struct team *team, struct branch *b)
{
    struct history *h = &b->history;
    int kept = h->count < b->ring.size ? h->count : b->ring.size - 1;
    memmove(h->step + 1, h->step, (size_t)kept * sizeof *h->step);
    memmove(h->sigma + 1, h->sigma, (size_t)kept * sizeof *h->sigma);
    if (r->settings.forecast->gram)
        for (int i = kept; i > 0; i--) memmove(h->gram[i] + 1, h->gram[i - 1], (size_t)kept * sizeof(double));
    ring_rotate(&b->ring);
    h->count = kept + 1;
    h->step[0] = r->step;
    h->sigma[0] = r->shape.job.sigmas[r->step];
    if (r->settings.forecast->gram) take_inner_products(r, team, b);
    if (r->settings.forecast->observe && !r->replaying) {
        struct forecast_now now = {r->settings.forecast_value, &r->shape.job, r->step, h};
        r->settings.forecast->observe(&now, b->forecast_state);
    }
}

/* Curvature of each token over the last three residuals, |a| / (|v|^2 + eps) with v the newest slope and a
 * its change (WorldCache). False: the device failed. */
static bool measure_curvature(struct reuse *r, struct team *team, const struct branch *b)
{
    const struct history *h = &b->history;
    const int64_t whole = r->tokens * r->hidden;
    for (int i = 0; i < 2; i++) {
        float slope = 1 / (float)(h->step[i] - h->step[i + 1]);
        r->ops->lincomb(team, 2, (const float[]){slope, -slope},
                        (const float *[]){b->ring.slot[i], b->ring.slot[i + 1]}, whole, r->scratch[i]);
    }
    reuse_settle(r, team); /* it takes the first place of the partials */
    r->ops->reduce2(team, r->scratch[1], r->scratch[0], r->tokens, r->hidden, r->partials);
    if (r->ops->wait(team, NULL) != STATUS_OK) return false;
    for (int64_t i = 0; i < r->tokens; i++) {
        const double *p = r->partials + i * REDUCE_SUMS;
        r->curvature[i] = sqrt(p[REDUCE_DIFFERENCE2]) / (p[REDUCE_B2] + 1e-8);
    }
    return true;
}

/* Linear until there is a curvature. Who made the groups before has waited since: at the end of that step. */
void reuse_group_tokens(struct reuse *r, struct team *team, struct branch *b)
{
    if (b->history.count > 2 && measure_curvature(r, team, b))
        worldcache_groups(r->settings.forecast_value, r->curvature, r->tokens,
                          (int64_t)r->shape.height * r->shape.width, b->group_made);
    else
        memset(b->group_made, 1, (size_t)r->tokens);
    r->ops->copy(team, b->group, b->group_made, (size_t)r->tokens);
}

/* ------------------------------------------------------------------------------------------ forecasts */

/* Makes the sets of weights for this step; true: more than plain reuse of the newest. */
bool reuse_weigh(struct reuse *r, struct branch *b)
{
    double(*weights)[CACHE_SLOTS] = b->weights;
    const struct policy *policy = r->settings.policy;
    const struct forecast *forecast = r->settings.forecast;
    int count = b->history.count, sets = 1;
    memset(b->weights, 0, sizeof b->weights);
    if (policy->weights) {
        struct policy_now now = reuse_moment(r, b);
        policy->weights(&now, weights[0], b->policy_state);
    } else {
        struct forecast_now now = {r->settings.forecast_value, &r->shape.job, r->step, &b->history};
        if (forecast->bands > 1) sets = forecast->bands;
        if (forecast->groups > 1) sets = forecast->groups;
        forecast->weights(&now, weights, b->forecast_state);
    }
    bool plain = true, finite = true;
    for (int s = 0; s < sets; s++)
        for (int i = 0; i < count; i++) {
            finite = finite && isfinite((float)weights[s][i]); /* as they will be used */
            plain = plain && weights[s][i] == (i == 0);
        }
    if (!finite) { /* a degenerate history: the newest value is always there */
        memset(b->weights, 0, sizeof b->weights);
        for (int s = 0; s < sets; s++) weights[s][0] = 1;
    }
    return finite && !plain;
}

/* y = base + sum_j w_j slot_j; base may be NULL. */
void reuse_combine(struct reuse *r, struct team *team, const double *weights, const struct ring *ring,
                   int count, const float *base, int64_t elements, float *y)
{
    float w[LINCOMB_TERMS];
    const float *x[LINCOMB_TERMS];
    int terms = 0;
    if (base) w[terms] = 1, x[terms++] = base;
    for (int i = 0; i < count; i++)
        if (weights[i] != 0) w[terms] = (float)weights[i], x[terms++] = ring->slot[i];
    if (!terms) w[terms] = 0, x[terms++] = ring->slot[0];
    r->ops->lincomb(team, terms, w, x, elements, y);
}

/* By frequency: the high band's weights for everything, and in the low band the difference of both. */
void reuse_apply_bands(struct reuse *r, struct team *team, const struct branch *b, float *x)
{
    const double(*weights)[CACHE_SLOTS] = b->weights;
    const struct reuse_shape *s = &r->shape;
    const int64_t whole = r->tokens * r->hidden, rows = (int64_t)s->frames * s->height;
    double low[CACHE_SLOTS];
    for (int i = 0; i < b->history.count; i++) low[i] = weights[0][i] - weights[1][i];
    reuse_combine(r, team, low, &b->ring, b->history.count, NULL, whole, r->scratch[0]);
    r->ops->mix(team, r->cosine[1], s->frames, s->height, s->width * r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->cosine[2], rows, s->width, r->hidden, r->scratch[1], r->scratch[0]);
    r->ops->lincomb_rows(team, 1, (const float[LINCOMB_GROUPS]){0, 1}, r->keep,
                         (const float *[]){r->scratch[0]}, r->tokens, r->hidden, r->scratch[0]);
    r->ops->mix(team, r->inverse[2], rows, s->width, r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->inverse[1], s->frames, s->height, s->width * r->hidden, r->scratch[1],
                r->scratch[0]);
    r->ops->lincomb(team, 2, (const float[]){1, 1}, (const float *[]){x, r->scratch[0]}, whole, x);
    reuse_combine(r, team, weights[1], &b->ring, b->history.count, x, whole, x);
}

void reuse_apply_groups(struct reuse *r, struct team *team, const struct branch *b, float *x)
{
    int terms = 1 + b->history.count;
    float w[LINCOMB_GROUPS * LINCOMB_TERMS] = {0};
    const float *slots[LINCOMB_TERMS] = {x};
    for (int i = 1; i < terms; i++) slots[i] = b->ring.slot[i - 1];
    for (int g = 0; g < r->settings.forecast->groups; g++)
        for (int i = 0; i < terms; i++) w[g * terms + i] = i ? (float)b->weights[g][i - 1] : 1;
    r->ops->lincomb_rows(team, terms, w, b->group, slots, r->tokens, r->hidden, x);
}
