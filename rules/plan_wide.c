/*
 * plan_wide.c - layouts whose stages are several ranks wide (plan.h). Pure functions.
 *
 * The ranks of a stage take each hop together, 1 / width of its rows each, so a stage is a rank of width times the speed
 * of its slowest and with the memory of its smallest one. plan.c lays blocks over those, in one chain or several, and what it
 * says of a stage holds for each of its ranks. Its unit is then a block on a stage: a share of a block on a rank, and the exchange. Home is one of the first stage and keeps no blocks to itself, so that all
 * of them are shared, also those that every step runs.
 */
#include "rules/plan.h"

#include <math.h>
#include <string.h>

/* A request with stages as its ranks. */
struct narrow {
    struct plan_request request;
    struct plan_wish wish;
    struct plan_seat seats[PLAN_MAX_RANKS];
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a; /* 0: unknown */
}

/* Seats of one make count as the fastest of them; a stage of several makes is of none. */
static struct plan_seat seat_of_stage(const struct plan_seat *seats, uint32_t width)
{
    struct plan_seat stage = seats[0];
    for (uint32_t i = 1; i < width; i++) {
        stage.speed = fmin(stage.speed, seats[i].speed);
        stage.memory_bytes = least(stage.memory_bytes, seats[i].memory_bytes);
        if (seats[i].make != stage.make) stage.make = 0;
    }
    stage.speed *= width;
    return stage;
}

/* A block on a stage, in block times of a rank. */
static double unit_of(const struct plan_request *request, uint32_t width)
{
    double exchange = request->mix.exchange;
    return 1.0 / width + (exchange > 0 && isfinite(exchange) ? exchange : 0);
}

static void narrow_request(const struct plan_request *request, uint32_t width, struct narrow *n)
{
    double unit = unit_of(request, width);
    n->request = *request;
    n->wish = request->wish ? *request->wish : (struct plan_wish){0};
    n->request.ranks = request->ranks / width;
    n->request.mix.home_work /= unit; /* home alone does that */
    n->request.mix.hop /= unit;
    n->wish.width = 1;
    n->wish.even = true;
    n->wish.pool = n->wish.pool / width;
    n->wish.second_pool = n->wish.second_pool / width;
    for (uint32_t stage = 0; stage < n->wish.runs / width; stage++)
        n->wish.run[stage] = n->wish.run[stage * width];
    n->wish.runs /= width;
    n->request.wish = &n->wish;
    for (uint32_t stage = 0; request->seats && stage < n->request.ranks; stage++)
        n->seats[stage] = seat_of_stage(request->seats + stage * width, width);
    if (request->seats) n->request.seats = n->seats;
}

struct plan plan_wide_stages(const struct plan *plan)
{
    struct plan stages = *plan;
    uint32_t width = plan_width(plan), chains = plan_chains(plan);
    stages.width = 1;
    stages.ranks = plan->ranks / width;
    for (uint32_t c = 0; c < chains; c++)
        for (uint32_t i = 0; i < stages.ranks; i++)
            stages.run[c * stages.ranks + i] = plan_run(plan, c, i * width);
    return stages;
}

/* What plan.c wrote as a fixed home's head are blocks of the first stage here. */
static struct plan widen(const struct plan *stages, uint32_t width)
{
    struct plan wide = *stages;
    uint32_t chains = plan_chains(stages);
    wide.width = width;
    wide.ranks = stages->ranks * width;
    wide.head = 0;
    for (uint32_t c = 0; c < chains; c++)
        for (uint32_t i = 0; i < wide.ranks; i++)
            wide.run[c * wide.ranks + i] = plan_run(stages, c, i / width) + (i < width ? stages->head : 0);
    return wide;
}

status_t plan_wide_wish(const struct plan_request *request, struct error *error)
{
    const struct plan_wish *wish = request->wish;
    uint32_t width = wish->width;
    if (request->ranks % width || request->ranks > PLAN_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "--stage-width %u: %u ranks cannot stand in stages of %u",
                         width, request->ranks, width);
    if (request->heads % width)
        return error_set(
            error, STATUS_INVALID,
            "--stage-width %u: %u attention heads cannot be dealt to %u ranks: it must divide them", width,
            request->heads, width);
    if (wish->has_fold || wish->home == PLAN_HOME_FLOATING)
        return error_set(error, STATUS_INVALID,
                         "--stage-width %u: rank 0 is home and keeps no blocks to itself: leave %s out",
                         width, wish->has_fold ? "--fold" : "--home floating");
    if (wish->pool && wish->second_pool && wish->pool + wish->second_pool != request->ranks)
        return error_set(error, STATUS_INVALID, "--pools %u+%u: the group has %u ranks", wish->pool,
                         wish->second_pool, request->ranks);
    if (wish->pool % width)
        return error_set(error, STATUS_INVALID, "--stage-width %u: a pool of %u ranks is not of whole stages",
                         width, wish->pool);
    if (wish->runs > 0 && wish->runs != request->ranks)
        return error_set(error, STATUS_INVALID, "--split: names %u ranks, the group has %u", wish->runs,
                         request->ranks);
    for (uint32_t i = 0; i < wish->runs; i++)
        if (wish->run[i] != wish->run[i - i % width])
            return error_set(error, STATUS_INVALID,
                             "--split: ranks %u and %u are one stage and hold the same blocks", i - i % width,
                             i);
    return STATUS_OK;
}

status_t plan_wide_make(const struct plan_request *request, struct plan *plan, struct error *error)
{
    uint32_t width = request->wish->width;
    struct narrow n;
    struct plan made;
    status_t status = plan_wide_wish(request, error);
    if (status != STATUS_OK) return status;
    narrow_request(request, width, &n);
    status = plan_make(&n.request, &made, error);
    if (status != STATUS_OK) {
        error_prefix(error, "stages of %u ranks", width);
        return status;
    }
    made = widen(&made, width);
    made.cycle_uncached *= unit_of(request, width);
    made.cycle = plan_wide_cycle(&made, request);
    made.alone = plan_wide_alone(&made, request);
    *plan = made;
    return STATUS_OK;
}

status_t plan_wide_check(const struct plan *plan, const struct plan_request *request,
                         const struct plan_mix *mix, struct error *error)
{
    struct narrow n;
    struct plan stages = plan_wide_stages(plan);
    struct plan_request own = *request;
    own.mix = *mix;
    if (request->ranks != plan->ranks)
        return error_set(error, STATUS_INVALID, "plan: is of %u ranks, not of %u", plan->ranks,
                         request->ranks);
    narrow_request(&own, plan->width, &n);
    return plan_check(&stages, &n.request, &n.request.mix, error);
}

double plan_wide_cycle(const struct plan *plan, const struct plan_request *request)
{
    struct narrow n;
    struct plan stages = plan_wide_stages(plan);
    if (request->ranks != plan->ranks) return 0;
    narrow_request(request, plan->width, &n);
    return plan_cycle(&stages, &n.request) * unit_of(request, plan->width);
}

double plan_wide_alone(const struct plan *plan, const struct plan_request *request)
{
    struct narrow n;
    struct plan stages = plan_wide_stages(plan);
    if (request->ranks != plan->ranks) return 0;
    narrow_request(request, plan->width, &n);
    return plan_alone(&stages, &n.request) * unit_of(request, plan->width);
}
