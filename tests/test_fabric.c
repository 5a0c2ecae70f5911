/*
 * test_fabric.c - what the fabric promises, over real processes: zmq on ipc and tcp, mpi, and nccl over stand-ins
 * for its libraries (what only nccl promises: test_fabric_nccl.c; how epochs end: test_fabric_epochs.c).
 *
 * Each scenario is what one member does; the test starts a group of members with it and looks whether all ended
 * well. The same scenarios run over every transport, as far as they have a meaning there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>
#include <zmq.h>

#include "base/clock.h"
#include "cluster/envelope.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"

/* ------------------------------------------------------------------------------------- order and contents */

enum { MESSAGES = 120 };

/* Many small ones, some of several chunks, sizes at the edges of the transports' ways. */
static uint64_t size_of(uint64_t sequence)
{
    static const uint64_t sizes[] = {0, 1, 100, 2048, 2049, 4096, 70001, 1, 262144, 262145, 3, 3000000};
    return sizes[sequence % (sizeof sizes / sizeof *sizes)];
}

struct exchange {
    uint64_t sent[GROUP_MEMBERS], free_again[GROUP_MEMBERS], received[GROUP_MEMBERS];
    uint8_t *buffers[GROUP_MEMBERS]; /* one per peer: reused as soon as its SENT came */
};

/* One at a time per buffer, so that a buffer read after its SENT would show as wrong bytes at the other end.
 */
static void post_more(struct member *m, struct exchange *x)
{
    for (int peer = 0; peer < m->count; peer++) {
        if (peer == m->self || x->sent[peer] == MESSAGES || x->free_again[peer] < x->sent[peer]) continue;
        if (!fabric_can_post(m->fabric, peer)) continue;
        uint64_t sequence = x->sent[peer]++;
        member_fill(m, x->buffers[peer], size_of(sequence), sequence);
        member_post(m, peer, sequence, x->buffers[peer], size_of(sequence));
    }
}

static bool exchange_done(const struct member *m, const struct exchange *x)
{
    for (int peer = 0; peer < m->count; peer++)
        if (peer != m->self && (x->free_again[peer] < MESSAGES || x->received[peer] < MESSAGES)) return false;
    return true;
}

static void take_event(struct member *m, struct exchange *x, struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        CHECK(m, event->cookie == x->free_again[event->peer]);
        x->free_again[event->peer]++;
        return;
    }
    CHECK(m, event->kind == FABRIC_RECEIVED);
    uint64_t sequence = x->received[event->peer]++;
    CHECK(m, event->ticket.sequence == sequence && event->ticket.bytes == size_of(sequence));
    CHECK(m, event->ticket.bytes == 0 || (uintptr_t)event->payload % 16 == 0);
    CHECK(m, member_is_filled(m, event, event->peer, sequence));
    fabric_release(m->fabric, event);
}

static void exchange_with_all(struct member *m)
{
    struct exchange x = {0};
    for (int i = 0; i < m->count; i++) x.buffers[i] = member_memory(m, 3000000);
    member_open(m, 3, 3000000);
    member_join(m, 1);
    int64_t limit = clock_now_ns() + 25 * SECOND_NS;
    while (!exchange_done(m, &x)) {
        struct fabric_event event;
        while (fabric_next(m->fabric, &event) == STATUS_OK) take_event(m, &x, &event);
        post_more(m, &x);
        if (!exchange_done(m, &x)) CHECK(m, fabric_wait(m->fabric, limit, &m->error) == STATUS_OK);
    }
    struct fabric_traffic traffic;
    fabric_traffic(m->fabric, &traffic);
    CHECK(m, traffic.messages_sent == (uint64_t)MESSAGES * (uint64_t)(m->count - 1));
    CHECK(m,
          traffic.messages_received == traffic.messages_sent && traffic.bytes_received == traffic.bytes_sent);
    member_part_together(m);
}

/* Two members send each other large payloads at once, more than all buffers on the way can hold. */
static void exchange_large_payloads(struct member *m)
{
    enum { ROUNDS = 4 };
    uint8_t *mine = member_memory(m, LARGE_BYTES);
    member_fill(m, mine, LARGE_BYTES, 5);
    member_open(m, ROUNDS, LARGE_BYTES);
    member_join(m, 1);
    for (int i = 0; i < ROUNDS; i++) member_post(m, 1 - m->self, 5, mine, LARGE_BYTES);
    for (int sent = 0, received = 0; sent < ROUNDS || received < ROUNDS;) {
        struct fabric_event event = member_next(m);
        sent += event.kind == FABRIC_SENT;
        received += event.kind == FABRIC_RECEIVED;
        if (event.kind == FABRIC_RECEIVED) CHECK(m, member_is_filled(m, &event, 1 - m->self, 5));
        fabric_release(m->fabric, &event);
    }
    member_part_together(m);
}

/* ------------------------------------------------------------------------------------------------ credits */

static void use_up_credits(struct member *m)
{
    enum { BYTES = 100 };
    const uint8_t *payload = member_memory(m, BYTES);
    member_open(m, 5, 1000);
    member_join(m, 1);
    if (m->self == 0) {
        for (uint64_t i = 0; i < 5; i++) member_post(m, 1, i, payload, BYTES);
        CHECK(m, member_try_post(m, 1, 5, payload, BYTES) == STATUS_AGAIN);
        CHECK(m, !fabric_can_post(m->fabric, 1));
        for (int i = 0; i < 5; i++) CHECK(m, member_next(m).kind == FABRIC_SENT);
        member_mark(m, 0);
        /* No event comes, but the credit ends the wait. */
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 20 * SECOND_NS, &m->error) == STATUS_OK);
        CHECK(m, fabric_can_post(m->fabric, 1));
        member_post(m, 1, 5, payload, BYTES);
        CHECK(m, member_try_post(m, 1, 6, payload, BYTES) == STATUS_AGAIN);
    } else {
        struct fabric_event held[5];
        for (int i = 0; i < 5; i++) held[i] = member_next(m);
        member_await(m, 0);
        group_pause_ms(50);
        fabric_release(m->fabric, &held[2]); /* in any order */
        CHECK(m, held[2].payload == NULL);
        struct fabric_event last = member_next(m);
        CHECK(m, last.kind == FABRIC_RECEIVED && last.ticket.sequence == 5);
        for (int i = 0; i < 5; i++) fabric_release(m->fabric, &held[i]); /* the second time does nothing */
        fabric_release(m->fabric, &last);
    }
    member_part_together(m);
}

/* The smaller number counts: a member must not be sent more than it is ready to hold. */
static void grant_fewer_credits(struct member *m)
{
    member_open(m, m->self == 0 ? 8 : 2, 1000);
    member_join(m, 1);
    int posted = 0;
    while (member_try_post(m, 1 - m->self, 0, NULL, 0) == STATUS_OK) posted++;
    CHECK(m, posted == 2);
    member_part_together(m);
}

/* ------------------------------------------------------------------------------------------- misbehaviour */

static void send_too_much(struct member *m)
{
    member_open(m, 4, m->self == 0 ? 1000 : 100000);
    member_join_together(m, 1);
    uint8_t payload[2000] = {0};
    if (m->self == 1) {
        CHECK(m, member_try_post(m, 0, 0, payload, 100001) == STATUS_INVALID); /* one's own limit */
        CHECK(m, strstr(m->error.text, "100001") && strstr(m->error.text, "100000"));
        member_post(m, 0, 0, payload, sizeof payload);
    }
    CHECK(m, member_next_lost(m).peer == 1 - m->self); /* 0 will not have it, and leaves */
    fabric_leave(m->fabric);
    member_join(m, 2);
    member_part_together(m);
}

static void misuse(struct member *m)
{
    member_open(m, 4, 1000);
    struct fabric_event event;
    CHECK(m, member_try_post(m, 1, 0, NULL, 0) == STATUS_CONFLICT);
    CHECK(m, fabric_wait(m->fabric, CLOCK_NEVER, &m->error) == STATUS_CONFLICT);
    CHECK(m, fabric_next(m->fabric, &event) == STATUS_AGAIN);
    CHECK(m, !fabric_can_post(m->fabric, 1));
    fabric_leave(m->fabric);
    CHECK(m, member_try_join(m, 0, 1000) == STATUS_INVALID); /* not newer than none */
    member_join(m, 5);
    CHECK(m, member_try_join(m, 6, 1000) == STATUS_CONFLICT);
    CHECK(m, member_try_post(m, m->self, 0, NULL, 0) == STATUS_INVALID);
    CHECK(m, member_try_post(m, -1, 0, NULL, 0) == STATUS_INVALID);
    CHECK(m, member_try_post(m, m->count, 0, NULL, 0) == STATUS_INVALID);
    CHECK(m, member_try_post(m, 1 - m->self, 0, NULL, 1) == STATUS_INVALID);
    struct ticket ticket = {.kind = 99};
    CHECK(m, fabric_post(m->fabric, 1 - m->self, &ticket, NULL, 0, &m->error) == STATUS_INVALID);
    CHECK(m, strstr(m->error.text, "kind 99") != NULL);
    member_part_together(m);
}

static void be_alone(struct member *m)
{
    member_open(m, 4, 1000);
    for (uint64_t epoch = 1; epoch < 4; epoch++) {
        member_join(m, epoch);
        CHECK(m, fabric_wait(m->fabric, clock_now_ns() + MILLISECOND_NS, &m->error) == STATUS_DEADLINE);
        fabric_leave(m->fabric);
    }
    fabric_close(m->fabric);
    fabric_close(NULL);
}

static void keep_deadlines(struct member *m)
{
    member_open(m, 4, 1000);
    member_join(m, 1);
    for (int64_t ms = 1; ms <= 100; ms *= 10) {
        int64_t deadline = clock_now_ns() + ms * MILLISECOND_NS;
        CHECK(m, fabric_wait(m->fabric, deadline, &m->error) == STATUS_DEADLINE);
        CHECK(m, clock_now_ns() >= deadline);
    }
    member_part_together(m);
}

/* Sits in an epoch for a second and measures what that costs. */
static void idle_cheaply(struct member *m)
{
    member_open(m, 4, 1000);
    member_join(m, 1);
    group_pause_ms(200);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    group_pause_ms(1000);
    getrusage(RUSAGE_SELF, &after);
    int64_t used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * INT64_C(1000000) +
                      after.ru_utime.tv_usec - before.ru_utime.tv_usec +
                      (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * INT64_C(1000000) +
                      after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    atomic_store(&m->board->moments[24 + m->self], used_us);
    member_part_together(m);
}

/* ---------------------------------------------------------------------------------------- strangers (zmq) */

static void send_parts(void *socket, const uint8_t *bytes, size_t count, int parts)
{
    for (int i = 0; i < parts; i++) zmq_send(socket, bytes, count, i + 1 < parts ? ZMQ_SNDMORE : 0);
}

/* What somebody who found the port could try, given that he knows the format but not the token. */
static void annoy(struct member *m, const char *address)
{
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    CHECK(m, zmq_connect(socket, address) == 0);
    uint8_t junk[4096] = {0}, head[ENVELOPE_BYTES + TICKET_BYTES] = {0};
    send_parts(socket, junk, 0, 1);
    send_parts(socket, junk, sizeof junk, 1);
    send_parts(socket, junk, 7, 9);
    struct envelope hello = {.kind = ENVELOPE_HELLO, .from = 1, .number = 4, .epoch = 1, .place = 2};
    envelope_encode(&hello, head);
    send_parts(socket, head, ENVELOPE_BYTES + FABRIC_TOKEN_BYTES, 1); /* a token of zeros */
    send_parts(socket, head, ENVELOPE_BYTES, 1);
    struct envelope data = {.kind = ENVELOPE_DATA, .from = 1, .epoch = 1};
    struct ticket ticket = {.kind = TICKET_HOP, .dtype = TICKET_F32, .epoch = 1, .sequence = 666};
    envelope_encode(&data, head);
    ticket_encode(&ticket, head + ENVELOPE_BYTES);
    send_parts(socket, head, sizeof head, 1);
    struct envelope bye = {.kind = ENVELOPE_BYE, .from = 1, .epoch = 1};
    envelope_encode(&bye, head);
    send_parts(socket, head, ENVELOPE_BYTES, 1);
    uint8_t *huge = calloc(1, 1 << 20);
    send_parts(socket, huge, 1 << 20, 1); /* above the limit on frames: ZeroMQ ends the connection */
    free(huge);
    group_pause_ms(200);
    zmq_close(socket);
    zmq_ctx_term(context);
}

static void ignore_strangers(struct member *m)
{
    member_open(m, 4, 1000);
    member_join(m, 1);
    if (m->self == 1) annoy(m, m->board->addresses[0]);
    member_post(m, 1 - m->self, 7, NULL, 0);
    struct fabric_event event;
    do event = member_next(m);
    while (event.kind == FABRIC_SENT);
    CHECK(m, event.kind == FABRIC_RECEIVED && event.ticket.sequence == 7);
    fabric_release(m->fabric, &event);
    CHECK(m, fabric_next(m->fabric, &event) == STATUS_AGAIN || event.kind == FABRIC_SENT);
    member_part_together(m);
}

/* A member of another group, which has another token, at an address that was given out twice. */
static void refuse_wrong_token(struct member *m)
{
    member_open(m, 4, 1000);
    const char *addresses[] = {m->board->addresses[0], m->board->addresses[1]};
    struct fabric_membership membership = {.epoch = 1, .self = m->self, .count = 2, .addresses = addresses};
    memset(membership.token, 40 + m->self, sizeof membership.token);
    CHECK(m,
          fabric_join(m->fabric, &membership, clock_now_ns() + SECOND_NS / 2, &m->error) == STATUS_DEADLINE);
    member_mark(m, m->self);
    member_await(m, 1 - m->self);
    member_join(m, 2);
    member_part_together(m);
}

/* ---------------------------------------------------------------------------------------------- the tests */

static const struct group_scenario scenarios[] = {
    {"exchange_with_all", exchange_with_all},
    {"exchange_large_payloads", exchange_large_payloads},
    {"use_up_credits", use_up_credits},
    {"grant_fewer_credits", grant_fewer_credits},
    {"send_too_much", send_too_much},
    {"misuse", misuse},
    {"be_alone", be_alone},
    {"keep_deadlines", keep_deadlines},
    {"idle_cheaply", idle_cheaply},
};

static void messages_of_all_sizes_arrive_whole_and_in_order(void **state)
{
    group_all_well(*state, 3, "exchange_with_all", exchange_with_all);
}

static void large_payloads_cross_in_both_directions(void **state)
{
    group_all_well(*state, 2, "exchange_large_payloads", exchange_large_payloads);
}

static void without_a_credit_a_post_is_refused_until_a_release(void **state)
{
    group_all_well(*state, 2, "use_up_credits", use_up_credits);
}

static void the_smaller_number_of_credits_counts(void **state)
{
    group_all_well(*state, 2, "grant_fewer_credits", grant_fewer_credits);
}

static void a_payload_above_the_limit_loses_its_sender(void **state)
{
    group_all_well(*state, 2, "send_too_much", send_too_much);
}

static void misuse_is_answered_with_a_status(void **state)
{
    group_all_well(*state, 2, "misuse", misuse);
}

static void an_epoch_may_have_one_member(void **state)
{
    group_all_well(*state, 1, "be_alone", be_alone);
}

static void waits_end_at_their_deadline(void **state)
{
    group_all_well(*state, 2, "keep_deadlines", keep_deadlines);
}

static void an_idle_epoch_costs_little_cpu(void **state)
{
    struct group *group = group_start(*state, 2, "idle_cheaply", idle_cheaply);
    group_expect(group, 0);
    group_expect(group, 1);
    for (int i = 0; i < 2; i++) {
        long long used_us = atomic_load(&group_board(group)->moments[24 + i]);
        print_message("             member %d: %.2f %% of a core\n", i, (double)used_us / 1e4);
        assert_true(used_us < 200000); /* a thread that spins uses 1000000 */
    }
    group_end(group);
}

static void strangers_are_ignored(void **state)
{
    group_all_well(*state, 2, "ignore_strangers", ignore_strangers);
}

static void another_token_is_not_let_in(void **state)
{
    group_all_well(*state, 2, "refuse_wrong_token", refuse_wrong_token);
}

/* In this process: no member is forked while a fabric is open. */
static void configurations_that_cannot_work_are_refused(void **state)
{
    static const struct fabric_config bad[] = {
        {.kind = "carrier pigeon", .bind = "tcp://127.0.0.1:*", .credits = 4, .max_bytes = 1},
        {.kind = NULL, .bind = "tcp://127.0.0.1:*", .credits = 4, .max_bytes = 1},
        {.kind = "zmq", .bind = "tcp://127.0.0.1:*", .credits = 0, .max_bytes = 1},
        {.kind = "zmq", .bind = "tcp://127.0.0.1:*", .credits = 65, .max_bytes = 1},
        {.kind = "zmq", .bind = "tcp://127.0.0.1:*", .credits = 4, .max_bytes = 0},
        {.kind = "zmq", .bind = "127.0.0.1", .credits = 4, .max_bytes = 1},
        {.kind = "zmq", .bind = NULL, .credits = 4, .max_bytes = 1},
        {.kind = "zmq", .bind = "tcp://no-such-interface:*", .credits = 4, .max_bytes = 1},
        {.kind = "zmq", .bind = "ipc:///no/such/directory", .credits = 4, .max_bytes = 1},
        {.kind = "zmq", .bind = "tcp://0.0.0.0:*", .toward = "nonsense", .credits = 4, .max_bytes = 1},
        {.kind = "mpi", .credits = 4, .max_bytes = 1}, /* MPI does not run in this process */
        {.kind = "nccl", .bind = "tcp://127.0.0.1:*", .credits = 4, .max_bytes = 1, .device = 99},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct fabric *fabric = NULL;
        struct error error = {0};
        assert_true(fabric_open(&bad[i], &fabric, &error) != STATUS_OK);
        assert_null(fabric);
        assert_true(error.text[0] != '\0');
    }
}

static void an_address_bound_everywhere_is_announced_as_one_that_can_be_reached(void **state)
{
    static const struct {
        const char *toward, *begins;
    } cases[] = {{"tcp://127.0.0.1:5731", "tcp://127.0.0.1:"}, {NULL, "tcp://"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fabric_config config = {.kind = "zmq",
                                       .bind = "tcp://0.0.0.0:*",
                                       .toward = cases[i].toward,
                                       .credits = 1,
                                       .max_bytes = 1};
        struct fabric *fabric;
        struct error error;
        assert_int_equal(fabric_open(&config, &fabric, &error), STATUS_OK);
        const char *address = fabric_address(fabric);
        assert_memory_equal(address, cases[i].begins, strlen(cases[i].begins));
        assert_null(strstr(address, "0.0.0.0"));
        fabric_close(fabric);
    }
}

#define SHARED_TESTS(kind)                                                                                   \
    cmocka_unit_test_prestate(messages_of_all_sizes_arrive_whole_and_in_order, kind),                        \
        cmocka_unit_test_prestate(large_payloads_cross_in_both_directions, kind),                            \
        cmocka_unit_test_prestate(without_a_credit_a_post_is_refused_until_a_release, kind),                 \
        cmocka_unit_test_prestate(the_smaller_number_of_credits_counts, kind),                               \
        cmocka_unit_test_prestate(a_payload_above_the_limit_loses_its_sender, kind),                         \
        cmocka_unit_test_prestate(misuse_is_answered_with_a_status, kind),                                   \
        cmocka_unit_test_prestate(an_epoch_may_have_one_member, kind),                                       \
        cmocka_unit_test_prestate(waits_end_at_their_deadline, kind),                                        \
        cmocka_unit_test_prestate(an_idle_epoch_costs_little_cpu, kind)

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", tcp[] = "zmq-tcp", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest any[] = {
        cmocka_unit_test(configurations_that_cannot_work_are_refused),
        cmocka_unit_test(an_address_bound_everywhere_is_announced_as_one_that_can_be_reached),
    };
    const struct CMUnitTest over_ipc[] = {
        SHARED_TESTS(ipc),
        cmocka_unit_test_prestate(strangers_are_ignored, ipc),
        cmocka_unit_test_prestate(another_token_is_not_let_in, ipc),
    };
    const struct CMUnitTest over_tcp[] = {
        SHARED_TESTS(tcp),
        cmocka_unit_test_prestate(strangers_are_ignored, tcp),
        cmocka_unit_test_prestate(another_token_is_not_let_in, tcp),
    };
    const struct CMUnitTest over_mpi[] = {SHARED_TESTS(mpi)};
    const struct CMUnitTest over_nccl[] = {
        SHARED_TESTS(nccl),
        cmocka_unit_test_prestate(strangers_are_ignored, nccl),
        cmocka_unit_test_prestate(another_token_is_not_let_in, nccl),
    };
    const struct CMUnitTest few_over_nccl[] = {
        cmocka_unit_test_prestate(messages_of_all_sizes_arrive_whole_and_in_order, nccl),
        cmocka_unit_test_prestate(large_payloads_cross_in_both_directions, nccl),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = cmocka_run_group_tests(any, NULL, NULL);
    failed += GROUP_RUN(ipc, "over zmq, ipc", over_ipc);
    failed += GROUP_RUN(tcp, "over zmq, tcp", over_tcp);
    failed += GROUP_RUN(mpi, "over mpi", over_mpi);
    failed += group_tests_all() ? GROUP_RUN(nccl, "over nccl", over_nccl)
                                : GROUP_RUN(nccl, "over nccl", few_over_nccl);
    group_end_unfinished();
    return failed;
}
