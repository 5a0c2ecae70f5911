/*
 * test_team.c - the fork-join team: every task once, whatever the threads do in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "kernels/team.h"

enum { MOST_TASKS = 200 };

struct tally {
    atomic_int runs[MOST_TASKS];
    atomic_int misplaced; /* scratch that is not aligned, or task numbers out of range */
    int tasks;
};

/* Counts itself, and writes its whole scratch: two threads with the same scratch would disturb each other. */
static void count_task(void *arguments, int task, void *scratch)
{
    struct tally *tally = arguments;
    unsigned char *bytes = scratch;
    bool fits = task >= 0 && task < tally->tasks && (uintptr_t)scratch % 64 == 0;
    memset(bytes, task, 4096);
    memset(bytes + TEAM_SCRATCH_BYTES - 4096, task, 4096);
    for (int i = 0; i < 4096; i += 64)
        fits = fits && bytes[i] == (unsigned char)task &&
               bytes[TEAM_SCRATCH_BYTES - 1 - i] == (unsigned char)task;
    if (fits)
        atomic_fetch_add(&tally->runs[task], 1);
    else
        atomic_fetch_add(&tally->misplaced, 1);
}

static void check_run(struct team *team, int tasks)
{
    struct tally tally = {.tasks = tasks};
    team_run(team, tasks, count_task, &tally);
    assert_int_equal(atomic_load(&tally.misplaced), 0);
    for (int i = 0; i < MOST_TASKS; i++) assert_int_equal(atomic_load(&tally.runs[i]), i < tasks ? 1 : 0);
}

static void every_task_runs_once_on_any_number_of_threads(void **state)
{
    static const int sizes[] = {1, 2, 3, 8, 33};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct team *team;
        assert_int_equal(team_create(sizes[i], &team, NULL), STATUS_OK);
        assert_int_equal(team_threads(team), sizes[i]);
        for (int tasks = 0; tasks < MOST_TASKS; tasks = tasks * 3 / 2 + 1) check_run(team, tasks);
        team_destroy(team);
    }
}

/* Runs follow each other so closely that some workers are still busy with the one before. */
static void runs_that_follow_at_once_do_not_mix(void **state)
{
    struct team *team;
    assert_int_equal(team_create(4, &team, NULL), STATUS_OK);
    for (int i = 0; i < 2000; i++) check_run(team, 1 + i % 7);
    team_destroy(team);
}

static void workers_that_fell_asleep_wake_up(void **state)
{
    struct team *team;
    assert_int_equal(team_create(3, &team, NULL), STATUS_OK);
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        check_run(team, 50);
    }
    team_destroy(team);
}

static void wait_for_the_other(void *arguments, int task, void *scratch)
{
    atomic_int *arrived = arguments;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) usleep(10);
}

/* Two tasks that wait for each other end only if two threads run them. */
static void tasks_run_at_the_same_time(void **state)
{
    struct team *team;
    assert_int_equal(team_create(2, &team, NULL), STATUS_OK);
    for (int i = 0; i < 50; i++) {
        atomic_int arrived = 0;
        team_run(team, 2, wait_for_the_other, &arrived);
    }
    team_destroy(team);
}

static void a_team_of_a_size_that_makes_no_sense_is_refused(void **state)
{
    struct team *team = NULL;
    struct error error;
    assert_int_equal(team_create(0, &team, &error), STATUS_INVALID);
    assert_int_equal(team_create(TEAM_MAX_THREADS + 1, &team, &error), STATUS_INVALID);
    assert_null(team);
    team_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_on_any_number_of_threads),
        cmocka_unit_test(runs_that_follow_at_once_do_not_mix),
        cmocka_unit_test(workers_that_fell_asleep_wake_up),
        cmocka_unit_test(tasks_run_at_the_same_time),
        cmocka_unit_test(a_team_of_a_size_that_makes_no_sense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
