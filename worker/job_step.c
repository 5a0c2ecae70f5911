/*
 * job_step.c - the step loop of a job. Home's compute thread.
 *
 * Both branches of a step (conditional, unconditional) are in flight together: while one is with the stages,
 * home computes its own blocks of the other. A branch walks through the layers; where the caching engine has
 * something to say it stops (`span_begin`, `span_end`). Blocks that home does not hold are run by the stages:
 * a hop names the blocks it is for and comes back when they are done. A skipped span is not a hop: nothing is
 * sent.
 */
#include <math.h>
#include <string.h>

#include "worker/job_state.h"

/* ------------------------------------------------------------------------------------------------ a step
 * begins */

static void begin_step(struct job *j)
{
    const struct model *m = j->engine->model;
    size_t bytes = 6 * (size_t)m->config.denoiser.hidden * sizeof(float);
    j->step_began_ns = clock_now_ns();
    struct denoiser_modulation modulation = {.output = j->output_modulation, .blocks = j->branch[0].hop};
    denoiser_time(m->denoiser, j->engine->team, solver_timestep(j->solver[j->pass], j->step), &modulation);
    for (int b = 0; b < j->branches; b++) {
        if (b) memcpy(j->branch[b].hop, j->branch[0].hop, bytes);
        j->branch[b].state = BRANCH_NEW;
    }
    j->step_begun = true;
    j->velocity_reused = false;
    if (!j->reuse) return;
    reuse_step(j->reuse, j->step);
    if (reuse_plan(j->reuse)->policy.site != SITE_VELOCITY) return;
    struct reuse_seen seen = {
        .latent = j->latent, .time = j->output_modulation, .projection = j->branch[0].hop};
    j->velocity_reused = reuse_begin(j->reuse, j->engine->team, 0, &seen) == ACTION_REUSE;
    for (int b = 0; b < j->branches && j->velocity_reused; b++) j->branch[b].state = BRANCH_DONE;
}

/* ---------------------------------------------------------------------------------------------- a branch's
 * walk */

/* The latent that enters the step at work. */
static const float *entering(const struct job *j)
{
    return j->replaying ? reuse_past(j->reuse) : j->latent;
}

/* The branch's velocity is there, computed or not; or, of a step that is made again, what is kept of it. */
static void finish_branch(struct job *j, int index)
{
    struct branch *b = &j->branch[index];
    b->state = BRANCH_DONE;
    if (!j->reuse || j->replaying) return;
    enum reuse_site site = reuse_plan(j->reuse)->policy.site;
    if (site == SITE_BLOCKS)
        reuse_blocks(j->reuse, index, branch_records(j, b));
    else if (site != SITE_VELOCITY) /* that one sees the guided velocity only */
        reuse_observe(j->reuse, j->engine->team, index, j->latent, b->velocity);
}

/* Embeds the latent; asks the policy as early as it can tell. */
static void begin_branch(struct job *j, int index)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    struct branch *b = &j->branch[index];
    float *x = branch_rows(j, b);
    struct reuse_seen seen = {.latent = entering(j), .time = j->output_modulation, .projection = b->hop};
    enum reuse_site site = j->reuse ? reuse_plan(j->reuse)->policy.site : SITE_VELOCITY;
    b->action = ACTION_COMPUTE;
    b->at = 0;
    b->asked = b->inside = false;
    b->state = BRANCH_HERE;
    if (j->replaying && !reuse_replays(j->reuse, index)) {
        finish_branch(j, index);
        return;
    }
    if (site == SITE_OUTPUT && reuse_begin(j->reuse, e->team, index, &seen) == ACTION_REUSE) {
        reuse_output(j->reuse, e->team, index, j->latent, b->velocity);
        finish_branch(j, index);
        return;
    }
    denoiser_embed(m->denoiser, e->team, &e->work, seen.latent, x);
    for (int i = 0; i < record_count(j); i++) branch_records(j, b)[i] = NAN;
    if (site != SITE_SPAN) return;
    seen.embedding = x;
    if (reuse_wants_input(j->reuse)) {
        denoiser_first_input(m->denoiser, e->team, &e->work, b->hop, x, e->work.norm);
        seen.input = e->work.norm;
    }
    b->action = reuse_begin(j->reuse, e->team, index, &seen);
    reuse_embedded(j->reuse, index, x);
}

/* Before the span: the last word of the policy, and either the forecast in its place or the way through it.
 */
static void enter_span(struct job *j, int index)
{
    struct branch *b = &j->branch[index];
    float *x = branch_rows(j, b);
    b->asked = true;
    b->action = reuse_probe(j->reuse, j->engine->team, index, x);
    if (b->action == ACTION_REUSE && j->replaying) {
        finish_branch(j, index);
    } else if (b->action == ACTION_REUSE) {
        reuse_apply(j->reuse, j->engine->team, index, x);
        reuse_tail_begin(j->reuse, index, x);
        b->at = j->span_end;
    } else {
        reuse_enter(j->reuse, index, x);
        b->inside = true;
    }
}

static void leave_span(struct job *j, int index)
{
    float *x = branch_rows(j, &j->branch[index]);
    reuse_leave(j->reuse, j->engine->team, index, x);
    reuse_tail_begin(j->reuse, index, x);
    j->branch[index].inside = false;
}

static void output_branch(struct job *j, int index)
{
    struct engine *e = j->engine;
    struct branch *b = &j->branch[index];
    const float *x = branch_rows(j, b);
    if (j->span_end < e->model->config.denoiser.layers) reuse_tail_end(j->reuse, e->team, index, x);
    if (!j->replaying)
        denoiser_output(e->model->denoiser, e->team, &e->work, j->output_modulation, x, b->velocity);
    finish_branch(j, index);
}

/* Runs the next stretch of blocks if home holds it, or makes the branch leave for the stage that does. */
static void advance_branch(struct job *j, int index)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    struct branch *b = &j->branch[index];
    int layers = m->config.denoiser.layers;
    if (b->state == BRANCH_NEW) begin_branch(j, index);
    if (b->state != BRANCH_DONE && b->at == j->span_begin && j->span_begin < layers && !b->asked)
        enter_span(j, index);
    if (b->state == BRANCH_DONE) return;
    if (b->at == j->span_end && b->inside) leave_span(j, index);
    if (b->at < layers) {
        int stop = b->at < j->span_begin ? j->span_begin : b->at < j->span_end ? j->span_end : layers;
        int member = model_holder(m, b->at), held = model_held_until(m, b->at);
        b->until = stop < held ? stop : held;
        if (member != 0) {
            b->state = BRANCH_LEAVING;
            return;
        }
        engine_blocks(e, b->context, record_count(j) ? b->blocks : NULL, j->step, b->hop, branch_rows(j, b),
                      b->at, b->until, branch_records(j, b));
        b->at = b->until;
    }
    if (b->at == j->span_end && b->inside) leave_span(j, index);
    if (b->at == layers) output_branch(j, index);
}

/* Sends the hidden state to the stage that holds its next block; the payload is lent until it is SENT. */
static status_t send_hop(struct job *j, int index, struct error *error)
{
    struct branch *b = &j->branch[index];
    int rows = token_count(&j->grid);
    struct ticket t = {.kind = TICKET_HOP,
                       .dtype = TICKET_F32,
                       .branch = (uint16_t)index,
                       .job = j->order.job,
                       .context = j->context,
                       .attempt = j->order.attempt,
                       .step = (uint32_t)j->step,
                       .timestep = solver_timestep(j->solver[j->pass], j->step),
                       .flags = record_count(j) ? TICKET_BLOCK_RECORDS : 0,
                       .grid = {(uint32_t)j->grid.frames, (uint32_t)j->grid.height, (uint32_t)j->grid.width},
                       .row_count = (uint32_t)rows,
                       .bytes = hop_bytes(rows, j->engine->model->config.denoiser.hidden) +
                                (uint64_t)record_count(j) * sizeof(float),
                       .block_begin = (uint32_t)b->at,
                       .block_end = (uint32_t)b->until};
    status_t status = engine_post(j->engine, model_holder(j->engine->model, b->at), &t, b->hop,
                                  j->context * JOB_COOKIES + (uint64_t)(COOKIE_HOP_0 + index), error);
    if (status != STATUS_OK) return status;
    b->lent++;
    b->state = BRANCH_AWAY;
    j->outstanding++;
    j->deadline_ns = clock_now_ns() + HOP_TIMEOUT_NS;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- a step
 * ends */

static bool all_finite(const float *x, int64_t count)
{
    float sum = 0; /* 0 * finite stays 0; 0 * inf and 0 * NaN are NaN */
    for (int64_t i = 0; i < count; i++) sum += 0 * x[i];
    return sum == 0;
}

/* v = unconditional + guidance (conditional - unconditional), rounded as the reference rounds. */
static void guide(struct job *j)
{
    struct engine *e = j->engine;
    const float *c = j->branch[0].velocity, *u = j->branch[1].velocity;
    const float guidance = (float)j->order.guidance;
    if (j->branches < 2) {
        memcpy(j->velocity, c, (size_t)j->latent_count * sizeof *c);
        return;
    }
    e->ops->lincomb(e->team, 2, (const float[]){1, -1}, (const float *[]){c, u}, j->latent_count,
                    j->velocity);
    e->ops->lincomb(e->team, 2, (const float[]){1, guidance}, (const float *[]){u, j->velocity},
                    j->latent_count, j->velocity);
}

/* What a computed and a reused step cost, for the report. */
static void time_step(struct job *j, double seconds)
{
    struct reuse_report report;
    int computed = 0;
    if (!j->reuse) return;
    reuse_describe(j->reuse, &report);
    for (int b = 0; b < j->branches; b++)
        computed += report.actions[j->step * j->branches + b] == REUSE_COMPUTED;
    if (computed == j->branches) {
        j->report.computed_seconds += (seconds - j->report.computed_seconds) / ++j->computed_steps;
    } else if (computed == 0) {
        j->report.reused_seconds += (seconds - j->report.reused_seconds) / ++j->reused_steps;
    }
}

static enum job_result finish_step(struct job *j)
{
    struct engine *e = j->engine;
    struct solver *solver = j->solver[j->pass];
    if (j->replaying) {
        job_replayed(j);
        return JOB_ADVANCED;
    }
    if (j->velocity_reused)
        reuse_output(j->reuse, e->team, 0, j->latent, j->velocity);
    else
        guide(j);
    if (j->reuse && reuse_plan(j->reuse)->policy.site == SITE_VELOCITY)
        reuse_observe(j->reuse, e->team, 0, j->latent, j->velocity);
    if (j->reuse) reuse_remember(j->reuse, j->latent);
    solver_step(solver, e->team, j->step, j->velocity, j->latent);
    double seconds = job_seconds_since(j->step_began_ns);
    time_step(j, seconds);
    j->step_begun = false;
    j->deadline_ns = CLOCK_NEVER;
    j->step++;
    j->status.done++;
    j->status.step_seconds = j->status.done == 1 ? seconds : 0.8 * j->status.step_seconds + 0.2 * seconds;
    j->status.seconds_left = j->status.step_seconds * (j->status.of - j->status.done);
    j->status.revision++;
    if (!all_finite(j->latent, j->latent_count)) {
        struct error error;
        error_set(&error, STATUS_CORRUPT,
                  "step %d of %d: the latent is not finite (NaN or infinity): the weights or the "
                  "settings are outside what the model can do",
                  j->step, j->order.steps);
        return job_fail(j, &error);
    }
    return JOB_ADVANCED;
}

/* All steps are done: once more with the policy, or on to the decoder. */
static void finish_pass(struct job *j)
{
    j->pass_seconds[j->pass] = job_seconds_since(j->pass_began_ns);
    j->status.denoise_seconds = job_seconds_since(j->phase_began_ns);
    if (!j->cancelled && j->pass + 1 < j->passes) {
        memcpy(j->uncached_latent, j->latent, (size_t)j->latent_count * sizeof *j->latent);
        job_begin_pass(j, j->pass + 1);
        return;
    }
    j->life = LIFE_CLOSE;
    j->told = 0;
}

/* The step loop: each call does the first thing that can be done, in the order home wants them done. */
enum job_result job_advance_step(struct job *j)
{
    struct error error = {0};
    if (!j->step_begun) {
        if (j->cancelled || j->step == j->order.steps) {
            finish_pass(j);
            return JOB_ADVANCED;
        }
        if (engine_prepare(j->engine, &j->grid, &error) != STATUS_OK) return job_fail(j, &error);
        begin_step(j);
    }
    bool done = true;
    for (int i = 0; i < j->branches; i++) {
        struct branch *b = &j->branch[i];
        if (b->state == BRANCH_LEAVING) { /* first: it keeps the stages busy while home computes */
            status_t status = send_hop(j, i, &error);
            if (status == STATUS_OK) return JOB_ADVANCED;
            if (status != STATUS_AGAIN) return job_fail(j, &error);
        }
        done = done && b->state == BRANCH_DONE;
    }
    if (done) return finish_step(j);
    for (int i = 0; i < j->branches; i++) {
        struct branch *b = &j->branch[i];
        if (b->state != BRANCH_NEW && b->state != BRANCH_HERE) continue;
        if (j->reuse && !reuse_may_begin(j->reuse, i)) continue;
        if (engine_prepare(j->engine, &j->grid, &error) != STATUS_OK) return job_fail(j, &error);
        advance_branch(j, i);
        return JOB_ADVANCED;
    }
    return JOB_WAITS;
}

/* -------------------------------------------------------------------------------------------------------
 * events */

/* A hop is back when both its rows have arrived and its outgoing buffer, which receives them, is ours again.
 */
static void land(struct job *j, struct branch *b)
{
    if (b->state == BRANCH_AWAY && b->came_back && !b->lent) {
        b->came_back = false;
        b->at = b->until;
        b->state = BRANCH_HERE;
    }
}

void job_sent(struct job *j, int branch)
{
    j->branch[branch].lent--;
    land(j, &j->branch[branch]);
}

void job_receive(struct job *j, const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    struct branch *b = &j->branch[t->branch % BRANCHES];
    int hidden = j->engine->model->config.denoiser.hidden;
    uint64_t bytes =
        ((uint64_t)token_count(&j->grid) * (uint64_t)hidden + (uint64_t)record_count(j)) * sizeof(float);
    struct error error;
    switch (t->kind) {
    case TICKET_HOP:
        if (t->bytes != bytes || t->branch >= j->branches || t->block_end != (uint32_t)b->until) {
            error_set(&error, STATUS_CORRUPT,
                      "a hop came back with %lu bytes for block %u instead of %lu for %d",
                      (unsigned long)t->bytes, t->block_end, (unsigned long)bytes, b->until);
            job_fail(j, &error);
            return;
        }
        /* The rows came back, so the stage has read what we sent: the buffer may be written though SENT is
         * pending. */
        memcpy(branch_rows(j, b), event->payload, bytes);
        b->came_back = true;
        land(j, b);
        return;
    case TICKET_UNKNOWN_CONTEXT: /* open everywhere again, then repeat this hop */
        b->state = BRANCH_LEAVING;
        j->told = 0;
        j->life = LIFE_OPEN;
        return;
    case TICKET_FAILED:
        error_set(&error, STATUS_NO_MEMORY, "member %d: %.*s", event->peer,
                  (int)(t->bytes < 400 ? t->bytes : 400), t->bytes ? (const char *)event->payload : "failed");
        job_fail(j, &error);
        return;
    default:
        return;
    }
}
