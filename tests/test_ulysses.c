/*
 * test_ulysses.c - stages of several members, each with a part of the tokens' rows: the same bits as on one, whatever the
 * width, the stages, the number of tokens, the policy and the company.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "tests/pipeline.h"
#include "tests/ring_kinds.h"
#include "tools/sim/tiny.h"

static void run_wide_over(struct split split, int count, int credits)
{
    struct ring_job jobs[16] = {0};
    struct ring_run ring = {
        .model = "models/reference", .split = split, .credits = credits, .jobs = jobs, .count = count};
    for (int i = 0; i < count; i++) jobs[i].order = kinds_order(i % KINDS);
    ring_execute(&ring);
    kinds_expect(&ring);
    ring_free(&ring);
}

static void run_wide(struct split split, int count)
{
    run_wide_over(split, count, 0);
}

static void a_stage_of_two_members_gives_the_bits_of_one(void **state)
{
    run_wide((struct split){.members = 2, .width = 2, .run = {8, 8}}, 1);
    run_wide((struct split){.members = 2, .width = 2, .run = {8, 8}}, 2 * KINDS);
}

static void a_stage_of_four_members_gives_the_bits_of_one(void **state)
{
    run_wide((struct split){.members = 4, .width = 4, .run = {8, 8, 8, 8}}, KINDS);
}

static void stages_one_behind_the_other_may_be_wide(void **state)
{
    run_wide((struct split){.members = 4, .width = 2, .run = {4, 4, 4, 4}}, 2 * KINDS);
    run_wide((struct split){.members = 6, .width = 2, .run = {3, 3, 1, 1, 4, 4}}, KINDS);
}

/* More jobs than hops may be out, and no more credits than that takes (worker/engine.h, Credits): nobody waits for ever. */
static void the_fewest_credits_do_for_as_many_hops_as_may_be_out(void **state)
{
    static const struct split splits[] = {
        {.members = 2, .width = 2, .run = {8, 8}},
        {.members = 6, .width = 2, .run = {3, 3, 2, 2, 3, 3}},
        {.members = 8, .width = 2, .run = {2, 2, 2, 2, 2, 2, 2, 2}},
        {.members = 8, .width = 2, .head = 1, .run = {0, 0, 3, 3, 0, 0, 4, 4}}};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++)
        run_wide_over(splits[i], 16, wide_hops(splits[i].members / 2) + ENGINE_PARTS + FABRIC_UNTOLD + 1);
}

static void home_may_keep_the_caps_and_a_stage_need_not_have_any_blocks(void **state)
{
    run_wide((struct split){.members = 2, .width = 2, .head = 1, .tail = 1, .run = {6, 6}}, KINDS);
    run_wide((struct split){.members = 4, .width = 2, .head = 1, .run = {0, 0, 7, 7}}, KINDS);
}

static void branches_may_have_wide_stages_of_their_own(void **state)
{
    run_wide(
        (struct split){.members = 4, .width = 2, .chain = {{0, 1}, {0, 1}}, .run = {8, 8, 0, 0, 0, 0, 8, 8}},
        KINDS);
}

static void a_cancelled_neighbour_changes_nothing(void **state)
{
    struct ring_job jobs[6] = {0};
    struct ring_run ring = {.model = "models/reference",
                            .split = {.members = 4, .width = 2, .run = {4, 4, 4, 4}},
                            .jobs = jobs,
                            .count = 6};
    for (int i = 0; i < 6; i++)
        jobs[i] = (struct ring_job){.order = kinds_order(i % 3), .cancel_at = i < 3 ? 0 : i - 2};
    ring_execute(&ring);
    for (int i = 3; i < 6; i++) assert_int_equal(jobs[i].outcome, STATUS_ABORTED);
    ring.count = 3;
    kinds_expect(&ring);
    ring.count = 6;
    ring_free(&ring);
}

/* --------------------------------------------------------------------------- other models, numbers of tokens */

static struct job_order order_of_size(int width, int height, int frames, double guidance)
{
    return (struct job_order){.job = 1,
                              .attempt = 1,
                              .prompt = "a small white ring",
                              .negative = "",
                              .seed = 3,
                              .steps = 3,
                              .guidance = guidance,
                              .shift = 3,
                              .width = width,
                              .height = height,
                              .frames = frames,
                              .fps = 16,
                              .priority = 1};
}

static void expect_like_one(const char *model, struct split split, struct job_order order)
{
    struct pipeline_run alone = {.model = model, .order = order};
    struct ring_job job = {.order = order};
    struct ring_run ring = {.model = model, .split = split, .jobs = &job, .count = 1};
    pipeline_execute(&alone);
    if (alone.outcome != STATUS_OK) fail_msg("%s", alone.error.text);
    ring_execute(&ring);
    if (job.outcome != STATUS_OK) fail_msg("%s", job.error.text);
    assert_int_equal(job.latent_count, alone.latent_count);
    assert_memory_equal(job.latents, alone.latents, (size_t)job.latent_count * sizeof *job.latents);
    ring_free(&ring);
    pipeline_free(&alone);
}

static void rows_need_not_divide_evenly(void **state)
{
    static const int sizes[][3] = {{48, 48, 9}, {16, 80, 1}, {80, 48, 5}, {16, 32, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct job_order order = order_of_size(sizes[i][0], sizes[i][1], sizes[i][2], i % 2 ? 1 : 4);
        expect_like_one("models/reference", (struct split){.members = 2, .width = 2, .run = {8, 8}}, order);
        if (i < 3)
            expect_like_one("models/reference", (struct split){.members = 4, .width = 4, .run = {8, 8, 8, 8}},
                            order);
    }
}

static void three_members_share_three_heads(void **state)
{
    expect_like_one("tests/models/tiny-b", (struct split){.members = 3, .width = 3, .run = {2, 2, 2}},
                    order_of_size(48, 32, 5, 4));
    expect_like_one("tests/models/tiny-b",
                    (struct split){.members = 6, .width = 3, .run = {1, 1, 1, 1, 1, 1}},
                    order_of_size(32, 80, 1, 1));
}

/* ------------------------------------------------------------------------------------------ heads and few rows */

/* Models with other heads, cut out of small ones (tools/sim/tiny.h). */
struct cut {
    const char *source;
    struct tiny_shape shape;
};

static void cut_model(const struct cut *cut, char path[64])
{
    struct error error;
    char source[512];
    strcpy(path, "/tmp/refrain-heads-XXXXXX");
    assert_non_null(mkdtemp(path));
    assert_int_equal(rmdir(path), 0);
    golden_path(source, sizeof source, cut->source);
    if (tiny_make(source, path, &cut->shape, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* So many stages of equal blocks, two of them where there are ranks for it. */
static struct split split_wide(int width, int stages, int layers)
{
    struct split split = {.members = width * stages, .width = width};
    for (int i = 0; i < split.members; i++) split.run[i] = layers / stages;
    return split;
}

/* Sizes in tokens: one for each rank of a stage, a prime number of them, one more or less than whole shares. */
static void any_heads_are_dealt_to_any_width_that_divides_them(void **state)
{
    static const struct {
        struct cut cut;
        int width;
    } rows[] = {
        {{"tests/models/tiny-a", {.layers = 2, .heads = 3, .head_dim = 8}}, 3},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 5, .head_dim = 4}}, 5},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 7, .head_dim = 2}}, 7},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 12, .head_dim = 2}}, 2},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 12, .head_dim = 2}}, 3},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 12, .head_dim = 2}}, 4},
        {{"tests/models/tiny-a", {.layers = 2, .heads = 12, .head_dim = 2}}, 6},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int width = rows[i].width, tokens[] = {width, 7, 13, 2 * width + 1, 3 * width - 1};
        char path[64];
        cut_model(&rows[i].cut, path);
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++)
            expect_like_one(path, split_wide(width, width <= 4 && k % 2 ? 2 : 1, 2),
                            order_of_size(16, 16 * tokens[k], 1, k % 2 ? 4 : 1));
        tiny_remove(path);
    }
}

/* In flight together: more shards than rows change from hop to hop. */
static void jobs_of_all_sizes_share_wide_stages(void **state)
{
    static const int sizes[][3] = {{16, 80, 1}, {80, 80, 5},  {16, 112, 1},
                                   {48, 48, 1}, {16, 208, 1}, {64, 32, 9}};
    enum { JOBS = sizeof sizes / sizeof *sizes };
    static const struct cut cut = {"tests/models/tiny-a", {.layers = 4, .heads = 5, .head_dim = 4}};
    struct ring_job jobs[JOBS] = {0};
    char path[64];
    cut_model(&cut, path);
    for (int width = 1; width <= 5; width += 4) {
        struct ring_run ring = {.model = path, .split = split_wide(width, 1, 4), .jobs = jobs, .count = JOBS};
        for (int i = 0; i < JOBS; i++) {
            jobs[i] = (struct ring_job){
                .order = order_of_size(sizes[i][0], sizes[i][1], sizes[i][2], i % 2 ? 1 : 4)};
            jobs[i].order.job = 1 + (uint64_t)i;
            if (i % 3 == 2) jobs[i].order.cache = "layers:begin=1,end=3,every=2";
        }
        ring_execute(&ring);
        for (int i = 0; i < JOBS; i++) {
            if (jobs[i].outcome != STATUS_OK) fail_msg("job %d: %s", i + 1, jobs[i].error.text);
            struct pipeline_run alone = {.model = path, .order = jobs[i].order};
            pipeline_execute(&alone);
            if (alone.outcome != STATUS_OK) fail_msg("%s", alone.error.text);
            assert_int_equal(jobs[i].latent_count, alone.latent_count);
            assert_memory_equal(jobs[i].latents, alone.latents, (size_t)alone.latent_count * sizeof(float));
            pipeline_free(&alone);
        }
        ring_free(&ring);
    }
    tiny_remove(path);
}

/* ------------------------------------------------------------------------------------------------- refusals */

static void expect_refused(struct job_order order, struct split split, const char *words)
{
    struct ring_job job = {.order = order};
    struct ring_run ring = {.model = "models/reference", .split = split, .jobs = &job, .count = 1};
    ring_execute(&ring);
    assert_true(job.outcome == STATUS_INVALID || job.outcome == STATUS_UNSUPPORTED);
    if (!strstr(job.error.text, words)) fail_msg("%s", job.error.text);
    ring_free(&ring);
}

static void jobs_that_cannot_be_dealt_to_wide_stages_are_refused(void **state)
{
    expect_refused(order_of_size(16, 32, 1, 1), (struct split){.members = 4, .width = 4, .run = {8, 8, 8, 8}},
                   "size 16x32x1: 2 tokens cannot be dealt to stages of 4 ranks");
    expect_refused(order_of_size(16, 16, 1, 4), (struct split){.members = 2, .width = 2, .run = {8, 8}},
                   "size 16x16x1: 1 tokens cannot be dealt to stages of 2 ranks");
}

static void widths_that_do_not_fit_are_refused_in_one_sentence(void **state)
{
    static const struct {
        struct split split;
        const char *words;
    } bad[] = {
        {{.members = 3, .width = 3, .run = {8, 8, 8}},
         "4 attention heads cannot be dealt to stages of 3 ranks: the width must divide them"},
        {{.members = 3, .width = 2, .run = {8, 8, 0}}, "in stages of 2 does not fit"},
        {{.members = 2, .width = 2, .run = {8, 7}}, "in stages of 2 does not fit"},
        {{.members = 2, .width = 2, .run = {4, 4}}, "in stages of 2 does not fit"},
        {{.members = 2, .width = 2, .floating = true, .run = {8, 8}}, "in stages of 2 does not fit"},
        {{.members = 2, .width = -1, .run = {4, 4}}, "does not fit"},
    };
    char path[512];
    const struct ops *ops = guarded_or(NULL);
    struct team *team = device_team(ops, 1);
    golden_path(path, sizeof path, "models/reference");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct model *model = NULL;
        struct error error = {0};
        assert_int_equal(model_load(path, ops, team, &bad[i].split, 0, &model, &error), STATUS_INVALID);
        if (!strstr(error.text, bad[i].words)) fail_msg("%s", error.text);
    }
    device_team_free(ops, team);
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_that_do_not_fit_are_refused_in_one_sentence),
        cmocka_unit_test(a_stage_of_two_members_gives_the_bits_of_one),
        cmocka_unit_test(a_stage_of_four_members_gives_the_bits_of_one),
        cmocka_unit_test(stages_one_behind_the_other_may_be_wide),
        cmocka_unit_test(the_fewest_credits_do_for_as_many_hops_as_may_be_out),
        cmocka_unit_test(home_may_keep_the_caps_and_a_stage_need_not_have_any_blocks),
        cmocka_unit_test(branches_may_have_wide_stages_of_their_own),
        cmocka_unit_test(a_cancelled_neighbour_changes_nothing),
        cmocka_unit_test(rows_need_not_divide_evenly),
        cmocka_unit_test(three_members_share_three_heads),
        cmocka_unit_test(any_heads_are_dealt_to_any_width_that_divides_them),
        cmocka_unit_test(jobs_of_all_sizes_share_wide_stages),
        cmocka_unit_test(jobs_that_cannot_be_dealt_to_wide_stages_are_refused),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, kinds_run_alone, kinds_free);
}
