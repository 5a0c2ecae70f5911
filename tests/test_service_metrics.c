/*
 * test_service_metrics.c - metrics of a service at work: coordinator, ranks under mpirun and the client as real processes.
 * What is scraped is what the client is told, and what counts never falls while no rank is lost.
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

#include "tests/scraped.h"
#include "tests/service_jobs.h"

#define TEN SMALL "--steps 10 --guidance 4 "

static char url[128];

static void begin(struct stand *s, const char *name)
{
    char ready[PATH_BYTES + 64];
    unsetenv("REFRAIN_RECOMPUTE");
    stand_start(s, name, 2, "--threads 1 --metrics 127.0.0.1:*");
    snprintf(ready, sizeof ready, "%s.ready", s->data);
    json_t *note = json_load_file(ready, 0, NULL);
    snprintf(url, sizeof url, "%s", string_at(note, "metrics"));
    json_decref(note);
    shell_run(stand_text, "refrain models add ref models/reference");
}

static void end(struct stand *s)
{
    stand_stop(s);
    setenv("REFRAIN_RECOMPUTE", "1", 1);
}

static double value_now(const char *name)
{
    struct scraped *seen = scraped_get(url);
    double value = scraped_has(seen, name) ? scraped_value(seen, name) : -1;
    scraped_free(seen);
    return value;
}

static void await(const char *name, double value)
{
    for (int i = 0; i < 300; i++, usleep(100000))
        if (value_now(name) == value) return;
    fail_msg("%s is %g, not %g", name, value_now(name), value);
}

/* Again and again until the job is over; nothing falls on the way. */
static void watch_over(int job, bool falls)
{
    struct scraped *before = scraped_get(url);
    for (bool over = false; !over; usleep(100000)) {
        json_t *now = stand_job(job);
        over = strcmp(string_at(now, "state"), "completed") == 0;
        if (strcmp(string_at(now, "state"), "failed") == 0)
            fail_msg("job %d: %s", job, string_at(now, "message"));
        json_decref(now);
        struct scraped *after = scraped_get(url);
        if (!falls) scraped_expect_grown(before, after);
        scraped_free(before);
        before = after;
    }
    scraped_free(before);
}

/* ----------------------------------------------------------------------------------------------- the same figures */

static bool is_told(const struct scraped *seen, const json_t *figure, const char *family, const char *more,
                    double value)
{
    char name[512];
    snprintf(name, sizeof name, "refrain_tier_%s{group=\"%s\",rank=\"%d\",kind=\"%s\"%s}", family,
             string_at(figure, "group"), (int)number_at(figure, "rank"), string_at(figure, "kind"), more);
    return scraped_has(seen, name) && scraped_value(seen, name) == value;
}

static bool figure_is_told(const struct scraped *seen, const json_t *figure)
{
    const char *reason;
    json_t *count;
    bool told = is_told(seen, figure, "items", "", number_at(figure, "items")) &&
                is_told(seen, figure, "fetched_total", "", number_at(figure, "fetched")) &&
                is_told(seen, figure, "published_total", "", number_at(figure, "published")) &&
                is_told(seen, figure, "hits_total", ",level=\"host\"",
                        number_at(json_object_get(figure, "hits"), "host"));
    json_object_foreach(json_object_get(figure, "misses"), reason, count)
    {
        char label[64];
        snprintf(label, sizeof label, ",reason=\"%s\"", reason);
        told = told && is_told(seen, figure, "misses_total", label, json_number_value(count));
    }
    return told;
}

/* Ranks tell once a second: they may do so between the two looks. */
static void expect_the_cache_verb_s_figures(void)
{
    for (int i = 0; i < 50; i++, usleep(200000)) {
        struct scraped *seen = scraped_get(url);
        shell_run(stand_text, "refrain cache --all --json");
        json_t *all = stand_object(), *figures = json_object_get(all, "figures");
        size_t count = json_array_size(figures), told = 0;
        for (size_t k = 0; k < count; k++) told += figure_is_told(seen, json_array_get(figures, k));
        json_decref(all);
        scraped_free(seen);
        if (count > 2 && told == count) return;
    }
    fail_msg("other figures: %s", stand_text);
}

static void a_service_at_work_tells_what_it_does(void **state)
{
    (void)state;
    struct stand s;
    begin(&s, "at-work");
    await("refrain_ranks{state=\"here\"}", 2);
    pid_t client = stand_begin("first", LARGE "--steps 30 --cache balanced");
    watch_over(stand_begun("first"), false);
    program_wait(client, 60);
    int second = stand_make("second", TEN);
    stand_make("again", TEN); /* the same: no step */
    shell_run(stand_text, "refrain submit --wait --resume-from %d --at-step 4 --guidance 6", second);
    struct scraped *seen = scraped_get(url);
    assert_true(scraped_value(seen, "refrain_jobs_finished_total{state=\"completed\"}") == 4);
    assert_true(scraped_value(seen, "refrain_jobs_submitted_total") == 4);
    assert_true(scraped_value(seen, "refrain_frames_total{model=\"ref\"}") == 17 + 3 * 9);
    assert_true(scraped_value(seen, "refrain_reused_steps_total") == 10);
    assert_true(scraped_value(seen, "refrain_continued_steps_total") == 4);
    assert_true(scraped_value(seen, "refrain_policy_jobs_total{policy=\"off\"}") == 3);
    /* two branches each; of the four, one made ten steps, one none and one six */
    assert_true(
        scraped_value(seen, "refrain_policy_branch_steps_total{policy=\"off\",action=\"computed\"}") == 32);
    assert_true(scraped_value(seen, "refrain_job_run_seconds_count{model=\"ref\"}") == 4);
    assert_true(scraped_value(seen, "refrain_steps_total{model=\"ref\"}") > 0);
    assert_true(scraped_value(seen, "refrain_checkpoints_saved_total") > 0);
    assert_true(scraped_value(seen, "refrain_vault_bytes") > 0);
    scraped_free(seen);
    expect_the_cache_verb_s_figures();
    end(&s);
}

static void a_lost_rank_is_seen_as_such_and_as_replaced(void **state)
{
    (void)state;
    struct stand s;
    begin(&s, "lost");
    pid_t client = stand_begin("kept", LARGE "--steps 60 --cache balanced");
    int job = stand_begun("kept");
    stand_wait_step(job, 5);
    struct scraped *before = scraped_get(url);
    assert_true(scraped_value(before, "refrain_jobs{state=\"running\"}") == 1);
    kill(stand_last_rank(), SIGKILL);
    watch_over(job, true);
    program_wait(client, 60);
    await("refrain_ranks_replaced_total", 1);
    await("refrain_ranks{state=\"here\"}", 2);
    await("refrain_jobs_finished_total{state=\"completed\"}", 1);
    assert_true(value_now("refrain_ranks{state=\"missing\"}") == 0);
    assert_true(value_now("refrain_jobs_requeued_total") >= 1);
    assert_true(value_now("refrain_jobs_finished_total{state=\"failed\"}") == 0);
    assert_true(value_now("refrain_steps_total{model=\"ref\"}") >=
                scraped_value(before, "refrain_steps_total{model=\"ref\"}"));
    scraped_free(before);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_service_at_work_tells_what_it_does),
        cmocka_unit_test(a_lost_rank_is_seen_as_such_and_as_replaced),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
