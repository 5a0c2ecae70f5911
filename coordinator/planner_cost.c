/*
 * planner_cost.c - what one layout is worth (planner.h). Pure functions.
 *
 * Everything follows from one block's time: a stage U wide takes 1/U of it and the exchange of four all-to-alls; a ring's
 * cycle and the time of one step alone are plan.h's, in those units; a link that every step's bytes must pass bounds the
 * cycle from below. The formulas and where they were published: docs/planner.md.
 */
#include <math.h>
#include <string.h>
#include "coordinator/planner.h"

/* The worker's own sizes, as `refrain-worker --plan-memory` counts them (docs/gpu.md), for the hidden state in float32. */
enum {
    STATE_BYTES = 4,
    JOB_STATES = 1,   /* hidden states kept at home, per branch */
    STAGE_STATES = 4, /* a stage's buffers and what lands, of whole hops */
    CACHE_STATES = 4, /* what a policy keeps per branch: a residual, its history and the probe's */
    KEYS_VALUES = 2,  /* of the text, per branch and block */
};

#define UNSTEADY 0.16

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static double hidden_of(const struct planner_model *m)
{
    return (double)m->heads * m->head_dim;
}

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

/* ------------------------------------------------------------------------------------------------- one stage */

/* A layout on this machine, made complete. */
struct field {
    const struct planner_request *request;
    const struct planner_layout *layout;
    uint32_t group;     /* ranks of a replica */
    uint32_t rows;      /* tokens of one of a stage's ranks, at most */
    double state_bytes; /* of a whole hidden state on the wire */
    double alone;       /* seconds of a block on one rank */
    double block;       /* ... and on a stage: computing and exchange */
    double exchange;    /* of that */
};

/* Bytes that leave the busiest node in one exchange of a stage whose ranks are [first, first + width). */
static double leaving(const struct field *f, uint32_t first)
{
    uint32_t width = f->layout->width, per_node = f->request->machine.per_node;
    double most = 0, bytes = 4 * (double)f->request->job.tokens * hidden_of(&f->request->model) *
                             f->request->machine.operand_bytes;
    for (uint32_t at = first; at < first + width;) {
        uint32_t end = smaller(first + width, (at / per_node + 1) * per_node);
        double here = (double)(end - at) / width;
        most = fmax(most, bytes * here * (1 - here));
        at = end;
    }
    return most;
}

/* Four all-to-alls of a block: each rank sends (U - 1)/U of its 1/U; a node what its ranks send to others. */
static double exchange_seconds(const struct field *f, uint32_t first)
{
    const struct planner_machine *m = &f->request->machine;
    double u = f->layout->width;
    if (u < 2) return 0;
    double bytes = 4 * (double)f->request->job.tokens * hidden_of(&f->request->model) * m->operand_bytes;
    return fmax(bytes * (u - 1) / (u * u) / m->inside, leaving(f, first) / m->between) + 4 * m->latency;
}

static double block_seconds(const struct planner_request *r)
{
    return r->machine.block_seconds > 0 ? r->machine.block_seconds
                                        : planner_block_flops(&r->model, r->job.tokens) / r->machine.flops;
}

static uint32_t stages_of(const struct planner_layout *layout)
{
    return layout->stages[0] + layout->stages[1];
}

static double steps_of(const struct planner_request *r)
{
    return (double)r->job.steps[0] + r->job.steps[1];
}

static void make_field(const struct planner_request *r, const struct planner_layout *layout, struct field *f)
{
    *f = (struct field){
        .request = r, .layout = layout, .group = layout->ways * stages_of(layout) * layout->width};
    f->rows = (r->job.tokens + layout->width - 1) / layout->width;
    f->state_bytes = (double)r->job.tokens * hidden_of(&r->model) * r->machine.state_bytes;
    for (uint32_t first = 0; first < f->group; first += layout->width)
        f->exchange = fmax(f->exchange, exchange_seconds(f, first));
    f->alone = block_seconds(r);
    f->block = f->alone * f->rows / r->job.tokens + f->exchange;
}

double planner_exchange(const struct planner_request *r, uint32_t width, uint32_t count)
{
    struct field f;
    make_field(r, &(struct planner_layout){.ways = 1, .stages = {count / width, 0}, .width = width}, &f);
    return f.exchange;
}

/* -------------------------------------------------------------------------------------------------- the links */

/* What a step of one job in every replica sends: on all links, and out of each node. */
struct traffic {
    double hops, exchanges;
    double node[PLANNER_MAX_RANKS]; /* bytes out of each node */
    double rank;                    /* out of the busiest rank, inside its node */
    double between, count;          /* hops between nodes, and all of a ring */
};

static void send(const struct field *f, struct traffic *t, uint32_t from, uint32_t to, double bytes)
{
    uint32_t per_node = f->request->machine.per_node, width = f->layout->width;
    t->count++;
    if (from / per_node != to / per_node) t->between++;
    for (uint32_t u = 0; u < width; u++) {
        uint32_t a = (from + u) / per_node, b = (to + u) / per_node;
        if (a != b) t->node[a] += bytes / width;
    }
    t->rank = fmax(t->rank, bytes / width);
}

/* A chain's hops: from home, or to it, and on. first: its first rank; own: home is its first stage. */
static void send_around(const struct field *f, struct traffic *t, uint32_t home, uint32_t first,
                        uint32_t stages, bool own, double bytes)
{
    uint32_t width = f->layout->width;
    if (own && stages == 1) return;
    if (!own) send(f, t, home, first, bytes);
    for (uint32_t s = 0; s + 1 < stages; s++) send(f, t, first + s * width, first + (s + 1) * width, bytes);
    send(f, t, first + (stages - 1) * width, home, bytes);
    t->hops += bytes * (stages + !own);
}

static void exchange_all(const struct field *f, struct traffic *t, uint32_t first, uint32_t stages,
                         double times)
{
    const struct planner_machine *m = &f->request->machine;
    uint32_t width = f->layout->width;
    double u = width,
           bytes = 4 * (double)f->request->job.tokens * hidden_of(&f->request->model) * m->operand_bytes;
    if (width < 2) return;
    t->exchanges += times * bytes * (u - 1) / u;
    for (uint32_t s = 0; s < stages; s++)
        for (uint32_t at = first + s * width, stop = at + width, begin = at; at < stop;) {
            uint32_t end = smaller(stop, (at / m->per_node + 1) * m->per_node);
            double here = (double)(end - at) / (stop - begin);
            t->node[at / m->per_node] += times / stages * bytes * here * (1 - here);
            at = end;
        }
}

/* All replicas' chains, each branch-step with the odds of a miss. */
static void count_traffic(const struct field *f, struct traffic *t)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    double miss = 1 - r->load.hit_rate, each = miss * r->job.branches / l->ways;
    double total = (double)r->job.steps[0] + r->job.steps[1];
    uint32_t pools = l->stages[1] > 0 ? 2 : 1;
    double ring = r->model.layers - r->load.head - r->load.tail;
    memset(t, 0, sizeof *t);
    for (uint32_t d = 0; d < l->replicas; d++)
        for (uint32_t e = 0; e < pools; e++)
            for (uint32_t w = 0; w < l->ways; w++) {
                uint32_t home = d * f->group,
                         first = home + (l->ways * (e ? l->stages[0] : 0) + w * l->stages[e]) * l->width;
                double share = pools == 2 ? r->job.steps[e] / total : 1, stages = l->stages[e];
                /* Where homes float a job's home is anywhere on the ring. */
                double more = l->floating ? (stages - 1) * (1 + 2 / stages) / fmax(1, stages) : 1;
                send_around(f, t, home, first, l->stages[e], e == 0 && w == 0,
                            each * share * more * f->state_bytes);
                exchange_all(f, t, first, l->stages[e], each * share * ring);
            }
    t->hops /= l->replicas;
    t->exchanges /= l->replicas;
}

static double busiest_node(const struct traffic *t)
{
    double most = 0;
    for (uint32_t i = 0; i < PLANNER_MAX_RANKS; i++) most = fmax(most, t->node[i]);
    return most;
}

/* A hop, on the mean over the ring's links. */
static double hop_seconds(const struct field *f, const struct traffic *t)
{
    const struct planner_machine *m = &f->request->machine;
    double far = t->count > 0 ? t->between / t->count : 0, width = f->layout->width;
    double inside = f->state_bytes / width / m->inside, between = f->state_bytes / m->between;
    return far * between + (1 - far) * inside + m->latency;
}

/* --------------------------------------------------------------------------------------------------- memory */

/* What a rank of a stage needs beside weights of blocks. */
static double work_bytes(const struct field *f)
{
    const struct planner_model *m = &f->request->model;
    return (double)f->rows * (m->ffn + 2.5 * hidden_of(m)) * f->request->machine.operand_bytes;
}

static double buffer_bytes(const struct field *f)
{
    return f->group > f->layout->width
               ? STAGE_STATES * (double)f->rows * hidden_of(&f->request->model) * STATE_BYTES
               : 0;
}

/* One job at its home: a state of each branch, and what its policy keeps. */
static double job_bytes(const struct field *f)
{
    const struct planner_request *r = f->request;
    double states = JOB_STATES + (r->load.hit_rate > 0 ? CACHE_STATES : 0);
    return r->job.branches * states * (double)f->rows * hidden_of(&r->model) * STATE_BYTES;
}

/* Keys and values of the text, of one job in one block. */
static double text_bytes(const struct field *f)
{
    const struct planner_request *r = f->request;
    return (double)r->job.branches * KEYS_VALUES * r->model.text_tokens * hidden_of(&r->model) *
           r->machine.operand_bytes;
}

static double decode_bytes(const struct planner_request *r)
{
    return (double)r->model.decode_bytes * r->job.width * r->job.height;
}

/* Of a block: weights of the experts that are held, and the text of all jobs in flight. */
static double held_bytes(const struct field *f, uint32_t jobs)
{
    uint32_t experts = f->layout->stages[1] > 0 ? 1 : f->request->model.experts;
    return experts * (double)planner_block_bytes(&f->request->model) + jobs * text_bytes(f);
}

static double home_bytes(const struct field *f, uint32_t jobs)
{
    return (double)f->request->model.home_bytes + decode_bytes(f->request) + jobs * job_bytes(f);
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

static void seat_all(struct plan_seat *seats, uint32_t count, double bytes)
{
    for (uint32_t i = 0; i < count; i++)
        seats[i] = (struct plan_seat){.speed = 1, .make = 1, .memory_bytes = (uint64_t)fmax(1, bytes)};
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
    double memory = (double)r->machine.memory_bytes - work_bytes(f) - buffer_bytes(f);
    if (r->machine.memory_bytes) seat_all(seats, f->group, memory);
    struct plan_request asked = {.layers = r->model.layers,
                                 .ranks = f->group,
                                 .seats = r->machine.memory_bytes ? seats : NULL,
                                 .mix = mix_of(f, hop),
                                 .wish = &wish,
                                 .heads = r->model.heads,
                                 .block_bytes = (uint64_t)held_bytes(f, jobs),
                                 .home_bytes = (uint64_t)home_bytes(f, (jobs + homes - 1) / homes)};
    asked.mix.home_work = home_work(f, true);
    *c = (struct chains){.possible = plan_make(&asked, plan, NULL) == STATUS_OK};
    if (!c->possible) return;
    c->cycle = plan->cycle * f->alone;
    asked.mix.home_work = home_work(f, false);
    c->alone = plan_alone(plan, &asked) * f->alone;
    for (uint32_t i = 0; i < f->group; i++) {
        uint32_t blocks = plan_blocks(plan, i), *most = i < homes ? &c->home_blocks : &c->blocks;
        if (blocks > *most) *most = blocks;
        if (l->floating && blocks > c->blocks) c->blocks = blocks;
    }
}

static void count_memory(const struct field *f, const struct chains *c, struct planner_option *o)
{
    double beside = work_bytes(f) + buffer_bytes(f), block = held_bytes(f, o->in_flight);
    uint32_t homes = f->layout->floating ? f->layout->stages[0] : 1;
    o->stage_bytes = c->blocks ? (uint64_t)(beside + c->blocks * block) : 0;
    o->memory_bytes =
        (uint64_t)(beside + c->home_blocks * block + home_bytes(f, (o->in_flight + homes - 1) / homes));
    if (o->stage_bytes > o->memory_bytes) o->memory_bytes = o->stage_bytes;
    o->fits = f->request->machine.memory_bytes == 0 || o->memory_bytes <= f->request->machine.memory_bytes;
}

/* Jobs that keep a replica busy, by Little's law. */
static uint32_t wanted_jobs(const struct chains *c, const struct plan *plan, const struct field *f,
                            double job_alone)
{
    if (f->group == 1) return 1;
    if (f->layout->floating) return plan->jobs_to_saturate;
    double jobs = c->cycle > 0 ? job_alone / (c->cycle * steps_of(f->request)) : 1;
    return jobs > 1 ? (uint32_t)ceil(jobs - 1e-9) : 1;
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

static void predict_times(const struct field *f, const struct chains *c, double link, double jobs,
                          uint32_t most, struct planner_option *o)
{
    const struct planner_request *r = f->request;
    double steps = steps_of(r), home = r->machine.home_seconds, n = fmin(jobs, o->in_flight);
    double cycle = fmax(c->cycle, link), per_job = steps * cycle * crowded(f, 1, cycle);
    o->job_seconds = many_seconds(f, c, 1, link);
    o->step_seconds = (o->job_seconds - home) / steps;
    o->loaded_seconds = many_seconds(f, c, n, link);
    o->all_seconds = home + (o->loaded_seconds - home) * fmax(1, jobs / n);
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
    o->node_bytes = busiest_node(traffic);
    o->hop_bytes = traffic->hops;
    o->exchange_bytes = traffic->exchanges;
    double link = fmax(o->node_bytes / r->machine.between, traffic->rank / r->machine.inside);
    o->saturate = wanted_jobs(c, ring, f, many_seconds(f, c, 1, link));
    uint32_t most = f->group == 1 ? 1 : o->saturate + 1;
    if (r->real)
        o->in_flight = jobs < most ? (uint32_t)ceil(jobs) : most;
    else
        lay_for_jobs(f, hop, jobs, most, c, ring, o);
    predict_times(f, c, link, jobs, most, o);
    o->bound = find_bound(f, c, link, jobs < o->saturate ? (uint32_t)jobs : o->saturate, o);
}

void planner_predict(const struct planner_request *r, const struct planner_layout *layout,
                     struct planner_option *o, struct plan *plan)
{
    struct field f;
    struct traffic traffic;
    struct chains c;
    struct plan ring;
    make_field(r, layout, &f);
    count_traffic(&f, &traffic);
    double hop = hop_seconds(&f, &traffic);
    *o = (struct planner_option){.layout = *layout, .ranks = layout->replicas * f.group};
    lay_chains(&f, hop, 1, &c, &ring);
    o->possible = c.possible;
    if (!c.possible) {
        predict_roomy(r, layout, o);
        return;
    }
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
    make_field(r, &layout, &f);
    f.group = plan->ranks;
    count_traffic(&f, &traffic);
    asked.mix.hop = hop_seconds(&f, &traffic) / f.alone;
    asked.mix.exchange = f.exchange / f.alone;
    struct chains c = {.possible = true,
                       .cycle = plan_cycle(plan, &asked) * f.alone,
                       .alone = plan_alone(plan, &asked) * f.alone};
    *o = (struct planner_option){.layout = layout, .ranks = plan->ranks};
    o->possible = o->fits = c.cycle > 0 && c.alone > 0;
    if (o->possible) predict(&f, &c, &ring, 0, &traffic, o);
}
