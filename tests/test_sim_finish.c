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

enum { LAYERS = 8, JOBS = 24, FIRST = 6, MOMENTS = 3 };

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
    if (lab_model(&lab, LAYERS, model, &error) != STATUS_OK || rehearsal_open(&config, &r, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return r;
}

/* The index-th of a mixed queue: 15 to 45 steps, three policies, guided or not, two sizes. */
static Refrain__JobSpec mixed(int index)
{
    static const char *const caches[] = {"off", "interval:N=3,F=1", "off", "interval:N=2,F=1"};
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    double part = index * 0.6180339887498949;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_guidance = 1;
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

/* Of what was still to come when it was said; jobs [first, first + count). */
static double error_at(const struct rehearsal *r, int moment, int first, int count)
{
    double errors[REHEARSAL_MAX_JOBS];
    for (int i = 0; i < count; i++) {
        const struct rehearsal_job *job = rehearsal_job(r, first + i);
        assert_int_equal(job->state, REFRAIN__JOB_STATE__JOB_COMPLETED);
        const struct rehearsal_told *told = &job->told[moment];
        if (!told->at_ns) fail_msg("job %d was not foretold at moment %d", first + i, moment);
        if (getenv("SHOW")) print_message("job %d m%d steps %d start %.2f end %.2f at %.2f told %.2f\n", first+i, moment, job->steps, (double)job->started_ns/1e9, (double)job->ended_ns/1e9, (double)told->at_ns/1e9, (double)told->finish_ns/1e9);
        errors[i] = fabs((double)(told->finish_ns - job->ended_ns) / (double)(job->ended_ns - told->at_ns));
    }
    return median(errors, count);
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

static void expect_foretold(int ranks, const char *home)
{
    static const char *const names[MOMENTS] = {"at submission", "at a quarter of its steps", "at half of them"};
    struct rehearsal *r = begin(ranks, home);
    for (int i = 0; i < FIRST; i++) submit(r, mixed(i)); /* from which it learns */
    finish(r);
    for (int i = 0; i < JOBS; i++) submit(r, mixed(FIRST + i));
    finish(r);
    for (int moment = 0; moment < MOMENTS; moment++) {
        double error = error_at(r, moment, FIRST, JOBS);
        print_message("%d ranks, %s homes, %s: median error %.1f %%\n", ranks, home ? home : "chosen", names[moment],
                 100 * error);
    }
    rehearsal_close(r);
}

static void a_mixed_queue_ends_when_it_was_said_to(void **state)
{
    expect_foretold(1, NULL);
    expect_foretold(2, NULL);
    expect_foretold(2, "fixed");
    expect_foretold(4, NULL);
    expect_foretold(4, "fixed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixed_queue_ends_when_it_was_said_to),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
