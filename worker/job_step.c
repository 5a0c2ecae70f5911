/*
 * job_step.c - the step loop of a job. Home's compute thread.
 *
 * Both branches of a step (conditional, unconditional) are in flight together: while one is with the stages,
 * home computes its own blocks of the other. A branch walks through the layers; where the caching engine has
 * something to say it stops (`span_begin`, `span_end`). Blocks that home does not hold are run by the stages:
 * a hop names the blocks it is for and comes back when they are done. A skipped span is not a hop: nothing is
 * sent. Where homes float, all blocks of the ring are hops, also those of home's own rank: its stage then serves
 * the jobs of all homes in the order in which they came, and no home's jobs get ahead of the others'.
 *
 * Where the branches have chains of their own, the one whose blocks are elsewhere goes first (step_move), so that it is
 * computed there while home computes the other.
 *
 * Each call makes one move, and which one is known before it is made (step_move), so that home can choose
 * between its jobs. No move is long: home's blocks are run one at a time. Looking at sixteen jobs after every block
 * costs 0.2 us; a block of the reference model takes 1700, and a hop that comes back meanwhile waits for one
 * block, not for all that home holds.
 */
#include <math.h>
#include <string.h>

#include "rules/wide.h"
#include "worker/job_state.h"

/* What the loop can do next. */
enum move {
    MOVE_NONE,   /* it waits for hops, or for room at the stages */
    MOVE_STEP,   /* begins a step: the timestep's modulation */
    MOVE_BEGIN,  /* a branch: embeds the latent, asks the policy */
    MOVE_CAP,    /* a block before or after the span, which hits run too */
    MOVE_ENTER,  /* the policy's last word before the span, and the forecast if it is a hit */
    MOVE_BLOCK,  /* any other block that home holds */
    MOVE_SEND,   /* a hop to the stages */
    MOVE_SPARE,  /* a block that home runs in place of its holder, who has more to do */
    MOVE_LEAVE,  /* the span was computed: the policy keeps what it made */
    MOVE_OUTPUT, /* the branch's velocity */
    MOVE_FINISH, /* guidance and solver */
    MOVE_PASS,   /* all steps are done, or the job was cancelled */
};

/* ------------------------------------------------------------------------------------------------ a step
 * begins */

static void begin_step(struct job *j)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    size_t bytes = 6 * (size_t)m->config.denoiser.hidden * sizeof(float);
    float *blocks = branch_modulation(&j->branch[0]);
    j->step_began_ns = clock_now_ns();
    struct denoiser_modulation modulation = {
        .wave = j->wave, .output = j->output_modulation, .blocks = blocks};
    denoiser_time(m->denoiser[job_expert(j)], e->team, solver_timestep(j->solver[j->pass], j->step),
                  &modulation);
    for (int b = 0; b < j->branches; b++) {
        if (b) e->ops->copy(e->team, branch_modulation(&j->branch[b]), blocks, bytes);
        j->branch[b].state = BRANCH_NEW;
    }
    j->step_begun = true;
    j->velocity_reused = false;
    if (!j->reuse) return;
    reuse_step(j->reuse, e->team, j->step);
    if (reuse_plan(j->reuse)->policy.site != SITE_VELOCITY) return;
    struct reuse_seen seen = {.latent = j->latent, .time = j->output_modulation, .projection = blocks};
    j->velocity_reused = reuse_begin(j->reuse, e->team, 0, &seen) == ACTION_REUSE;
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
        reuse_blocks(j->reuse, index, branch_records(b));
    else if (site != SITE_VELOCITY) /* that one sees the guided velocity only */
        reuse_observe(j->reuse, j->engine->team, index, j->latent, b->velocity);
}

/* Embeds the latent; asks the policy as early as it can tell. */
static void begin_branch(struct job *j, int index)
{
    struct engine *e = j->engine;
    struct branch *b = &j->branch[index];
    float *x = branch_rows(j, b);
    struct reuse_seen seen = {
        .latent = entering(j), .time = j->output_modulation, .projection = branch_modulation(b)};
    enum reuse_site site = j->reuse ? reuse_plan(j->reuse)->policy.site : SITE_VELOCITY;
    b->action = ACTION_COMPUTE;
    b->at = 0;
    b->asked = b->inside = false;
    b->state = BRANCH_HERE;
    if (j->replaying && !reuse_replays(j->reuse, index)) {
        finish_branch(j, index);
        return;
    }
    if (job_take_first_step(j, index)) {
        finish_branch(j, index);
        return;
    }
    if (site == SITE_OUTPUT && reuse_begin(j->reuse, e->team, index, &seen) == ACTION_REUSE) {
        reuse_output(j->reuse, e->team, index, j->latent, b->velocity);
        finish_branch(j, index);
        return;
    }
    engine_embed(e, b->context[job_expert(j)], seen.latent, x);
    for (int i = 0; i < record_count(j); i++) branch_records(b)[i] = reuse_block_record(j->reuse, index, i);
    if (site != SITE_SPAN) return;
    seen.embedding = x;
    if (reuse_wants_input(j->reuse)) {
        engine_first_input(e, b->context[job_expert(j)], branch_modulation(b), x);
        seen.input = e->work.input;
    }
    b->action = reuse_begin(j->reuse, e->team, index, &seen);
    reuse_embedded(j->reuse, e->team, index, x);
}

/* Before the span: the last word of the policy, and either the forecast in its place or the way through it.
 */
static void enter_span(struct job *j, int index)
{
    struct branch *b = &j->branch[index];
    struct team *team = j->engine->team;
    float *x = branch_rows(j, b);
    b->asked = true;
    b->action = reuse_probe(j->reuse, team, index, x);
    if (b->action == ACTION_REUSE && j->replaying) {
        finish_branch(j, index);
    } else if (b->action == ACTION_REUSE) {
        reuse_apply(j->reuse, team, index, x);
        reuse_tail_begin(j->reuse, team, index, x);
        b->at = j->span_end;
    } else if (j->replaying && job_take_residual(j, index)) {
        finish_branch(j, index);
    } else {
        reuse_enter(j->reuse, team, index, x);
        b->inside = true;
    }
}

static void leave_span(struct job *j, int index)
{
    float *x = branch_rows(j, &j->branch[index]);
    reuse_leave(j->reuse, j->engine->team, index, x);
    reuse_tail_begin(j->reuse, j->engine->team, index, x);
    j->branch[index].inside = false;
}

/* One block that home holds, be it a spare one. */
static void run_block(struct job *j, int index)
{
    struct branch *b = &j->branch[index];
    engine_blocks(j->engine, b->context[job_expert(j)], record_count(j) ? b->blocks : NULL, j->step,
                  branch_modulation(b), branch_rows(j, b), b->at, b->at + 1, branch_records(b));
    b->at++;
    j->work += (uint64_t)token_count(&j->grid);
}

static void output_branch(struct job *j, int index)
{
    struct engine *e = j->engine;
    struct branch *b = &j->branch[index];
    const float *x = branch_rows(j, b);
    if (j->span_end < e->model->config.denoiser.layers) reuse_tail_end(j->reuse, e->team, index, x);
    if (!j->replaying) engine_output(e, b->context[job_expert(j)], j->output_modulation, x, b->velocity);
    finish_branch(j, index);
}

/* Is it to be run by the stages, whoever holds it? */
static bool is_hop(const struct model *m, int chain, int block)
{
    bool cap = block < m->split.head || block >= m->config.denoiser.layers - m->split.tail;
    bool always = m->split.floating || split_width(&m->split) > 1;
    return model_holder(m, chain, block) != m->self || (always && !cap);
}

/* How many blocks a branch has to be taken through here before its next hop to another member; `layers`: there is none. */
static int blocks_to_hop(const struct job *j, int index)
{
    const struct model *m = j->engine->model;
    const struct branch *b = &j->branch[index];
    int layers = m->config.denoiser.layers, chain = job_chain(j, index),
        from = b->state == BRANCH_NEW ? 0 : b->at;
    for (int block = from; block < layers - m->split.tail; block++)
        if (model_holder(m, chain, block) != m->self) return block - from;
    return layers;
}

/* How far the stages take a branch: to the next place where the caching engine has something to say, or to
 * the blocks that home runs itself. */
static int hop_end(const struct job *j, int index)
{
    const struct model *m = j->engine->model;
    const struct branch *b = &j->branch[index];
    int layers = m->config.denoiser.layers;
    bool whole = m->split.floating || split_width(&m->split) > 1;
    int own = whole ? layers - m->split.tail : model_held_until(m, job_chain(j, index), b->at);
    int stop = b->at < j->span_begin ? j->span_begin : b->at < j->span_end ? j->span_end : layers;
    return stop < own ? stop : own;
}

/* One of a hop's messages: to a member of the stage that holds its next block, with all rows or its part of them. The
 * payload is lent until it is SENT. */
static status_t post_hop(struct job *j, int index, int peer, struct cargo *cargo, int first_row, int rows,
                         struct error *error)
{
    struct branch *b = &j->branch[index];
    size_t records = (size_t)record_count(j) * sizeof(float);
    const void *payload;
    struct ticket t = {.kind = TICKET_HOP,
                       .dtype = TICKET_F32,
                       .branch = (uint16_t)index,
                       .expert = (uint16_t)job_expert(j),
                       .job = j->order.job,
                       .context = j->context,
                       .attempt = j->order.attempt,
                       .home = (uint16_t)j->engine->self,
                       .priority = (uint16_t)j->order.priority,
                       .age = j->order.age,
                       .step = (uint32_t)j->step,
                       .timestep = solver_timestep(j->solver[j->pass], j->step),
                       .flags = record_count(j) ? TICKET_BLOCK_RECORDS : 0,
                       .grid = {(uint32_t)j->grid.frames, (uint32_t)j->grid.height, (uint32_t)j->grid.width},
                       .row_begin = (uint32_t)first_row,
                       .row_count = (uint32_t)rows,
                       .bytes = cargo->body + records,
                       .block_begin = (uint32_t)b->at,
                       .block_end = (uint32_t)b->until};
    status_t status = cargo_send(cargo, j->engine, peer, 0, records, &payload, error);
    if (status == STATUS_OK)
        status = engine_post(j->engine, peer, &t, payload,
                             j->context * JOB_COOKIES + (uint64_t)(COOKIE_HOP_0 + index), error);
    if (status != STATUS_OK) return status;
    b->lent++;
    b->parts++;
    j->outstanding++;
    return STATUS_OK;
}

/* To each member of a wide stage the modulation, its rows and all block records. */
static status_t post_shards(struct job *j, int index, int stage, struct error *error)
{
    struct engine *e = j->engine;
    struct branch *b = &j->branch[index];
    int width = job_width(j), tokens = token_count(&j->grid);
    size_t row = (size_t)e->model->config.denoiser.hidden * sizeof(float), modulation = 6 * row;
    status_t status = STATUS_OK;
    for (int p = 0; p < width; p++) {
        char *to = b->shard[p].device;
        e->ops->copy(e->team, to, b->hop.device, modulation);
        e->ops->copy(e->team, to + modulation,
                     b->hop.device + modulation + (size_t)shard_row(tokens, width, p) * row,
                     b->shard[p].body - modulation);
        memcpy(cargo_tail(&b->shard[p]), branch_records(b), (size_t)record_count(j) * sizeof(float));
    }
    for (int p = 0; p < width && status == STATUS_OK; p++) {
        int first = shard_row(tokens, width, p), rows = shard_row(tokens, width, p + 1) - first;
        status = post_hop(j, index, stage + p, &b->shard[p], first, rows, error);
    }
    /* It was asked before whether all could be sent to, and some of them have it now. */
    return status == STATUS_AGAIN
               ? error_set(error, STATUS_INTERNAL, "a hop that went to some of a stage alone")
               : status;
}

/* Sends the hidden state to the stage that holds its next block. */
static status_t send_hop(struct job *j, int index, struct error *error)
{
    struct branch *b = &j->branch[index];
    int rows = token_count(&j->grid), chain = job_chain(j, index);
    int holder = model_holder(j->engine->model, chain, b->at);
    b->until = hop_end(j, index);
    b->parts = 0;
    status_t status = job_width(j) > 1 ? post_shards(j, index, holder, error)
                                       : post_hop(j, index, holder, &b->hop, 0, rows, error);
    if (status != STATUS_OK) return status;
    b->state = BRANCH_AWAY;
    b->chain = chain;
    j->engine->hops[chain][j->order.priority]++;
    j->work += (uint64_t)rows * (uint64_t)(b->until - b->at);
    job_await(j);
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
    bool second = j->order.guides_apart && job_expert(j) > 0;
    const float guidance = (float)(second ? j->order.guidance_2 : j->order.guidance);
    if (j->branches < 2) {
        e->ops->copy(e->team, j->velocity, c, (size_t)j->latent_count * sizeof *c);
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

/* Steps are timed from end to end: what others do in between is part of how long this job takes. */
static void tell_progress(struct job *j)
{
    struct job_status *s = &j->status;
    double seconds = job_seconds_since(s->done ? j->step_ended_ns : j->phase_began_ns);
    j->step_ended_ns = clock_now_ns();
    s->step_seconds = s->done == 0 ? seconds : 0.8 * s->step_seconds + 0.2 * seconds;
    s->done++;
    j->run_seconds += seconds;
    s->seconds_left = s->step_seconds * (s->of - s->done);
    s->revision++;
}

static status_t finish_step(struct job *j, struct error *error)
{
    struct engine *e = j->engine;
    struct solver *solver = j->solver[j->pass];
    status_t status;
    if (j->replaying) {
        status = engine_wait(e, error);
        job_residuals_used(j);
        if (status == STATUS_OK) job_replayed(j);
        return status;
    }
    if (j->velocity_reused)
        reuse_output(j->reuse, e->team, 0, j->latent, j->velocity);
    else
        guide(j);
    if (j->reuse && reuse_plan(j->reuse)->policy.site == SITE_VELOCITY)
        reuse_observe(j->reuse, e->team, 0, j->latent, j->velocity);
    if (j->reuse) reuse_remember(j->reuse, e->team, j->latent);
    job_preview_predict(j);
    solver_step(solver, e->team, j->step, j->velocity, j->latent);
    status = engine_wait(e, error);
    if (status != STATUS_OK) return status;
    time_step(j, job_seconds_since(j->step_began_ns));
    if (all_finite(j->latent, j->latent_count))
        status = job_give_first_step(j, job_seconds_since(j->step_began_ns), error);
    if (status != STATUS_OK) return status;
    j->step_begun = false;
    j->deadline_ns = CLOCK_NEVER;
    j->step++;
    job_preview_take(j);
    tell_progress(j);
    if (!all_finite(j->latent, j->latent_count))
        return error_set(error, STATUS_CORRUPT,
                         "step %d of %d: the latent is not finite (NaN or infinity): the weights or the "
                         "settings are outside what the model can do",
                         j->step, j->order.steps);
    return STATUS_OK;
}

/* All steps are done, or the job was cancelled, maybe in the middle of one: once more with the policy, or on
 * to the decoder, or to its end. */
static void finish_pass(struct job *j)
{
    j->pass_seconds[j->pass] = job_seconds_since(j->pass_began_ns);
    j->status.denoise_seconds = job_seconds_since(j->phase_began_ns);
    job_forget_hops(j);
    if (!j->cancelled) job_give_latent(j);
    if (!j->cancelled && j->pass + 1 < j->passes) {
        memcpy(j->uncached_latent, j->latent, (size_t)j->latent_count * sizeof *j->latent);
        job_begin_pass(j, j->pass + 1);
        return;
    }
    job_close(j);
}

/* -------------------------------------------------------------------------------------------------------
 * the loop */

/* More hops of this home wait at the stages of a chain only in vain: those of equal or higher priority count, so that
 * nobody waits for what is less urgent. */
static bool window_open(const struct job *j, int chain)
{
    const struct engine *e = j->engine;
    const struct split *split = &e->model->split;
    int hops = 0;
    if (engine_wide(e)) {
        for (int c = 0; c < SPLIT_CHAINS; c++)
            for (int p = 0; p < PRIORITIES; p++) hops += e->hops[c][p];
        return hops < engine_wide_hops(e);
    }
    for (int p = j->order.priority; p < PRIORITIES; p++) hops += e->hops[chain][p];
    return hops <
           (split->floating ? HOPS_PER_STAGE + 1 : HOPS_PER_STAGE * split_stages(split, chain, e->self));
}

/* Of a branch whose next block is for the stages. Where home holds that block too, it may run it instead:
 * when the hop cannot go, and also when it could, as long as that member has work for longer than a block takes;
 * the hop is then sent in time, if home has not come to the block before. So what home has time for decides how
 * much of it it takes, and neither waits for the other. What a policy keeps block by block is where the block
 * lies, so those are left to it. */
static enum move away_move(const struct job *j, int index)
{
    const struct engine *e = j->engine;
    const struct branch *b = &j->branch[index];
    int chain = job_chain(j, index), holder = model_holder(e->model, chain, b->at);
    bool spare = model_spares(e->model, b->at) && !record_count(j);
    if (spare && fabric_in_flight(e->fabric, holder) >= SPARE_QUEUE) return MOVE_SPARE;
    bool reached = window_open(j, chain);
    for (int p = 0; p < job_width(j); p++) reached = reached && engine_reaches(e, holder + p, WAY_HOP);
    if (reached) return MOVE_SEND;
    return spare ? MOVE_SPARE : MOVE_NONE;
}

static enum move branch_move(const struct job *j, int index)
{
    const struct engine *e = j->engine;
    const struct branch *b = &j->branch[index];
    int layers = e->model->config.denoiser.layers;
    if (b->state == BRANCH_NEW) return j->reuse && !reuse_may_begin(j->reuse, index) ? MOVE_NONE : MOVE_BEGIN;
    if (b->state != BRANCH_HERE) return MOVE_NONE;
    if (b->inside && b->at == j->span_end) return MOVE_LEAVE;
    if (b->at == layers) return MOVE_OUTPUT;
    if (b->at == j->span_begin && !b->asked) return MOVE_ENTER;
    if (is_hop(e->model, job_chain(j, index), b->at)) return away_move(j, index);
    bool span = j->span_begin < layers;
    return span && (b->at < j->span_begin || b->at >= j->span_end) ? MOVE_CAP : MOVE_BLOCK;
}

/* How much a branch's move is wanted before the other branch's: the nearer it brings a hop to another member the more, as that
 * keeps the stages busy while home computes; a hop that goes now most of all, a spare block least. 0: there is no move. */
static int urgency(const struct job *j, int index, enum move move)
{
    int layers = j->engine->model->config.denoiser.layers, near = layers - blocks_to_hop(j, index);
    if (move == MOVE_NONE || move == MOVE_SPARE) return move == MOVE_SPARE;
    return 2 + 2 * near + (move == MOVE_SEND);
}

/* The first thing that can be done, in the order home wants them done. *index: of the branch that makes it.
 */
static enum move step_move(const struct job *j, int *index)
{
    if (j->cancelled || (!j->step_begun && j->step == j->order.steps))
        return job_is_out(j) ? MOVE_NONE : MOVE_PASS;
    if (!j->step_begun) return MOVE_STEP;
    enum move first = MOVE_NONE;
    int most = 0;
    bool done = true;
    for (int i = 0; i < j->branches; i++) {
        enum move move = branch_move(j, i);
        int wanted = urgency(j, i, move);
        done = done && j->branch[i].state == BRANCH_DONE;
        if (wanted <= most) continue;
        *index = i;
        first = move;
        most = wanted;
    }
    return done ? MOVE_FINISH : first;
}

static bool move_is_small(enum move move)
{
    return move != MOVE_NONE && move != MOVE_CAP && move != MOVE_BLOCK && move != MOVE_SPARE &&
           move != MOVE_SEND;
}

static status_t make_move(struct job *j, enum move move, int index, struct error *error)
{
    bool forward = move == MOVE_BEGIN || move == MOVE_CAP || move == MOVE_BLOCK || move == MOVE_SPARE ||
                   move == MOVE_OUTPUT;
    status_t status = forward ? engine_prepare(j->engine, &j->grid, error) : STATUS_OK;
    if (status != STATUS_OK) return status;
    if (move_is_small(move)) j->work += (uint64_t)token_count(&j->grid) / SMALL_PARTS + 1;
    switch (move) {
    case MOVE_NONE:
        return STATUS_AGAIN;
    case MOVE_STEP:
        begin_step(j);
        break;
    case MOVE_BEGIN:
        begin_branch(j, index);
        break;
    case MOVE_ENTER:
        enter_span(j, index);
        break;
    case MOVE_CAP:
    case MOVE_BLOCK:
    case MOVE_SPARE:
        run_block(j, index);
        break;
    case MOVE_SEND:
        return send_hop(j, index, error);
    case MOVE_LEAVE:
        leave_span(j, index);
        break;
    case MOVE_OUTPUT:
        output_branch(j, index);
        break;
    case MOVE_FINISH:
        return finish_step(j, error);
    case MOVE_PASS:
        finish_pass(j);
        break;
    }
    return STATUS_OK;
}

/* The step loop: one move a call. */
enum job_result job_advance_step(struct job *j)
{
    int index = 0;
    struct error error = {0};
    enum move move = step_move(j, &index);
    status_t status = make_move(j, move, index, &error);
    if (status == STATUS_AGAIN) return JOB_WAITS;
    return status == STATUS_OK ? JOB_ADVANCED : job_fail(j, &error);
}

enum job_piece job_next_in_step(const struct job *j)
{
    int index;
    switch (step_move(j, &index)) {
    case MOVE_NONE:
        return PIECE_NONE;
    case MOVE_SEND:
        return PIECE_SEND;
    case MOVE_BLOCK:
        return PIECE_BLOCKS;
    case MOVE_SPARE:
        return PIECE_SPARE;
    case MOVE_PASS: /* who was cancelled is not kept waiting */
        return j->cancelled ? PIECE_SEND : PIECE_LIGHT;
    default:
        return PIECE_LIGHT;
    }
}

/* -------------------------------------------------------------------------------------------------------
 * events */

static void came_home(struct job *j, struct branch *b)
{
    b->state = BRANCH_HERE;
    j->engine->hops[b->chain][j->order.priority]--;
}

void job_forget_hops(struct job *j)
{
    for (int i = 0; i < j->branches; i++)
        if (j->branch[i].state == BRANCH_AWAY) came_home(j, &j->branch[i]);
}

/* A hop is back when both its rows have arrived and its outgoing buffer, which receives them, is ours again.
 */
static void land(struct job *j, struct branch *b)
{
    if (b->state == BRANCH_AWAY && b->came_back && !b->lent) {
        b->came_back = false;
        b->at = b->until;
        came_home(j, b);
    }
}

void job_sent(struct job *j, int branch)
{
    j->branch[branch].lent--;
    land(j, &j->branch[branch]);
}

/* Rows that came back, all of them or a member's part, where they belong. */
static status_t take_rows(struct job *j, struct branch *b, const struct fabric_event *event,
                          struct error *error)
{
    const struct ticket *t = &event->ticket;
    int width = job_width(j), place = event->peer % width, tokens = token_count(&j->grid);
    uint32_t first = (uint32_t)shard_row(tokens, width, place),
             rows = (uint32_t)shard_row(tokens, width, place + 1) - first;
    size_t row = (size_t)j->engine->model->config.denoiser.hidden * sizeof(float), modulation = 6 * row;
    size_t records = (size_t)record_count(j) * sizeof(float);
    uint64_t bytes = rows * row + records;
    if (t->bytes != bytes || t->branch >= j->branches || t->expert != job_expert(j) ||
        t->block_end != (uint32_t)b->until || t->row_begin != first || t->row_count != rows)
        return error_set(
            error, STATUS_CORRUPT,
            "a hop came back with %lu bytes of rows from %u on for block %u instead of %lu from %u on "
            "for %d",
            (unsigned long)t->bytes, t->row_begin, t->block_end, (unsigned long)bytes, first, b->until);
    /* The rows came back, so the stage has read what we sent: the buffer may be written though SENT is
     * pending. */
    if (width == 1)
        return cargo_receive(&b->hop, j->engine, event->peer, modulation, event->payload, records, error);
    status_t status = cargo_receive_part(&b->hop, j->engine, event->peer, modulation + first * row,
                                         event->payload, rows * row, error);
    /* Every member brings the same records. */
    return status == STATUS_OK && records > 0
               ? cargo_read(j->engine, event->peer, (const char *)event->payload + rows * row,
                            branch_records(b), records, error)
               : status;
}

void job_receive(struct job *j, const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    struct branch *b = &j->branch[t->branch % BRANCHES];
    struct error error;
    switch (t->kind) {
    case TICKET_HOP:
        if (take_rows(j, b, event, &error) != STATUS_OK) {
            job_fail(j, &error);
            return;
        }
        b->came_back = b->parts == 0;
        atomic_fetch_add(&j->engine->progress, 1);
        land(j, b);
        return;
    case TICKET_UNKNOWN_CONTEXT: /* open everywhere again, then repeat this hop */
        if (b->state == BRANCH_AWAY) came_home(j, b);
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
