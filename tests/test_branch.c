/*
 * test_branch.c - jobs that go on from another job's checkpoint: unchanged they are that job; what they change holds
 * from the step on, and nothing before it.
 *
 * What is expected is computed by one job whose order is changed between two steps, or whose latent is replaced
 * there, so that nothing of checkpoints is in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/saved_run.h"

enum { AT = 6, OTHER_JOB = 8 };

static struct job_order branch_of(const struct job_order *order, int step)
{
    struct job_order branch = *order;
    branch.job = OTHER_JOB;
    branch.origin = order->job;
    branch.origin_step = step;
    return branch;
}

static void expect_latent(const char *name, const struct saved_run *a, const struct saved_run *b)
{
    assert_int_equal(a->count, b->count);
    if (memcmp(a->latent, b->latent, (size_t)a->count * sizeof(float)) != 0)
        fail_msg("%s: other latents", name);
}

static bool same_latent(const struct saved_run *a, const struct saved_run *b)
{
    return memcmp(a->latent, b->latent, (size_t)a->count * sizeof(float)) == 0;
}

/* ------------------------------------------------------------------------------------------- nothing is changed */

static void a_branch_that_changes_nothing_is_the_job_it_came_from(void **state)
{
    for (int i = -1; i < SAVED_SETTINGS; i++) {
        struct job_order order = saved_order(i < 0 ? NULL : saved_settings[i]);
        const char *name = order.cache ? order.cache : "off";
        struct saved_run whole = saved_run(saved_rings[1], &order, NULL, true);
        for (int step = 1 + (i + 1) % 3; step <= STEPS; step += 4) {
            struct job_order branch = branch_of(&order, step);
            if (!whole.at[step].bytes) continue;
            struct saved_run again =
                saved_run(saved_rings[(step + 2) % SAVED_RINGS], &branch, &whole.at[step], false);
            saved_expect_same(name, step, &whole, &again);
            saved_free(&again);
        }
        saved_free(&whole);
    }
}

static void the_last_step_needs_nothing_but_decoding(void **state)
{
    struct job_order order = saved_order("balanced"), branch = branch_of(&order, STEPS);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true),
                     end = saved_run(saved_rings[2], &branch, &whole.at[STEPS], false);
    assert_true(end.over);
    saved_expect_same("balanced", STEPS, &whole, &end);
    saved_free(&whole);
    saved_free(&end);
}

static void of_a_job_that_compares_the_second_run_is_gone_on_from(void **state)
{
    struct job_order order = saved_order("balanced"), branch = branch_of(&order, AT);
    order.compare = true;
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true),
                     again = saved_run(saved_rings[1], &branch, &whole.at[STEPS + AT], false);
    expect_latent("compare", &whole, &again);
    struct error error;
    struct job *job = saved_create(saved_rings[0], &branch);
    assert_int_equal(job_restore(job, whole.at[AT].bytes, whole.at[AT].size, &error), STATUS_CONFLICT);
    saved_discard(saved_rings[0], job);
    saved_free(&whole);
    saved_free(&again);
}

/* ---------------------------------------------------------------------------------------------- one thing is another */

/* One job, in one process, whose scale of guidance becomes another one after a step. */
static struct saved_run change_guidance(const struct job_order *order, double guidance)
{
    struct saved_run end = {0};
    struct job *job = saved_create(saved_rings[0], order);
    saved_drive(saved_rings[0], job, AT, false, &end);
    job->order.guidance = guidance;
    saved_drive(saved_rings[0], job, INT32_MAX, false, &end);
    saved_take(job, &end);
    saved_discard(saved_rings[0], job);
    return end;
}

static void another_guidance_holds_from_the_step_on(void **state)
{
    for (int solver = SOLVER_UNIPC; solver <= SOLVER_EULER; solver++) {
        struct job_order order = saved_order(NULL), branch = branch_of(&order, AT);
        order.solver = branch.solver = (enum solver_kind)solver;
        branch.guidance = 6.5;
        struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true),
                         expected = change_guidance(&order, 6.5),
                         made = saved_run(saved_rings[2], &branch, &whole.at[AT], false);
        expect_latent("guidance", &expected, &made);
        assert_false(same_latent(&whole, &made));
        saved_free(&whole);
        saved_free(&expected);
        saved_free(&made);
    }
}

/* The job with the other prompts, whose latent is replaced by the first job's after the step: Euler steps remember
 * nothing else. */
static struct saved_run graft(const struct job_order *order, const float *latent)
{
    struct saved_run end = {0};
    struct job *job = saved_create(saved_rings[0], order);
    saved_drive(saved_rings[0], job, AT, false, &end);
    memcpy(job->latent, latent, (size_t)job->latent_count * sizeof *latent);
    saved_drive(saved_rings[0], job, INT32_MAX, false, &end);
    saved_take(job, &end);
    saved_discard(saved_rings[0], job);
    return end;
}

static float *latent_at(const struct job_order *order, int step)
{
    struct saved_run unused = {0};
    struct job *job = saved_create(saved_rings[0], order);
    saved_drive(saved_rings[0], job, step, false, &unused);
    float *latent = saved_copy(job->latent, (size_t)job->latent_count * sizeof *latent);
    saved_discard(saved_rings[0], job);
    return latent;
}

static void other_prompts_hold_from_the_step_on(void **state)
{
    struct job_order order = saved_order(NULL);
    order.solver = SOLVER_EULER;
    float *latent = latent_at(&order, AT);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    for (int which = 0; which < 2; which++) {
        struct job_order other = order;
        if (which == 0) other.prompt = "a yellow star";
        if (which == 1) other.negative = "a green square";
        struct job_order branch = branch_of(&other, AT);
        struct saved_run expected = graft(&other, latent),
                         made = saved_run(saved_rings[1], &branch, &whole.at[AT], false);
        expect_latent(which ? "negative" : "prompt", &expected, &made);
        assert_false(same_latent(&whole, &made));
        saved_free(&expected);
        saved_free(&made);
    }
    free(latent);
    saved_free(&whole);
}

/* Without guidance there is one branch only: the other's verdicts and features end. */
static void guidance_may_end_and_begin(void **state)
{
    struct job_order order = saved_order("interval:N=3,forecast=reuse"), branch = branch_of(&order, AT);
    struct saved_run both = saved_run(saved_rings[0], &order, NULL, true);
    branch.guidance = 1;
    struct saved_run one = saved_run(saved_rings[0], &branch, &both.at[AT], false),
                     same = saved_run(saved_rings[2], &branch, &both.at[AT], false);
    saved_expect_same("guidance 1", AT, &one, &same);
    assert_int_equal(one.cells, STEPS);
    order.guidance = 1;
    saved_free(&both);
    both = saved_run(saved_rings[0], &order, NULL, true);
    branch.guidance = 4;
    struct saved_run two = saved_run(saved_rings[1], &branch, &both.at[AT], false);
    assert_int_equal(two.cells, 2 * STEPS);
    saved_free(&both);
    saved_free(&one);
    saved_free(&same);
    saved_free(&two);
}

/* ----------------------------------------------------------------------------------------------------- caching */

/* What the other job kept is not used: the first step after it is computed, and is told from those before it. */
static void expect_fresh(const char *name, const struct saved_run *run)
{
    int branches = run->cells / STEPS;
    for (int i = 0; i < AT * branches; i++)
        if (run->reasons[i] != REASON_ORIGIN || run->actions[i] != REUSE_COMPUTED)
            fail_msg("%s: a verdict on step %d, which is another job's", name, i / branches);
    for (int b = 0; b < branches; b++)
        if (run->actions[AT * branches + b] != REUSE_COMPUTED)
            fail_msg("%s: reuses what it does not have", name);
    for (int i = AT * branches; i < run->cells; i++)
        if (run->reasons[i] == REASON_ORIGIN) fail_msg("%s: does not own up to step %d", name, i / branches);
    if (run->computed > (STEPS - AT) * branches) fail_msg("%s: counts steps of the other job", name);
}

/* Any policy begins anew after any step; the branch itself can be saved and continued like any job. */
static void another_policy_begins_with_empty_rings(void **state)
{
    struct job_order plain = saved_order("balanced");
    struct saved_run whole = saved_run(saved_rings[0], &plain, NULL, true);
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        if (strcmp(saved_settings[i], "balanced") == 0) continue;
        struct job_order order = saved_order(saved_settings[i]), branch = branch_of(&order, AT);
        struct saved_run made = saved_run(saved_rings[0], &branch, &whole.at[AT], true),
                         elsewhere = saved_run(saved_rings[1 + i % 2], &branch, &whole.at[AT], false);
        saved_expect_same(branch.cache, AT, &made, &elsewhere);
        expect_fresh(branch.cache, &made);
        for (int step = AT + 1 + i % 3; step <= STEPS; step += 3) {
            if (!made.at[step].bytes) continue;
            struct saved_run again =
                saved_run(saved_rings[step % SAVED_RINGS], &branch, &made.at[step], false);
            saved_expect_same(branch.cache, step, &made, &again);
            saved_free(&again);
        }
        saved_free(&made);
        saved_free(&elsewhere);
    }
    saved_free(&whole);
}

static void caching_off_from_the_step_on_is_the_plain_loop(void **state)
{
    struct job_order order = saved_order("balanced"), off = saved_order(NULL), branch = branch_of(&off, AT);
    order.solver = off.solver = branch.solver = SOLVER_EULER;
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    float *latent = latent_at(&order, AT);
    struct saved_run expected = graft(&off, latent),
                     made = saved_run(saved_rings[2], &branch, &whole.at[AT], false);
    expect_latent("off", &expected, &made);
    free(latent);
    saved_free(&whole);
    saved_free(&expected);
    saved_free(&made);
}

/* Only guidance is another: what caching kept was of the other job all the same. */
static void also_another_guidance_empties_the_rings(void **state)
{
    struct job_order order = saved_order("dbcache:F1B0,W3,threshold=0.5,forecast=taylor1"),
                     branch = branch_of(&order, AT);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    branch.guidance = 4.5;
    struct saved_run made = saved_run(saved_rings[1], &branch, &whole.at[AT], false);
    expect_fresh("guidance 4.5", &made);
    saved_free(&whole);
    saved_free(&made);
}

/* A branch of a branch, both ways. */
static void branches_branch(void **state)
{
    struct job_order order = saved_order("fbcache:threshold=0.3"), first = branch_of(&order, AT), second;
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    first.prompt = "a yellow star";
    struct saved_run branch = saved_run(saved_rings[1], &first, &whole.at[AT], true);
    second = first;
    second.job = 9;
    second.origin = first.job;
    second.origin_step = AT + 3;
    struct saved_run same = saved_run(saved_rings[2], &second, &branch.at[AT + 3], false);
    saved_expect_same("the same again", AT + 3, &branch, &same);
    second.cache = "off";
    struct saved_run other = saved_run(saved_rings[2], &second, &branch.at[AT + 3], false);
    assert_false(same_latent(&branch, &other));
    saved_free(&whole);
    saved_free(&branch);
    saved_free(&same);
    saved_free(&other);
}

/* --------------------------------------------------------------------------------------------------- refusals */

static void what_cannot_be_changed_is_refused(void **state)
{
    struct job_order order = saved_order("balanced"), other;
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    struct error error;
#define REFUSED(...)                                                                                         \
    do {                                                                                                     \
        other = branch_of(&order, AT);                                                                       \
        __VA_ARGS__;                                                                                         \
        struct job *job = saved_create(saved_rings[0], &other);                                              \
        if (job_restore(job, whole.at[AT].bytes, whole.at[AT].size, &error) != STATUS_CONFLICT)              \
            fail_msg("not refused: %s", #__VA_ARGS__);                                                       \
        assert_false(job->resumed);                                                                          \
        saved_discard(saved_rings[0], job);                                                                  \
    } while (0)
    REFUSED(other.seed = 4);
    REFUSED(other.steps = 13, other.table_count = 0);
    REFUSED(other.width = 48);
    REFUSED(other.height = 48);
    REFUSED(other.frames = 5);
    REFUSED(other.shift = 5);
    REFUSED(other.solver = SOLVER_EULER);
    REFUSED(other.origin = 6);
    REFUSED(other.origin = 0);
    REFUSED(other.origin_step = AT + 1);
#undef REFUSED
    saved_free(&whole);
}

/* Times of the other job are not the branch's. */
static void a_branch_is_timed_by_itself(void **state)
{
    struct job_order order = saved_order("balanced"), branch = branch_of(&order, AT);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    const double long_ago = 1000;
    struct error error;
    memcpy(whole.at[AT].bytes + DENOISE_AT, &long_ago, sizeof long_ago);
    memcpy(whole.at[AT].bytes + PASS_AT, &long_ago, sizeof long_ago);
    saved_forge(&whole.at[AT]);
    struct job *job = saved_create(saved_rings[0], &branch);
    assert_int_equal(job_restore(job, whole.at[AT].bytes, whole.at[AT].size, &error), STATUS_OK);
    saved_drive(saved_rings[0], job, INT32_MAX, false, &whole);
    assert_true(job->status.denoise_seconds < long_ago);
    assert_true(job->pass_seconds[0] < long_ago);
    saved_discard(saved_rings[0], job);
    saved_free(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_branch_that_changes_nothing_is_the_job_it_came_from),
        cmocka_unit_test(the_last_step_needs_nothing_but_decoding),
        cmocka_unit_test(of_a_job_that_compares_the_second_run_is_gone_on_from),
        cmocka_unit_test(another_guidance_holds_from_the_step_on),
        cmocka_unit_test(other_prompts_hold_from_the_step_on),
        cmocka_unit_test(guidance_may_end_and_begin),
        cmocka_unit_test(another_policy_begins_with_empty_rings),
        cmocka_unit_test(caching_off_from_the_step_on_is_the_plain_loop),
        cmocka_unit_test(also_another_guidance_empties_the_rings),
        cmocka_unit_test(branches_branch),
        cmocka_unit_test(what_cannot_be_changed_is_refused),
        cmocka_unit_test(a_branch_is_timed_by_itself),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
