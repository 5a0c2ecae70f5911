/*
 * test_fabric_nccl_loss.c - what becomes of an epoch when a member, NCCL or a GPU fails in it, over the nccl fabric.
 *
 * Real processes, stand-ins for libcudart and libnccl (tests/fakegpu). A scenario tells the stand-ins by the
 * environment what is to go wrong before it opens its fabric. Every group's orders of NCCL calls are proven
 * free of circles when it ends (tests/nccl_orders.h).
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/fabric_lane.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"
#include "tests/gpu_memory.h"

#define MEGABYTE ((uint64_t)1 << 20)

static void say(const char *name, const char *value)
{
    setenv(name, value, 1);
}

/* ------------------------------------------------------------------------------------------------- failures */

/* Member 1 ends while payloads go round on slow links; the others go on with a replacement. */
static void lose_one_and_go_on(struct member *m, const char *on_death)
{
    say("REFRAIN_FAKENCCL_ON_DEATH", on_death);
    say("REFRAIN_FAKENCCL_LINK", "100,200");
    member_open(m, 2, 8 * MEGABYTE);
    member_join_together(m, 1);
    uint8_t *mine = member_memory(m, 8 * MEGABYTE);
    if (m->self == 1) member_mark(m, 0);
    for (bool lost = false; !lost;) {
        struct fabric_event event;
        int next = (m->self + 1) % m->count;
        while (fabric_can_post(m->fabric, next)) {
            status_t status = member_try_post(m, next, 0, mine, 8 * MEGABYTE);
            CHECK(m, status == STATUS_OK || status == STATUS_PEER_LOST);
        }
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            if (event.kind == FABRIC_LOST) CHECK(m, event.peer == 1);
            lost = lost || event.kind == FABRIC_LOST;
            fabric_release(m->fabric, &event);
        }
        if (!lost) CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
    member_mark(m, 5 + m->self);
    member_await(m, 7 - m->self); /* who left earlier would be the one that is lost there */
    int64_t before = clock_now_ns();
    fabric_leave(m->fabric);
    atomic_store(&m->board->moments[24 + m->self], clock_now_ns() - before);
    member_fill(m, mine, 8 * MEGABYTE, 1); /* it is ours again */
    member_mark(m, 2 + m->self / 2);
    member_await(m, 4);
    member_join(m, 2);
    member_go_round(m, 3, MEGABYTE);
    member_part_together(m);
}

static void lose_one_silently(struct member *m)
{
    lose_one_and_go_on(m, "hang");
}

static void lose_one_with_an_error(struct member *m)
{
    lose_one_and_go_on(m, "error");
}

static void replace_one(struct member *m)
{
    member_open(m, 2, 8 * MEGABYTE);
    member_mark(m, 4);
    member_join(m, 2);
    member_go_round(m, 3, MEGABYTE);
    member_part_together(m);
}

/* Making member 0's communicators fails in the first epoch; nobody stays behind in it, and the second works. */
static void fail_to_connect(struct member *m, const char *fault, const char *words)
{
    if (m->self == 0) say("REFRAIN_FAKENCCL_FAIL", fault);
    member_open(m, 2, MEGABYTE);
    int64_t before = clock_now_ns();
    status_t status = member_try_join(m, 1, m->self == 0 ? 5000 : 1000);
    CHECK(m, clock_now_ns() - before < 3 * SECOND_NS);
    /* The other may not have heard of member 0 before that gave up. */
    CHECK(m, status == STATUS_PEER_LOST || (m->self == 1 && status == STATUS_DEADLINE));
    if (m->self == 0) CHECK(m, strstr(m->error.text, words) != NULL);
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    member_join(m, 2);
    member_go_round(m, 2, MEGABYTE);
    member_part_together(m);
}

static void fail_to_name(struct member *m)
{
    fail_to_connect(m, "ncclGetUniqueId:1", "no NCCL id: unhandled system error");
}

static void fail_to_begin(struct member *m)
{
    fail_to_connect(m, "ncclCommInitRankConfig:1", "no NCCL communicator with it: unhandled cuda error");
}

static void fail_while_connecting(struct member *m)
{
    fail_to_connect(m, "init:1", "NCCL failed while connecting to it: unhandled system error");
}

static void fail_warming(struct member *m)
{
    fail_to_connect(m, "ncclSend:1", "NCCL could not send to it: internal error");
}

/* A peer whose NCCL never connects, though its process is well: the join ends by its deadline and says so. */
static void connect_for_ever(struct member *m)
{
    if (m->self == 0) say("REFRAIN_FAKENCCL_FAIL", "operation:1:hang");
    member_open(m, 2, MEGABYTE);
    status_t status = member_try_join(m, 1, 700);
    if (m->self == 0) {
        CHECK(m, status == STATUS_DEADLINE);
        CHECK(m, strstr(m->error.text, "NCCL did not connect this member with member 1 in time") != NULL);
    } else if (status == STATUS_OK) { /* as far as it can see */
        CHECK(m, member_next_lost(m).peer == 0);
        fabric_leave(m->fabric);
    }
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    member_join(m, 2);
    member_part_together(m);
}

/* In mid-epoch something of member 0 fails; both learn of it, and the next epoch works. */
static void fail_in_the_middle(struct member *m, const char *name, const char *fault, const char *words)
{
    if (m->self == 0) say(name, fault);
    m->transfer_ms = m->self == 0 ? 400 : 5000;
    member_open(m, 2, MEGABYTE);
    member_join_together(m, 1);
    uint8_t *mine = member_memory(m, MEGABYTE);
    int64_t before = clock_now_ns();
    bool refused = false;
    for (bool lost = false; !lost && !refused;) {
        struct fabric_event event;
        while (!refused && fabric_can_post(m->fabric, 1 - m->self)) {
            status_t status = member_try_post(m, 1 - m->self, 0, mine, MEGABYTE);
            CHECK(m, status == STATUS_OK || status == STATUS_PEER_LOST || status == STATUS_INTERNAL);
            refused = status == STATUS_INTERNAL; /* the payload's stream could not be marked */
        }
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            lost = lost || event.kind == FABRIC_LOST;
            fabric_release(m->fabric, &event);
        }
        if (!lost && !refused)
            CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
    CHECK(m, clock_now_ns() - before < 4 * SECOND_NS);
    if (m->self == 0) CHECK(m, strstr(refused ? m->error.text : member_reason(m), words) != NULL);
    fabric_leave(m->fabric);
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    if (strchr(fault, '+')) return; /* there is no next time */
    member_join(m, 2);
    member_go_round(m, 2, MEGABYTE);
    member_part_together(m);
}

static void fail_a_send(struct member *m)
{
    fail_in_the_middle(m, "REFRAIN_FAKENCCL_FAIL", "ncclSend:4", "NCCL could not send to it: internal error");
}

static void fail_a_receive(struct member *m)
{
    fail_in_the_middle(m, "REFRAIN_FAKENCCL_FAIL", "ncclRecv:4",
                       "NCCL could not receive from it: internal error");
}

static void fail_an_operation(struct member *m)
{
    fail_in_the_middle(m, "REFRAIN_FAKENCCL_FAIL", "operation:6", "it: unhandled system error");
}

static void hang_an_operation(struct member *m)
{
    fail_in_the_middle(m, "REFRAIN_FAKENCCL_FAIL", "operation:6:hang", "over NCCL took longer than it may");
}

static void fail_an_event(struct member *m)
{
    fail_in_the_middle(m, "REFRAIN_FAKEGPU_FAIL", "cudaEventRecord:9+", ": ");
}

/* Member 0 cannot give its communicators up: it says so and ends. The other goes on with a replacement. */
static void hang(struct member *m, const char *fault)
{
    if (m->self == 0) {
        say("REFRAIN_FAKENCCL_FAIL", fault);
        CHECK(m, freopen("/dev/null", "w", stderr) != NULL); /* the sentence it ends with */
    }
    m->abort_ms = 600;
    m->transfer_ms = 500;
    member_open(m, 2, MEGABYTE);
    member_join_together(m, 1);
    uint8_t *mine = member_memory(m, MEGABYTE);
    bool lost = false;
    while (!lost) {
        struct fabric_event event;
        if (fabric_can_post(m->fabric, 1 - m->self)) member_try_post(m, 1 - m->self, 0, mine, MEGABYTE);
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            lost = lost || event.kind == FABRIC_LOST;
            if (event.kind == FABRIC_RECEIVED && event.peer == 0) member_mark(m, 0);
            fabric_release(m->fabric, &event);
        }
        group_pause_ms(1);
        if (m->self == 0 && strstr(fault, "Abort") && atomic_load(&m->board->marks[0])) break;
    }
    fabric_leave(m->fabric);
    CHECK(m, m->self == 1); /* the other does not come back from that */
    member_mark(m, 2);
    member_await(m, 4);
    member_join(m, 2);
    member_go_round(m, 3, MEGABYTE);
    member_part_together(m);
}

static void hang_in_an_abort(struct member *m)
{
    hang(m, "ncclCommAbort:1:hang");
}

static void hang_in_a_call(struct member *m)
{
    hang(m, "ncclSend:4:hang");
}

/* Member 1 is killed by the stand-in in the middle of its fifth operation. */
static void die_in_an_operation(struct member *m)
{
    if (m->self == 1) say("REFRAIN_FAKENCCL_DIE_AT", "5");
    member_open(m, 2, 4 * MEGABYTE);
    member_join_together(m, 1);
    uint8_t *mine = member_memory(m, 4 * MEGABYTE);
    for (;;) {
        struct fabric_event event;
        while (fabric_can_post(m->fabric, 1 - m->self))
            member_try_post(m, 1 - m->self, 0, mine, 4 * MEGABYTE);
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
        if (fabric_next(m->fabric, &event) != STATUS_OK) continue;
        if (event.kind == FABRIC_LOST) break;
        fabric_release(m->fabric, &event);
    }
    fabric_leave(m->fabric);
    fabric_close(m->fabric);
}

static void *abort_soon(void *fabric)
{
    group_pause_ms(30);
    fabric_abort(fabric);
    return NULL;
}

/* While 32 MiB creep over a slow link in both directions, one owner gives up. */
static void abort_in_mid_transfer(struct member *m)
{
    say("REFRAIN_FAKENCCL_LINK", "0,10");
    uint8_t *mine = member_memory(m, LARGE_BYTES);
    member_open(m, 2, LARGE_BYTES);
    member_join_together(m, 1);
    member_post(m, 1 - m->self, 0, mine, LARGE_BYTES);
    member_mark(m, 2 + m->self);
    member_await(m, 3 - m->self);
    pthread_t thread;
    if (m->self == 0) CHECK(m, pthread_create(&thread, NULL, abort_soon, m->fabric) == 0);
    int64_t before = clock_now_ns();
    CHECK(m, member_next(m).kind == (m->self == 0 ? FABRIC_ABORTED : FABRIC_LOST));
    if (m->self == 0) pthread_join(thread, NULL);
    fabric_leave(m->fabric);
    CHECK(m, clock_now_ns() - before < 2 * SECOND_NS); /* the payload alone takes 3.3 s */
    member_fill(m, mine, LARGE_BYTES, 1);
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    member_join(m, 2);
    member_part_together(m);
}

/* The receiver's GPU is full. */
static void run_out_of_memory(struct member *m)
{
    if (m->self == 1) say("REFRAIN_FAKEGPU_MEMORY_MB", "4");
    member_open(m, 2, 8 * MEGABYTE);
    member_join(m, 1);
    if (m->self == 0) member_post(m, 1, 0, member_memory(m, 8 * MEGABYTE), 8 * MEGABYTE);
    CHECK(m, member_next_lost(m).peer == 1 - m->self);
    if (m->self == 1) CHECK(m, strstr(member_reason(m), "no memory is left on this GPU") != NULL);
    fabric_leave(m->fabric);
    member_join(m, 2);
    member_part_together(m);
}

/* Member 1 was started with another fabric. */
static void mix_fabrics(struct member *m)
{
    if (m->self == 1) m->nccl = false;
    member_open(m, 2, MEGABYTE);
    status_t status = member_try_join(m, 1, 3000);
    if (m->self == 1 && status == STATUS_OK) { /* it does not wait for edges */
        uint8_t byte = 0;
        struct ticket ticket = {
            .kind = TICKET_HOP, .dtype = TICKET_F32, .flags = TICKET_ON_DEVICE, .bytes = 1};
        CHECK(m, fabric_post(m->fabric, 0, &ticket, &byte, 0, &m->error) == STATUS_INVALID);
        CHECK(m, strstr(m->error.text, "needs the nccl fabric") != NULL);
        CHECK(m, member_next_lost(m).peer == 0);
        CHECK(m, strstr(member_reason(m), "its fabric is nccl, this one is not") != NULL);
    } else {
        CHECK(m, status == STATUS_PEER_LOST);
    }
    fabric_close(m->fabric);
}

static void lose_in_mid_transfer(scenario run, int number)
{
    struct group *group = group_start("nccl", 3, "", run);
    group_await(group, 0);
    group_pause_ms(20);
    group_signal(group, 1, number);
    group_await(group, 2);
    group_await(group, 3);
    group_add(group, 1, replace_one);
    for (int i = 0; i < 3; i++) group_expect(group, i);
    for (int i = 0; i < 3; i += 2)
        print_message("             member %d gave its communicators up in %.1f ms\n", i,
                      (double)atomic_load(&group_board(group)->moments[24 + i]) / 1e6);
    group_end(group);
}

static void after_a_kill_that_nccl_does_not_notice_survivors_go_on_with_a_replacement(void **state)
{
    lose_in_mid_transfer(lose_one_silently, SIGKILL);
}

static void after_a_kill_that_nccl_reports_survivors_go_on_with_a_replacement(void **state)
{
    lose_in_mid_transfer(lose_one_with_an_error, SIGKILL);
}

static void after_a_stop_in_mid_transfer_survivors_go_on_with_a_replacement(void **state)
{
    lose_in_mid_transfer(lose_one_silently, SIGSTOP);
}

static void an_id_that_cannot_be_made_fails_the_epoch_alone(void **state)
{
    group_all_well("nccl", 2, "", fail_to_name);
}

static void a_communicator_that_cannot_be_begun_fails_the_epoch_alone(void **state)
{
    group_all_well("nccl", 2, "", fail_to_begin);
}

static void a_communicator_that_fails_later_fails_the_epoch_alone(void **state)
{
    group_all_well("nccl", 2, "", fail_while_connecting);
}

static void a_first_exchange_that_fails_fails_the_epoch_alone(void **state)
{
    group_all_well("nccl", 2, "", fail_warming);
}

static void a_first_exchange_that_hangs_ends_the_join_by_its_deadline(void **state)
{
    group_all_well("nccl", 2, "", connect_for_ever);
}

static void a_send_that_fails_ends_the_epoch_and_says_why(void **state)
{
    group_all_well("nccl", 2, "", fail_a_send);
}

static void a_receive_that_fails_ends_the_epoch_and_says_why(void **state)
{
    group_all_well("nccl", 2, "", fail_a_receive);
}

static void an_operation_that_fails_later_ends_the_epoch_and_says_why(void **state)
{
    group_all_well("nccl", 2, "", fail_an_operation);
}

static void an_operation_that_hangs_ends_the_epoch_by_its_deadline(void **state)
{
    group_all_well("nccl", 2, "", hang_an_operation);
}

static void an_event_that_cannot_be_recorded_ends_the_epoch(void **state)
{
    group_all_well("nccl", 2, "", fail_an_event);
}

static void end_and_replace(scenario run)
{
    struct group *group = group_start("nccl", 2, "", run);
    group_expect_exit(group, 0, LANE_EXIT);
    group_await(group, 2);
    group_add(group, 0, replace_one);
    for (int i = 0; i < 2; i++) group_expect(group, i);
    group_end(group);
}

static void who_cannot_abort_ends_and_the_others_go_on(void **state)
{
    end_and_replace(hang_in_an_abort);
}

static void who_hangs_in_a_call_ends_and_the_others_go_on(void **state)
{
    end_and_replace(hang_in_a_call);
}

static void a_member_that_dies_in_an_operation_is_lost(void **state)
{
    struct group *group = group_start("nccl", 2, "", die_in_an_operation);
    group_expect(group, 0);
    group_end(group);
}

static void an_abort_in_mid_transfer_gives_the_payload_back_at_once(void **state)
{
    group_all_well("nccl", 2, "", abort_in_mid_transfer);
}

static void a_payload_that_finds_no_memory_ends_the_epoch_and_says_so(void **state)
{
    group_all_well("nccl", 2, "", run_out_of_memory);
}

static void members_with_different_fabrics_are_told_so(void **state)
{
    group_all_well("nccl", 2, "", mix_fabrics);
}

int main(int count, char **arguments)
{
    group_find_gpu(arguments);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_a_kill_that_nccl_does_not_notice_survivors_go_on_with_a_replacement),
        cmocka_unit_test(after_a_kill_that_nccl_reports_survivors_go_on_with_a_replacement),
        cmocka_unit_test(after_a_stop_in_mid_transfer_survivors_go_on_with_a_replacement),
        cmocka_unit_test(an_id_that_cannot_be_made_fails_the_epoch_alone),
        cmocka_unit_test(a_communicator_that_cannot_be_begun_fails_the_epoch_alone),
        cmocka_unit_test(a_communicator_that_fails_later_fails_the_epoch_alone),
        cmocka_unit_test(a_first_exchange_that_fails_fails_the_epoch_alone),
        cmocka_unit_test(a_first_exchange_that_hangs_ends_the_join_by_its_deadline),
        cmocka_unit_test(a_send_that_fails_ends_the_epoch_and_says_why),
        cmocka_unit_test(a_receive_that_fails_ends_the_epoch_and_says_why),
        cmocka_unit_test(an_operation_that_fails_later_ends_the_epoch_and_says_why),
        cmocka_unit_test(an_operation_that_hangs_ends_the_epoch_by_its_deadline),
        cmocka_unit_test(an_event_that_cannot_be_recorded_ends_the_epoch),
        cmocka_unit_test(who_cannot_abort_ends_and_the_others_go_on),
        cmocka_unit_test(who_hangs_in_a_call_ends_and_the_others_go_on),
        cmocka_unit_test(a_member_that_dies_in_an_operation_is_lost),
        cmocka_unit_test(an_abort_in_mid_transfer_gives_the_payload_back_at_once),
        cmocka_unit_test(a_payload_that_finds_no_memory_ends_the_epoch_and_says_so),
        cmocka_unit_test(members_with_different_fabrics_are_told_so),
    };
    const struct CMUnitTest few[] = {
        cmocka_unit_test(after_a_kill_that_nccl_does_not_notice_survivors_go_on_with_a_replacement),
        cmocka_unit_test(a_communicator_that_fails_later_fails_the_epoch_alone),
        cmocka_unit_test(a_send_that_fails_ends_the_epoch_and_says_why),
        cmocka_unit_test(an_operation_that_hangs_ends_the_epoch_by_its_deadline),
        cmocka_unit_test(who_cannot_abort_ends_and_the_others_go_on),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = group_tests_all() || count > 1 ? cmocka_run_group_tests(tests, NULL, NULL)
                                                : cmocka_run_group_tests(few, NULL, NULL);
    group_end_unfinished();
    return failed;
}
