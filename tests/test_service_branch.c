/*
 * test_service_branch.c - going on from another job's checkpoint as a person does it: coordinator, ranks under
 * mpirun and the client as real processes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

/* With ten steps every one is a mark. */
#define TEN SMALL "--steps 10 --guidance 4 "

static void add_model(void)
{
    shell_run(stand_text, "refrain models add ref models/reference");
}

/* A branch's latents come into NAME.safetensors; no --model: the other job's. */
static int branch(const char *name, int from, const char *words)
{
    shell_run(stand_text,
              "timeout 240 refrain submit --resume-from %d %s --quiet --output %s/%s.mp4 --save-latents "
              "%s/%s.safetensors",
              from, words, stand_directory, name, stand_directory, name);
    int job = atoi(stand_text);
    assert_true(job > 0);
    return job;
}

static void expect_latents(const char *a, const char *b)
{
    if (!latents_are_equal(a, b)) fail_msg("%s and %s differ: %s", a, b, stand_text);
}

static void expect_refused(const char *words, const char *part)
{
    if (shell(stand_text, "refrain submit %s", words) == 0) fail_msg("not refused: %s", words);
    if (!stand_says(part)) fail_msg("%s: \"%s\" does not say \"%s\"", words, stand_text, part);
}

static void a_branch_is_the_job_it_came_from_until_something_is_changed(void **state)
{
    struct stand s;
    char words[256];
    stand_start(&s, "branch", 2, "--threads 1");
    add_model();
    int source = stand_make("source", TEN "--cache balanced");
    branch("same", source, "--at-step 4");
    expect_latents("source", "same");
    int other = branch("other", source, "--at-step 4 --guidance 6 --prompt 'a blue ring'");
    assert_false(latents_are_equal("source", "other"));
    shell_run(stand_text,
              "timeout 240 refrain generate --resume-from %d --at-step 4 --guidance 6 --prompt 'a blue ring' "
              "--quiet "
              "--output %s/made.mp4 --save-latents %s/made.safetensors",
              source, stand_directory, stand_directory);
    expect_latents("other", "made");
    json_t *job = stand_job(other);
    const json_t *request = json_object_get(job, "spec");
    assert_int_equal((int)number_at(request, "resume_from"), source);
    assert_int_equal((int)number_at(request, "at_step"), 4);
    assert_string_equal(string_at(request, "prompt"), "a blue ring");
    assert_int_equal((int)number_at(request, "seed"), 5);
    assert_int_equal((int)number_at(request, "steps"), 10);
    json_decref(job);

    /* refused before anything is stored; what there is, is said */
    snprintf(words, sizeof words, "--resume-from %d --at-step 11", source);
    expect_refused(words, "has 10 steps");
    snprintf(words, sizeof words, "--resume-from %d --at-step 4 --steps 20", source);
    expect_refused(words, "steps 20");
    snprintf(words, sizeof words, "--resume-from %d --at-step 4 --seed 6", source);
    expect_refused(words, "seed 6");
    snprintf(words, sizeof words, "--resume-from %d --guidance 6", source);
    expect_refused(words, "guidance: all 10 steps");
    expect_refused("--resume-from 999 --at-step 4", "no such job");
    expect_refused("--at-step 4 --prompt x", "at-step 4: resume_from must name");
    int few = stand_make("few", TEN "--checkpoint-every 5");
    snprintf(words, sizeof words, "--resume-from %d --at-step 4", few);
    expect_refused(words, "it has 5, 10");

    /* after a restart, on other ranks */
    stand_stop(&s);
    stand_start(&s, "branch", 3, "--threads 1 --fold 2,1");
    branch("again", source, "--at-step 4 --guidance 6 --prompt 'a blue ring'");
    expect_latents("other", "again");
    stand_stop(&s);
}

static void a_finished_job_is_made_into_other_files_without_a_step(void **state)
{
    struct stand s;
    stand_start(&s, "files", 2, "--threads 1");
    add_model();
    int source = stand_make("first", TEN);
    shell_run(stand_text,
              "refrain submit --resume-from %d --at-step END --quiet --output %s/second.mp4 --fps 30 "
              "--save-frames %s/frames.safetensors --save-latents %s/second.safetensors",
              source, stand_directory, stand_directory, stand_directory);
    int second = atoi(stand_text);
    expect_latents("first", "second");
    json_t *job = stand_job(second);
    const json_t *times = json_object_get(job, "times");
    assert_true(number_at(times, "denoise") == 0 && number_at(times, "text") == 0);
    assert_true(number_at(times, "decode") > 0);
    assert_int_equal((int)number_at(json_object_get(job, "spec"), "fps"), 30);
    json_decref(job);
    /* the same frames as a job has that was made at once */
    shell_run(stand_text,
              "refrain submit --model ref " TEN "--quiet --output %s/third.mp4 --fps 30 --save-frames "
              "%s/expected.safetensors",
              stand_directory, stand_directory);
    assert_true(latents_are_equal("frames", "expected"));
    char a[PATH_BYTES + 16], b[PATH_BYTES + 16];
    snprintf(a, sizeof a, "%s/second.mp4", stand_directory);
    snprintf(b, sizeof b, "%s/third.mp4", stand_directory);
    expect_equal_files(a, b);
    stand_stop(&s);
}

/* While it waits the job it came from is deleted; in the middle of its steps a rank goes. */
static void a_branch_outlives_its_ranks_and_the_job_it_came_from(void **state)
{
    struct stand s;
    char words[512];
    stand_start(&s, "kills", 2, "--threads 1 --in-flight 1");
    add_model();
    int source = stand_make("long", LARGE "--steps 40 --guidance 4");
    branch("calm", source, "--at-step 8 --guidance 5");
    pid_t first = stand_begin("first", LARGE "--steps 40 --seed 9");
    int ahead = stand_begun("first");
    snprintf(words, sizeof words, "--resume-from %d --at-step 8 --guidance 5", source);
    pid_t client = stand_begin("disturbed", words);
    int job = stand_begun("disturbed");
    shell_run(stand_text, "refrain delete %d", source);
    shell_run(stand_text, "refrain cancel %d", ahead);
    stand_wait_step(job, 12);
    kill(stand_last_rank(), SIGKILL);
    program_wait(first, 60);
    program_wait(client, 240);
    expect_latents("calm", "disturbed");
    json_t *object = stand_job(job);
    assert_int_equal((int)number_at(object, "attempt"), 2);
    json_decref(object);
    snprintf(words, sizeof words, "--resume-from %d --at-step 8", source);
    expect_refused(words, "no such job");
    stand_stop(&s);
}

/* On whichever rank the next job has its home. */
static void a_prompt_is_encoded_once_for_all_ranks(void **state)
{
    struct stand s;
    char name[32], words[256];
    stand_start(&s, "texts", 2, "--threads 1");
    add_model();
    unsetenv("REFRAIN_RECOMPUTE");
    stand_make("text0", TEN);
    for (int i = 1; i <= 4; i++) {
        snprintf(name, sizeof name, "text%d", i);
        snprintf(words, sizeof words, TEN "%s %s", i % 2 ? "--seed 9" : "--guidance 7",
                 i > 2 ? "--cache interval:N=99,first=99" : ""); /* computes everything, and is another run */
        json_t *job = stand_job(stand_make(name, "%s", words));
        const json_t *times = json_object_get(job, "times");
        assert_int_equal((int)number_at(times, "texts_reused"), 2);
        assert_int_equal((int)number_at(times, "first_steps_reused"),
                         i == 2 ? 2 : 0); /* the same seed and size */
        assert_int_equal((int)number_at(times, "steps_reused"), 0);
        assert_true(number_at(times, "reused_seconds") > 0);
        json_decref(job);
    }
    setenv("REFRAIN_RECOMPUTE", "1", 1);
    expect_latents("text1", "text3");
    expect_latents("text2", "text4");
    /* computed by ranks that have nothing */
    stand_stop(&s);
    stand_start(&s, "texts-alone", 2, "--threads 1");
    add_model();
    stand_make("alone", TEN "--guidance 7");
    expect_latents("text4", "alone");
    stand_stop(&s);
}

/* The one who watches sees pictures, the video is that of the job without. */
/* How many of the texts two ranks have; *maker: a rank that has the first of them. */
static int texts_of_two(int *maker)
{
    int count = 0;
    shell_run(stand_text, "refrain cache list text --json");
    json_t *object = stand_object(), *items = json_object_get(object, "items");
    for (size_t i = 0; i < json_array_size(items); i++) {
        json_t *ranks = json_object_get(json_array_get(items, i), "ranks");
        count += json_array_size(ranks) == 2;
        if (i == 0) *maker = (int)json_integer_value(json_array_get(ranks, 0));
    }
    json_decref(object);
    return count;
}

static int pid_of(int rank)
{
    shell_run(stand_text, "refrain stats --json");
    json_t *object = stand_object(), *one;
    json_t *ranks = json_object_get(json_array_get(json_object_get(object, "groups"), 0), "ranks");
    int pid = 0;
    size_t i;
    json_array_foreach(ranks, i, one) if ((int)number_at(one, "rank") == rank) pid =
        (int)number_at(one, "pid");
    json_decref(object);
    assert_true(pid > 1);
    return pid;
}

static int copied(void)
{
    int count = 0;
    shell_run(stand_text, "refrain cache --json");
    json_t *object = stand_object(), *figures = json_object_get(object, "figures"), *one;
    size_t i;
    json_array_foreach(figures, i, one) count += (int)number_at(one, "copied");
    json_decref(object);
    return count;
}

/* One home alone makes jobs, so only it asks; what it used again goes to the other rank by itself. */
static void a_prompt_outlives_the_rank_that_encoded_it(void **state)
{
    struct stand s;
    int maker = -1, other;
    stand_start(&s, "copies", 2, "--threads 1 --home fixed");
    add_model();
    stand_make("kept0", TEN);
    json_decref(stand_job(stand_make("kept1", TEN "--seed 9")));
    for (int i = 0; i < 300 && texts_of_two(&maker) < 2; i++) usleep(100000);
    assert_int_equal(texts_of_two(&maker), 2);
    for (int i = 0; i < 300 && copied() < 2; i++) usleep(100000); /* figures come once a second */
    assert_true(copied() >= 2);
    assert_int_equal(maker, 0);
    kill(pid_of(maker), SIGKILL);
    json_t *job = stand_job(stand_make("kept2", TEN "--seed 11"));
    assert_int_equal((int)number_at(json_object_get(job, "times"), "texts_reused"), 2);
    json_decref(job);
    for (int i = 0; i < 300 && texts_of_two(&other) < 2; i++) usleep(100000);
    assert_int_equal(texts_of_two(&other), 2); /* the one that is home now has them again */
    stand_stop(&s);
}

static void who_watches_sees_the_video_come(void **state)
{
    struct stand s;
    char path[PATH_BYTES + 32], expected[64];
    stand_start(&s, "previews", 2, "--threads 1");
    add_model();
    stand_make("unseen", LARGE "--steps 40 --cache balanced");
    shell_run(stand_text,
              "refrain submit --model ref " LARGE
              "--steps 40 --cache balanced --preview %s/seen.png --preview-every 4 --json "
              "--output %s/seen.mp4 --save-latents %s/seen.safetensors",
              stand_directory, stand_directory, stand_directory);
    const char *at = stand_text;
    int shown = 0;
    for (int step = 4; step < 40; step += 4) { /* in order; one may be skipped for a newer one */
        snprintf(expected, sizeof expected, "\"preview_step\":%d", step);
        const char *found = strstr(at, expected);
        if (found) at = found, shown++;
    }
    assert_true(shown >= 1);
    expect_latents("unseen", "seen");
    snprintf(path, sizeof path, "%s/seen.png", stand_directory);
    assert_true(file_exists(path));
    snprintf(path, sizeof path, "%s/seen.png.partial", stand_directory);
    assert_false(file_exists(path));
    expect_refused("--prompt x --preview-every 1001", "1000");
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_branch_is_the_job_it_came_from_until_something_is_changed),
        cmocka_unit_test(a_finished_job_is_made_into_other_files_without_a_step),
        cmocka_unit_test(a_branch_outlives_its_ranks_and_the_job_it_came_from),
        cmocka_unit_test(a_prompt_is_encoded_once_for_all_ranks),
        cmocka_unit_test(a_prompt_outlives_the_rank_that_encoded_it),
        cmocka_unit_test(who_watches_sees_the_video_come),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
