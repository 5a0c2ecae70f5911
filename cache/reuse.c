/*
 * reuse.c - see reuse.h. Compute thread of home.
 *
 * A ring's slots are pointers, newest first; pushing rotates them. At a computed step the span's input is
 * written into the slot that is about to be evicted and becomes the residual in place when the span's output
 * is there, so that the history takes no tensor more than it has slots.
 */
#include "cache/reuse.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "cache/bands.h"

enum { SCRATCH = 3 };

/* Which signals a hook may ask for; a bad value among them forces a computed step. */
#define BEGIN_SIGNALS                                                                                        \
    (SIGNAL_BIT(SIGNAL_TIME) | SIGNAL_BIT(SIGNAL_PROJECTION) | SIGNAL_BIT(SIGNAL_LATENT) |                   \
     SIGNAL_BIT(SIGNAL_DRIFT) | SIGNAL_BIT(SIGNAL_INPUT) | SIGNAL_BIT(SIGNAL_FILTERED) |                     \
     SIGNAL_BIT(SIGNAL_EMBED))
#define PROBE_SIGNALS                                                                                        \
    (SIGNAL_BIT(SIGNAL_PROBE_STEP) | SIGNAL_BIT(SIGNAL_PROBE) | SIGNAL_BIT(SIGNAL_PROBE_OLDER))
#define PROBE_RESIDUALS                                                                                      \
    (SIGNAL_BIT(SIGNAL_PROBE) | SIGNAL_BIT(SIGNAL_PROBE_OLDER) | SIGNAL_BIT(SIGNAL_PROBE_HISTORY))

struct ring {
    float *slot[CACHE_SLOTS + 1]; /* newest first */
    int size, count;
};

struct branch {
    _Alignas(16) unsigned char policy_state[POLICY_STATE_BYTES];
    unsigned char *forecast_state;
    struct history history; /* stamps of `ring` */
    struct ring ring, tail, probe, outputs, latents;
    float *reference[SIGNALS];
    bool has_reference[SIGNALS];
    float *embedding, *forecast_tail;
    double weights[FORECAST_SETS][CACHE_SLOTS]; /* of the latest reused step */
    unsigned char *group;                       /* [tokens] */
    struct signals signals;
    int run, total;
    bool decided;
    struct verdict taken;
};

struct reuse {
    struct cache_settings settings;
    struct cache_plan plan;
    struct reuse_shape shape;
    const struct ops *ops;
    struct arena arena;
    int64_t tokens, hidden, latent; /* elements: tokens * hidden, and of the latent */
    int branches;                   /* with state of their own: 1 for SITE_VELOCITY */
    int step;
    struct branch branch[REUSE_BRANCHES];
    double *partials; /* [max(tokens, latent_rows)][REDUCE_SUMS] */
    float *scratch[SCRATCH];
    double *curvature;
    float *axis[3], *inverse[3]; /* matrices along frames, height, width */
    unsigned char *keep;         /* [tokens]: in the low band */

    unsigned char *actions, *reasons;
    float *changes;
    uint32_t *block_computed, *block_reused;
    float largest;
    int counts[REUSE_PARTLY + 1];
    struct reuse_record *records;
    int record_count, record_capacity;
};

/* --------------------------------------------------------------------------------------------- memory */

static bool wants(const struct reuse *r, enum signal signal)
{
    return r->plan.policy.signals & SIGNAL_BIT(signal);
}

static void take_ring(struct ring *ring, struct arena *arena, int slots, int64_t elements)
{
    ring->size = slots;
    for (int i = 0; i < slots; i++) ring->slot[i] = arena_take(arena, (size_t)elements, sizeof(float));
}

static void lay_out_branch(struct reuse *r, struct branch *b, struct arena *arena)
{
    const struct policy_plan *p = &r->plan.policy;
    const int64_t whole = r->tokens * r->hidden;
    const struct {
        enum signal signal;
        int64_t elements;
    } references[] = {
        {SIGNAL_TIME, r->hidden},   {SIGNAL_PROJECTION, 6 * r->hidden},
        {SIGNAL_LATENT, r->latent}, {SIGNAL_DRIFT, r->latent},
        {SIGNAL_INPUT, whole},      {SIGNAL_FILTERED, whole},
        {SIGNAL_EMBED, whole},      {SIGNAL_PROBE_STEP, whole},
        {SIGNAL_OUTPUT, r->latent},
    };
    for (size_t i = 0; i < sizeof references / sizeof *references; i++)
        if (wants(r, references[i].signal))
            b->reference[references[i].signal] =
                arena_take(arena, (size_t)references[i].elements, sizeof(float));
    take_ring(&b->ring, arena, r->plan.slots, p->site == SITE_SPAN ? whole : r->latent);
    if (p->trace) {
        take_ring(&b->latents, arena, r->plan.slots, r->latent);
        take_ring(&b->outputs, arena, r->plan.slots, r->latent);
    }
    if (wants(r, SIGNAL_VERIFY)) {
        take_ring(&b->tail, arena, r->plan.slots + 1, whole);
        b->forecast_tail = arena_take(arena, (size_t)whole, sizeof(float));
    }
    if (p->signals & PROBE_RESIDUALS) {
        b->embedding = arena_take(arena, (size_t)whole, sizeof(float));
        take_ring(&b->probe, arena, 1 + (p->probe_slots > 1 ? p->probe_slots : 1), whole);
    }
    if (r->settings.forecast->groups > 1) b->group = arena_take(arena, (size_t)r->tokens, 1);
}

static void lay_out(struct reuse *r, struct arena *arena)
{
    const struct forecast *f = r->settings.forecast;
    const struct policy_plan *p = &r->plan.policy;
    size_t whole = (size_t)(r->tokens * r->hidden);
    int64_t rows = r->tokens > r->shape.latent_rows ? r->tokens : r->shape.latent_rows;
    int scratch = f->bands > 1 || f->groups > 1 ? 3 : wants(r, SIGNAL_FILTERED) ? 2 : 0;
    if (p->site == SITE_BLOCKS) return;
    for (int b = 0; b < r->branches; b++) lay_out_branch(r, &r->branch[b], arena);
    for (int i = 0; i < scratch; i++) r->scratch[i] = arena_take(arena, whole, sizeof(float));
    r->partials = arena_take(arena, (size_t)rows * REDUCE_SUMS, sizeof(double));
    if (f->groups > 1) r->curvature = arena_take(arena, (size_t)r->tokens, sizeof(double));
    if (f->bands > 1) r->keep = arena_take(arena, (size_t)r->tokens, 1);
    const int sides[3] = {r->shape.frames, r->shape.height, r->shape.width};
    for (int i = 0; i < 3 && (f->bands > 1 || wants(r, SIGNAL_FILTERED)); i++) {
        r->axis[i] = arena_take(arena, (size_t)sides[i] * (size_t)sides[i], sizeof(float));
        r->inverse[i] = arena_take(arena, (size_t)sides[i] * (size_t)sides[i], sizeof(float));
    }
}

/* The low band does not change during a job; the filter's matrices are made anew for each sigma. */
static void prepare_bands(struct reuse *r)
{
    const struct forecast *f = r->settings.forecast;
    int plane = r->shape.height * r->shape.width;
    if (f->bands < 2) return;
    double cutoff = 0;
    for (int i = 0; i < f->parameter_count; i++)
        if (strcmp(f->parameters[i].name, "cutoff") == 0) cutoff = r->settings.forecast_value[i];
    bands_cosine(r->shape.height, r->axis[1], r->inverse[1]);
    bands_cosine(r->shape.width, r->axis[2], r->inverse[2]);
    bands_low(r->shape.height, r->shape.width, cutoff, r->keep);
    for (int t = 1; t < r->shape.frames; t++)
        memcpy(r->keep + (size_t)t * (size_t)plane, r->keep, (size_t)plane);
}

static bool allocate_log(struct reuse *r)
{
    const struct policy_job *job = &r->shape.job;
    size_t cells = (size_t)job->steps * (size_t)job->branches, layers = (size_t)job->layers;
    r->actions = calloc(cells, 1);
    r->reasons = calloc(cells, 1);
    r->changes = calloc(cells, sizeof *r->changes);
    bool fine = r->actions && r->reasons && r->changes;
    if (r->plan.policy.site == SITE_BLOCKS) {
        r->block_computed = calloc(layers, sizeof(uint32_t));
        r->block_reused = calloc(layers, sizeof(uint32_t));
        fine = fine && r->block_computed && r->block_reused;
    }
    if (r->plan.policy.trace) {
        r->record_capacity = job->steps * job->branches * (r->plan.slots + 1);
        r->records = calloc((size_t)r->record_capacity, sizeof *r->records);
        fine = fine && r->records;
    }
    for (int b = 0; b < r->branches && r->settings.forecast->state_bytes; b++) {
        r->branch[b].forecast_state = calloc(1, r->settings.forecast->state_bytes);
        fine = fine && r->branch[b].forecast_state;
    }
    return fine;
}

status_t reuse_create(const struct cache_settings *settings, const struct reuse_shape *shape,
                      const struct ops *ops, struct reuse **reuse, struct error *error)
{
    struct reuse *r = calloc(1, sizeof *r);
    if (!r) return error_set(error, STATUS_NO_MEMORY, "no memory for caching");
    r->settings = *settings;
    r->shape = *shape;
    r->ops = ops;
    r->hidden = shape->hidden;
    r->tokens = (int64_t)shape->frames * shape->height * shape->width;
    r->latent = shape->latent_rows * shape->latent_width;
    r->largest = CHANGE_NONE;
    status_t status = cache_settings_plan(settings, &shape->job, &r->plan, error);
    if (status != STATUS_OK) goto err;
    r->branches = r->plan.policy.site == SITE_VELOCITY ? 1 : shape->job.branches;
    if (r->plan.has_mask) r->shape.job.mask = r->plan.mask;
    if (!allocate_log(r)) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for caching");
        goto err;
    }
    lay_out(r, &r->arena);
    status = arena_allocate(&r->arena, error);
    if (status != STATUS_OK) goto err;
    lay_out(r, &r->arena);
    prepare_bands(r);
    *reuse = r;
    return STATUS_OK;
err:
    reuse_destroy(r);
    return status;
}

void reuse_destroy(struct reuse *r)
{
    if (!r) return;
    for (int b = 0; b < REUSE_BRANCHES; b++) free(r->branch[b].forecast_state);
    free(r->actions);
    free(r->reasons);
    free(r->changes);
    free(r->block_computed);
    free(r->block_reused);
    free(r->records);
    arena_free(&r->arena);
    free(r);
}

const struct cache_plan *reuse_plan(const struct reuse *r)
{
    return &r->plan;
}

uint64_t reuse_bytes(const struct reuse *r)
{
    return r->arena.size;
}

/* -------------------------------------------------------------------------------------------- signals */

static struct sums measure(struct reuse *r, struct team *team, const float *now, const float *before,
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

static void note(struct branch *b, enum signal signal, struct sums sums)
{
    b->signals.sums[signal] = sums;
    b->signals.known |= SIGNAL_BIT(signal);
}

/* Measures against the reference, if there is one yet. */
static void compare(struct reuse *r, struct team *team, struct branch *b, enum signal signal,
                    const float *now, int64_t rows, int64_t width)
{
    if (b->has_reference[signal]) note(b, signal, measure(r, team, now, b->reference[signal], rows, width));
}

static void keep(struct branch *b, enum signal signal, const float *now, int64_t elements)
{
    memcpy(b->reference[signal], now, (size_t)elements * sizeof *now);
    b->has_reference[signal] = true;
}

/* Step to step: compares and becomes the reference. */
static void follow(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                   int64_t rows, int64_t width)
{
    if (!wants(r, signal)) return;
    compare(r, team, b, signal, now, rows, width);
    keep(b, signal, now, rows * width);
}

/* SeaCache's filter: one linear map along each axis of the lattice. The result is in scratch 0. */
static const float *filter(struct reuse *r, struct team *team, const float *input)
{
    const struct reuse_shape *s = &r->shape;
    const int sides[3] = {s->frames, s->height, s->width};
    double gain = 1, mean;
    for (int i = 0; i < 3; i++) {
        bands_wiener(sides[i], s->job.sigmas[r->step], r->plan.policy.filter_power, r->axis[i], &mean);
        gain /= mean;
    }
    for (int i = 0; i < sides[0] * sides[0]; i++) r->axis[0][i] *= (float)gain;
    int64_t plane = (int64_t)s->height * s->width * r->hidden;
    r->ops->mix(team, r->axis[0], 1, s->frames, plane, input, r->scratch[0]);
    r->ops->mix(team, r->axis[1], s->frames, s->height, s->width * r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->axis[2], (int64_t)s->frames * s->height, s->width, r->hidden, r->scratch[1],
                r->scratch[0]);
    return r->scratch[0];
}

static bool finite_signals(const struct reuse *r, const struct branch *b, unsigned which)
{
    which &= b->signals.known & r->plan.policy.signals;
    for (int i = 0; i < SIGNALS; i++)
        if (which & SIGNAL_BIT(i) && !isfinite(relative_change(&b->signals.sums[i]))) return false;
    return true;
}

/* ------------------------------------------------------------------------------------------- verdicts */

static struct policy_now moment(const struct reuse *r, const struct branch *b)
{
    return (struct policy_now){.value = r->settings.value,
                               .job = &r->shape.job,
                               .step = r->step,
                               .run = b->run,
                               .total = b->total,
                               .history = &b->history,
                               .signals = &b->signals};
}

static enum action decide(struct branch *b, struct verdict verdict)
{
    if (verdict.action == ACTION_REUSE && b->history.count == 0) {
        verdict.action = ACTION_COMPUTE;
        verdict.reason = REASON_NO_HISTORY;
    }
    b->taken = verdict;
    b->decided = verdict.action != ACTION_PROBE;
    return verdict.action;
}

static bool led(const struct reuse *r, int branch)
{
    return r->plan.policy.tied && branch > 0;
}

void reuse_step(struct reuse *r, int step)
{
    r->step = step;
    for (int i = 0; i < r->branches; i++) {
        r->branch[i].decided = false;
        r->branch[i].signals.known &= SIGNAL_BIT(SIGNAL_PROBE_HISTORY);
    }
}

bool reuse_may_begin(const struct reuse *r, int branch)
{
    return !led(r, branch) || r->branch[0].decided;
}

bool reuse_wants_input(const struct reuse *r)
{
    return wants(r, SIGNAL_INPUT) || wants(r, SIGNAL_FILTERED);
}

bool reuse_wants_embedding(const struct reuse *r)
{
    return reuse_wants_input(r) || wants(r, SIGNAL_EMBED);
}

enum action reuse_begin(struct reuse *r, struct team *team, int branch, const struct reuse_seen *seen)
{
    struct branch *b = &r->branch[branch];
    const struct policy *policy = r->settings.policy;
    const struct reuse_shape *s = &r->shape;
    if (led(r, branch)) return decide(b, r->branch[0].taken);
    follow(r, team, b, SIGNAL_TIME, seen->time, 1, r->hidden);
    follow(r, team, b, SIGNAL_PROJECTION, seen->projection, 6, r->hidden);
    follow(r, team, b, SIGNAL_LATENT, seen->latent, s->latent_rows, s->latent_width);
    if (wants(r, SIGNAL_DRIFT))
        compare(r, team, b, SIGNAL_DRIFT, seen->latent, s->latent_rows, s->latent_width);
    follow(r, team, b, SIGNAL_INPUT, seen->input, r->tokens, r->hidden);
    if (wants(r, SIGNAL_FILTERED))
        follow(r, team, b, SIGNAL_FILTERED, filter(r, team, seen->input), r->tokens, r->hidden);
    follow(r, team, b, SIGNAL_EMBED, seen->embedding, r->tokens, r->hidden);
    if (!finite_signals(r, b, BEGIN_SIGNALS))
        return decide(b, verdict(ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE));
    if (!policy->begin) return decide(b, verdict(ACTION_PROBE, REASON_OFF, CHANGE_NONE));
    struct policy_now now = moment(r, b);
    return decide(b, policy->begin(&now, b->policy_state));
}

void reuse_embedded(struct reuse *r, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (b->embedding && !led(r, branch)) memcpy(b->embedding, x, (size_t)(r->tokens * r->hidden) * sizeof *x);
}

/* What the head blocks added lies in the last slot of the probe ring until it is pushed or overwritten. */
static float *probe_slot(struct branch *b)
{
    return b->probe.slot[b->probe.size - 1];
}

/* The probes are measured at every step, also where the verdict is known already: the step-to-step reference
 * and the residual of a computed step are needed later. */
enum action reuse_probe(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    const int64_t whole = r->tokens * r->hidden;
    if (led(r, branch)) return b->taken.action;
    follow(r, team, b, SIGNAL_PROBE_STEP, x, r->tokens, r->hidden);
    if (b->embedding) {
        float *probe = probe_slot(b);
        r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, b->embedding}, whole, probe);
        if (wants(r, SIGNAL_PROBE) && b->probe.count > 0)
            note(b, SIGNAL_PROBE, measure(r, team, probe, b->probe.slot[0], r->tokens, r->hidden));
        if (wants(r, SIGNAL_PROBE_OLDER) && b->probe.count > 1)
            note(b, SIGNAL_PROBE_OLDER, measure(r, team, probe, b->probe.slot[1], r->tokens, r->hidden));
    }
    if (b->decided) return b->taken.action;
    if (!finite_signals(r, b, BEGIN_SIGNALS | PROBE_SIGNALS))
        return decide(b, verdict(ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE));
    struct policy_now now = moment(r, b);
    return decide(b, r->settings.policy->probe(&now, b->policy_state));
}

/* -------------------------------------------------------------------------------------------- history */

/* The last slot becomes the first. */
static void rotate(struct ring *ring)
{
    float *pushed = ring->slot[ring->size - 1];
    memmove(ring->slot + 1, ring->slot, (size_t)(ring->size - 1) * sizeof *ring->slot);
    ring->slot[0] = pushed;
    if (ring->count < ring->size) ring->count++;
}

static double inner(struct reuse *r, struct team *team, const float *a, const float *b)
{
    bool span = r->plan.policy.site == SITE_SPAN;
    return measure(r, team, a, b, span ? r->tokens : r->shape.latent_rows,
                   span ? r->hidden : r->shape.latent_width)
        .product;
}

/* The tensor in the last slot of the ring is this step's: stamps, inner products, rotation. */
static void push(struct reuse *r, struct team *team, struct branch *b)
{
    struct history *h = &b->history;
    int kept = h->count < b->ring.size ? h->count : b->ring.size - 1;
    memmove(h->step + 1, h->step, (size_t)kept * sizeof *h->step);
    memmove(h->sigma + 1, h->sigma, (size_t)kept * sizeof *h->sigma);
    if (r->settings.forecast->gram)
        for (int i = kept; i > 0; i--) memmove(h->gram[i] + 1, h->gram[i - 1], (size_t)kept * sizeof(double));
    rotate(&b->ring);
    h->count = kept + 1;
    h->step[0] = r->step;
    h->sigma[0] = r->shape.job.sigmas[r->step];
    for (int i = 0; i < h->count && r->settings.forecast->gram; i++)
        h->gram[0][i] = h->gram[i][0] = inner(r, team, b->ring.slot[0], b->ring.slot[i]);
    if (r->settings.forecast->observe) {
        struct forecast_now now = {r->settings.forecast_value, &r->shape.job, r->step, h};
        r->settings.forecast->observe(&now, b->forecast_state);
    }
}

/* Curvature of each token over the last three residuals, |a| / (|v|^2 + eps) with v the newest slope and a
 * its change (WorldCache), and the groups made of it. */
static void group_tokens(struct reuse *r, struct team *team, struct branch *b)
{
    const struct history *h = &b->history;
    const int64_t whole = r->tokens * r->hidden;
    memset(b->group, 1, (size_t)r->tokens); /* linear until there is a curvature */
    if (h->count < 3) return;
    for (int i = 0; i < 2; i++) {
        float slope = 1 / (float)(h->step[i] - h->step[i + 1]);
        r->ops->lincomb(team, 2, (const float[]){slope, -slope},
                        (const float *[]){b->ring.slot[i], b->ring.slot[i + 1]}, whole, r->scratch[i]);
    }
    r->ops->reduce2(team, r->scratch[1], r->scratch[0], r->tokens, r->hidden, r->partials);
    for (int64_t i = 0; i < r->tokens; i++) {
        const double *p = r->partials + i * REDUCE_SUMS;
        r->curvature[i] = sqrt(p[REDUCE_DIFFERENCE2]) / (p[REDUCE_B2] + 1e-8);
    }
    worldcache_groups(r->settings.forecast_value, r->curvature, r->tokens,
                      (int64_t)r->shape.height * r->shape.width, b->group);
}

/* ------------------------------------------------------------------------------------------ forecasts */

/* Makes the sets of weights for this step; true: more than plain reuse of the newest. */
static bool weigh(struct reuse *r, struct branch *b)
{
    double(*weights)[CACHE_SLOTS] = b->weights;
    const struct policy *policy = r->settings.policy;
    const struct forecast *forecast = r->settings.forecast;
    int count = b->history.count, sets = 1;
    memset(b->weights, 0, sizeof b->weights);
    if (policy->weights) {
        struct policy_now now = moment(r, b);
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
            finite = finite && isfinite(weights[s][i]);
            plain = plain && weights[s][i] == (i == 0);
        }
    if (!finite) { /* a degenerate history: the newest value is always there */
        memset(b->weights, 0, sizeof b->weights);
        for (int s = 0; s < sets; s++) weights[s][0] = 1;
    }
    return finite && !plain;
}

/* y = base + sum_j w_j slot_j; base may be NULL. */
static void combine(struct reuse *r, struct team *team, const double *weights, const struct ring *ring,
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
static void apply_bands(struct reuse *r, struct team *team, const struct branch *b, float *x)
{
    const double(*weights)[CACHE_SLOTS] = b->weights;
    const struct reuse_shape *s = &r->shape;
    const int64_t whole = r->tokens * r->hidden, rows = (int64_t)s->frames * s->height;
    double low[CACHE_SLOTS];
    for (int i = 0; i < b->history.count; i++) low[i] = weights[0][i] - weights[1][i];
    combine(r, team, low, &b->ring, b->history.count, NULL, whole, r->scratch[0]);
    r->ops->mix(team, r->axis[1], s->frames, s->height, s->width * r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->axis[2], rows, s->width, r->hidden, r->scratch[1], r->scratch[0]);
    r->ops->lincomb_rows(team, 1, (const float[]){0, 1}, r->keep, (const float *[]){r->scratch[0]}, r->tokens,
                         r->hidden, r->scratch[0]);
    r->ops->mix(team, r->inverse[2], rows, s->width, r->hidden, r->scratch[0], r->scratch[1]);
    r->ops->mix(team, r->inverse[1], s->frames, s->height, s->width * r->hidden, r->scratch[1],
                r->scratch[0]);
    r->ops->lincomb(team, 2, (const float[]){1, 1}, (const float *[]){x, r->scratch[0]}, whole, x);
    combine(r, team, weights[1], &b->ring, b->history.count, x, whole, x);
}

static void apply_groups(struct reuse *r, struct team *team, const struct branch *b, float *x)
{
    int terms = 1 + b->history.count;
    float w[FORECAST_SETS * LINCOMB_TERMS];
    const float *slots[LINCOMB_TERMS] = {x};
    for (int i = 1; i < terms; i++) slots[i] = b->ring.slot[i - 1];
    for (int g = 0; g < r->settings.forecast->groups; g++)
        for (int i = 0; i < terms; i++) w[g * terms + i] = i ? (float)b->weights[g][i - 1] : 1;
    r->ops->lincomb_rows(team, terms, w, b->group, slots, r->tokens, r->hidden, x);
}

static void log_step(struct reuse *r, int branch, enum reuse_action action, struct verdict verdict)
{
    int cell = r->step * r->shape.job.branches + branch;
    r->actions[cell] = (unsigned char)action;
    r->reasons[cell] = (unsigned char)verdict.reason;
    r->changes[cell] = isfinite(verdict.change) ? verdict.change : CHANGE_NONE;
    r->counts[action]++;
    if (action != REUSE_COMPUTED && r->changes[cell] > r->largest) r->largest = r->changes[cell];
}

static void log_reused(struct reuse *r, int branch, bool forecast)
{
    log_step(r, branch, forecast ? REUSE_FORECAST : REUSE_REUSED, r->branch[branch].taken);
}

/* ----------------------------------------------------------------------------------------------- span */

void reuse_enter(struct reuse *r, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (b->history.count == b->ring.size) b->history.count--; /* the oldest makes room */
    memcpy(b->ring.slot[b->ring.size - 1], x, (size_t)(r->tokens * r->hidden) * sizeof *x);
}

void reuse_leave(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    float *slot = b->ring.slot[b->ring.size - 1];
    r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, slot}, r->tokens * r->hidden, slot);
    if (wants(r, SIGNAL_RESIDUAL) && b->history.count > 0)
        note(b, SIGNAL_RESIDUAL, measure(r, team, slot, b->ring.slot[0], r->tokens, r->hidden));
    push(r, team, b);
    if (b->group) group_tokens(r, team, b);
    if (b->embedding && !led(r, branch)) {
        rotate(&b->probe);
        if (b->probe.count == b->probe.size)
            b->probe.count--; /* one slot is for the probe of the step at work */
        if (wants(r, SIGNAL_PROBE_HISTORY) && b->probe.count > 1)
            note(b, SIGNAL_PROBE_HISTORY,
                 measure(r, team, b->probe.slot[0], b->probe.slot[1], r->tokens, r->hidden));
    }
}

void reuse_apply(struct reuse *r, struct team *team, int branch, float *x)
{
    struct branch *b = &r->branch[branch];
    bool forecast = weigh(r, b);
    if (r->settings.forecast->bands > 1 && !r->settings.policy->weights)
        apply_bands(r, team, b, x);
    else if (b->group && !r->settings.policy->weights)
        apply_groups(r, team, b, x);
    else
        combine(r, team, b->weights[0], &b->ring, b->history.count, x, r->tokens * r->hidden, x);
    log_reused(r, branch, forecast);
}

void reuse_tail_begin(struct reuse *r, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (!wants(r, SIGNAL_VERIFY)) return;
    memcpy(b->tail.slot[b->tail.size - 1], x, (size_t)(r->tokens * r->hidden) * sizeof *x);
}

/* What the tail blocks really added against what the same weights say about it. */
void reuse_tail_end(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    const int64_t whole = r->tokens * r->hidden;
    if (!wants(r, SIGNAL_VERIFY)) return;
    float *real = b->tail.slot[b->tail.size - 1];
    bool computed = b->taken.action == ACTION_COMPUTE;
    r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, real}, whole, real);
    if (b->tail.count > 0 && !computed) { /* the tail's ring has the stamps of the span's */
        combine(r, team, b->weights[0], &b->tail,
                b->tail.count < b->history.count ? b->tail.count : b->history.count, NULL, whole,
                b->forecast_tail);
        note(b, SIGNAL_VERIFY, measure(r, team, real, b->forecast_tail, r->tokens, r->hidden));
    }
    if (!computed) return;
    rotate(&b->tail);
    if (b->tail.count == b->tail.size) b->tail.count--; /* one slot is for the step at work */
}

/* ------------------------------------------------------------------------------------- output, velocity */

void reuse_output(struct reuse *r, struct team *team, int branch, const float *latent, float *velocity)
{
    struct branch *b = &r->branch[branch];
    bool forecast = weigh(r, b);
    const float *base = r->plan.policy.site == SITE_OUTPUT ? latent : NULL;
    int count = b->history.count;
    combine(r, team, b->weights[0], &b->ring, count, base, r->latent, velocity);
    for (int i = branch; i < (r->plan.policy.site == SITE_VELOCITY ? r->shape.job.branches : branch + 1); i++)
        log_step(r, i, forecast ? REUSE_FORECAST : REUSE_REUSED, b->taken);
}

/* The lags of a calibration run: every kept step against this one. */
static void record(struct reuse *r, struct team *team, int branch)
{
    struct branch *b = &r->branch[branch];
    const struct reuse_shape *s = &r->shape;
    for (int i = 0; i < b->history.count && r->record_count < r->record_capacity; i++) {
        struct reuse_record *to = &r->records[r->record_count++];
        *to = (struct reuse_record){.step = r->step, .branch = branch, .lag = r->step - b->history.step[i]};
        to->residual = measure(r, team, b->ring.slot[0], b->ring.slot[i], r->tokens, r->hidden);
        to->output =
            measure(r, team, b->outputs.slot[0], b->outputs.slot[i], s->latent_rows, s->latent_width);
        to->latent =
            measure(r, team, b->latents.slot[0], b->latents.slot[i], s->latent_rows, s->latent_width);
        if (to->lag != 1) continue;
        to->time = b->signals.sums[SIGNAL_TIME];
        to->projection = b->signals.sums[SIGNAL_PROJECTION];
    }
}

static void push_copy(struct ring *ring, const float *tensor, int64_t elements)
{
    if (!ring->size) return;
    memcpy(ring->slot[ring->size - 1], tensor, (size_t)elements * sizeof *tensor);
    rotate(ring);
}

/* A computed velocity enters the history of its site. */
static void keep_output(struct reuse *r, struct team *team, struct branch *b, const float *latent,
                        const float *velocity)
{
    const struct reuse_shape *s = &r->shape;
    const struct policy_plan *p = &r->plan.policy;
    if (wants(r, SIGNAL_OUTPUT)) {
        compare(r, team, b, SIGNAL_OUTPUT, velocity, s->latent_rows, s->latent_width);
        keep(b, SIGNAL_OUTPUT, velocity, r->latent);
    }
    if (wants(r, SIGNAL_DRIFT)) keep(b, SIGNAL_DRIFT, latent, r->latent);
    push_copy(&b->latents, latent, r->latent);
    push_copy(&b->outputs, velocity, r->latent);
    if (p->site == SITE_SPAN) return;
    float *slot = b->ring.slot[b->ring.size - 1];
    if (p->site == SITE_OUTPUT)
        r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){velocity, latent}, r->latent,
                        slot);
    else
        memcpy(slot, velocity, (size_t)r->latent * sizeof *slot);
    push(r, team, b);
}

void reuse_observe(struct reuse *r, struct team *team, int branch, const float *latent, const float *velocity)
{
    struct branch *b = &r->branch[branch];
    const struct policy *policy = r->settings.policy;
    bool computed = b->taken.action != ACTION_REUSE;
    if (r->plan.policy.site == SITE_BLOCKS) return;
    if (computed) {
        keep_output(r, team, b, latent, velocity);
        for (int i = branch; i < (r->plan.policy.site == SITE_VELOCITY ? r->shape.job.branches : branch + 1);
             i++)
            log_step(r, i, REUSE_COMPUTED, b->taken);
        if (r->plan.policy.trace) record(r, team, branch);
    }
    if (policy->observe && !led(r, branch)) {
        struct policy_now now = moment(r, b);
        policy->observe(&now, &b->taken, b->policy_state);
    }
    b->run = computed ? 0 : b->run + 1;
    b->total += !computed;
}

void reuse_blocks(struct reuse *r, int branch, const float *records)
{
    int layers = r->shape.job.layers, reused = 0;
    struct verdict verdict = {ACTION_COMPUTE, REASON_BLOCKS, CHANGE_NONE};
    for (int i = 0; i < layers; i++) {
        bool skipped = signbit(records[i]);
        reused += skipped;
        (skipped ? r->block_reused : r->block_computed)[i]++;
        if (skipped && fabsf(records[i]) > verdict.change) verdict.change = fabsf(records[i]);
    }
    log_step(r, branch,
             reused == 0        ? REUSE_COMPUTED
             : reused == layers ? REUSE_REUSED
                                : REUSE_PARTLY,
             verdict);
}

/* --------------------------------------------------------------------------------------------- report */

void reuse_describe(const struct reuse *r, struct reuse_report *report)
{
    *report = (struct reuse_report){.steps = r->shape.job.steps,
                                    .branches = r->shape.job.branches,
                                    .layers = r->shape.job.layers,
                                    .actions = r->actions,
                                    .reasons = r->reasons,
                                    .changes = r->changes,
                                    .computed = r->counts[REUSE_COMPUTED],
                                    .reused = r->counts[REUSE_REUSED] + r->counts[REUSE_PARTLY],
                                    .forecast = r->counts[REUSE_FORECAST],
                                    .largest_reused = r->largest,
                                    .block_computed = r->block_computed,
                                    .block_reused = r->block_reused};
}

const struct reuse_record *reuse_trace(const struct reuse *r, int *count)
{
    *count = r->record_count;
    return r->records;
}
