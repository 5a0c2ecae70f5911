/*
 * plan.c - see plan.h. Pure functions.
 *
 * A rank's work for one step of one job is counted in blocks: a block that always runs counts 1, one that a
 * hit skips counts the share of misses, home's further work what the mix says; all times the branches, over
 * the rank's speed. The busiest rank is the cycle: with enough jobs in flight a step leaves the group once in
 * so much time. Blocks are dealt one at a time to the rank that is the least busy with it, which gives the
 * shortest cycle there is, as the work of a rank only grows with its blocks (and fits the memory by leaving
 * out ranks that are full).
 *
 * Chains of branches are dealt as one line, the first branch's ring and behind it the second's, cut over the ranks in their
 * order: so a rank may end one and begin the other.
 */
#include "rules/plan_core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEEDS_ALIKE 0.85 /* of the fastest: measured speeds this near each other are one machine's noise */
#define FLOATING_GAIN                                                                                        \
    1.03 /* what floating homes must bring: they cost memory for caps, text encoder and VAE */
#define UNFOLDED_GAIN                                                                                        \
    1.10 /* what a layout must bring whose hits travel: as simulated, below that they cost more */
#define AMPLE_PARTS   8    /* a model that takes so small a part of a rank's memory costs nothing anywhere */
#define SPARE_GAIN    1.01 /* what a spare block must bring: it costs memory */
#define FOREIGN_SLACK 1.10 /* what a job may lose on a layout made for others before a new one is worth it */

/* ------------------------------------------------------------------------------------------------ the field
 */

struct measured {
    double speed;
    uint32_t rank;
};

static int fastest_first(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->speed != y->speed) return x->speed < y->speed ? 1 : -1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* 0: unknown. */
static double speed_of(const struct plan_request *request, uint32_t rank)
{
    const struct plan_seat *seats = request->seats;
    double best = 0;
    for (uint32_t i = 0; seats && i < request->ranks; i++) {
        bool same = i == rank || (seats[i].make != 0 && seats[i].make == seats[rank].make);
        if (same && isfinite(seats[i].speed) && seats[i].speed > best) best = seats[i].speed;
    }
    return best;
}

/* Unknown speeds become the mean of the known ones. */
static void list_speeds(const struct plan_request *request, struct measured *list)
{
    double sum = 0;
    uint32_t known = 0;
    for (uint32_t i = 0; i < request->ranks; i++) {
        list[i] = (struct measured){speed_of(request, i), i};
        sum += list[i].speed;
        known += list[i].speed > 0;
    }
    for (uint32_t i = 0; i < request->ranks; i++)
        if (list[i].speed == 0) list[i].speed = known ? sum / known : 1;
}

/* Ranks that are about as fast as the fastest of those not looked at yet get one speed, their mean: so equal
 * machines get equal blocks whatever their measurements say, and the same ones at every start. */
static void fill_speeds(const struct plan_request *request, struct field *field)
{
    struct measured list[PLAN_MAX_RANKS];
    double fastest = 0;
    list_speeds(request, list);
    qsort(list, request->ranks, sizeof *list, fastest_first);
    for (uint32_t first = 0, end; first < request->ranks; first = end) {
        double sum = 0;
        for (end = first; end < request->ranks && list[end].speed >= SPEEDS_ALIKE * list[first].speed; end++)
            sum += list[end].speed;
        double mean = sum / (end - first);
        if (first == 0) fastest = mean;
        for (uint32_t i = first; i < end; i++) field->speed[list[i].rank] = mean / fastest;
    }
}

static uint32_t room_for(uint64_t memory, uint64_t taken, uint64_t block, uint32_t layers)
{
    if (memory == 0 || block == 0) return layers;
    uint64_t blocks = memory > taken ? (memory - taken) / block : 0;
    return blocks < layers ? (uint32_t)blocks : layers;
}

static double share_or_none(double value)
{
    return value > 0 ? fmin(value, 1) : 0; /* a NaN is 0 */
}

static struct plan_mix sane_mix(const struct plan_mix *given, uint32_t layers)
{
    struct plan_mix mix = *given;
    if (mix.branches < 1) mix.branches = 1;
    mix.head = smaller(mix.head, layers);
    mix.tail = smaller(mix.tail, layers - mix.head);
    mix.experts = mix.experts == PLAN_EXPERTS ? PLAN_EXPERTS : 1;
    if (mix.experts == 1) mix.first_share = 1;
    mix.first_share = share_or_none(mix.first_share);
    mix.hit_rate = share_or_none(mix.hit_rate);
    for (uint32_t e = 0; e < PLAN_EXPERTS; e++) mix.expert_hits[e] = share_or_none(mix.expert_hits[e]);
    mix.home_work = mix.home_work > 0 && isfinite(mix.home_work) ? mix.home_work : 0;
    mix.hop = mix.hop > 0 && isfinite(mix.hop) ? mix.hop : 0;
    return mix;
}

static double model_bytes(const struct plan_request *request)
{
    uint32_t experts = request->mix.experts == PLAN_EXPERTS ? PLAN_EXPERTS : 1;
    return (double)request->layers * (double)request->block_bytes * experts + (double)request->home_bytes;
}

/* Which chains an operator wished for, where there is something to choose. */
static status_t read_layout(const struct plan_request *request, struct field *field, struct error *error)
{
    const struct plan_wish *wish = request->wish;
    enum plan_layout layout = wish && field->ranks > 1 ? wish->layout : PLAN_LAYOUT_PIPELINE;
    field->cfg = layout == PLAN_LAYOUT_CFG || layout == PLAN_LAYOUT_CFG_POOLS;
    field->pools = (layout == PLAN_LAYOUT_POOLS || layout == PLAN_LAYOUT_CFG_POOLS) && field->mix.experts > 1;
    field->pool = field->pools ? wish->pool : 0;
    if (field->pool >= field->ranks)
        return error_set(error, STATUS_INVALID,
                         "plan: %u of %u ranks for the first expert leave none for the second", field->pool,
                         field->ranks);
    if (field->pool && wish->second_pool && field->pool + wish->second_pool != field->ranks)
        return error_set(error, STATUS_INVALID, "--pools %u+%u: the group has %u ranks", wish->pool,
                         wish->second_pool, field->ranks);
    if (wish && wish->runs > 0 && (field->cfg || field->pools))
        return error_set(error, STATUS_INVALID,
                         "--split: says nothing of several chains: leave it out, or --layout");
    return STATUS_OK;
}

static status_t make_field(const struct plan_request *request, struct field *field, struct error *error)
{
    uint32_t layers = request->layers, ranks = request->ranks;
    if (layers < 1 || ranks < 1 || ranks > PLAN_MAX_RANKS) {
        error_set(error, STATUS_INVALID, "plan: %u blocks cannot be laid over %u ranks", layers, ranks);
        return STATUS_INVALID;
    }
    field->layers = layers;
    field->ranks = ranks;
    field->mix = sane_mix(&request->mix, layers);
    field->ample = ranks > 1;
    fill_speeds(request, field);
    status_t status = read_layout(request, field, error);
    if (status != STATUS_OK) return status;
    /* A rank of a pool holds the blocks of one expert, any other those of all. */
    uint64_t block = request->block_bytes * (field->pools ? 1 : field->mix.experts);
    for (uint32_t i = 0; i < ranks; i++) {
        uint64_t memory = request->seats ? request->seats[i].memory_bytes : 0;
        field->room[i] = room_for(memory, 0, block, layers);
        field->home_room[i] = room_for(memory, request->home_bytes, block, layers);
        field->ample &= request->block_bytes > 0 && model_bytes(request) * AMPLE_PARTS <= (double)memory;
    }
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- dealing
 */

/* The work a rank has before it holds any block of the ring, what each one adds, and how many it has room
 * for. */
struct deal {
    double base[PLAN_MAX_RANKS], each[PLAN_MAX_RANKS];
    uint32_t room[PLAN_MAX_RANKS], held[PLAN_MAX_RANKS]; /* held: blocks it has anyway */
};

static int compare(double a, double b)
{
    if (fabs(a - b) <= SAME * fmax(fabs(a), fabs(b))) return 0;
    return a < b ? -1 : 1;
}

/* Should rank `a` rather than `b` get the next block? The one that is less busy with it; then the one with
 * fewer blocks for its speed; among equals the first rank without any, so that those without blocks stand
 * last, or else the last rank, as home (the first) has more to do than is counted. */
static bool goes_before(const struct field *field, const struct deal *deal, const uint32_t *run, uint32_t a,
                        uint32_t b)
{
    int order =
        compare(deal->base[a] + (run[a] + 1) * deal->each[a], deal->base[b] + (run[b] + 1) * deal->each[b]);
    if (order == 0)
        order = compare((deal->held[a] + run[a] + 1) / field->speed[a],
                        (deal->held[b] + run[b] + 1) / field->speed[b]);
    if (order != 0) return order < 0;
    return deal->held[a] + run[a] == 0 || deal->held[b] + run[b] == 0 ? a < b : a > b;
}

/* To ranks [from, to). False: they do not fit. */
static bool deal_blocks(const struct field *field, const struct deal *deal, uint32_t blocks, uint32_t from,
                        uint32_t to, uint32_t *run)
{
    for (; blocks > 0; blocks--) {
        uint32_t best = to;
        for (uint32_t i = from; i < to; i++)
            if (run[i] < deal->room[i] && (best == to || goes_before(field, deal, run, i, best))) best = i;
        if (best == to) return false;
        run[best]++;
    }
    return true;
}

/* What ranks have to do and room for before they are dealt blocks of which each is worth `weight` blocks' work; most: that
 * a rank is dealt. Chains for branches are laid for guided jobs, whatever comes: a layout is not to change with each
 * job. False: a home does not fit. */
static bool open_deal(const struct field *field, const struct plan *plan, const struct plan_mix *mix,
                      bool exactly, uint32_t most, double weight, struct deal *deal)
{
    double home = plan_home_work(field, plan, mix) / (plan->floating ? field->ranks : 1);
    uint32_t ring = field->layers - caps(plan), branches = field->cfg ? PLAN_BRANCHES : mix->branches;
    for (uint32_t i = 0; i < field->ranks; i++) {
        bool homely = is_home(plan, i);
        uint32_t room = homely ? field->home_room[i] : field->room[i], held = homely ? caps(plan) : 0;
        uint32_t weights = field->pools ? held * field->mix.experts : held;
        if (room < weights) return false;
        deal->held[i] = held;
        deal->room[i] = exactly && homely ? 0 : room - weights;
        if (deal->room[i] >= ring) deal->room[i] = most; /* nothing is held twice */
        deal->base[i] = homely ? branches * home / field->speed[i] : 0;
        deal->each[i] = weight * (1 - mix->hit_rate) / field->speed[i];
    }
    return true;
}

/* Is a layout the better one? Chains of branches are for a job alone, anything else is for a queue. */
static bool is_better(const struct field *field, const struct plan *a, const struct plan *b)
{
    int order = field->cfg ? compare(a->alone, b->alone) : 0;
    return order < 0 || (order == 0 && compare(a->cycle, b->cycle) < 0);
}

/* Lays the chains of an expert, or of both, which make `share` of the steps, over ranks [from, to). narrow: no rank has more
 * of them than one branch's, so that on two ranks none has work of both at the same time. */
static bool lay_chains(const struct field *field, const struct plan_mix *mix, bool exactly, bool narrow,
                       uint32_t expert, double share, uint32_t from, uint32_t to, struct plan *plan)
{
    struct deal deal;
    uint32_t ring = field->layers - caps(plan), chains = field->cfg ? PLAN_BRANCHES : 1,
             held[PLAN_MAX_RANKS] = {0};
    double weight = share * (field->cfg ? 1 : mix->branches);
    if (!open_deal(field, plan, mix, exactly, narrow ? ring : chains * ring, weight, &deal) ||
        !deal_blocks(field, &deal, chains * ring, from, to, held))
        return false;
    uint32_t branch = 0, left = ring;
    for (uint32_t i = from; i < to; i++)
        while (held[i] > 0) {
            uint32_t run = smaller(held[i], left);
            plan->run[plan->chain[expert][branch] * field->ranks + i] += run;
            held[i] -= run;
            left -= run;
            if (left == 0) branch++, left = ring;
        }
    return true;
}

/* Names the chains of a plan. */
static void name_chains(const struct field *field, struct plan *plan)
{
    uint32_t branch = field->cfg, expert = field->pools ? 1 + branch : 0;
    for (uint32_t e = 0; e < PLAN_EXPERTS; e++)
        for (uint32_t b = 0; b < PLAN_BRANCHES; b++) plan->chain[e][b] = e * expert + b * branch;
}

/* All chains, in one of the ways that lay_ring compares. */
static bool lay_so(const struct field *field, const struct plan_mix *mix, bool exactly, uint32_t first,
                   bool narrow, struct plan *plan)
{
    if (!field->pools) return lay_chains(field, mix, exactly, narrow, 0, 1, 0, field->ranks, plan);
    struct plan_mix own[PLAN_EXPERTS] = {mix_of(mix, 0), mix_of(mix, 1)};
    return lay_chains(field, &own[0], exactly, narrow, 0, share_of(mix, 0), 0, first, plan) &&
           lay_chains(field, &own[1], exactly, narrow, 1, share_of(mix, 1), first, field->ranks, plan);
}

/* Lays the ring, or the rings, between the plan's caps. exactly: home holds the caps and nothing else. */
static bool lay_ring(const struct field *field, const struct plan_mix *mix, bool exactly, struct plan *plan)
{
    struct plan best = {0};
    uint32_t from = 1, to = field->pools ? field->ranks - 1 : 1;
    if (field->pool) from = to = field->pool;
    name_chains(field, plan);
    for (uint32_t first = from; first <= to; first++)
        for (int narrow = 0; narrow <= field->cfg; narrow++) {
            struct plan next = *plan;
            if (!lay_so(field, mix, exactly, first, narrow, &next)) continue;
            next.cycle = plan_busiest(field, &next, mix);
            next.alone = plan_step_alone(field, &next);
            if (best.ranks == 0 || is_better(field, &next, &best)) best = next;
        }
    if (best.ranks == 0) return false;
    *plan = best;
    return true;
}

/* An empty plan with these caps. */
static struct plan capped(const struct field *field, uint32_t head, uint32_t tail, bool floating)
{
    return (struct plan){
        .layers = field->layers, .ranks = field->ranks, .head = head, .tail = tail, .floating = floating};
}

/* ------------------------------------------------------------------------------------------------ candidates
 */

/* All blocks by speed, as without caching. A hit that needs blocks home does not hold travels for them; it is
 * never slower than a miss. */
static bool lay_even(const struct field *field, struct plan *plan)
{
    struct plan_mix uncached = field->mix;
    uncached.hit_rate = uncached.expert_hits[0] = uncached.expert_hits[1] = 0;
    *plan = capped(field, 0, 0, false);
    if (!lay_ring(field, &uncached, false, plan)) return false;
    plan->cycle_uncached = plan_busiest(field, plan, &uncached);
    plan->cycle = plan_busiest(field, plan, &field->mix);
    return true;
}

/* Home holds what every step runs, and of the ring as much as keeps it as busy as the others. */
static bool lay_caps(const struct field *field, bool floating, struct plan *plan)
{
    *plan = capped(field, field->mix.head, field->mix.tail, floating);
    if (!lay_ring(field, &field->mix, false, plan)) return false;
    plan->cycle = plan_busiest(field, plan, &field->mix);
    return true;
}

/* Rank 1 takes a block of the ring from the busiest of the others; false: that one has none, or there is no room. */
static bool move_to_second(const struct field *field, struct plan *plan)
{
    double times[PLAN_MAX_RANKS];
    uint32_t from = 0;
    plan_times(field, plan, &field->mix, times);
    for (uint32_t i = 2; i < field->ranks; i++)
        if (times[i] > times[from]) from = i;
    if (plan->run[from] == 0 || plan->run[1] == field->room[1]) return false;
    plan->run[from]--;
    plan->run[1]++;
    return true;
}

/* A fixed home takes a block of rank 1's beside its own, where that makes the cycle shorter: work is then cut finer
 * than whole blocks. Rank 1 gets what the busiest has too much, as it can share that, but no more than is as good
 * for jobs that cannot use the spare block (caching by blocks). plan: without one. */
static void lay_spare(const struct field *field, struct plan *plan)
{
    struct plan best = *plan, next = *plan;
    if (plan_chains(plan) > 1 || caps(plan) + plan->run[0] + 1 > field->home_room[0]) return;
    do {
        next.spare = 0;
        if (compare(plan_busiest(field, &next, &field->mix), plan->cycle) > 0) break;
        next.spare = next.run[1] > 0;
        next.cycle = plan_busiest(field, &next, &field->mix);
        if (next.spare && compare(next.cycle, best.cycle) < 0) best = next;
    } while (compare(next.cycle, best.cycle) <= 0 && move_to_second(field, &next));
    if (compare(best.cycle * SPARE_GAIN, plan->cycle) < 0) *plan = best;
}

/* The simplest layout that is as good as any, give or take. Where memory does not matter floating homes win ties: text
 * encoding and decoding are then spread over the ranks also while a queue fills and empties, which a cycle does not
 * show. plan: the even one. */
static void choose(const struct field *field, bool may_float, struct plan *plan)
{
    struct plan floating, folded;
    /* Folded, hits need no other rank: that is worth having also where the even layout is no slower, or a little faster. */
    if (field->mix.hit_rate > 0 && lay_caps(field, false, &folded) &&
        compare(folded.cycle, plan->cycle_uncached) <= 0 &&
        compare(folded.cycle, UNFOLDED_GAIN * plan->cycle) <= 0)
        *plan = folded;
    lay_spare(field, plan);
    bool free = field->ample && plan_chains(plan) == 1;
    if (may_float && lay_caps(field, true, &floating) &&
        compare(floating.cycle * (free ? 1 : FLOATING_GAIN), plan->cycle) <= 0 &&
        (!field->cfg || compare(floating.alone, plan->alone) <= 0))
        *plan = floating;
}

/* ----------------------------------------------------------------------------------------------- an
 * operator's */

static status_t no_room(const struct plan_request *request, const char *what, struct error *error)
{
    double total = 0;
    for (uint32_t i = 0; request->seats && i < request->ranks; i++)
        total += (double)request->seats[i].memory_bytes;
    return error_set(
        error, STATUS_NO_MEMORY,
        "%s: %u blocks of %.3g GB, and %.3g GB for a home, do not fit %u rank%s with %.3g GB in all: "
        "add ranks",
        what, request->layers, (double)request->block_bytes / 1e9, (double)request->home_bytes / 1e9,
        request->ranks, request->ranks == 1 ? "" : "s", total / 1e9);
}

/* "--fold 1,0": home holds exactly that, also where more would be faster. With floating homes it says which
 * blocks every rank holds. */
static status_t lay_fold(const struct plan_request *request, const struct field *field, struct plan *plan,
                         struct error *error)
{
    const struct plan_wish *wish = request->wish;
    uint32_t head = smaller(wish->fold_head, field->layers);
    *plan =
        capped(field, head, smaller(wish->fold_tail, field->layers - head), wish->home == PLAN_HOME_FLOATING);
    return lay_ring(field, &field->mix, !plan->floating, plan) ? STATUS_OK
                                                               : no_room(request, "--fold", error);
}

static status_t check_split_room(const struct plan_request *request, const struct field *field,
                                 const struct plan *plan, struct error *error)
{
    for (uint32_t i = 0; i < field->ranks; i++)
        if (plan_blocks(plan, i) > (is_home(plan, i) ? field->home_room[i] : field->room[i]))
            return error_set(error, STATUS_NO_MEMORY,
                             "--split: %u blocks of %.1f GB do not fit rank %u with %.1f GB",
                             plan_blocks(plan, i), (double)request->block_bytes / 1e9, i,
                             (double)request->seats[i].memory_bytes / 1e9);
    return STATUS_OK;
}

/* "--split 10,10,10,10": all blocks of each rank; with floating homes those of the ring, as every rank holds
 * the caps besides. The caps are the fold's, or the mix's where home has that many. */
static status_t lay_split(const struct plan_request *request, const struct field *field, struct plan *plan,
                          struct error *error)
{
    const struct plan_wish *wish = request->wish;
    bool floating = wish->home == PLAN_HOME_FLOATING;
    uint32_t head = wish->has_fold ? smaller(wish->fold_head, field->layers) : field->mix.head,
             tail = wish->has_fold ? smaller(wish->fold_tail, field->layers - head) : field->mix.tail,
             sum = 0;
    if (wish->runs != field->ranks)
        return error_set(error, STATUS_INVALID, "--split: names %u ranks, the group has %u", wish->runs,
                         field->ranks);
    for (uint32_t i = 0; i < wish->runs; i++) sum += wish->run[i];
    uint32_t needed = floating ? field->layers - head - tail : field->layers;
    if (sum != needed)
        return error_set(error, STATUS_INVALID, "--split: adds up to %u blocks, must be %u%s", sum, needed,
                         floating ? ", as every rank holds the others" : " for this model");
    if (!floating && wish->has_fold && wish->run[0] != head + tail)
        return error_set(error, STATUS_INVALID,
                         "--split: gives home %u blocks, --fold %u,%u gives it %u: leave one of them out",
                         wish->run[0], head, tail, head + tail);
    if (!floating && wish->run[0] < head + tail) head = tail = 0;
    *plan = capped(field, head, tail, floating);
    memcpy(plan->run, wish->run, wish->runs * sizeof *plan->run);
    if (!floating) plan->run[0] -= head + tail;
    return check_split_room(request, field, plan, error);
}

/* ---------------------------------------------------------------------------------------------- the contract
 */

/* How a layout is written down: without caps all that a fixed home holds is its head. */
static void settle(const struct field *field, struct plan *plan)
{
    if (!plan->floating && caps(plan) == 0 && plan_chains(plan) == 1) {
        plan->head = plan->run[0];
        plan->run[0] = 0;
    }
    plan->alone = plan_step_alone(field, plan);
    plan->jobs_to_saturate = plan_jobs(field, plan);
}

static status_t too_slow(const char *what, const struct plan_mix *mix, double cycle, double uncached,
                         const char *remedy, struct error *error)
{
    char policy[96] = "uncached";
    if (mix->hit_rate > 0)
        snprintf(policy, sizeof policy, "with %u + %u blocks always run and %.0f %% hits", mix->head,
                 mix->tail, 100 * mix->hit_rate);
    return error_set(error, STATUS_INVALID,
                     "%s: a step %s would take %.1f block times, and %.1f on even ranks without caching: %s",
                     what, policy, cycle, uncached, remedy);
}

/* What was asked for, as long as it is no loss. */
static status_t lay_wish(const struct plan_request *request, const struct field *field, double uncached,
                         struct plan *plan, struct error *error)
{
    const struct plan_wish *wish = request->wish;
    const char *what = wish->runs > 0 ? "--split" : wish->has_fold ? "--fold" : "--home floating";
    status_t status = STATUS_OK;
    if (wish->runs > 0)
        status = lay_split(request, field, plan, error);
    else if (wish->has_fold)
        status = lay_fold(request, field, plan, error);
    else if (!lay_caps(field, true, plan))
        status = no_room(request, what, error);
    if (status != STATUS_OK) return status;
    plan->cycle = plan_busiest(field, plan, &field->mix);
    if (field->mix.hit_rate <= 0 || compare(plan->cycle, uncached) <= 0) return STATUS_OK;
    return too_slow(what, &field->mix, plan->cycle, uncached,
                    plan->floating ? "leave it out, or submit with cache off"
                                   : "leave it out, use --home floating, or submit with cache off",
                    error);
}

status_t plan_make(const struct plan_request *request, struct plan *plan, struct error *error)
{
    const struct plan_wish *wish = request->wish;
    struct field field;
    struct plan made;
    if (wish && wish->width > 1) return plan_wide_make(request, plan, error);
    status_t status = make_field(request, &field, error);
    if (status != STATUS_OK) return status;
    if (!lay_even(&field, &made)) return no_room(request, "plan", error);
    double uncached = made.cycle_uncached;
    if (field.ranks > 1) { /* one rank holds everything */
        if (wish && (wish->runs > 0 || wish->has_fold || wish->home == PLAN_HOME_FLOATING))
            status = lay_wish(request, &field, uncached, &made, error);
        else if (!wish || !wish->even)
            choose(&field, !wish || wish->home == PLAN_HOME_AUTO, &made);
    }
    if (status != STATUS_OK) return status;
    made.cycle_uncached = uncached;
    settle(&field, &made);
    *plan = made;
    return STATUS_OK;
}

status_t plan_check(const struct plan *plan, const struct plan_request *request, const struct plan_mix *mix,
                    struct error *error)
{
    struct plan_request own = *request;
    struct field field;
    struct plan even;
    if (plan_width(plan) > 1) return plan_wide_check(plan, request, mix, error);
    own.mix = *mix;
    status_t status = make_field(&own, &field, error);
    if (status != STATUS_OK) return status;
    if (plan->ranks != field.ranks || plan->layers != field.layers)
        return error_set(error, STATUS_INVALID, "plan: is of %u blocks on %u ranks, not of %u on %u",
                         plan->layers, plan->ranks, field.layers, field.ranks);
    if (!lay_even(&field, &even)) return no_room(&own, "plan", error);
    double cycle = plan_busiest(&field, plan, &field.mix);
    if (compare(cycle, FOREIGN_SLACK * even.cycle_uncached) <= 0) return STATUS_OK;
    return too_slow("this layout", &field.mix, cycle, even.cycle_uncached,
                    field.mix.hit_rate > 0 ? "lay the ranks out anew for it, or submit with cache off"
                                           : "lay the ranks out anew for it",
                    error);
}

/* False: the plan is of other ranks or another model. */
static bool make_its_field(const struct plan *plan, const struct plan_request *request, struct field *field)
{
    return make_field(request, field, NULL) == STATUS_OK && plan->ranks == field->ranks &&
           plan->layers == field->layers;
}

double plan_cycle(const struct plan *plan, const struct plan_request *request)
{
    struct field field;
    if (plan_width(plan) > 1) return plan_wide_cycle(plan, request);
    if (!make_its_field(plan, request, &field)) return 0;
    return plan_busiest(&field, plan, &field.mix);
}

double plan_alone(const struct plan *plan, const struct plan_request *request)
{
    struct field field;
    if (plan_width(plan) > 1) return plan_wide_alone(plan, request);
    if (!make_its_field(plan, request, &field)) return 0;
    return plan_step_alone(&field, plan);
}

uint32_t plan_chains(const struct plan *plan)
{
    uint32_t last = 0;
    for (int e = 0; e < PLAN_EXPERTS; e++)
        for (int b = 0; b < PLAN_BRANCHES; b++)
            if (plan->chain[e][b] > last) last = plan->chain[e][b];
    return last + 1;
}

uint32_t plan_run(const struct plan *plan, uint32_t chain, uint32_t rank)
{
    return plan->run[chain * plan->ranks + rank];
}

/* Blocks of the ring that a rank holds for an expert's branches, those of both counted once. */
static uint32_t ring_blocks(const struct plan *plan, uint32_t expert, uint32_t rank)
{
    uint32_t first = plan->chain[expert][0], second = plan->chain[expert][1];
    uint32_t run = plan_run(plan, first, rank), other = plan_run(plan, second, rank), before = 0, behind = 0;
    if (first == second) return run;
    for (uint32_t i = 0; i < rank; i++)
        before += plan_run(plan, first, i), behind += plan_run(plan, second, i);
    uint32_t from = before > behind ? before : behind, to = smaller(before + run, behind + other);
    return run + other - (to > from ? to - from : 0);
}

uint32_t plan_blocks(const struct plan *plan, uint32_t rank)
{
    if (plan_width(plan) > 1) {
        struct plan stages = plan_wide_stages(plan);
        return plan_blocks(&stages, rank / plan->width);
    }
    bool pools = plan->chain[1][0] != plan->chain[0][0];
    uint32_t ring = ring_blocks(plan, 0, rank) + (pools ? ring_blocks(plan, 1, rank) : 0);
    return ring + (is_home(plan, rank) ? caps(plan) * (pools ? PLAN_EXPERTS : 1) : 0) +
           (rank == 0 ? plan->spare : 0);
}

/* To a fixed home its own run of the only chain is more head. */
bool plan_equal(const struct plan *a, const struct plan *b)
{
    if (plan_width(a) != plan_width(b)) return false;
    if (plan_width(a) > 1) {
        struct plan x = plan_wide_stages(a), y = plan_wide_stages(b);
        return plan_equal(&x, &y);
    }
    if (a->ranks == b->ranks && (plan_chains(a) > 1 || plan_chains(b) > 1))
        return a->layers == b->layers && a->floating == b->floating && a->head == b->head &&
               a->tail == b->tail && memcmp(a->chain, b->chain, sizeof a->chain) == 0 &&
               memcmp(a->run, b->run, plan_chains(a) * a->ranks * sizeof *a->run) == 0;
    if (a->ranks != b->ranks || a->layers != b->layers || a->floating != b->floating || a->tail != b->tail ||
        a->spare != b->spare || a->head + a->run[0] != b->head + b->run[0] ||
        (a->floating && a->head != b->head))
        return false;
    return memcmp(a->run + 1, b->run + 1, (a->ranks - 1) * sizeof *a->run) == 0;
}
