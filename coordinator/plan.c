/*
 * plan.c - see plan.h. Pure functions.
 *
 * A rank's work for one step of one job is counted in blocks: a block that always runs counts 1, one that a
 * hit skips counts the share of misses, home's further work what the mix says; all times the branches, over
 * the rank's speed. The busiest rank is the cycle: with enough jobs in flight a step leaves the group once in
 * so much time. Blocks are dealt one at a time to the rank that is the least busy with it, which gives the
 * shortest cycle there is, as the work of a rank only grows with its blocks (and fits the memory by leaving
 * out ranks that are full).
 */
#include "coordinator/plan.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPEEDS_ALIKE 0.85 /* of the fastest: measured speeds this near each other are one machine's noise */
#define FLOATING_GAIN                                                                                        \
    1.03                 /* what floating homes must bring: they cost memory for caps, text encoder and VAE */
#define AMPLE_PARTS 8    /* a model that takes so small a part of a rank's memory costs nothing anywhere */
#define SPARE_GAIN  1.01 /* what a spare block must bring: it costs memory */
#define FOREIGN_SLACK                                                                                        \
    1.10          /* what a job may lose on a layout made for others before a new one is worth it            \
                   */
#define SAME 1e-9 /* relative: equal but for the order of additions */

/* A request, made complete and kept within its limits. */
struct field {
    uint32_t layers, ranks;
    double speed[PLAN_MAX_RANKS];       /* 1: the fastest */
    uint32_t room[PLAN_MAX_RANKS];      /* blocks that fit a rank's memory */
    uint32_t home_room[PLAN_MAX_RANKS]; /* and what is left of them where there is a home */
    bool ample;                         /* the whole model takes little of each rank's memory */
    struct plan_mix mix;
};

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

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

static struct plan_mix sane_mix(const struct plan_mix *given, uint32_t layers)
{
    struct plan_mix mix = *given;
    if (mix.branches < 1) mix.branches = 1;
    mix.head = smaller(mix.head, layers);
    mix.tail = smaller(mix.tail, layers - mix.head);
    mix.hit_rate = mix.hit_rate > 0 ? fmin(mix.hit_rate, 1) : 0; /* a NaN is 0 */
    mix.home_work = mix.home_work > 0 && isfinite(mix.home_work) ? mix.home_work : 0;
    mix.hop = mix.hop > 0 && isfinite(mix.hop) ? mix.hop : 0;
    return mix;
}

static double model_bytes(const struct plan_request *request)
{
    return (double)request->layers * (double)request->block_bytes + (double)request->home_bytes;
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
    for (uint32_t i = 0; i < ranks; i++) {
        uint64_t memory = request->seats ? request->seats[i].memory_bytes : 0;
        field->room[i] = room_for(memory, 0, request->block_bytes, layers);
        field->home_room[i] = room_for(memory, request->home_bytes, request->block_bytes, layers);
        field->ample &= request->block_bytes > 0 && model_bytes(request) * AMPLE_PARTS <= (double)memory;
    }
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- predictions
 */

static uint32_t caps(const struct plan *plan)
{
    return plan->head + plan->tail;
}

static bool is_home(const struct plan *plan, uint32_t rank)
{
    return rank == 0 || plan->floating;
}

/* Blocks [from, to) in blocks' work of a branch-step: those that the mix always runs, and the rest when it
 * misses. */
static double work_of(const struct field *field, const struct plan_mix *mix, uint32_t from, uint32_t to)
{
    uint32_t skipped_from = mix->head > from ? smaller(mix->head, to) : from,
             last = field->layers - mix->tail, skipped_to = last < to ? last : to;
    uint32_t skipped = skipped_to > skipped_from ? skipped_to - skipped_from : 0;
    return (to - from - skipped) + skipped * (1 - mix->hit_rate);
}

/* What home does besides its run of the ring, whether it hits or misses. */
static double home_work(const struct field *field, const struct plan *plan, const struct plan_mix *mix)
{
    return mix->home_work + work_of(field, mix, 0, plan->head) +
           work_of(field, mix, field->layers - plan->tail, field->layers);
}

/* Home runs its spare blocks, which are rank 1's, as often as keeps both equally busy. */
static void share_spare(const struct field *field, const struct plan *plan, const struct plan_mix *mix,
                        double *work)
{
    uint32_t first = plan->head + plan->run[0];
    if (plan->spare == 0) return;
    double most = work_of(field, mix, first, first + plan->spare);
    double even =
        (work[1] * field->speed[0] - work[0] * field->speed[1]) / (field->speed[0] + field->speed[1]);
    double moved = fmin(most, fmax(even, 0));
    work[0] += moved;
    work[1] -= moved;
}

/* The time of each rank for one step. Jobs are dealt evenly to the homes there are. */
static void list_times(const struct field *field, const struct plan *plan, const struct plan_mix *mix,
                       double *times)
{
    double home = home_work(field, plan, mix) / (plan->floating ? field->ranks : 1);
    uint32_t at = plan->head, width = plan_width(plan);
    for (uint32_t i = 0; i < field->ranks; i++) {
        times[i] = work_of(field, mix, at, at + plan->run[i]) / width + (is_home(plan, i) ? home : 0);
        if (i % width == width - 1) at += plan->run[i];
    }
    share_spare(field, plan, mix, times);
    for (uint32_t i = 0; i < field->ranks; i++) times[i] *= mix->branches / field->speed[i];
}

/* The busiest rank's. */
static double cycle_of(const struct field *field, const struct plan *plan, const struct plan_mix *mix)
{
    double times[PLAN_MAX_RANKS], busiest = 0;
    list_times(field, plan, mix, times);
    for (uint32_t i = 0; i < field->ranks; i++) busiest = fmax(busiest, times[i]);
    return busiest;
}

/* One job alone: how long a step takes from end to end, as a mean over hits and misses. Its branches follow
 * each other through the ranks (parallelism.md 5.2). */
static double step_alone(const struct field *field, const struct plan *plan)
{
    const struct plan_mix *mix = &field->mix;
    struct plan_mix always = *mix;
    double walk = 0, slowest = 0, speed = 0, miss = 1 - mix->hit_rate;
    uint32_t away = 0;
    always.hit_rate = 0;
    for (uint32_t i = 0; i < field->ranks; i++) speed += field->speed[i] / field->ranks;
    if (!plan->floating) speed = field->speed[0];
    double ends = home_work(field, plan, &always) / speed;
    for (uint32_t i = 0; i < field->ranks; i++) {
        double run = plan->run[i] / field->speed[i] / plan_width(plan);
        bool at_home = i == 0 && !plan->floating;
        walk += run / plan_width(plan); /* its members work on a hop together */
        slowest = fmax(slowest, run + (at_home ? ends : 0));
        away += plan->run[i] > 0 && !at_home;
    }
    double miss_time =
        walk + ends + (mix->branches - 1) * fmax(slowest, ends) + (away > 0 ? away + 1 : 0) * mix->hop;
    return miss * miss_time + mix->hit_rate * mix->branches * home_work(field, plan, mix) / speed;
}

/* Little's law: as many as fit into the time of a step. With floating homes as many again, and the same
 * number at each home, as the load of the homes varies with the hits (95 % of the cycle in simulation; as it
 * is one home's jobs that smooth each other otherwise). */
static uint32_t jobs_for(const struct field *field, const struct plan *plan)
{
    double jobs = plan->cycle > 0 ? step_alone(field, plan) / plan->cycle : 1;
    if (!plan->floating) return jobs > 1 ? (uint32_t)ceil(jobs * (1 - SAME)) : 1;
    return field->ranks * (uint32_t)ceil(2 * ceil(jobs * (1 - SAME)) / field->ranks);
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

/* False: they do not fit. */
static bool deal_blocks(const struct field *field, const struct deal *deal, uint32_t blocks, uint32_t *run)
{
    for (; blocks > 0; blocks--) {
        uint32_t best = field->ranks;
        for (uint32_t i = 0; i < field->ranks; i++)
            if (run[i] < deal->room[i] && (best == field->ranks || goes_before(field, deal, run, i, best)))
                best = i;
        if (best == field->ranks) return false;
        run[best]++;
    }
    return true;
}

/* Lays the ring between the plan's caps. exactly: home holds the caps and nothing else. */
static bool lay_ring(const struct field *field, const struct plan_mix *mix, bool exactly, struct plan *plan)
{
    struct deal deal;
    double home = home_work(field, plan, mix) / (plan->floating ? field->ranks : 1);
    for (uint32_t i = 0; i < field->ranks; i++) {
        bool homely = is_home(plan, i);
        uint32_t room = homely ? field->home_room[i] : field->room[i], held = homely ? caps(plan) : 0;
        if (room < held) return false;
        deal.held[i] = held;
        deal.room[i] = exactly && homely ? 0 : room - held;
        deal.base[i] = homely ? mix->branches * home / field->speed[i] : 0;
        deal.each[i] = mix->branches * (1 - mix->hit_rate) / field->speed[i];
    }
    return deal_blocks(field, &deal, field->layers - caps(plan), plan->run);
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
    uncached.hit_rate = 0;
    *plan = capped(field, 0, 0, false);
    if (!lay_ring(field, &uncached, false, plan)) return false;
    plan->cycle_uncached = cycle_of(field, plan, &uncached);
    plan->cycle = cycle_of(field, plan, &field->mix);
    return true;
}

/* Home holds what every step runs, and of the ring as much as keeps it as busy as the others. */
static bool lay_caps(const struct field *field, bool floating, struct plan *plan)
{
    *plan = capped(field, field->mix.head, field->mix.tail, floating);
    if (!lay_ring(field, &field->mix, false, plan)) return false;
    plan->cycle = cycle_of(field, plan, &field->mix);
    return true;
}

/* Rank 1 takes a block of the ring from the busiest of the others; false: that one has none, or there is no room. */
static bool move_to_second(const struct field *field, struct plan *plan)
{
    double times[PLAN_MAX_RANKS];
    uint32_t from = 0;
    list_times(field, plan, &field->mix, times);
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
    if (caps(plan) + plan->run[0] + 1 > field->home_room[0]) return;
    do {
        next.spare = 0;
        if (compare(cycle_of(field, &next, &field->mix), plan->cycle) > 0) break;
        next.spare = next.run[1] > 0;
        next.cycle = cycle_of(field, &next, &field->mix);
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
    /* Folded, hits need no other rank: that is worth having also where the even layout is no slower. */
    if (field->mix.hit_rate > 0 && lay_caps(field, false, &folded) &&
        compare(folded.cycle, plan->cycle_uncached) <= 0)
        *plan = folded;
    lay_spare(field, plan);
    if (may_float && lay_caps(field, true, &floating) &&
        compare(floating.cycle * (field->ample ? 1 : FLOATING_GAIN), plan->cycle) <= 0)
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
        "%s: %u blocks of %.1f GB, and %.1f GB for a home, do not fit %u rank%s with %.1f GB in all: "
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

static status_t check_room(const struct plan_request *request, const struct field *field,
                           const struct plan *plan, const char *what, struct error *error)
{
    for (uint32_t i = 0; i < field->ranks; i++)
        if (plan_blocks(plan, i) > (is_home(plan, i) ? field->home_room[i] : field->room[i]))
            return error_set(error, STATUS_NO_MEMORY,
                             "%s: %u blocks of %.1f GB do not fit rank %u with %.1f GB", what,
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
    return check_room(request, field, plan, "--split", error);
}

/* "--stage-width 2": stages of two ranks that share the tokens, with as many blocks each as can be even, or as --split says.
 * Home is one of the first stage and keeps no blocks to itself, so that all of them are shared. */
static status_t lay_wide(const struct plan_request *request, const struct field *field, struct plan *plan,
                         struct error *error)
{
    const struct plan_wish *wish = request->wish;
    uint32_t width = wish->width, stages = field->ranks / width, sum = 0;
    if (field->ranks % width)
        return error_set(error, STATUS_INVALID, "--stage-width %u: %u ranks cannot stand in stages of %u",
                         width, field->ranks, width);
    if (request->heads % width)
        return error_set(
            error, STATUS_INVALID,
            "--stage-width %u: %u attention heads cannot be dealt to %u ranks: it must divide them", width,
            request->heads, width);
    if (wish->has_fold || wish->home == PLAN_HOME_FLOATING)
        return error_set(error, STATUS_INVALID,
                         "--stage-width %u: rank 0 is home and keeps no blocks to itself: leave %s out",
                         width, wish->has_fold ? "--fold" : "--home floating");
    if (wish->runs > 0 && wish->runs != field->ranks)
        return error_set(error, STATUS_INVALID, "--split: names %u ranks, the group has %u", wish->runs,
                         field->ranks);
    *plan = capped(field, 0, 0, false);
    plan->width = width;
    for (uint32_t i = 0; i < field->ranks; i++) {
        uint32_t stage = i / width;
        plan->run[i] =
            wish->runs ? wish->run[i] : field->layers * (stage + 1) / stages - field->layers * stage / stages;
        if (plan->run[i] != plan->run[stage * width])
            return error_set(error, STATUS_INVALID,
                             "--split: ranks %u and %u are one stage and hold the same blocks", stage * width,
                             i);
        if (i % width == 0) sum += plan->run[i];
    }
    if (sum != field->layers)
        return error_set(error, STATUS_INVALID,
                         "--split: the stages add up to %u blocks, must be %u for this model", sum,
                         field->layers);
    return check_room(request, field, plan, "--stage-width", error);
}

/* ---------------------------------------------------------------------------------------------- the contract
 */

/* How a layout is written down: without caps all that a fixed home holds is its head. */
static void settle(const struct field *field, struct plan *plan)
{
    if (!plan->floating && caps(plan) == 0 && plan_width(plan) == 1) {
        plan->head = plan->run[0];
        plan->run[0] = 0;
    }
    plan->jobs_to_saturate = jobs_for(field, plan);
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
    const char *what = wish->width > 1  ? "--stage-width"
                       : wish->runs > 0 ? "--split"
                       : wish->has_fold ? "--fold"
                                        : "--home floating";
    status_t status = STATUS_OK;
    if (wish->width > 1)
        status = lay_wide(request, field, plan, error);
    else if (wish->runs > 0)
        status = lay_split(request, field, plan, error);
    else if (wish->has_fold)
        status = lay_fold(request, field, plan, error);
    else if (!lay_caps(field, true, plan))
        status = no_room(request, what, error);
    if (status != STATUS_OK) return status;
    plan->cycle = cycle_of(field, plan, &field->mix);
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
    status_t status = make_field(request, &field, error);
    if (status != STATUS_OK) return status;
    if (!lay_even(&field, &made)) return no_room(request, "plan", error);
    double uncached = made.cycle_uncached;
    if (field.ranks > 1 || (wish && wish->width > 1)) { /* else one rank holds everything */
        if (wish && (wish->width > 1 || wish->runs > 0 || wish->has_fold || wish->home == PLAN_HOME_FLOATING))
            status = lay_wish(request, &field, uncached, &made, error);
        else
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
    own.mix = *mix;
    status_t status = make_field(&own, &field, error);
    if (status != STATUS_OK) return status;
    if (plan->ranks != field.ranks || plan->layers != field.layers)
        return error_set(error, STATUS_INVALID, "plan: is of %u blocks on %u ranks, not of %u on %u",
                         plan->layers, plan->ranks, field.layers, field.ranks);
    if (!lay_even(&field, &even)) return no_room(&own, "plan", error);
    double cycle = cycle_of(&field, plan, &field.mix);
    if (compare(cycle, FOREIGN_SLACK * even.cycle_uncached) <= 0) return STATUS_OK;
    return too_slow("this layout", &field.mix, cycle, even.cycle_uncached,
                    field.mix.hit_rate > 0 ? "lay the ranks out anew for it, or submit with cache off"
                                           : "lay the ranks out anew for it",
                    error);
}

double plan_cycle(const struct plan *plan, const struct plan_request *request)
{
    struct field field;
    if (make_field(request, &field, NULL) != STATUS_OK || plan->ranks != field.ranks ||
        plan->layers != field.layers)
        return 0;
    return cycle_of(&field, plan, &field.mix);
}

uint32_t plan_blocks(const struct plan *plan, uint32_t rank)
{
    return plan->run[rank] + (is_home(plan, rank) ? caps(plan) : 0) + (rank == 0 ? plan->spare : 0);
}

/* To a fixed home its own run of the ring is more head. */
bool plan_equal(const struct plan *a, const struct plan *b)
{
    if (plan_width(a) != plan_width(b) || a->ranks != b->ranks || a->layers != b->layers ||
        a->floating != b->floating || a->tail != b->tail || a->spare != b->spare ||
        a->head + a->run[0] != b->head + b->run[0] || (a->floating && a->head != b->head))
        return false;
    return memcmp(a->run + 1, b->run + 1, (a->ranks - 1) * sizeof *a->run) == 0;
}

/* ------------------------------------------------------------------------------------------------ for people
 */

/* Reads "N" of at most four digits and what follows it, which must be `next`; NULL if it is not so. Digits
 * only: strtoul would take signs and blanks. */
static const char *read_number(const char *text, uint32_t *number)
{
    *number = 0;
    for (int digits = 0; digits < 5; digits++, text++) {
        if (*text < '0' || *text > '9') return digits > 0 ? text : NULL;
        *number = 10 * *number + (uint32_t)(*text - '0');
    }
    return NULL; /* too long */
}

status_t plan_read_fold(const char *text, struct plan_wish *wish, struct error *error)
{
    uint32_t head, tail;
    const char *at = read_number(text, &head);
    if (at) at = *at == ',' ? read_number(at + 1, &tail) : NULL;
    if (!at || *at)
        return error_set(error, STATUS_INVALID, "--fold '%.40s': must be HEAD,TAIL in blocks, such as 1,0",
                         text);
    wish->has_fold = true;
    wish->fold_head = head;
    wish->fold_tail = tail;
    return STATUS_OK;
}

status_t plan_read_split(const char *text, struct plan_wish *wish, struct error *error)
{
    const char *at = text;
    uint32_t count = 0, run[PLAN_MAX_RANKS];
    for (;;) {
        at = count < PLAN_MAX_RANKS ? read_number(at, &run[count++]) : NULL;
        if (!at || *at != ',') break;
        at++;
    }
    if (!at || *at)
        return error_set(
            error, STATUS_INVALID,
            "--split '%.40s': must be the blocks of each rank, home's first, such as 9,10,10,11 (at most %d)",
            text, PLAN_MAX_RANKS);
    memcpy(wish->run, run, count * sizeof *run);
    wish->runs = count;
    return STATUS_OK;
}

/* Text for people: it ends early where there is no more room, as a thousand ranks do not fit a line. */
struct line {
    char *text;
    size_t bytes, used;
};

static void put(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct line *line, const char *format, ...)
{
    va_list arguments;
    if (line->used >= line->bytes) return;
    va_start(arguments, format);
    int length = vsnprintf(line->text + line->used, line->bytes - line->used, format, arguments);
    va_end(arguments);
    if (length > 0) line->used += (size_t)length;
}

void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes)
{
    struct line line = {text, bytes, 0};
    put(&line, "%u rank%s, ", plan->ranks, plan->ranks == 1 ? "" : "s");
    if (plan_width(plan) > 1) {
        put(&line, "%u stage%s of %u, blocks %u", plan->ranks / plan->width,
            plan->ranks > plan->width ? "s" : "", plan->width, plan->run[0]);
        for (uint32_t i = plan->width; i < plan->ranks; i += plan->width) put(&line, "+%u", plan->run[i]);
        put(&line, ", %s", backend);
        return;
    }
    if (plan->floating) {
        if (caps(plan) > 0)
            put(&line, "%u block%s everywhere, %u", caps(plan), caps(plan) == 1 ? "" : "s", plan->run[0]);
        else
            put(&line, "homes everywhere, blocks %u", plan->run[0]);
        for (uint32_t i = 1; i < plan->ranks; i++) put(&line, "+%u", plan->run[i]);
        put(&line, caps(plan) > 0 ? " around, %s" : ", %s", backend);
        return;
    }
    put(&line, "blocks %u", plan->head);
    if (plan->run[0] > 0) put(&line, "+%u", plan->run[0]);
    if (plan->spare > 0) put(&line, "(+%u spare)", plan->spare);
    for (uint32_t i = 1; i < plan->ranks; i++)
        if (plan->run[i] > 0) put(&line, "%c%u", plan->run[0] > 0 ? ' ' : '+', plan->run[i]);
    if (plan->tail > 0) put(&line, "(+%u)", plan->tail);
    put(&line, ", %s", backend);
}
