/* fabric_steps.c - see fabric_steps.h. Runs in the members. */
#include "tests/fabric_steps.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static void fill(uint8_t *bytes, uint64_t count, int from, uint64_t sequence)
{
    uint64_t x = sequence * 1000003 + (uint64_t)from * 7919 + 1;
    for (uint64_t i = 0; i < count; i++) {
        if (i % 64 == 0) x = x * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(x >> (i % 8 * 8));
    }
}

static const uint8_t *filled(uint64_t count, int from, uint64_t sequence)
{
    static uint8_t *bytes;
    if (!bytes) bytes = malloc(LARGE_BYTES);
    fill(bytes, count, from, sequence);
    return bytes;
}

void member_fill(struct member *m, uint8_t *memory, uint64_t bytes, uint64_t sequence)
{
    member_write(m, memory, filled(bytes, m->self, sequence), bytes);
}

bool member_is_filled(struct member *m, const struct fabric_event *event, int from, uint64_t sequence)
{
    uint64_t bytes = event->ticket.bytes;
    return bytes == 0 || memcmp(member_payload(m, event), filled(bytes, from, sequence), bytes) == 0;
}

struct fabric_event member_next_lost(struct member *m)
{
    for (;;) {
        struct fabric_event event = member_next(m);
        if (event.kind == FABRIC_LOST) return event;
        CHECK(m, event.kind != FABRIC_ABORTED);
        fabric_release(m->fabric, &event);
    }
}

struct fabric_event member_next_received(struct member *m)
{
    struct fabric_event event;
    do event = member_next(m);
    while (event.kind == FABRIC_SENT);
    CHECK(m, event.kind == FABRIC_RECEIVED);
    return event;
}

void member_join_together(struct member *m, uint64_t epoch)
{
    member_join(m, epoch);
    member_mark(m, 8 + m->self);
    for (int i = 0; i < m->count; i++) member_await(m, 8 + i);
}

void member_part_together(struct member *m)
{
    member_mark(m, 16 + m->self);
    for (int i = 0; i < m->count; i++) member_await(m, 16 + i);
    fabric_leave(m->fabric);
    fabric_close(m->fabric);
}

void member_go_round(struct member *m, uint64_t rounds, uint64_t bytes)
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

const char *member_reason(struct member *m)
{
    struct fabric_event event;
    while (fabric_next(m->fabric, &event) == STATUS_OK) fabric_release(m->fabric, &event);
    CHECK(m, fabric_wait(m->fabric, CLOCK_NEVER, &m->error) == STATUS_PEER_LOST);
    return m->error.text;
}
