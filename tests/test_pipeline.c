/*
 * test_pipeline.c - whole runs, from prompt to frames, against diffusers' WanPipeline
 * (tests/golden/runs.json).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "tests/golden.h"
#include "tests/pipeline.h"

/* Final latents of a whole run: guidance and up to 50 steps multiply the float error of each forward. */
#define LATENT_LIMIT 1e-3
#define FRAME_PSNR   60

static json_t *load_runs(void)
{
    char path[512];
    json_error_t problem;
    json_t *root = json_load_file(golden_path(path, sizeof path, "tests/golden/runs.json"), 0, &problem);
    if (!root) fail_msg("runs.json: %s", problem.text);
    return root;
}

static struct job_order read_order(json_t *run)
{
    const char *solver = json_string_value(json_object_get(run, "solver"));
    return (struct job_order){.job = 1,
                              .attempt = 1,
                              .fps = 16,
                              .prompt = json_string_value(json_object_get(run, "prompt")),
                              .negative = json_string_value(json_object_get(run, "negative")),
                              .seed = (uint64_t)json_integer_value(json_object_get(run, "seed")),
                              .steps = (int)json_integer_value(json_object_get(run, "steps")),
                              .width = (int)json_integer_value(json_object_get(run, "width")),
                              .height = (int)json_integer_value(json_object_get(run, "height")),
                              .frames = (int)json_integer_value(json_object_get(run, "frames")),
                              .guidance = json_number_value(json_object_get(run, "guidance")),
                              .shift = json_number_value(json_object_get(run, "shift")),
                              .solver = strcmp(solver, "euler") == 0 ? SOLVER_EULER : SOLVER_UNIPC};
}

static void check_run(json_t *description)
{
    const char *name = json_string_value(json_object_get(description, "name"));
    struct golden *g = golden_open(json_string_value(json_object_get(description, "golden")));
    struct pipeline_run run = {.model = json_string_value(json_object_get(description, "model")),
                               .order = read_order(description),
                               .threads = 2};
    int64_t count;
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%s: %s", name, run.error.text);
    const float *latents = golden_f32(g, "latents", &count);
    assert_int_equal(count, run.latent_count);
    double distance = golden_relative_l2(run.latents, latents, count), psnr = 0;
    if (golden_has(g, "frames")) {
        const float *frames = golden_f32(g, "frames", &count);
        assert_int_equal(count, run.frame_count);
        psnr = golden_psnr(run.frames, frames, count);
        if (!(psnr >= FRAME_PSNR)) fail_msg("%s: frames at %.1f dB", name, psnr);
    }
    print_message("%-22s latents %.1e  frames %.0f dB\n", name, distance, psnr);
    if (!(distance <= LATENT_LIMIT)) fail_msg("%s: latents differ by %.2e", name, distance);
    pipeline_free(&run);
    golden_close(g);
}

static void every_run_equals_diffusers(void **state)
{
    json_t *root = load_runs(), *run;
    size_t index;
    json_array_foreach(json_object_get(root, "runs"), index, run) check_run(run);
    assert_true(index >= 10);
    json_decref(root);
}

/* Ranks, split and threads may not change a bit: compared with one rank, one thread. */
static void expect_same_bits(const struct pipeline_run *alone, struct split split, int threads)
{
    struct pipeline_run run = *alone;
    run.split = split;
    run.threads = threads;
    run.latents = run.frames = NULL;
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%d members: %s", split.members, run.error.text);
    assert_int_equal(run.latent_count, alone->latent_count);
    assert_memory_equal(run.latents, alone->latents, (size_t)alone->latent_count * sizeof(float));
    assert_memory_equal(run.frames, alone->frames, (size_t)alone->frame_count * sizeof(float));
    pipeline_free(&run);
}

static void any_number_of_ranks_and_threads_makes_the_same_bits(void **state)
{
    struct pipeline_run alone = {.model = "models/reference",
                                 .threads = 1,
                                 .order = {.job = 9,
                                           .attempt = 1,
                                           .prompt = "a small white ring bouncing on a teal background",
                                           .negative = "a red square",
                                           .seed = 99,
                                           .steps = 6,
                                           .guidance = 4,
                                           .shift = 3,
                                           .width = 48,
                                           .height = 80,
                                           .frames = 9,
                                           .fps = 16}};
    pipeline_execute(&alone);
    if (alone.outcome != STATUS_OK) fail_msg("%s", alone.error.text);
    expect_same_bits(&alone, (struct split){.members = 1}, 3);
    expect_same_bits(&alone, (struct split){.members = 2, .head = 4, .run = {0, 4}}, 1);
    expect_same_bits(&alone, (struct split){.members = 2, .head = 1, .tail = 2, .run = {0, 5}}, 2);
    expect_same_bits(&alone, (struct split){.members = 3, .head = 2, .tail = 1, .run = {0, 2, 3}}, 1);
    expect_same_bits(&alone, (struct split){.members = 4, .head = 2, .run = {0, 2, 2, 2}}, 1);
    expect_same_bits(&alone, (struct split){.members = 5, .head = 0, .tail = 0, .run = {0, 2, 2, 2, 2}}, 1);
    pipeline_free(&alone);
}

static void a_split_that_does_not_add_up_is_refused(void **state)
{
    struct pipeline_run run = {.model = "models/reference",
                               .split = {.members = 2, .head = 4, .run = {0, 3}},
                               .order = {.prompt = "x",
                                         .steps = 1,
                                         .guidance = 1,
                                         .shift = 3,
                                         .width = 64,
                                         .height = 64,
                                         .frames = 5,
                                         .fps = 16}};
    pipeline_execute(&run);
    assert_int_equal(run.outcome, STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_run_equals_diffusers),
        cmocka_unit_test(any_number_of_ranks_and_threads_makes_the_same_bits),
        cmocka_unit_test(a_split_that_does_not_add_up_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
