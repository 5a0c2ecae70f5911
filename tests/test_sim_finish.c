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
#include "tools/sim/lab.h"
#include "tools/sim/rehearsal.h"

enum { LAYERS = 8, JOBS = 24, FIRST = 16 };
enum moment { AT_SUBMISSION, ONCE_ALL_ARE_THERE, AT_A_QUARTER, AT_HALF, MOMENTS };

#define MICROSECOND_NS (MILLISECOND_NS / 1000)
#define LIMIT_NS       (1000 * SECOND_NS)

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

/* The index-th of a mixed queue: 15 to 45 steps, three policies, guided or not, two sizes. */
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

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return values[count / 2];
}

static const struct rehearsal_told *told_at(const struct rehearsal_job *job, enum moment moment)
{
    return moment == ONCE_ALL_ARE_THERE ? &job->asked
                                        : &job->told[moment == AT_A_QUARTER ? 1
                                                     : moment == AT_HALF    ? 2
                                                                            : 0];
}

/* Of the time from submission to the end, the median over jobs [FIRST, FIRST + JOBS). */
static double error_at(const struct rehearsal *r, enum moment moment)
{
    double errors[JOBS];
    for (int i = 0; i < JOBS; i++) {
        const struct rehearsal_job *job = rehearsal_job(r, FIRST + i);
        const struct rehearsal_told *told = told_at(job, moment);
        assert_int_equal(job->state, REFRAIN__JOB_STATE__JOB_COMPLETED);
        if (!told->at_ns) fail_msg("job %d was not foretold at moment %d", i, moment);
        errors[i] =
            fabs((double)(told->finish_ns - job->ended_ns) / (double)(job->ended_ns - job->submitted_ns));
    }
    return median(errors, JOBS);
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

static void run_queue(struct rehearsal *r, int first, int count)
{
    for (int i = first; i < first + count; i++) submit(r, mixed(i));
    for (int i = first; i < first + count; i++) rehearsal_ask(r, i);
    finish(r);
}

/* Those that come first cannot know who will share the ranks with them, so at submission more is allowed. */
static void expect_foretold(int ranks, const char *home)
{
    static const struct {
        const char *name;
        double most;
    } moments[] = {[AT_SUBMISSION] = {"at submission", 0.2},
                   [ONCE_ALL_ARE_THERE] = {"once all are there", 0.1},
                   [AT_A_QUARTER] = {"at a quarter of its steps", 0.1},
                   [AT_HALF] = {"at half of them", 0.1}};
    struct rehearsal *r = begin(ranks, home);
    run_queue(r, 0, FIRST); /* from which it learns */
    run_queue(r, FIRST, JOBS);
    for (int moment = 0; moment < MOMENTS; moment++) {
        double error = error_at(r, moment);
        if (error > moments[moment].most)
            fail_msg("%d ranks, %s homes, %s: median error %.1f %%", ranks, home ? home : "chosen",
                     moments[moment].name, 100 * error);
    }
    rehearsal_close(r);
}

static void on_one_rank_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    expect_foretold(1, NULL);
}

static void on_two_ranks_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    expect_foretold(2, "floating");
    expect_foretold(2, "fixed");
}

static void on_four_ranks_a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    expect_foretold(4, "floating");
    expect_foretold(4, "fixed");
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
        cmocka_unit_test(on_two_ranks_a_mixed_queue_ends_when_it_was_said_to),
        cmocka_unit_test(on_four_ranks_a_mixed_queue_ends_when_it_was_said_to),
        cmocka_unit_test(a_deadline_that_cannot_be_met_is_said_at_submission),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
