/*
 * test_finish.c - groups and queues played forward: against sums that can be done by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include "coordinator/finish.h"

enum { MODEL = 7, OTHER = 8 };

/* The same for all jobs and groups. */
static void one_cost(void *context, size_t job, int group, struct finish_cost *cost)
{
    *cost = *(const struct finish_cost *)context;
}

/* A step of job i takes (i + 1) times as long; on the second group twice that. */
static void longer_each(void *context, size_t job, int group, struct finish_cost *cost)
{
    one_cost(context, job, group, cost);
    double times = ((double)job + 1) * (group + 1);
    cost->alone *= times;
    cost->cycle *= times;
}

static struct finish_job waiting(double steps)
{
    return (struct finish_job){.group = -1, .model = MODEL, .steps = steps, .tail = 1};
}

static void expect(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-6)) fail_msg("%.9g, should be %.9g", found, wanted);
}

static void one_rank_does_one_job_after_the_other(void **state)
{
    struct finish_group group = {.limit = 1, .model = MODEL};
    struct finish_job jobs[] = {waiting(10), waiting(20), waiting(30)};
    struct finish_cost cost = {.alone = 1, .cycle = 1, .tail_alone = 5, .tail_cycle = 5};
    finish_play(&group, 1, jobs, 3, one_cost, &cost);
    expect(jobs[0].done, 15);
    expect(jobs[1].done, 40);
    expect(jobs[2].done, 75);
}

/* A step walks for 4 and takes 1 of the busiest rank: four jobs do not feel each other, eight take twice as long. */
static void jobs_share_ranks_until_these_are_busy(void **state)
{
    struct finish_group group = {.limit = 16, .even = true, .model = MODEL};
    struct finish_cost cost = {.alone = 4, .cycle = 1};
    for (size_t count = 1; count <= 8; count *= 2) {
        struct finish_job jobs[8];
        for (size_t i = 0; i < count; i++) jobs[i] = waiting(10);
        finish_play(&group, 1, jobs, count, one_cost, &cost);
        for (size_t i = 0; i < count; i++) expect(jobs[i].done, count <= 4 ? 40 : 80);
    }
}

static void at_one_pace_short_jobs_end_first_and_the_rest_goes_faster(void **state)
{
    struct finish_group group = {.limit = 4, .even = true, .model = MODEL};
    struct finish_job jobs[] = {waiting(10), waiting(20)};
    struct finish_cost cost = {.alone = 1, .cycle = 1};
    finish_play(&group, 1, jobs, 2, one_cost, &cost);
    expect(jobs[0].done, 20);
    expect(jobs[1].done, 30);
}

static void a_fixed_home_serves_the_first_first(void **state)
{
    struct finish_group group = {.limit = 4, .model = MODEL};
    struct finish_job jobs[] = {waiting(10), waiting(20)};
    struct finish_cost cost = {.alone = 1, .cycle = 0.75};
    finish_play(&group, 1, jobs, 2, one_cost, &cost);
    expect(jobs[0].done, 10);
    /* In these ten it had a quarter of the time, a third of a step each. */
    expect(jobs[1].done, 10 + 20 - 10.0 / 3);
}

static void what_is_left_of_a_running_job_is_what_counts(void **state)
{
    struct finish_group group = {.limit = 1, .model = MODEL};
    struct finish_job jobs[] = {{.group = 0, .model = MODEL, .steps = 0, .tail = 0.5}, waiting(10)};
    struct finish_cost cost = {.alone = 1, .cycle = 1, .tail_alone = 4, .tail_cycle = 4};
    finish_play(&group, 1, jobs, 2, one_cost, &cost);
    expect(jobs[0].done, 2);
    expect(jobs[1].done, 16);
}

static void a_higher_priority_takes_the_ranks_for_itself(void **state)
{
    struct finish_group group = {.limit = 1, .even = true, .model = MODEL};
    struct finish_job jobs[] = {{.group = 0, .model = MODEL, .steps = 10, .tail = 1}, waiting(5)};
    struct finish_cost cost = {.alone = 1, .cycle = 1};
    jobs[1].priority = 1;
    finish_play(&group, 1, jobs, 2, one_cost, &cost);
    expect(jobs[1].done, 5);
    expect(jobs[0].done, 15);
}

static void the_next_job_goes_where_a_place_is_free_first(void **state)
{
    struct finish_group groups[2] = {{.limit = 1, .model = MODEL}, {.limit = 1, .model = MODEL}};
    struct finish_job jobs[] = {waiting(12), waiting(2), waiting(2)};
    struct finish_cost cost = {.alone = 1, .cycle = 1};
    finish_play(groups, 2, jobs, 3, longer_each, &cost);
    expect(jobs[0].done, 12);
    expect(jobs[1].done, 8);         /* twice as long a step, on ranks half as fast */
    expect(jobs[2].done, 8 + 2 * 6); /* the same ranks, as the others are busy until 12 */
}

static void another_model_waits_until_the_ranks_are_empty_and_is_loaded(void **state)
{
    struct finish_group group = {.limit = 4, .model = MODEL, .load = 3};
    struct finish_job jobs[] = {waiting(10), waiting(10), waiting(10)};
    struct finish_cost cost = {.alone = 1, .cycle = 0.1};
    jobs[1].model = OTHER;
    finish_play(&group, 1, jobs, 3, one_cost, &cost);
    expect(jobs[0].done, 10);
    expect(jobs[1].done, 23);
    expect(jobs[2].done, 36);
    group.model = 0;
    group.ready = 5;
    finish_play(&group, 1, jobs, 1, one_cost, &cost);
    expect(jobs[0].done, 18);
}

static void without_a_group_no_job_is_ever_done(void **state)
{
    struct finish_job jobs[] = {waiting(10)};
    struct finish_cost cost = {.alone = 1, .cycle = 1};
    finish_play(NULL, 0, jobs, 1, one_cost, &cost);
    assert_true(isinf(jobs[0].done));
    struct finish_group closed = {.limit = 0, .model = MODEL};
    finish_play(&closed, 1, jobs, 1, one_cost, &cost);
    assert_true(isinf(jobs[0].done));
}

/* However jobs share them, ranks that are busy do all the work in the same time. */
static void work_is_neither_lost_nor_made(void **state)
{
    for (int even = 0; even <= 1; even++)
        for (uint32_t limit = 2; limit <= 12; limit++) {
            struct finish_group group = {.limit = limit, .even = even, .model = MODEL};
            struct finish_job jobs[40];
            struct finish_cost cost = {.alone = 1, .cycle = 1, .tail_alone = 3, .tail_cycle = 3};
            double all = 0, last = 0;
            for (int i = 0; i < 40; i++) {
                jobs[i] = waiting(1 + i * 7 % 11);
                jobs[i].priority = i % 3;
                all += jobs[i].steps + 3;
            }
            finish_play(&group, 1, jobs, 40, one_cost, &cost);
            for (int i = 0; i < 40; i++) last = fmax(last, jobs[i].done);
            expect(last, all);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_does_one_job_after_the_other),
        cmocka_unit_test(jobs_share_ranks_until_these_are_busy),
        cmocka_unit_test(at_one_pace_short_jobs_end_first_and_the_rest_goes_faster),
        cmocka_unit_test(a_fixed_home_serves_the_first_first),
        cmocka_unit_test(what_is_left_of_a_running_job_is_what_counts),
        cmocka_unit_test(a_higher_priority_takes_the_ranks_for_itself),
        cmocka_unit_test(the_next_job_goes_where_a_place_is_free_first),
        cmocka_unit_test(another_model_waits_until_the_ranks_are_empty_and_is_loaded),
        cmocka_unit_test(without_a_group_no_job_is_ever_done),
        cmocka_unit_test(work_is_neither_lost_nor_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
