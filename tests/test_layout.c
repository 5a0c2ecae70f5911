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
#include "coordinator/layout.h"

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
