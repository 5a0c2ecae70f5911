/*
 * test_circle.c - what members of an epoch do together, over real processes: zmq, mpi, and nccl over stand-ins for its
 * libraries, with payloads in device memory (tests/fabric_group.h).
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/circle.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"

enum { MAX_BYTES = 700000, PURPOSE = 3 };

static const int everybody[] = {0, 1, 2, 3, 4, 5, 6, 7};

static int64_t soon(void)
{
    return clock_now_ns() + 10 * SECOND_NS;
}

/* Joined, with a circle of everybody. */
struct party {
    struct circles *circles;
    struct circle *circle;
};

static void create_circle(struct member *m, struct party *p)
{
    CHECK(m, circle_create(p->circles, 7, everybody, m->count, m->self, &p->circle, &m->error) == STATUS_OK);
}

/* A part must not come before its circle is there. */
static struct party meet(struct member *m, int credits)
{
    struct party p;
    member_open(m, credits, MAX_BYTES);
    CHECK(m, circles_open(m->fabric, &p.circles, &m->error) == STATUS_OK);
    create_circle(m, &p);
    member_join_together(m, 1);
    return p;
}

static void end_party(struct member *m, struct party *p)
{
    member_mark(m, 16 + m->self);
    for (int i = 0; i < m->count; i++) member_await(m, 16 + i);
    fabric_leave(m->fabric);
    circles_drop(p->circles);
    circle_destroy(p->circle);
    circles_close(p->circles);
    fabric_close(m->fabric);
}

/* ------------------------------------------------------------------------------------------- all to all */

/* Nothing, a byte, what is inlined and what is not, several chunks. */
static uint64_t size_of(uint64_t round, int from, int to)
{
    static const uint64_t sizes[] = {0, 1, 70001, 2048, 0, 2049, 100, 300000, 3, 0, MAX_BYTES};
    return sizes[(round * 5 + (uint64_t)from * 3 + (uint64_t)to) % (sizeof sizes / sizeof *sizes)];
}

static void begin(struct member *m, struct party *p, uint64_t round, uint8_t *buffer, struct exchange **x)
{
    const void *give[GROUP_MEMBERS];
    uint64_t give_bytes[GROUP_MEMBERS], take_bytes[GROUP_MEMBERS];
    for (int i = 0; i < m->count; i++) {
        give[i] = buffer;
        give_bytes[i] = size_of(round, m->self, i);
        take_bytes[i] = size_of(round, i, m->self);
    }
    member_fill(m, buffer, MAX_BYTES, round);
    const struct circle_parts parts = {.purpose = PURPOSE + (uint32_t)round % 2,
                                       .dtype = TICKET_F32,
                                       .on_device = m->nccl,
                                       .give = give,
                                       .give_bytes = give_bytes,
                                       .take_bytes = take_bytes};
    CHECK(m, circle_begin(p->circle, &parts, x, &m->error) == STATUS_OK);
}

static void take_and_end(struct member *m, uint64_t round, struct exchange *x)
{
    for (int k = 1; k < m->count; k++) {
        struct fabric_event event;
        int place = (m->self + (round % 2 ? k : m->count - k)) % m->count;
        CHECK(m, exchange_take(x, place, soon(), &event, &m->error) == STATUS_OK);
        CHECK(m, event.peer == place && event.ticket.bytes == size_of(round, place, m->self));
        CHECK(m, member_is_filled(m, &event, place, round));
        CHECK(m, exchange_take(x, place, soon(), &event, &m->error) == STATUS_INVALID); /* once each */
        fabric_release(m->fabric, &event);
    }
    CHECK(m, exchange_end(x, soon(), &m->error) == STATUS_OK);
}

static void exchange_rounds(struct member *m, int credits, uint64_t rounds)
{
    enum { DEPTH = CIRCLE_ROUNDS };
    uint8_t *buffers[DEPTH];
    struct exchange *under_way[DEPTH];
    for (int i = 0; i < DEPTH; i++) buffers[i] = member_memory(m, MAX_BYTES);
    struct party p = meet(m, credits);
    for (uint64_t round = 0; round < rounds; round += DEPTH) {
        for (uint64_t i = 0; i < DEPTH; i++) begin(m, &p, round + i, buffers[i], &under_way[i]);
        struct exchange *more;
        const struct circle_parts none = {.purpose = 0};
        CHECK(m, circle_begin(p.circle, &none, &more, &m->error) == STATUS_CONFLICT);
        /* Members end them in orders of their own: some forwards, some backwards. */
        for (uint64_t i = 0; i < DEPTH; i++) {
            uint64_t k = m->self % 2 ? i : DEPTH - 1 - i;
            if (credits < DEPTH) k = i; /* what is not taken holds a credit that the next one needs */
            take_and_end(m, round + k, under_way[k]);
        }
    }
    struct fabric_event event;
    CHECK(m, circles_next(p.circles, &event) == STATUS_AGAIN);
    CHECK(m, circles_check(p.circles, &m->error) == STATUS_OK);
    end_party(m, &p);
}

static void exchange_many(struct member *m)
{
    exchange_rounds(m, CIRCLE_ROUNDS, 32);
}

static void exchange_with_few_credits(struct member *m)
{
    exchange_rounds(m, 2, 16);
}

/* Members that run ahead of others, by as much as can be: nobody waits for all before the next round. */
static void run_ahead(struct member *m)
{
    enum { ROUNDS = 40 };
    uint8_t *buffer = member_memory(m, MAX_BYTES);
    struct party p = meet(m, 16);
    struct exchange *x;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        if (m->self == (int)(round / 10) % m->count) group_pause_ms(5);
        begin(m, &p, round, buffer, &x);
        while (round % 3 == 0 && !exchange_ready(x, (m->self + 1) % m->count)) sched_yield(); /* "computes" */
        take_and_end(m, round, x);
    }
    end_party(m, &p);
}

/* --------------------------------------------------------------------------------- other events, other circles */

/* Hops come while a member waits in an exchange: they are there afterwards, all of them, in order, unharmed. */
static void keep_hops(struct member *m)
{
    enum { ROUNDS = 10, HOPS = 3 };
    struct party p = meet(m, 16);
    uint8_t *buffer = member_memory(m, MAX_BYTES), *hop = member_memory(m, 5000);
    member_fill(m, hop, 5000, 1000);
    int next = (m->self + 1) % m->count, before = (m->self + m->count - 1) % m->count, came = 0, sent = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct exchange *x;
        struct fabric_event event;
        for (uint64_t i = 0; i < HOPS; i++) member_post(m, next, round * HOPS + i, hop, 5000);
        begin(m, &p, round, buffer, &x);
        take_and_end(m, round, x);
        int64_t limit = soon();
        while (came < ((int)round + 1) * HOPS || sent < ((int)round + 1) * HOPS) {
            if (circles_next(p.circles, &event) != STATUS_OK) {
                CHECK(m, fabric_wait(m->fabric, limit, &m->error) == STATUS_OK);
                continue;
            }
            CHECK(m, event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED);
            if (event.kind == FABRIC_SENT) CHECK(m, event.cookie == (uint64_t)sent++);
            if (event.kind != FABRIC_RECEIVED) continue;
            CHECK(m, event.peer == before && event.ticket.sequence == (uint64_t)came++);
            CHECK(m, member_is_filled(m, &event, before, 1000));
            fabric_release(m->fabric, &event);
        }
    }
    end_party(m, &p);
}

/* Two circles of two beside one of all four; places are not indices. */
static void meet_in_several_circles(struct member *m)
{
    static const int pairs[2][2] = {{3, 1}, {0, 2}};
    struct party p = meet(m, 16);
    struct circle *pair;
    const int *members = pairs[m->self % 2 == 0];
    CHECK(m, circle_create(p.circles, 8 + (uint64_t)(m->self % 2), members, 2, m->self, &pair, &m->error) ==
                 STATUS_OK);
    CHECK(m, circle_create(p.circles, 7, members, 2, m->self, &pair, &m->error) == STATUS_CONFLICT);
    CHECK(m,
          circle_create(p.circles, 99, pairs[m->self % 2], 2, m->self, &pair, &m->error) == STATUS_INVALID);
    CHECK(m, circle_place(pair) == (members[1] == m->self) && circle_count(pair) == 2);
    member_mark(m, m->self); /* all have it */
    for (int i = 0; i < m->count; i++) member_await(m, i);
    for (int round = 0; round < 10; round++) {
        float mine = (float)(round * 10 + m->self), both, all;
        CHECK(m, circle_sum(pair, &mine, 1, soon(), &both, &m->error) == STATUS_OK);
        CHECK(m, both == (float)(2 * round * 10 + members[0] + members[1]));
        CHECK(m, circle_sum(p.circle, &mine, 1, soon(), &all, &m->error) == STATUS_OK);
        CHECK(m, all == (float)(4 * round * 10 + 6));
    }
    circle_destroy(pair);
    end_party(m, &p);
}

/* ------------------------------------------------------------------------------------------------ sums, rows */

/* Numbers whose sum depends on the order. */
static float number(int member, int i)
{
    static const float scale[] = {1e8f, 1, -1e8f, 1e-3f};
    return scale[(member + i) % 4] * (1 + (float)((member * 31 + i * 7) % 100) / 64);
}

static void add_up(struct member *m)
{
    enum { NUMBERS = 1000 };
    float mine[NUMBERS], sum[NUMBERS];
    struct party p = meet(m, 4);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < NUMBERS; i++) mine[i] = number(m->self, i + round);
        CHECK(m, circle_sum(p.circle, mine, NUMBERS, soon(), sum, &m->error) == STATUS_OK);
        for (int i = 0; i < NUMBERS; i++) {
            float expected = 0;
            for (int k = 0; k < m->count; k++) expected += number(k, i + round);
            CHECK(m, memcmp(&sum[i], &expected, sizeof expected) == 0);
        }
    }
    CHECK(m, circle_sum(p.circle, mine, 0, soon(), sum, &m->error) == STATUS_INVALID);
    end_party(m, &p);
}

/* As members that hold tokens put sums of single tokens side by side; one of them has none. */
static void put_side_by_side(struct member *m)
{
    enum { TOKENS = 50 };
    double mine[TOKENS], all[TOKENS * GROUP_MEMBERS];
    uint64_t bytes[GROUP_MEMBERS], total = 0;
    struct party p = meet(m, 4);
    for (int i = 0; i < m->count; i++) {
        bytes[i] = (uint64_t)((i + 1) % m->count * TOKENS / m->count) * sizeof(double);
        total += bytes[i] / sizeof(double);
    }
    for (int i = 0; i < TOKENS; i++) mine[i] = m->self * 1000 + i;
    CHECK(m, circle_concatenate(p.circle, mine, bytes, soon(), all, &m->error) == STATUS_OK);
    const double *at = all;
    for (int k = 0; k < m->count; k++)
        for (uint64_t i = 0; i < bytes[k] / sizeof(double); i++)
            CHECK(m, *at++ == (double)k * 1000 + (double)i);
    CHECK(m, at == all + total && total > 0);
    end_party(m, &p);
}

/* -------------------------------------------------------------------------------------------------- losses */

/* Member 1 takes part a few times; what then happens to it ends the others' wait. */
static void lose_one(struct member *m)
{
    uint8_t *buffer = member_memory(m, MAX_BYTES);
    struct party p = meet(m, 8);
    struct exchange *x;
    for (uint64_t round = 0; round < 3; round++) {
        begin(m, &p, round, buffer, &x);
        take_and_end(m, round, x);
    }
    if (m->self == 1) {
        member_mark(m, 0);
        for (;;) pause();
    }
    begin(m, &p, 3, buffer, &x);
    member_mark(m, 1 + m->self / 2);
    struct fabric_event event;
    status_t status = exchange_take(x, 1, soon(), &event, &m->error);
    CHECK(m, status == STATUS_PEER_LOST && strstr(m->error.text, "member 1 was lost"));
    /* The owner hears of it as ever. */
    do CHECK(m, circles_next(p.circles, &event) == STATUS_OK);
    while (event.kind != FABRIC_LOST);
    CHECK(m, event.peer == 1);
    float mine = 1, sum;
    CHECK(m, circle_sum(p.circle, &mine, 1, soon(), &sum, &m->error) == STATUS_PEER_LOST);
    member_mark(m, 5 + m->self); /* or the one that leaves first is the next that is lost */
    for (int i = 0; i < m->count; i++)
        if (i != 1) member_await(m, 5 + i);
    fabric_leave(m->fabric);
    circles_drop(p.circles);
    CHECK(m, circle_sum(p.circle, &mine, 1, soon(), &sum, &m->error) == STATUS_ABORTED);
    circle_destroy(p.circle);
    circles_close(p.circles);
    fabric_close(m->fabric);
}

/* Member 1 lives and never takes part. Its silence is no loss: heartbeats go on, also of those that wait. */
static void wait_for_nothing(struct member *m)
{
    struct party p = meet(m, 8);
    if (m->self != 1) {
        float mine = 1, sum;
        int64_t deadline_ns = clock_now_ns() + 2500 * MILLISECOND_NS;
        CHECK(m, circle_sum(p.circle, &mine, 1, deadline_ns, &sum, &m->error) == STATUS_DEADLINE);
        CHECK(m, strstr(m->error.text, "circle 7: part 1 did not come from member 1 in time"));
        CHECK(m, clock_now_ns() >= deadline_ns);
    }
    end_party(m, &p);
}

static void *abort_soon(void *fabric)
{
    group_pause_ms(100);
    fabric_abort(fabric);
    return NULL;
}

static void abort_in_a_wait(struct member *m)
{
    struct party p = meet(m, 8);
    if (m->self == 0) {
        float mine = 1, sum;
        pthread_t thread;
        CHECK(m, pthread_create(&thread, NULL, abort_soon, m->fabric) == 0);
        CHECK(m, circle_sum(p.circle, &mine, 1, soon(), &sum, &m->error) == STATUS_ABORTED);
        pthread_join(thread, NULL);
        struct fabric_event event;
        do CHECK(m, circles_next(p.circles, &event) == STATUS_OK);
        while (event.kind != FABRIC_ABORTED);
    }
    end_party(m, &p);
}

/* ------------------------------------------------------------------------------------------------ refusals */

/* What member 1 posts by hand, and how the others' circle speaks of it. */
static const struct {
    uint64_t circle, sequence;
    uint32_t purpose;
    enum ticket_dtype dtype;
    int floats;
    const char *words;
} wrong[] = {
    {7, 1, PURPOSE, TICKET_F32, 3, "another size was expected"},
    {7, 1, PURPOSE + 1, TICKET_F32, 1, "it is for something else"},
    {7, 1, PURPOSE, TICKET_BF16, 1, "another type"},
    {7, 2, PURPOSE, TICKET_F32, 1, "parts before it are missing"},
    {7, 0, PURPOSE, TICKET_F32, 1, "it comes late or twice"},
    {9, 1, PURPOSE, TICKET_F32, 1, "there is no such circle here"},
    {11, 1, PURPOSE, TICKET_F32, 1, "it is not of that circle"},
};

enum { WRONG = sizeof wrong / sizeof *wrong };

static void post_wrong(struct member *m, int i)
{
    static const float numbers[3] = {1, 2, 3};
    struct ticket t = {.kind = TICKET_PART,
                       .dtype = (uint16_t)wrong[i].dtype,
                       .context = wrong[i].circle,
                       .sequence = wrong[i].sequence,
                       .step = wrong[i].purpose,
                       .bytes = (uint64_t)wrong[i].floats * sizeof(float)};
    CHECK(m, fabric_post(m->fabric, 0, &t, numbers, 0, &m->error) == STATUS_OK);
}

/* Early: the wrong part is there before the exchange begins, so that it is looked at then. */
static void refuse_one(struct member *m, struct circles *circles, int i, bool early)
{
    static const int others[] = {0, 2};
    struct circle *circle, *without;
    struct exchange *x;
    struct fabric_event event;
    const float mine = 1;
    const void *give[] = {NULL, &mine};
    const uint64_t bytes[] = {0, sizeof mine};
    CHECK(m, circle_create(circles, 7, everybody, 2, 0, &circle, &m->error) == STATUS_OK);
    CHECK(m, circle_create(circles, 11, others, 2, 0, &without, &m->error) == STATUS_OK);
    member_mark(m, 3 + 2 * i + early); /* now it may come */
    status_t status = STATUS_OK;
    int64_t limit = soon();
    while (early && fabric_wait(m->fabric, limit, &m->error) == STATUS_OK &&
           circles_next(circles, &event) == STATUS_OK)
        fabric_release(m->fabric, &event);
    struct circle_parts parts = {
        .purpose = PURPOSE, .dtype = TICKET_F32, .give = give, .give_bytes = bytes, .take_bytes = bytes};
    status = circle_begin(circle, &parts, &x, &m->error);
    if (status == STATUS_OK) status = exchange_take(x, 1, limit, &event, &m->error);
    CHECK(m, status == STATUS_CORRUPT);
    CHECK(m, strstr(m->error.text, wrong[i].words) && strstr(m->error.text, "member 1 sent part"));
    CHECK(m, circles_check(circles, &m->error) == STATUS_CORRUPT);
    fabric_leave(m->fabric);
    circles_drop(circles);
    circle_destroy(circle);
    circle_destroy(without);
}

/* Every epoch another one, and the next one starts clean. */
static void refuse_parts(struct member *m)
{
    struct circles *circles = NULL;
    member_open(m, 4, MAX_BYTES);
    if (m->self == 0) CHECK(m, circles_open(m->fabric, &circles, &m->error) == STATUS_OK);
    for (int i = 0; i < 2 * WRONG; i++) {
        status_t joined = member_try_join(m, (uint64_t)i + 1, 10000);
        if (m->self == 2 && joined == STATUS_PEER_LOST) continue; /* 0 was done before 2 had come */
        CHECK(m, joined == STATUS_OK);
        if (m->self == 0) {
            refuse_one(m, circles, i / 2, i % 2);
            continue;
        }
        member_await(m, 3 + i);
        if (m->self == 1) post_wrong(m, i / 2);
        member_next_lost(m); /* 0 will not have it, and leaves */
        fabric_leave(m->fabric);
    }
    circles_close(circles);
    fabric_close(m->fabric);
}

/* ---------------------------------------------------------------------------------------------- the tests */

static const struct group_scenario scenarios[] = {
    {"exchange_many", exchange_many},
    {"exchange_with_few_credits", exchange_with_few_credits},
    {"run_ahead", run_ahead},
    {"keep_hops", keep_hops},
    {"meet_in_several_circles", meet_in_several_circles},
    {"add_up", add_up},
    {"put_side_by_side", put_side_by_side},
    {"lose_one", lose_one},
    {"wait_for_nothing", wait_for_nothing},
    {"abort_in_a_wait", abort_in_a_wait},
    {"refuse_parts", refuse_parts},
};

static const char *name_of(scenario run)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (scenarios[i].run == run) return scenarios[i].name;
    return "";
}

static void all_well(void **state, int count, scenario run)
{
    group_all_well(*state, count, name_of(run), run);
}

static void parts_of_all_sizes_cross_with_several_rounds_under_way(void **state)
{
    for (int count = 2; count <= 4; count++) all_well(state, count, exchange_many);
}

static void few_credits_slow_exchanges_and_nothing_else(void **state)
{
    all_well(state, 3, exchange_with_few_credits);
}

static void members_may_run_ahead_of_each_other(void **state)
{
    for (int count = 2; count <= 4; count++) all_well(state, count, run_ahead);
}

static void hops_that_come_while_a_member_waits_are_kept_in_order(void **state)
{
    all_well(state, 3, keep_hops);
}

static void circles_of_some_and_of_all_members_stand_beside_each_other(void **state)
{
    all_well(state, 4, meet_in_several_circles);
}

static void sums_are_added_in_the_order_of_places(void **state)
{
    for (int count = 1; count <= 4; count++) all_well(state, count, add_up);
}

static void rows_of_members_come_side_by_side(void **state)
{
    for (int count = 2; count <= 4; count++) all_well(state, count, put_side_by_side);
}

static void lose(void **state, int number)
{
    struct group *group = group_start(*state, 3, name_of(lose_one), lose_one);
    for (int mark = 0; mark < 3; mark++) group_await(group, mark); /* the others are in the exchange */
    group_signal(group, 1, number);
    group_expect(group, 0);
    group_expect(group, 2);
    group_end(group);
}

static void a_killed_member_ends_the_others_wait(void **state)
{
    lose(state, SIGKILL);
}

static void a_stopped_member_ends_the_others_wait(void **state)
{
    lose(state, SIGSTOP);
}

static void a_wait_ends_at_its_deadline_and_names_who_is_missing(void **state)
{
    all_well(state, 3, wait_for_nothing);
}

static void an_abort_ends_a_wait(void **state)
{
    all_well(state, 2, abort_in_a_wait);
}

static void parts_that_do_not_fit_are_refused_with_a_reason(void **state)
{
    all_well(state, 3, refuse_parts);
}

#define SHARED_TESTS(kind)                                                                                   \
    cmocka_unit_test_prestate(parts_of_all_sizes_cross_with_several_rounds_under_way, kind),                 \
        cmocka_unit_test_prestate(few_credits_slow_exchanges_and_nothing_else, kind),                        \
        cmocka_unit_test_prestate(members_may_run_ahead_of_each_other, kind),                                \
        cmocka_unit_test_prestate(hops_that_come_while_a_member_waits_are_kept_in_order, kind),              \
        cmocka_unit_test_prestate(circles_of_some_and_of_all_members_stand_beside_each_other, kind),         \
        cmocka_unit_test_prestate(sums_are_added_in_the_order_of_places, kind),                              \
        cmocka_unit_test_prestate(rows_of_members_come_side_by_side, kind),                                  \
        cmocka_unit_test_prestate(a_killed_member_ends_the_others_wait, kind),                               \
        cmocka_unit_test_prestate(a_stopped_member_ends_the_others_wait, kind),                              \
        cmocka_unit_test_prestate(a_wait_ends_at_its_deadline_and_names_who_is_missing, kind),               \
        cmocka_unit_test_prestate(an_abort_ends_a_wait, kind)

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest over_ipc[] = {
        SHARED_TESTS(ipc),
        cmocka_unit_test_prestate(parts_that_do_not_fit_are_refused_with_a_reason, ipc),
    };
    const struct CMUnitTest over_mpi[] = {SHARED_TESTS(mpi)};
    const struct CMUnitTest over_nccl[] = {SHARED_TESTS(nccl)};
    const struct CMUnitTest few_over_nccl[] = {
        cmocka_unit_test_prestate(parts_of_all_sizes_cross_with_several_rounds_under_way, nccl),
        cmocka_unit_test_prestate(members_may_run_ahead_of_each_other, nccl),
        cmocka_unit_test_prestate(a_killed_member_ends_the_others_wait, nccl),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = 0;
    failed += GROUP_RUN(ipc, "over zmq, ipc", over_ipc);
    failed += GROUP_RUN(mpi, "over mpi", over_mpi);
    failed += group_tests_all() ? GROUP_RUN(nccl, "over nccl", over_nccl)
                                : GROUP_RUN(nccl, "over nccl", few_over_nccl);
    group_end_unfinished();
    return failed;
}
