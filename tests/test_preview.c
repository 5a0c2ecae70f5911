/*
 * test_preview.c - previews show what the steps so far predict, and leave no trace in the job.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/saved_run.h"

enum { EVERY = 3 };

/* Runs the job and makes its previews as they come; *made: how many. */
static struct saved_run run_with_previews(struct ring *ring, const struct job_order *order, int *made)
{
    struct saved_run end = {0};
    struct job *job = saved_create(ring, order);
    *made = 0;
    while (job->life < LIFE_DECODE) {
        const uint8_t *png;
        size_t bytes;
        if (job_preview_waits(job)) {
            job_preview_make(job);
            assert_int_equal(job_preview(job, &png, &bytes), EVERY * ++*made);
            assert_true(bytes > 8 && memcmp(png, "\x89PNG\r\n\x1a\n", 8) == 0);
            assert_false(job_preview_waits(job));
        }
        ring_deliver(ring, job, job_advance(job) == JOB_WAITS);
    }
    saved_take(job, &end);
    saved_discard(ring, job);
    return end;
}

static void a_job_with_previews_has_the_bits_of_one_without(void **state)
{
    static const char *const settings[] = {NULL, "balanced", "zeus:first=3,late=0",
                                           "layers:every=3,begin=2,end=6"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        for (int compare = 0; compare <= (settings[i] != NULL); compare++) {
            int made;
            struct job_order order = saved_order(settings[i]), watched;
            order.compare = compare;
            watched = order;
            watched.preview_every = EVERY;
            struct saved_run plain = saved_run(saved_rings[i % SAVED_RINGS], &order, NULL, false),
                             shown = run_with_previews(saved_rings[(i + 1) % SAVED_RINGS], &watched, &made);
            saved_expect_same(settings[i] ? settings[i] : "off", 0, &plain, &shown);
            assert_int_equal(made, (STEPS - 1) / EVERY);
            saved_free(&plain);
            saved_free(&shown);
        }
}

/* latent - sigma * velocity, of the step that was just made, and of it the first latent frame. */
static void what_is_shown_is_the_clean_latent_that_the_step_predicts(void **state)
{
    struct job_order order = saved_order(NULL);
    struct saved_run unused = {0};
    order.preview_every = EVERY;
    struct job *job = saved_create(saved_rings[0], &order);
    saved_drive(saved_rings[0], job, EVERY - 1, false, &unused);
    float *before = saved_copy(job->latent, (size_t)job->latent_count * sizeof(float));
    saved_drive(saved_rings[0], job, EVERY, false, &unused);
    assert_true(job_preview_waits(job));
    float sigma = (float)solver_sigma(job->solver[0], EVERY - 1);
    assert_true(sigma > 0 && sigma < 1);
    int64_t plane = (int64_t)job->latent_height * job->latent_width, volume = plane * job->latent_frames;
    for (int64_t c = 0; c < job->latent_count / volume; c++)
        for (int64_t i = 0; i < plane; i++) {
            float expected = before[c * volume + i] - sigma * job->velocity[c * volume + i];
            assert_float_equal(job->preview.latent[c * plane + i], expected, 1e-5);
        }
    /* a newer one takes its place */
    saved_drive(saved_rings[0], job, 2 * EVERY, false, &unused);
    job_preview_make(job);
    const uint8_t *png;
    size_t bytes;
    assert_int_equal(job_preview(job, &png, &bytes), 2 * EVERY);
    saved_discard(saved_rings[0], job);
    free(before);
}

static void a_cancelled_job_makes_no_more_previews(void **state)
{
    struct job_order order = saved_order(NULL);
    struct saved_run unused = {0};
    order.preview_every = 1;
    struct job *job = saved_create(saved_rings[0], &order);
    saved_drive(saved_rings[0], job, 1, false, &unused);
    assert_true(job_preview_waits(job));
    job_cancel(job);
    assert_false(job_preview_waits(job));
    saved_discard(saved_rings[0], job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_with_previews_has_the_bits_of_one_without),
        cmocka_unit_test(what_is_shown_is_the_clean_latent_that_the_step_predicts),
        cmocka_unit_test(a_cancelled_job_makes_no_more_previews),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
