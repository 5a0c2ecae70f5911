/*
 * test_branch_golden.c - jobs that go on from another job's checkpoint with other guidance, words or caching, against
 * diffusers' own loop in which the same became other after that step (tests/golden/branches.json, made by
 * tools/golden_branches.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "cache/reuse.h"
#include "tests/golden.h"
#include "tests/saved_run.h"

/* Relative L2; the golden data is refused where a step more or less would be nearer than ten times that. */
#define LATENT_LIMIT 1e-4

enum { OTHER_JOB = 8 };

static const char *text_at(const json_t *object, const char *key, const char *standard)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : standard;
}

static double number_in(const json_t *object, const char *key, double standard)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : standard;
}

static const char *cache_text(const json_t *object, const char *standard)
{
    const char *text = text_at(object, "cache", standard);
    return text && strcmp(text, "off") == 0 ? NULL : text;
}

static struct job_order read_order(const json_t *run)
{
    bool euler = strcmp(text_at(run, "solver", ""), "euler") == 0;
    return (struct job_order){.job = 7,
                              .attempt = 1,
                              .fps = 16,
                              .prompt = text_at(run, "prompt", NULL),
                              .negative = text_at(run, "negative", ""),
                              .seed = (uint64_t)json_integer_value(json_object_get(run, "seed")),
                              .steps = (int)number_in(run, "steps", 0),
                              .width = (int)number_in(run, "width", 0),
                              .height = (int)number_in(run, "height", 0),
                              .frames = (int)number_in(run, "frames", 0),
                              .guidance = number_in(run, "guidance", 0),
                              .guides_apart = json_is_number(json_object_get(run, "guidance_2")),
                              .guidance_2 = number_in(run, "guidance_2", 0),
                              .shift = number_in(run, "shift", 0),
                              .solver = euler ? SOLVER_EULER : SOLVER_UNIPC,
                              .cache = cache_text(run, NULL)};
}

/* What was not changed is as it was. */
static struct job_order change(const struct job_order *order, const json_t *run)
{
    const json_t *changed = json_object_get(run, "changed");
    struct job_order branch = *order;
    branch.job = OTHER_JOB;
    branch.origin = order->job;
    branch.origin_step = (int)number_in(run, "at", 0);
    branch.prompt = text_at(changed, "prompt", order->prompt);
    branch.negative = text_at(changed, "negative", order->negative);
    branch.guidance = number_in(changed, "guidance", order->guidance);
    branch.guidance_2 = number_in(changed, "guidance_2", order->guidance_2);
    if (json_object_get(changed, "cache")) branch.cache = cache_text(changed, NULL);
    return branch;
}

/* One rank with all blocks. */
static struct ring *ring_of(const char *model)
{
    char path[512], relative[256];
    snprintf(relative, sizeof relative, "%s/transformer/config.json", model);
    json_t *config = json_load_file(golden_path(path, sizeof path, relative), 0, NULL);
    struct split split = {.members = 1, .head = (int)number_in(config, "num_layers", 0)};
    assert_true(split.head > 0);
    json_decref(config);
    return ring_start(model, &split, 2);
}

/* Steps below `at` are the other job's, and those from it on this one's: each as the hook decided there. */
static void expect_verdicts(const char *name, const json_t *run, const struct saved_run *whole,
                            const struct saved_run *made, int at)
{
    const json_t *verdicts = json_object_get(run, "verdicts");
    int branches = (int)json_array_size(verdicts), hits = 0;
    for (int b = 0; b < branches; b++) {
        const char *want = json_string_value(json_array_get(verdicts, (size_t)b));
        for (int step = 0; want[step]; step++) {
            const struct saved_run *by = step < at ? whole : made;
            bool computed = !by->cells || by->actions[step * branches + b] == REUSE_COMPUTED;
            hits += !computed;
            if (computed != (want[step] == 'C'))
                fail_msg("%s: step %d of branch %d was %s, theirs are %s", name, step, b,
                         computed ? "computed" : "reused", want);
        }
    }
    if (branches) assert_true(hits > 0);
}

static void check_run(struct golden *g, const json_t *run)
{
    const char *name = text_at(run, "name", NULL);
    int at = (int)number_in(run, "at", 0);
    char at_name[64];
    int64_t count;
    struct ring *ring = ring_of(text_at(run, "model", NULL));
    struct job_order order = read_order(run), branch = change(&order, run);
    struct saved_run whole = saved_run(ring, &order, NULL, true),
                     made = saved_run(ring, &branch, &whole.at[at], false);
    snprintf(at_name, sizeof at_name, "%s.at", name);
    const float *begun = golden_f32(g, at_name, &count), *want = golden_f32(g, name, NULL);
    assert_int_equal(count, made.count);
    /* The latent is the first thing in a checkpoint. */
    double before =
               golden_relative_l2((const float *)(const void *)(whole.at[at].bytes + HEAD), begun, count),
           after = golden_relative_l2(made.latent, want, count),
           unchanged = golden_relative_l2(whole.latent, want, count);
    print_message("%-20s at %2d %.1e  end %.1e  (unchanged %.1e)\n", name, at, before, after, unchanged);
    if (!(before <= LATENT_LIMIT) || !(after <= LATENT_LIMIT))
        fail_msg("%s: latents differ by %.2e at step %d and %.2e at the end", name, before, at, after);
    assert_true(unchanged > 10 * LATENT_LIMIT);
    expect_verdicts(name, run, &whole, &made, at);
    saved_free(&whole);
    saved_free(&made);
    ring_end(ring);
}

static void what_changes_after_a_step_changes_as_in_diffusers_loop(void **state)
{
    (void)state;
    char path[512];
    json_error_t problem;
    json_t *root = json_load_file(golden_path(path, sizeof path, "tests/golden/branches.json"), 0, &problem),
           *run;
    if (!root) fail_msg("branches.json: %s", problem.text);
    struct golden *g = golden_open("branches");
    size_t index;
    json_array_foreach(json_object_get(root, "runs"), index, run) check_run(g, run);
    assert_true(index >= 15);
    golden_close(g);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changes_after_a_step_changes_as_in_diffusers_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
