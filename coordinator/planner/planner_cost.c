/*
 * planner_cost.c - what one layout is worth (planner.h). Pure functions.
 *
 * Everything follows from one block's time: a stage U wide takes 1/U of it and what four all-to-alls add to that; a ring's
 * cycle and the time of one step alone are plan.h's, in those units; a link that every step's bytes must pass bounds the
 * cycle from below. The formulas and where they were published: docs/planner.md.
 */
#include <math.h>
#include <string.h>
#include "coordinator/planner/planner_core.h"
#include "coordinator/planner/planner_load.h"
#include "coordinator/planner/planner_memory.h"

#define UNSTEADY  0.16
#define UNNOTICED 0.01 /* of a job: nobody adds another one for the last hundredth of a rank's time */

double planner_block_flops(const struct planner_model *m, uint32_t tokens)
{
    double h = hidden_of(m), s = tokens, t = m->text_tokens;
    return 8 * s * h * h + 4 * s * s * h + 4 * s * h * h + 4 * t * h * h + 4 * s * t * h + 4 * s * h * m->ffn;
}

uint64_t planner_block_bytes(const struct planner_model *m)
{
    double h = hidden_of(m);
    return (uint64_t)((8 * h * h + 2 * h * m->ffn) * (double)m->parameter_bytes);
}

/* -------------------------------------------------------------------------------------------------- the rings */

/* All chains' times, means over a job's steps: of one job alone, and the busiest rank's, in seconds. */
struct chains {
    bool possible;
    double alone, cycle;
    uint32_t blocks, home_blocks; /* the most of a rank that is no home; of a home */
};

/* Home's own work of a branch-step in block times: `all`: with its part of text and decoding. */
static double home_work(const struct field *f, bool all)
{
    const struct planner_request *r = f->request;
    double steps = steps_of(r) * r->job.branches;
    return (r->machine.ends_seconds + (all ? r->machine.home_seconds / steps : 0)) / f->alone;
}

/* Of ranks that are all alike, what is left for weights. Where homes float, all are stages as well. */
static void seat_all(const struct field *f, const struct planner_room *room, struct plan_seat *seats)
{
    for (uint32_t i = 0; i < f->group; i++) {
        double taken = room->work + (i > 0 || f->layout->floating ? room->buffers : 0);
        double left = (double)f->request->machine.memory_bytes - taken;
        seats[i] = (struct plan_seat){.speed = 1, .make = 1, .memory_bytes = (uint64_t)fmax(1, left)};
    }
}

static enum plan_layout kind_of(const struct planner_layout *l)
{
    if (l->stages[1] > 0) return l->ways > 1 ? PLAN_LAYOUT_CFG_POOLS : PLAN_LAYOUT_POOLS;
    return l->ways > 1 ? PLAN_LAYOUT_CFG : PLAN_LAYOUT_PIPELINE;
}

static struct plan_mix mix_of(const struct field *f, double hop)
{
    const struct planner_request *r = f->request;
    bool pools = f->layout->stages[1] > 0;
    return (struct plan_mix){.branches = r->job.branches,
                             .experts = pools ? 2 : 1,
                             .first_share = pools ? r->job.steps[0] / steps_of(r) : 1,
                             .head = r->load.head,
                             .tail = r->load.tail,
                             .hit_rate = r->load.hit_rate,
                             .hop = hop / f->alone,
                             .exchange = f->exchange / f->alone};
}

/* Seconds of a step. asked: the request, whose mix is changed. */
static void set_pace(const struct field *f, double hop, struct plan_request *asked, const struct plan *plan,
                     struct chains *c)
{
    const struct planner_request *r = f->request;
    double unit = f->alone, steps = steps_of(r);
    double hops = (1 - r->load.hit_rate) * r->job.branches / f->layout->ways;
    bool pools = f->layout->stages[1] > 0;
    c->cycle = plan_cycle(plan, asked) * unit + hops * planner_jam(f, 0);
    if (!r->real) asked->mix.home_work = home_work(f, false);
    for (int e = 0; e <= pools; e++) {
        if (pools) asked->mix.first_share = e == 0;
        double alone = plan_alone(plan, asked) * unit + planner_wide(f, hop, e);
        c->alone += (pools ? r->job.steps[e] / steps : 1) * alone;
    }
}

/* Dealt by plan.h. */
static void lay_chains(const struct field *f, double hop, uint32_t jobs, struct chains *c, struct plan *plan)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    struct plan_seat seats[PLAN_MAX_RANKS];
    struct plan_wish wish = {.home = l->floating ? PLAN_HOME_FLOATING : PLAN_HOME_FIXED,
                             .layout = kind_of(l),
                             .width = l->width,
                             .pool = l->stages[1] > 0 ? l->stages[0] * l->ways * l->width : 0};
    uint32_t homes = l->floating ? f->group : 1;
    struct planner_room room;
    planner_room_of(r, l, jobs, &room);
    if (r->machine.memory_bytes) seat_all(f, &room, seats);
    struct plan_request asked = {.layers = r->model.layers,
                                 .ranks = f->group,
                                 .seats = r->machine.memory_bytes ? seats : NULL,
                                 .mix = mix_of(f, hop),
                                 .wish = &wish,
                                 .heads = r->model.heads,
                                 .block_bytes = (uint64_t)room.block,
                                 .home_bytes = (uint64_t)room.home};
    asked.mix.home_work = home_work(f, true);
    *c = (struct chains){.possible = plan_make(&asked, plan, NULL) == STATUS_OK};
    if (!c->possible) return;
    set_pace(f, hop, &asked, plan, c);
    for (uint32_t i = 0; i < f->group; i++) {
        uint32_t blocks = plan_blocks(plan, i), *most = i < homes ? &c->home_blocks : &c->blocks;
        if (blocks > *most) *most = blocks;
        if (l->floating && blocks > c->blocks) c->blocks = blocks;
    }
}

static void count_memory(const struct field *f, const struct chains *c, struct planner_option *o)
{
    struct planner_room room;
    planner_room_of(f->request, f->layout, o->in_flight, &room);
    double at_home = room.work + (f->layout->floating ? room.buffers : 0) + room.home;
    o->stage_bytes = c->blocks ? (uint64_t)(room.work + room.buffers + c->blocks * room.block) : 0;
    o->memory_bytes = (uint64_t)(at_home + c->home_blocks * room.block);
    if (o->stage_bytes > o->memory_bytes) o->memory_bytes = o->stage_bytes;
    o->fits = f->request->machine.memory_bytes == 0 || o->memory_bytes <= f->request->machine.memory_bytes;
}

/* Jobs that keep a replica busy, but for a hundredth, by Little's law. */
static uint32_t wanted_jobs(const struct chains *c, const struct plan *plan, const struct field *f,
                            double job_alone)
{
    if (f->group == 1) return 1;
    if (f->layout->floating) return plan->jobs_to_saturate;
    double jobs = c->cycle > 0 ? job_alone / (c->cycle * steps_of(f->request)) : 1;
    return jobs > 1 ? (uint32_t)ceil(jobs - UNNOTICED) : 1;
}

/* Where homes float, a home of few jobs is now short of work and now behind, as their hits come; several jobs smooth each
 * other. Fitted to the simulator: docs/planner.md. */
static double unsteady(const struct field *f, double j)
{
    double rate = f->request->load.hit_rate, each = fmax(1, j / f->layout->stages[0]);
    return f->layout->floating ? 1 + UNSTEADY * rate * rate / (each * each * each) : 1;
}

/* Ranks of a node share its memory and its power: how much longer blocks take while, in the mean of a time, so many jobs' steps
 * are computed in it. */
static double crowded(const struct field *f, double jobs, double seconds)
{
    const struct planner_request *r = f->request;
    uint32_t ranks = f->layout->replicas * f->group, node = smaller(ranks, r->machine.per_node);
    double ring = r->model.layers - r->load.head - r->load.tail;
    double blocks = r->job.branches * (r->model.layers - r->load.hit_rate * ring);
    if (r->machine.crowd <= 1 || node < 2 || seconds <= 0) return 1;
    double busy = f->layout->replicas * jobs * blocks * f->alone / seconds / ranks * node;
    return 1 + (r->machine.crowd - 1) * fmin(1, fmax(0, (busy - 1) / (node - 1)));
}

/* j jobs of a replica: the walk of one alone, or the busiest rank, whichever takes longer. */
static double many_seconds(const struct field *f, const struct chains *c, double j, double link)
{
    double steps = steps_of(f->request), cycle = fmax(c->cycle, link) * unsteady(f, j);
    double slower = crowded(f, j, fmax(c->alone, j * cycle));
    return fmax(steps * c->alone * slower + f->request->machine.home_seconds, j * steps * cycle * slower);
}

/* One pool rests while the other works: the busiest rank is busier than a mean one would be by more than a block. */
static bool pools_uneven(const struct field *f, const struct chains *c)
{
    const struct planner_request *r = f->request;
    double ring = r->model.layers - r->load.head - r->load.tail;
    double mean =
        r->job.branches * ((1 - r->load.hit_rate) * ring / (f->layout->ways * stages_of(f->layout)) + 1);
    return f->layout->stages[1] > 0 && c->cycle > mean * f->block;
}

static enum planner_bound find_bound(const struct field *f, const struct chains *c, double link,
                                     uint32_t wanted, const struct planner_option *o)
{
    if (o->in_flight < wanted) return BOUND_MEMORY;
    if (o->ranks * 10 < f->request->machine.ranks * 9) return BOUND_IDLE;
    if (link > c->cycle) return BOUND_LINK;
    if (f->exchange > 0.1 * f->block) return BOUND_EXCHANGE;
    if (f->request->load.jobs < f->layout->replicas * o->saturate) return BOUND_FILL;
    return pools_uneven(f, c) ? BOUND_POOLS : BOUND_COMPUTE;
}

/* As many jobs at once as fill a replica, as there are and as fit, with the blocks dealt so that they do. */
static void lay_for_jobs(const struct field *f, double hop, double jobs, uint32_t most, struct chains *c,
                         struct plan *plan, struct planner_option *o)
{
    o->in_flight = jobs < most ? (uint32_t)jobs : most;
    for (;; o->in_flight--) {
        lay_chains(f, hop, o->in_flight, c, plan);
        if (c->possible) count_memory(f, c, o);
        if ((c->possible && o->fits) || o->in_flight == 1) return;
    }
}

/* What it would take, had the ranks the memory. */
static void predict_roomy(const struct planner_request *r, const struct planner_layout *layout,
                          struct planner_option *o)
{
    struct planner_request roomy = *r;
    roomy.machine.memory_bytes = 0;
    if (r->machine.memory_bytes) planner_predict(&roomy, layout, o, NULL);
    o->fits = false;
}

static uint32_t latents_of(const struct planner_request *r)
{
    uint32_t each = r->model.pixels_per_frame_token;
    return each > 0 && r->job.frames > 0 ? (r->job.frames - 1) / each + 1 : 1;
}

/* Played; false: it is not. slower: than alone, blocks and ends. */
static bool play(const struct field *f, const struct plan *plan, double hop, double slower,
                 const struct planner_option *o, uint32_t jobs, double *seconds)
{
    const struct planner_request *r = f->request;
    bool wide = f->layout->width > 1;
    struct rows rows;
    if (wide) planner_rows(f, &rows);
    const struct planner_play play = {.plan = plan,
                                      .block = f->block * slower,
                                      .hop = hop,
                                      .links = wide ? &rows.links : NULL,
                                      .ends = r->machine.ends_seconds * slower,
                                      .beside = r->machine.home_seconds,
                                      .tokens = r->job.tokens,
                                      .latents = latents_of(r),
                                      .steps = {r->job.steps[0], r->job.steps[1]},
                                      .branches = r->job.branches,
                                      .head = r->load.head,
                                      .tail = r->load.tail,
                                      .hit_rate = r->load.hit_rate};
    return planner_load_seconds(&play, jobs, smaller(jobs, o->in_flight), o->saturate, seconds);
}

/* Until all jobs are done. Those of a group that is there are of any length and have done what they have: of those, as of so many
 * that they are not played, what they would take as a queue. */
static double all_seconds(const struct field *f, const struct chains *c, const struct plan *plan, double hop,
                          double link, double jobs, const struct planner_option *o)
{
    const struct planner_request *r = f->request;
    double n = fmin(jobs, o->in_flight), home = r->machine.home_seconds, seconds;
    double slower = crowded(f, n, fmax(c->alone, n * fmax(c->cycle, link)));
    if (r->real || jobs < 2 || !play(f, plan, hop, slower, o, (uint32_t)jobs, &seconds))
        return home + (o->loaded_seconds - home) * fmax(1, jobs / n);
    return fmax(seconds, jobs * steps_of(r) * link * slower);
}

static double most_of(const double *bytes, uint32_t count)
{
    double most = 0;
    for (uint32_t i = 0; i < count; i++) most = fmax(most, bytes[i]);
    return most;
}

static void predict_times(const struct field *f, const struct chains *c, const struct plan *ring, double hop,
                          double link, double jobs, uint32_t most, struct planner_option *o)
{
    const struct planner_request *r = f->request;
    double steps = steps_of(r), home = r->machine.home_seconds, n = fmin(jobs, o->in_flight);
    double cycle = fmax(c->cycle, link);
    double per_job = steps * cycle * crowded(f, 1, cycle);
    o->job_seconds = many_seconds(f, c, 1, link);
    o->step_seconds = (o->job_seconds - home) / steps;
    o->loaded_seconds = many_seconds(f, c, n, link);
    o->all_seconds = all_seconds(f, c, ring, hop, link, jobs, o);
    o->jobs_per_hour = f->layout->replicas * 3600 / fmax(per_job, o->job_seconds / (n < jobs ? n : most));
    o->busy = fmin(1, jobs * per_job * c->cycle / cycle / o->all_seconds);
}

/* How many jobs there are at once, and what that brings. */
static void predict(const struct field *f, struct chains *c, struct plan *ring, double hop,
                    const struct traffic *traffic, struct planner_option *o)
{
    const struct planner_request *r = f->request;
    double jobs = ceil((double)r->load.jobs / f->layout->replicas);
    if (r->real && r->load.unequal_jobs > 0) jobs = r->load.unequal_jobs;
    o->node_bytes = most_of(traffic->node, PLANNER_MAX_RANKS);
    o->hop_bytes = traffic->hops;
    o->exchange_bytes = traffic->exchanges;
    double link = fmax(o->node_bytes / r->machine.between,
                       most_of(traffic->rank, PLANNER_MAX_RANKS) / r->machine.inside);
    o->saturate = wanted_jobs(c, ring, f, many_seconds(f, c, 1, link));
    uint32_t most = f->group == 1 ? 1 : o->saturate + 1;
    if (r->real)
        o->in_flight = jobs < most ? (uint32_t)ceil(jobs) : most;
    else
        lay_for_jobs(f, hop, jobs, most, c, ring, o);
    predict_times(f, c, ring, hop, link, jobs, most, o);
    o->bound = find_bound(f, c, link, jobs < o->saturate ? (uint32_t)jobs : o->saturate, o);
}

void planner_predict(const struct planner_request *r, const struct planner_layout *layout,
                     struct planner_option *o, struct plan *plan)
{
    struct field f;
    struct traffic traffic;
    struct chains c;
    struct plan ring;
    planner_field(r, layout, &f);
    planner_count(&f, &traffic);
    double hop = planner_hop(&f, &traffic);
    *o = (struct planner_option){.layout = *layout, .ranks = layout->replicas * f.group};
    lay_chains(&f, hop, 1, &c, &ring);
    o->possible = c.possible;
    if (!c.possible) {
        predict_roomy(r, layout, o);
        return;
    }
    planner_count_detours(&f, &ring, &traffic);
    predict(&f, &c, &ring, hop, &traffic, o);
    if (plan) *plan = ring;
}

/* --------------------------------------------------------------------------------------------- plans that are there */

/* Ranks that have blocks of an expert's chains, as stages of one. */
static uint32_t stages_in(const struct plan *plan, uint32_t expert)
{
    uint32_t ranks = 0, width = plan_width(plan),
             ways = plan->chain[expert][0] != plan->chain[expert][1] ? PLAN_BRANCHES : 1;
    for (uint32_t i = 0; i < plan->ranks; i++)
        ranks += i == 0 || plan_run(plan, plan->chain[expert][0], i) > 0 ||
                 plan_run(plan, plan->chain[expert][1], i) > 0;
    return (ranks + ways * width - 1) / (ways * width);
}

static struct planner_layout layout_of(const struct plan *plan)
{
    bool pools = plan->chain[0][0] != plan->chain[1][0];
    return (struct planner_layout){.replicas = 1,
                                   .ways = plan->chain[0][0] != plan->chain[0][1] ? PLAN_BRANCHES : 1,
                                   .width = plan_width(plan),
                                   .stages = {stages_in(plan, 0), pools ? stages_in(plan, 1) : 0},
                                   .floating = plan->floating};
}

void planner_rate(const struct planner_request *r, const struct plan *plan, struct planner_option *o)
{
    struct field f;
    struct traffic traffic;
    struct plan ring = *plan;
    struct planner_layout layout = layout_of(plan);
    struct plan_request asked = *r->real;
    planner_field(r, &layout, &f);
    f.group = plan->ranks;
    planner_count(&f, &traffic);
    asked.mix.hop = planner_hop(&f, &traffic) / f.alone;
    asked.mix.exchange = f.exchange / f.alone;
    struct chains c = {.possible = true};
    set_pace(&f, asked.mix.hop * f.alone, &asked, plan, &c);
    *o = (struct planner_option){.layout = layout, .ranks = plan->ranks};
    o->possible = o->fits = plan_cycle(plan, &asked) > 0 && plan_alone(plan, &asked) > 0;
    if (o->possible) predict(&f, &c, &ring, 0, &traffic, o);
}
