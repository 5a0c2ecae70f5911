/*
 * test_layout.c - which chains a group gets where that is left open: by the jobs that wait, their deadline, memory, and what
 * there is already.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include "coordinator/planner/layout.h"

#define GB 1000000000ull

/* Forty blocks of 0.3 s on so many ranks, guided. */
static struct plan_request make_request(uint32_t ranks)
{
    return (struct plan_request){.layers = 40, .ranks = ranks, .mix = {.branches = 2}};
}

static struct layout_load make_load(uint32_t jobs)
{
    return (struct layout_load){.jobs = jobs, .steps = 50, .block_seconds = 0.3, .move_seconds = 20};
}

static struct plan choose(const struct plan_request *request, struct layout_load load, const struct plan *now)
{
    struct error error;
    struct plan plan;
    if (layout_choose(request, &load, now, &plan, &error) != STATUS_OK) fail_msg("%s", error.text);
    return plan;
}

static bool is_parted(const struct plan *plan)
{
    return plan_chains(plan) == 2;
}

static void one_long_job_gets_a_chain_for_each_branch(void **state)
{
    for (uint32_t ranks = 2; ranks <= 8; ranks++) {
        struct plan_request request = make_request(ranks);
        struct layout_load load = make_load(1);
        struct plan plan = choose(&request, load, NULL), pipeline;
        assert_int_equal(plan_make(&request, &pipeline, NULL), STATUS_OK);
        assert_true(is_parted(&plan));
        assert_true(layout_seconds(&plan, &request, &load) <
                    0.95 * layout_seconds(&pipeline, &request, &load));
    }
}

static void jobs_that_fill_a_pipeline_get_one(void **state)
{
    for (uint32_t ranks = 2; ranks <= 8; ranks++) {
        struct plan_request request = make_request(ranks);
        struct plan plan = choose(&request, make_load(2 * ranks), NULL);
        assert_false(is_parted(&plan));
    }
}

/* All that waits would be done in a second or two anyway. */
static void short_jobs_are_not_worth_it(void **state)
{
    struct plan_request request = make_request(2);
    struct layout_load load = make_load(1);
    load.block_seconds = 0.0003;
    struct plan plan = choose(&request, load, NULL);
    assert_false(is_parted(&plan));
}

static void without_branches_or_times_there_is_nothing_to_choose(void **state)
{
    struct plan_request request = make_request(4);
    struct layout_load load = make_load(1);
    load.block_seconds = 0;
    struct plan plan = choose(&request, load, NULL);
    assert_false(is_parted(&plan));
    request.mix.branches = 1;
    plan = choose(&request, make_load(1), NULL);
    assert_false(is_parted(&plan));
}

static void a_model_that_does_not_fit_twice_is_not_held_twice(void **state)
{
    struct plan_request request = make_request(2);
    struct plan_seat seats[2] = {{.memory_bytes = 20 * GB}, {.memory_bytes = 20 * GB}};
    request.seats = seats;
    request.block_bytes = 7 * GB / 10; /* 28 GB in all */
    struct plan plan = choose(&request, make_load(1), NULL);
    assert_false(is_parted(&plan));
    seats[0].memory_bytes = seats[1].memory_bytes = 30 * GB;
    plan = choose(&request, make_load(1), NULL);
    assert_true(is_parted(&plan));
}

static void an_operators_wish_is_not_second_guessed(void **state)
{
    struct plan_request request = make_request(4);
    struct plan_wish wish = {.layout = PLAN_LAYOUT_PIPELINE};
    request.wish = &wish;
    struct plan plan = choose(&request, make_load(1), NULL);
    assert_false(is_parted(&plan));
    wish.layout = PLAN_LAYOUT_CFG;
    plan = choose(&request, make_load(100), NULL);
    assert_true(is_parted(&plan));
}

/* One job more or less than where the two are even, again and again. */
static void layouts_do_not_come_and_go(void **state)
{
    struct plan_request request = make_request(4);
    struct plan now = choose(&request, make_load(1), NULL);
    uint32_t even = 1;
    while (is_parted(&now)) {
        struct plan next = choose(&request, make_load(++even), &now);
        now = next;
        if (even > 60) break; /* with both busy parted chains lose nothing: they may stay */
    }
    int changes = 0;
    bool parted = is_parted(&now);
    for (int i = 0; i < 40; i++) {
        struct plan next = choose(&request, make_load(even - (uint32_t)(i % 2)), &now);
        changes += is_parted(&next) != parted;
        parted = is_parted(&next);
        now = next;
    }
    assert_true(changes <= 1);
}

static void moving_that_costs_more_than_it_brings_is_left(void **state)
{
    struct plan_request request = make_request(4);
    struct layout_load load = make_load(1);
    struct plan pipeline, plan;
    assert_int_equal(plan_make(&request, &pipeline, NULL), STATUS_OK);
    plan = choose(&request, load, &pipeline);
    assert_true(is_parted(&plan));
    load.move_seconds = 1e4;
    plan = choose(&request, load, &pipeline);
    assert_false(is_parted(&plan));
}

static void a_deadline_that_only_one_keeps_is_worth_moving(void **state)
{
    struct plan_request request = make_request(4);
    struct layout_load load = make_load(1);
    struct plan pipeline, parted = choose(&request, load, NULL), plan;
    assert_int_equal(plan_make(&request, &pipeline, NULL), STATUS_OK);
    double slow = layout_seconds(&pipeline, &request, &load), fast = layout_seconds(&parted, &request, &load);
    load.move_seconds = 0.9 * (slow - fast); /* too much for its own sake */
    plan = choose(&request, load, &pipeline);
    assert_false(is_parted(&plan));
    load.deadline = slow - 0.05 * (slow - fast);
    plan = choose(&request, load, &pipeline);
    assert_true(is_parted(&plan));
    load.deadline = slow + 1; /* kept as it is */
    plan = choose(&request, load, &pipeline);
    assert_false(is_parted(&plan));
}

/* ---------------------------------------------------------------------------------------------- with links */

/* 14B at 720p: 75,600 tokens of 5120, blocks of 11 s on such ranks; links of so many GB a second. */
static struct layout_load make_large(uint32_t jobs, double gb_a_second, uint32_t per_node)
{
    struct layout_load load = make_load(jobs);
    load.block_seconds = 11;
    load.tokens = 75600;
    load.head_dim = 128;
    load.operand_bytes = 2;
    planner_add_link(&load.links, true, gb_a_second * 1e9, 20e-6);
    load.links.per_node = per_node;
    return load;
}

static struct plan_request make_wide(uint32_t ranks, uint32_t branches)
{
    struct plan_request request = make_request(ranks);
    request.heads = 40;
    request.mix.branches = branches;
    return request;
}

static void one_job_of_one_branch_gets_wide_stages(void **state)
{
    for (uint32_t ranks = 2; ranks <= 8; ranks += ranks) {
        struct plan_request request = make_wide(ranks, 1);
        struct plan plan = choose(&request, make_large(1, 100, ranks), NULL);
        assert_int_equal(plan_width(&plan), ranks);
        assert_int_equal(plan_chains(&plan), 1);
    }
    /* 3 ranks do not divide 40 heads, 6 do so by two. */
    struct plan_request request = make_wide(3, 1);
    struct plan plan = choose(&request, make_large(1, 100, 3), NULL);
    assert_int_equal(plan_width(&plan), 1);
    request = make_wide(6, 1);
    plan = choose(&request, make_large(1, 100, 6), NULL);
    assert_int_equal(plan_width(&plan), 2);
}

static void with_two_branches_they_are_cut_first_and_width_is_for_what_is_left(void **state)
{
    struct plan_request request = make_wide(2, 2);
    struct plan plan = choose(&request, make_large(1, 100, 2), NULL);
    assert_true(is_parted(&plan) && plan_width(&plan) == 1);
    request = make_wide(8, 2);
    plan = choose(&request, make_large(1, 100, 8), NULL);
    assert_true(is_parted(&plan) && plan_width(&plan) == 4);
}

static void a_queue_gets_no_width_and_neither_do_slow_or_unknown_links(void **state)
{
    struct plan_request request = make_wide(4, 1);
    struct plan plan = choose(&request, make_large(40, 100, 4), NULL);
    assert_int_equal(plan_width(&plan), 1);
    plan = choose(&request, make_large(1, 0.02, 4), NULL); /* an exchange of 29 s for a block of 11 */
    assert_int_equal(plan_width(&plan), 1);
    struct layout_load load = make_large(1, 100, 4);
    load.links = (struct planner_links){0};
    plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 1);
}

/* Two nodes of four: 1 GB/s between them, 100 inside. */
static void width_stays_inside_nodes(void **state)
{
    struct plan_request request = make_wide(8, 1);
    struct layout_load load = make_large(1, 100, 4);
    planner_add_link(&load.links, false, 0.1e9, 50e-6);
    struct plan plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 4);
}

static void what_has_fewer_tokens_than_a_stage_ranks_leaves_what_is(void **state)
{
    struct plan_request request = make_wide(4, 1);
    struct layout_load load = make_large(1, 100, 4);
    struct plan wide = choose(&request, load, NULL);
    assert_true(plan_width(&wide) == 4 && layout_takes(&wide, &load));
    load.tokens = 3;
    assert_false(layout_takes(&wide, &load));
    struct plan plan = choose(&request, load, &wide);
    assert_int_equal(plan_width(&plan), 1);
}

/* What is there is kept as long as another is not worth a load, whatever kind it is. */
static void wide_stages_do_not_come_and_go(void **state)
{
    struct plan_request request = make_wide(4, 1);
    struct plan wide = choose(&request, make_large(1, 100, 4), NULL);
    assert_int_equal(plan_width(&wide), 4);
    int changes = 0;
    for (uint32_t i = 0; i < 40; i++) {
        struct plan next = choose(&request, make_large(1 + i % 2, 100, 4), &wide);
        changes += plan_width(&next) != plan_width(&wide);
        wide = next;
    }
    assert_int_equal(changes, 0);
}

/* A rank of a wide stage times its exchange as well; what one rank would take is found again. */
static void a_block_timed_in_a_wide_stage_is_put_right(void **state)
{
    struct plan_request request = make_wide(4, 1);
    struct layout_load load = make_large(1, 100, 4);
    struct plan wide = choose(&request, load, NULL), plain;
    double width = plan_width(&wide), state_bytes = 75600.0 * 5120 * 2;
    assert_true(width == 4); /* ten heads each: what is not hidden is one all-to-all of four, in two halves */
    double exchange = state_bytes * (width - 1) / (width * width) / 100e9 + 2 * 20e-6;
    load.block_seconds = width * (11 / width + exchange);
    assert_true(fabs(layout_block_seconds(&wide, &request, &load) - 11) < 1e-6);
    /* So slow that q and k stand behind v on the link. */
    load.links = (struct planner_links){0};
    planner_add_link(&load.links, true, 1e9, 20e-6);
    load.links.per_node = 4;
    double product = 2.0 * 5120 / (12 * 5120 + 4 * 75600) * 11 / width; /* no feed-forward, no text */
    double each = state_bytes * (width - 1) / (width * width) / 1e9;
    assert_true(each > product);
    exchange = each + 2 * (each - product) + 2 * 20e-6;
    load.block_seconds = width * (11 / width + exchange);
    assert_true(fabs(layout_block_seconds(&wide, &request, &load) - 11) < 1e-6);
    assert_int_equal(plan_make(&request, &plain, NULL), STATUS_OK);
    load.block_seconds = 11;
    assert_true(layout_block_seconds(&plain, &request, &load) == 11);
}

/* Two ranks of 40 GB hold all forty blocks of 0.7 GB each, and besides heads of 2.7 GB; at home also rows of 2.3 GB. */
static void width_is_paid_for_with_memory(void **state)
{
    struct plan_request request = make_wide(2, 1);
    struct layout_load load = make_large(1, 100, 2);
    struct plan_seat seats[2] = {{.memory_bytes = 40 * GB}, {.memory_bytes = 40 * GB}};
    request.seats = seats;
    request.block_bytes = 7 * GB / 10;
    struct plan plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 2);
    seats[1].memory_bytes = 30 * GB; /* 28 and 2.7 */
    plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 1);
    seats[0].memory_bytes = 32 * GB; /* 28, 2.7 and 2.3 */
    seats[1].memory_bytes = 40 * GB;
    plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 1);
    seats[0].memory_bytes = 34 * GB;
    plan = choose(&request, load, NULL);
    assert_int_equal(plan_width(&plan), 2);
}

/* A model of two experts that fits each rank's memory but once: half of the blocks for both, or all of one. The pipeline has slices
 * of both, pools more hops and no more speed for a queue; where only pools fit they are taken. */
static void two_experts_share_all_ranks_where_they_fit(void **state)
{
    struct plan_request request = make_wide(8, 2);
    request.mix.experts = 2;
    request.mix.first_share = 0.65;
    struct layout_load load = make_large(40, 100, 8);
    struct plan plan = choose(&request, load, NULL);
    assert_int_equal(plan_chains(&plan), 1);
}

/* The simplest is what it is compared with; none of all layouts, tried one by one, is better by more than what a load must bring. */
static void nothing_that_was_not_chosen_is_much_better(void **state)
{
    static const enum plan_layout layouts[] = {PLAN_LAYOUT_PIPELINE, PLAN_LAYOUT_CFG, PLAN_LAYOUT_POOLS,
                                               PLAN_LAYOUT_CFG_POOLS};
    for (uint32_t ranks = 2; ranks <= 8; ranks++)
        for (uint32_t branches = 1; branches <= 2; branches++)
            for (uint32_t experts = 1; experts <= 2; experts++)
                for (uint32_t jobs = 1; jobs <= 32; jobs *= 2) {
                    struct plan_request request = make_wide(ranks, branches), asked;
                    request.mix.experts = experts;
                    request.mix.first_share = experts == 2 ? 0.65 : 1;
                    struct layout_load load = make_large(jobs, 5, ranks);
                    struct plan plan = choose(&request, load, NULL), other;
                    double chosen = layout_seconds(&plan, &request, &load);
                    for (uint32_t width = 1; width <= ranks; width++)
                        for (int i = 0; i < 4; i++) {
                            struct plan_wish wish = {.width = width, .layout = layouts[i]};
                            asked = request;
                            asked.wish = &wish;
                            if (ranks % width || 40 % width || plan_make(&asked, &other, NULL) != STATUS_OK)
                                continue;
                            double seconds = layout_seconds(&other, &request, &load);
                            if (seconds < 0.94 * chosen)
                                fail_msg("%u ranks, %u branches, %u experts, %u jobs: width %u of layout %d "
                                         "takes %g s, "
                                         "the choice %g",
                                         ranks, branches, experts, jobs, width, i, seconds, chosen);
                        }
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_long_job_gets_a_chain_for_each_branch),
        cmocka_unit_test(jobs_that_fill_a_pipeline_get_one),
        cmocka_unit_test(short_jobs_are_not_worth_it),
        cmocka_unit_test(without_branches_or_times_there_is_nothing_to_choose),
        cmocka_unit_test(a_model_that_does_not_fit_twice_is_not_held_twice),
        cmocka_unit_test(an_operators_wish_is_not_second_guessed),
        cmocka_unit_test(layouts_do_not_come_and_go),
        cmocka_unit_test(moving_that_costs_more_than_it_brings_is_left),
        cmocka_unit_test(a_deadline_that_only_one_keeps_is_worth_moving),
        cmocka_unit_test(one_job_of_one_branch_gets_wide_stages),
        cmocka_unit_test(with_two_branches_they_are_cut_first_and_width_is_for_what_is_left),
        cmocka_unit_test(a_queue_gets_no_width_and_neither_do_slow_or_unknown_links),
        cmocka_unit_test(width_stays_inside_nodes),
        cmocka_unit_test(what_has_fewer_tokens_than_a_stage_ranks_leaves_what_is),
        cmocka_unit_test(wide_stages_do_not_come_and_go),
        cmocka_unit_test(a_block_timed_in_a_wide_stage_is_put_right),
        cmocka_unit_test(two_experts_share_all_ranks_where_they_fit),
        cmocka_unit_test(width_is_paid_for_with_memory),
        cmocka_unit_test(nothing_that_was_not_chosen_is_much_better),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
