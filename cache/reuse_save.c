/*
 * reuse_save.c - what a job's caching knows between two steps, as bytes and back; see reuse.h. Compute thread
 * of home.
 *
 * A checkpoint holds no hidden states. What is kept of them is a function of the latent that entered a step,
 * so the latents are kept instead, a hundredth of the size, and a restored job makes those steps again: same
 * blocks, same hooks, with what was logged in place of the policy's verdicts. `needed` says which steps these
 * are, from the log alone, and so on both sides; of two experts, what the first one did is never among them once it is
 * done. Tensors of a latent's size and smaller are saved as they
 * are. Run lengths, counts, stamps and rings' fill are not saved: they too follow from the log.
 *
 * Bytes of a section, in the order of the functions below: records, log; then, unless all steps are done,
 * each branch's private bytes and tensors, and the past latents. Lengths follow from the settings and the
 * log, which is read and checked before anything that depends on it.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/reuse_state.h"

/* Hidden states that are compared from step to step. */
#define WHOLE_REFERENCES                                                                                     \
    (SIGNAL_BIT(SIGNAL_INPUT) | SIGNAL_BIT(SIGNAL_FILTERED) | SIGNAL_BIT(SIGNAL_EMBED) |                     \
     SIGNAL_BIT(SIGNAL_PROBE_STEP))

static bool in_span(const struct reuse *r)
{
    return r->plan.policy.site == SITE_SPAN;
}

static bool by_block(const struct reuse *r)
{
    return r->plan.policy.site == SITE_BLOCKS;
}

/* ------------------------------------------------------------------------------------------------- replay */

static bool computed(const struct reuse *r, int step, int branch)
{
    return step >= r->first && r->actions[step * r->shape.job.branches + branch] == REUSE_COMPUTED;
}

/* The branch's computed steps before `at` and after `step`. */
static int computed_since(const struct reuse *r, int at, int step, int branch)
{
    int count = 0;
    for (int i = step + 1; i < at; i++) count += computed(r, i, branch);
    return count;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Computed steps whose hidden states a branch keeps: of spans, of probes. */
static int kept_steps(const struct reuse *r)
{
    int slots = r->plan.slots, probes = r->plan.policy.probe_slots;
    if (!in_span(r)) return 0;
    return slots > probes ? slots : probes;
}

static bool follows(const struct reuse *r)
{
    return r->plan.policy.signals & WHOLE_REFERENCES;
}

/* Nothing before this step is known at step `at`: it was another job's, or the other expert's. Who only measures looks
 * across the switch: published tables do. */
static int known_from(const struct reuse *r, int at)
{
    int begun = r->plan.policy.trace ? 0 : policy_begun(&r->shape.job, at);
    return begun > r->first ? begun : r->first;
}

/* To be at step `at` again, does the branch have to make `step`? By blocks: what they keep lies on the ranks that
 * hold them, and follows from the last step in which all were computed, that step and those after it. */
static bool needed(const struct reuse *r, int at, int step, int branch)
{
    if (step < known_from(r, at) || step >= at || at >= r->shape.job.steps) return false;
    if (by_block(r)) return computed_since(r, at, step, branch) == 0;
    if (!in_span(r)) return false;
    if (step == at - 1 && follows(r) && !reuse_led(r, branch)) return true;
    return computed(r, step, branch) && computed_since(r, at, step, branch) < kept_steps(r);
}

static bool needed_by_any(const struct reuse *r, int at, int step)
{
    for (int b = 0; b < r->branches; b++)
        if (needed(r, at, step, b)) return true;
    return false;
}

static int most_past(const struct reuse *r)
{
    int branches = r->plan.policy.tied ? 1 : r->branches;
    return by_block(r) ? REUSE_BLOCKS_PAST : branches * kept_steps(r) + (in_span(r) && follows(r));
}

void reuse_lay_out_past(struct reuse *r, struct arena *arena)
{
    r->past_size = most_past(r);
    for (int i = 0; i < r->past_size; i++) {
        r->past[i].step = -1;
        r->past[i].latent = arena_take(arena, (size_t)r->latent, sizeof(float));
    }
}

static struct past *past_of(struct reuse *r, int step)
{
    for (int i = 0; i < r->past_size; i++)
        if (r->past[i].step == step) return &r->past[i];
    return NULL;
}

/* A slot whose step is not needed to be at step `at`. There always is one, but by blocks. */
static struct past *free_past(struct reuse *r, int at)
{
    for (int i = 0; i < r->past_size; i++)
        if (!needed_by_any(r, at, r->past[i].step)) return &r->past[i];
    return NULL;
}

void reuse_remember(struct reuse *r, struct team *team, const float *latent)
{
    struct past *past = needed_by_any(r, r->step + 1, r->step) ? free_past(r, r->step + 1) : NULL;
    if (past) {
        past->step = r->step;
        reuse_copy(r, team, past->latent, latent, r->latent);
    }
    if (r->step + 1 == r->shape.job.switch_at && !r->plan.policy.trace)
        reuse_forget(r); /* nothing of one expert is true of the other */
}

const float *reuse_past(struct reuse *r)
{
    return past_of(r, r->step)->latent;
}

/* Is the step at work made again, and is it the last one in which the branch computed all blocks? */
static bool repeats_whole(const struct reuse *r, int branch)
{
    return r->replaying && by_block(r) && computed(r, r->step, branch);
}

float reuse_block_record(const struct reuse *r, int branch, int block)
{
    const struct policy_plan *plan = &r->plan.policy;
    bool decides = block >= plan->head && block < r->shape.job.layers - plan->tail;
    return decides && repeats_whole(r, branch) ? (float)r->block_counts[branch].before[block] : NAN;
}

int reuse_replay(struct reuse *r, int after)
{
    int step = after + 1;
    while (step < r->restored && !needed_by_any(r, r->restored, step)) step++;
    r->replaying = step < r->restored;
    return step;
}

bool reuse_needs_residual(const struct reuse *r, int step, int branch)
{
    return reuse_residual_bytes(r) && needed(r, r->restored, step, branch) && computed(r, step, branch);
}

bool reuse_replays(const struct reuse *r, int branch)
{
    return needed(r, r->restored, r->step, branch);
}

enum action reuse_repeat(struct reuse *r, struct team *team, int branch, const struct reuse_seen *seen)
{
    struct branch *b = &r->branch[branch];
    const int64_t whole = r->tokens * r->hidden;
    if (!reuse_led(r, branch)) {
        if (reuse_wants(r, SIGNAL_INPUT)) reuse_keep(r, team, b, SIGNAL_INPUT, seen->input, whole);
        if (reuse_wants(r, SIGNAL_FILTERED))
            reuse_keep(r, team, b, SIGNAL_FILTERED, reuse_filter(r, team, seen->input), whole);
        if (reuse_wants(r, SIGNAL_EMBED)) reuse_keep(r, team, b, SIGNAL_EMBED, seen->embedding, whole);
    }
    b->taken = verdict(computed(r, r->step, branch) ? ACTION_COMPUTE : ACTION_REUSE, REASON_OFF, CHANGE_NONE);
    b->decided = true;
    return b->taken.action;
}

/* -------------------------------------------------------------------------------------------------- bytes */

/* The same functions measure, write and read, so that the three cannot differ. Data that is NULL is measured
 * only. What is said of the host's is done at once, tensors are on their way until wait. */
struct pen {
    enum { MEASURE, WRITE, READ } way;
    const struct ops *ops;
    struct team *team;
    unsigned char *bytes;
    size_t used;
};

static void move(struct pen *pen, void *data, size_t bytes)
{
    if (pen->way == WRITE && data) memcpy(pen->bytes + pen->used, data, bytes);
    if (pen->way == READ && data) memcpy(data, pen->bytes + pen->used, bytes);
    pen->used += bytes;
}

static void move_tensor(struct pen *pen, float *tensor, int64_t elements)
{
    size_t bytes = (size_t)elements * sizeof *tensor;
    if (pen->way == WRITE && tensor) pen->ops->copy(pen->team, pen->bytes + pen->used, tensor, bytes);
    if (pen->way == READ && tensor) pen->ops->copy(pen->team, tensor, pen->bytes + pen->used, bytes);
    pen->used += bytes;
}

static void move_log(struct reuse *r, int steps, struct pen *pen)
{
    size_t cells = (size_t)steps * (size_t)r->shape.job.branches, layers = (size_t)r->shape.job.layers;
    move(pen, r->changes, cells * sizeof *r->changes);
    move(pen, r->actions, cells);
    move(pen, r->reasons, cells);
    move(pen, r->records, (size_t)r->record_count * sizeof *r->records);
    if (!by_block(r)) return;
    move(pen, r->block_computed, layers * sizeof *r->block_computed);
    move(pen, r->block_reused, layers * sizeof *r->block_reused);
    for (int b = 0; b < r->branches; b++) move(pen, r->block_counts[b].now, 2 * layers * sizeof(uint32_t));
}

/* Of what is measured against latents and vectors. */
static void move_references(struct reuse *r, struct branch *b, struct pen *pen)
{
    static const enum signal saved[] = {SIGNAL_TIME, SIGNAL_PROJECTION, SIGNAL_LATENT, SIGNAL_DRIFT,
                                        SIGNAL_OUTPUT};
    for (size_t i = 0; i < sizeof saved / sizeof *saved; i++) {
        int64_t elements = saved[i] == SIGNAL_TIME         ? r->hidden
                           : saved[i] == SIGNAL_PROJECTION ? 6 * r->hidden
                                                           : r->latent;
        if (b->has_reference[saved[i]]) move_tensor(pen, b->reference[saved[i]], elements);
    }
}

static void move_ring(const struct ring *ring, int64_t elements, struct pen *pen)
{
    for (int i = 0; i < ring->count; i++) move_tensor(pen, ring->slot[i], elements);
}

static void move_branch(struct reuse *r, struct branch *b, struct pen *pen)
{
    move(pen, b->policy_state, r->settings.policy->state_bytes);
    if (b->forecast_state) move(pen, b->forecast_state, r->settings.forecast->state_bytes);
    move_references(r, b, pen);
    move_ring(&b->latents, r->latent, pen);
    move_ring(&b->outputs, r->latent, pen);
    if (in_span(r)) return;
    move(pen, b->history.gram, sizeof b->history.gram);
    move_ring(&b->ring, r->latent, pen);
}

static void move_past(struct reuse *r, int steps, struct pen *pen)
{
    for (int step = 0; step < steps; step++) {
        if (!needed_by_any(r, steps, step)) continue;
        struct past *past = pen->way == READ ? free_past(r, steps) : past_of(r, step);
        if (past) past->step = step;
        move_tensor(pen, past ? past->latent : NULL, r->latent);
    }
}

static void move_state(struct reuse *r, int steps, struct pen *pen)
{
    if (steps == r->shape.job.steps) return; /* nothing will be decided any more */
    for (int b = 0; b < r->branches && !by_block(r); b++) move_branch(r, &r->branch[b], pen);
    move_past(r, steps, pen);
}

/* By blocks there may be more steps to make again than latents are kept. */
static bool can_save(struct reuse *r, int steps)
{
    for (int step = 0; step < steps && by_block(r); step++)
        if (needed_by_any(r, steps, step) && !past_of(r, step)) return false;
    return true;
}

static size_t section_bytes(struct reuse *r, int steps)
{
    struct pen pen = {.way = MEASURE};
    int64_t records = r->record_count;
    move(&pen, &records, sizeof records);
    move_log(r, steps, &pen);
    move_state(r, steps, &pen);
    return pen.used;
}

size_t reuse_save_bytes(struct reuse *r, int steps)
{
    return can_save(r, steps) ? section_bytes(r, steps) : 0;
}

void reuse_save(struct reuse *r, struct team *team, int steps, void *bytes)
{
    struct pen pen = {.way = WRITE, .ops = r->ops, .team = team, .bytes = bytes};
    int64_t records = r->record_count;
    move(&pen, &records, sizeof records);
    move_log(r, steps, &pen);
    move_state(r, steps, &pen);
}

/* ------------------------------------------------------------------------------------------------ restore */

/* As reuse_create left it. */
static void forget(struct reuse *r)
{
    const struct policy_job *job = &r->shape.job;
    size_t cells = (size_t)job->steps * (size_t)job->branches;
    memset(r->actions, 0, cells);
    memset(r->reasons, 0, cells);
    memset(r->changes, 0, cells * sizeof *r->changes);
    memset(r->counts, 0, sizeof r->counts);
    if (by_block(r)) {
        memset(r->block_computed, 0, (size_t)job->layers * sizeof *r->block_computed);
        memset(r->block_reused, 0, (size_t)job->layers * sizeof *r->block_reused);
    }
    r->largest = CHANGE_NONE;
    r->record_count = r->first = r->restored = r->measurements = 0;
    for (int i = 0; i < r->past_size; i++) r->past[i].step = -1;
    reuse_forget(r);
}

/* No more steps are to be made again than a job of these settings can have kept. */
static bool past_fits(const struct reuse *r, int steps)
{
    int count = 0;
    for (int step = 0; step < steps; step++) count += needed_by_any(r, steps, step);
    return count <= r->past_size;
}

/* Counts what was read; false: no log of this job's. */
static bool count_log(struct reuse *r, int steps)
{
    const struct policy_job *job = &r->shape.job;
    for (int i = r->first * job->branches; i < steps * job->branches; i++) {
        bool known =
            r->actions[i] <= (by_block(r) ? REUSE_PARTLY : REUSE_FORECAST) && r->reasons[i] < REASONS;
        if (!known || !isfinite(r->changes[i])) return false;
        r->counts[r->actions[i]]++;
        if (r->actions[i] != REUSE_COMPUTED && r->changes[i] > r->largest) r->largest = r->changes[i];
    }
    for (int b = 0; b < r->branches && by_block(r); b++)
        for (int i = 0; i < job->layers; i++) {
            const struct block_counts *counts = &r->block_counts[b];
            if (counts->now[i] > (uint32_t)steps || counts->before[i] > counts->now[i]) return false;
        }
    for (int i = 0; i < r->record_count; i++) {
        const struct reuse_record *record = &r->records[i];
        if (record->step < 0 || record->step >= steps || record->branch < 0 ||
            record->branch >= job->branches || record->lag < 0 || record->lag > record->step)
            return false;
    }
    return true;
}

/* What follows from the log: how long the branch has been reusing, what it keeps, and of which steps. */
static void derive_branch(struct reuse *r, int steps, int branch)
{
    struct branch *b = &r->branch[branch];
    struct history *h = &b->history;
    int from = known_from(r, steps), made = computed_since(r, steps, from - 1, branch);
    b->total = steps - from - made;
    while (b->run < steps - from && !computed(r, steps - 1 - b->run, branch)) b->run++;
    for (int i = 0; i < SIGNALS; i++) {
        bool stepwise = i == SIGNAL_TIME || i == SIGNAL_PROJECTION || i == SIGNAL_LATENT;
        bool computing = i == SIGNAL_DRIFT || i == SIGNAL_OUTPUT;
        b->has_reference[i] =
            reuse_wants(r, (enum signal)i) &&
            ((stepwise && steps > from && !reuse_led(r, branch)) || (computing && made > 0));
    }
    b->latents.count = least(made, b->latents.size);
    b->outputs.count = least(made, b->outputs.size);
    if (in_span(r)) return; /* the replay fills its ring */
    b->ring.count = h->count = least(made, b->ring.size);
    for (int step = steps - 1, i = 0; i < h->count; step--) {
        if (!computed(r, step, branch)) continue;
        h->step[i] = step;
        h->sigma[i++] = r->shape.job.sigmas[step];
    }
}

/* Reads a log, and says how many bytes there must be with such a log; 0: it cannot be. */
static size_t read_log(struct reuse *r, int steps, struct pen *pen, size_t size)
{
    struct pen measure = {.way = MEASURE};
    int64_t records;
    if (steps < 0 || steps > r->shape.job.steps || size < sizeof records) return 0;
    move(pen, &records, sizeof records);
    if (records < 0 || records > r->record_capacity) return 0;
    r->record_count = (int)records;
    move_log(r, steps, &measure);
    if (size - sizeof records < measure.used) return 0;
    move_log(r, steps, pen);
    if (!count_log(r, steps) || !past_fits(r, steps)) return 0;
    for (int b = 0; b < r->branches && !by_block(r); b++) derive_branch(r, steps, b);
    return section_bytes(r, steps);
}

static bool states_are_sound(const struct reuse *r)
{
    const struct policy *policy = r->settings.policy;
    const struct forecast *forecast = r->settings.forecast;
    for (int i = 0; i < r->branches; i++) {
        const struct branch *b = &r->branch[i];
        if (policy->sound && !policy->sound(b->policy_state)) return false;
        if (forecast->sound && b->forecast_state && !forecast->sound(b->forecast_state)) return false;
    }
    return true;
}

void reuse_begin_at(struct reuse *r, int step)
{
    int branches = r->shape.job.branches;
    forget(r);
    r->first = r->restored = step;
    memset(r->actions, REUSE_COMPUTED, (size_t)(step * branches));
    memset(r->reasons, REASON_ORIGIN, (size_t)(step * branches));
    for (int i = 0; i < step * branches; i++) r->changes[i] = CHANGE_NONE;
}

int reuse_first(const struct reuse *r)
{
    return r->first;
}

status_t reuse_restore(struct reuse *r, struct team *team, int steps, const void *bytes, size_t size,
                       struct error *error)
{
    struct pen pen = {.way = READ, .ops = r->ops, .team = team, .bytes = (unsigned char *)(uintptr_t)bytes};
    size_t wanted = read_log(r, steps, &pen, size);
    if (wanted == 0 || wanted != size) {
        forget(r);
        return error_set(error, STATUS_CORRUPT,
                         "what the checkpoint says about caching, %zu bytes, does not fit", size);
    }
    move_state(r, steps, &pen);
    status_t status = r->ops->wait(team, error); /* the bytes are the caller's again */
    if (status != STATUS_OK) {
        forget(r);
        return status;
    }
    if (!states_are_sound(r)) {
        forget(r);
        return error_set(error, STATUS_CORRUPT, "the checkpoint's state of %s is not one",
                         r->settings.policy->name);
    }
    r->restored = steps;
    return STATUS_OK;
}
