/* reuse.c - see reuse.h: memory, hooks, verdicts, report. Compute thread of home. */
#include "cache/reuse_state.h"

#include <stdlib.h>
#include <string.h>

#include "cache/bands.h"
#include "kernels/memory.h"

/* --------------------------------------------------------------------------------------------- memory */

static void take_ring(struct ring *ring, struct arena *arena, int slots, int64_t elements)
{
    ring->size = slots;
    for (int i = 0; i < slots; i++) ring->slot[i] = arena_take(arena, (size_t)elements, sizeof(float));
}

static void lay_out_branch(struct reuse *r, struct branch *b, struct arena *arena, struct arena *shared)
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
        if (reuse_wants(r, references[i].signal))
            b->reference[references[i].signal] =
                arena_take(arena, (size_t)references[i].elements, sizeof(float));
    take_ring(&b->ring, arena, r->plan.slots, p->site == SITE_SPAN ? whole : r->latent);
    if (p->trace) {
        take_ring(&b->latents, arena, r->plan.slots, r->latent);
        take_ring(&b->outputs, arena, r->plan.slots, r->latent);
    }
    if (reuse_wants(r, SIGNAL_VERIFY)) {
        take_ring(&b->tail, arena, r->plan.slots + 1, whole);
        b->forecast_tail = arena_take(arena, (size_t)whole, sizeof(float));
    }
    if (p->signals & PROBE_RESIDUALS) {
        b->embedding = arena_take(arena, (size_t)whole, sizeof(float));
        take_ring(&b->probe, arena, 1 + (p->probe_slots > 1 ? p->probe_slots : 1), whole);
    }
    if (r->settings.forecast->groups < 2) return;
    b->group = arena_take(arena, (size_t)r->tokens, 1);
    b->group_made = arena_take(shared, (size_t)r->tokens, 1);
}

/* What a hook looks at is measured before one wait; inner products, of which there are many, in lots. */
static int places_for(const struct reuse *r)
{
    int places = __builtin_popcount(r->plan.policy.signals);
    if (places > MEASUREMENTS || r->settings.forecast->gram) return MEASUREMENTS;
    return places ? places : 1;
}

static void lay_out(struct reuse *r, struct arena *arena, struct arena *shared)
{
    const struct forecast *f = r->settings.forecast;
    const struct policy_plan *p = &r->plan.policy;
    size_t whole = (size_t)(r->tokens * r->hidden);
    int scratch = f->bands > 1 || f->groups > 1 ? 3 : reuse_wants(r, SIGNAL_FILTERED) ? 2 : 0;
    if (p->site == SITE_BLOCKS) return;
    for (int b = 0; b < r->branches; b++) lay_out_branch(r, &r->branch[b], arena, shared);
    for (int i = 0; i < scratch; i++) r->scratch[i] = arena_take(arena, whole, sizeof(float));
    r->places = places_for(r);
    r->most_rows = r->tokens > r->shape.latent_rows ? r->tokens : r->shape.latent_rows;
    r->partials = arena_take(shared, (size_t)r->places * (size_t)r->most_rows * REDUCE_SUMS, sizeof(double));
    if (f->groups > 1) r->curvature = arena_take(shared, (size_t)r->tokens, sizeof(double));
    if (f->bands > 1) r->keep = arena_take(arena, (size_t)r->tokens, 1);
    const int sides[3] = {r->shape.frames, r->shape.height, r->shape.width};
    for (int i = 0; i < 3; i++) { /* apart: a policy may filter while its forecast works by bands */
        size_t square = (size_t)sides[i] * (size_t)sides[i];
        if (reuse_wants(r, SIGNAL_FILTERED)) {
            r->filter[i] = arena_take(arena, square, sizeof(float));
            r->filter_made[i] = arena_take(shared, square, sizeof(float));
        }
        if (f->bands < 2 || i == 0) continue;
        r->cosine[i] = arena_take(arena, square, sizeof(float));
        r->inverse[i] = arena_take(arena, square, sizeof(float));
    }
}

/* One axis' matrices, the host's, from `made` [2, n, n] on. */
static void bring_cosine(struct reuse *r, struct team *team, int axis, int n, float *made)
{
    size_t square = (size_t)n * (size_t)n;
    bands_cosine(n, made, made + square);
    r->ops->copy(team, r->cosine[axis], made, square * sizeof *made);
    r->ops->copy(team, r->inverse[axis], made + square, square * sizeof *made);
}

/* The low band does not change during a job. */
static status_t prepare_bands(struct reuse *r, struct team *team, struct error *error)
{
    const struct forecast *f = r->settings.forecast;
    size_t height = (size_t)r->shape.height, width = (size_t)r->shape.width, plane = height * width;
    if (f->bands < 2) return STATUS_OK;
    float *made = malloc(2 * (height * height + width * width) * sizeof *made);
    unsigned char *keep = malloc(plane);
    status_t status = STATUS_NO_MEMORY;
    double cutoff = 0;
    if (!made || !keep) {
        error_set(error, status, "no memory for the bands of a forecast");
        goto out;
    }
    for (int i = 0; i < f->parameter_count; i++)
        if (strcmp(f->parameters[i].name, "cutoff") == 0) cutoff = r->settings.forecast_value[i];
    bring_cosine(r, team, 1, r->shape.height, made);
    bring_cosine(r, team, 2, r->shape.width, made + 2 * height * height);
    bands_low(r->shape.height, r->shape.width, cutoff, keep);
    for (int t = 0; t < r->shape.frames; t++) r->ops->copy(team, r->keep + (size_t)t * plane, keep, plane);
    status = r->ops->wait(team, error);
out:
    free(made);
    free(keep);
    return status;
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
        for (int b = 0; b < r->branches; b++) {
            struct block_counts *counts = &r->block_counts[b];
            counts->now = calloc(2 * layers, sizeof(uint32_t));
            counts->before = counts->now ? counts->now + layers : NULL;
            fine = fine && counts->now;
        }
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
                      const struct ops *ops, struct team *team, struct reuse **reuse, struct error *error)
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
    lay_out(r, &r->arena, &r->shared);
    status = memory_arena(ops, MEMORY_DEVICE, &r->arena, error);
    if (status == STATUS_OK) status = memory_arena(ops, MEMORY_SHARED, &r->shared, error);
    if (status != STATUS_OK) goto err;
    lay_out(r, &r->arena, &r->shared);
    reuse_lay_out_past(r, &r->past_arena);
    status = memory_arena(ops, MEMORY_DEVICE, &r->past_arena, error);
    if (status != STATUS_OK) goto err;
    reuse_lay_out_past(r, &r->past_arena);
    status = prepare_bands(r, team, error);
    if (status != STATUS_OK) goto err;
    *reuse = r;
    return STATUS_OK;
err:
    reuse_destroy(r);
    return status;
}

void reuse_give_back(struct reuse *r)
{
    memory_give_back(r->ops, MEMORY_DEVICE, &r->arena);
    memory_give_back(r->ops, MEMORY_SHARED, &r->shared);
    memory_give_back(r->ops, MEMORY_DEVICE, &r->past_arena);
}

void reuse_destroy(struct reuse *r)
{
    if (!r) return;
    for (int b = 0; b < REUSE_BRANCHES; b++) {
        free(r->branch[b].forecast_state);
        free(r->block_counts[b].now);
    }
    free(r->actions);
    free(r->reasons);
    free(r->changes);
    free(r->block_computed);
    free(r->block_reused);
    free(r->records);
    reuse_give_back(r);
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

/* ------------------------------------------------------------------------------------------- verdicts */

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

void reuse_step(struct reuse *r, struct team *team, int step)
{
    r->step = step;
    if (reuse_wants(r, SIGNAL_FILTERED)) reuse_prepare_filter(r, team);
    for (int i = 0; i < r->branches; i++) {
        r->branch[i].decided = false;
        r->branch[i].signals.known &= SIGNAL_BIT(SIGNAL_PROBE_HISTORY);
    }
}

bool reuse_may_begin(const struct reuse *r, int branch)
{
    return !reuse_led(r, branch) || r->branch[0].decided || r->replaying;
}

bool reuse_wants_input(const struct reuse *r)
{
    return reuse_wants(r, SIGNAL_INPUT) || reuse_wants(r, SIGNAL_FILTERED);
}

enum action reuse_begin(struct reuse *r, struct team *team, int branch, const struct reuse_seen *seen)
{
    struct branch *b = &r->branch[branch];
    const struct policy *policy = r->settings.policy;
    const struct reuse_shape *s = &r->shape;
    if (r->replaying) return reuse_repeat(r, team, branch, seen);
    if (reuse_led(r, branch)) return decide(b, r->branch[0].taken);
    reuse_follow(r, team, b, SIGNAL_TIME, seen->time, 1, r->hidden);
    reuse_follow(r, team, b, SIGNAL_PROJECTION, seen->projection, 6, r->hidden);
    reuse_follow(r, team, b, SIGNAL_LATENT, seen->latent, s->latent_rows, s->latent_width);
    if (reuse_wants(r, SIGNAL_DRIFT))
        reuse_compare(r, team, b, SIGNAL_DRIFT, seen->latent, s->latent_rows, s->latent_width);
    reuse_follow(r, team, b, SIGNAL_INPUT, seen->input, r->tokens, r->hidden);
    if (reuse_wants(r, SIGNAL_FILTERED))
        reuse_follow(r, team, b, SIGNAL_FILTERED, reuse_filter(r, team, seen->input), r->tokens, r->hidden);
    reuse_follow(r, team, b, SIGNAL_EMBED, seen->embedding, r->tokens, r->hidden);
    reuse_settle(r, team);
    if (!reuse_finite(r, b, BEGIN_SIGNALS))
        return decide(b, verdict(ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE));
    if (!policy->begin) return decide(b, verdict(ACTION_PROBE, REASON_OFF, CHANGE_NONE));
    struct policy_now now = reuse_moment(r, b);
    return decide(b, policy->begin(&now, b->policy_state));
}

void reuse_copy(struct reuse *r, struct team *team, float *y, const float *x, int64_t elements)
{
    r->ops->copy(team, y, x, (size_t)elements * sizeof *y);
}

void reuse_embedded(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (b->embedding && !reuse_led(r, branch)) reuse_copy(r, team, b->embedding, x, r->tokens * r->hidden);
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
    if (reuse_led(r, branch)) return b->taken.action;
    reuse_follow(r, team, b, SIGNAL_PROBE_STEP, x, r->tokens, r->hidden);
    if (b->embedding) {
        float *probe = probe_slot(b);
        r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, b->embedding}, whole, probe);
        if (reuse_wants(r, SIGNAL_PROBE) && b->probe.count > 0)
            reuse_note(r, team, b, SIGNAL_PROBE, probe, b->probe.slot[0], r->tokens, r->hidden);
        if (reuse_wants(r, SIGNAL_PROBE_OLDER) && b->probe.count > 1)
            reuse_note(r, team, b, SIGNAL_PROBE_OLDER, probe, b->probe.slot[1], r->tokens, r->hidden);
    }
    if (b->decided) return b->taken.action;
    reuse_settle(r, team);
    if (!reuse_finite(r, b, BEGIN_SIGNALS | PROBE_SIGNALS))
        return decide(b, verdict(ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE));
    if (!r->settings.policy->probe) /* a policy that cannot make up its mind */
        return decide(b, verdict(ACTION_COMPUTE, REASON_OFF, CHANGE_NONE));
    struct policy_now now = reuse_moment(r, b);
    return decide(b, r->settings.policy->probe(&now, b->policy_state));
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

void reuse_enter(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (b->history.count == b->ring.size) b->history.count--; /* the oldest makes room */
    reuse_copy(r, team, b->ring.slot[b->ring.size - 1], x, r->tokens * r->hidden);
}

/* The last slot of the ring is this step's residual. */
static void keep_residual(struct reuse *r, struct team *team, int branch)
{
    struct branch *b = &r->branch[branch];
    const float *slot = b->ring.slot[b->ring.size - 1];
    if (reuse_wants(r, SIGNAL_RESIDUAL) && b->history.count > 0)
        reuse_note(r, team, b, SIGNAL_RESIDUAL, slot, b->ring.slot[0], r->tokens, r->hidden);
    reuse_push(r, team, b);
    if (b->group) reuse_group_tokens(r, team, b);
    if (b->embedding && !reuse_led(r, branch)) {
        ring_rotate(&b->probe);
        if (b->probe.count == b->probe.size)
            b->probe.count--; /* one slot is for the probe of the step at work */
        if (reuse_wants(r, SIGNAL_PROBE_HISTORY) && b->probe.count > 1)
            reuse_note(r, team, b, SIGNAL_PROBE_HISTORY, b->probe.slot[0], b->probe.slot[1], r->tokens,
                       r->hidden);
    }
}

void reuse_leave(struct reuse *r, struct team *team, int branch, const float *x)
{
    const struct ring *ring = &r->branch[branch].ring;
    float *slot = ring->slot[ring->size - 1];
    r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, slot}, r->tokens * r->hidden, slot);
    keep_residual(r, team, branch);
}

/* A tail that is compared would have to be made with it. */
size_t reuse_residual_bytes(const struct reuse *r)
{
    bool moves = r->plan.policy.site == SITE_SPAN && !reuse_wants(r, SIGNAL_VERIFY);
    return moves ? (size_t)(r->tokens * r->hidden) * sizeof(float) : 0;
}

int reuse_residuals(const struct reuse *r, int branch, const float *tensors[CACHE_SLOTS],
                    int steps[CACHE_SLOTS])
{
    const struct branch *b = &r->branch[branch];
    int count = reuse_residual_bytes(r) ? b->history.count : 0;
    for (int i = 0; i < count; i++) {
        tensors[i] = b->ring.slot[i];
        steps[i] = b->history.step[i];
    }
    return count;
}

void reuse_put(struct reuse *r, struct team *team, int branch, const float *residual)
{
    reuse_enter(r, team, branch, residual); /* into the slot that it is to be in */
    keep_residual(r, team, branch);
}

void reuse_apply(struct reuse *r, struct team *team, int branch, float *x)
{
    struct branch *b = &r->branch[branch];
    bool forecast = reuse_weigh(r, b);
    if (r->settings.forecast->bands > 1 && !r->settings.policy->weights)
        reuse_apply_bands(r, team, b, x);
    else if (b->group && !r->settings.policy->weights)
        reuse_apply_groups(r, team, b, x);
    else
        reuse_combine(r, team, b->weights[0], &b->ring, b->history.count, x, r->tokens * r->hidden, x);
    log_reused(r, branch, forecast);
}

void reuse_tail_begin(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    if (!reuse_wants(r, SIGNAL_VERIFY)) return;
    reuse_copy(r, team, b->tail.slot[b->tail.size - 1], x, r->tokens * r->hidden);
}

/* What the tail blocks really added against what the same weights say about it. */
void reuse_tail_end(struct reuse *r, struct team *team, int branch, const float *x)
{
    struct branch *b = &r->branch[branch];
    const int64_t whole = r->tokens * r->hidden;
    if (!reuse_wants(r, SIGNAL_VERIFY)) return;
    float *real = b->tail.slot[b->tail.size - 1];
    bool computed = b->taken.action == ACTION_COMPUTE;
    r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, real}, whole, real);
    if (b->tail.count > 0 && !computed) { /* the tail's ring has the stamps of the span's */
        reuse_combine(r, team, b->weights[0], &b->tail,
                      b->tail.count < b->history.count ? b->tail.count : b->history.count, NULL, whole,
                      b->forecast_tail);
        reuse_note(r, team, b, SIGNAL_VERIFY, real, b->forecast_tail, r->tokens, r->hidden);
    }
    if (!computed) return;
    ring_rotate(&b->tail);
    if (b->tail.count == b->tail.size) b->tail.count--; /* one slot is for the step at work */
}

/* ------------------------------------------------------------------------------------- output, velocity */

void reuse_output(struct reuse *r, struct team *team, int branch, const float *latent, float *velocity)
{
    struct branch *b = &r->branch[branch];
    bool forecast = reuse_weigh(r, b);
    const float *base = r->plan.policy.site == SITE_OUTPUT ? latent : NULL;
    int count = b->history.count;
    reuse_combine(r, team, b->weights[0], &b->ring, count, base, r->latent, velocity);
    for (int i = branch; i < (r->plan.policy.site == SITE_VELOCITY ? r->shape.job.branches : branch + 1); i++)
        log_step(r, i, forecast ? REUSE_FORECAST : REUSE_REUSED, b->taken);
}

/* The lags of a calibration run: every kept step against this one. Signals have been settled. */
static void record(struct reuse *r, struct team *team, int branch)
{
    struct branch *b = &r->branch[branch];
    const struct reuse_shape *s = &r->shape;
    for (int i = 0; i < b->history.count && r->record_count < r->record_capacity; i++) {
        struct reuse_record *to = &r->records[r->record_count++];
        *to = (struct reuse_record){.step = r->step, .branch = branch, .lag = r->step - b->history.step[i]};
        reuse_measure(r, team, b->ring.slot[0], b->ring.slot[i], r->tokens, r->hidden, &to->residual);
        reuse_measure(r, team, b->outputs.slot[0], b->outputs.slot[i], s->latent_rows, s->latent_width,
                      &to->output);
        reuse_measure(r, team, b->latents.slot[0], b->latents.slot[i], s->latent_rows, s->latent_width,
                      &to->latent);
        if (to->lag != 1) continue;
        to->time = b->signals.sums[SIGNAL_TIME];
        to->projection = b->signals.sums[SIGNAL_PROJECTION];
    }
    reuse_settle(r, team);
}

static void push_copy(struct reuse *r, struct team *team, struct ring *ring, const float *tensor,
                      int64_t elements)
{
    if (!ring->size) return;
    reuse_copy(r, team, ring->slot[ring->size - 1], tensor, elements);
    ring_rotate(ring);
}

/* A computed velocity enters the history of its site. */
static void keep_output(struct reuse *r, struct team *team, struct branch *b, const float *latent,
                        const float *velocity)
{
    const struct reuse_shape *s = &r->shape;
    const struct policy_plan *p = &r->plan.policy;
    if (reuse_wants(r, SIGNAL_OUTPUT)) {
        reuse_compare(r, team, b, SIGNAL_OUTPUT, velocity, s->latent_rows, s->latent_width);
        reuse_keep(r, team, b, SIGNAL_OUTPUT, velocity, r->latent);
    }
    if (reuse_wants(r, SIGNAL_DRIFT)) reuse_keep(r, team, b, SIGNAL_DRIFT, latent, r->latent);
    push_copy(r, team, &b->latents, latent, r->latent);
    push_copy(r, team, &b->outputs, velocity, r->latent);
    if (p->site == SITE_SPAN) return;
    float *slot = b->ring.slot[b->ring.size - 1];
    if (b->history.count == b->ring.size) b->history.count--; /* the oldest makes room */
    if (p->site == SITE_OUTPUT)
        r->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){velocity, latent}, r->latent,
                        slot);
    else
        reuse_copy(r, team, slot, velocity, r->latent);
    if (reuse_wants(r, SIGNAL_RESIDUAL) && b->history.count > 0)
        reuse_note(r, team, b, SIGNAL_RESIDUAL, slot, b->ring.slot[0], s->latent_rows, s->latent_width);
    reuse_push(r, team, b);
}

void reuse_observe(struct reuse *r, struct team *team, int branch, const float *latent, const float *velocity)
{
    struct branch *b = &r->branch[branch];
    const struct policy *policy = r->settings.policy;
    bool computed = b->taken.action != ACTION_REUSE;
    if (r->plan.policy.site == SITE_BLOCKS) return;
    if (computed) {
        keep_output(r, team, b, latent, velocity);
        if (r->plan.policy.trace) reuse_settle(r, team);
        for (int i = branch; i < (r->plan.policy.site == SITE_VELOCITY ? r->shape.job.branches : branch + 1);
             i++)
            log_step(r, i, REUSE_COMPUTED, b->taken);
        if (r->plan.policy.trace) record(r, team, branch);
    }
    if (policy->observe && !reuse_led(r, branch)) {
        reuse_settle(r, team);
        struct policy_now now = reuse_moment(r, b);
        policy->observe(&now, &b->taken, b->policy_state);
    }
    b->run = computed ? 0 : b->run + 1;
    b->total += !computed;
}

void reuse_blocks(struct reuse *r, int branch, const float *records)
{
    struct block_counts *counts = &r->block_counts[branch];
    int layers = r->shape.job.layers, reused = 0;
    struct verdict verdict = {ACTION_COMPUTE, REASON_BLOCKS, CHANGE_NONE};
    for (int i = 0; i < layers; i++) {
        bool skipped = signbit(records[i]);
        reused += skipped;
        counts->now[i] += skipped;
        (skipped ? r->block_reused : r->block_computed)[i]++;
        if (skipped && fabsf(records[i]) > verdict.change) verdict.change = fabsf(records[i]);
    }
    if (reused == 0) memcpy(counts->before, counts->now, (size_t)layers * sizeof *counts->now);
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
                                    .switch_at = r->shape.job.switch_at,
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
