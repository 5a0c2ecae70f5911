/*
 * test_wide_service.c - wide stages in the real service: coordinator, ranks under mpirun and client as processes. The same
 * latents as on one rank, with ranks killed as well, and a sentence where a layout or a job does not fit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/planner/planner.h"
#include "tests/service_jobs.h"

static const char plain[] = LARGE "--steps 20 --guidance 4",
                  cached[] = LARGE
                  "--steps 20 --guidance 4 --cache dbcache:F=1,B=1,W=2,threshold=0.3,forecast=taylor1",
                  pruned[] = LARGE "--steps 10 --guidance 4 --cache dbprune:F=1,B=1,W=1,threshold=0.2";

/* A stand of ranks in stages, where jobs give the latents of one rank. */
static void start(struct stand *s, const char *name, int ranks, const char *options)
{
    stand_start(s, name, ranks, options);
    shell_run(stand_text, "refrain models add ref models/reference");
}

static void make_alone(void)
{
    struct stand s;
    start(&s, "alone", 1, "--threads 1");
    stand_make("alone", "%s", plain);
    stand_make("alone-cached", "%s", cached);
    stand_make("alone-pruned", "%s", pruned);
    stand_stop(&s);
}

static int set_up(void **state)
{
    int failed = stand_set_up(state);
    if (!failed) make_alone();
    return failed;
}

static void wide_stages_make_the_latents_of_one_rank(void **state)
{
    struct stand s;
    start(&s, "two", 2, "--threads 1 --stage-width 2");
    stand_make("two", "%s", plain);
    stand_make("two-cached", "%s", cached);
    stand_make("two-pruned", "%s", pruned);
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("ref: 2 ranks in stages of 2, blocks 8"));
    stand_stop(&s);
    start(&s, "four", 4, "--threads 1 --stage-width 2 --fabric mpi");
    stand_make("four", "%s", plain);
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("ref: 4 ranks in stages of 2, blocks 4+4"));
    stand_stop(&s);
    start(&s, "branches", 4, "--threads 1 --stage-width 2 --layout cfg");
    stand_make("branches", "%s", plain);
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("ref: 4 ranks in stages of 2, branches 8+0 and 0+8"));
    stand_stop(&s);
    assert_true(latents_are_equal("branches", "alone"));
    assert_true(latents_are_equal("two", "alone"));
    assert_true(latents_are_equal("two-cached", "alone-cached"));
    assert_true(latents_are_equal("two-pruned", "alone-pruned"));
    assert_true(latents_are_equal("four", "alone"));
}

/* More branches than a home may have hops (rules/piece.h, wide_hops): the stages are full, and nobody waits for ever. */
static void jobs_that_fill_three_wide_stages_have_the_latents_of_one_rank(void **state)
{
    enum { JOBS = 6 };
    static const char *const words[] = {plain, cached, pruned}, *const names[] = {"alone", "alone-cached",
                                                                                  "alone-pruned"};
    struct stand s;
    pid_t clients[JOBS];
    char name[32], recompute[512];
    start(&s, "six", 6, "--threads 1 --stage-width 2 --in-flight 6");
    for (int i = 0; i < JOBS; i++) {
        snprintf(name, sizeof name, "six-%d", i);
        snprintf(recompute, sizeof recompute, "%s --recompute", words[i % 3]);
        clients[i] = stand_begin(name, recompute);
    }
    for (int i = 0; i < JOBS; i++) program_wait(clients[i], 120);
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("ref: 6 ranks in stages of 2, blocks "));
    stand_stop(&s);
    for (int i = 0; i < JOBS; i++) {
        snprintf(name, sizeof name, "six-%d", i);
        assert_true(latents_are_equal(name, names[i % 3]));
    }
}

/* A rank of the second stage, in the middle of an exchange more often than not, which is cut into all the parts it can be. */
static void strike(const char *name, int number)
{
    struct stand s;
    setenv("REFRAIN_PART_BYTES", "1", 1);
    start(&s, name, 4, "--threads 1 --stage-width 2");
    unsetenv("REFRAIN_PART_BYTES");
    pid_t client = stand_begin(name, plain);
    int job = stand_begun(name);
    stand_wait_step(job, 5);
    assert_int_equal(kill(stand_last_rank(), number), 0);
    program_wait(client, 60);
    json_t *told = stand_job(job);
    assert_string_equal(string_at(told, "state"), "completed");
    json_decref(told);
    assert_true(latents_are_equal(name, "alone"));
    shell_run(stand_text, "refrain ranks --json");
    assert_null(strstr(stand_text, "\"epoch\": 1,"));
    stand_stop(&s);
}

static void a_killed_member_is_replaced_and_the_bits_stay(void **state)
{
    strike("killed", SIGKILL);
}

static void a_stopped_member_is_replaced_and_the_bits_stay(void **state)
{
    strike("stopped", SIGSTOP);
}

static void expect_failed(const char *words, const char *sentence)
{
    assert_int_not_equal(shell(stand_text, "refrain submit --model ref %s --wait", words), 0);
    if (!stand_says(sentence)) fail_msg("%s", stand_text);
}

/* Before anything is started, where the options alone tell. */
static void expect_not_started(const char *options, const char *sentence)
{
    assert_int_equal(shell(stand_text, "refrain-coordinator --data %s/never %s", stand_directory, options),
                     2);
    if (!stand_says(sentence)) fail_msg("%s", stand_text);
}

static void what_does_not_fit_is_one_sentence(void **state)
{
    struct stand s;
    expect_not_started("--launch 3 --stage-width 2", "--stage-width 2: 3 ranks cannot stand in stages of 2");
    expect_not_started("--stage-width 2 --pools 1+3",
                       "--stage-width 2: a pool of 1 ranks is not of whole stages");
    expect_not_started("--stage-width 2 --split 4,3,4,4", "--split: ranks 0 and 1 are one stage");
    expect_not_started("--stage-width 2 --home floating", "leave --home floating out");
    start(&s, "heads", 3, "--threads 1 --stage-width 3");
    expect_failed(SMALL "--steps 4", "--stage-width 3: 4 attention heads cannot be dealt to 3 ranks");
    stand_stop(&s);
}

/* Steps that the coordinator believes to take some 20 s on one rank, before a block was timed: at half of the speed that ranks
 * measured. 256x256x9 are 768 tokens of models/reference. */
static int long_enough(void)
{
    const struct planner_model reference = {
        .layers = 8, .heads = 4, .head_dim = 64, .ffn = 1024, .text_tokens = 64};
    shell_run(stand_text, "refrain ranks --json");
    json_t *all = stand_object(), *group = json_array_get(json_object_get(all, "groups"), 0);
    double gflops = number_at(json_array_get(json_object_get(group, "ranks"), 0), "gflops");
    json_decref(all);
    assert_true(gflops > 0);
    double steps = 20 * 0.5 * gflops * 1e9 / (8 * planner_block_flops(&reference, 768));
    return steps < 10 ? 10 : steps > 1000 ? 1000 : (int)steps;
}

/* One branch, so that width is all there is to gain; long enough to be worth another layout before anything was timed. */
static void auto_takes_a_wide_stage_for_one_large_job_and_gives_it_up_for_one_it_cannot_serve(void **state)
{
    static const char large[] =
        "--prompt 'a red star spinning' --seed 5 --width 256 --height 256 --frames 9 --steps %d "
        "--guidance 1 --priority high";
    struct stand s;
    start(&s, "large-auto", 2, "--threads 1");
    stand_wait_links(1);
    int steps = long_enough(), job = stand_make("large-auto", large, steps);
    json_t *told = stand_job(job);
    if (!strstr(string_at(told, "plan"), "2 ranks in stages of 2, blocks 8"))
        fail_msg("%s", string_at(told, "plan"));
    json_decref(told);
    /* One token is not for two ranks: they are laid out anew for it. */
    job = stand_make("one-token", "--prompt 'a dot' --width 16 --height 16 --frames 1 --steps 4");
    told = stand_job(job);
    assert_null(strstr(string_at(told, "plan"), "in stages"));
    json_decref(told);
    stand_stop(&s);
    start(&s, "large-alone", 1, "--threads 1");
    stand_make("large-alone", large, steps);
    stand_stop(&s);
    assert_true(latents_are_equal("large-auto", "large-alone"));
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_stages_make_the_latents_of_one_rank),
        cmocka_unit_test(jobs_that_fill_three_wide_stages_have_the_latents_of_one_rank),
        cmocka_unit_test(a_killed_member_is_replaced_and_the_bits_stay),
        cmocka_unit_test(a_stopped_member_is_replaced_and_the_bits_stay),
        cmocka_unit_test(what_does_not_fit_is_one_sentence),
        cmocka_unit_test(auto_takes_a_wide_stage_for_one_large_job_and_gives_it_up_for_one_it_cannot_serve),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, set_up, stand_tear_down);
}
