/*
 * test_fabric_place.c - messages that land in memory of the owner's (struct fabric_place), over real processes and every
 * transport: what lands there and what does not, and that nothing is written there once it was given back, whatever happens to a
 * message that is half-way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"

enum { KIND = TICKET_ITEM, CONTEXT = 7, MEMBERS = 2, GUARD = 4096, UNTOUCHED = 0xee, TRIES = 20 };
enum { MARK_OFFERED, MARK_DONE };

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 7 + offset / 251);
}

static uint8_t *memory(struct member *m, uint64_t bytes)
{
    uint8_t *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m, made != MAP_FAILED);
    return made;
}

static uint8_t *payload(struct member *m, uint64_t bytes)
{
    uint8_t *made = memory(m, bytes);
    for (uint64_t i = 0; i < bytes; i++) made[i] = byte_at(i);
    return made;
}

static struct fabric_place place_of(uint8_t *bytes, uint64_t size)
{
    return (struct fabric_place){.peer = 0, .kind = KIND, .context = CONTEXT, .bytes = bytes, .size = size};
}

/* `bytes` from the item's byte `at` on; says that it begins at `trace`. */
static void post(struct member *m, const uint8_t *item, uint16_t kind, uint64_t context, uint64_t at,
                 uint64_t trace, uint64_t bytes)
{
    struct ticket ticket = {
        .kind = kind, .context = context, .trace = trace, .bytes = bytes, .dtype = TICKET_RAW};
    if (bytes == 0) ticket.dtype = TICKET_NO_DATA;
    CHECK(m, fabric_post(m->fabric, 1, &ticket, item + at, 0, &m->error) == STATUS_OK);
    CHECK(m, member_next(m).kind == FABRIC_SENT);
    int64_t limit = clock_now_ns() + 10 * SECOND_NS;
    while (!fabric_can_post(m->fabric, 1)) /* it was released */
        CHECK(m, fabric_wait(m->fabric, limit, &m->error) == STATUS_OK);
}

/* ------------------------------------------------------------------------------------ what lands, what not */

static const uint64_t lengths[] = {1, 100, 2048, 2049, 600000, 262144, 3, 900001};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static uint64_t length_of_all(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < LENGTHS; i++) sum += lengths[i];
    return sum;
}

static void send_parts(struct member *m)
{
    uint8_t *item = payload(m, length_of_all());
    for (uint64_t i = 0, at = 0; i < LENGTHS; at += lengths[i++])
        post(m, item, KIND, CONTEXT, at, at, lengths[i]);
}

static void land_parts(struct member *m)
{
    uint64_t size = length_of_all();
    uint8_t *bytes = memory(m, size + 2 * GUARD);
    memset(bytes, UNTOUCHED, size + 2 * GUARD);
    struct fabric_place place = place_of(bytes + GUARD, size);
    fabric_offer(m->fabric, &place);
    member_mark(m, MARK_OFFERED);
    for (uint64_t i = 0, at = 0; i < LENGTHS; at += lengths[i++]) {
        struct fabric_event event = member_next_received(m);
        CHECK(m, event.payload == place.bytes + at);
        for (uint64_t k = 0; k < lengths[i]; k++) CHECK(m, place.bytes[at + k] == byte_at(at + k));
        fabric_release(m->fabric, &event);
    }
    CHECK(m, fabric_withdraw(m->fabric, &place));
    CHECK(m, fabric_withdraw(m->fabric, &place)); /* any number of times */
    for (uint64_t i = 0; i < GUARD; i++)
        CHECK(m, bytes[i] == UNTOUCHED && place.bytes[size + i] == UNTOUCHED);
}

static void hand_over(struct member *m)
{
    member_open(m, 1, 1 << 20);
    member_join_together(m, 1);
    if (m->self == 0) {
        member_await(m, MARK_OFFERED);
        send_parts(m);
    } else {
        land_parts(m);
    }
    member_part_together(m);
}

/* Said to begin at `trace`, of the item's bytes from 1000 on; lands where that says (-1: not in the place). */
static const struct {
    uint16_t kind;
    uint64_t context, trace, bytes;
    int64_t lands;
} strays[] = {
    {KIND, CONTEXT, 0, 0, -1},            /* empty */
    {KIND, CONTEXT + 1, 0, 100, -1},      /* of another transfer */
    {TICKET_HOP, CONTEXT, 0, 100, -1},    /* of another kind */
    {KIND, CONTEXT, 100, 100, -1},        /* behind a gap */
    {KIND, CONTEXT, 0, 300001, -1},       /* larger than the place */
    {KIND, CONTEXT, 0, 100, 0},           /* right */
    {KIND, CONTEXT, 0, 100, -1},          /* the same again */
    {KIND, CONTEXT, 0, 300000, -1},       /* over what has come */
    {KIND, CONTEXT, 99, 100, -1},         /* a byte too early */
    {KIND, CONTEXT, UINT64_MAX, 100, -1}, /* nowhere */
    {KIND, CONTEXT, 100, 299901, -1},     /* a byte too long */
    {KIND, CONTEXT, 100, 299900, 100},    /* right: now it is full */
    {KIND, CONTEXT, 300000, 1, -1},       /* behind its end */
};
enum { STRAYS = sizeof strays / sizeof *strays, ROOM = 300000 };

static void look_for_strays(struct member *m)
{
    uint8_t *bytes = memory(m, ROOM + GUARD), *expected = memory(m, ROOM + GUARD);
    memset(bytes, UNTOUCHED, ROOM + GUARD);
    memset(expected, UNTOUCHED, ROOM + GUARD);
    struct fabric_place place = place_of(bytes, ROOM);
    fabric_offer(m->fabric, &place);
    member_mark(m, MARK_OFFERED);
    for (int i = 0; i < STRAYS; i++) {
        struct fabric_event event = member_next_received(m);
        const uint8_t *at = event.payload;
        CHECK(m, event.ticket.bytes == strays[i].bytes);
        if (strays[i].lands >= 0)
            for (uint64_t k = 0; k < strays[i].bytes; k++)
                expected[(uint64_t)strays[i].lands + k] = byte_at(1000 + k);
        CHECK(m, strays[i].lands >= 0 ? at == bytes + strays[i].lands : at < bytes || at >= bytes + ROOM);
        for (uint64_t k = 0; k < strays[i].bytes; k++) CHECK(m, at[k] == byte_at(1000 + k));
        CHECK(m, memcmp(bytes, expected, ROOM + GUARD) == 0);
        fabric_release(m->fabric, &event);
    }
    CHECK(m, fabric_withdraw(m->fabric, &place));
}

static void stray(struct member *m)
{
    member_open(m, 1, 1 << 20);
    member_join_together(m, 1);
    if (m->self == 0) {
        uint8_t *item = payload(m, 400000);
        member_await(m, MARK_OFFERED);
        for (int i = 0; i < STRAYS; i++)
            post(m, item, strays[i].kind, strays[i].context, 1000, strays[i].trace, strays[i].bytes);
    } else {
        look_for_strays(m);
    }
    member_part_together(m);
}

/* --------------------------------------------------------------------------------------- what is half-way */

/* Looks at a byte that another thread may be writing: that is what is asked. */
__attribute__((no_sanitize("thread"))) static uint8_t peek(const uint8_t *byte)
{
    return *(const volatile uint8_t *)byte;
}

/* Spins until the first byte of the next message is there. */
static void await_first(struct member *m, const uint8_t *bytes)
{
    int64_t limit = clock_now_ns() + 10 * SECOND_NS;
    while (peek(bytes) == UNTOUCHED) CHECK(m, clock_now_ns() < limit);
}

/* Sends the whole item each time it is asked for, until it is not any more. */
static void send_large_ones(struct member *m)
{
    uint8_t *item = payload(m, LARGE_BYTES);
    for (int i = 0; i < TRIES; i++) {
        while (atomic_load(&m->board->marks[MARK_OFFERED]) == i)
            if (atomic_load(&m->board->marks[MARK_DONE]))
                return;
            else
                group_pause_ms(1);
        post(m, item, KIND, CONTEXT, 0, 0, LARGE_BYTES);
    }
}

/* Its memory is new each time, and nobody else's. */
static struct fabric_place offer_large(struct member *m)
{
    uint8_t *bytes = memory(m, LARGE_BYTES);
    memset(bytes, UNTOUCHED, LARGE_BYTES);
    return place_of(bytes, LARGE_BYTES);
}

/* Stops the sender in the middle of a message: until that goes on, the place is not given back. */
static bool give_back_half_way(struct member *m, struct fabric_place *place)
{
    bool was_half_way = false;
    await_first(m, place->bytes);
    kill(m->board->pids[0], SIGSTOP);
    group_pause_ms(20); /* what was in buffers has come */
    for (int i = 0; i < 5 && !fabric_withdraw(m->fabric, place); i++) {
        was_half_way = true;
        group_pause_ms(2);
    }
    kill(m->board->pids[0], SIGCONT);
    struct fabric_event event = member_next_received(m);
    CHECK(m, event.payload == place->bytes && event.ticket.bytes == LARGE_BYTES);
    for (uint64_t k = 0; k < LARGE_BYTES; k += 997) CHECK(m, place->bytes[k] == byte_at(k));
    CHECK(m, fabric_withdraw(m->fabric, place));
    munmap(place->bytes, LARGE_BYTES); /* who writes there now ends this process */
    fabric_release(m->fabric, &event);
    return was_half_way;
}

static void give_back(struct member *m)
{
    member_open(m, 1, LARGE_BYTES);
    member_join_together(m, 1);
    bool seen = false;
    if (m->self == 0) send_large_ones(m);
    for (int i = 1; m->self == 1 && !seen; i++) { /* a message may be through before its sender stops */
        CHECK(m, i <= TRIES);
        struct fabric_place place = offer_large(m);
        fabric_offer(m->fabric, &place);
        atomic_store(&m->board->marks[MARK_OFFERED], i);
        seen = give_back_half_way(m, &place);
    }
    member_mark(m, MARK_DONE);
    member_part_together(m);
}

/* Leaves while a message is half-way: after that the memory is the owner's. */
static void leave_half_way(struct member *m)
{
    member_open(m, 1, LARGE_BYTES);
    member_join_together(m, 1);
    if (m->self == 0) {
        uint8_t *item = payload(m, LARGE_BYTES);
        struct ticket ticket = {.kind = KIND, .context = CONTEXT, .bytes = LARGE_BYTES, .dtype = TICKET_RAW};
        member_await(m, MARK_OFFERED);
        CHECK(m, fabric_post(m->fabric, 1, &ticket, item, 0, &m->error) == STATUS_OK);
        member_next_lost(m);
        fabric_leave(m->fabric);
    } else {
        struct fabric_place place = offer_large(m);
        fabric_offer(m->fabric, &place);
        member_mark(m, MARK_OFFERED);
        await_first(m, place.bytes);
        fabric_leave(m->fabric);
        CHECK(m, fabric_withdraw(m->fabric, &place));
        munmap(place.bytes, LARGE_BYTES);
        group_pause_ms(100);
    }
    fabric_close(m->fabric);
}

/* The sender is killed half-way. */
static void outlive_sender(struct member *m)
{
    member_open(m, 1, LARGE_BYTES);
    member_join_together(m, 1);
    if (m->self == 0) {
        send_large_ones(m);
        for (;;) group_pause_ms(1000);
    }
    struct fabric_place place = offer_large(m);
    fabric_offer(m->fabric, &place);
    member_mark(m, MARK_OFFERED);
    await_first(m, place.bytes);
    kill(m->board->pids[0], SIGKILL);
    member_next_lost(m);
    fabric_leave(m->fabric);
    if (m->mpi) return; /* MPI was given up: the memory stays, and the process ends */
    CHECK(m, fabric_withdraw(m->fabric, &place));
    munmap(place.bytes, LARGE_BYTES);
    fabric_close(m->fabric);
}

/* ---------------------------------------------------------------------------------------------------- tests */

static const struct group_scenario scenarios[] = {
    {"hand_over", hand_over}, {"stray", stray}, {"leave_half_way", leave_half_way}};

static void parts_land_one_behind_the_other(void **state)
{
    group_all_well(*state, MEMBERS, "hand_over", hand_over);
}

static void what_does_not_come_next_or_does_not_fit_lands_elsewhere(void **state)
{
    group_all_well(*state, MEMBERS, "stray", stray);
}

static void a_place_is_given_back_once_what_has_begun_is_there(void **state)
{
    group_all_well(*state, MEMBERS, "give_back", give_back);
}

static void after_leaving_half_way_the_memory_is_free(void **state)
{
    group_all_well(*state, MEMBERS, "leave_half_way", leave_half_way);
}

static void after_the_sender_was_killed_half_way_the_memory_is_free(void **state)
{
    struct group *g = group_start(*state, MEMBERS, "outlive_sender", outlive_sender);
    group_expect(g, 1);
    group_end(g);
}

#define SHARED_TESTS(kind)                                                                                   \
    cmocka_unit_test_prestate(parts_land_one_behind_the_other, kind),                                        \
        cmocka_unit_test_prestate(what_does_not_come_next_or_does_not_fit_lands_elsewhere, kind),            \
        cmocka_unit_test_prestate(after_leaving_half_way_the_memory_is_free, kind)

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", tcp[] = "zmq-tcp", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest tests[] = {
        SHARED_TESTS(ipc),
        SHARED_TESTS(tcp),
        SHARED_TESTS(mpi),
        SHARED_TESTS(nccl),
        cmocka_unit_test_prestate(a_place_is_given_back_once_what_has_begun_is_there, ipc),
        cmocka_unit_test_prestate(a_place_is_given_back_once_what_has_begun_is_there, tcp),
        cmocka_unit_test_prestate(after_the_sender_was_killed_half_way_the_memory_is_free, ipc),
        cmocka_unit_test_prestate(after_the_sender_was_killed_half_way_the_memory_is_free, tcp),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_end_unfinished();
    return failed;
}
