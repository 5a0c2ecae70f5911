/*
 * test_fabric_yields.c - messages that yield (TICKET_YIELDS), over real processes and every transport: both orders are kept, whatever
 * passes whatever, and another message finds no more than FABRIC_YIELDING_BYTES of them before it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "cluster/fabric_core.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"

enum { MEMBERS = 3, MESSAGES = 200, LARGEST = 900000, CREDITS = 64 };
enum { MARK_SENT, MARK_DONE };

static uint64_t size_of(uint64_t number)
{
    static const uint64_t sizes[] = {0, 1, 600000, 2048, 2049, 70001, 262144, 3, 262145, LARGEST, 100};
    return sizes[number % (sizeof sizes / sizeof *sizes)];
}

/* `step` tells that of a message: each order counts by itself. */
static status_t post(struct member *m, int peer, bool yields, uint64_t number, const uint8_t *bytes,
                     uint64_t count)
{
    struct ticket ticket = {.kind = TICKET_ITEM,
                            .flags = yields ? TICKET_YIELDS : 0,
                            .step = (uint32_t)number,
                            .bytes = count,
                            .dtype = count ? TICKET_RAW : TICKET_NO_DATA};
    return fabric_post(m->fabric, peer, &ticket, bytes, yields, &m->error);
}

/* ------------------------------------------------------------------------------------------------ both orders */

struct traffic {
    uint8_t *bytes[MEMBERS][ORDERS]; /* of what members send */
    uint64_t posted[MEMBERS][ORDERS], received[MEMBERS][ORDERS];
    int sent, got;
};

static uint8_t *bytes_of(int from, int order, uint64_t count)
{
    uint8_t *made = malloc(count);
    for (uint64_t i = 0; made && i < count; i++)
        made[i] = (uint8_t)(i * 31 + i / 253 + (uint64_t)(from * 2 + order) * 77);
    return made;
}

static void take(struct member *m, struct traffic *t, struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        t->sent++;
        return;
    }
    CHECK(m, event->kind == FABRIC_RECEIVED);
    int order = event->ticket.flags & TICKET_YIELDS ? YIELDING : ORDERLY;
    uint64_t number = t->received[event->peer][order]++;
    CHECK(m, number < MESSAGES && event->ticket.step == number && event->ticket.bytes == size_of(number));
    CHECK(m, event->ticket.bytes == 0 ||
                 memcmp(event->payload, t->bytes[event->peer][order], event->ticket.bytes) == 0);
    t->got++;
    fabric_release(m->fabric, event);
}

/* Until each peer has everything, or there are no credits: then there is something to wait for. */
static void post_more(struct member *m, struct traffic *t)
{
    bool refused[MEMBERS][ORDERS] = {0};
    for (int i = 0, left = MEMBERS * ORDERS; left > 0; i = (i + 1) % (MEMBERS * ORDERS), left--) {
        int peer = i / ORDERS, order = i % ORDERS;
        uint64_t number = t->posted[peer][order];
        if (peer == m->self || number == MESSAGES || refused[peer][order]) continue;
        status_t status = post(m, peer, order == YIELDING, number, t->bytes[m->self][order], size_of(number));
        refused[peer][order] = status != STATUS_OK;
        if (status == STATUS_OK) t->posted[peer][order]++;
        if (status == STATUS_OK) left = MEMBERS * ORDERS + 1;
    }
    CHECK(m, atomic_load(&m->fabric->yielding) <= YIELDING_CHUNKS);
}

/* Everybody sends everybody messages of both orders, as fast as credits come back. */
static void mix(struct member *m)
{
    enum { ALL = (MEMBERS - 1) * ORDERS * MESSAGES };
    struct traffic t = {0};
    for (int i = 0; i < MEMBERS * ORDERS; i++)
        t.bytes[i / ORDERS][i % ORDERS] = bytes_of(i / ORDERS, i % ORDERS, LARGEST);
    member_open(m, 6, LARGEST);
    member_join_together(m, 1);
    for (int64_t limit = clock_now_ns() + 25 * SECOND_NS; t.sent < ALL || t.got < ALL;) {
        struct fabric_event event;
        post_more(m, &t);
        while (fabric_next(m->fabric, &event) == STATUS_OK) take(m, &t, &event);
        if (t.sent < ALL || t.got < ALL) CHECK(m, fabric_wait(m->fabric, limit, &m->error) == STATUS_OK);
    }
    member_part_together(m);
}

/* ------------------------------------------------------------------------------------------------- what passes */

enum { YIELDERS = 60 };

static int drain_sent(struct member *m)
{
    struct fabric_event event;
    int sent = 0;
    while (fabric_next(m->fabric, &event) == STATUS_OK) {
        CHECK(m, event.kind == FABRIC_SENT);
        sent += event.cookie == 1;
    }
    return sent;
}

/* While the receiver stands still, messages that yield fill whatever there is; then another one is posted. */
static void send_past(struct member *m)
{
    uint8_t *bytes = calloc(1, YIELDING_CHUNK);
    kill(m->board->pids[1], SIGSTOP);
    for (uint64_t i = 0; i < YIELDERS; i++) CHECK(m, post(m, 1, true, i, bytes, YIELDING_CHUNK) == STATUS_OK);
    group_pause_ms(150);
    int sent = drain_sent(m); /* into buffers of the system, where nothing can pass it any more */
    CHECK(m, sent < YIELDERS - 2 * YIELDING_CHUNKS);
    CHECK(m, post(m, 1, false, 0, bytes, 100) == STATUS_OK);
    group_pause_ms(50);
    sent += drain_sent(m);
    atomic_store(&m->board->moments[MARK_SENT], sent);
    kill(m->board->pids[1], SIGCONT);
    member_await(m, MARK_DONE);
}

static void be_passed(struct member *m)
{
    int before = -1;
    for (int yielded = 0; yielded < YIELDERS || before < 0;) {
        struct fabric_event event = member_next_received(m);
        if (event.ticket.flags & TICKET_YIELDS)
            CHECK(m, event.ticket.step == (uint32_t)yielded++);
        else
            before = yielded;
        fabric_release(m->fabric, &event);
    }
    int sent = (int)atomic_load(&m->board->moments[MARK_SENT]);
    CHECK(m, before >= 0 && before <= sent + YIELDING_CHUNKS);
    member_mark(m, MARK_DONE);
}

static void pass(struct member *m)
{
    member_open(m, CREDITS, 1 << 20);
    member_join_together(m, 1);
    if (m->self == 0)
        send_past(m);
    else
        be_passed(m);
    member_part_together(m);
}

/* ---------------------------------------------------------------------------------------------------- tests */

static void both_orders_are_kept(void **state)
{
    group_all_well(*state, MEMBERS, "mix", mix);
}

static void another_message_finds_at_most_a_chunk_of_them_before_it(void **state)
{
    group_all_well(*state, 2, "pass", pass);
}

static const struct group_scenario scenarios[] = {{"mix", mix}, {"pass", pass}};

#define SHARED_TESTS(kind)                                                                                   \
    cmocka_unit_test_prestate(both_orders_are_kept, kind),                                                   \
        cmocka_unit_test_prestate(another_message_finds_at_most_a_chunk_of_them_before_it, kind)

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", tcp[] = "zmq-tcp", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0);
    const struct CMUnitTest tests[] = {SHARED_TESTS(ipc), SHARED_TESTS(tcp), SHARED_TESTS(mpi),
                                       SHARED_TESTS(nccl)};
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_end_unfinished();
    return failed;
}
