/*
 * test_drain.c - ranks leave and come back while jobs run: nothing is lost, outputs are what they were, and it stays so
 * over a restart of the coordinator. Real processes.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/service_fixture.h"

static char text[TEXT_BYTES];

#define JOB "--steps 120 --width 96 --height 64 --frames 17 --guidance 4 --prompt 'a blue disc falling' --seed 3"

/* Ranks that are in that state, of all groups. */
static int ranks_in(const char *state)
{
    shell_run(text, "refrain ranks --json | tr ',' '\\n' | grep -c '\"state\":\"%s\"' || true", state);
    return atoi(text);
}

static void wait_for_ranks(const char *state, int count)
{
    for (int i = 0; i < 500 && ranks_in(state) != count; i++) usleep(40000);
    if (ranks_in(state) != count) fail_msg("%d ranks are %s, not %d", ranks_in(state), state, count);
}

/* A job that has made some steps, but is not done. */
static void begin_job(char *number)
{
    shell_run(text, "refrain submit --quiet --model reference " JOB);
    snprintf(number, 16, "%lu", strtoul(text, NULL, 10));
}

/* The video of a finished job, in a file of that name. */
static void fetch(const char *number, const char *name)
{
    shell_run(text, "refrain watch %s --quiet", number);
    shell_run(text, "refrain result %s --output %s/%s.mp4", number, stand_directory, name);
}

static void wait_for_step(const char *number, int step)
{
    for (int i = 0; i < 6000; i++) {
        shell_run(text, "refrain status %s --json", number);
        const char *at = strstr(text, "\"step\":");
        if (strstr(text, "\"state\":\"completed\"")) fail_msg("job %s was too quick", number);
        if (at && atoi(at + strlen("\"step\":")) >= step) return;
        usleep(10000);
    }
    fail_msg("job %s makes no way", number);
}

static void expect_the_calm_one(const char *name)
{
    char here[PATH_BYTES + 32], calm[PATH_BYTES + 32];
    snprintf(here, sizeof here, "%s/%s.mp4", stand_directory, name);
    snprintf(calm, sizeof calm, "%s/calm.mp4", stand_directory);
    expect_equal_files(here, calm);
}

static void jobs_go_on_while_ranks_leave_and_return(void **state)
{
    struct stand s;
    char number[16];
    stand_start(&s, "leave", 3, "");
    shell_run(text, "refrain models add reference models/reference");
    begin_job(number);
    fetch(number, "calm");

    begin_job(number);
    wait_for_step(number, 3);
    shell_run(text, "refrain drain 1");
    assert_non_null(strstr(text, "1 rank is drained"));
    wait_for_ranks("drained", 1);
    assert_int_equal(ranks_in("here"), 2);
    shell_run(text, "refrain ranks");
    assert_non_null(strstr(text, "2 ranks"));
    fetch(number, "fewer");
    expect_the_calm_one("fewer");

    begin_job(number);
    wait_for_step(number, 3);
    shell_run(text, "refrain drain 1 --back");
    wait_for_ranks("here", 3);
    assert_int_equal(ranks_in("drained"), 0);
    fetch(number, "more");
    expect_the_calm_one("more");
    shell_run(text, "refrain status %s --json", number);
    assert_null(strstr(text, "\"state\":\"failed\""));
    stand_stop(&s);
}

static void home_leaves_and_stays_away_over_a_restart(void **state)
{
    struct stand s;
    char number[16];
    stand_start(&s, "restart", 3, "");
    shell_run(text, "refrain models add reference models/reference");
    begin_job(number);
    wait_for_step(number, 3);
    shell_run(text, "refrain drain 0");
    wait_for_ranks("here", 2);
    kill(s.coordinator, SIGKILL);
    program_wait(s.coordinator, 15);
    stand_start(&s, "restart", 3, "");
    fetch(number, "restarted");
    expect_the_calm_one("restarted");
    assert_int_equal(ranks_in("drained"), 1);
    assert_int_equal(ranks_in("here"), 2);
    shell_run(text, "refrain drain 0 --back");
    wait_for_ranks("here", 3);
    begin_job(number);
    fetch(number, "complete");
    expect_the_calm_one("complete");
    stand_stop(&s);
}

static void what_cannot_be_drained_is_named(void **state)
{
    static const struct {
        const char *who, *sentence;
        int code;
    } wrong[] = {
        {"7", "has ranks 0 to 1", 1},
        {"nohost", "no rank is on a host of that name", 1},
        {"zz/0", "not one group's name begins so", 1},
        {"x/y", "must be GROUP/RANK, RANK or a host", 2},
        {"$(hostname)", "all the ranks that the coordinator was told to launch", 1},
        {"0 --back", "no rank of that name is drained", 1},
    };
    struct stand s;
    stand_start(&s, "wrong", 2, "--split 4,4");
    wait_for_ranks("here", 2);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int code = shell(text, "refrain drain %s", wrong[i].who);
        if (!strstr(text, wrong[i].sentence) || code == 0) fail_msg("%s: %d, %s", wrong[i].who, code, text);
    }
    assert_int_not_equal(shell(text, "refrain drain 1"), 0);
    assert_non_null(strstr(text, "--split names 2 ranks: 1 would be left"));
    assert_int_equal(ranks_in("here"), 2);
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_go_on_while_ranks_leave_and_return),
        cmocka_unit_test(home_leaves_and_stays_away_over_a_restart),
        cmocka_unit_test(what_cannot_be_drained_is_named),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
