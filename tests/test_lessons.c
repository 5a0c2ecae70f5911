/*
 * test_lessons.c - what jobs that are done teach about those to come (coordinator/foresight/lessons.h): home's work beside blocks, by model, and
 * by how much predictions for a group are to be stretched.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "coordinator/foresight/lessons.h"

enum { MODEL = 7, TOKENS = 100, STEPS = 10, BRANCHES = 2, LAYERS = 8 };

static struct server server;
static struct member member;
static struct group group;
static struct job job;

static int fresh(void **state)
{
    memset(&server, 0, sizeof server);
    server.now_ns = SECOND_NS / 2;
    memset(&job, 0, sizeof job);
    member = (struct member){.block_token_ns = 1e6 / TOKENS};
    group = (struct group){.ranks = 1, .members = &member, .plan = {.layers = LAYERS, .ranks = 1}};
    group.plan.run[0] = LAYERS;
    job.outlook = (struct outlook){.model = MODEL,
                                   .steps = STEPS,
                                   .first_steps = STEPS,
                                   .tokens = TOKENS,
                                   .mix = {.branches = BRANCHES}};
    return 0;
}

/* Of a job whose home worked so long beside blocks: in all, and for text, decoding and files. */
static void end_job(double home, double text, double decode, double files)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
    spec.steps = STEPS;
    times.home = home;
    times.home_text = text;
    times.home_decode = decode;
    times.home_files = files;
    lessons_take(&server, &group, &job, &spec, &times);
}

/* In the middle of its steps the rest was said to take `told_ms`, and it took `took_ms`. */
static void end_foretold(int64_t told_ms, int64_t took_ms)
{
    job.middle_ms = 1000000;
    job.foretold_ms = job.middle_ms + told_ms;
    server.now_ms = job.middle_ms + took_ms;
    end_job(0, 0, 0, 0);
}

static void expect(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-9 * (1 + fabs(wanted)))) fail_msg("%.9g, should be %.9g", found, wanted);
}

static void home_s_work_is_learnt_by_branch_and_token(void **state)
{
    assert_false(lessons_of(&server, MODEL)->known);
    end_job(9, 4, 2, 1);
    const struct learnt *l = lessons_of(&server, MODEL);
    assert_true(l->known);
    expect(l->text, 4.0 / BRANCHES);
    expect(l->decode, 2.0 / TOKENS);
    expect(l->files, 1.0 / TOKENS);
    expect(l->step, 2.0 / (STEPS * BRANCHES * TOKENS));
}

static void a_later_job_counts_a_quarter(void **state)
{
    end_job(9, 4, 2, 1);
    end_job(18, 8, 4, 2);
    expect(lessons_of(&server, MODEL)->text, 4.0 / BRANCHES * 1.25);
    expect(lessons_of(&server, MODEL)->decode, 2.0 / TOKENS * 1.25);
}

/* Blocks that its policy always runs at home are counted there; they are not the work beside blocks. */
static void blocks_that_home_runs_for_a_policy_are_left_out(void **state)
{
    double block = 1e-3; /* of these tokens: fresh() */
    job.outlook.mix.hit_rate = 0.5;
    job.outlook.mix.head = 3;
    end_job(9 + 3 * block * STEPS * BRANCHES, 4, 2, 1);
    expect(lessons_of(&server, MODEL)->step, 2.0 / (STEPS * BRANCHES * TOKENS));
}

static void what_makes_no_sense_teaches_nothing(void **state)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.steps = STEPS;
    lessons_take(&server, &group, &job, &spec, NULL);
    end_job(0, 4, 2, 1);
    end_job(NAN, 4, 2, 1);
    job.outlook.tokens = 0;
    end_job(9, 4, 2, 1);
    assert_false(lessons_of(&server, MODEL)->known);
}

static void the_model_that_was_used_least_recently_makes_room(void **state)
{
    end_job(9, 4, 2, 1);
    for (uint64_t i = 1; i < SERVER_LEARNT; i++) {
        server.now_ns = (int64_t)i * SECOND_NS;
        lessons_of(&server, 100 + i)->known = true;
    }
    server.now_ns = SERVER_LEARNT * SECOND_NS;
    assert_true(lessons_of(&server, MODEL)->known); /* used: now the next one is the oldest */
    lessons_of(&server, 99);
    assert_true(lessons_of(&server, MODEL)->known);
    assert_true(lessons_of(&server, 102)->known);
    assert_false(lessons_of(&server, 101)->known);
}

/* Jobs that overtake each other make one late and the other early; one accident changes nothing. */
static void predictions_are_stretched_by_the_median_of_how_they_were_off(void **state)
{
    expect(lessons_stretch(&group), 1);
    end_foretold(1000, 4000);
    expect(lessons_stretch(&group), 1);
    for (int i = 0; i < GROUP_RATIOS; i++) end_foretold((int64_t)(1000 * lessons_stretch(&group)), 1250);
    assert_true(fabs(lessons_stretch(&group) - 1.25) < 0.01);
    end_foretold(1000, 100);
    assert_true(fabs(lessons_stretch(&group) - 1.25) < 0.01);
}

static void a_job_of_which_nothing_was_said_stretches_nothing(void **state)
{
    job.middle_ms = 1000;
    server.now_ms = 5000;
    for (int i = 0; i < GROUP_RATIOS; i++) end_job(9, 4, 2, 1);
    expect(lessons_stretch(&group), 1);
    assert_int_equal(group.ratios, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(home_s_work_is_learnt_by_branch_and_token, fresh),
        cmocka_unit_test_setup(a_later_job_counts_a_quarter, fresh),
        cmocka_unit_test_setup(blocks_that_home_runs_for_a_policy_are_left_out, fresh),
        cmocka_unit_test_setup(what_makes_no_sense_teaches_nothing, fresh),
        cmocka_unit_test_setup(the_model_that_was_used_least_recently_makes_room, fresh),
        cmocka_unit_test_setup(predictions_are_stretched_by_the_median_of_how_they_were_off, fresh),
        cmocka_unit_test_setup(a_job_of_which_nothing_was_said_stretches_nothing, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
