/*
 * test_launch.c - refrain-launch with real mpiruns and real ranks, under a coordinator that does what the
 * test says.
 *
 * The coordinator is a ROUTER socket in this thread: desk_wait() takes reports until something has come true.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cluster/launcher/census.h"
#include "proto/wire.h"
#include "tests/service_fixture.h"

enum { RANKS = 3, NAME_BYTES = 65, PATIENCE_MS = 30000 };

/* What is known of one rank from its latest Hello. */
struct seen_rank {
    int hellos;
    pid_t pid;
    uint32_t ranks, threads;
    char address[256];
};

struct desk {
    void *context, *socket;
    char endpoint[PATH_BYTES + 32];
    struct wire_peer launcher;
    int launchers, beats, ends;    /* messages of each kind from launchers */
    char group[NAME_BYTES];        /* of the latest Launcher */
    pid_t pid;                     /* likewise */
    struct seen_rank ranks[RANKS]; /* of that group */
    bool whole_ended;              /* a SeatEnded named no rank */
    uint32_t ended_rank;           /* or this one */
    char ended_message[512];
};

/* ----------------------------------------------------------------------------------------------- the desk */

static void desk_bind(struct desk *desk)
{
    int no_linger = 0, yes = 1;
    desk->socket = zmq_socket(desk->context, ZMQ_ROUTER);
    assert_non_null(desk->socket);
    zmq_setsockopt(desk->socket, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(desk->socket, ZMQ_ROUTER_MANDATORY, &yes, sizeof yes);
    assert_int_equal(zmq_bind(desk->socket, desk->endpoint), 0);
}

static void desk_open(struct desk *desk, const char *name)
{
    *desk = (struct desk){.context = zmq_ctx_new()};
    snprintf(desk->endpoint, sizeof desk->endpoint, "ipc://%s/%s", stand_directory, name);
    desk_bind(desk);
}

static void desk_close(struct desk *desk)
{
    if (desk->socket) zmq_close(desk->socket);
    desk->socket = NULL;
    zmq_ctx_term(desk->context);
}

static void take_launcher(struct desk *desk, const struct wire_peer *peer, const Refrain__Launcher *launcher)
{
    desk->launcher = *peer;
    desk->launchers++;
    assert_int_equal(launcher->ranks, RANKS);
    assert_non_null(launcher->host);
    if (strcmp(desk->group, launcher->group) != 0) memset(desk->ranks, 0, sizeof desk->ranks);
    snprintf(desk->group, sizeof desk->group, "%s", launcher->group);
    desk->pid = (pid_t)launcher->pid;
}

/* Of an older group, or of one whose launcher was not heard yet: the rank says it again when it is asked. */
static void take_hello(struct desk *desk, const struct wire_peer *peer, const Refrain__Hello *hello)
{
    if (strcmp(hello->group, desk->group) != 0) {
        Refrain__Rehello rehello = REFRAIN__REHELLO__INIT;
        Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
        wire_stamp(order);
        order.body_case = REFRAIN__WORKER_ORDER__BODY_REHELLO;
        order.rehello = &rehello;
        usleep(20000);
        wire_send(desk->socket, peer, &order.base, NULL);
        return;
    }
    assert_true(hello->rank < RANKS);
    struct seen_rank *rank = &desk->ranks[hello->rank];
    rank->hellos++;
    rank->pid = (pid_t)hello->pid;
    rank->ranks = hello->ranks;
    rank->threads = hello->threads;
    snprintf(rank->address, sizeof rank->address, "%s", hello->fabric_address ? hello->fabric_address : "");
}

static void take_end(struct desk *desk, const Refrain__SeatEnded *ended)
{
    if (strcmp(ended->group, desk->group) != 0) return;
    desk->ends++;
    desk->whole_ended = !ended->has_rank;
    desk->ended_rank = ended->rank;
    snprintf(desk->ended_message, sizeof desk->ended_message, "%s", ended->message);
}

static void take_report(struct desk *desk)
{
    struct wire_peer peer;
    zmq_msg_t frame;
    struct error error;
    Refrain__WorkerReport *report;
    if (wire_receive(desk->socket, &peer, &frame, &error) != STATUS_OK) return;
    assert_int_equal(wire_unpack_report(zmq_msg_data(&frame), zmq_msg_size(&frame), &report, &error),
                     STATUS_OK);
    zmq_msg_close(&frame);
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_LAUNCHER)
        take_launcher(desk, &peer, report->launcher);
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_HELLO) take_hello(desk, &peer, report->hello);
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_SEAT_ENDED) take_end(desk, report->seat_ended);
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_HEARTBEAT &&
        wire_peer_equal(&peer, &desk->launcher))
        desk->beats++;
    refrain__worker_report__free_unpacked(report, NULL);
}

static void desk_serve(struct desk *desk, int ms)
{
    zmq_pollitem_t item = {.socket = desk->socket, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, ms) > 0) take_report(desk);
}

/* Serves until the condition holds. */
#define desk_wait(desk, condition)                                                                           \
    do {                                                                                                     \
        int64_t end_ns_ = clock_now_ns() + PATIENCE_MS * MILLISECOND_NS;                                     \
        while (!(condition)) {                                                                               \
            if (clock_now_ns() > end_ns_) fail_msg("never came true: %s", #condition);                       \
            desk_serve(desk, 20);                                                                            \
        }                                                                                                    \
    } while (0)

/* Gone, and back with nothing in mind but the name of the group. */
static void desk_wait_back(struct desk *desk)
{
    zmq_close(desk->socket);
    usleep(200000);
    desk->launchers = desk->ends = 0;
    desk_bind(desk);
    desk_wait(desk, desk->launchers > 0);
}

static void give(struct desk *desk, Refrain__WorkerOrder__BodyCase kind, void *body)
{
    Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
    wire_stamp(order);
    order.body_case = kind;
    order.welcome = body; /* the members of the union are all pointers */
    assert_int_equal(wire_send(desk->socket, &desk->launcher, &order.base, NULL), STATUS_OK);
}

static void order_replace(struct desk *desk, const char *group, uint32_t rank, uint32_t threads)
{
    Refrain__Replace replace = REFRAIN__REPLACE__INIT;
    replace.group = (char *)(uintptr_t)group;
    replace.has_rank = replace.has_ranks = replace.has_threads = 1;
    replace.rank = rank;
    replace.ranks = RANKS;
    replace.threads = threads;
    give(desk, REFRAIN__WORKER_ORDER__BODY_REPLACE, &replace);
}

static void order_relaunch(struct desk *desk, const char *group)
{
    Refrain__Relaunch relaunch = REFRAIN__RELAUNCH__INIT;
    relaunch.group = (char *)(uintptr_t)group;
    relaunch.reason = (char *)"a test wants it";
    give(desk, REFRAIN__WORKER_ORDER__BODY_RELAUNCH, &relaunch);
}

static void order_shutdown(struct desk *desk)
{
    Refrain__Shutdown shutdown = REFRAIN__SHUTDOWN__INIT;
    shutdown.reason = (char *)"the test is over";
    give(desk, REFRAIN__WORKER_ORDER__BODY_SHUTDOWN, &shutdown);
}

/* --------------------------------------------------------------------------------------------- the launch */

static pid_t launch(const struct desk *desk, const char *options)
{
    return program_start("refrain-launch -n %d -t 1 --coordinator %s %s 2>>%s/launch.log", RANKS,
                         desk->endpoint, options, stand_directory);
}

static bool all_here(const struct desk *desk)
{
    for (int i = 0; i < RANKS; i++)
        if (!desk->ranks[i].hellos || desk->ranks[i].ranks != RANKS) return false;
    return desk->launchers > 0;
}

/* A launcher with all its ranks, each heard. */
static pid_t start(struct desk *desk, const char *name, const char *options)
{
    desk_open(desk, name);
    pid_t pid = launch(desk, options);
    desk_wait(desk, all_here(desk));
    assert_int_equal(desk->pid, pid);
    return pid;
}

static int exit_code(pid_t pid)
{
    int status = 0;
    for (int i = 0; i < 1000; i++, usleep(20000))
        if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    fail_msg("refrain-launch did not end");
    return -1;
}

static bool nothing_scratched(void)
{
    char text[TEXT_BYTES];
    shell(text, "ls -d %s/refrain-launch-* 2>/dev/null", stand_directory);
    return text[0] == 0;
}

/* By the order, as a coordinator does it. */
static void stop(struct desk *desk, pid_t pid)
{
    order_shutdown(desk);
    assert_int_equal(exit_code(pid), 0);
    expect_nothing_left();
    assert_true(nothing_scratched());
    desk_close(desk);
}

/* -------------------------------------------------------------------------------------------------- facts */

static void a_killed_rank_is_replaced_and_the_others_are_left_alone(void **state)
{
    struct desk desk;
    pid_t pid = start(&desk, "replaced", "");
    struct seen_rank before[RANKS];
    memcpy(before, desk.ranks, sizeof before);
    kill(before[1].pid, SIGKILL);
    order_replace(&desk, desk.group, 1, 1);
    desk_wait(&desk, desk.ranks[1].pid != before[1].pid);
    assert_int_equal(desk.ranks[1].ranks, RANKS);
    assert_int_equal(desk.ranks[1].threads, 1);
    assert_memory_equal(desk.ranks[1].address, "ipc://", 6); /* reachable like the others of one host */
    assert_int_equal(desk.ranks[0].pid, before[0].pid);
    assert_int_equal(kill(before[0].pid, 0) | kill(before[2].pid, 0), 0);
    assert_int_equal(desk.ends, 0);
    desk_wait(&desk, desk.beats >= 2); /* it lives, and says so */
    stop(&desk, pid);
}

static void a_stopped_rank_is_killed_before_its_seat_is_given_away(void **state)
{
    struct desk desk;
    pid_t pid = start(&desk, "stopped", "");
    for (int round = 0; round < 2; round++) { /* of the group's own mpirun, then of a replacement's */
        pid_t old = desk.ranks[2].pid;
        kill(old, SIGSTOP);
        order_replace(&desk, desk.group, 2, 0);
        desk_wait(&desk, desk.ranks[2].pid != old);
        for (int i = 0; i < PATIENCE_MS / 20 && kill(old, 0) == 0; i++) usleep(20000);
        assert_int_equal(kill(old, 0), -1);
        assert_int_equal(census_count(desk.group, 2, 1), 1);
    }
    assert_int_equal(census_count(desk.group, 0, RANKS), RANKS);
    assert_int_equal(desk.ends, 0); /* whoever was replaced is no news */
    char text[TEXT_BYTES];
    shell_run(text, "ls %s/refrain-launch-*", stand_directory);
    int lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')); at++) lines++;
    assert_int_equal(lines, 2); /* of the two mpiruns that run */
    stop(&desk, pid);
}

static void make_worker(const char *name, const char *script, char path[PATH_BYTES + 32])
{
    snprintf(path, PATH_BYTES + 32, "%s/%s", stand_directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\nexec refrain-worker \"$@\"\n", script);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0700), 0);
}

static void a_replacement_that_ends_is_reported_with_its_exit_code(void **state)
{
    struct desk desk;
    char worker[PATH_BYTES + 32], options[PATH_BYTES + 64];
    make_worker("seatless", "case \"$*\" in *--seat*) exit 7;; esac", worker);
    snprintf(options, sizeof options, "--worker-binary %s", worker);
    pid_t pid = start(&desk, "ends", options);
    for (int round = 1; round <= 2; round++) {
        order_replace(&desk, desk.group, 1, 1);
        desk_wait(&desk, desk.ends >= round);
        assert_false(desk.whole_ended);
        assert_int_equal(desk.ended_rank, 1);
        assert_non_null(strstr(desk.ended_message, "code 7"));
    }
    order_replace(&desk, desk.group, RANKS, 1); /* no such rank: refused, and nothing happens */
    order_replace(&desk, "an-older-group", 0, 1);
    int known = desk.launchers;
    desk_wait(&desk, desk.launchers > known); /* who speaks of another group is told which one it is */
    assert_int_equal(desk.ends, 2);
    assert_int_equal(census_count(desk.group, 0, RANKS), RANKS - 1);
    stop(&desk, pid);
}

static void replacements_outlive_the_group_s_first_mpirun(void **state)
{
    struct desk desk;
    pid_t pid = start(&desk, "outlive", "");
    pid_t first[RANKS];
    for (uint32_t i = 0; i < RANKS; i++) first[i] = desk.ranks[i].pid;
    for (uint32_t i = 0; i + 1 < RANKS; i++) order_replace(&desk, desk.group, i, 1);
    desk_wait(&desk, desk.ranks[0].pid != first[0] && desk.ranks[1].pid != first[1]);
    kill(first[RANKS - 1], SIGKILL); /* the last one of the first mpirun: it ends, the group does not */
    desk_wait(&desk, desk.ends == 1);
    assert_true(desk.whole_ended); /* all that nobody replaced */
    kill(desk.ranks[0].pid, SIGKILL);
    desk_wait(&desk, desk.ends == 2);
    assert_false(desk.whole_ended);
    assert_int_equal(desk.ended_rank, 0);
    assert_non_null(strstr(desk.ended_message, "KILL"));
    assert_int_equal(census_count(desk.group, 0, RANKS), 1);
    desk_wait_back(&desk); /* a coordinator that knows nothing is not told that nobody is left */
    desk_wait(&desk, desk.ends == 2);
    assert_false(desk.whole_ended);
    kill(desk.ranks[1].pid, SIGKILL);
    desk_wait(&desk, desk.ends == 3);
    assert_int_equal(desk.ended_rank, 1);
    desk_wait_back(&desk);
    desk_wait(&desk, desk.ends == 1);
    assert_true(desk.whole_ended);
    stop(&desk, pid);
}

static void a_relaunched_group_has_another_name_and_the_old_one_is_gone(void **state)
{
    struct desk desk;
    char old[NAME_BYTES];
    pid_t pid = start(&desk, "relaunch", "");
    for (int round = 0; round < 2; round++) {
        strcpy(old, desk.group);
        kill(desk.ranks[0].pid, SIGSTOP); /* such a rank does not stand in the way */
        order_relaunch(&desk, old);
        desk_wait(&desk, strcmp(desk.group, old) != 0 && all_here(&desk));
        assert_int_equal(census_count(old, 0, RANKS), 0);
        assert_int_equal(census_count(desk.group, 0, RANKS), RANKS);
    }
    char now[NAME_BYTES];
    strcpy(now, desk.group);
    order_relaunch(&desk, old); /* overtaken: it has happened already */
    int known = desk.launchers;
    desk_wait(&desk, desk.launchers > known);
    assert_string_equal(desk.group, now);
    stop(&desk, pid);
}

static void a_group_without_ranks_waits_for_orders_and_then_starts_itself(void **state)
{
    struct desk desk;
    char old[NAME_BYTES];
    pid_t pid = start(&desk, "orders", "--order-timeout 500ms");
    strcpy(old, desk.group);
    for (int i = 0; i < RANKS; i++) kill(desk.ranks[i].pid, SIGKILL);
    desk_wait(&desk, desk.ends > 0);
    assert_true(desk.whole_ended);
    assert_string_equal(desk.group, old);
    desk_wait(&desk, strcmp(desk.group, old) != 0 && all_here(&desk));
    stop(&desk, pid);
}

static void the_mpi_fabric_is_relaunched_without_an_order(void **state)
{
    struct desk desk;
    char old[NAME_BYTES];
    pid_t pid = start(&desk, "mpi", "--fabric mpi");
    strcpy(old, desk.group);
    order_replace(&desk, desk.group, 1, 1); /* refused */
    kill(desk.ranks[1].pid, SIGKILL);
    desk_wait(&desk, strcmp(desk.group, old) != 0 && all_here(&desk));
    assert_int_equal(census_count(old, 0, RANKS), 0);
    stop(&desk, pid);
}

static void a_restarted_coordinator_hears_what_it_missed(void **state)
{
    struct desk desk;
    pid_t pid = start(&desk, "missed", "--order-timeout 60s");
    zmq_close(desk.socket);
    usleep(200000);
    for (int i = 0; i < RANKS; i++) kill(desk.ranks[i].pid, SIGKILL);
    for (int i = 0; i < PATIENCE_MS / 20 && census_count(desk.group, 0, RANKS); i++) usleep(20000);
    usleep(300000);
    desk.launchers = desk.ends = 0;
    desk_bind(&desk);
    desk_wait(&desk, desk.launchers > 0 && desk.ends > 0);
    assert_true(desk.whole_ended);
    order_relaunch(&desk, desk.group);
    memset(desk.ranks, 0, sizeof desk.ranks);
    desk_wait(&desk, all_here(&desk));
    stop(&desk, pid);
}

static void a_launcher_without_a_coordinator_ends(void **state)
{
    struct desk desk;
    pid_t pid = start(&desk, "orphan", "--orphan-timeout 1s");
    zmq_close(desk.socket);
    desk.socket = NULL;
    assert_int_equal(exit_code(pid), 1);
    expect_nothing_left();
    assert_true(nothing_scratched());
    desk_close(&desk);
    desk_open(&desk, "nobody");
    zmq_close(desk.socket); /* nor was there ever one */
    desk.socket = NULL;
    assert_int_equal(exit_code(launch(&desk, "--orphan-timeout 500ms")), 1);
    expect_nothing_left();
    desk_close(&desk);
}

static void signals_end_all_and_killing_it_leaves_only_files_for_the_next(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGKILL};
    struct desk desk;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        pid_t pid = start(&desk, "signal", "");
        if (i == 0) kill(desk.ranks[1].pid, SIGSTOP);
        order_replace(&desk, desk.group, 0, 1); /* one that may be half started */
        kill(pid, signals[i]);
        assert_int_equal(exit_code(pid), signals[i] == SIGKILL ? -1 : 0);
        expect_nothing_left();
        assert_int_equal(nothing_scratched(), signals[i] != SIGKILL);
        desk_close(&desk);
    }
    pid_t pid = start(&desk, "signal", "");
    char text[TEXT_BYTES];
    shell_run(text, "ls -d %s/refrain-launch-*", stand_directory);
    assert_null(strchr(strchr(text, '\n') + 1, '\n')); /* only its own */
    stop(&desk, pid);
}

/* mpirun is killed: its ranks end with it, the launcher stays and says so. */
static void ranks_end_with_their_mpirun(void **state)
{
    struct desk desk;
    char text[TEXT_BYTES];
    pid_t pid = start(&desk, "mpirun", "");
    shell_run(text, "cat /proc/%d/task/%d/children", (int)pid, (int)pid); /* the only one */
    kill((pid_t)atoi(text), SIGKILL);
    desk_wait(&desk, desk.ends > 0);
    assert_true(desk.whole_ended);
    for (int i = 0; i < PATIENCE_MS / 20 && census_count(desk.group, 0, RANKS); i++) usleep(20000);
    assert_int_equal(census_count(desk.group, 0, RANKS), 0);
    stop(&desk, pid);
}

static void a_tied_launcher_ends_with_its_parent(void **state)
{
    struct desk desk;
    desk_open(&desk, "tied");
    pid_t parent =
        program_start("sh -c 'refrain-launch -n %d -t 1 --tie --coordinator %s 2>>%s/launch.log; true'",
                      RANKS, desk.endpoint, stand_directory);
    desk_wait(&desk, all_here(&desk));
    kill(parent, SIGKILL);
    program_wait(parent, 5);
    expect_nothing_left();
    assert_true(nothing_scratched());
    desk_close(&desk);
}

static void wrong_options_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *options, *sentence;
    } cases[] = {
        {"-n 0", "--ranks"},
        {"-n 1025", "1024"},
        {"--hostfile /nowhere", "--hostfile /nowhere"},
        {"--worker-binary /nowhere", "--worker-binary /nowhere"},
        {"--key /nowhere", "/nowhere"},
        {"--fabric pigeons", "zmq"},
        {"--scratch /nowhere", "/nowhere"},
    };
    char text[TEXT_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_not_equal(shell(text, "refrain-launch %s", cases[i].options), 0);
        if (!strstr(text, cases[i].sentence)) fail_msg("%s: %s", cases[i].options, text);
    }
    assert_int_equal(shell(text, "refrain-worker --seat 1/3"), 2);
    assert_non_null(strstr(text, "--group"));
    assert_int_equal(shell(text, "refrain-worker --group g --seat 3/3"), 2);
    assert_int_equal(shell(text, "refrain-worker --group g --seat 1/3 --fabric mpi"), 2);
    assert_non_null(strstr(text, "relaunch"));
    assert_int_equal(shell(text, "refrain-worker --group 'a b'"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_refused_with_a_sentence),
        cmocka_unit_test(a_killed_rank_is_replaced_and_the_others_are_left_alone),
        cmocka_unit_test(a_stopped_rank_is_killed_before_its_seat_is_given_away),
        cmocka_unit_test(a_replacement_that_ends_is_reported_with_its_exit_code),
        cmocka_unit_test(replacements_outlive_the_group_s_first_mpirun),
        cmocka_unit_test(a_relaunched_group_has_another_name_and_the_old_one_is_gone),
        cmocka_unit_test(a_group_without_ranks_waits_for_orders_and_then_starts_itself),
        cmocka_unit_test(the_mpi_fabric_is_relaunched_without_an_order),
        cmocka_unit_test(a_restarted_coordinator_hears_what_it_missed),
        cmocka_unit_test(a_launcher_without_a_coordinator_ends),
        cmocka_unit_test(signals_end_all_and_killing_it_leaves_only_files_for_the_next),
        cmocka_unit_test(ranks_end_with_their_mpirun),
        cmocka_unit_test(a_tied_launcher_ends_with_its_parent),
    };
    if (getenv("REFRAIN_TEST_FILTER")) cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER"));
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
