/*
 * test_crew.c - ranks at work, played forward: against sums that can be done by hand. That the same comes out as of the service itself is in
 * test_sim_finish.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include "coordinator/foresight/crew.h"

enum { LAYERS = 8 };

static struct plan fixed(uint32_t ranks, const uint32_t *run)
{
    struct plan plan = {.layers = LAYERS, .ranks = ranks};
    for (uint32_t i = 0; i < ranks; i++) plan.run[i] = run[i];
    return plan;
}

static struct crew_job job(uint32_t steps, uint32_t branches)
{
    return (struct crew_job){.home = -1,
                             .number = 1,
                             .tokens = 160,
                             .branches = branches,
                             .steps = steps,
                             .first_steps = steps,
                             .block = 1,
                             .files = {1, 1e-9}};
}

/* Plays all jobs from the same moment; done[i]: of jobs[i]. */
static void play(const struct plan *plan, double hop, uint32_t grain, struct crew_job *jobs, int count,
                 double *done)
{
    struct crew_layout layout = {.plan = plan, .hop = hop};
    struct crew *crew = crew_open(&layout, grain);
    uint64_t number;
    assert_non_null(crew);
    for (int i = 0; i < count; i++) {
        jobs[i].number = (uint64_t)i + 1;
        done[i] = INFINITY;
        assert_true(crew_add(crew, &jobs[i], 0));
    }
    while (crew_next(crew) < INFINITY)
        if (crew_step(crew, &number)) done[number - 1] = crew_now(crew);
    assert_int_equal(crew_count(crew), 0);
    crew_close(crew);
}

static double alone(const struct plan *plan, double hop, struct crew_job one)
{
    double done;
    play(plan, hop, 1, &one, 1, &done);
    return done;
}

static void expect(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-6 * (1 + wanted))) fail_msg("%.9g, should be %.9g", found, wanted);
}

static void a_job_on_one_rank_takes_the_sum_of_its_pieces(void **state)
{
    struct plan plan = fixed(1, (uint32_t[]){LAYERS});
    struct crew_job one = job(10, 2);
    one.begin = 0.25;
    one.end = 0.5;
    one.text = (struct crew_pieces){2, 3};
    one.frames = (struct crew_pieces){5, 4};
    one.files = (struct crew_pieces){3, 2};
    expect(alone(&plan, 0, one), 10 * 2 * (LAYERS + 0.75) + 6 + 20 + 6);
}

/* Of two branches the second follows the first through the ranks, plan.h's walk. */
static void in_a_pipeline_branches_follow_each_other(void **state)
{
    struct plan plan = fixed(4, (uint32_t[]){2, 2, 2, 2});
    expect(alone(&plan, 0, job(10, 1)), 10 * LAYERS);
    expect(alone(&plan, 0, job(10, 2)), 10 * (LAYERS + 2));
    expect(alone(&plan, 0.25, job(10, 1)), 10 * (LAYERS + 4 * 0.25));
}

static void with_many_jobs_the_busiest_rank_is_never_idle(void **state)
{
    struct plan plan = fixed(2, (uint32_t[]){4, 4});
    struct crew_job jobs[6];
    double done[6], last = 0;
    for (int i = 0; i < 6; i++) jobs[i] = job(20, 2);
    play(&plan, 0, 1, jobs, 6, done);
    for (int i = 0; i < 6; i++) last = fmax(last, done[i]);
    assert_true(last > 6 * 20 * 2 * 4 && last < 1.03 * 6 * 20 * 2 * 4);
}

static void branches_on_chains_of_their_own_take_the_time_of_one(void **state)
{
    struct plan plan = {.layers = LAYERS, .ranks = 2, .chain = {{0, 1}, {0, 1}}};
    plan.run[0 * 2 + 0] = plan.run[1 * 2 + 1] = LAYERS;
    expect(alone(&plan, 0, job(10, 2)), 10 * LAYERS);
}

/* Ranks of the first expert are half as many as those of the second. */
static void each_expert_takes_its_own_ranks(void **state)
{
    struct plan plan = {.layers = LAYERS, .ranks = 3, .chain = {{0, 0}, {1, 1}}};
    plan.run[0 * 3 + 0] = LAYERS;
    plan.run[1 * 3 + 1] = plan.run[1 * 3 + 2] = LAYERS / 2;
    struct crew_job two = job(10, 2);
    two.first_steps = 6;
    expect(alone(&plan, 0, two), 6 * 2 * LAYERS + 4 * (LAYERS + LAYERS / 2));
    two.done = 7;
    two.phase = CREW_STEPS;
    expect(alone(&plan, 0, two), 3 * (LAYERS + LAYERS / 2));
}

static void hits_take_no_more_than_what_is_always_run(void **state)
{
    static const uint8_t every_second[] = {0xaa, 0x02};
    struct plan plan = fixed(1, (uint32_t[]){LAYERS});
    struct crew_job cached = job(10, 1);
    cached.cached = true;
    cached.head = 2;
    cached.tail = 1;
    cached.hits[0] = cached.hits[1] = 0.5;
    cached.skips = every_second;
    expect(alone(&plan, 0, cached), 5 * LAYERS + 5 * 3);
    cached.skips = NULL;
    expect(alone(&plan, 0, cached), 5 * LAYERS + 5 * 3);
    cached.hits[0] = cached.hits[1] = 1;
    expect(alone(&plan, 0, cached), LAYERS + 9 * 3); /* at first there is nothing to reuse */
}

/* One of each home at a time, and those that came later when these are done. */
static void floating_homes_end_jobs_in_the_order_in_which_they_began(void **state)
{
    struct plan plan = fixed(2, (uint32_t[]){4, 4});
    struct crew_job jobs[4];
    double done[4];
    plan.floating = true;
    for (int i = 0; i < 4; i++) {
        jobs[i] = job(40, 2);
        jobs[i].age = 10 + (uint64_t)i;
    }
    play(&plan, 0, 1, jobs, 4, done);
    assert_true(fabs(done[0] - done[1]) < 0.05 * done[0] && fabs(done[2] - done[3]) < 0.05 * done[2]);
    assert_true(fmax(done[0], done[1]) < 0.7 * fmin(done[2], done[3]));
}

static void a_higher_priority_does_not_wait_for_others(void **state)
{
    struct plan plan = fixed(1, (uint32_t[]){LAYERS});
    struct crew_job jobs[2] = {job(10, 1), job(10, 1)};
    double done[2];
    jobs[1].priority = 2;
    play(&plan, 0, 1, jobs, 2, done);
    assert_true(done[1] < 10 * LAYERS + 1.1);
    expect(done[0], 20 * LAYERS);
}

static void a_slow_rank_holds_up_the_ring(void **state)
{
    struct plan plan = fixed(2, (uint32_t[]){4, 4});
    struct crew_layout layout = {.plan = &plan, .pace = (double[]){1, 3}};
    struct crew *crew = crew_open(&layout, 1);
    struct crew_job one = job(10, 1);
    uint64_t number;
    assert_true(crew_add(crew, &one, 5));
    while (!crew_step(crew, &number)) continue;
    expect(crew_now(crew), 5 + 10 * 16);
    crew_close(crew);
}

/* However coarse, work is neither lost nor made. */
static void a_coarse_grain_changes_little(void **state)
{
    for (int floating = 0; floating <= 1; floating++)
        for (uint32_t grain = 1; grain <= 16; grain *= 2) {
            struct plan plan = fixed(2, (uint32_t[]){4, 4});
            struct crew_job jobs[5];
            double done[5], last = 0;
            plan.floating = floating;
            for (int i = 0; i < 5; i++) {
                jobs[i] = job(40 + 10 * (uint32_t)i, 2);
                jobs[i].frames = (struct crew_pieces){5, 10};
            }
            play(&plan, 0, grain, jobs, 5, done);
            for (int i = 0; i < 5; i++) last = fmax(last, done[i]);
            double work = 300 * 2 * 4;
            if (last < work || last > 1.25 * work + 16 * 2 * 4 * 5)
                fail_msg("grain %u, %s: %.0f, should be about %.0f", grain, floating ? "floating" : "fixed",
                         last, work);
        }
}

static void there_is_room_for_so_many_and_no_more(void **state)
{
    struct plan plan = fixed(1, (uint32_t[]){LAYERS});
    struct crew_layout layout = {.plan = &plan};
    struct crew *crew = crew_open(&layout, 1);
    for (uint64_t i = 0; i < CREW_JOBS; i++) {
        struct crew_job one = job(2, 1);
        one.number = i + 1;
        one.priority = i % 2 ? 2 : 1;
        assert_true(crew_add(crew, &one, 0));
    }
    struct crew_job one = job(2, 1);
    assert_false(crew_add(crew, &one, 0));
    assert_int_equal(crew_urgent(crew, 2), CREW_JOBS / 2);
    crew_close(crew);
    crew_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_on_one_rank_takes_the_sum_of_its_pieces),
        cmocka_unit_test(in_a_pipeline_branches_follow_each_other),
        cmocka_unit_test(with_many_jobs_the_busiest_rank_is_never_idle),
        cmocka_unit_test(branches_on_chains_of_their_own_take_the_time_of_one),
        cmocka_unit_test(each_expert_takes_its_own_ranks),
        cmocka_unit_test(hits_take_no_more_than_what_is_always_run),
        cmocka_unit_test(floating_homes_end_jobs_in_the_order_in_which_they_began),
        cmocka_unit_test(a_higher_priority_does_not_wait_for_others),
        cmocka_unit_test(a_slow_rank_holds_up_the_ring),
        cmocka_unit_test(a_coarse_grain_changes_little),
        cmocka_unit_test(there_is_room_for_so_many_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
