/*
 * test_moves_service.c - groups that change while jobs run, with real processes: a rank that comes by hand, another layout, ranks
 * that leave and return at random, a coordinator that is killed meanwhile. The same files, always.
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

enum { KINDS = 4, PATIENCE = 600 /* times 50 ms */ };

static char text[TEXT_BYTES];

/* Guided jobs whose state is of every sort: none, rings, blocks, two passes. */
static const char *const kinds[KINDS] = {
    "--steps 220 --width 96 --height 64 --frames 17 --guidance 4 --seed 3 --prompt 'a blue disc falling'",
    "--steps 60 --width 64 --height 64 --frames 17 --guidance 4 --seed 4 --cache balanced --prompt 'a red "
    "ring rising'",
    "--steps 40 --width 64 --height 64 --frames 9 --guidance 4 --seed 5 --cache dbprune:F=1,threshold=0.1 "
    "--prompt 'a star'",
    "--steps 30 --width 64 --height 64 --frames 9 --guidance 4 --seed 6 --cache fast --preview-every 5 "
    "--prompt 'a ring'",
};

/* As the job is when nothing happens; made once. */
static void expect_calm(int kind, const char *number)
{
    char calm[16];
    snprintf(calm, sizeof calm, "calm-%d", kind);
    moving_fetch(number, "here");
    moving_expect_equal("here", calm);
}

static void the_calm(void **state)
{
    struct stand s;
    char number[16], name[32];
    stand_start(&s, "calm", 2, "");
    shell_run(text, "refrain models add reference models/reference");
    for (int kind = 0; kind < KINDS; kind++) {
        moving_submit(kinds[kind], number);
        snprintf(name, sizeof name, "calm-%d", kind);
        moving_fetch(number, name);
    }
    stand_stop(&s);
}

/* One that the group never had, started by hand as on another host; it helps, and when it is killed the jobs go on without. */
static void a_rank_that_comes_by_hand_joins_the_jobs_that_run(void **state)
{
    struct stand s;
    char number[16], other[16], group[80];
    stand_start(&s, "came", 1, "--in-flight 2 --threads 1");
    shell_run(text, "refrain models add reference models/reference");
    moving_submit(kinds[0], number);
    moving_submit("--steps 1000 --guidance 4 --prompt 'another'", other);
    moving_wait_step(other, 1);
    shell_run(text, "refrain ranks --json | sed 's/.*\"group\":\"\\([0-9a-f]*\\)\".*/\\1/'");
    snprintf(group, sizeof group, "%.*s", (int)strcspn(text, "\n"), text);
    program_start(
        "mpirun -np 1 refrain-worker --coordinator ipc://%s.worker --group %s --seat 1/2 --threads 1 "
        ">>%s.log 2>&1",
        s.data, group, s.data);
    moving_wait_ranks("here", 2);
    int attempts = moving_wait_attempt(other, 2);
    kill(stand_last_rank(), SIGKILL);
    moving_wait_ranks("here", 1);
    assert_true(moving_attempts(other) >= attempts);
    shell_run(text, "refrain cancel %s", other);
    expect_calm(0, number);
    shell_run(text, "refrain ranks --json");
    assert_null(strstr(text, "missing"));
    stand_stop(&s);
}

/* A guided job that comes while one without guidance runs, and is soon alone. False: it ended as it began. */
static bool gets_another_layout(char number[MOVING_NUMBER_BYTES])
{
    shell_run(text, "refrain submit --quiet --model reference --steps 20 --guidance 1 --prompt first");
    moving_submit(kinds[0], number);
    for (int i = 0; i < PATIENCE; i++, usleep(50000)) {
        shell_run(text, "refrain status %s", number);
        if (strstr(text, "(attempt ")) return true;
        if (strstr(text, "completed")) return false;
    }
    return false;
}

/* Its branches are better computed side by side, unless one core is much slower than the other just then. */
static void expect_another_layout(const char *name, const char *options)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES];
    stand_start(&s, name, 2, options);
    shell_run(text, "refrain models add reference models/reference");
    for (int tries = 0; tries < 3 && !gets_another_layout(number); tries++) {}
    assert_non_null(strstr(text, "because    laid out anew: cfg, "));
    expect_calm(0, number);
    shell_run(text, "grep -c 'laid out anew: cfg, [0-9]* s expected gain, [0-9]* s cost' %s.log", s.data);
    assert_true(atoi(text) >= 1);
    assert_true(moving_attempts(number) >=
                2); /* or more often: so short a --settle, and other work beside it */
    stand_stop(&s);
}

static void a_job_that_runs_gets_another_layout(void **state)
{
    expect_another_layout("anew", "--settle 500ms --home fixed --threads 1");
}

/* The world of MPI stays as it is, in a new epoch. */
static void so_does_one_over_mpi(void **state)
{
    expect_another_layout("anew-mpi", "--settle 500ms --home fixed --threads 1 --fabric mpi");
}

/* Somebody takes ranks out and puts them back, faster than the group can follow, while jobs of every sort run; in between the
 * coordinator is killed. */
static void ranks_that_come_and_go_at_random_cost_no_bit(void **state)
{
    enum { JOBS = 6, ROUNDS = 12, RANKS = 3 };
    struct stand s;
    char numbers[JOBS][16];
    unsigned dice = 7;
    stand_start(&s, "random", RANKS, "--settle 1s");
    shell_run(text, "refrain models add reference models/reference");
    for (int i = 0; i < JOBS; i++) moving_submit(kinds[1 + i % (KINDS - 1)], numbers[i]);
    moving_wait_step(numbers[0], 2);
    for (int round = 0; round < ROUNDS; round++) {
        dice = dice * 1103515245u + 12345u;
        int rank = (int)(dice >> 16) % RANKS;
        shell(text, "refrain drain %d %s", rank, dice >> 28 & 1 ? "--back" : ""); /* may be refused */
        if (round == ROUNDS / 2) {
            kill(s.coordinator, SIGKILL);
            program_wait(s.coordinator, 15);
            stand_start(&s, "random", RANKS, "--settle 1s");
        }
        usleep(100000 + (dice >> 20) % 5 * 100000);
    }
    for (int rank = 0; rank < RANKS; rank++) shell(text, "refrain drain %d --back", rank);
    for (int i = 0; i < JOBS; i++) expect_calm(1 + i % (KINDS - 1), numbers[i]);
    moving_wait_ranks("here", RANKS);
    stand_stop(&s);
}

int main(void)
{
    setenv("REFRAIN_RECOMPUTE", "1", 1); /* equal jobs are to be made, not found */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_calm),
        cmocka_unit_test(a_rank_that_comes_by_hand_joins_the_jobs_that_run),
        cmocka_unit_test(a_job_that_runs_gets_another_layout),
        cmocka_unit_test(so_does_one_over_mpi),
        cmocka_unit_test(ranks_that_come_and_go_at_random_cost_no_bit),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
