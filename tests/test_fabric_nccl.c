/*
 * test_fabric_nccl.c - what the fabric promises about device memory and NCCL alone; what it shares with the others is
 * in test_fabric.c, which runs over nccl too.
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

static void pause_ms(int64_t ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MILLISECOND_NS};
    nanosleep(&pause, NULL);
}

static void say(const char *name, const char *value)
{
    setenv(name, value, 1);
}

/* What ended the epoch, in words. */
static const char *reason(struct member *m)
{
    struct fabric_event event;
    while (fabric_next(m->fabric, &event) == STATUS_OK) fabric_release(m->fabric, &event);
    CHECK(m, fabric_wait(m->fabric, CLOCK_NEVER, &m->error) == STATUS_PEER_LOST);
    return m->error.text;
}

/* Each member sends the next one some payloads, one after the other, and looks at those it gets. */
static void go_round(struct member *m, uint64_t rounds, uint64_t bytes)
{
    uint8_t *mine = member_memory(m, bytes);
    int next = (m->self + 1) % m->count, before = (m->self + m->count - 1) % m->count;
    for (uint64_t posted = 0, sent = 0, received = 0; sent < rounds || received < rounds;) {
        if (posted == sent && posted < rounds && fabric_can_post(m->fabric, next)) {
            member_fill(m, mine, bytes, posted);
            member_post(m, next, posted++, mine, bytes);
        }
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
        struct fabric_event event;
        if (fabric_next(m->fabric, &event) != STATUS_OK) continue;
        CHECK(m, event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED);
        sent += event.kind == FABRIC_SENT;
        if (event.kind == FABRIC_RECEIVED) CHECK(m, member_is_filled(m, &event, before, received++));
        fabric_release(m->fabric, &event);
    }
}

/* ----------------------------------------------------------------------------------------- memory and order */

/* Payloads in host and in device memory, and none, to the same member. */
static void mix_memories(struct member *m)
{
    enum { COUNT = 60, BYTES = 300000 };
    static uint8_t here[BYTES];
    uint8_t *there = member_memory(m, BYTES);
    member_open(m, 6, BYTES);
    member_join(m, 1);
    if (m->self == 0) {
        member_fill(m, there, BYTES, 5);
        memcpy(here, member_read(m, there, BYTES), BYTES);
        for (uint64_t i = 0, sent = 0; sent < COUNT;) {
            uint64_t bytes = i % 5 == 4 ? 0 : i * 4001 % BYTES + 1;
            if (i < COUNT && fabric_can_post(m->fabric, 1)) {
                member_post(m, 1, i, i % 2 ? there : here, bytes);
                i++;
                continue;
            }
            CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
            struct fabric_event event;
            while (fabric_next(m->fabric, &event) == STATUS_OK) sent += event.kind == FABRIC_SENT;
        }
    } else {
        for (uint64_t i = 0; i < COUNT; i++) {
            struct fabric_event event = member_next_received(m);
            bool device = event.ticket.flags & TICKET_ON_DEVICE;
            CHECK(m, event.ticket.sequence == i);
            CHECK(m, device == (i % 2 == 1 && i % 5 != 4));
            CHECK(m, member_is_filled(m, &event, 0, 5));
            fabric_release(m->fabric, &event);
        }
    }
    member_part_together(m);
}

static void sleep_long(void *unused)
{
    (void)unused;
    pause_ms(80);
}

/* The payload is still being computed when it is posted, and still being read when it is released. */
static void post_and_release_early(struct member *m)
{
    enum { BYTES = 1 << 20 };
    static uint8_t here[BYTES], copy[BYTES];
    uint8_t *there = member_memory(m, BYTES);
    member_open(m, 1, BYTES);
    member_join(m, 1);
    if (m->self == 0) {
        for (uint64_t i = 1; i <= 2; i++) {
            memset(here, (int)i, BYTES);
            gpu_memory_later(sleep_long, NULL);
            gpu_memory_put_later(there, here, BYTES);
            while (!fabric_can_post(m->fabric, 1))
                CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
            if (i == 2) CHECK(m, atomic_load(&m->board->marks[2])); /* the credit came when it was read */
            member_post(m, 1, i, there, BYTES);
            CHECK(m, member_next(m).kind == FABRIC_SENT);
        }
    } else {
        struct fabric_event event = member_next_received(m);
        gpu_memory_later(sleep_long, NULL);
        gpu_memory_get_later(copy, event.payload, BYTES);
        fabric_release(m->fabric, &event);
        gpu_memory_wait();
        member_mark(m, 2);
        event = member_next_received(m);
        for (int i = 0; i < BYTES; i++) CHECK(m, copy[i] == 1);
        const uint8_t *second = member_payload(m, &event);
        for (int i = 0; i < BYTES; i++) CHECK(m, second[i] == 2);
        fabric_release(m->fabric, &event);
    }
    member_part_together(m);
}

struct flood {
    uint64_t posted[GROUP_MEMBERS], sent[GROUP_MEMBERS], received[GROUP_MEMBERS];
};

/* Everybody to everybody, as much as credits allow, sizes from one byte to several buffers of NCCL. */
static void flood(struct member *m, uint64_t messages)
{
    static const uint64_t sizes[] = {1, 3 * MEGABYTE, 70000, 1500000, 256, 2 * MEGABYTE + 1};
    struct flood f = {0};
    uint8_t *mine = member_memory(m, 3 * MEGABYTE);
    member_fill(m, mine, 3 * MEGABYTE, 77);
    for (uint64_t left = 2 * messages * (uint64_t)(m->count - 1); left > 0;) {
        struct fabric_event event;
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            CHECK(m, event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED);
            left--;
            if (event.kind == FABRIC_SENT) continue;
            CHECK(m, event.ticket.sequence == f.received[event.peer]++);
            CHECK(m, member_is_filled(m, &event, event.peer, 77));
            fabric_release(m->fabric, &event);
        }
        for (int peer = 0; peer < m->count; peer++) {
            if (peer == m->self) continue;
            while (f.posted[peer] < messages && fabric_can_post(m->fabric, peer)) {
                uint64_t i = f.posted[peer]++;
                member_post(m, peer, i, mine, sizes[(i + (uint64_t)m->self) % 6]);
            }
        }
        if (left > 0)
            CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
}

/* A device that runs transfers one after the other in the order of the calls: any contradiction of orders is a
 * deadlock there. */
static void flood_serial_devices(struct member *m)
{
    say("REFRAIN_FAKENCCL_SERIAL", "1");
    member_open(m, 4, 3 * MEGABYTE);
    member_join(m, 1);
    flood(m, 12);
    member_part_together(m);
}

static void flood_slow_calls(struct member *m)
{
    say("REFRAIN_FAKENCCL_LATE_US", "1500");
    say("REFRAIN_FAKENCCL_LINK", "200,2000");
    member_open(m, 4, 3 * MEGABYTE);
    member_join(m, 1);
    flood(m, 4);
    member_part_together(m);
}

/* With device memory for the largest payload and little more: what was for smaller ones is given back. */
static void grow(struct member *m)
{
    say("REFRAIN_FAKEGPU_MEMORY_MB", "56");
    member_open(m, 2, 32 * MEGABYTE);
    member_join(m, 1);
    for (uint64_t size = 4; size <= 24; size += 4) {
        if (m->self == 0) {
            uint8_t *mine = gpu_memory_new(size * MEGABYTE);
            struct ticket ticket = {
                .kind = TICKET_HOP, .dtype = TICKET_F32, .flags = TICKET_ON_DEVICE, .bytes = size * MEGABYTE};
            CHECK(m, fabric_post(m->fabric, 1, &ticket, mine, 0, &m->error) == STATUS_OK);
            CHECK(m, member_next(m).kind == FABRIC_SENT);
            gpu_memory_free(mine);
        } else {
            struct fabric_event event = member_next_received(m);
            CHECK(m, event.ticket.bytes == size * MEGABYTE);
            fabric_release(m->fabric, &event);
        }
    }
    member_part_together(m);
}

/* Closing gives back whatever the device was asked for; the stand-in tells at exit what was not. */
static void give_everything_back(struct member *m)
{
    say("REFRAIN_FAKEGPU_LINT", "leaks,default-stream");
    uint8_t *mine = gpu_memory_new(MEGABYTE);
    member_open(m, 2, MEGABYTE);
    for (uint64_t epoch = 1; epoch <= 2; epoch++) {
        member_join(m, epoch);
        struct ticket ticket = {
            .kind = TICKET_HOP, .dtype = TICKET_F32, .flags = TICKET_ON_DEVICE, .bytes = MEGABYTE};
        CHECK(m, fabric_post(m->fabric, 1 - m->self, &ticket, mine, 0, &m->error) == STATUS_OK);
        CHECK(m, fabric_post(m->fabric, 1 - m->self, &ticket, mine, 0, &m->error) == STATUS_OK);
        struct fabric_event event = member_next_received(m);
        fabric_release(m->fabric, &event);
        member_mark(m, 2 * (int)epoch + m->self);
        member_await(m, 2 * (int)epoch + 1 - m->self);
        fabric_leave(m->fabric);
    }
    fabric_close(m->fabric);
    gpu_memory_free(mine);
    gpu_memory_close();
    atomic_store(&m->board->results[m->self], 1);
    exit(0);
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
    go_round(m, 3, MEGABYTE);
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
    go_round(m, 3, MEGABYTE);
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
    go_round(m, 2, MEGABYTE);
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
    if (m->self == 0) CHECK(m, strstr(refused ? m->error.text : reason(m), words) != NULL);
    fabric_leave(m->fabric);
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    if (strchr(fault, '+')) return; /* there is no next time */
    member_join(m, 2);
    go_round(m, 2, MEGABYTE);
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
        pause_ms(1);
        if (m->self == 0 && strstr(fault, "Abort") && atomic_load(&m->board->marks[0])) break;
    }
    fabric_leave(m->fabric);
    CHECK(m, m->self == 1); /* the other does not come back from that */
    member_mark(m, 2);
    member_await(m, 4);
    member_join(m, 2);
    go_round(m, 3, MEGABYTE);
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
    pause_ms(30);
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
    if (m->self == 1) CHECK(m, strstr(reason(m), "no memory is left on this GPU") != NULL);
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
        CHECK(m, strstr(reason(m), "its fabric is nccl, this one is not") != NULL);
    } else {
        CHECK(m, status == STATUS_PEER_LOST);
    }
    fabric_close(m->fabric);
}

/* ------------------------------------------------------------------------------------------------ the tests */

static void all_well(int count, scenario run)
{
    struct group *group = group_start("nccl", count, "", run);
    for (int i = 0; i < count; i++) group_expect(group, i);
    group_end(group);
}

static void payloads_in_host_and_device_memory_keep_one_order(void **state)
{
    all_well(2, mix_memories);
}

static void a_payload_is_read_when_it_is_made_and_overwritten_when_it_is_read(void **state)
{
    all_well(2, post_and_release_early);
}

static void devices_that_run_transfers_one_by_one_do_not_wait_in_circles(void **state)
{
    all_well(3, flood_serial_devices);
}

static void four_serial_devices_do_not_either(void **state)
{
    all_well(4, flood_serial_devices);
}

static void nothing_is_issued_while_a_call_is_under_way(void **state)
{
    all_well(3, flood_slow_calls);
}

static void memory_for_smaller_payloads_makes_room_for_larger_ones(void **state)
{
    all_well(2, grow);
}

static void closing_gives_back_all_that_the_device_gave(void **state)
{
    struct group *group = group_start("nccl", 2, "", give_everything_back);
    group_expect_exit(group, 0, 0);
    group_expect_exit(group, 1, 0);
    group_end(group);
}

static void lose_in_mid_transfer(scenario run, int number)
{
    struct group *group = group_start("nccl", 3, "", run);
    group_await(group, 0);
    pause_ms(20);
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
    all_well(2, fail_to_name);
}

static void a_communicator_that_cannot_be_begun_fails_the_epoch_alone(void **state)
{
    all_well(2, fail_to_begin);
}

static void a_communicator_that_fails_later_fails_the_epoch_alone(void **state)
{
    all_well(2, fail_while_connecting);
}

static void a_first_exchange_that_fails_fails_the_epoch_alone(void **state)
{
    all_well(2, fail_warming);
}

static void a_first_exchange_that_hangs_ends_the_join_by_its_deadline(void **state)
{
    all_well(2, connect_for_ever);
}

static void a_send_that_fails_ends_the_epoch_and_says_why(void **state)
{
    all_well(2, fail_a_send);
}

static void a_receive_that_fails_ends_the_epoch_and_says_why(void **state)
{
    all_well(2, fail_a_receive);
}

static void an_operation_that_fails_later_ends_the_epoch_and_says_why(void **state)
{
    all_well(2, fail_an_operation);
}

static void an_operation_that_hangs_ends_the_epoch_by_its_deadline(void **state)
{
    all_well(2, hang_an_operation);
}

static void an_event_that_cannot_be_recorded_ends_the_epoch(void **state)
{
    all_well(2, fail_an_event);
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
    all_well(2, abort_in_mid_transfer);
}

static void a_payload_that_finds_no_memory_ends_the_epoch_and_says_so(void **state)
{
    all_well(2, run_out_of_memory);
}

static void members_with_different_fabrics_are_told_so(void **state)
{
    all_well(2, mix_fabrics);
}

/* What is wrong with this machine, in one sentence; each in a process of its own, as libraries stay. */
static void machines_that_cannot_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *name, *value;
        int device;
        const char *words;
    } cases[] = {
        {"REFRAIN_FAKENCCL_VERSION", "21602", 0, "NCCL 2.16 is installed, 2.19 or newer is needed"},
        {"REFRAIN_FAKEGPU_DEVICES", "0", 0, "no GPU can be used"},
        {"REFRAIN_FAKEGPU_DEVICES", "2", 2, "GPU 2 was asked for, this process sees 2"},
        {"REFRAIN_NCCL_ORDERS", "/no/such/directory", 0, "/no/such/directory"},
        {"REFRAIN_FAKEGPU_FAIL", "cudaSetDevice:1", 0, "GPU 0 cannot be used"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct fabric *fabric;
            struct error error = {0};
            struct fabric_config config = {.kind = "nccl",
                                           .bind = "tcp://127.0.0.1:*",
                                           .credits = 1,
                                           .max_bytes = 1,
                                           .device = cases[i].device};
            setenv(cases[i].name, cases[i].value, 1);
            bool refused = fabric_open(&config, &fabric, &error) != STATUS_OK;
            bool said = refused && strstr(error.text, cases[i].words);
            if (!said) fprintf(stderr, "case %zu: %s\n", i, error.text);
            _exit(said ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

int main(int count, char **arguments)
{
    group_find_gpu(arguments);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payloads_in_host_and_device_memory_keep_one_order),
        cmocka_unit_test(a_payload_is_read_when_it_is_made_and_overwritten_when_it_is_read),
        cmocka_unit_test(devices_that_run_transfers_one_by_one_do_not_wait_in_circles),
        cmocka_unit_test(four_serial_devices_do_not_either),
        cmocka_unit_test(nothing_is_issued_while_a_call_is_under_way),
        cmocka_unit_test(memory_for_smaller_payloads_makes_room_for_larger_ones),
        cmocka_unit_test(closing_gives_back_all_that_the_device_gave),
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
        cmocka_unit_test(machines_that_cannot_are_refused_with_a_sentence),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_end_unfinished();
    return failed;
}
