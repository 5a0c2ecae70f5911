/*
 * test_sim_pipeline.c - jobs given to virtual ranks by hand: what the cost models predict (docs/simulation.md) and what
 * must not depend on ranks and company.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/sim_lab.h"
#include "tools/sim/cases.h"

/* -------------------------------------------------------------------------------------------------- cycle */

static void expect_cycle(const struct cycle_case *c)
{
    struct cycle_found found;
    struct error error;
    if (case_cycle(&lab, c, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    if (fabs(found.simulated / found.predicted - 1) > 0.02)
        fail_msg("%d ranks, %d jobs, %d branches, hop %g: %.3f stage times, predicted %.3f", c->ranks,
                 c->jobs, c->branches, c->hop, found.simulated, found.predicted);
}

static void expect_cycles(double hop)
{
    static const int ranks[] = {2, 4, 8};
    for (size_t p = 0; p < sizeof ranks / sizeof *ranks; p++)
        for (int branches = 1; branches <= 2; branches++)
            for (int jobs = 1; jobs <= 10; jobs++)
                expect_cycle(
                    &(struct cycle_case){.ranks = ranks[p], .jobs = jobs, .branches = branches, .hop = hop});
}

static void without_hops_a_cycle_is_what_the_formula_says(void **state)
{
    expect_cycles(0);
}

static void with_short_hops_a_cycle_is_what_the_formula_says(void **state)
{
    expect_cycles(0.3);
}

static void with_hops_as_long_as_stages_a_cycle_is_what_the_formula_says(void **state)
{
    expect_cycles(1);
}

static void a_link_that_is_slower_than_the_stages_sets_the_pace(void **state)
{
    struct cycle_case c = {.ranks = 4, .jobs = 8, .branches = 2, .hop = 1.5, .occupies = true};
    struct cycle_found found;
    struct error error;
    if (case_cycle(&lab, &c, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_true(fabs(found.simulated / (8 * 2 * 1.5) - 1) < 0.03);
}

/* ------------------------------------------------------------------------------------------------- cached */

static struct cached_found run_cached(struct cached_case c)
{
    struct cached_found found;
    struct error error;
    c.ranks = 4;
    c.branches = 2;
    c.percent = 54;
    if (case_cached(&lab, &c, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_int_equal(found.hit_hops, 0);
    assert_true(fabs(found.hops / found.predicted_hops - 1) < 0.04);
    return found;
}

static void expect_share(const struct cached_found *found, double of, double least, const char *what)
{
    if (found->simulated < least * of)
        fail_msg("%s: %.3f job-steps, less than %.0f %% of %.3f", what, found->simulated, 100 * least, of);
}

static void with_one_head_block_a_shifted_split_loses_nothing_but_what_whole_blocks_cost(void **state)
{
    for (int jobs = 6; jobs <= 10; jobs += 2) {
        struct cached_found found =
            run_cached((struct cached_case){.jobs = jobs, .head = 1, .layout = LAYOUT_SHIFTED});
        expect_share(&found, found.possible, 0.98, "shifted split");
    }
}

static void
with_one_head_block_a_spare_block_makes_a_fixed_home_reach_nearly_all_that_is_possible(void **state)
{
    static const double hops[] = {0, 0.3, 1};
    for (int jobs = 6; jobs <= 10; jobs += 2)
        for (int hop = 0; hop < 3; hop++) {
            struct cached_found found = run_cached(
                (struct cached_case){.jobs = jobs, .head = 1, .layout = LAYOUT_SPARE, .hop = hops[hop]});
            expect_share(&found, found.ideal, 0.95, "spare block");
        }
}

static void with_one_head_block_floating_homes_reach_nearly_all_that_is_possible(void **state)
{
    for (int jobs = 6; jobs <= 12; jobs += 2) {
        struct cached_found found =
            run_cached((struct cached_case){.jobs = jobs, .head = 1, .layout = LAYOUT_FLOATING});
        expect_share(&found, found.ideal, 0.95, "floating homes, F1");
    }
}

static void with_eight_head_blocks_floating_homes_reach_most_of_it(void **state)
{
    for (int jobs = 8; jobs <= 12; jobs += 4) {
        struct cached_found found =
            run_cached((struct cached_case){.jobs = jobs, .head = 8, .layout = LAYOUT_FLOATING});
        expect_share(&found, found.ideal, 0.90, "floating homes");
    }
}

static void with_eight_head_blocks_an_even_split_is_slower_cached_than_uncached(void **state)
{
    struct cached_found found = run_cached((struct cached_case){.jobs = 8, .head = 8, .layout = LAYOUT_EVEN});
    assert_true(found.simulated < 0.9 * found.uncached);
}

/* -------------------------------------------------------------------------------------------------- costs */

static struct hand_job plain_job(uint64_t seed)
{
    return (struct hand_job){.steps = 6, .width = 32, .height = 32, .frames = 5, .seed = seed, .guidance = 5};
}

static void run(struct split split, const double *speeds, struct costs costs, enum hand_end end,
                struct hand_job *jobs, int count, struct hand_result *result)
{
    char model[PATH_MAX];
    struct error error;
    struct hand_config config = {.model = model,
                                 .directory = lab.directory,
                                 .split = split,
                                 .speeds = speeds,
                                 .costs = costs,
                                 .network = {.latency_ns = MILLISECOND_NS / 10},
                                 .end = end};
    if (lab_model(&lab, 8, model, &error) != STATUS_OK ||
        hand_run(&config, jobs, count, result, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    for (int i = 0; i < count; i++)
        if (jobs[i].failure[0]) fail_msg("job %d: %s", i, jobs[i].failure);
}

static void every_piece_of_work_takes_its_time_and_no_other(void **state)
{
    struct hand_job job = plain_job(1);
    struct hand_result result;
    const struct costs costs = {.block_ns = 10 * MILLISECOND_NS,
                                .embed_ns = 2 * MILLISECOND_NS,
                                .output_ns = 3 * MILLISECOND_NS,
                                .text_ns = 7 * MILLISECOND_NS,
                                .frame_ns = 50 * MILLISECOND_NS};
    run((struct split){.members = 2, .run = {3, 5}}, NULL, costs, HAND_FILES, &job, 1, &result);
    /* Two branches, two layers of text, two latent frames. */
    assert_int_equal(result.busy_ns[0], 6 * 2 * (3 * 10 + 2 + 3) * MILLISECOND_NS +
                                            2 * 2 * 7 * MILLISECOND_NS + 2 * 50 * MILLISECOND_NS);
    assert_int_equal(result.busy_ns[1], 6 * 2 * 5 * 10 * MILLISECOND_NS);
    hand_free(&job, 1);
}

static void blocks_in_proportion_to_speed_keep_unequal_ranks_equally_busy(void **state)
{
    struct hand_job jobs[4];
    struct hand_result result;
    const double speeds[] = {1, 2, 1};
    for (int i = 0; i < 4; i++) jobs[i] = plain_job((uint64_t)i);
    run((struct split){.members = 3, .run = {2, 4, 2}}, speeds,
        (struct costs){.block_ns = 10 * MILLISECOND_NS}, HAND_STEPS, jobs, 4, &result);
    for (int i = 0; i < 3; i++) assert_int_equal(result.busy_ns[i], 4 * 6 * 2 * 2 * 10 * MILLISECOND_NS);
}

/* Three ranks with 2, 4 and 2 blocks, of which home may run one of the 4. */
static void run_spare(const char *cache, int jobs, struct hand_result *result)
{
    struct hand_job job[8];
    for (int i = 0; i < jobs; i++) {
        job[i] = plain_job((uint64_t)i);
        job[i].cache = cache;
    }
    run((struct split){.members = 3, .spare = 1, .run = {2, 4, 2}}, NULL,
        (struct costs){.block_ns = 10 * MILLISECOND_NS}, HAND_STEPS, job, jobs, result);
}

static void home_runs_a_spare_block_when_the_stage_has_more_to_do(void **state)
{
    const int64_t blocks_ns = 8 * 6 * 2 * 10 * MILLISECOND_NS; /* one of every branch */
    struct hand_result result;
    run_spare(NULL, 8, &result);
    assert_int_equal(result.busy_ns[0] + result.busy_ns[1], 6 * blocks_ns);
    double own = (double)result.busy_ns[0] / (double)blocks_ns;
    if (own < 2.6) fail_msg("home ran %.2f blocks of a branch, not nearly 3", own);
}

static void a_spare_block_is_left_to_a_stage_that_waits_for_it(void **state)
{
    struct hand_result result;
    run_spare(NULL, 1, &result);
    assert_int_equal(result.busy_ns[0], 6 * 2 * 2 * 10 * MILLISECOND_NS);
}

static void a_spare_block_is_left_to_the_stage_that_keeps_what_was_cached_of_it(void **state)
{
    struct hand_result result;
    run_spare("dbprune:F1,threshold=0.000001", 8, &result);
    assert_int_equal(result.busy_ns[0], 8 * 6 * 2 * 2 * 10 * MILLISECOND_NS);
    assert_int_equal(result.busy_ns[1], 8 * 6 * 2 * 4 * 10 * MILLISECOND_NS);
}

/* ---------------------------------------------------------------------------------------------- exactness */

enum { COMPANY = 6 };

/* Sizes, step counts, guidance and policies of all sorts. */
static void make_company(struct hand_job jobs[COMPANY])
{
    static const char *const caches[COMPANY] = {NULL,
                                                "interval:N=3,F=1",
                                                "fbcache:threshold=0.3",
                                                NULL,
                                                "interval:N=2,forecast=taylor1",
                                                "mask:F=1,mask=1101011"};
    for (int i = 0; i < COMPANY; i++) {
        jobs[i] = plain_job((uint64_t)i + 10);
        jobs[i].cache = caches[i];
        jobs[i].steps = i == 5 ? 7 : 6 + i;
        jobs[i].width = i == 3 ? 48 : 32;
        jobs[i].frames = i % 2 ? 1 : 5;
        jobs[i].guidance = i == 4 ? 1 : 5;
    }
}

static void expect_same(const struct hand_job *alone, const struct hand_job *beside, const char *what)
{
    for (int i = 0; i < COMPANY; i++) {
        assert_int_equal(alone[i].latent_bytes, beside[i].latent_bytes);
        if (memcmp(alone[i].latents, beside[i].latents, alone[i].latent_bytes) != 0)
            fail_msg("job %d: other latents %s", i, what);
    }
}

static void latents_are_the_same_alone_and_in_company_on_any_number_of_ranks(void **state)
{
    struct hand_job alone[COMPANY], beside[COMPANY];
    struct hand_result result;
    const struct costs costs = {.block_ns = 10 * MILLISECOND_NS, .frame_ns = 30 * MILLISECOND_NS};
    const struct split splits[] = {{.members = 1, .run = {8}},
                                   {.members = 2, .run = {4, 4}},
                                   {.members = 3, .head = 1, .run = {1, 4, 2}},
                                   {.members = 4, .head = 1, .tail = 1, .run = {0, 3, 2, 1}},
                                   {.members = 8, .run = {1, 1, 1, 1, 1, 1, 1, 1}},
                                   {.members = 4, .head = 1, .floating = true, .run = {2, 2, 2, 1}},
                                   {.members = 2, .floating = true, .run = {4, 4}},
                                   {.members = 2, .head = 1, .spare = 1, .run = {2, 5}},
                                   {.members = 4, .head = 1, .tail = 1, .spare = 2, .run = {0, 3, 2, 1}}};
    make_company(alone);
    for (int i = 0; i < COMPANY; i++) run(splits[0], NULL, costs, HAND_FILES, &alone[i], 1, &result);
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        make_company(beside);
        run(splits[i], NULL, costs, HAND_FILES, beside, COMPANY, &result);
        expect_same(alone, beside, "in company");
        hand_free(beside, COMPANY);
    }
    hand_free(alone, COMPANY);
}

static void a_run_is_the_same_every_time(void **state)
{
    struct hand_result results[2];
    for (int i = 0; i < 2; i++) {
        struct hand_job jobs[COMPANY];
        make_company(jobs);
        run((struct split){.members = 3, .run = {2, 3, 3}}, NULL, (struct costs){.block_ns = MILLISECOND_NS},
            HAND_FILES, jobs, COMPANY, &results[i]);
        hand_free(jobs, COMPANY);
    }
    assert_memory_equal(&results[0], &results[1], sizeof results[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_hops_a_cycle_is_what_the_formula_says),
        cmocka_unit_test(with_short_hops_a_cycle_is_what_the_formula_says),
        cmocka_unit_test(with_hops_as_long_as_stages_a_cycle_is_what_the_formula_says),
        cmocka_unit_test(a_link_that_is_slower_than_the_stages_sets_the_pace),
        cmocka_unit_test(with_one_head_block_a_shifted_split_loses_nothing_but_what_whole_blocks_cost),
        cmocka_unit_test(
            with_one_head_block_a_spare_block_makes_a_fixed_home_reach_nearly_all_that_is_possible),
        cmocka_unit_test(with_one_head_block_floating_homes_reach_nearly_all_that_is_possible),
        cmocka_unit_test(with_eight_head_blocks_floating_homes_reach_most_of_it),
        cmocka_unit_test(with_eight_head_blocks_an_even_split_is_slower_cached_than_uncached),
        cmocka_unit_test(every_piece_of_work_takes_its_time_and_no_other),
        cmocka_unit_test(blocks_in_proportion_to_speed_keep_unequal_ranks_equally_busy),
        cmocka_unit_test(home_runs_a_spare_block_when_the_stage_has_more_to_do),
        cmocka_unit_test(a_spare_block_is_left_to_a_stage_that_waits_for_it),
        cmocka_unit_test(a_spare_block_is_left_to_the_stage_that_keeps_what_was_cached_of_it),
        cmocka_unit_test(latents_are_the_same_alone_and_in_company_on_any_number_of_ranks),
        cmocka_unit_test(a_run_is_the_same_every_time),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
