/* test_footprint.c - memory as predicted on paper against what whole jobs allocate. The GPU's own: test_cuda_footprint.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "tests/ring_rig.h"
#include "tests/counting.h"
#include "tests/footprint_rig.h"
#include "tests/golden.h"
#include "tests/guarded.h"

static const char *const cachings[] = {NULL,
                                       "interval:N=2,forecast=taylor1",
                                       "dbcache:F1B0,threshold=0.12",
                                       "easycache",
                                       "layers:every=2,begin=0,end=1",
                                       "dbprune:F1B0",
                                       "interval:N=2,forecast=freqca"};
enum { CACHINGS = sizeof cachings / sizeof *cachings };

static void whole_jobs_allocate_what_was_predicted(void **state)
{
    static const struct split splits[] = {{.members = 1, .head = 2},
                                          {.members = 2, .head = 1, .run = {0, 1}},
                                          {.members = 3, .run = {0, 1, 1}}};
    for (int k = 0; k < CACHINGS; k++)
        for (int i = 0; i < 3; i++)
            footprint_expect_equal(&(struct footprint_case){.model = "tests/models/tiny-a",
                                                            .split = splits[i],
                                                            .width = 48,
                                                            .height = 32,
                                                            .frames = 5,
                                                            .guidance = 3,
                                                            .cache = cachings[k]},
                                   guarded_ops(DTYPE_BF16), false);
}

static void so_they_do_at_other_sizes_and_lengths_of_text(void **state)
{
    static const struct split split = {.members = 3, .head = 1, .tail = 2, .run = {1, 2, 2}};
    static const char *const prompts[] = {"x",
                                          "a small white ring bouncing on a teal background, slowly, twice"};
    for (int i = 0; i < 2; i++)
        footprint_expect_equal(&(struct footprint_case){.model = "models/reference",
                                                        .split = split,
                                                        .width = 32 + 16 * i,
                                                        .height = 32,
                                                        .frames = 1 + 8 * i,
                                                        .guidance = 1 + i,
                                                        .steps = 2,
                                                        .prompt = prompts[i]},
                               guarded_ops(DTYPE_BF16), false);
}

static void so_they_do_with_branches_apart(void **state)
{
    static const struct split splits[] = {
        {.members = 2, .chain = {{0, 1}, {0, 1}}, .run = {8, 0, 0, 8}},
        {.members = 3, .chain = {{0, 1}, {0, 1}}, .head = 1, .run = {4, 3, 0, 0, 2, 5}}};
    for (int i = 0; i < 2; i++)
        footprint_expect_equal(&(struct footprint_case){.model = "models/reference",
                                                        .split = splits[i],
                                                        .width = 32,
                                                        .height = 32,
                                                        .frames = 5,
                                                        .guidance = 3,
                                                        .steps = 2,
                                                        .cache = cachings[i ? 5 : 2]},
                               guarded_ops(DTYPE_BF16), false);
}

/* A job on real ranks, of which each thread's allocations are counted. */
static void expect_wide(const struct split *split)
{
    struct ledger seen[4] = {0};
    struct footprint paper[4];
    struct error error;
    char model[512];
    struct ring_job job = {.order = footprint_order(&(struct footprint_case){
                               .width = 48, .height = 32, .frames = 9, .guidance = 3, .steps = 2})};
    struct ring_run run = {.model = "models/reference",
                           .split = *split,
                           .ops = counting_ops(guarded_ops(DTYPE_BF16)),
                           .ledgers = seen,
                           .jobs = &job,
                           .count = 1};
    const struct footprint_task task = {.order = &job.order, .jobs = 1};
    golden_path(model, sizeof model, run.model);
    if (footprint_measure(model, split, &task, paper, &error) != STATUS_OK)
        fail_msg("on paper: %s", error.text);
    ring_execute(&run);
    if (job.outcome != STATUS_OK) fail_msg("%s", job.error.text);
    ring_free(&run);
    for (int i = 0; i < split->members; i++) {
        const struct ledger *most = &paper[i].most;
        print_message("rank %d of %d, %d wide: device %zu, shared %zu\n", i, split->members, split->width,
                      most->most_device - most->most_weights, most->most_shared);
        assert_int_equal(most->most_device - most->most_weights, seen[i].most_device - seen[i].most_weights);
        assert_int_equal(most->most_shared, seen[i].most_shared);
        for (int kind = 0; kind < LEDGER_KINDS; kind++) assert_int_equal(most->now[kind], 0);
    }
}

static void so_they_do_on_wide_stages(void **state)
{
    expect_wide(&(struct split){.members = 2, .width = 2, .run = {8, 8}});
    expect_wide(&(struct split){.members = 4, .width = 2, .run = {3, 3, 5, 5}});
}

/* Keys and values of a branch are where its blocks are run, and not where others have the same weights. */
static void nobody_keeps_keys_of_a_branch_that_others_compute(void **state)
{
    static const struct split splits[] = {{.members = 1, .head = 8},
                                          {.members = 2, .chain = {{0, 1}, {0, 1}}, .run = {8, 0, 0, 8}}};
    const struct footprint_case c = {
        .model = "models/reference", .width = 32, .height = 32, .frames = 5, .guidance = 3};
    struct job_order order = footprint_order(&c);
    struct footprint alone[1], apart[2];
    struct error error;
    char model[512];
    golden_path(model, sizeof model, c.model);
    struct footprint_task task = {.order = &order, .jobs = 1};
    if (footprint_measure(model, &splits[0], &task, alone, &error) != STATUS_OK ||
        footprint_measure(model, &splits[1], &task, apart, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_true(apart[1].jobs.device > 0);
    assert_int_equal(apart[0].jobs.device + apart[1].jobs.device, alone[0].jobs.device);
}

/* Weights, text, keys and values of both; four steps are made by both. */
static void so_they_do_with_two_experts(void **state)
{
    static const char *const some[] = {NULL, "dbcache:F1B0,W1,threshold=0.5", "layers:every=2,begin=2,end=6"};
    static const struct split split = {.members = 3, .head = 2, .tail = 1, .run = {0, 2, 3}};
    for (int i = 0; i < 3; i++)
        footprint_expect_equal(&(struct footprint_case){.model = "tests/models/tiny-d",
                                                        .split = split,
                                                        .width = 32,
                                                        .height = 32,
                                                        .frames = 5,
                                                        .guidance = 3,
                                                        .steps = 4,
                                                        .cache = some[i]},
                               guarded_ops(DTYPE_BF16), false);
}

/* Tall enough for bands that take less than the whole. */
static void so_they_do_when_they_decode_in_bands(void **state)
{
    static const struct split split = {.members = 2, .head = 1, .run = {0, 1}};
    struct footprint_case c = {.model = "tests/models/tiny-a",
                               .split = split,
                               .width = 16,
                               .height = 720,
                               .frames = 5,
                               .guidance = 1,
                               .steps = 1};
    size_t whole = footprint_expect_equal(&c, guarded_ops(DTYPE_BF16), false);
    c.decode_memory = whole / 2;
    size_t banded = footprint_expect_equal(&c, guarded_ops(DTYPE_BF16), false);
    assert_true(banded <= c.decode_memory && banded > 0);
}

/* What ends and begins beside each other is a matter of time, so several jobs have a bound. */
static void several_jobs_stay_within_what_was_predicted(void **state)
{
    enum { JOBS = 3 };
    const struct footprint_case c = {
        .model = "tests/models/tiny-a", .width = 32, .height = 32, .frames = 5, .guidance = 3};
    const struct split split = {.members = 2, .head = 1, .run = {0, 1}};
    struct ledger seen[2] = {0};
    struct footprint paper[2];
    struct error error;
    struct pipeline_run run[JOBS] = {0};
    char model[512];
    for (int i = 0; i < JOBS; i++)
        run[i] = (struct pipeline_run){.model = c.model,
                                       .ops = counting_ops(guarded_ops(DTYPE_BF16)),
                                       .order = footprint_order(&c),
                                       .split = split,
                                       .ledgers = seen,
                                       .beside = i + 1 < JOBS ? &run[i + 1] : NULL};
    for (int i = 0; i < JOBS; i++) run[i].order.job = (uint64_t)i + 1;
    golden_path(model, sizeof model, c.model);
    if (footprint_measure(model, &split, &(struct footprint_task){.order = &run[0].order, .jobs = JOBS},
                          paper, &error) != STATUS_OK)
        fail_msg("on paper: %s", error.text);
    pipeline_execute(&run[0]);
    for (int i = 0; i < JOBS; i++) {
        if (run[i].outcome != STATUS_OK) fail_msg("%s", run[i].error.text);
        pipeline_free(&run[i]);
    }
    for (int i = 0; i < 2; i++) {
        size_t most = paper[i].most.most_device - paper[i].most.most_weights;
        size_t real = seen[i].most_device - seen[i].most_weights;
        print_message("rank %d: device %zu of %zu, shared %zu of %zu\n", i, real, most, seen[i].most_shared,
                      paper[i].most.most_shared);
        assert_true(real <= most && seen[i].most_shared <= paper[i].most.most_shared);
        assert_true(most < 3 * real); /* and is worth something */
    }
}

static size_t fullest(const char *model, const struct split *split, const struct job_order *order)
{
    struct footprint ranks[9];
    struct error error;
    size_t most = 0;
    if (footprint_measure(model, split, &(struct footprint_task){.order = order, .jobs = 1}, ranks, &error) !=
        STATUS_OK)
        fail_msg("%s", error.text);
    for (int i = 0; i < split->members; i++)
        if (ranks[i].most.most_device > most) most = ranks[i].most.most_device;
    return most;
}

static void the_fewest_ranks_fit_and_one_less_does_not(void **state)
{
    const struct job_order order =
        footprint_order(&(struct footprint_case){.width = 64, .height = 64, .frames = 17, .guidance = 4});
    const struct footprint_task task = {.order = &order, .jobs = 1};
    struct split two, fewest, one = {.members = 1, .head = 8};
    struct error error;
    char model[512];
    golden_path(model, sizeof model, "models/reference");
    assert_int_equal(footprint_split(model, &task, 2, 0, 0, 0, &two, &error), STATUS_OK);
    assert_int_equal(two.head + two.run[1], 8);
    size_t memory = fullest(model, &two, &order);
    assert_true(memory < fullest(model, &one, &order));
    assert_int_equal(footprint_split(model, &task, 0, memory + 1000, 400, 600, &fewest, &error), STATUS_OK);
    assert_int_equal(fewest.members, 2);
    assert_true(footprint_split(model, &task, 0, memory + 1000, 400, 601, &fewest, &error) != STATUS_OK ||
                fewest.members > 2);
    /* One rank alone needs no memory for what others would send. */
    assert_int_equal(footprint_split(model, &task, 0, fullest(model, &one, &order), 0, 1000, &fewest, &error),
                     STATUS_OK);
    assert_int_equal(fewest.members, 1);
    assert_int_equal(footprint_split(model, &task, 0, 1000000, 0, 0, &fewest, &error), STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "home without a block"));
}

static void what_cannot_be_planned_is_told(void **state)
{
    struct job_order order =
        footprint_order(&(struct footprint_case){.width = 60, .height = 64, .frames = 17, .guidance = 4});
    struct footprint_task task = {.order = &order, .jobs = 1};
    const struct split split = {.members = 1, .head = 8};
    struct footprint rank;
    struct error error;
    char model[512];
    golden_path(model, sizeof model, "models/reference");
    assert_int_equal(footprint_measure(model, &split, &task, &rank, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "60x64"));
    task.jobs = 0;
    assert_int_equal(footprint_measure(model, &split, &task, &rank, &error), STATUS_INVALID);
    task.jobs = 1;
    order.width = 64;
    task.decode_memory = 1 << 20;
    assert_int_equal(footprint_measure(model, &split, &task, &rank, &error), STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "in the narrowest bands, the limit is 1.0 MB"));
    task.decode_memory = 0;
    assert_int_equal(footprint_split(model, &task, 20, 0, 0, 0, &(struct split){0}, &error), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_jobs_allocate_what_was_predicted),
        cmocka_unit_test(so_they_do_at_other_sizes_and_lengths_of_text),
        cmocka_unit_test(so_they_do_with_two_experts),
        cmocka_unit_test(so_they_do_with_branches_apart),
        cmocka_unit_test(so_they_do_on_wide_stages),
        cmocka_unit_test(nobody_keeps_keys_of_a_branch_that_others_compute),
        cmocka_unit_test(so_they_do_when_they_decode_in_bands),
        cmocka_unit_test(several_jobs_stay_within_what_was_predicted),
        cmocka_unit_test(the_fewest_ranks_fit_and_one_less_does_not),
        cmocka_unit_test(what_cannot_be_planned_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
