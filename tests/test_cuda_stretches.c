/*
 * test_cuda_stretches.c - recorded stretches in whole jobs over the stand-in GPU: the bits of ops that are called one by
 * one, with every kind of caching, on one rank and on three; how many were replayed; and what happens when recording, or
 * replaying, fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/plugin.h"
#include "tests/pipeline.h"
#include "tests/rerun.h"

extern const struct gpu_plugin refrain_gpu;

/* `make test-cuda`; otherwise a part, in seconds. */
static bool everything(void)
{
    const char *wanted = getenv("REFRAIN_TEST_CUDA");
    return wanted && strcmp(wanted, "all") == 0;
}

enum { STEPS = 5, LAYERS = 2, BRANCHES = 2 };

static struct pipeline_run job(const char *cache, const struct split *split)
{
    return (struct pipeline_run){.model = "tests/models/tiny-a",
                                 .ops = refrain_gpu.ops,
                                 .split = *split,
                                 .threads = 1,
                                 .order = {.job = 1,
                                           .attempt = 1,
                                           .prompt = "a red star",
                                           .negative = "blurred",
                                           .seed = 5,
                                           .steps = STEPS,
                                           .width = 32,
                                           .height = 32,
                                           .frames = 5,
                                           .fps = 16,
                                           .guidance = 2,
                                           .shift = 3,
                                           .cache = cache}};
}

static void make(struct pipeline_run *run, const char *wish)
{
    setenv("REFRAIN_GPU_RECORD", wish, 1);
    pipeline_execute(run);
    if (run->outcome != STATUS_OK) fail_msg("%s: %s", wish, run->error.text);
}

static const struct split alone = {.members = 1, .head = LAYERS}, three = {.members = 3, .run = {0, 1, 1}};

/* The job as it is and with ops recorded; the counts of the latter. */
static struct stretches_counts compare(const char *cache, const struct split *split, int member)
{
    struct pipeline_run called = job(cache, split), recorded = job(cache, split);
    make(&called, "never");
    make(&recorded, "always");
    assert_int_equal(called.latent_count, recorded.latent_count);
    assert_memory_equal(called.latents, recorded.latents, (size_t)called.latent_count * sizeof(float));
    for (int i = 0; i < split->members; i++) {
        assert_int_equal(called.stretches[i].recorded, 0);
        assert_int_equal(recorded.stretches[i].held, 0); /* forgotten with contexts and workspace */
        assert_int_equal(recorded.stretches[i].refused, 0);
    }
    struct stretches_counts counts = recorded.stretches[member];
    pipeline_free(&called);
    pipeline_free(&recorded);
    return counts;
}

static void head_tail_and_output_are_replayed_from_the_second_step_on(void **state)
{
    struct stretches_counts counts = compare(NULL, &alone, 0);
    assert_int_equal(counts.recorded, BRANCHES * (LAYERS + 2));
    assert_int_equal(counts.replayed, BRANCHES * (LAYERS + 2) * (STEPS - 1));
}

/* Each branch's rows are in whatever buffer of the stage is free, so which is recorded when is a matter of time. */
static void a_stages_run_is_replayed(void **state)
{
    struct stretches_counts counts = compare(NULL, &three, 1);
    assert_true(counts.recorded >= BRANCHES);
    assert_true(counts.replayed > 0 && counts.replayed <= BRANCHES * (STEPS - 1));
    assert_int_equal(compare(NULL, &three, 0).replayed,
                     BRANCHES * 2 * (STEPS - 1)); /* home: embedding, output */
}

static void cached_jobs_keep_their_bits(void **state)
{
    static const char *const cachings[] = {"dbcache:F=1,B=0,threshold=0.3,W=1",
                                           "seacache:threshold=0.2,first=2,forecast=taylor1",
                                           "interval:N=2,forecast=taylor1", "layers:every=2,begin=0,end=1"};
    for (size_t i = 0; i < sizeof cachings / sizeof *cachings; i++) {
        assert_true(compare(cachings[i], &alone, 0).replayed > 0);
        if (everything()) assert_true(compare(cachings[i], &three, 0).replayed > 0);
    }
}

/* Jobs of two sizes beside each other: the larger takes another workspace, and what was recorded in the old one goes. */
static void sizes_beside_each_other_do_not_take_each_others_stretches(void **state)
{
    struct pipeline_run called[2], recorded[2];
    for (int i = 0; i < 2; i++) {
        struct pipeline_run *runs = i ? recorded : called;
        runs[0] = job(NULL, &alone);
        runs[1] = job(NULL, &alone);
        runs[1].order.job = 2;
        runs[1].order.width = 48;
        runs[1].begins_at = 2;
        runs[0].order.steps = 10;
        runs[0].beside = &runs[1];
        make(&runs[0], i ? "always" : "never");
        assert_int_equal(runs[1].outcome, STATUS_OK);
    }
    for (int i = 0; i < 2; i++)
        assert_memory_equal(called[i].latents, recorded[i].latents,
                            (size_t)called[i].latent_count * sizeof(float));
    assert_true(recorded[0].stretches[0].recorded > BRANCHES * (LAYERS + 2) * 2); /* the first job's anew */
    for (int i = 0; i < 2; i++) pipeline_free(&called[i]), pipeline_free(&recorded[i]);
}

/* --------------------------------------------------------------------------------------------------------- failures */

/* In a process of its own: a job, and what became of it. */
static int live(void)
{
    struct pipeline_run run = job(NULL, &alone);
    setenv("REFRAIN_GPU_RECORD", "always", 1);
    pipeline_execute(&run);
    unsigned long sum = 0;
    for (int64_t i = 0; i < run.latent_count; i++) {
        unsigned bits;
        memcpy(&bits, &run.latents[i], sizeof bits);
        sum = sum * 31 + bits;
    }
    printf("%s%s; %lu recorded, %lu replayed, %lu refused; bits %lu\n", status_name(run.outcome),
           run.outcome == STATUS_OK ? "" : run.error.text, (unsigned long)run.stretches[0].recorded,
           (unsigned long)run.stretches[0].replayed, (unsigned long)run.stretches[0].refused, sum);
    pipeline_free(&run);
    return 0;
}

static void where_recording_is_refused_ops_are_called_and_the_bits_stay(void **state)
{
    static const struct {
        const char *setting, *counts;
    } cases[] = {
        {"REFRAIN_FAKEGPU_FAIL=cudaGraphInstantiate:3", "ok; 7 recorded, 28 replayed, 1 refused"},
        {"REFRAIN_FAKEGPU_FAIL=cudaStreamBeginCapture:1", "ok; 7 recorded, 28 replayed, 1 refused"},
        {"REFRAIN_FAKEGPU_FAIL=cudaStreamBeginCapture:1+", "ok; 0 recorded, 0 replayed, 8 refused"},
        {"REFRAIN_FAKEGPU_FAIL=cudaStreamEndCapture:2", "ok; 7 recorded, 28 replayed, 1 refused"},
        {"REFRAIN_FAKEGPU_FAIL=cudaGraphInstantiate:1+", "ok; 0 recorded, 0 replayed, 8 refused"},
    };
    char undisturbed[RERUN_TEXT], text[RERUN_TEXT];
    RERUN(undisturbed, "--live", "job", "REFRAIN_GPU=0");
    SAYS(undisturbed, "ok; 8 recorded, 32 replayed, 0 refused");
    for (size_t i = 0; i < (everything() ? sizeof cases / sizeof *cases : 2); i++) {
        RERUN(text, "--live", "job", cases[i].setting);
        SAYS(text, cases[i].counts);
        SAYS(text, "ops are called one by one: recording: ");
        SAYS(text, strstr(undisturbed, "bits "));
    }
}

static void a_stretch_that_cannot_be_launched_ends_the_job_with_a_sentence(void **state)
{
    char text[RERUN_TEXT];
    RERUN(text, "--live", "job", "REFRAIN_FAKEGPU_FAIL=cudaGraphLaunch:3");
    SAYS(text, "a recorded stretch");
    SAYS(text, "GPU 0 (stand-in GPU sm_90) failed: ");
    SAYS(text, "this rank has to be started again");
}

int main(int argc, char **argv)
{
    setenv("REFRAIN_GPU", "0", 0); /* whatever runs beside this test */
    rerun_program = argv[0];
    if (argc == 3) return live();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_tail_and_output_are_replayed_from_the_second_step_on),
        cmocka_unit_test(a_stages_run_is_replayed),
        cmocka_unit_test(cached_jobs_keep_their_bits),
        cmocka_unit_test(sizes_beside_each_other_do_not_take_each_others_stretches),
        cmocka_unit_test(where_recording_is_refused_ops_are_called_and_the_bits_stay),
        cmocka_unit_test(a_stretch_that_cannot_be_launched_ends_the_job_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
