/*
 * planner_cost.c - what one layout is worth (planner.h). Pure functions.
 *
 * Everything follows from one block's time: a stage U wide takes 1/U of it and what four all-to-alls add to that; a ring's
 * cycle and the time of one step alone are plan.h's, in those units; a link that every step's bytes must pass bounds the
 * cycle from below. The formulas and where they were published: docs/planner.md.
 */
#include <math.h>
#include <string.h>
#include "coordinator/planner/planner.h"
#include "coordinator/planner/planner_load.h"
#include "coordinator/planner/planner_memory.h"
#include "worker/ulysses.h"

#define UNSTEADY  0.16
#define UNNOTICED 0.01 /* of a job: nobody adds another one for the last hundredth of a rank's time */

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
    double exchange;    /* of that, what is not hidden behind computing */
};

/* What a block's four all-to-alls carry, all ranks together. */
static double exchanged_bytes(const struct field *f)
{
    return 4 * (double)f->request->job.tokens * hidden_of(&f->request->model) *
           f->request->machine.operand_bytes;
}

/* Of a rank's heads, in the g-th group. */
static double group_share(uint32_t heads, uint32_t groups, uint32_t g)
{
    return (double)(heads * (g + 1) / groups - heads * g / groups) / heads;
}

/* Where a stage's ranks [at, ...) leave a node. */
static uint32_t end_in_node(const struct field *f, uint32_t at, uint32_t stage_end)
{
    uint32_t per_node = f->request->machine.per_node;
    return smaller(stage_end, (at / per_node + 1) * per_node);
}

/* Of a node's messages in an exchange, the part that others of the stage do not wait for: `there` ranks get the last of theirs one
 * after the other, and give back what they attended to one after the other, over a link that they share. */
static double staggered(double here, double there)
{
    return here > 1 && there > 0 ? (there - 1) / (4 * here * there) : 0;
}

/* That the links carry the four all-to-alls of a block of a stage whose ranks are [first, first + width): each rank gives 1/U of its
 * 1/U to each of the others, those of its node over its own link, the rest over its node's. */
static double carry_seconds(const struct field *f, uint32_t first)
{
    const struct planner_machine *m = &f->request->machine;
    double u = f->layout->width, bytes = exchanged_bytes(f), near = 0, far = 0;
    for (uint32_t at = first, end; at < first + f->layout->width; at = end) {
        end = end_in_node(f, at, first + f->layout->width);
        double here = end - at;
        near = fmax(near, bytes * (here - 1) / (u * u));
        far = fmax(far, bytes * here / u * (1 - here / u) * (1 - staggered(here, u - here)));
    }
    return fmax(near / m->inside, far / m->between);
}

/* So many operations of a block on one of a stage's ranks. */
static double computed_seconds(const struct field *f, double operations)
{
    const struct planner_job *job = &f->request->job;
    return operations / planner_block_flops(&f->request->model, job->tokens) * f->alone * f->rows /
           job->tokens;
}

/* v, q or k of a block. */
static double product_seconds(const struct field *f)
{
    double h = hidden_of(&f->request->model);
    return computed_seconds(f, 2 * f->request->job.tokens * h * h);
}

/* What these cost beside computing, as worker/ulysses.h hides them: v, q and k each leave when their product is done, behind each
 * other on the link; k and what was attended to in two groups of heads where there are two, and a group is attended for
 * when its k is there. */
static double exchange_seconds(const struct field *f, uint32_t first)
{
    const struct planner_request *r = f->request;
    double s = r->job.tokens, latency = r->machine.latency;
    if (f->layout->width < 2) return 0;
    double product = product_seconds(f), attention = computed_seconds(f, 4 * s * s * hidden_of(&r->model));
    double each = carry_seconds(f, first) / 4, now = product, link = 0, come[ULYSSES_GROUPS];
    uint32_t heads = r->model.heads / f->layout->width, groups = heads < ULYSSES_GROUPS ? 1 : ULYSSES_GROUPS;
    for (int i = 0; i < 2; i++, now += product) link = fmax(link, now) + each;
    for (uint32_t g = 0; g < groups; g++) {
        link = fmax(link, now) + each * group_share(heads, groups, g);
        come[g] = link + latency;
    }
    for (uint32_t g = 0; g < groups; g++) {
        now = fmax(now, come[g]) + attention * group_share(heads, groups, g);
        link = fmax(link, now) + each * group_share(heads, groups, g);
    }
    return fmax(now, link + latency) - 3 * product - attention;
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
    f->alone = block_seconds(r);
    for (uint32_t first = 0; first < layout->replicas * f->group; first += layout->width)
        f->exchange = fmax(f->exchange, exchange_seconds(f, first));
    f->block = f->alone * f->rows / r->job.tokens + f->exchange;
}

double planner_exchange(const struct planner_request *r, uint32_t width, uint32_t count)
{
    struct field f;
    make_field(
        r, &(struct planner_layout){.replicas = 1, .ways = 1, .stages = {count / width, 0}, .width = width},
        &f);
    return f.exchange;
}

/* -------------------------------------------------------------------------------------------------- the links */

/* What a step of one job in every replica sends: on all links, and out of each node. */
struct traffic {
    double hops, exchanges;
    double node[PLANNER_MAX_RANKS],
        rank[PLANNER_MAX_RANKS]; /* bytes out of each node, and of each rank inside its node */
    double between,
        count; /* of a way: hops between nodes, and all from stage to stage or, where they are one rank wide, of a ring */
    double
        far; /* the share that the former have of the latter, of the way of any replica that has most: branches are done
                   with the slower of their ways, and a load with the slowest replica */
};

static void send_bytes(const struct field *f, struct traffic *t, uint32_t from, uint32_t to, double bytes)
{
    uint32_t per_node = f->request->machine.per_node;
    if (from / per_node != to / per_node)
        t->node[from / per_node] += bytes;
    else
        t->rank[from] += bytes;
}

/* From stage to stage, each rank to the one with the same rows. */
static void send(const struct field *f, struct traffic *t, uint32_t from, uint32_t to, double bytes)
{
    uint32_t per_node = f->request->machine.per_node, width = f->layout->width;
    t->count++;
    if (from / per_node != to / per_node) t->between++;
    for (uint32_t u = 0; u < width; u++) send_bytes(f, t, from + u, to + u, bytes / width);
}

/* A chain's hops: from home, or to it, and on. first: its first rank; own: home is of its first stage. A wide stage's ranks get
 * their rows from home and give them back to it, but for its own. */
static void send_around(const struct field *f, struct traffic *t, uint32_t home, uint32_t first,
                        uint32_t stages, bool own, double bytes)
{
    uint32_t width = f->layout->width, last = first + (stages - 1) * width;
    double kept = own ? bytes / width : 0, back = stages == 1 ? bytes - kept : bytes;
    for (uint32_t s = 0; s + 1 < stages; s++) send(f, t, first + s * width, first + (s + 1) * width, bytes);
    for (uint32_t u = 0; u < width; u++) {
        if (first + u != home) send_bytes(f, t, home, first + u, bytes / width);
        if (last + u != home) send_bytes(f, t, last + u, home, bytes / width);
    }
    uint32_t per_node = f->request->machine.per_node;
    if (width == 1) { /* those of wide stages are no hops like the others */
        t->count += (bytes > kept) + (back > 0);
        t->between += (bytes > kept && home / per_node != first / per_node) +
                      (back > 0 && home / per_node != last / per_node);
    }
    t->hops += bytes * (stages - 1) + (bytes - kept) + back;
}

/* A wide stage's ranks hold the blocks that every step runs as well: home sends them its rows for these alone, and gets them
 * back. own: home is one of them. */
static void send_trip(const struct field *f, struct traffic *t, uint32_t home, uint32_t first, bool own,
                      double bytes)
{
    uint32_t width = f->layout->width;
    for (uint32_t at = first; at < first + width; at++) {
        if (at == home) continue;
        send_bytes(f, t, home, at, bytes / width);
        send_bytes(f, t, at, home, bytes / width);
    }
    t->hops += 2 * (bytes - (own ? bytes / width : 0));
}

static void send_trips(const struct field *f, struct traffic *t, uint32_t home, uint32_t first,
                       uint32_t stages, bool own, double bytes)
{
    const struct planner_load *load = &f->request->load;
    if (f->layout->width < 2 || load->hit_rate <= 0) return;
    if (load->head > 0) send_trip(f, t, home, first, own, bytes);
    if (load->tail > 0)
        send_trip(f, t, home, first + (stages - 1) * f->layout->width, own && stages == 1, bytes);
}

static void exchange_all(const struct field *f, struct traffic *t, uint32_t first, uint32_t stages,
                         double times)
{
    uint32_t width = f->layout->width;
    double u = width, bytes = exchanged_bytes(f);
    if (width < 2) return;
    t->exchanges += times * bytes * (u - 1) / u;
    for (uint32_t s = 0; s < stages; s++)
        for (uint32_t at = first + s * width, stop = at + width, begin = at, end; at < stop; at = end) {
            end = end_in_node(f, at, stop);
            double here = (double)(end - at) / (stop - begin);
            t->node[at / f->request->machine.per_node] += times / stages * bytes * here * (1 - here);
            for (uint32_t i = at; i < end; i++)
                t->rank[i] += times / stages * bytes * (end - at - 1) / (u * u);
        }
}

/* All replicas' chains, each branch-step with the odds of a miss, but for what is sent for the blocks that hits run too. */
static void count_traffic(const struct field *f, struct traffic *t)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    double hit = r->load.hit_rate, branches = (double)r->job.branches / l->ways, each = (1 - hit) * branches;
    double total = (double)r->job.steps[0] + r->job.steps[1];
    uint32_t pools = l->stages[1] > 0 ? 2 : 1;
    double ring = r->model.layers - r->load.head - r->load.tail, computed = r->model.layers - hit * ring;
    memset(t, 0, sizeof *t);
    for (uint32_t d = 0; d < l->replicas; d++)
        for (uint32_t w = 0; w < l->ways; w++) {
            t->between = t->count = 0;
            for (uint32_t e = 0; e < pools; e++) {
                uint32_t home = d * f->group,
                         first = home + (l->ways * (e ? l->stages[0] : 0) + w * l->stages[e]) * l->width;
                double share = pools == 2 ? r->job.steps[e] / total : 1, stages = l->stages[e];
                /* Where homes float a job's home is anywhere on the ring. */
                double more = l->floating ? (stages - 1) * (1 + 2 / stages) / fmax(1, stages) : 1;
                bool own = e == 0 && w == 0;
                send_around(f, t, home, first, l->stages[e], own, each * share * more * f->state_bytes);
                send_trips(f, t, home, first, l->stages[e], own, branches * share * f->state_bytes);
                exchange_all(f, t, first, l->stages[e], branches * share * computed);
            }
            if (t->count > 0) t->far = fmax(t->far, t->between / t->count);
        }
    t->hops /= l->replicas;
    t->exchanges /= l->replicas;
}

/* The same of stages one rank wide, where home does not hold all of those blocks: to the next rank, and to the last one. */
static void send_detours(const struct field *f, const struct plan *plan, struct traffic *t)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    double hops = t->hops, bytes = r->job.branches * f->state_bytes;
    if (l->width > 1 || plan->floating || r->load.hit_rate <= 0) return;
    bool next = r->load.head > plan->head + plan_run(plan, 0, 0),
         last = r->load.tail > plan->tail && plan->ranks > 1;
    for (uint32_t home = 0; home < l->replicas * f->group; home += f->group) {
        if (next) send_trip(f, t, home, home + 1, false, bytes);
        if (last) send_trip(f, t, home, home + l->stages[0] - 1, false, bytes);
    }
    t->hops = hops + (t->hops - hops) / l->replicas;
}

static double most_of(const double *bytes, uint32_t count)
{
    double most = 0;
    for (uint32_t i = 0; i < count; i++) most = fmax(most, bytes[i]);
    return most;
}

/* A hop, on the mean over the links of a way. */
static double hop_seconds(const struct field *f, const struct traffic *t)
{
    const struct planner_machine *m = &f->request->machine;
    double far = t->far, width = f->layout->width;
    double inside = f->state_bytes / width / m->inside, between = f->state_bytes / m->between;
    return far * between + (1 - far) * inside + m->latency;
}

/* Seconds for the rows that home sends to the ranks of a stage, over its one link to its node and its node's to the others. */
static struct crew_way deal_from(const struct field *f, uint32_t home, uint32_t first)
{
    const struct planner_machine *m = &f->request->machine;
    double each = f->state_bytes / f->layout->width, near = 0, far = 0;
    for (uint32_t at = first; at < first + f->layout->width; at++)
        *(at / m->per_node == home / m->per_node ? &near : &far) += at == home ? 0 : each;
    return (struct crew_way){near / m->inside, far / m->between};
}

/* And for those that come back: each rank's over its own link, but a node's over its one. */
static struct crew_way collect_at(const struct field *f, uint32_t home, uint32_t first)
{
    const struct planner_machine *m = &f->request->machine;
    double each = f->state_bytes / f->layout->width, near = 0, most = 0;
    for (uint32_t at = first, end; at < first + f->layout->width; at = end) {
        end = end_in_node(f, at, first + f->layout->width);
        if (at / m->per_node != home / m->per_node)
            most = fmax(most, (end - at) * each);
        else if (end - at > (at <= home && home < end))
            near = each;
    }
    return (struct crew_way){near / m->inside, most / m->between};
}

/* From a stage to the next, each rank to the one that has the same rows. */
static struct crew_way on_from(const struct field *f, uint32_t home, uint32_t first)
{
    const struct planner_machine *m = &f->request->machine;
    double each = f->state_bytes / f->layout->width, most = 0;
    uint32_t stop = first + f->layout->width, crossing = 0;
    for (uint32_t at = first, end; at < stop; at = end) {
        uint32_t far = 0;
        end = end_in_node(f, at, stop);
        for (uint32_t u = at; u < end; u++) far += u / m->per_node != (u + f->layout->width) / m->per_node;
        most = fmax(most, far * each);
        crossing += far;
    }
    return (struct crew_way){crossing < f->layout->width ? each / m->inside : 0, most / m->between};
}

/* One of these in the replica that takes longest for it; first: the stage's, counted from home. */
static struct crew_way slowest(const struct field *f, uint32_t first,
                               struct crew_way (*way)(const struct field *, uint32_t home, uint32_t first))
{
    struct crew_way most = {0};
    for (uint32_t home = 0; home < f->layout->replicas * f->group; home += f->group) {
        struct crew_way one = way(f, home, home + first);
        most = (struct crew_way){fmax(most.near, one.near), fmax(most.far, one.far)};
    }
    return most;
}

static double deal_seconds(const struct field *f, uint32_t first)
{
    struct crew_way way = slowest(f, first, deal_from);
    return fmax(way.near, way.far);
}

static double collect_seconds(const struct field *f, uint32_t first)
{
    struct crew_way way = slowest(f, first, collect_at);
    return fmax(way.near, way.far);
}

/* Seconds that the stages behind the first of a chain wait to be told which hop is next: two members do not, as the one that is told
 * catches up, and rows that come over a node's link come one after the other anyway. */
static double turns_seconds(const struct field *f, uint32_t first, uint32_t stages)
{
    const struct planner_machine *m = &f->request->machine;
    double spread = f->state_bytes * (1 - 1.0 / f->layout->width) / m->between, sum = 0;
    for (uint32_t at = first; at + f->layout->width < first + stages * f->layout->width;
         at += f->layout->width)
        sum += fmax(0, m->latency - (at / m->per_node != (at + f->layout->width) / m->per_node ? spread : 0));
    return f->layout->width > 2 ? sum : 0;
}

/* Seconds that a chain's slowest link takes for a hop. */
static double link_seconds(const struct field *f, uint32_t first, uint32_t stages)
{
    const struct planner_machine *m = &f->request->machine;
    uint32_t width = f->layout->width;
    double most = f->state_bytes / width / m->inside;
    for (uint32_t at = first; at + width < first + stages * width; at += width)
        if (at / m->per_node != (at + width) / m->per_node) most = fmax(most, f->state_bytes / m->between);
    return most;
}

/* What dealing rows to wide stages and collecting them adds to the hops that plan.h counts for a step of one job alone, in the
 * chains of an expert: home's link takes them one after the other, for all chains, and a stage without home waits once
 * more to be told which hop is next, as do the stages behind it where more than two are told. */
static double ends_seconds(const struct field *f, double hop, int expert)
{
    const struct planner_layout *l = f->layout;
    double latency = f->request->machine.latency;
    uint32_t first = expert ? l->ways * l->stages[0] * l->width : 0, chain = l->stages[expert] * l->width;
    bool remote = expert > 0 || l->ways > 1;
    if (l->width < 2) return 0;
    double more = collect_seconds(f, first + l->ways * chain - l->width) + (2 + remote) * latency +
                  turns_seconds(f, first, l->stages[expert]) - hop * (remote ? 2 : l->stages[expert] > 1);
    for (uint32_t w = 0; w < l->ways; w++) more += deal_seconds(f, first + w * chain);
    return more;
}

/* So long may a link carry rows when a hop has begun before anybody waits for what it exchanges: v leaves when its product is done, or
 * waits for nothing where links rest until q's or k's is. */
static double unhurried_seconds(const struct field *f)
{
    double product = product_seconds(f), each = carry_seconds(f, 0) / 4;
    return fmax(product, fmax(2 * product - each, 3 * product - 2 * each));
}

/* A quarter of what a block waits for its four all-to-alls, beside latency. */
static double quarter_seconds(const struct field *f)
{
    return (f->exchange - 2 * f->request->machine.latency) / 4;
}

/* Seconds that a wide stage's hop takes beyond its blocks where the next one waits. Its members' first exchange comes after the rows:
 * each sends on those of the hop before, and home deals them when its stage has nothing else, so they are waited for. Of two members
 * the one that has its rows sooner is ahead in all blocks and does not wait for the last quarter of an exchange; of more the others
 * wait for each other, from when they are told which hop is next. */
static double jam_seconds(const struct field *f, int expert)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    double on = f->state_bytes / l->width / r->machine.inside,
           rows = expert == 0 && l->stages[0] > 1 ? on : 0;
    if (l->width < 2) return 0;
    for (uint32_t w = 0; w < l->ways && expert == 0; w++)
        rows += deal_seconds(f, w * l->stages[0] * l->width);
    rows = fmax(on, rows);
    return l->width == 2 ? fmax(0, rows - quarter_seconds(f)) : rows + r->machine.latency;
}

/* Seconds by which a step's second branch comes behind the first one beyond the blocks of a stage: what the stage waits for, or a link
 * that takes longer than the stage. */
static double apart_seconds(const struct field *f, int expert)
{
    const struct planner_layout *l = f->layout;
    uint32_t first = expert ? l->ways * l->stages[0] * l->width : 0;
    double stage = f->request->model.layers * f->block / l->stages[expert];
    return fmax(jam_seconds(f, expert), link_seconds(f, first, l->stages[expert]) - stage);
}

/* The rows to one stage of each way and back, for the blocks that every step runs there; first: the first way's, counted from
 * home. */
static double trip_seconds(const struct field *f, uint32_t first, uint32_t chain)
{
    const struct planner_layout *l = f->layout;
    double sum = collect_seconds(f, first + (l->ways - 1) * chain) + 2 * f->request->machine.latency;
    for (uint32_t w = 0; w < l->ways; w++) sum += deal_seconds(f, first + w * chain);
    return sum;
}

/* What plan.h does not know of a step of one job alone on wide stages: rows are dealt and collected, for the ring and for the
 * blocks that hits run too. Where it counts hops for those already, that is less them. */
static double wide_seconds(const struct field *f, double hop, int expert)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    uint32_t first = expert ? l->ways * l->stages[0] * l->width : 0, chain = l->stages[expert] * l->width;
    bool remote = expert > 0 || l->ways > 1;
    double trips = 0;
    if (l->width < 2) return 0;
    double ends = ends_seconds(f, hop, expert) + (r->job.branches / l->ways - 1) * apart_seconds(f, expert);
    if (r->load.head > 0) trips += trip_seconds(f, first, chain) - (remote ? 2 * hop : 0);
    if (r->load.tail > 0)
        trips += trip_seconds(f, first + chain - l->width, chain) -
                 (remote || l->stages[expert] > 1 ? 2 * hop : 0);
    return (1 - r->load.hit_rate) * ends + (r->load.hit_rate > 0 ? trips : 0);
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
    c->cycle = plan_cycle(plan, asked) * unit + hops * jam_seconds(f, 0);
    if (!r->real) asked->mix.home_work = home_work(f, false);
    for (int e = 0; e <= pools; e++) {
        if (pools) asked->mix.first_share = e == 0;
        double alone = plan_alone(plan, asked) * unit + wide_seconds(f, hop, e);
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

/* What wide stages' links carry beside the exchanges. */
struct rows {
    struct crew_way deal[PLAN_MAX_RANKS], on[PLAN_MAX_RANKS], collect[PLAN_MAX_RANKS]; /* [stages] */
    struct crew_links links;
};

/* slack: of two members the one that begins later catches up with the other by a quarter of an exchange, as in jam_seconds. */
static void fill_rows(const struct field *f, struct rows *rows)
{
    const struct planner_request *r = f->request;
    double latency = r->machine.latency;
    for (uint32_t stage = 0, first = 0; first < f->group; stage++, first += f->layout->width) {
        rows->deal[stage] = slowest(f, first, deal_from);
        rows->on[stage] = slowest(f, first, on_from);
        rows->collect[stage] = slowest(f, first, collect_at);
    }
    rows->links = (struct crew_links){.deal = rows->deal,
                                      .on = rows->on,
                                      .collect = rows->collect,
                                      .latency = latency,
                                      .behind = 1 - 1.0 / smaller(f->layout->width, r->machine.per_node),
                                      .products = unhurried_seconds(f),
                                      .slack = f->layout->width > 2 ? 0 : quarter_seconds(f) + latency,
                                      .turn = latency};
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
    if (wide) fill_rows(f, &rows);
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
    send_detours(&f, &ring, &traffic);
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
    struct chains c = {.possible = true};
    set_pace(&f, asked.mix.hop * f.alone, &asked, plan, &c);
    *o = (struct planner_option){.layout = layout, .ranks = plan->ranks};
    o->possible = o->fits = plan_cycle(plan, &asked) > 0 && plan_alone(plan, &asked) > 0;
    if (o->possible) predict(&f, &c, &ring, 0, &traffic, o);
}
