/*
 * test_sim_finish.c - when jobs are said to be done, and when they are: mixed queues through the whole service on the virtual
 * clock, with the times of the reference model on one core.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/sim_lab.h"
#include "tools/sim/foretold.h"
#include "tools/sim/rehearsal.h"

enum { LAYERS = 8, JOBS = 24 };

#define MICROSECOND_NS (MILLISECOND_NS / 1000)
#define LIMIT_NS       (1000 * SECOND_NS)

static struct rehearsal *begin(int ranks, const char *home)
{
    static char model[PATH_MAX];
    struct rehearsal *r;
    struct error error;
    struct rehearsal_config config = {.model = model,
                                      .directory = lab.directory,
                                      .ranks = ranks,
                                      .costs = {.block_ns = 1750 * MICROSECOND_NS,
                                                .embed_ns = 50 * MICROSECOND_NS,
                                                .output_ns = 50 * MICROSECOND_NS,
                                                .text_ns = 250 * MICROSECOND_NS,
                                                .frame_ns = 22 * MILLISECOND_NS,
                                                .film_ns = 900 * MICROSECOND_NS,
                                                .rows = 20},
                                      .network = {.latency_ns = 100 * MICROSECOND_NS},
                                      .start_ns = 500 * MILLISECOND_NS,
                                      .options = {home ? "--home" : NULL, home}};
    if (lab_model(&lab, LAYERS, model, &error) != STATUS_OK ||
        rehearsal_open(&config, &r, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return r;
}

/* Some job. */
static Refrain__JobSpec mixed(int index)
{
    static const char *const caches[] = {"off", "interval:N=3,F=1", "off", "interval:N=2,F=1"};
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    double part = index * 0.6180339887498949;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_guidance =
        1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t) "a red fox in the snow";
    spec.steps = 15 + (uint32_t)((part - (int)part) * 31);
    spec.width = spec.height = 32;
    spec.frames = index % 3 == 2 ? 9 : 17;
    spec.guidance = index % 5 == 4 ? 1 : 4;
    spec.cache = (char *)(uintptr_t)caches[index % 4];
    return spec;
}

static void submit(struct rehearsal *r, Refrain__JobSpec spec)
{
    struct error error;
    int job;
    if (rehearsal_submit(r, &spec, &job, &error) != STATUS_OK) fail_msg("%s", error.text);
}

static void finish(struct rehearsal *r)
{
    struct error error;
    if (rehearsal_finish(r, LIMIT_NS, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* The median error at each moment, in percent of the time from submission to the end; and of what was still to come from a quarter of its
 * steps on. */
struct bars {
    double submission, there, quarter, half, rest;
};

static void expect_foretold(struct foretold_case of, const struct bars *bars)
{
    static struct foretold_found found;
    struct error error;
    const double most[] = {bars->submission, bars->there, bars->quarter, bars->half};
    if (foretold_run(&lab, &of, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    for (int moment = 0; moment < FORETOLD_MOMENTS; moment++) {
        double whole = 100 * foretold_error(&found, (enum foretold_moment)moment, false),
               rest = 100 * foretold_error(&found, (enum foretold_moment)moment, true);
        bool late = moment >= FORETOLD_AT_A_QUARTER;
        if (whole <= most[moment] && (!late || rest <= bars->rest)) continue;
        fail_msg("%d ranks, %s homes, layout %s, moment %d: median error %.1f %% of the whole, %.1f %% of "
                 "the rest",
                 of.ranks, of.home ? of.home : "chosen", of.layout ? of.layout : "auto", moment, whole, rest);
    }
}

static void on_one_rank_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    static const struct bars bars = {2, 2, 2, 2, 4};
    expect_foretold((struct foretold_case){.ranks = 1, .jobs = JOBS}, &bars);
    expect_foretold((struct foretold_case){.ranks = 1, .jobs = 12, .measured = true},
                    &(struct bars){8, 8, 4, 4, 8});
}

static void with_a_fixed_home_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    static const struct bars bars = {8, 6, 4, 4, 8};
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .home = "fixed"}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = 40, .home = "fixed"}, &bars);
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .home = "fixed", .curve = 0.5}, &bars);
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .layout = "cfg"}, &bars);
}

/* Jobs end in the order in which they began: what comes later changes little. */
static void with_floating_homes_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    static const struct bars bars = {9, 8, 4, 4, 10};
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS}, &bars);
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = 40, .home = "floating"}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = JOBS, .home = "floating"}, &bars);
}

static void policies_that_measure_are_foreseen_from_what_others_did(void **state)
{
    static const struct bars bars = {10, 8, 5, 5, 20};
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .measured = true}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = JOBS, .measured = true, .home = "fixed"},
                    &bars);
}

/* Who is urgent and comes later puts off those that are there, and they cannot know. */
static void priorities_are_foreseen_once_they_are_there(void **state)
{
    static const struct bars bars = {25, 8, 4, 4, 8};
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .priorities = true}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = JOBS, .priorities = true, .home = "fixed"},
                    &bars);
}

static void jobs_that_come_one_after_the_other_are_foreseen(void **state)
{
    static const struct bars bars = {5, 100, 3, 3, 4};
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = JOBS, .gap_ns = SECOND_NS}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = JOBS, .gap_ns = SECOND_NS, .home = "floating"},
                    &bars);
    expect_foretold(
        (struct foretold_case){.ranks = 4, .jobs = JOBS, .gap_ns = 300 * MILLISECOND_NS, .home = "fixed"},
        &(struct bars){10, 100, 6, 6, 8});
}

/* Experts share their ranks, or each has its own; so have branches. */
static void jobs_of_two_experts_are_foreseen_in_pools_and_without(void **state)
{
    static const struct bars bars = {15, 8, 5, 5, 12};
    struct lab one = lab;
    struct error error;
    if (lab_open("tests/models/tiny-d", &lab, &error) != STATUS_OK) fail_msg("%s", error.text);
    expect_foretold((struct foretold_case){.ranks = 2, .jobs = 12, .home = "fixed"}, &bars);
    expect_foretold((struct foretold_case){.ranks = 3, .jobs = 12, .layout = "pools"}, &bars);
    expect_foretold((struct foretold_case){.ranks = 4, .jobs = 12, .layout = "cfg-pools"}, &bars);
    lab_close(&lab);
    lab = one;
}

/* With nothing else about, a job takes as long as the last one like it. */
static void a_deadline_that_cannot_be_met_is_said_at_submission(void **state)
{
    struct rehearsal *r = begin(2, NULL);
    struct error error;
    int job;
    Refrain__JobSpec spec = mixed(0);
    for (int i = 0; i < 3; i++) {
        submit(r, spec);
        finish(r);
    }
    const struct rehearsal_job *last = rehearsal_job(r, 2);
    uint64_t took_ms = (uint64_t)(last->ended_ns - last->submitted_ns) / MILLISECOND_NS;
    spec.has_deadline_ms = 1;
    spec.deadline_ms = took_ms * 3 / 2;
    submit(r, spec);
    assert_string_equal(rehearsal_job(r, 3)->message, "");
    finish(r);
    assert_int_equal(rehearsal_job(r, 3)->state, REFRAIN__JOB_STATE__JOB_COMPLETED);
    spec.deadline_ms = took_ms / 2;
    submit(r, spec); /* softly: it is told, and taken */
    assert_non_null(strstr(rehearsal_job(r, 4)->message, ": the job is expected to be done in "));
    finish(r);
    assert_int_equal(rehearsal_job(r, 4)->state, REFRAIN__JOB_STATE__JOB_EXPIRED);
    spec.has_deadline_strict = spec.deadline_strict = 1;
    assert_int_equal(rehearsal_submit(r, &spec, &job, &error), STATUS_CONFLICT);
    assert_non_null(strstr(error.text, "deadline_ms "));
    assert_non_null(strstr(error.text, ": the job is expected to be done in "));
    spec.deadline_ms = took_ms * 3 / 2;
    submit(r, spec);
    submit(r, spec); /* behind or beside the first it takes longer */
    for (int i = 0; i < 8; i++) rehearsal_submit(r, &spec, &job, &error);
    assert_int_equal(rehearsal_submit(r, &spec, &job, &error), STATUS_CONFLICT);
    rehearsal_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_one_rank_a_mixed_queue_ends_when_it_was_said_to),
        cmocka_unit_test(with_a_fixed_home_a_mixed_queue_ends_when_it_was_said_to),
        cmocka_unit_test(with_floating_homes_a_mixed_queue_ends_when_it_was_said_to),
        cmocka_unit_test(policies_that_measure_are_foreseen_from_what_others_did),
        cmocka_unit_test(priorities_are_foreseen_once_they_are_there),
        cmocka_unit_test(jobs_that_come_one_after_the_other_are_foreseen),
        cmocka_unit_test(jobs_of_two_experts_are_foreseen_in_pools_and_without),
        cmocka_unit_test(a_deadline_that_cannot_be_met_is_said_at_submission),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
