/*
 * test_service_reuse.c - the same request again, as a person sends it: coordinator, ranks under mpirun and the client as
 * real processes. What has been made is not made again, the files are the same, and it is said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

enum { STEPS = 10 };
#define TEN SMALL "--steps 10 --guidance 4 "

static void add_model(void)
{
    shell_run(stand_text, "refrain models add ref models/reference");
}

static void expect_latents(const char *a, const char *b)
{
    if (!latents_are_equal(a, b)) fail_msg("%s and %s differ: %s", a, b, stand_text);
}

/* How many of its steps a job says that an equal run had made. */
static int steps_reused(int number)
{
    json_t *job = stand_job(number);
    const json_t *times = json_object_get(job, "times");
    int steps = (int)number_at(times, "steps_reused");
    if (steps) assert_true(number_at(times, "reused_seconds") > 0);
    json_decref(job);
    return steps;
}

/* Items, hits of any rank, and the sum of the seconds they saved, of a kind. */
static double cache_figure(const char *kind, const char *key)
{
    double sum = 0;
    shell_run(stand_text, "refrain cache --json");
    json_t *all = stand_object(), *figures = json_object_get(all, "figures");
    for (size_t i = 0; i < json_array_size(figures); i++) {
        const json_t *figure = json_array_get(figures, i);
        json_t *value = json_object_get(figure, key);
        if (strcmp(string_at(figure, "kind"), kind) != 0) continue;
        if (json_is_number(value)) sum += json_number_value(value);
        for (void *at = json_object_iter(value); at; at = json_object_iter_next(value, at)) /* by level */
            sum += json_number_value(json_object_iter_value(at));
    }
    json_decref(all);
    return sum;
}

/* Ranks tell their figures once a second. */
static void expect_figure(const char *kind, const char *key, double least)
{
    for (int i = 0; i < 600; i++, usleep(50000))
        if (cache_figure(kind, key) >= least) return;
    fail_msg("%s of kind %s: %g", key, kind, cache_figure(kind, key));
}

static void an_equal_request_makes_no_step_and_says_so(void **state)
{
    struct stand s;
    char words[128];
    unsetenv("REFRAIN_RECOMPUTE");
    stand_start(&s, "again", 2, "--threads 1");
    add_model();
    int first = stand_make("first", TEN "--cache balanced");
    assert_int_equal(steps_reused(first), 0);
    int second = stand_make("second", TEN "--cache balanced");
    assert_int_equal(steps_reused(second), STEPS);
    expect_latents("first", "second");
    json_t *a = stand_report(first), *b = stand_report(second);
    expect_equal_verdicts(a, b, "the report is the run's");
    json_decref(a);
    json_decref(b);
    snprintf(words, sizeof words, "refrain status %d", second);
    shell_run(stand_text, "%s", words);
    assert_true(stand_says("10 steps of an equal run ("));
    assert_true(stand_says("in the run it was taken from"));
    /* other files of the same run */
    shell_run(stand_text,
              "refrain submit --wait --model ref " TEN "--cache balanced --fps 30 --output %s/third.mp4 "
              "--save-frames %s/frames.safetensors",
              stand_directory, stand_directory);
    assert_true(stand_says("10 steps of an equal run ("));
    assert_true(stand_says("saved)"));
    expect_figure("latent", "items", 1);
    expect_figure("latent", "hits", 2);
    expect_figure("latent", "seconds_saved", 1e-6);
    /* one fact is another, or it is to be computed */
    assert_int_equal(steps_reused(stand_make("seed", TEN "--cache balanced --seed 6")), 0);
    assert_int_equal(steps_reused(stand_make("anew", TEN "--cache balanced --recompute")), 0);
    expect_latents("first", "anew");
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

/* The uncached run is made once, whatever it is compared with. */
static void policies_are_compared_with_one_uncached_run(void **state)
{
    struct stand s;
    unsetenv("REFRAIN_RECOMPUTE");
    stand_start(&s, "compared", 2, "--threads 1");
    add_model();
    stand_make("uncached", TEN);
    shell_run(stand_text, "refrain compare --model ref " TEN "--cache balanced --json --output %s/a.mp4",
              stand_directory);
    int balanced = stand_make("balanced", TEN "--cache balanced");
    assert_int_equal(steps_reused(balanced), STEPS);
    assert_int_equal(steps_reused(balanced - 1), STEPS); /* of twice as many */
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

#define HUNDREDS LARGE "--steps 300 --guidance 4 --cache balanced "

/* Its files come into NAME.* while others are made. */
struct request {
    pid_t client;
    int job;
};

static struct request ask(const char *name, const char *words)
{
    struct request r = {.client = stand_begin(name, words)};
    r.job = stand_begun(name);
    return r;
}

/* All at once: the others wait for the first, in whose place the next one goes on when it is cancelled, and whoever wants something
 * else, or all steps made, goes before them. */
static void equal_requests_at_the_same_time_make_their_steps_once(void **state)
{
    struct stand s;
    unsetenv("REFRAIN_RECOMPUTE");
    stand_start(&s, "twins", 2, "--threads 1");
    add_model();
    struct request first = ask("first", HUNDREDS), second = ask("second", HUNDREDS "--fps 30"),
                   third = ask("third", HUNDREDS), other = ask("other", HUNDREDS "--seed 6"),
                   anew = ask("anew", HUNDREDS "--recompute");
    stand_wait_step(first.job, 60);
    stand_wait_step(other.job, 1);
    stand_wait_step(anew.job, 1);
    char words[64];
    snprintf(words, sizeof words, "job %d, which makes the same steps", first.job);
    shell_run(stand_text, "refrain status %d", third.job);
    if (!stand_says(words)) fail_msg("%s", stand_text);
    json_t *waits = stand_job(second.job), *runs = stand_job(first.job);
    assert_string_equal(string_at(waits, "state"), "queued");
    double soon = number_at(waits, "finish_ms"), maker = number_at(runs, "finish_ms");
    assert_true(soon == 0 || soon >= maker);
    json_decref(waits);
    json_decref(runs);
    shell_run(stand_text, "refrain cancel %d; refrain cancel %d", first.job, other.job);
    program_wait(first.client, 60);
    program_wait(other.client, 60);
    program_wait(second.client, 200);
    program_wait(third.client, 200);
    program_wait(anew.client, 200);
    int kept = steps_reused(second.job);
    if (kept < 30 || kept >= 300) fail_msg("%d steps of the cancelled job", kept);
    assert_int_equal(steps_reused(third.job), 300);
    assert_int_equal(steps_reused(anew.job), 0);
    expect_latents("second", "anew");
    expect_latents("third", "anew");
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

/* Then each makes its own, and nobody waits for what he would not get. */
static void equal_requests_wait_for_nobody_where_nothing_is_kept(void **state)
{
    struct stand s;
    unsetenv("REFRAIN_RECOMPUTE");
    setenv("REFRAIN_TIER_MEMORY", "0", 1);
    stand_start(&s, "alone", 2, "--threads 1");
    add_model();
    struct request first = ask("first", HUNDREDS), second = ask("second", HUNDREDS);
    stand_wait_step(first.job, 20);
    stand_wait_step(second.job, 20);
    shell_run(stand_text, "refrain cancel %d; refrain cancel %d", first.job, second.job);
    program_wait(first.client, 60);
    program_wait(second.client, 60);
    stand_stop(&s);
    unsetenv("REFRAIN_TIER_MEMORY");
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

/* One bit in the middle of every file of that name. */
static void damage_files(const char *directory, const char *name)
{
    int files = 0;
    char path[PATH_BYTES + 64];
    shell_run(stand_text, "find %s -type f -name '%s'", directory, name);
    for (char *line = strtok(stand_text, "\n"); line; line = strtok(NULL, "\n"), files++) {
        snprintf(path, sizeof path, "%s", line);
        FILE *file = fopen(path, "r+");
        assert_non_null(file);
        fseek(file, 0, SEEK_END);
        long at = ftell(file) / 2;
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ 16, file);
        assert_int_equal(fclose(file), 0);
    }
    assert_true(files > 0);
}

/* Nothing is in any rank's store any more: the vault has the last latent, and of a job that was cancelled its marks. */
static void the_vault_answers_when_all_ranks_were_started_anew(void **state)
{
    struct stand s;
    char checkpoints[PATH_BYTES + 64];
    unsetenv("REFRAIN_RECOMPUTE");
    stand_start(&s, "vault", 2, "--threads 1");
    add_model();
    int first = stand_make("kept", TEN "--cache balanced");
    pid_t waiting = stand_begin("cancelled", LARGE "--steps 400 --guidance 4");
    int cancelled = stand_begun("cancelled");
    stand_wait_step(cancelled, 90); /* two marks: every fortieth step is one */
    shell_run(stand_text, "refrain cancel %d", cancelled);
    program_wait(waiting, 60);
    stand_stop(&s);
    stand_start(&s, "vault", 2, "--threads 1");
    int again = stand_make("kept2", TEN "--cache balanced");
    assert_int_equal(steps_reused(again), STEPS);
    expect_latents("kept", "kept2");
    json_t *a = stand_report(first), *b = stand_report(again);
    expect_equal_verdicts(a, b, "the report is the run's");
    json_decref(a);
    json_decref(b);
    expect_figure("latent", "items", 1); /* it is an item again */
    expect_figure("latent", "fetched", 1);
    waiting = stand_begin("rest", LARGE "--steps 400 --guidance 4");
    int rest = stand_begun("rest");
    stand_wait_step(rest, 81); /* at once */
    shell_run(stand_text, "refrain status %d --json", rest);
    json_t *job = stand_object();
    assert_true(number_at(job, "steps_reused") >= 80);
    json_decref(job);
    shell_run(stand_text, "refrain cancel %d", rest);
    program_wait(waiting, 60);
    stand_stop(&s);
    /* what broke on disk is not there */
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", s.data);
    damage_files(checkpoints, "*-*");
    stand_start(&s, "vault", 2, "--threads 1");
    again = stand_make("kept3", TEN "--cache balanced");
    assert_int_equal(steps_reused(again), 0);
    expect_latents("kept", "kept3");
    assert_int_equal(steps_reused(stand_make("kept4", TEN "--cache balanced")), STEPS);
    expect_latents("kept", "kept4");
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

/* A rank that is not its home leaves: the group moves, and home still has what the job's caching kept. */
static void a_job_whose_group_moves_makes_no_step_of_its_history_again(void **state)
{
#define CACHED LARGE "--steps 300 --guidance 4 --cache interval:N=3,forecast=taylor2 "
    struct stand s;
    int home = -1;
    char words[64];
    stand_start(
        &s, "moves", 3,
        "--threads 1"); /* with --recompute, as tests have it: its own residuals are not others' steps */
    add_model();
    stand_make("calm", CACHED);
    pid_t waiting = stand_begin("moved", CACHED);
    int job = stand_begun("moved");
    stand_wait_step(job, 20);
    snprintf(words, sizeof words, "job %d ", job);
    shell_run(stand_text, "refrain ranks");
    const char *line = strstr(stand_text, words), *at = line ? strstr(line, "home on rank ") : NULL;
    if (!at || sscanf(at, "home on rank %d", &home) != 1) fail_msg("no home: %s", stand_text);
    shell_run(stand_text, "refrain drain %d", home == 2 ? 1 : 2);
    program_wait(waiting, 200);
    expect_latents("calm", "moved");
    for (int i = 0; i < 600; i++, usleep(50000))
        if (cache_figure("residual", "hits") + cache_figure("residual", "fetched") >= 2) break;
    assert_true(cache_figure("residual", "hits") + cache_figure("residual", "fetched") >= 2);
    assert_true(cache_figure("residual", "seconds_saved") > 0);
    stand_stop(&s);
}

/* Whose key it is decides whose run it is. */
static void tenants_take_nothing_from_each_other(void **state)
{
    struct stand s;
    char keys[PATH_BYTES + 16], options[PATH_BYTES + 64], key[PATH_BYTES + 64];
    unsetenv("REFRAIN_RECOMPUTE");
    snprintf(keys, sizeof keys, "%s/keys", stand_directory);
    static const char *const people[][2] = {
        {"ann", "client"}, {"bob", "client"}, {"boss", "admin"}, {"node", "worker"}};
    for (size_t i = 0; i < 4; i++)
        shell_run(stand_text, "refrain-coordinator --keys %s --make-key %s --role %s", keys, people[i][0],
                  people[i][1]);
    snprintf(options, sizeof options, "--threads 1 --keys %s", keys);
    stand_start(&s, "tenants", 2, options);
#define BE(who) (snprintf(key, sizeof key, "%s/%s.secret", keys, who), setenv("REFRAIN_KEY", key, 1))
    BE("boss");
    add_model();
    BE("ann");
    stand_make("ann", TEN);
    BE("bob");
    int job = stand_make("bob", TEN);
    json_t *stored = stand_job(job);
    const json_t *times = json_object_get(stored, "times");
    assert_int_equal((int)number_at(times, "steps_reused"), 0);
    assert_int_equal((int)number_at(times, "first_steps_reused"), 0);
    assert_int_equal((int)number_at(times, "texts_reused"), 0);
    json_decref(stored);
    expect_latents("ann", "bob");
    expect_figure("latent", "items", 1);
    assert_int_equal((int)cache_figure("latent", "items"), 1); /* his own */
    assert_int_equal(steps_reused(stand_make("bob2", TEN)), STEPS);
    BE("ann");
    assert_int_equal(steps_reused(stand_make("ann2", TEN)), STEPS);
    unsetenv("REFRAIN_KEY");
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

/* Tables are made from what a calibration measured: twice the same, also by somebody else, measures once. */
#define CALIBRATE                                                                                            \
    "timeout 280 refrain calibrate --model ref --kind magcache --steps 6 --width 32 --height 32 --frames 5 " \
    "--quiet "

/* The latest jobs, `count` of them: how many of their steps were made before. */
static int latest_reused(int count)
{
    int steps = 0;
    shell_run(stand_text, "refrain list --json --limit 1");
    json_t *newest = stand_object();
    int number = (int)number_at(newest, "job");
    json_decref(newest);
    assert_true(number >= count);
    for (int i = 0; i < count; i++) steps += steps_reused(number - i);
    return steps;
}

static void a_calibration_is_measured_once_for_everybody(void **state)
{
    enum { PROMPTS = 4, CALIBRATION_STEPS = 6 };
    struct stand s;
    char keys[PATH_BYTES + 16], options[PATH_BYTES + 64], key[PATH_BYTES + 64], tables[4][PATH_BYTES + 32];
    unsetenv("REFRAIN_RECOMPUTE");
    snprintf(keys, sizeof keys, "%s/calibrators", stand_directory);
    for (int i = 0; i < 4; i++) snprintf(tables[i], sizeof tables[i], "%s/tables%d.json", stand_directory, i);
    static const char *const people[][2] = {
        {"ann", "client"}, {"bob", "client"}, {"boss", "admin"}, {"node", "worker"}};
    for (size_t i = 0; i < 4; i++)
        shell_run(stand_text, "refrain-coordinator --keys %s --make-key %s --role %s", keys, people[i][0],
                  people[i][1]);
    snprintf(options, sizeof options, "--threads 1 --keys %s", keys);
    stand_start(&s, "calibrated", 2, options);
    BE("boss");
    add_model();
    BE("ann");
    shell_run(stand_text, CALIBRATE "--coordinator %s --output %s", s.endpoint, tables[0]);
    assert_int_equal(latest_reused(PROMPTS), 0);
    BE("bob"); /* the same bits of everybody's, and of his own words nothing */
    shell_run(stand_text, CALIBRATE "--coordinator %s --output %s", s.endpoint, tables[1]);
    assert_int_equal(latest_reused(PROMPTS), PROMPTS * CALIBRATION_STEPS);
    expect_equal_files(tables[0], tables[1]);
    expect_figure("table", "items", PROMPTS);
    expect_figure("table", "hits", PROMPTS);
    expect_figure("table", "seconds_saved", 1e-6);
    shell_run(stand_text,
              "printf 'a secret of bob\\n' > %s/words; " CALIBRATE
              "--coordinator %s --prompts %s/words --output %s",
              stand_directory, s.endpoint, stand_directory, tables[2]);
    assert_int_equal(latest_reused(1), 0);
    BE("ann");
    shell_run(stand_text, CALIBRATE "--coordinator %s --prompts %s/words --output %s.ann", s.endpoint,
              stand_directory, tables[2]);
    assert_int_equal(latest_reused(1), 0);
    /* the rank that has them dies: measured again, to the same bits */
    kill(stand_last_rank(), SIGKILL);
    BE("boss");
    shell_run(stand_text, "refrain cache flush table --all");
    BE("bob");
    shell_run(stand_text, CALIBRATE "--recompute --coordinator %s --output %s", s.endpoint, tables[3]);
    assert_int_equal(latest_reused(PROMPTS), 0);
    expect_equal_files(tables[0], tables[3]);
    unsetenv("REFRAIN_KEY");
    stand_stop(&s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

static void a_calibration_outlives_a_restart_and_a_damaged_one_is_made_again(void **state)
{
    enum { PROMPTS = 4, CALIBRATION_STEPS = 6 };
    struct stand s;
    char disk[PATH_BYTES + 16], tables[3][PATH_BYTES + 32];
    unsetenv("REFRAIN_RECOMPUTE");
    snprintf(disk, sizeof disk, "%s/items", stand_directory);
    for (int i = 0; i < 3; i++) snprintf(tables[i], sizeof tables[i], "%s/kept%d.json", stand_directory, i);
    setenv("REFRAIN_TIER_DISK", disk, 1);
    stand_start(&s, "kept", 1, "--threads 1");
    add_model();
    shell_run(stand_text, CALIBRATE "--coordinator %s --output %s", s.endpoint, tables[0]);
    stand_stop(&s); /* writes what is to be on disk */
    stand_start(&s, "kept", 1, "--threads 1");
    shell_run(stand_text, CALIBRATE "--coordinator %s --output %s", s.endpoint, tables[1]);
    assert_int_equal(latest_reused(PROMPTS), PROMPTS * CALIBRATION_STEPS);
    expect_equal_files(tables[0], tables[1]);
    stand_stop(&s);
    damage_files(disk, "*-*-*");
    stand_start(&s, "kept", 1, "--threads 1 --checkpoint-limit 0"); /* the vault would have them, too */
    shell_run(stand_text, CALIBRATE "--coordinator %s --output %s", s.endpoint, tables[2]);
    assert_int_equal(latest_reused(PROMPTS), 0);
    expect_equal_files(tables[0], tables[2]);
    expect_figure("table", "misses", PROMPTS);
    shell_run(stand_text, "refrain cache");
    assert_true(stand_says("damaged"));
    stand_stop(&s);
    unsetenv("REFRAIN_TIER_DISK");
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_equal_request_makes_no_step_and_says_so),
        cmocka_unit_test(equal_requests_at_the_same_time_make_their_steps_once),
        cmocka_unit_test(equal_requests_wait_for_nobody_where_nothing_is_kept),
        cmocka_unit_test(policies_are_compared_with_one_uncached_run),
        cmocka_unit_test(the_vault_answers_when_all_ranks_were_started_anew),
        cmocka_unit_test(a_job_whose_group_moves_makes_no_step_of_its_history_again),
        cmocka_unit_test(tenants_take_nothing_from_each_other),
        cmocka_unit_test(a_calibration_is_measured_once_for_everybody),
        cmocka_unit_test(a_calibration_outlives_a_restart_and_a_damaged_one_is_made_again),
    };
    if (getenv("REFRAIN_TEST_FILTER")) cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER"));
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
