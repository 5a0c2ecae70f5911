/*
 * test_plan_chains.c - layouts of several chains: against a search through all cuts, for a job alone and for a queue,
 * with unequal pools, little memory, and jobs that they were not made for.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>
#include "rules/plan.h"

#define GB 1000000000ull

static struct plan make(const struct plan_request *request)
{
    struct error error = {0};
    struct plan plan;
    status_t status = plan_make(request, &plan, &error);
    if (status != STATUS_OK) fail_msg("%s", error.text);
    return plan;
}

static void expect(status_t status, const struct plan_request *request, const char *needle)
{
    struct error error = {0};
    struct plan plan;
    assert_int_equal(plan_make(request, &plan, &error), status);
    if (!strstr(error.text, needle)) fail_msg("\"%s\" is not in: %s", needle, error.text);
}

static void expect_text(const struct plan *plan, const char *expected)
{
    char text[200];
    plan_describe(plan, "x", text, sizeof text);
    assert_string_equal(text, expected);
}

/* Each chain has every block of the ring once. */
static void expect_complete(const struct plan *plan)
{
    for (uint32_t c = 0; c < plan_chains(plan); c++) {
        uint32_t sum = plan->head + plan->tail;
        for (uint32_t i = 0; i < plan->ranks; i++) sum += plan_run(plan, c, i);
        assert_int_equal(sum, plan->layers);
    }
}

/* The shortest cycle of a fixed home with F + 0 caps and two rings of which home has the line's first blocks: all cuts of
 * the line tried, and none of the memory looked at. Ranks are alike. `from`: cut by those before. */
static double best_cut(uint32_t ranks, uint32_t left, double base, double each)
{
    if (ranks == 1) return base + left * each;
    double best = INFINITY;
    for (uint32_t own = 0; own <= left; own++) {
        double rest = best_cut(ranks - 1, left - own, 0, each), mine = base + own * each;
        double most = mine > rest ? mine : rest;
        if (most < best) best = most;
    }
    return best;
}

static void no_cut_of_the_branches_is_faster_than_the_one_chosen(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG, .home = PLAN_HOME_FIXED};
    for (uint32_t ranks = 2; ranks <= 5; ranks++)
        for (uint32_t head = 0; head <= 2; head++)
            for (int hits = 0; hits <= 6; hits += 2) {
                struct plan_request request = {
                    .layers = 9,
                    .ranks = ranks,
                    .wish = &wish,
                    .mix = {.branches = 2, .head = head, .hit_rate = hits / 10.0, .home_work = 0.25}};
                struct plan plan = make(&request);
                double each = 1 - request.mix.hit_rate;
                double folded = best_cut(ranks, 2 * (9 - head), 2 * (head + 0.25), each);
                /* Without a hit there is nothing to fold. */
                double even = best_cut(ranks, 18, 0.5, 1);
                expect_complete(&plan);
                assert_int_equal(plan_chains(&plan), 2);
                if (hits > 0 && plan.head == head) {
                    assert_true(plan.cycle >= folded - 1e-9);
                    assert_true(ranks == 2 || plan.cycle <= folded + 1e-9);
                } else if (hits == 0) {
                    assert_true(plan.cycle >= even - 1e-9);
                    assert_true(ranks == 2 || plan.cycle <= even + 1e-9);
                }
                /* On two ranks each has a branch, whatever home does beside: a job alone is done sooner. */
                if (ranks == 2) assert_true(plan_run(&plan, 0, 1) == 0 && plan_run(&plan, 1, 0) == 0);
            }
}

static void a_job_alone_waits_for_one_branch_only(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_request request = {.layers = 40, .mix = {.branches = 2}};
    for (request.ranks = 2; request.ranks <= 8; request.ranks++) {
        request.wish = NULL;
        struct plan pipeline = make(&request);
        request.wish = &wish;
        struct plan cfg = make(&request);
        double blocks = ceil(40.0 / request.ranks);
        assert_true(fabs(pipeline.alone - (40 + blocks)) < 1e-9); /* one behind the other */
        assert_true(fabs(cfg.alone - 40) < 1e-9);
        /* To a queue it is all the same, but for whole blocks. */
        assert_true(fabs(cfg.cycle - ceil(80.0 / request.ranks)) < 1e-9);
        assert_true(cfg.cycle <= pipeline.cycle);
        assert_true(cfg.jobs_to_saturate <= pipeline.jobs_to_saturate);
        assert_true(fabs(plan_alone(&cfg, &request) - cfg.alone) < 1e-9);
        assert_true(fabs(plan_cycle(&cfg, &request) - cfg.cycle) < 1e-9);
    }
}

static void home_and_hops_are_part_of_what_a_job_alone_takes(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_request request = {
        .layers = 8, .ranks = 2, .wish = &wish, .mix = {.branches = 2, .home_work = 1, .hop = 0.25}};
    struct plan plan = make(&request);
    /* Home begins the second branch (1/2), sends it, begins and computes the first (1/2 + 8), ends both (1/2 each); the
     * second came back at 1/2 + 8 + 2/4. */
    assert_true(fabs(plan.alone - (0.5 + 0.5 + 8 + 1)) < 1e-9);
    request.mix.hop = 2;
    /* Now home waits for it, and ends the first meanwhile. */
    assert_true(fabs(make(&request).alone - (0.5 + 8 + 4 + 0.5)) < 1e-9);
}

static void jobs_without_guidance_leave_the_layout_alone(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_request request = {.layers = 30, .ranks = 4, .wish = &wish, .mix = {.branches = 2}};
    struct error error;
    struct plan guided = make(&request);
    request.mix.branches = 1;
    struct plan single = make(&request);
    assert_true(plan_equal(&guided, &single));
    assert_true(fabs(single.cycle - 15) < 1e-9); /* two of the four ranks have nothing to do */
    assert_int_equal(plan_check(&guided, &request, &request.mix, &error), STATUS_OK);
    request.wish = NULL; /* whoever is free to choose does not keep it for them */
    assert_int_equal(plan_check(&guided, &request, &request.mix, &error), STATUS_INVALID);
    assert_int_equal(plan_chains(&(struct plan){.ranks = 4}), 1);
}

/* 40 steps, 26 of them before the boundary: parallelism.md 2 and 5. */
static struct plan_request two_experts(const struct plan_wish *wish)
{
    return (struct plan_request){
        .layers = 40, .ranks = 8, .wish = wish, .mix = {.branches = 2, .experts = 2, .first_share = 0.65}};
}

static void five_and_three_ranks_beat_four_and_four(void **state)
{
    struct plan_wish even = {.layout = PLAN_LAYOUT_POOLS, .pool = 4}, free = {.layout = PLAN_LAYOUT_POOLS};
    struct plan_request half = two_experts(&even), found = two_experts(&free);
    struct plan by_halves = make(&half), by_steps = make(&found);
    expect_complete(&by_steps);
    assert_true(fabs(by_halves.cycle - 2 * 0.65 * 10) < 1e-9);
    assert_true(fabs(by_steps.cycle - 2 * 0.65 * 8) < 1e-9);
    assert_true(by_halves.cycle >= 1.2 * by_steps.cycle);
    expect_text(&by_steps, "8 ranks, experts 8+8+8+8+8+0+0+0 and 0+0+0+0+0+13+13+14, x");
    /* Slices of both experts on every rank are no worse for a queue, but twice as many hops. */
    struct plan_request both = two_experts(NULL);
    assert_true(make(&both).cycle <= by_steps.cycle);
}

static void pools_are_as_large_as_an_operator_says(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_POOLS};
    struct plan_request request = two_experts(&wish);
    struct error error;
    struct plan plan;
    assert_int_equal(plan_read_pools("6+2", &wish, &error), STATUS_OK);
    plan = make(&request);
    for (uint32_t rank = 0; rank < 8; rank++) assert_true((plan_run(&plan, 0, rank) > 0) == (rank < 6));
    assert_string_equal(plan_kind(&plan), "pools");
    request.ranks = 7;
    assert_int_equal(plan_make(&request, &plan, &error), STATUS_INVALID);
    assert_string_equal(error.text, "--pools 6+2: the group has 7 ranks");
    request.ranks = 8; /* in stages of two */
    request.heads = 12;
    wish.width = 2;
    plan = make(&request);
    for (uint32_t rank = 0; rank < 8; rank++) assert_true((plan_run(&plan, 0, rank) > 0) == (rank < 6));
    assert_string_equal(plan_kind(&plan), "pools with wide stages");
    assert_int_equal(plan_read_pools("5+3", &wish, &error), STATUS_OK);
    assert_int_equal(plan_make(&request, &plan, &error), STATUS_INVALID);
    assert_string_equal(error.text, "--stage-width 2: a pool of 5 ranks is not of whole stages");
}

/* The first expert, of 0.65 of the steps, skips nine in ten, the second nothing: what is left to compute is mostly the
 * second's, and so are the ranks. */
static void pools_go_where_the_misses_are(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_POOLS};
    struct plan_request request = two_experts(&wish);
    request.mix.expert_hits[0] = 0.9;
    request.mix.hit_rate = 0.9 * 0.65;
    struct plan plan = make(&request);
    expect_complete(&plan);
    uint32_t first = 0;
    for (uint32_t rank = 0; rank < 8; rank++) first += plan_run(&plan, 0, rank) > 0;
    assert_int_equal(first, 2);
    assert_true(fabs(plan.cycle - 2 * 0.35 * 7) < 1e-9);
    assert_true(fabs(plan_alone(&plan, &request) - plan.alone) < 1e-9);
    assert_true(fabs(plan.cycle_uncached - 2 * 0.65 * 8) < 1e-9);
    struct plan_request mean =
        two_experts(&wish); /* with the mean of both for each, the pools would be others */
    mean.mix.hit_rate = request.mix.hit_rate;
    struct plan worse = make(&mean);
    assert_true(plan_cycle(&worse, &request) > 1.3 * plan.cycle);
}

/* A block of two ranks takes half of it and the exchange, and home's own work is not shared. */
static void a_wide_stage_pays_for_its_exchange(void **state)
{
    struct plan_wish wish = {.width = 2};
    struct plan_request request = {
        .layers = 40, .ranks = 4, .wish = &wish, .heads = 12, .mix = {.branches = 2}};
    struct plan free = make(&request);
    assert_true(fabs(free.cycle - 2 * 20 * 0.5) < 1e-9);
    request.mix.exchange = 0.25;
    struct plan plan = make(&request);
    assert_true(fabs(plan.cycle - 2 * 20 * 0.75) < 1e-9 && fabs(plan.alone - 1.5 * free.alone) < 1e-9);
    assert_true(fabs(plan_cycle(&free, &request) - plan.cycle) < 1e-9);
    request.mix.home_work = 3;
    request.ranks = 2;
    assert_true(fabs(make(&request).cycle - 2 * (40 * 0.75 + 3)) < 1e-9);
}

static void pools_may_have_chains_for_branches(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG_POOLS};
    struct plan_request request = two_experts(&wish);
    struct plan plan = make(&request);
    expect_complete(&plan);
    assert_int_equal(plan_chains(&plan), 4);
    assert_true(fabs(plan.alone - 40) < 1e-9);
    for (uint32_t rank = 0; rank < 8; rank++) /* whole ranks for an expert */
        assert_true((plan_run(&plan, 0, rank) + plan_run(&plan, 1, rank) > 0) !=
                    (plan_run(&plan, 2, rank) + plan_run(&plan, 3, rank) > 0));
    request.mix.experts = 1; /* a model of one expert has no pools */
    plan = make(&request);
    assert_int_equal(plan_chains(&plan), 2);
    wish.layout = PLAN_LAYOUT_POOLS;
    plan = make(&request);
    assert_int_equal(plan_chains(&plan), 1);
}

static void chains_take_the_memory_of_all_their_blocks(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_seat seats[4];
    struct plan_request request = {.layers = 10,
                                   .ranks = 4,
                                   .seats = seats,
                                   .wish = &wish,
                                   .mix = {.branches = 2},
                                   .block_bytes = GB,
                                   .home_bytes = 2 * GB};
    for (int i = 0; i < 4; i++) seats[i] = (struct plan_seat){.speed = 1, .memory_bytes = 7 * GB};
    struct plan plan = make(&request);
    for (uint32_t i = 0; i < 4; i++) assert_true(plan_blocks(&plan, i) <= 7 - 2 * (i == 0));
    for (int i = 0; i < 4; i++) seats[i].memory_bytes = 5 * GB; /* 3 + 5 + 5 + 5 of 20 */
    expect(STATUS_NO_MEMORY, &request, "do not fit 4 ranks");
    wish.layout = PLAN_LAYOUT_PIPELINE;
    assert_int_equal(plan_chains(&(struct plan){0}), 1);
    plan = make(&request);
    assert_int_equal(plan_chains(&plan), 1);
}

/* A fast rank may have the whole of one branch and the beginning of the other: no weights twice. */
static void blocks_that_a_rank_runs_for_both_branches_are_held_once(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_seat seats[2] = {{.speed = 3}, {.speed = 1}};
    struct plan_request request = {
        .layers = 8, .ranks = 2, .seats = seats, .wish = &wish, .mix = {.branches = 2}};
    struct plan plan = make(&request);
    expect_text(&plan, "2 ranks, branches 8+0 and 4+4, x");
    assert_int_equal(plan_blocks(&plan, 0), 8);
    assert_int_equal(plan_blocks(&plan, 1), 4);
}

static void a_plan_of_chains_says_what_it_is(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_request request = {
        .layers = 40, .ranks = 3, .wish = &wish, .mix = {.branches = 2, .head = 1, .hit_rate = 0.5}};
    struct plan plan = make(&request);
    expect_text(&plan, "3 ranks, 1 block at home, branches 24+15+0 and 0+12+27, x");
    wish.home = PLAN_HOME_FLOATING;
    plan = make(&request);
    expect_text(&plan, "3 ranks, 1 block everywhere, branches 26+13+0 and 0+13+26, x");
    request = (struct plan_request){.layers = 8, .ranks = 2, .wish = &wish, .mix = {.branches = 2}};
    plan = make(&request);
    expect_text(&plan, "2 ranks, homes everywhere, branches 8+0 and 0+8, x");
    wish.home = PLAN_HOME_AUTO;
    plan = make(&request);
    expect_text(&plan, "2 ranks, branches 8+0 and 0+8, x");
    request.ranks = 1; /* one rank has all there is */
    plan = make(&request);
    expect_text(&plan, "1 rank, blocks 8, x");
}

static void wishes_that_do_not_go_together_are_refused(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG, .runs = 2, .run = {4, 4}};
    struct plan_request request = {.layers = 8, .ranks = 2, .wish = &wish, .mix = {.branches = 2}};
    expect(STATUS_INVALID, &request, "--split: says nothing of several chains");
    wish = (struct plan_wish){.layout = PLAN_LAYOUT_POOLS, .pool = 8};
    request = two_experts(&wish);
    expect(STATUS_INVALID, &request, "8 of 8 ranks for the first expert");
    wish = (struct plan_wish){.layout = PLAN_LAYOUT_CFG, .has_fold = true, .fold_head = 1};
    request = (struct plan_request){.layers = 9, .ranks = 3, .wish = &wish, .mix = {.branches = 2}};
    struct plan plan = make(&request); /* a fold does */
    expect_text(&plan, "3 ranks, 1 block at home, branches 0+8+0 and 0+0+8, x");
}

/* Home alone would run what hits run for both branches; unfolded they travel, which costs what it brings up to a tenth. */
static void caps_stay_in_the_chains_where_home_would_be_the_busiest(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG, .home = PLAN_HOME_FIXED};
    struct plan_request request = {.layers = 40, .ranks = 4, .wish = &wish, .mix = {2, 1, 1, 8, 0, 0.7}};
    struct plan plan = make(&request);
    assert_int_equal(plan.head, 0);
    assert_true(plan.cycle < 0.75 * 2 * 8);
    request.mix.head = request.mix.tail = 2;
    plan = make(&request);
    assert_int_equal(plan.head + plan.tail, 4);
}

/* A step that hits walks to the ranks that hold what it runs. */
static void hits_that_travel_take_their_time(void **state)
{
    struct plan_wish wish = {.even = true};
    struct plan_request request = {
        .layers = 8, .ranks = 4, .wish = &wish, .mix = {1, 1, 1, 1, 2, 1, .hop = 0.25}};
    struct plan plan = make(&request);
    assert_true(fabs(plan.alone - (1 + 2 + 2 * 0.25)) < 1e-9);
    request.mix.branches = 2;
    plan = make(&request);
    assert_true(fabs(plan.alone - (1 + 2 + 2 * 0.25 + 2)) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caps_stay_in_the_chains_where_home_would_be_the_busiest),
        cmocka_unit_test(hits_that_travel_take_their_time),
        cmocka_unit_test(no_cut_of_the_branches_is_faster_than_the_one_chosen),
        cmocka_unit_test(a_job_alone_waits_for_one_branch_only),
        cmocka_unit_test(home_and_hops_are_part_of_what_a_job_alone_takes),
        cmocka_unit_test(jobs_without_guidance_leave_the_layout_alone),
        cmocka_unit_test(five_and_three_ranks_beat_four_and_four),
        cmocka_unit_test(pools_go_where_the_misses_are),
        cmocka_unit_test(pools_are_as_large_as_an_operator_says),
        cmocka_unit_test(a_wide_stage_pays_for_its_exchange),
        cmocka_unit_test(pools_may_have_chains_for_branches),
        cmocka_unit_test(chains_take_the_memory_of_all_their_blocks),
        cmocka_unit_test(blocks_that_a_rank_runs_for_both_branches_are_held_once),
        cmocka_unit_test(a_plan_of_chains_says_what_it_is),
        cmocka_unit_test(wishes_that_do_not_go_together_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
