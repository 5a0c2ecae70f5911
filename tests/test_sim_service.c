/*
 * test_sim_service.c - the whole service on the virtual clock (tools/sim/rehearsal.h): what a loss costs, that it never
 * costs a bit, and that nothing stands still for ever.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/sim_lab.h"
#include "tools/sim/rehearsal.h"
#include "tools/sim/storm.h"

enum { STEPS = 12, LAYERS = 8 };

#define START_NS (500 * MILLISECOND_NS)
#define LIMIT_NS (1000 * SECOND_NS)

static struct rehearsal *begin(int ranks)
{
    static char model[PATH_MAX];
    struct rehearsal *r;
    struct error error;
    struct rehearsal_config config = {
        .model = model,
        .directory = lab.directory,
        .ranks = ranks,
        .costs = {.block_ns = 10 * MILLISECOND_NS,
                  .text_ns = 20 * MILLISECOND_NS,
                  .frame_ns = 100 * MILLISECOND_NS},
        .network = {.latency_ns = MILLISECOND_NS / 20, .death_ns = 2 * MILLISECOND_NS},
        .start_ns = START_NS};
    if (lab_model(&lab, LAYERS, model, &error) != STATUS_OK ||
        rehearsal_open(&config, &r, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return r;
}

static int submit(struct rehearsal *r)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    struct error error;
    int job;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames =
        spec.has_save_latents = 1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t) "a red fox in the snow";
    spec.seed = 7;
    spec.steps = STEPS;
    spec.width = spec.height = 32;
    spec.frames = 5;
    spec.save_latents = 1;
    spec.cache = (char *)(uintptr_t) "interval:N=3,F=1";
    if (rehearsal_submit(r, &spec, &job, &error) != STATUS_OK) fail_msg("%s", error.text);
    return job;
}

static void finish(struct rehearsal *r)
{
    struct error error;
    if (rehearsal_finish(r, LIMIT_NS, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* What one job's run left behind. */
struct run {
    int64_t ended_ns; /* since the beginning */
    uint32_t attempt;
    int steps; /* computed */
    void *latents;
    size_t bytes;
};

static struct run take(struct rehearsal *r, int job)
{
    struct error error;
    const struct rehearsal_job *done = rehearsal_job(r, job);
    struct run run = {.ended_ns = done->ended_ns - done->submitted_ns,
                      .attempt = done->attempt,
                      .steps = done->steps_reported};
    if (done->state != REFRAIN__JOB_STATE__JOB_COMPLETED) fail_msg("%s", done->message);
    if (rehearsal_latents(r, job, &run.latents, &run.bytes, &error) != STATUS_OK) fail_msg("%s", error.text);
    rehearsal_close(r);
    return run;
}

static struct run undisturbed(int ranks)
{
    struct rehearsal *r = begin(ranks);
    int job = submit(r);
    finish(r);
    return take(r, job);
}

static void expect_same(struct run *disturbed, struct run *calm)
{
    assert_int_equal(disturbed->bytes, calm->bytes);
    assert_memory_equal(disturbed->latents, calm->latents, calm->bytes);
    free(disturbed->latents);
}

/* ------------------------------------------------------------------------------------------------------------------ */

static void a_job_ends_after_the_time_its_work_takes(void **state)
{
    struct run run = undisturbed(2);
    /* Start, text of two branches (two layers each), steps of 3, 40 and 40 ms a stage in a pipeline of two, two latent
     * frames, and some messages. */
    assert_true(run.ended_ns > START_NS + 80 * MILLISECOND_NS + 200 * MILLISECOND_NS);
    assert_true(run.ended_ns <
                START_NS + 80 * MILLISECOND_NS + 200 * MILLISECOND_NS + STEPS * 170 * MILLISECOND_NS);
    assert_int_equal(run.attempt, 1);
    free(run.latents);
}

static void latents_do_not_depend_on_the_number_of_ranks(void **state)
{
    struct run one = undisturbed(1);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        struct run many = undisturbed(ranks);
        expect_same(&many, &one);
    }
    free(one.latents);
}

/* At any moment of its life, from before its ranks are there until its files are being sent. */
static void a_rank_that_is_killed_costs_a_second_and_no_bit(void **state)
{
    struct run calm = undisturbed(3);
    for (int moment = 1; moment < 12; moment++) {
        struct rehearsal *r = begin(3);
        int job = submit(r);
        rehearsal_run(r, rehearsal_now_ns(r) + calm.ended_ns * moment / 12);
        rehearsal_kill(r, moment % 3);
        finish(r);
        struct run disturbed = take(r, job);
        int64_t again_ns = (disturbed.attempt - 1) * calm.ended_ns * moment / 12;
        if (disturbed.ended_ns > calm.ended_ns + again_ns + START_NS + SECOND_NS)
            fail_msg("killed at %d twelfths: it took %.3f s instead of %.3f s", moment,
                     (double)disturbed.ended_ns / SECOND_NS, (double)calm.ended_ns / SECOND_NS);
        expect_same(&disturbed, &calm);
    }
    free(calm.latents);
}

static void a_rank_that_stops_is_replaced_and_costs_no_bit(void **state)
{
    struct run calm = undisturbed(3);
    for (int rank = 0; rank < 3; rank++) {
        struct rehearsal *r = begin(3);
        int job = submit(r);
        rehearsal_run(r, rehearsal_now_ns(r) + calm.ended_ns / 2);
        rehearsal_stop(r, rank);
        finish(r);
        struct run disturbed = take(r, job);
        assert_true(disturbed.ended_ns < 2 * calm.ended_ns + 8 * SECOND_NS); /* silence, and the start */
        expect_same(&disturbed, &calm);
    }
    free(calm.latents);
}

static void a_rank_that_stops_for_a_moment_is_waited_for(void **state)
{
    struct run calm = undisturbed(3);
    struct rehearsal *r = begin(3);
    int job = submit(r);
    rehearsal_run(r, rehearsal_now_ns(r) + calm.ended_ns / 2);
    rehearsal_stop(r, 1);
    rehearsal_run(r, rehearsal_now_ns(r) + SECOND_NS);
    rehearsal_continue(r, 1);
    finish(r);
    struct run disturbed = take(r, job);
    assert_int_equal(disturbed.attempt, 1);
    assert_true(disturbed.ended_ns <= calm.ended_ns + SECOND_NS + 100 * MILLISECOND_NS);
    expect_same(&disturbed, &calm);
    free(calm.latents);
}

static void a_coordinator_that_is_killed_costs_no_step(void **state)
{
    struct run calm = undisturbed(2);
    for (int moment = 1; moment < 12; moment++) {
        struct rehearsal *r = begin(2);
        int job = submit(r);
        rehearsal_run(r, rehearsal_now_ns(r) + calm.ended_ns * moment / 12);
        rehearsal_lose_coordinator(r, 300 * MILLISECOND_NS);
        finish(r);
        struct run disturbed = take(r, job);
        if (disturbed.attempt != 1) fail_msg("killed at %d twelfths: attempt %u", moment, disturbed.attempt);
        assert_true(disturbed.ended_ns < calm.ended_ns + 2 * SECOND_NS);
        expect_same(&disturbed, &calm);
    }
    free(calm.latents);
}

static void all_ranks_and_the_coordinator_may_go_at_once(void **state)
{
    struct run calm = undisturbed(3);
    struct rehearsal *r = begin(3);
    int job = submit(r);
    rehearsal_run(r, rehearsal_now_ns(r) + calm.ended_ns / 2);
    rehearsal_lose_coordinator(r, SECOND_NS);
    for (int rank = 0; rank < 3; rank++) rehearsal_kill(r, rank);
    finish(r);
    struct run disturbed = take(r, job);
    expect_same(&disturbed, &calm);
    free(calm.latents);
}

static void sixty_four_ranks_serve_a_queue(void **state)
{
    struct calm calm = {.lab = &lab};
    struct storm_found found;
    struct error error;
    /* More ranks than blocks: some only pass things on. */
    if (storm_run(&calm, &(struct storm_case){.ranks = 64, .jobs = 6}, &found, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_int_equal(found.failed + found.different, 0);
    assert_int_equal(found.processes, 64);
    calm_free(&calm);
}

static void storms_end_and_every_output_is_that_of_the_calm(void **state)
{
    struct calm calm = {.lab = &lab};
    struct storm_found found;
    struct error error;
    int given_up = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct storm_case storm = {.ranks = 2 + (int)(seed % 4),
                                   .jobs = 7,
                                   .seed = seed,
                                   .pause_ns = 3 * SECOND_NS,
                                   .coordinator = true};
        if (storm_run(&calm, &storm, &found, &error) != STATUS_OK)
            fail_msg("seed %lu: %s", (unsigned long)seed, error.text);
        if (found.different || found.failed) fail_msg("seed %lu: %s", (unsigned long)seed, found.first);
        given_up += found.given_up;
    }
    assert_true(given_up <= 2); /* of 84: three blows in a row hit the same job by chance */
    calm_free(&calm);
}

/* Ranks are lost while others wait for them in the middle of a block. */
static void storms_over_wide_stages_end_and_every_output_is_that_of_the_calm(void **state)
{
    struct calm calm = {.lab = &lab};
    struct storm_found found;
    struct error error;
    int given_up = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct storm_case storm = {.ranks = seed % 2 ? 2 : 4,
                                   .jobs = 6,
                                   .width = 2,
                                   .seed = seed,
                                   .pause_ns = 3 * SECOND_NS,
                                   .coordinator = true};
        if (storm_run(&calm, &storm, &found, &error) != STATUS_OK)
            fail_msg("storm %d: %s", (int)seed, error.text);
        if (found.failed || found.different) fail_msg("storm %d: %s", (int)seed, found.first);
        given_up += found.given_up;
    }
    assert_true(given_up <= 2);
    calm_free(&calm);
}

static void a_storm_is_the_same_every_time(void **state)
{
    struct calm calm = {.lab = &lab};
    struct storm_found found[2];
    struct error error;
    memset(found, 0, sizeof found);
    for (int i = 0; i < 2; i++)
        if (storm_run(&calm,
                      &(struct storm_case){
                          .ranks = 4, .jobs = 6, .seed = 3, .pause_ns = 2 * SECOND_NS, .coordinator = true},
                      &found[i], &error) != STATUS_OK)
            fail_msg("%s", error.text);
    assert_int_equal(found[0].steps, found[1].steps);
    assert_int_equal(found[0].processes, found[1].processes);
    assert_true(found[0].seconds == found[1].seconds);
    calm_free(&calm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_ends_after_the_time_its_work_takes),
        cmocka_unit_test(latents_do_not_depend_on_the_number_of_ranks),
        cmocka_unit_test(a_rank_that_is_killed_costs_a_second_and_no_bit),
        cmocka_unit_test(a_rank_that_stops_is_replaced_and_costs_no_bit),
        cmocka_unit_test(a_rank_that_stops_for_a_moment_is_waited_for),
        cmocka_unit_test(a_coordinator_that_is_killed_costs_no_step),
        cmocka_unit_test(all_ranks_and_the_coordinator_may_go_at_once),
        cmocka_unit_test(sixty_four_ranks_serve_a_queue),
        cmocka_unit_test(storms_end_and_every_output_is_that_of_the_calm),
        cmocka_unit_test(storms_over_wide_stages_end_and_every_output_is_that_of_the_calm),
        cmocka_unit_test(a_storm_is_the_same_every_time),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
