/*
 * test_sim_service.c - the whole service on the virtual clock: real coordinator, job store, ranks and jobs
 * (tools/sim/rehearsal.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tools/sim/lab.h"
#include "tools/sim/rehearsal.h"

static struct lab lab;

static int open_lab(void **state)
{
    struct error error;
    if (lab_open("tests/models/tiny-a", &lab, &error) != STATUS_OK) fail_msg("%s", error.text);
    return 0;
}

static int close_lab(void **state)
{
    lab_close(&lab);
    return 0;
}

static struct rehearsal *begin(int ranks)
{
    static char model[PATH_MAX];
    struct rehearsal *r;
    struct error error;
    struct rehearsal_config config = {.model = model,
                                      .directory = lab.directory,
                                      .ranks = ranks,
                                      .costs = {.block_ns = 10 * MILLISECOND_NS, .frame_ns = 50 * MILLISECOND_NS},
                                      .network = {.latency_ns = MILLISECOND_NS / 20, .death_ns = 2 * MILLISECOND_NS},
                                      .start_ns = 500 * MILLISECOND_NS};
    if (lab_model(&lab, 8, model, &error) != STATUS_OK || rehearsal_open(&config, &r, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return r;
}

static int submit(struct rehearsal *r, uint64_t seed, const char *cache)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    struct error error;
    int job;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_save_latents = 1;
    spec.model = (char *)(uintptr_t)"tiny";
    spec.prompt = (char *)(uintptr_t)"a red fox in the snow";
    spec.seed = seed;
    spec.steps = 12;
    spec.width = spec.height = 32;
    spec.frames = 5;
    spec.save_latents = 1;
    spec.cache = (char *)(uintptr_t)cache;
    if (rehearsal_submit(r, &spec, &job, &error) != STATUS_OK) fail_msg("%s", error.text);
    return job;
}

static void finish(struct rehearsal *r)
{
    struct error error;
    if (rehearsal_finish(r, 1000 * SECOND_NS, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* The latents of a job that nothing disturbed, on one rank. */
static void *undisturbed(uint64_t seed, const char *cache, size_t *size)
{
    struct error error;
    void *bytes;
    struct rehearsal *r = begin(1);
    int job = submit(r, seed, cache);
    finish(r);
    if (rehearsal_latents(r, job, &bytes, size, &error) != STATUS_OK)
        fail_msg("%s: %s", rehearsal_job(r, job)->message, error.text);
    rehearsal_close(r);
    return bytes;
}

static void expect_undisturbed(struct rehearsal *r, int job, uint64_t seed, const char *cache)
{
    struct error error;
    size_t wanted_size, size;
    void *bytes;
    if (rehearsal_job(r, job)->state != REFRAIN__JOB_STATE__JOB_COMPLETED)
        fail_msg("job %d: %s", job, rehearsal_job(r, job)->message);
    if (rehearsal_latents(r, job, &bytes, &size, &error) != STATUS_OK) fail_msg("%s", error.text);
    rehearsal_close(r);
    void *wanted = undisturbed(seed, cache, &wanted_size);
    assert_int_equal(size, wanted_size);
    assert_memory_equal(bytes, wanted, size);
    free(bytes);
    free(wanted);
}

static void a_submitted_job_is_done(void **state)
{
    struct rehearsal *r = begin(2);
    int job = submit(r, 7, NULL);
    finish(r);
    const struct rehearsal_job *done = rehearsal_job(r, job);
    print_message("submitted %.3f started %.3f ended %.3f\n", done->submitted_ns / 1e9, done->started_ns / 1e9, done->ended_ns / 1e9);
    expect_undisturbed(r, job, 7, NULL);
}

static void a_killed_rank_costs_time_and_no_bit(void **state)
{
    struct rehearsal *r = begin(2);
    struct rehearsal_counts counts;
    int job = submit(r, 7, NULL);
    rehearsal_run(r, 2 * SECOND_NS);
    print_message("steps %d\n", rehearsal_job(r, job)->steps_done);
    rehearsal_kill(r, 1);
    finish(r);
    const struct rehearsal_job *done = rehearsal_job(r, job);
    rehearsal_counts(r, &counts);
    print_message("submitted %.3f started %.3f ended %.3f attempts %u steps %d processes %d\n", done->submitted_ns / 1e9, done->started_ns / 1e9, done->ended_ns / 1e9, done->attempt, done->steps_reported, counts.processes);
    expect_undisturbed(r, job, 7, NULL);
}

static void a_lost_coordinator(void **state)
{
    struct rehearsal *r = begin(2);
    struct rehearsal_counts counts;
    int job = submit(r, 7, NULL);
    rehearsal_run(r, 2 * SECOND_NS);
    print_message("steps %d\n", rehearsal_job(r, job)->steps_done);
    rehearsal_lose_coordinator(r, SECOND_NS);
    finish(r);
    const struct rehearsal_job *done = rehearsal_job(r, job);
    rehearsal_counts(r, &counts);
    print_message("submitted %.3f started %.3f ended %.3f attempts %u steps %d processes %d\n", done->submitted_ns / 1e9, done->started_ns / 1e9, done->ended_ns / 1e9, done->attempt, done->steps_reported, counts.processes);
    expect_undisturbed(r, job, 7, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_submitted_job_is_done),
        cmocka_unit_test(a_killed_rank_costs_time_and_no_bit),
        cmocka_unit_test(a_lost_coordinator),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
