/*
 * test_service_chains.c - guidance branches on chains of their own, as an operator has them: coordinator with --layout,
 * ranks under mpirun and the client as real processes. The bits of one rank, on any number and either fabric, alone and
 * together, and after a rank was killed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

/* Caching of the whole span, block by block, of outputs and of velocities; none; and jobs of a single branch. */
static const char *const jobs[] = {
    SMALL "--steps 8 --guidance 4",
    SMALL "--steps 8 --guidance 1",
    SMALL "--steps 10 --guidance 4 --cache dbcache:F1B1,W2,threshold=0.5,forecast=taylor1",
    SMALL "--steps 10 --guidance 4 --cache dbprune:F1,W2,threshold=0.3",
    SMALL "--steps 10 --guidance 4 --cache easycache:threshold=0.3,first=3",
    SMALL "--steps 10 --guidance 1 --cache interval:N=2",
};
enum { JOBS = sizeof jobs / sizeof *jobs };

static void name_job(char name[32], const char *stand, int job)
{
    snprintf(name, 32, "%s-%d", stand, job);
}

static int one_rank(void **state)
{
    struct stand s;
    char name[32];
    if (stand_set_up(state) != 0) return 1;
    stand_start(&s, "one", 1, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    for (int i = 0; i < JOBS; i++) {
        name_job(name, "one", i);
        stand_make(name, "%s", jobs[i]);
    }
    stand_stop(&s);
    return 0;
}

static void expect_same(const char *stand, int job)
{
    char name[32], one[32];
    name_job(name, stand, job);
    name_job(one, "one", job);
    if (!latents_are_equal(one, name)) fail_msg("%s of %s: %s", jobs[job], stand, stand_text);
}

/* Each job by itself, then all of them at once. plan: what the first one must say of its layout. */
static void run_stand(const char *stand, int ranks, const char *options, const char *plan)
{
    struct stand s;
    char name[32];
    pid_t clients[JOBS];
    stand_start(&s, stand, ranks, options);
    shell_run(stand_text, "refrain models add ref models/reference");
    for (int i = 0; i < JOBS; i++) {
        name_job(name, stand, i);
        int job = stand_make(name, "%s", jobs[i]);
        expect_same(stand, i);
        if (i > 0) continue;
        json_t *object = stand_job(job);
        const char *layout = string_at(object, "plan");
        if (!strstr(layout, plan)) fail_msg("\"%s\" is not in: %s", plan, layout);
        json_decref(object);
    }
    for (int i = 0; i < JOBS; i++) {
        char together[48];
        name_job(name, stand, i);
        snprintf(together, sizeof together, "%s-too", name);
        clients[i] = stand_begin(together, jobs[i]);
    }
    for (int i = 0; i < JOBS; i++) {
        char together[48], one[32];
        program_wait(clients[i], 240);
        name_job(name, stand, i);
        name_job(one, "one", i);
        snprintf(together, sizeof together, "%s-too", name);
        if (!latents_are_equal(one, together)) fail_msg("%s of %s: %s", jobs[i], together, stand_text);
    }
    stand_stop(&s);
}

static void two_ranks_have_a_branch_each(void **state)
{
    run_stand("two", 2, "--threads 1 --layout cfg", "2 ranks, branches 8+0 and 0+8, ");
    run_stand("two-mpi", 2, "--threads 1 --layout cfg --fabric mpi", "2 ranks, branches 8+0 and 0+8, ");
}

static void the_second_of_three_ranks_has_something_of_both(void **state)
{
    run_stand("three", 3, "--threads 1 --layout cfg", "3 ranks, branches 5+3+0 and 0+2+6, ");
}

static void four_ranks_have_two_stages_for_each_branch(void **state)
{
    run_stand("four", 4, "--threads 1 --layout cfg --home floating",
              "4 ranks, homes everywhere, branches 4+4+0+0 and 0+0+4+4, ");
}

static void a_rank_that_is_killed_comes_back_to_its_branch(void **state)
{
    struct stand s;
    static const char words[] =
        LARGE "--steps 120 --guidance 4 --cache dbcache:F1B0,W2,MC2,threshold=2,forecast=taylor1";
    stand_start(&s, "killed", 3, "--threads 1 --layout cfg");
    shell_run(stand_text, "refrain models add ref models/reference");
    stand_make("undisturbed", words);
    pid_t client = stand_begin("killed", words);
    int job = stand_begun("killed");
    stand_wait_step(job, 20);
    kill(stand_last_rank(), SIGKILL);
    program_wait(client, 240);
    if (!latents_are_equal("undisturbed", "killed")) fail_msg("%s", stand_text);
    json_t *object = stand_job(job);
    assert_int_equal(number_at(object, "attempt"), 2);
    assert_non_null(strstr(string_at(object, "plan"), "branches"));
    json_decref(object);
    stand_stop(&s);
}

/* A checkpoint of two experts, each on ranks of its own: 10 steps on both sides of the boundary. */
static void experts_may_have_pools_of_their_own(void **state)
{
    static const struct {
        int ranks;
        const char *options, *plan;
    } stands[] = {
        {1, "--threads 1", "1 rank, "},
        {2, "--threads 1 --layout pools", "2 ranks, experts "},
        {4, "--threads 1 --layout cfg-pools", "4 ranks, experts' branches "},
        {3, "--threads 1 --layout cfg", "3 ranks, branches "},
        {3, "--threads 1 --layout pipeline", "3 ranks, "},
    };
    static const char *const of_two[] = {
        SMALL "--steps 10 --guidance 4",
        SMALL "--steps 10 --guidance 1",
        SMALL "--steps 10 --guidance 4 --cache dbcache:F1B0,W1,threshold=0.5,forecast=taylor1",
        SMALL "--steps 10 --guidance 4 --cache dbprune:F1,W1,threshold=0.3",
    };
    char name[32], one[32];
    for (int stand = 0; stand < 5; stand++) {
        struct stand s;
        snprintf(name, sizeof name, "experts%d", stand);
        stand_start(&s, name, stands[stand].ranks, stands[stand].options);
        shell_run(stand_text, "refrain models add ref tests/models/tiny-d");
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "experts%d-%d", stand, i);
            snprintf(one, sizeof one, "experts0-%d", i);
            int job = stand_make(name, "%s", of_two[i]);
            json_t *object = stand_job(job);
            const char *layout = string_at(object, "plan");
            if (strncmp(layout, stands[stand].plan, strlen(stands[stand].plan)) != 0)
                fail_msg("\"%s\" does not begin with: %s", layout, stands[stand].plan);
            json_decref(object);
            if (!latents_are_equal(one, name))
                fail_msg("%s over %d ranks: %s", of_two[i], stands[stand].ranks, stand_text);
        }
        stand_stop(&s);
    }
}

/* Of 400 steps the first expert makes 121: the rank with the second one's blocks is killed just before its turn, and the job goes on from a
 * checkpoint of the first one's. */
static void a_rank_that_is_killed_where_experts_change_costs_no_bit(void **state)
{
    struct stand s;
    static const char words[] =
        LARGE "--steps 400 --guidance 4 --cache dbcache:F1B0,W2,MC2,threshold=2,forecast=taylor1";
    stand_start(&s, "switched", 2, "--threads 1 --layout pools");
    shell_run(stand_text, "refrain models add ref tests/models/tiny-d");
    stand_make("switched-calm", words);
    pid_t client = stand_begin("switched", words);
    int job = stand_begun("switched");
    stand_wait_step(job, 110);
    kill(stand_last_rank(), SIGKILL);
    program_wait(client, 240);
    if (!latents_are_equal("switched-calm", "switched")) fail_msg("%s", stand_text);
    json_t *object = stand_job(job);
    assert_int_equal(number_at(object, "attempt"), 2);
    assert_non_null(strstr(string_at(object, "plan"), "experts"));
    json_decref(object);
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ranks_have_a_branch_each),
        cmocka_unit_test(the_second_of_three_ranks_has_something_of_both),
        cmocka_unit_test(four_ranks_have_two_stages_for_each_branch),
        cmocka_unit_test(a_rank_that_is_killed_comes_back_to_its_branch),
        cmocka_unit_test(experts_may_have_pools_of_their_own),
        cmocka_unit_test(a_rank_that_is_killed_where_experts_change_costs_no_bit),
    };
    return cmocka_run_group_tests(tests, one_rank, stand_tear_down);
}
