/*
 * planner_traffic.c - what a layout sends, and how long links take for it: a block's exchange between the ranks of a wide stage, hops from stage
 * to stage, rows that home deals and collects (planner.h). Pure functions.
 */
#include <math.h>
#include <string.h>
#include "coordinator/planner/planner_core.h"
#include "rules/wide.h"

/* ------------------------------------------------------------------------------------------------- one stage */

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

void planner_field(const struct planner_request *r, const struct planner_layout *layout, struct field *f)
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
    planner_field(
        r, &(struct planner_layout){.replicas = 1, .ways = 1, .stages = {count / width, 0}, .width = width},
        &f);
    return f.exchange;
}

/* -------------------------------------------------------------------------------------------------- the links */

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
void planner_count(const struct field *f, struct traffic *t)
{
    const struct planner_request *r = f->request;
    const struct planner_layout *l = f->layout;
    double hit = r->load.hit_rate, branches = (double)r->job.branches / l->ways, each = (1 - hit) * branches;
    double total = steps_of(r);
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
void planner_count_detours(const struct field *f, const struct plan *plan, struct traffic *t)
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

/* A hop, on the mean over the links of a way. */
double planner_hop(const struct field *f, const struct traffic *t)
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
double planner_jam(const struct field *f, int expert)
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
    return fmax(planner_jam(f, expert), link_seconds(f, first, l->stages[expert]) - stage);
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
double planner_wide(const struct field *f, double hop, int expert)
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

/* slack: of two members the one that begins later catches up with the other by a quarter of an exchange, as in planner_jam. */
void planner_rows(const struct field *f, struct rows *rows)
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
