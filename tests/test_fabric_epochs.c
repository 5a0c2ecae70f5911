/*
 * test_fabric_epochs.c - how an epoch of the fabric ends, and the next one begins: members killed, stopped, gone; aborts;
 * joins that somebody is missing from. Over real processes, as test_fabric.c, and over every transport.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"

/* ------------------------------------------------------------------------------------------------- losses */

/* Why, as the fabric says it: a connection that ended is noticed at once, silence by its own limit (SILENCE_MS). */
static void expect_lost(struct member *m, const char *why)
{
    CHECK(m, member_try_post(m, 1, 0, NULL, 0) == STATUS_PEER_LOST);
    CHECK(m, strstr(m->error.text, "member 1 was lost: ") && strstr(m->error.text, why));
}

/* Member 1 dies or stops while nothing is sent; marks 0: everybody is in, 1: it happened. */
static void watch_idle_peer(struct member *m, const char *why)
{
    member_open(m, 4, 1000);
    member_join_together(m, 1);
    if (m->self == 1) {
        member_mark(m, 0);
        for (;;) pause();
    }
    struct fabric_event event = member_next_lost(m);
    int64_t noticed = clock_now_ns();
    member_await(m, 1);
    CHECK(m, event.peer == 1);
    atomic_store(&m->board->moments[24 + m->self], noticed - atomic_load(&m->board->moments[1]));
    /* The epoch is over for good. */
    CHECK(m, member_try_post(m, 2 - m->self, 0, NULL, 0) == STATUS_PEER_LOST);
    CHECK(m, !fabric_can_post(m->fabric, 2 - m->self));
    expect_lost(m, why);
    /* Who left earlier would be the one that is lost here. */
    member_mark(m, 5 + m->self);
    member_await(m, 7 - m->self);
}

#define ENDED  "its connection ended"
#define SILENT "it was silent for"

static void lose_killed(struct member *m)
{
    watch_idle_peer(m, m->mpi ? SILENT : ENDED);
    fabric_leave(m->fabric);
    fabric_close(m->fabric);
}

static void lose_stopped(struct member *m)
{
    watch_idle_peer(m, SILENT);
    fabric_leave(m->fabric);
    fabric_close(m->fabric);
}

/* Member 0 sends 32 MiB after 32 MiB to member 1, which is stopped (the test's doing) in the middle of one.
 */
static void lose_stopped_receiver(struct member *m)
{
    uint8_t *payload = member_memory(m, LARGE_BYTES);
    member_open(m, 2, LARGE_BYTES);
    member_join(m, 1);
    int received = 0;
    for (bool lost = false; !lost;) {
        if (m->self == 0 && fabric_can_post(m->fabric, 1)) member_post(m, 1, 0, payload, LARGE_BYTES);
        struct fabric_event event;
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            lost = lost || event.kind == FABRIC_LOST;
            if (event.kind == FABRIC_RECEIVED && ++received == 3) member_mark(m, 0);
            fabric_release(m->fabric, &event);
        }
        if (!lost) CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
    if (m->self == 0) expect_lost(m, SILENT);
    fabric_leave(m->fabric);
    member_fill(m, payload, LARGE_BYTES, 1); /* it is ours again */
    fabric_close(m->fabric);
}

/* The same with the sender stopped: member 1 sends, member 0 watches. */
static void lose_stopped_sender(struct member *m)
{
    const uint8_t *payload = member_memory(m, LARGE_BYTES);
    member_open(m, 2, LARGE_BYTES);
    member_join(m, 1);
    for (int received = 0;;) {
        if (m->self == 1 && fabric_can_post(m->fabric, 0)) member_post(m, 0, 0, payload, LARGE_BYTES);
        struct fabric_event event;
        while (fabric_next(m->fabric, &event) == STATUS_OK && event.kind != FABRIC_LOST) {
            if (event.kind == FABRIC_RECEIVED && ++received == 3) member_mark(m, 0);
            fabric_release(m->fabric, &event);
        }
        if (event.kind == FABRIC_LOST) break;
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
    if (m->self == 0) expect_lost(m, SILENT);
    fabric_leave(m->fabric);
    fabric_close(m->fabric);
}

/* After a loss: zmq goes on, with the survivors and a replacement; mpi says that it cannot. */
static void go_on_after_loss(struct member *m)
{
    watch_idle_peer(m, m->mpi ? SILENT : ENDED);
    fabric_leave(m->fabric);
    if (m->mpi) {
        CHECK(m, member_try_join(m, 2, 3000) == STATUS_UNSUPPORTED);
        CHECK(m, strstr(m->error.text, "relaunch") != NULL);
        fabric_close(m->fabric);
        return;
    }
    static const int survivors[] = {0, 2};
    CHECK(m, member_join_some(m, 2, survivors, 2, 5000) == STATUS_OK);
    member_post(m, m->self == 0 ? 1 : 0, 9, "ok", 2);
    struct fabric_event event;
    do event = member_next(m);
    while (event.kind != FABRIC_RECEIVED);
    CHECK(m, event.ticket.epoch == 2 && event.ticket.sequence == 9 && memcmp(event.payload, "ok", 2) == 0);
    member_mark(m, 28 + m->self); /* leaving drops what the other did not get yet */
    member_await(m, 30 - m->self);
    fabric_leave(m->fabric);
    CHECK(m, memcmp(event.payload, "ok", 2) == 0); /* held beyond its epoch */
    fabric_release(m->fabric, &event);
    member_mark(m, 2 + m->self / 2);
    member_await(m, 4); /* a replacement has told its address */
    member_join(m, 3);
    for (int peer = 0; peer < 3; peer++)
        if (peer != m->self) member_post(m, peer, 33, NULL, 0);
    for (int received = 0; received < 2;) {
        event = member_next(m);
        CHECK(m, event.kind == FABRIC_SENT || (event.kind == FABRIC_RECEIVED && event.ticket.sequence == 33));
        received += event.kind == FABRIC_RECEIVED;
        fabric_release(m->fabric, &event);
    }
    member_part_together(m);
}

static void replace_lost(struct member *m)
{
    member_open(m, 4, 1000);
    member_mark(m, 4);
    member_join(m, 3);
    for (int peer = 0; peer < 3; peer += 2) member_post(m, peer, 33, NULL, 0);
    for (int received = 0; received < 2;) {
        struct fabric_event event = member_next(m);
        CHECK(m, event.kind == FABRIC_SENT || event.ticket.sequence == 33);
        received += event.kind == FABRIC_RECEIVED;
        fabric_release(m->fabric, &event);
    }
    member_part_together(m);
}

/* A member that leaves says so: the others need not wait for its silence. */
static void notice_who_leaves(struct member *m)
{
    member_open(m, 4, 1000);
    member_join_together(m, 1);
    if (m->self == 1) {
        member_mark(m, 1);
        fabric_leave(m->fabric);
        member_await(m, 2);
        member_await(m, 3);
    } else {
        CHECK(m, member_next_lost(m).peer == 1);
        expect_lost(m, "it left the epoch");
        CHECK(m, fabric_wait(m->fabric, CLOCK_NEVER, &m->error) == STATUS_PEER_LOST);
        member_mark(m, 2 + m->self / 2);
        member_await(m, 3 - m->self / 2); /* or this one would be the next that left */
        fabric_leave(m->fabric);
    }
    /* Nothing is broken, on either transport. */
    member_join(m, 2);
    member_part_together(m);
}

/* The owner computes and never calls the fabric; the I/O thread speaks for it. */
static void compute_for_three_seconds(struct member *m)
{
    member_open(m, 4, 1000);
    member_join(m, 1);
    int64_t until = clock_now_ns() + 3 * SECOND_NS;
    volatile double x = 1;
    while (clock_now_ns() < until)
        for (int i = 0; i < 100000; i++) x = x * 1.0000001;
    struct fabric_event event;
    member_post(m, 1 - m->self, 1, "still here", 10);
    do event = member_next(m);
    while (event.kind == FABRIC_SENT);
    CHECK(m, event.kind == FABRIC_RECEIVED);
    fabric_release(m->fabric, &event);
    member_part_together(m);
}

/* ---------------------------------------------------------------------------------------- abort and waits */

static void *abort_soon(void *fabric)
{
    group_pause_ms(100);
    fabric_abort(fabric);
    return NULL;
}

static void abort_a_wait(struct member *m)
{
    member_open(m, 4, 1000);
    member_join_together(m, 1);
    if (m->self == 0) {
        pthread_t thread;
        CHECK(m, pthread_create(&thread, NULL, abort_soon, m->fabric) == 0);
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
        CHECK(m, member_next(m).kind == FABRIC_ABORTED);
        CHECK(m, fabric_wait(m->fabric, CLOCK_NEVER, &m->error) == STATUS_ABORTED);
        CHECK(m, member_try_post(m, 1, 0, NULL, 0) == STATUS_ABORTED);
        pthread_join(thread, NULL);
        fabric_abort(m->fabric); /* the second time adds nothing */
        struct fabric_event event;
        CHECK(m, fabric_next(m->fabric, &event) == STATUS_AGAIN);
        fabric_leave(m->fabric);
        fabric_abort(m->fabric); /* nor does one without an epoch */
    } else {
        CHECK(m, member_next_lost(m).peer == 0);
        member_mark(m, 2 + m->self);
        member_await(m, 5 - m->self); /* or this one would be the next that left */
        fabric_leave(m->fabric);
    }
    member_join(m, 2);
    CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 50 * MILLISECOND_NS, &m->error) == STATUS_DEADLINE);
    member_part_together(m);
}

/* Member 1 never joins: the others' join ends when its time is up, names it, and the next epoch works without
 * it. */
static void join_without_one(struct member *m)
{
    member_open(m, 4, 1000);
    if (m->self == 1) {
        member_await(m, 0);
        member_await(m, 2);
        fabric_close(m->fabric);
        return;
    }
    int64_t before = clock_now_ns();
    CHECK(m, member_try_join(m, 1, 500) == STATUS_DEADLINE);
    CHECK(m, clock_now_ns() - before >= 500 * MILLISECOND_NS);
    CHECK(m, strstr(m->error.text, "member 1 at") != NULL);
    CHECK(m, strstr(m->error.text, m->board->addresses[1]) != NULL);
    pthread_t thread;
    CHECK(m, pthread_create(&thread, NULL, abort_soon, m->fabric) == 0);
    CHECK(m, member_try_join(m, 2, 20000) == STATUS_ABORTED);
    pthread_join(thread, NULL);
    static const int present[] = {0, 2};
    CHECK(m, member_join_some(m, 2, present, 2, 1000) == STATUS_INVALID); /* used up */
    CHECK(m, member_join_some(m, 3, present, 2, 5000) == STATUS_OK);
    member_mark(m, m->self);
    member_await(m, 2 - m->self);
    fabric_close(m->fabric);
}

/* Leaves with messages half-way: their memory comes back at once, and nothing of them is seen in the next
 * epoch. */
static void leave_in_mid_transfer(struct member *m)
{
    enum { POSTED = 3 };
    uint8_t *payload = member_memory(m, LARGE_BYTES);
    member_open(m, POSTED, LARGE_BYTES);
    for (uint64_t epoch = 1; epoch <= 5; epoch++) {
        member_fill(m, payload, LARGE_BYTES, epoch);
        member_join(m, epoch);
        int mark = 2 * (int)epoch + m->self; /* no mark is used twice */
        member_mark(m, mark);
        member_await(m, mark ^ 1);
        for (int i = 0; i < POSTED; i++) {
            status_t status = member_try_post(m, 1 - m->self, epoch, payload, LARGE_BYTES);
            CHECK(m, status == STATUS_OK || status == STATUS_PEER_LOST); /* the other has left already */
        }
        /* What arrives in time is right; how much that is depends on the moment the other leaves. */
        int64_t until = clock_now_ns() + (int64_t)(epoch * 7) * MILLISECOND_NS;
        struct fabric_event event;
        while (fabric_wait(m->fabric, until, &m->error) == STATUS_OK &&
               fabric_next(m->fabric, &event) == STATUS_OK) {
            if (event.kind != FABRIC_RECEIVED) continue;
            CHECK(m, event.ticket.epoch == epoch && event.ticket.sequence == epoch);
            CHECK(m, member_is_filled(m, &event, 1 - m->self, epoch));
            fabric_release(m->fabric, &event);
        }
        fabric_leave(m->fabric);
        member_fill(m, payload, LARGE_BYTES, 0); /* it is ours again */
    }
    /* Both take part in a whole exchange at the end. */
    member_join(m, 6);
    member_post(m, 1 - m->self, 6, "end", 3);
    struct fabric_event event;
    do event = member_next(m);
    while (event.kind != FABRIC_RECEIVED);
    CHECK(m, event.ticket.sequence == 6 && memcmp(event.payload, "end", 3) == 0);
    fabric_release(m->fabric, &event);
    member_part_together(m);
}

/* ---------------------------------------------------------------------------------------------- the tests */

static const struct group_scenario scenarios[] = {
    {"lose_killed", lose_killed},
    {"lose_stopped", lose_stopped},
    {"lose_stopped_receiver", lose_stopped_receiver},
    {"lose_stopped_sender", lose_stopped_sender},
    {"go_on_after_loss", go_on_after_loss},
    {"notice_who_leaves", notice_who_leaves},
    {"compute_for_three_seconds", compute_for_three_seconds},
    {"abort_a_wait", abort_a_wait},
    {"join_without_one", join_without_one},
    {"leave_in_mid_transfer", leave_in_mid_transfer},
};

/* Something happens to member 1; the others end well. */
static void others_well(const char *kind, int count, const char *name, scenario run, int number)
{
    struct group *group = group_start(kind, count, name, run);
    group_await(group, 0);
    group_pause_ms(number == SIGSTOP ? 3 : 0); /* after a moment: in the middle of whatever it does */
    atomic_store(&group_board(group)->moments[1], clock_now_ns());
    atomic_store(&group_board(group)->marks[1], 1);
    group_signal(group, 1, number);
    for (int i = 0; i < count; i++)
        if (i != 1) group_expect(group, i);
    long long noticed_ns = atomic_load(&group_board(group)->moments[24]);
    if (noticed_ns) print_message("             noticed after %.1f ms\n", (double)noticed_ns / 1e6);
    group_end(group);
}

static void a_killed_member_is_lost_to_the_others(void **state)
{
    others_well(*state, 3, "lose_killed", lose_killed, SIGKILL);
}

static void a_stopped_member_is_lost_for_its_silence(void **state)
{
    others_well(*state, 3, "lose_stopped", lose_stopped, SIGSTOP);
}

static void a_receiver_stopped_in_mid_transfer_is_lost_for_its_silence(void **state)
{
    others_well(*state, 2, "lose_stopped_receiver", lose_stopped_receiver, SIGSTOP);
}

static void a_sender_stopped_in_mid_transfer_is_lost_for_its_silence(void **state)
{
    others_well(*state, 2, "lose_stopped_sender", lose_stopped_sender, SIGSTOP);
}

static void after_a_loss_a_newer_epoch_works_or_is_refused(void **state)
{
    struct group *group = group_start(*state, 3, "go_on_after_loss", go_on_after_loss);
    group_await(group, 0);
    atomic_store(&group_board(group)->moments[1], clock_now_ns());
    atomic_store(&group_board(group)->marks[1], 1);
    group_signal(group, 1, SIGKILL);
    if (strcmp(*state, "mpi") != 0) {
        group_await(group, 2);
        group_await(group, 3);
        group_add(group, 1, replace_lost);
        group_expect(group, 1);
    }
    group_expect(group, 0);
    group_expect(group, 2);
    group_end(group);
}

static void who_leaves_is_lost_at_once_and_can_join_again(void **state)
{
    group_all_well(*state, 3, "notice_who_leaves", notice_who_leaves);
}

static void an_owner_that_computes_is_not_lost(void **state)
{
    group_all_well(*state, 2, "compute_for_three_seconds", compute_for_three_seconds);
}

static void an_abort_wakes_the_owner_and_ends_the_epoch(void **state)
{
    group_all_well(*state, 3, "abort_a_wait", abort_a_wait);
}

static void a_join_without_a_member_fails_by_its_deadline_and_names_it(void **state)
{
    group_all_well(*state, 3, "join_without_one", join_without_one);
}

static void leaving_gives_back_memory_and_the_next_epoch_starts_clean(void **state)
{
    group_all_well(*state, 2, "leave_in_mid_transfer", leave_in_mid_transfer);
}

#define SHARED_TESTS(kind)                                                                                   \
    cmocka_unit_test_prestate(a_killed_member_is_lost_to_the_others, kind),                                  \
        cmocka_unit_test_prestate(a_stopped_member_is_lost_for_its_silence, kind),                           \
        cmocka_unit_test_prestate(a_receiver_stopped_in_mid_transfer_is_lost_for_its_silence, kind),         \
        cmocka_unit_test_prestate(a_sender_stopped_in_mid_transfer_is_lost_for_its_silence, kind),           \
        cmocka_unit_test_prestate(after_a_loss_a_newer_epoch_works_or_is_refused, kind),                     \
        cmocka_unit_test_prestate(who_leaves_is_lost_at_once_and_can_join_again, kind),                      \
        cmocka_unit_test_prestate(an_owner_that_computes_is_not_lost, kind),                                 \
        cmocka_unit_test_prestate(an_abort_wakes_the_owner_and_ends_the_epoch, kind),                        \
        cmocka_unit_test_prestate(a_join_without_a_member_fails_by_its_deadline_and_names_it, kind),         \
        cmocka_unit_test_prestate(leaving_gives_back_memory_and_the_next_epoch_starts_clean, kind)

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", tcp[] = "zmq-tcp", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest over_ipc[] = {SHARED_TESTS(ipc)};
    const struct CMUnitTest over_tcp[] = {SHARED_TESTS(tcp)};
    const struct CMUnitTest over_mpi[] = {SHARED_TESTS(mpi)};
    const struct CMUnitTest over_nccl[] = {SHARED_TESTS(nccl)};
    const struct CMUnitTest few_over_nccl[] = {
        cmocka_unit_test_prestate(after_a_loss_a_newer_epoch_works_or_is_refused, nccl),
        cmocka_unit_test_prestate(leaving_gives_back_memory_and_the_next_epoch_starts_clean, nccl),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = 0;
    failed += GROUP_RUN(ipc, "over zmq, ipc", over_ipc);
    failed += GROUP_RUN(tcp, "over zmq, tcp", over_tcp);
    failed += GROUP_RUN(mpi, "over mpi", over_mpi);
    failed += group_tests_all() ? GROUP_RUN(nccl, "over nccl", over_nccl)
                                : GROUP_RUN(nccl, "over nccl", few_over_nccl);
    group_end_unfinished();
    return failed;
}
