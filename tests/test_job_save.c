/*
 * test_job_save.c - a job's state as bytes: whatever its caching, it goes on from any of its steps, on any
 * number of ranks, with the same bits.
 *
 * Every setting runs undisturbed on one rank, then on two while every step is saved. From each of these
 * checkpoints a new job goes on to the end on another ring, and saves its steps, too: they must be the same
 * bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/saved_run.h"

/* ------------------------------------------------------------------------------------------ the same bits */

static void any_caching_goes_on_from_any_step_with_the_same_bits(void **state)
{
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        struct job_order order = saved_order(saved_settings[i]);
        assert_int_equal(saved_check_every_step(&order, saved_rings[1], true), STEPS + 1);
    }
}

static void without_caching_too(void **state)
{
    struct job_order order = saved_order(NULL);
    assert_int_equal(saved_check_every_step(&order, saved_rings[2], true), STEPS + 1);
    order.solver = SOLVER_EULER;
    assert_int_equal(saved_check_every_step(&order, saved_rings[1], true), STEPS + 1);
}

static void with_one_branch_and_with_euler_too(void **state)
{
    static const char *const some[] = {"balanced", "dicache:threshold=0.4", "easycache:threshold=0.3,first=3",
                                       "zeus:first=3,late=0"};
    for (int i = 0; i < 4; i++) {
        struct job_order order = saved_order(some[i]);
        order.guidance = 1;
        saved_check_every_step(&order, saved_rings[2], true);
        order.guidance = 4;
        order.solver = SOLVER_EULER;
        saved_check_every_step(&order, saved_rings[1], true);
    }
}

static void a_comparison_goes_on_in_either_of_its_passes(void **state)
{
    static const char *const some[] = {"balanced", "easycache:threshold=0.3,first=3",
                                       "layers:every=3,begin=2,end=6"};
    for (int i = 0; i < 3; i++) {
        struct job_order order = saved_order(some[i]);
        order.compare = true;
        assert_int_equal(saved_check_every_step(&order, saved_rings[1], true), 2 * STEPS + 1);
    }
}

/* What blocks keep is made again from the last step that computed all of them; at most so many latents are kept. */
static void by_blocks_it_is_saved_until_sixteen_steps_after_a_whole_one_and_when_it_is_done(void **state)
{
    enum { LONG = 24, WHOLE = 1, LATEST = WHOLE + REUSE_BLOCKS_PAST };
    struct job_order order = saved_order("layers:every=24,begin=2,end=6,first=2");
    order.steps = LONG;
    struct saved_run end = saved_run(saved_rings[1], &order, NULL, true);
    for (int step = 0; step <= LONG; step++)
        if (!!end.at[step].bytes != (step <= LATEST || step == LONG))
            fail_msg("at step %d it is%s saved", step, end.at[step].bytes ? "" : " not");
    struct saved_run rest = saved_run(saved_rings[2], &order, &end.at[LATEST], false);
    saved_expect_same("layers", LATEST, &end, &rest);
    saved_free(&rest);
    saved_free(&end);
}

/* ----------------------------------------------------------------------------------------------- finished */

static void finish(struct ring *ring, struct job *job)
{
    struct error error;
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(ring, job, result == JOB_WAITS);
    if (job_outcome(job, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* After the last step neither text nor stages are needed again; the report is complete. */
static void a_job_whose_steps_are_done_is_decoded_at_once(void **state)
{
    char directory[] = "/tmp/refrain-test-XXXXXX", path[64];
    struct job_order order = saved_order("balanced");
    struct saved_run end = {0};
    struct error error;
    struct job *job, *again;
    struct job_cache cache, cache_again;
    assert_non_null(mkdtemp(directory));
    order.tables = NULL;
    order.table_count = 0;
    assert_int_equal(job_create(ring_engine(saved_rings[1]), &order, directory, &job, &error), STATUS_OK);
    saved_drive(saved_rings[1], job, STEPS, true, &end);
    finish(saved_rings[1], job);
    order.attempt = 2;
    assert_int_equal(job_create(ring_engine(saved_rings[0]), &order, directory, &again, &error), STATUS_OK);
    assert_int_equal(job_restore(again, end.at[STEPS].bytes, end.at[STEPS].size, &error), STATUS_OK);
    assert_int_equal(job_status(again)->phase, JOB_PHASE_DECODE);
    finish(saved_rings[0], again);
    size_t frames = (size_t)order.frames * 3 * (size_t)order.width * (size_t)order.height;
    assert_memory_equal(job_frames(job), job_frames(again), frames * sizeof(float));
    assert_true(job_cache(job, &cache) && job_cache(again, &cache_again));
    assert_string_equal(cache.policy, cache_again.policy);
    assert_int_equal(cache.report.reused + cache.report.forecast,
                     cache_again.report.reused + cache_again.report.forecast);
    assert_true(cache.computed_seconds == cache_again.computed_seconds);
    assert_true(cache.reused_seconds == cache_again.reused_seconds);
    assert_true(cache_again.cached_seconds > 0);
    assert_true(job_status(again)->text_seconds == job_status(job)->text_seconds);
    assert_true(job_status(again)->denoise_seconds > 0);
    job_destroy(job);
    job_destroy(again);
    saved_free(&end);
    snprintf(path, sizeof path, "%s/video.mp4", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/sheet.png", directory);
    unlink(path);
    rmdir(directory);
}

/* Times go on from what they were; the steps made again, and the pause, are not part of them. */
static void times_and_progress_go_on(void **state)
{
    struct job_order order = saved_order("balanced");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    struct saved_bytes *at = &end.at[9];
    double hours = 5 * 3600;
    struct error error;
    int step;
    memcpy(at->bytes + DENOISE_AT, &hours, sizeof hours);
    memcpy(at->bytes + PASS_AT, &hours, sizeof hours);
    saved_forge(at);
    struct job *job = saved_create(saved_rings[2], &order);
    assert_int_equal(job_restore(job, at->bytes, at->size, &error), STATUS_OK);
    while (!job_between_steps(job, &step)) ring_deliver(saved_rings[2], job, job_advance(job) == JOB_WAITS);
    assert_int_equal(step, 9);
    assert_int_equal(job_status(job)->done, 9);
    assert_int_equal(job_status(job)->of, STEPS);
    assert_int_equal(job_status(job)->phase, JOB_PHASE_DENOISE);
    assert_true(job_status(job)->step_seconds > 0 && job_status(job)->seconds_left > 0);
    struct saved_run rest = {0};
    saved_drive(saved_rings[2], job, INT32_MAX, false, &rest);
    assert_int_equal(job_status(job)->done, 0); /* of the decoder's frames */
    assert_true(job_status(job)->denoise_seconds >= hours && job_status(job)->denoise_seconds < hours + 600);
    assert_true(job->pass_seconds[0] >= hours && job->pass_seconds[0] < hours + 600);
    saved_discard(saved_rings[2], job);
    saved_free(&end);
}

static void a_restored_job_can_be_cancelled_while_it_makes_steps_again(void **state)
{
    struct job_order order = saved_order("interval:N=2,first=4,forecast=dmd");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    struct error error;
    struct job *job = saved_create(saved_rings[2], &order);
    assert_int_equal(job_restore(job, end.at[11].bytes, end.at[11].size, &error), STATUS_OK);
    while (!job->replaying || !job->step_begun)
        ring_deliver(saved_rings[2], job, job_advance(job) == JOB_WAITS);
    job_cancel(job);
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(saved_rings[2], job, result == JOB_WAITS);
    assert_int_equal(job_outcome(job, &error), STATUS_ABORTED);
    saved_discard(saved_rings[2], job);
    saved_free(&end);
}

/* --------------------------------------------------------------------------------------------------- size */

/* A few latents: no hidden state is in it. What it takes beside a step is printed, not judged. */
static void a_checkpoint_is_a_few_latents(void **state)
{
    struct job_order order = saved_order("balanced");
    struct saved_run end = {0};
    order.width = order.height = 64;
    order.frames = 17;
    struct job *job = saved_create(saved_rings[0], &order);
    saved_drive(saved_rings[0], job, 9, true, &end);
    size_t size = job_save_bytes(job), latent = (size_t)job->latent_count * sizeof(float);
    unsigned char *bytes = malloc(size);
    int64_t began = clock_now_ns();
    for (int i = 0; i < 100; i++)
        assert_int_equal(job_save(job, bytes, job_save_bytes(job), NULL), STATUS_OK);
    double seconds = job_seconds_since(began) / 100;
    print_message("balanced, 64x64x17: %zu bytes, %.1f latents; saved in %.0f us, a computed step takes %.1f "
                  "ms (%.2f %%)\n",
                  size, (double)size / (double)latent, seconds * 1e6, job->report.computed_seconds * 1e3,
                  100 * seconds / job->report.computed_seconds);
    assert_true(size < 10 * latent);
    free(bytes);
    saved_discard(saved_rings[0], job);
    saved_free(&end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_caching_goes_on_from_any_step_with_the_same_bits),
        cmocka_unit_test(without_caching_too),
        cmocka_unit_test(with_one_branch_and_with_euler_too),
        cmocka_unit_test(a_comparison_goes_on_in_either_of_its_passes),
        cmocka_unit_test(by_blocks_it_is_saved_until_sixteen_steps_after_a_whole_one_and_when_it_is_done),
        cmocka_unit_test(a_job_whose_steps_are_done_is_decoded_at_once),
        cmocka_unit_test(times_and_progress_go_on),
        cmocka_unit_test(a_restored_job_can_be_cancelled_while_it_makes_steps_again),
        cmocka_unit_test(a_checkpoint_is_a_few_latents),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
