/*
 * test_movecost.c - when a group is laid out anew while its jobs run: what remains, what it costs, deadlines.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include "coordinator/planner/movecost.h"

enum { LAYERS = 40, RANKS = 2 };

static const struct plan_request request = {.layers = LAYERS, .ranks = RANKS, .mix = {.branches = 2}};
static struct plan pipeline, parted;

static int make_plans(void **state)
{
    struct plan_wish wish = {.layout = PLAN_LAYOUT_CFG};
    struct plan_request asked = request;
    assert_int_equal(plan_make(&request, &pipeline, NULL), STATUS_OK);
    asked.wish = &wish;
    assert_int_equal(plan_make(&asked, &parted, NULL), STATUS_OK);
    return 0;
}

/* A guided job of 0.1 s a block: a step takes 6 s on the pipeline of two, 4 s with a chain for each branch. */
static struct move_job job_of(double steps)
{
    return (struct move_job){.steps = steps, .block = 0.1, .branches = 2};
}

static bool pays(const struct plan *here, const struct plan *there, const struct move_job *jobs, int count,
                 double load, struct move_worth *worth)
{
    struct layout_load all = {.least_seconds = 5};
    assert_true(movecost_load(jobs, count, load, &all));
    return movecost_pays(&(struct move_place){here, &request}, &(struct move_place){there, &request}, jobs,
                         count, &all, worth);
}

static void unequal_jobs_count_in_the_work_of_the_longest(void **state)
{
    struct move_job jobs[4] = {job_of(10), job_of(40), job_of(20), job_of(0)};
    struct layout_load load = {.least_seconds = 5};
    jobs[2].branches = 1; /* half the work */
    jobs[0].again = 3;
    jobs[2].again = 1;
    jobs[1].deadline = 70;
    jobs[2].deadline = 50;
    assert_int_equal(movecost_longest(jobs, 4), 1);
    assert_true(movecost_load(jobs, 4, 7, &load));
    assert_true(load.steps == 40 && load.block_seconds == 0.1);
    assert_true(fabs(load.jobs - 1.5) < 1e-9);
    assert_true(load.move_seconds >= 11 && load.move_seconds < 12);
    assert_true(load.deadline == 50 && load.least_seconds == 5);
}

static void nothing_is_known_of_nothing(void **state)
{
    struct move_job jobs[2] = {job_of(0), job_of(50)};
    struct layout_load load = {0};
    assert_true(movecost_longest(jobs, 1) < 0);
    assert_false(movecost_load(jobs, 1, 1, &load));
    jobs[1].block = 0;
    assert_true(movecost_longest(jobs, 2) < 0);
    assert_true(movecost_longest(NULL, 0) < 0);
}

static void only_the_steps_that_are_left_count(void **state)
{
    struct move_worth worth;
    struct move_job job = job_of(50);
    assert_true(pays(&pipeline, &parted, &job, 1, 10, &worth));
    assert_true(worth.now - worth.then > 90 && worth.now - worth.then < 110);
    assert_true(worth.cost >= 10 && worth.cost < 12);
    job.steps = 5; /* 10 s to be gained, and ten seconds of loading */
    assert_false(pays(&pipeline, &parted, &job, 1, 10, &worth));
    assert_true(pays(&pipeline, &parted, &job, 1, 1, &worth));
    job.steps = 3; /* less than is worth the trouble, whatever it costs */
    assert_false(pays(&pipeline, &parted, &job, 1, 0, &worth));
}

static void what_must_be_done_again_is_a_part_of_the_cost(void **state)
{
    struct move_worth worth;
    struct move_job job = job_of(20);
    assert_true(pays(&pipeline, &parted, &job, 1, 5, &worth));
    job.again = 30;
    assert_false(pays(&pipeline, &parted, &job, 1, 5, &worth));
    /* Four steps since the last checkpoint, two whose features are made again; 125 MB there and back. */
    struct move_loss loss = {.steps = 4, .replayed = 2, .step = 3, .tail = 1.5, .bytes = 125e6};
    assert_true(fabs(movecost_again(&loss) - (18 + 1.5 + 2)) < 1e-9);
    loss.way =
        (struct link){.bytes_per_second = 1e9f, .latency = 0.25f}; /* ten times as fast, as was measured */
    assert_true(fabs(movecost_again(&loss) - (18 + 1.5 + 0.25 + 0.5)) < 1e-9);
}

static void company_decides_which_layout_pays(void **state)
{
    struct move_worth worth;
    struct move_job jobs[4] = {job_of(50), job_of(50), job_of(50), job_of(50)};
    assert_false(pays(&pipeline, &parted, jobs, 4, 1, &worth)); /* both are full */
    for (int i = 1; i < 4; i++) jobs[i].steps = 2;
    assert_true(pays(&pipeline, &parted, jobs, 4, 1, &worth));
    assert_false(pays(&parted, &pipeline, jobs, 4, 1, &worth));
}

static void there_is_no_way_back_at_once(void **state)
{
    struct move_worth worth;
    struct move_job job = job_of(50);
    assert_true(pays(&pipeline, &parted, &job, 1, 1, &worth));
    assert_false(pays(&parted, &parted, &job, 1, 1, &worth));
    assert_false(pays(&parted, &pipeline, &job, 1, 1, &worth));
}

/* Two jobs, of which the urgent one would be late because of the move itself. */
static void no_deadline_that_is_kept_is_given_up(void **state)
{
    struct move_worth worth;
    struct move_job jobs[2] = {job_of(60), job_of(3)};
    assert_true(pays(&pipeline, &parted, jobs, 2, 10, &worth));
    double kept = worth.now * 3 / 60, then = worth.then * 3 / 60 + worth.cost;
    assert_true(kept < then);
    jobs[1].deadline = (kept + then) / 2;
    assert_false(pays(&pipeline, &parted, jobs, 2, 10, &worth));
    jobs[1].deadline = then + 1; /* it is kept anyway */
    assert_true(pays(&pipeline, &parted, jobs, 2, 10, &worth));
    jobs[1].deadline = kept / 2; /* it is missed anyway */
    assert_true(pays(&pipeline, &parted, jobs, 2, 10, &worth));
}

/* What is gained is too little for its own sake. */
static void a_deadline_that_only_another_layout_keeps_is_worth_a_move(void **state)
{
    struct move_worth worth;
    struct move_job job = job_of(10);
    assert_false(pays(&pipeline, &parted, &job, 1, 15, &worth));
    job.deadline = worth.now - 1;
    assert_true(worth.then + worth.cost < job.deadline);
    assert_true(pays(&pipeline, &parted, &job, 1, 15, &worth));
}

static void running_jobs_are_not_moved_on_a_guess(void **state)
{
    struct move_worth worth;
    struct move_job job = job_of(50);
    struct plan other = pipeline;
    other.ranks = 3;
    assert_false(pays(&other, &parted, &job, 1, 1, &worth));
    assert_true(worth.now == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unequal_jobs_count_in_the_work_of_the_longest),
        cmocka_unit_test(nothing_is_known_of_nothing),
        cmocka_unit_test(only_the_steps_that_are_left_count),
        cmocka_unit_test(what_must_be_done_again_is_a_part_of_the_cost),
        cmocka_unit_test(company_decides_which_layout_pays),
        cmocka_unit_test(there_is_no_way_back_at_once),
        cmocka_unit_test(no_deadline_that_is_kept_is_given_up),
        cmocka_unit_test(a_deadline_that_only_another_layout_keeps_is_worth_a_move),
        cmocka_unit_test(running_jobs_are_not_moved_on_a_guess),
    };
    return cmocka_run_group_tests(tests, make_plans, NULL);
}
