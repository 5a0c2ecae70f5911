/*
 * plan_pace.c - how fast a plan is (plan.h): the work of each rank for a step, and a step of one job alone, from block to block and hop to
 * hop. Pure functions.
 */
#include <math.h>
#include "rules/plan_core.h"

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
double plan_home_work(const struct field *field, const struct plan *plan, const struct plan_mix *mix)
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
    double moved = fmin(most * mix->branches, fmax(even, 0));
    work[0] += moved;
    work[1] -= moved;
}

/* Adds to the work of each rank what a chain brings, `times` over. */
static void add_chain(const struct field *field, const struct plan *plan, const struct plan_mix *mix,
                      uint32_t chain, double times, double *work)
{
    uint32_t at = plan->head;
    for (uint32_t i = 0; i < field->ranks; i++) {
        uint32_t run = plan_run(plan, chain, i);
        work[i] += times * work_of(field, mix, at, at + run);
        at += run;
    }
}

/* The time of each rank for one step. Jobs are dealt evenly to the homes there are. */
void plan_times(const struct field *field, const struct plan *plan, const struct plan_mix *mix, double *times)
{
    double home = mix->branches * plan_home_work(field, plan, mix) / (plan->floating ? field->ranks : 1);
    for (uint32_t i = 0; i < field->ranks; i++) times[i] = is_home(plan, i) ? home : 0;
    for (uint32_t e = 0; e < mix->experts; e++) {
        struct plan_mix own = mix_of(mix, e);
        double taken[PLAN_CHAINS] = {0};
        for (uint32_t b = 0; b < smaller(mix->branches, PLAN_BRANCHES); b++)
            taken[plan->chain[e][b]] += share_of(mix, e);
        for (uint32_t c = 0; c < PLAN_CHAINS; c++)
            if (taken[c] > 0) add_chain(field, plan, &own, c, taken[c], times);
    }
    share_spare(field, plan, mix, times);
    for (uint32_t i = 0; i < field->ranks; i++) times[i] /= field->speed[i];
}

/* The busiest rank's. */
double plan_busiest(const struct field *field, const struct plan *plan, const struct plan_mix *mix)
{
    double times[PLAN_MAX_RANKS], busiest = 0;
    plan_times(field, plan, mix, times);
    for (uint32_t i = 0; i < field->ranks; i++) busiest = fmax(busiest, times[i]);
    return busiest;
}

/* A branch's way through a chain, alone. */
struct walk {
    double time;    /* of all runs and hops */
    double slowest; /* rank on it; `ends`, home's own part, included where that has a run */
};

static struct walk walk_of(const struct field *field, const struct plan *plan, uint32_t chain, double ends)
{
    struct walk walk = {0};
    uint32_t away = 0;
    for (uint32_t i = 0; i < field->ranks; i++) {
        double run = plan_run(plan, chain, i) / field->speed[i];
        bool at_home = i == 0 && !plan->floating;
        walk.time += run;
        walk.slowest = fmax(walk.slowest, run + (at_home ? ends : 0));
        away += run > 0 && !at_home;
    }
    walk.time += (away > 0 ? away + 1 : 0) * field->mix.hop;
    return walk;
}

/* A branch's way through the blocks that hits run too. */
struct detour {
    double home,
        away; /* times of those that home holds, with what else it does, and of the others, with the hops there and back */
    double slowest; /* rank of the others */
    uint32_t trips; /* away from home and back: for the first blocks, for the last ones */
};

static struct detour detour_of(const struct field *field, const struct plan *plan, uint32_t chain)
{
    struct plan_mix hits = field->mix;
    uint32_t at = plan->head, hops = 0;
    bool first = false, last = false;
    hits.hit_rate = 1;
    struct detour d = {.home = plan_home_work(field, plan, &hits)};
    for (uint32_t i = 0; i < field->ranks; i++) {
        uint32_t end = at + plan_run(plan, chain, i);
        double work = work_of(field, &hits, at, end);
        if (i == 0 && !plan->floating)
            d.home += work;
        else if (work > 0) {
            bool of_first = at<hits.head, of_last = end> field->layers - hits.tail;
            hops += of_first + of_last;
            first = first || of_first;
            last = last || of_last;
            d.away += work / field->speed[i];
            d.slowest = fmax(d.slowest, work / field->speed[i]);
        }
        at = end;
    }
    d.trips = first + last;
    d.away += (hops + d.trips) * field->mix.hop;
    return d;
}

/* A step of one job alone that is a hit, at a home of that speed; apart: the branches are on chains of their own. */
static double hit_alone(const struct field *field, const struct detour branch[PLAN_BRANCHES], bool apart,
                        double speed)
{
    const struct detour *first = &branch[0], *second = &branch[1];
    if (smaller(field->mix.branches, PLAN_BRANCHES) == 1) return first->home / speed + first->away;
    double both = (first->home + second->home) / speed;
    if (apart) return fmax(second->home / speed + second->away, both + first->away);
    return fmax(both, first->home / speed + first->slowest) + first->away;
}

/* What is judged at home after blocks that lie elsewhere has come back for it. */
static double trips_alone(const struct field *field, const struct detour branch[PLAN_BRANCHES])
{
    double trips = fmax(branch[0].trips, branch[1].trips);
    return field->mix.hit_rate > 0 ? 2 * trips * field->mix.hop : 0;
}

/* No step is done before each rank has done its part for all branches. */
static double busiest_alone(const struct field *field, const struct plan *plan, uint32_t expert, double ends)
{
    double most = 0;
    for (uint32_t i = 0; i < field->ranks; i++) {
        double runs = 0;
        for (uint32_t b = 0; b < PLAN_BRANCHES; b++)
            runs += plan_run(plan, plan->chain[expert][b], i) / field->speed[i];
        bool home = i == 0 && !plan->floating;
        if (runs > 0) most = fmax(most, runs + (home ? PLAN_BRANCHES * ends : ends + 2 * field->mix.hop));
    }
    return most;
}

/* A step of one job alone that is computed. Branches follow each other through the ranks of one chain (parallelism.md
 * 5.2); on chains of their own they are under way together, and home, whose part for each is `ends`, half before and half
 * after the ring, sends the second branch away before it goes on with the first. */
static double miss_alone(const struct field *field, const struct plan *plan, uint32_t expert, double ends)
{
    uint32_t branches = smaller(field->mix.branches, PLAN_BRANCHES);
    struct walk first = walk_of(field, plan, plan->chain[expert][0], ends),
                second = walk_of(field, plan, plan->chain[expert][1], ends);
    if (branches == 1) return first.time + ends;
    if (plan->chain[expert][0] == plan->chain[expert][1])
        return first.time + ends + fmax(first.slowest, ends);
    double back_first = ends + first.time, back_second = ends / 2 + second.time;
    double both = fmax(fmax(back_first, back_second) + ends / 2, fmin(back_first, back_second) + ends);
    return fmax(both, busiest_alone(field, plan, expert, ends));
}

/* One job alone: how long a step takes from end to end, as a mean over hits and misses. */
double plan_step_alone(const struct field *field, const struct plan *plan)
{
    const struct plan_mix *mix = &field->mix;
    struct plan_mix always = *mix; /* home may hold more blocks than a hit runs */
    double speed = 0, step = 0;
    always.hit_rate = 0;
    for (uint32_t i = 0; i < field->ranks; i++) speed += field->speed[i] / field->ranks;
    if (!plan->floating) speed = field->speed[0];
    double ends = plan_home_work(field, plan, &always) / speed;
    for (uint32_t e = 0; e < mix->experts; e++) {
        const uint32_t *chain = plan->chain[e];
        const struct detour branch[] = {detour_of(field, plan, chain[0]), detour_of(field, plan, chain[1])};
        double rate = mix_of(mix, e).hit_rate, hit = hit_alone(field, branch, chain[0] != chain[1], speed);
        double miss = miss_alone(field, plan, e, ends) + trips_alone(field, branch);
        step += share_of(mix, e) * ((1 - rate) * miss + rate * hit);
    }
    return step;
}

/* Little's law: as many as fit into the time of a step. With floating homes as many again, and the same
 * number at each home, as the load of the homes varies with the hits (95 % of the cycle in simulation; as it
 * is one home's jobs that smooth each other otherwise). */
uint32_t plan_jobs(const struct field *field, const struct plan *plan)
{
    double jobs = plan->cycle > 0 ? plan->alone / plan->cycle : 1;
    if (!plan->floating) return jobs > 1 ? (uint32_t)ceil(jobs * (1 - SAME)) : 1;
    return field->ranks * (uint32_t)ceil(2 * ceil(jobs * (1 - SAME)) / field->ranks);
}
