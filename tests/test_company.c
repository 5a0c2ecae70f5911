/*
 * test_company.c - many jobs on the same ranks: each makes the bits it makes alone, whatever runs beside it,
 * whenever that came, over any number of ranks; and they end in the order that home's rules say
 * (rules/turn.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/pipeline.h"

enum { JOBS = 8, LOW = 0, NORMAL = 1, HIGH = 2 };

/* Sizes, lengths, solvers, policies of every site, priorities and tenants, and when each job comes. */
static const struct kind {
    const char *cache, *tenant;
    int steps, width, height, frames, priority, begins_at;
    double guidance;
    enum solver_kind solver;
    bool compare;
} kinds[JOBS] = {
    {"off", "ada", 8, 48, 80, 9, NORMAL, 0, 4, SOLVER_UNIPC, false},
    {"dbcache:F1B0,W2,threshold=0.5,forecast=taylor1", "ada", 7, 32, 32, 9, NORMAL, 0, 4, SOLVER_UNIPC,
     false},
    {"easycache:threshold=0.3,first=3", "bob", 6, 64, 32, 5, LOW, 0, 3, SOLVER_UNIPC, false},
    {"dbprune:F1,threshold=0.3", "ada", 6, 48, 48, 5, NORMAL, 0, 4, SOLVER_EULER, false},
    {"zeus:first=3,late=0", "bob", 8, 32, 48, 9, HIGH, 2, 4, SOLVER_EULER, false},
    {"interval:N=2,first=2,forecast=dmd", "cleo", 7, 48, 80, 9, NORMAL, 1, 4, SOLVER_UNIPC, false},
    {"off", "cleo", 3, 32, 32, 5, LOW, 5, 1, SOLVER_EULER, false},
    {"interval:N=3", "bob", 5, 32, 32, 5, NORMAL, 3, 4, SOLVER_UNIPC, true},
};

static const struct split splits[] = {
    {.members = 1},
    {.members = 2, .head = 1, .tail = 1, .run = {2, 4}},
    {.members = 3, .head = 1, .tail = 2, .run = {0, 3, 2}},
    {.members = 5, .head = 0, .run = {0, 2, 2, 2, 2}},
    {.members = 2, .head = 2, .spare = 1, .run = {0, 6}},
    {.members = 3, .head = 1, .tail = 1, .spare = 2, .run = {0, 4, 2}},
    {.members = 4, .head = 1, .spare = 3, .run = {1, 2, 2, 2}}, /* all of member 1's, and one of member 2's */
};

static struct pipeline_run run_of(const struct kind *k, int number)
{
    return (struct pipeline_run){
        .model = "models/reference",
        .begins_at = k->begins_at,
        .order = {.job = (uint64_t)number + 1,
                  .attempt = 1,
                  .prompt = number % 2 ? "a blue disc" : "a small white ring bouncing on teal",
                  .negative = "a red square",
                  .seed = 40 + (uint64_t)number,
                  .steps = k->steps,
                  .guidance = k->guidance,
                  .shift = 3,
                  .solver = k->solver,
                  .width = k->width,
                  .height = k->height,
                  .frames = k->frames,
                  .fps = 16,
                  .cache = k->cache,
                  .compare = k->compare,
                  .tenant = k->tenant,
                  .priority = k->priority}};
}

static void execute(struct pipeline_run *first)
{
    pipeline_execute(first);
    for (struct pipeline_run *run = first; run; run = run->beside)
        if (run->outcome != STATUS_OK && !run->cancel_at)
            fail_msg("job %lu of %d members: %s", (unsigned long)run->order.job, first->split.members,
                     run->error.text);
}

/* The jobs by themselves, each on one rank: made once for all tests. */
static struct pipeline_run alone[JOBS];

static int make_them_alone(void **state)
{
    for (int i = 0; i < JOBS; i++) {
        alone[i] = run_of(&kinds[i], i);
        execute(&alone[i]);
    }
    return 0;
}

static int forget_them(void **state)
{
    for (int i = 0; i < JOBS; i++) pipeline_free(&alone[i]);
    return 0;
}

static void expect_same(const struct pipeline_run *run, int number, int members)
{
    const struct pipeline_run *expected = &alone[number];
    size_t cells = (size_t)expected->cache.report.steps * (size_t)expected->cache.report.branches;
    assert_int_equal(run->latent_count, expected->latent_count);
    if (memcmp(run->latents, expected->latents, (size_t)run->latent_count * sizeof(float)) != 0)
        fail_msg("job %d, %s, %d members: other latents than alone", number + 1, kinds[number].cache,
                 members);
    assert_memory_equal(run->frames, expected->frames, (size_t)run->frame_count * sizeof(float));
    if (!expected->actions) return;
    assert_memory_equal(run->actions, expected->actions, cells);
    assert_memory_equal(run->reasons, expected->reasons, cells);
    assert_memory_equal(run->changes, expected->changes, cells * sizeof(float));
}

/* All jobs at once, handed over in the order first, first + stride, first + 2 stride ... */
static void chain(struct pipeline_run runs[JOBS], int order[JOBS], int first, int stride)
{
    for (int i = 0; i < JOBS; i++) {
        order[i] = (first + i * stride) % JOBS;
        runs[i] = run_of(&kinds[order[i]], order[i]);
        if (i) runs[i - 1].beside = &runs[i];
    }
}

static void eight_jobs_of_all_kinds_are_the_same_as_alone(void **state)
{
    static const struct {
        int first, stride;
    } arrivals[] = {{0, 1}, {7, 7}};
    for (size_t s = 0; s < sizeof splits / sizeof *splits; s++)
        for (size_t a = 0; a < sizeof arrivals / sizeof *arrivals; a++) {
            struct pipeline_run runs[JOBS];
            int order[JOBS];
            chain(runs, order, arrivals[a].first, arrivals[a].stride);
            runs[0].split = splits[s];
            runs[0].threads = s == 1 ? 2 : 1;
            execute(&runs[0]);
            for (int i = 0; i < JOBS; i++) {
                expect_same(&runs[i], order[i], runs[0].split.members);
                pipeline_free(&runs[i]);
            }
        }
}

static void neighbours_that_are_cancelled_are_not_noticed(void **state)
{
    for (size_t s = 0; s < sizeof splits / sizeof *splits; s++) {
        struct pipeline_run runs[JOBS];
        int order[JOBS];
        chain(runs, order, 0, 5);
        runs[0].split = splits[s];
        for (int i = 1; i < JOBS; i += 2) runs[i].cancel_at = 1 + i / 2;
        execute(&runs[0]);
        for (int i = 0; i < JOBS; i++) {
            if (runs[i].cancel_at)
                assert_int_equal(runs[i].outcome, STATUS_ABORTED);
            else
                expect_same(&runs[i], order[i], runs[0].split.members);
            pipeline_free(&runs[i]);
        }
    }
}

/* Home's tickets: OPEN for each branch and stage, CLOSE for each stage, a hop for each branch that was
 * computed. A job with guidance has two branches. */
static void hits_send_nothing_in_company_either(void **state)
{
    static const int few[] = {0, 1, 4, 5};
    enum { FEW = sizeof few / sizeof *few };
    struct pipeline_run runs[FEW];
    uint64_t expected = 0;
    int skipped = 0;
    for (int i = 0; i < FEW; i++) {
        runs[i] = run_of(&kinds[few[i]], few[i]);
        if (i) runs[i - 1].beside = &runs[i];
    }
    runs[0].split = splits[2];
    execute(&runs[0]);
    for (int i = 0; i < FEW; i++) {
        int cells = 2 * kinds[few[i]].steps,
            computed = runs[i].actions ? runs[i].cache.report.computed : cells;
        expected += 2 * 2 + 2 + (uint64_t)computed;
        skipped += cells - computed;
    }
    assert_true(skipped >= 10);
    assert_int_equal(runs[0].tickets[0], expected);
    for (int i = 0; i < FEW; i++) pipeline_free(&runs[i]);
}

/* -------------------------------------------------------------------------------------------------- order */

/* Equal jobs but for what the caller changes; on one rank nothing but the rules decides. */
static void equal_jobs(struct pipeline_run runs[], int count)
{
    const struct kind plain = {"off", "ada", 4, 32, 32, 5, NORMAL, 0, 4, SOLVER_UNIPC, false};
    for (int i = 0; i < count; i++) {
        runs[i] = run_of(&plain, i);
        if (i) runs[i - 1].beside = &runs[i];
    }
}

static void expect_places(struct pipeline_run runs[], int count, const int places[])
{
    execute(&runs[0]);
    for (int i = 0; i < count; i++) {
        if (runs[i].place != places[i]) fail_msg("job %d ended as number %d", i + 1, runs[i].place);
        pipeline_free(&runs[i]);
    }
}

static void equal_jobs_end_in_the_order_they_came(void **state)
{
    struct pipeline_run runs[4];
    equal_jobs(runs, 4);
    expect_places(runs, 4, (const int[]){1, 2, 3, 4});
}

static void an_urgent_job_that_comes_late_ends_first(void **state)
{
    for (int members = 1; members <= 2; members++) {
        struct pipeline_run runs[3];
        equal_jobs(runs, 3);
        runs[0].split = splits[members - 1];
        runs[0].order.steps = runs[1].order.steps = 12;
        runs[1].order.priority = LOW;
        runs[2].begins_at = 2;
        runs[2].order.priority = HIGH;
        expect_places(runs, 3, (const int[]){2, 3, 1});
    }
}

/* There is one decoder: the urgent job comes while the other one's frames are half made, and these are made again. */
static void an_urgent_job_takes_the_decoder_and_both_videos_are_those_made_alone(void **state)
{
    struct pipeline_run runs[2], lone[2];
    for (int beside = 0; beside < 2; beside++) {
        struct pipeline_run *r = beside ? runs : lone;
        equal_jobs(r, 2);
        r[0].order.steps = 1;
        r[0].order.frames = 17;
        r[0].order.priority = LOW;
        if (beside) {
            r[1].begins_at = 3; /* of five latent frames */
            r[1].order.priority = HIGH;
            execute(&r[0]);
        } else {
            r[0].beside = NULL;
            execute(&r[0]);
            execute(&r[1]);
        }
    }
    assert_int_equal(runs[1].place, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(runs[i].frame_count, lone[i].frame_count);
        assert_memory_equal(runs[i].frames, lone[i].frames, (size_t)lone[i].frame_count * sizeof(float));
        pipeline_free(&runs[i]);
        pipeline_free(&lone[i]);
    }
}

static void a_job_with_a_deadline_ends_before_those_without(void **state)
{
    struct pipeline_run runs[4];
    equal_jobs(runs, 4);
    runs[2].order.deadline_ms = 9000;
    runs[3].order.deadline_ms = 5000;
    expect_places(runs, 4, (const int[]){3, 4, 2, 1});
}

/* Three jobs of one and one of another: the lone one shares with the first of the three, not with all. */
static void a_tenant_with_one_job_does_not_wait_for_one_with_many(void **state)
{
    struct pipeline_run runs[4];
    equal_jobs(runs, 4);
    runs[3].order.tenant = "bob";
    expect_places(runs, 4, (const int[]){2, 3, 4, 1}); /* what both did is equal, and his was counted last */
}

static void a_priority_that_does_not_exist_is_refused(void **state)
{
    struct pipeline_run run;
    equal_jobs(&run, 1);
    run.order.priority = 3;
    pipeline_execute(&run);
    assert_int_equal(run.outcome, STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_jobs_of_all_kinds_are_the_same_as_alone),
        cmocka_unit_test(neighbours_that_are_cancelled_are_not_noticed),
        cmocka_unit_test(hits_send_nothing_in_company_either),
        cmocka_unit_test(equal_jobs_end_in_the_order_they_came),
        cmocka_unit_test(an_urgent_job_that_comes_late_ends_first),
        cmocka_unit_test(an_urgent_job_takes_the_decoder_and_both_videos_are_those_made_alone),
        cmocka_unit_test(a_job_with_a_deadline_ends_before_those_without),
        cmocka_unit_test(a_tenant_with_one_job_does_not_wait_for_one_with_many),
        cmocka_unit_test(a_priority_that_does_not_exist_is_refused),
    };
    return cmocka_run_group_tests(tests, make_them_alone, forget_them);
}
