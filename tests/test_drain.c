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

#include "tests/moving.h"

static char text[TEXT_BYTES];

#define JOB                                                                                                  \
    "--steps 120 --width 96 --height 64 --frames 17 --guidance 4 --prompt 'a blue disc falling' --seed 3"

static void jobs_go_on_while_ranks_leave_and_return(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES];
    stand_start(&s, "leave", 3, "");
    shell_run(text, "refrain models add reference models/reference");
    moving_submit(JOB, number);
    moving_fetch(number, "calm");

    moving_submit(JOB, number);
    moving_wait_step(number, 3);
    shell_run(text, "refrain drain 1");
    assert_non_null(strstr(text, "1 rank is drained"));
    moving_wait_ranks("drained", 1);
    assert_int_equal(moving_ranks("here"), 2);
    shell_run(text, "refrain ranks");
    assert_non_null(strstr(text, "2 ranks"));
    moving_fetch(number, "fewer");
    moving_expect_equal("fewer", "calm");

    moving_submit(JOB, number);
    moving_wait_step(number, 3);
    shell_run(text, "refrain drain 1 --back");
    moving_wait_ranks("here", 3);
    assert_int_equal(moving_ranks("drained"), 0);
    moving_fetch(number, "more");
    moving_expect_equal("more", "calm");
    shell_run(text, "refrain status %s --json", number);
    assert_null(strstr(text, "\"state\":\"failed\""));
    stand_stop(&s);
}

static void home_leaves_and_stays_away_over_a_restart(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES];
    stand_start(&s, "restart", 3, "");
    shell_run(text, "refrain models add reference models/reference");
    moving_submit(JOB, number);
    moving_wait_step(number, 3);
    shell_run(text, "refrain drain 0");
    moving_wait_ranks("here", 2);
    kill(s.coordinator, SIGKILL);
    program_wait(s.coordinator, 15);
    stand_start(&s, "restart", 3, "");
    moving_fetch(number, "restarted");
    moving_expect_equal("restarted", "calm");
    assert_int_equal(moving_ranks("drained"), 1);
    assert_int_equal(moving_ranks("here"), 2);
    shell_run(text, "refrain drain 0 --back");
    moving_wait_ranks("here", 3);
    moving_submit(JOB, number);
    moving_fetch(number, "complete");
    moving_expect_equal("complete", "calm");
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
        {"zz/0", "no group's name begins so", 1},
        {"x/y", "must be GROUP/RANK, RANK or a host", 2},
        {"$(hostname)", "all the ranks that the coordinator was told to launch", 1},
        {"0 --back", "no rank of that name is drained", 1},
    };
    struct stand s;
    stand_start(&s, "wrong", 2, "--split 4,4");
    moving_wait_ranks("here", 2);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int code = shell(text, "refrain drain %s", wrong[i].who);
        if (!strstr(text, wrong[i].sentence) || code == 0) fail_msg("%s: %d, %s", wrong[i].who, code, text);
    }
    assert_int_not_equal(shell(text, "refrain drain 1"), 0);
    assert_non_null(strstr(text, "--split names 2 ranks: 1 would be left"));
    assert_int_equal(moving_ranks("here"), 2);
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
