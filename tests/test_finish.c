/*
 * test_finish.c - groups and queues played forward: against sums that can be done by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include "coordinator/foresight/finish.h"

enum { MODEL = 7, OTHER = 8, JOBS = 400 };

/* What all jobs are like: a step of so many seconds, and a tail; on the second group both take twice that. */
struct world {
    double step, tail;
    uint32_t steps[JOBS];
    bool unknown; /* nothing is known of the first */
};

static struct plan one_rank = {.layers = 1, .ranks = 1, .head = 1, .jobs_to_saturate = 1};

static bool describe(void *context, size_t job, int group, struct crew_layout *layout, struct crew_job *work)
{
    const struct world *w = context;
    *layout = (struct crew_layout){.plan = &one_rank};
    *work = (struct crew_job){.home = -1,
                              .tokens = 16,
                              .branches = 1,
                              .steps = w->steps[job],
                              .first_steps = w->steps[job],
                              .phase = CREW_STEPS,
                              .block = w->step * (group + 1),
                              .files = {1, w->tail * (group + 1)}};
    return !(w->unknown && job == 0);
}

static struct finish_job waiting(struct world *w, size_t job, uint32_t steps)
{
    w->steps[job] = steps;
    return (struct finish_job){.group = -1, .model = MODEL, .moves = steps, .work = steps};
}

static void expect(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-6)) fail_msg("%.9g, should be %.9g", found, wanted);
}

static void one_rank_does_one_job_after_the_other(void **state)
{
    struct finish_group group = {.limit = 1, .ranks = 1, .model = MODEL};
    struct world w = {.step = 1, .tail = 5};
    struct finish_job jobs[] = {waiting(&w, 0, 10), waiting(&w, 1, 20), waiting(&w, 2, 30)};
    finish_play(&group, 1, jobs, 3, describe, &w);
    expect(jobs[0].done, 15);
    expect(jobs[1].done, 40);
    expect(jobs[2].done, 75);
}

static void a_job_in_flight_comes_before_those_that_wait(void **state)
{
    struct finish_group group = {.limit = 1, .ranks = 1, .model = MODEL};
    struct world w = {.step = 1, .tail = 2};
    struct finish_job jobs[] = {waiting(&w, 0, 4), waiting(&w, 1, 10)};
    jobs[0].group = 0;
    finish_play(&group, 1, jobs, 2, describe, &w);
    expect(jobs[0].done, 6);
    expect(jobs[1].done, 18);
}

static void a_higher_priority_takes_the_ranks_for_itself(void **state)
{
    struct finish_group group = {.limit = 1, .ranks = 1, .model = MODEL};
    struct world w = {.step = 1};
    struct finish_job jobs[] = {waiting(&w, 0, 10), waiting(&w, 1, 5)};
    jobs[0].group = 0;
    jobs[1].priority = 1;
    jobs[1].from = 1.5;
    finish_play(&group, 1, jobs, 2, describe, &w);
    assert_true(jobs[1].done < 2.5 + 5 + 1e-6); /* when the step that was begun is over */
    assert_true(jobs[0].done > 15 - 1e-6 && jobs[0].done < 15 + 1e-3);
}

static void the_next_job_goes_where_a_place_is_free_first(void **state)
{
    struct finish_group groups[2] = {{.limit = 1, .ranks = 1, .model = MODEL},
                                     {.limit = 1, .ranks = 1, .model = MODEL}};
    struct world w = {.step = 1};
    struct finish_job jobs[] = {waiting(&w, 0, 12), waiting(&w, 1, 4), waiting(&w, 2, 2)};
    finish_play(groups, 2, jobs, 3, describe, &w);
    expect(jobs[0].done, 12);
    expect(jobs[1].done, 8);     /* twice as long a step */
    expect(jobs[2].done, 8 + 4); /* the same ranks, as the others are busy until 12 */
}

static void another_model_waits_until_the_ranks_are_empty_and_is_loaded(void **state)
{
    struct finish_group group = {.limit = 4, .ranks = 1, .model = MODEL, .load = 3};
    struct world w = {.step = 1};
    struct finish_job jobs[] = {waiting(&w, 0, 10), waiting(&w, 1, 10), waiting(&w, 2, 10)};
    jobs[1].model = OTHER;
    finish_play(&group, 1, jobs, 3, describe, &w);
    expect(jobs[0].done, 10);
    expect(jobs[1].done, 23);
    expect(jobs[2].done, 36);
    group.model = 0;
    group.ready = 5;
    finish_play(&group, 1, jobs, 1, describe, &w);
    expect(jobs[0].done, 18);
}

static void who_comes_later_is_taken_later(void **state)
{
    struct finish_group group = {.limit = 1, .ranks = 1, .model = MODEL};
    struct world w = {.step = 1};
    struct finish_job jobs[] = {waiting(&w, 0, 2), waiting(&w, 1, 3), waiting(&w, 2, 4)};
    jobs[0].from = 10;
    jobs[2].from = 4;
    finish_play(&group, 1, jobs, 3, describe, &w);
    expect(jobs[1].done, 3);
    expect(jobs[2].done, 8);
    expect(jobs[0].done, 12);
}

static void without_a_group_or_a_description_no_job_is_ever_done(void **state)
{
    struct world w = {.step = 1, .unknown = true};
    struct finish_job jobs[] = {waiting(&w, 0, 10), waiting(&w, 1, 10)};
    finish_play(NULL, 0, jobs, 1, describe, &w);
    assert_true(isinf(jobs[0].done));
    struct finish_group closed = {.limit = 0, .ranks = 1, .model = MODEL};
    finish_play(&closed, 1, jobs, 1, describe, &w);
    assert_true(isinf(jobs[0].done));
    struct finish_group group = {.limit = 1, .ranks = 1, .model = MODEL};
    finish_play(&group, 1, jobs, 2, describe, &w);
    assert_true(isinf(jobs[0].done));
    expect(jobs[1].done, 10);
}

/* Of a long queue only the first jobs are played; of equal jobs the others follow at the same rate. */
static void a_long_queue_goes_on_as_it_began(void **state)
{
    struct finish_group group = {.limit = 2, .ranks = 1, .model = MODEL};
    static struct world w = {.step = 0.25, .tail = 0.5};
    static struct finish_job jobs[JOBS];
    for (size_t i = 0; i < JOBS; i++) jobs[i] = waiting(&w, i, 30);
    finish_play(&group, 1, jobs, JOBS, describe, &w);
    for (size_t i = 2; i < JOBS; i++) {
        double wanted = (double)(i + 1) * 8;
        if (!(fabs(jobs[i].done - wanted) < 8.1 + 0.02 * wanted))
            fail_msg("job %zu: done after %.1f s, should be about %.1f", i, jobs[i].done, wanted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_does_one_job_after_the_other),
        cmocka_unit_test(a_job_in_flight_comes_before_those_that_wait),
        cmocka_unit_test(a_higher_priority_takes_the_ranks_for_itself),
        cmocka_unit_test(the_next_job_goes_where_a_place_is_free_first),
        cmocka_unit_test(another_model_waits_until_the_ranks_are_empty_and_is_loaded),
        cmocka_unit_test(who_comes_later_is_taken_later),
        cmocka_unit_test(without_a_group_or_a_description_no_job_is_ever_done),
        cmocka_unit_test(a_long_queue_goes_on_as_it_began),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
