/*
 * test_sim_layouts.c - layouts of several chains on the virtual clock: a job alone with its branches apart, queues, and
 * pools for experts, beside what the plan predicts.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tools/sim/layouts.h"

static struct lab lab, lab_of_two; /* of two experts */

static int open_labs(void **state)
{
    struct error error;
    if (lab_open("tests/models/tiny-a", &lab, &error) != STATUS_OK ||
        lab_open("tests/models/tiny-d", &lab_of_two, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return 0;
}

static int close_labs(void **state)
{
    lab_close(&lab);
    lab_close(&lab_of_two);
    return 0;
}

static struct layout_found simulate(struct lab *where, const struct layout_case *c, double tolerance)
{
    struct layout_found found;
    struct error error;
    if (case_layout(where, c, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    if (fabs(found.simulated / found.predicted - 1) > tolerance)
        fail_msg("%s%d jobs: %.3f block times a step, predicted %.3f", found.text, c->jobs, found.simulated,
                 found.predicted);
    return found;
}

static void a_job_alone_takes_what_the_plan_says(void **state)
{
    for (int ranks = 2; ranks <= 6; ranks++)
        for (int hop = 0; hop <= 1; hop++) {
            struct layout_case c = {.ranks = ranks, .jobs = 1, .layers = 40, .steps = 6, .hop = hop};
            c.layout = PLAN_LAYOUT_PIPELINE;
            c.home = PLAN_HOME_FIXED;
            struct layout_found pipeline = simulate(&lab, &c, 0.03);
            c.layout = PLAN_LAYOUT_CFG;
            struct layout_found cfg = simulate(&lab, &c, 0.03);
            assert_true(cfg.simulated < pipeline.simulated);
        }
}

static void a_queue_is_served_as_fast_with_branches_apart(void **state)
{
    for (int ranks = 2; ranks <= 5; ranks++) {
        struct layout_case c = {
            .ranks = ranks, .jobs = 40, .in_flight = 6, .layers = 40, .steps = 10, .layout = PLAN_LAYOUT_CFG};
        simulate(&lab, &c, 0.03);
        c.home = PLAN_HOME_FLOATING;
        simulate(&lab, &c, 0.05);
    }
}

/* Wan 2.2 T2V: boundary 0.875, shift 12; of 40 steps 26 are the first expert's. */
static struct layout_case two_experts(enum plan_layout layout, int pool)
{
    return (struct layout_case){.ranks = 8,
                                .jobs = 40,
                                .in_flight = 12,
                                .layers = 40,
                                .steps = 40,
                                .layout = layout,
                                .pool = pool,
                                .home = PLAN_HOME_FIXED,
                                .experts = 2,
                                .first_share = 0.65,
                                .shift = 12};
}

static void five_and_three_ranks_beat_four_and_four_by_a_fifth(void **state)
{
    struct layout_case by_halves = two_experts(PLAN_LAYOUT_POOLS, 4),
                       by_steps = two_experts(PLAN_LAYOUT_POOLS, 0);
    struct layout_found halves = simulate(&lab_of_two, &by_halves, 0.05),
                        steps = simulate(&lab_of_two, &by_steps, 0.05);
    assert_non_null(strstr(steps.text, "experts 8+8+8+8+8+0+0+0 and 0+0+0+0+0+13+13+14"));
    if (halves.simulated < 1.2 * steps.simulated)
        fail_msg("4 + 4 ranks: %.3f block times a step, 5 + 3: %.3f", halves.simulated, steps.simulated);
}

static void slices_of_both_experts_on_every_rank_are_no_slower(void **state)
{
    struct layout_case c = two_experts(PLAN_LAYOUT_PIPELINE, 0);
    simulate(&lab_of_two, &c, 0.05);
}

static void pools_may_have_their_branches_apart(void **state)
{
    struct layout_case c = two_experts(PLAN_LAYOUT_CFG_POOLS, 0);
    simulate(&lab_of_two, &c, 0.06);
    c.jobs = 1;
    c.in_flight = 0;
    simulate(&lab_of_two, &c, 0.03);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_alone_takes_what_the_plan_says),
        cmocka_unit_test(a_queue_is_served_as_fast_with_branches_apart),
        cmocka_unit_test(five_and_three_ranks_beat_four_and_four_by_a_fifth),
        cmocka_unit_test(slices_of_both_experts_on_every_rank_are_no_slower),
        cmocka_unit_test(pools_may_have_their_branches_apart),
    };
    return cmocka_run_group_tests(tests, open_labs, close_labs);
}
