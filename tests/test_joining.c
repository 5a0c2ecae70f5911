/*
 * test_joining.c - `refrain-launch --join`: ranks are added to a group by one command while its jobs run, lost ones come back, they
 * leave with their launcher at the end of a step, survive a coordinator that is killed, and are drained and returned like others. Real
 * processes; the same files, always.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/moving.h"

static char text[TEXT_BYTES];

#define JOB                                                                                                  \
    "--steps 600 --width 96 --height 64 --frames 17 --guidance 4 --prompt 'a blue disc falling' --seed 3"

static void group_letters(char letters[9])
{
    shell_run(text, "refrain ranks --json | sed 's/.*\"group\":\"\\([0-9a-f]*\\)\".*/\\1/'");
    snprintf(letters, 9, "%.8s", text);
}

static pid_t join(const struct stand *s, const char *group, int ranks, const char *options)
{
    return program_start(
        "refrain-launch --join %s -n %d -t 1 --coordinator ipc://%s.worker %s 2>>%s.join.log", group, ranks,
        s->data, options, s->data);
}

static void expect_exit(pid_t pid, int code)
{
    int status = 0;
    for (int i = 0; i < 1500 && waitpid(pid, &status, WNOHANG) == 0; i++) usleep(20000);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
}

static void the_calm(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES];
    stand_start(&s, "calm", 1, "");
    shell_run(text, "refrain models add reference models/reference");
    moving_submit(JOB, number);
    moving_fetch(number, "calm");
    stand_stop(&s);
}

/* A pid as `refrain ranks` gives it to that rank. */
static pid_t process_of(int rank)
{
    char name[32];
    shell_run(text, "refrain ranks --json");
    snprintf(name, sizeof name, "\"rank\":%d,", rank);
    const char *at = strstr(text, name);
    assert_non_null(at);
    at = strstr(at, "\"pid\":");
    assert_non_null(at);
    return (pid_t)atol(at + strlen("\"pid\":"));
}

/* A group of one rank, of one thread as those that come: a job is moved to them only where that is quicker. */
static void start(struct stand *s, const char *name, const char *options)
{
    char all[128];
    snprintf(all, sizeof all, "--threads 1 --settle 500ms %s", options);
    stand_start(s, name, 1, all);
}

/* A job that one rank works on, to whose group others can come. */
static void begin(struct stand *s, const char *name, const char *options, char number[MOVING_NUMBER_BYTES],
                  char group[9])
{
    start(s, name, options);
    shell_run(text, "refrain models add reference models/reference");
    moving_submit(JOB, number);
    moving_wait_step(number, 3);
    group_letters(group);
}

static void ranks_join_a_running_job_and_leave_it_with_their_launcher(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES], group[9];
    begin(&s, "join", "", number, group);
    pid_t launcher = join(&s, group, 2, "");
    moving_wait_ranks("here", 3);
    int attempt = moving_wait_attempt(number, 2);

    pid_t lost = process_of(2);
    kill(lost, SIGKILL);
    moving_wait_attempt(number, attempt + 1);
    moving_wait_ranks("here", 3);
    assert_int_not_equal(process_of(2), lost);

    moving_wait_step(number, 5);
    kill(launcher, SIGTERM);
    expect_exit(launcher, 0);
    moving_wait_ranks("here", 1);
    moving_fetch(number, "joined");
    moving_expect_equal("joined", "calm");
    shell_run(text, "cat %s.log", s.data);
    assert_non_null(strstr(text, "ranks 1 and 2 leave"));
    assert_null(strstr(text, "said nothing"));
    shell_run(text, "refrain ranks --json");
    assert_null(strstr(text, "missing"));
    assert_null(strstr(text, "drained"));
    stand_stop(&s);
}

/* They never become ranks of a group that would lose them at once. */
static void ranks_whose_launcher_ends_before_they_came_do_not_join(void **state)
{
    struct stand s;
    char group[9];
    stand_start(&s, "early", 1, "");
    moving_wait_ranks("here", 1);
    group_letters(group);
    pid_t launcher = join(&s, group, 2, "");
    for (int i = 0; i < 500 && shell(text, "grep -q 'that are to join it' %s.join.log", s.data); i++)
        usleep(10000);
    kill(launcher, SIGTERM);
    expect_exit(launcher, 0);
    moving_wait_ranks("here", 1);
    shell_run(text, "cat %s.log", s.data);
    assert_null(strstr(text, "is ready, 2 ranks"));
    assert_null(strstr(text, "is ready, 3 ranks"));
    stand_stop(&s);
}

/* Its ranks die with it: the group goes on without them, and others may join in their place. */
static void a_launcher_that_is_killed_costs_its_ranks_alone(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES], group[9];
    begin(&s, "killed", "--silence 2s", number, group);
    pid_t launcher = join(&s, group, 2, "");
    moving_wait_ranks("here", 3);
    kill(launcher, SIGKILL);
    program_wait(launcher, 5);
    moving_wait_ranks("here", 1);
    moving_wait_ranks("missing", 0);
    launcher = join(&s, group, 1, "");
    moving_wait_ranks("here", 2);
    moving_fetch(number, "killed");
    moving_expect_equal("killed", "calm");
    stand_stop(&s);
    expect_exit(launcher, 0); /* as its group did */
}

static void a_coordinator_that_is_killed_finds_the_ranks_that_joined(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES], group[9], again[9];
    begin(&s, "found", "", number, group);
    join(&s, group, 2, "");
    moving_wait_ranks("here", 3);
    int attempt = moving_wait_attempt(number, 2);
    kill(s.coordinator, SIGKILL);
    program_wait(s.coordinator, 15);
    start(&s, "found", "");
    moving_wait_ranks("here", 3);
    group_letters(again);
    assert_string_equal(again, group);
    assert_int_equal(moving_attempts(number), attempt); /* nobody noticed */

    pid_t lost = process_of(1);
    kill(lost, SIGKILL);
    moving_wait_attempt(number, attempt + 1);
    moving_wait_ranks("here", 3);
    moving_fetch(number, "found");
    moving_expect_equal("found", "calm");
    stand_stop(&s);
}

/* Also when nobody of the launcher's ranks, or of the group's first ones, is left. */
static void they_are_drained_and_return_like_others(void **state)
{
    struct stand s;
    char number[MOVING_NUMBER_BYTES], group[9], again[9];
    start(&s, "drained", "");
    shell_run(text, "refrain models add reference models/reference");
    moving_wait_ranks("here", 1);
    group_letters(group);
    pid_t launcher = join(&s, group, 2, "--order-timeout 1s");
    moving_wait_ranks("here", 3);
    moving_submit(JOB, number);
    moving_wait_step(number, 3);
    shell_run(text, "refrain drain 1");
    shell_run(text, "refrain drain 2");
    moving_wait_ranks("drained", 2);
    moving_wait_step(number, 10);
    sleep(2); /* longer than it waits for orders about ranks that it lost */
    shell_run(text, "refrain drain 1 --back");
    assert_non_null(strstr(text, "rank 1 is being started again"));
    moving_wait_ranks("here", 2);
    shell_run(text, "refrain drain 0");
    moving_wait_ranks("here", 1);
    shell_run(text, "refrain drain 2 --back");
    moving_wait_ranks("here", 2);
    moving_fetch(number, "drained");
    moving_expect_equal("drained", "calm");
    shell_run(text, "refrain drain 0 --back");
    moving_wait_ranks("here", 3);
    group_letters(again);
    assert_string_equal(again, group);
    kill(launcher, SIGINT);
    expect_exit(launcher, 0);
    moving_wait_ranks("here", 1);
    stand_stop(&s);
}

static void what_cannot_be_joined_is_named(void **state)
{
    static const struct {
        const char *group, *options, *sentence; /* group NULL: the one that is there */
    } wrong[] = {
        {"zz", "-n 1", "--join zz: no group's name begins so"},
        {"''", "-n 1", "--join: must be 1 to "},
        {NULL, "-n 1 --fabric nccl", "over the fabric zmq: --fabric zmq"},
        {NULL, "-n 1 --fabric mpi", "has the ranks that it was started with"},
        {NULL, "-n 1024", "at most 1024 form a group"},
    };
    struct stand s;
    char group[9], command[256];
    stand_start(&s, "wrong", 1, "");
    moving_wait_ranks("here", 1);
    group_letters(group);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(command, sizeof command, "--join %s %s", wrong[i].group ? wrong[i].group : group,
                 wrong[i].options);
        int code = shell(text, "refrain-launch %s --coordinator ipc://%s.worker", command, s.data);
        if (code == 0 || !strstr(text, wrong[i].sentence)) fail_msg("%s: %d, %s", command, code, text);
    }
    stand_stop(&s);
    stand_start(&s, "mpi", 2, "--fabric mpi");
    moving_wait_ranks("here", 2);
    group_letters(group);
    assert_int_equal(
        shell(text, "refrain-launch --join %s -n 1 --coordinator ipc://%s.worker", group, s.data), 1);
    assert_non_null(strstr(text, "over the fabric mpi a group has the ranks that it was started with"));
    stand_stop(&s);
}

int main(void)
{
    setenv("REFRAIN_RECOMPUTE", "1", 1); /* equal jobs are to be made, not found */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_joined_is_named),
        cmocka_unit_test(the_calm),
        cmocka_unit_test(ranks_join_a_running_job_and_leave_it_with_their_launcher),
        cmocka_unit_test(ranks_whose_launcher_ends_before_they_came_do_not_join),
        cmocka_unit_test(a_launcher_that_is_killed_costs_its_ranks_alone),
        cmocka_unit_test(a_coordinator_that_is_killed_finds_the_ranks_that_joined),
        cmocka_unit_test(they_are_drained_and_return_like_others),
    };
    if (getenv("REFRAIN_TEST_FILTER")) cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER"));
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
