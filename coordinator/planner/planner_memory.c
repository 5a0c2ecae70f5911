/* planner_memory.c - see planner_memory.h. */
#include "coordinator/planner/planner_memory.h"

/* The worker's own sizes where nothing was measured, as `refrain-worker --plan-memory` counts them (docs/gpu.md), for the hidden state
 * in float32. */
enum {
    STATE_BYTES = 4,
    JOB_STATES = 1,   /* hidden states kept at home, per branch */
    STAGE_STATES = 4, /* a stage's buffers and what lands, of whole hops */
    CACHE_STATES = 4, /* what a policy keeps per branch: a residual, its history and the probe's */
    KEYS_VALUES = 2,  /* of the text, per branch and block */
    ULYSSES_OPERANDS =
        7, /* of a wide stage: q, k, v and attended rows of its heads, q, k, v packed; each S h / U */
    ROTARY_BYTES =
        16, /* tables, a token and dimension of a head: all of a video's, whatever rows are a rank's */
};
enum { MOST_JOBS = 1024 };

/* A layout's ranks and jobs. */
struct view {
    const struct planner_request *request;
    double hidden, rows; /* rows: tokens of one of a stage's ranks, at most */
    uint32_t width, ranks, homes, experts, jobs, home_jobs;
};

static struct view view_of(const struct planner_request *r, const struct planner_layout *l, uint32_t jobs)
{
    struct view v = {.request = r,
                     .hidden = (double)r->model.heads * r->model.head_dim,
                     .rows = (r->job.tokens + l->width - 1) / l->width,
                     .width = l->width,
                     .ranks = l->ways * (l->stages[0] + l->stages[1]) * l->width,
                     .experts = l->stages[1] > 0 ? 1 : r->model.experts,
                     .jobs = jobs};
    v.homes = l->floating ? v.ranks : 1;
    v.home_jobs = (jobs + v.homes - 1) / v.homes;
    return v;
}

/* What a policy keeps at home of each job. */
static double features(const struct view *v)
{
    const struct planner_request *r = v->request;
    return r->load.hit_rate > 0 ? r->job.branches * CACHE_STATES * v->rows * v->hidden * STATE_BYTES : 0;
}

/* A home deals them to its stage's ranks: of each job, while it makes steps. */
static double dealt_rows(const struct view *v)
{
    const struct planner_request *r = v->request;
    return v->width > 1 ? r->job.branches * (double)r->job.tokens * v->hidden * STATE_BYTES : 0;
}

/* What width costs: a rank exchanges heads and has the tables of all tokens; home embeds all rows. `whole`: the workspace for all
 * of them, of which a rank has its part. */
static void add_width(const struct view *v, double whole, struct planner_room *room)
{
    const struct planner_request *r = v->request;
    double others = 1 - 1.0 / v->width, tokens = r->job.tokens;
    double tables = tokens * r->model.head_dim * ROTARY_BYTES * others;
    if (v->width < 2) return;
    room->work += ULYSSES_OPERANDS * v->rows * v->hidden * r->machine.operand_bytes + tables;
    room->home += whole * others - tables + v->rows * v->hidden * STATE_BYTES;
}

/* ----------------------------------------------------------------------------------------------- by formulas */

static void room_by_formulas(const struct view *v, struct planner_room *room)
{
    const struct planner_request *r = v->request;
    double operand = r->machine.operand_bytes, state = v->rows * v->hidden * STATE_BYTES;
    double text = (double)r->job.branches * KEYS_VALUES * r->model.text_tokens * v->hidden * operand;
    double job = r->job.branches * JOB_STATES * state + features(v) + dealt_rows(v);
    room->work = v->rows * (r->model.ffn + 2.5 * v->hidden) * operand;
    double whole = room->work * v->width;
    if (v->ranks > v->width) room->work += STAGE_STATES * state;
    room->buffers = 0; /* homes have as many states on their way */
    room->block = v->experts * (double)planner_block_bytes(&r->model) + v->jobs * text;
    room->home = (double)r->model.home_bytes + (double)r->model.decode_bytes * r->job.width * r->job.height +
                 v->home_jobs * job;
    add_width(v, whole, room);
}

/* ------------------------------------------------------------------------------------------------- on paper */

static void room_on_paper(const struct view *v, struct planner_room *room)
{
    const struct planner_request *r = v->request;
    const struct needs *jobs[MOST_JOBS];
    struct needs job = *r->needs;
    uint32_t count = v->jobs < MOST_JOBS ? v->jobs : MOST_JOBS,
             own = v->home_jobs < MOST_JOBS ? v->home_jobs : MOST_JOBS;
    double whole = (double)job.work;
    job.work /= v->width;
    job.hop /= v->width;
    job.job += (uint64_t)(features(v) + dealt_rows(v));
    for (uint32_t i = 0; i < count; i++) jobs[i] = &job;
    room->work = (double)(job.backend + job.work);
    room->buffers = v->ranks > 1 ? (double)needs_at(NULL, 0, jobs, count, 0) - room->work : 0;
    room->block = v->experts * (double)job.block + v->jobs * (double)job.text;
    room->home = (double)job.home + (double)needs_at(jobs, own, NULL, 0, 0) - room->work;
    add_width(v, whole, room);
}

void planner_room_of(const struct planner_request *r, const struct planner_layout *l, uint32_t in_flight,
                     struct planner_room *room)
{
    struct view v = view_of(r, l, in_flight);
    if (r->needs)
        room_on_paper(&v, room);
    else
        room_by_formulas(&v, room);
}
