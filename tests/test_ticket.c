/* test_ticket.c - the ticket's bytes: everything survives the wire, nothing else gets in. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/envelope.h"
#include "cluster/ticket.h"

static struct ticket full_ticket(void)
{
    return (struct ticket){
        .kind = TICKET_HOP,
        .dtype = TICKET_BF16,
        .branch = 1,
        .expert = 0xfffe,
        .epoch = 0x0102030405060708,
        .job = UINT64_MAX,
        .context = 77,
        .sequence = 1ULL << 63,
        .attempt = 3,
        .step = 49,
        .timestep = -0.0f,
        .grid = {21, 45, 80},
        .row_begin = 1000,
        .row_count = UINT32_MAX - 1000,
        .bytes = 1ULL << 40,
        .trace = 0xdeadbeefcafef00d,
        .flags = TICKET_BLOCK_RECORDS | TICKET_DONE,
        .block_begin = 7,
        .block_end = 40,
        .text_bytes = 4000,
        .home = 1023,
        .priority = 2,
        .age = 0x1112131415161718,
    };
}

/* Field by field: padding does not count, and -0.0 is not 0.0 here. */
static void assert_same(const struct ticket *a, const struct ticket *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->branch, b->branch);
    assert_int_equal(a->expert, b->expert);
    assert_true(a->epoch == b->epoch && a->job == b->job && a->context == b->context);
    assert_true(a->sequence == b->sequence && a->bytes == b->bytes && a->trace == b->trace);
    assert_int_equal(a->attempt, b->attempt);
    assert_int_equal(a->step, b->step);
    assert_memory_equal(&a->timestep, &b->timestep, sizeof a->timestep);
    assert_int_equal(a->flags, b->flags);
    assert_memory_equal(a->grid, b->grid, sizeof a->grid);
    assert_true(a->row_begin == b->row_begin && a->row_count == b->row_count);
    assert_true(a->block_begin == b->block_begin && a->block_end == b->block_end);
    assert_int_equal(a->text_bytes, b->text_bytes);
    assert_int_equal(a->home, b->home);
    assert_int_equal(a->priority, b->priority);
    assert_true(a->age == b->age);
}

static void every_field_survives_the_wire(void **state)
{
    struct ticket sent = full_ticket(), received;
    uint8_t wire[TICKET_BYTES];
    ticket_encode(&sent, wire);
    assert_int_equal(ticket_decode(wire, sizeof wire, &received, NULL), STATUS_OK);
    assert_same(&sent, &received);
}

static void the_bytes_are_little_endian_at_fixed_places(void **state)
{
    struct ticket ticket = full_ticket();
    uint8_t wire[TICKET_BYTES];
    ticket_encode(&ticket, wire);
    static const uint8_t begin[] = {'R',  'F',  'T', 'K', 3, 0, 2, 0, 2, 0, 1, 0,
                                    0xfe, 0xff, 0,   0,   8, 7, 6, 5, 4, 3, 2, 1};
    assert_memory_equal(wire, begin, sizeof begin);
    static const uint8_t timestep[] = {0, 0, 0, 0x80};
    assert_memory_equal(wire + 56, timestep, sizeof timestep);
    static const uint8_t bytes_and_trace[] = {0,    0,    0,    0,    0,    1,    0,    0,
                                              0x0d, 0xf0, 0xfe, 0xca, 0xef, 0xbe, 0xad, 0xde};
    assert_memory_equal(wire + 88, bytes_and_trace, sizeof bytes_and_trace);
    static const uint8_t home_and_priority[] = {0xff, 3, 2, 0};
    assert_memory_equal(wire + 116, home_and_priority, sizeof home_and_priority);
    static const uint8_t age[] = {0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11};
    assert_memory_equal(wire + 120, age, sizeof age);
}

static void random_tickets_survive_the_wire(void **state)
{
    srand(11);
    for (int i = 0; i < 20000; i++) {
        uint8_t wire[TICKET_BYTES], again[TICKET_BYTES];
        struct ticket ticket = full_ticket();
        ticket_encode(&ticket, wire);
        for (int at = 16; at < 56; at++) wire[at] = (uint8_t)rand();
        for (int at = 64; at < 76; at++) wire[at] = (uint8_t)rand();
        for (int at = 96; at < 112; at++) wire[at] = (uint8_t)rand();
        for (int at = 116; at < 128; at++) wire[at] = (uint8_t)rand();
        assert_int_equal(ticket_decode(wire, sizeof wire, &ticket, NULL), STATUS_OK);
        ticket_encode(&ticket, again);
        assert_memory_equal(wire, again, sizeof wire);
    }
}

static void a_changed_byte_gives_the_same_bytes_again_or_is_refused(void **state)
{
    uint8_t good[TICKET_BYTES];
    struct ticket ticket = full_ticket();
    ticket_encode(&ticket, good);
    int refused = 0;
    for (int at = 0; at < TICKET_BYTES; at++) {
        for (int change = 1; change < 256; change++) {
            uint8_t wire[TICKET_BYTES], again[TICKET_BYTES];
            memcpy(wire, good, sizeof wire);
            wire[at] ^= (uint8_t)change;
            struct ticket decoded;
            memset(&decoded, 0x5a, sizeof decoded);
            struct ticket untouched = decoded;
            struct error error = {0};
            if (ticket_decode(wire, sizeof wire, &decoded, &error) == STATUS_OK) {
                ticket_encode(&decoded, again);
                assert_memory_equal(wire, again, sizeof wire);
            } else {
                assert_memory_equal(&decoded, &untouched, sizeof decoded);
                assert_true(error.text[0] != '\0');
                refused++;
            }
        }
    }
    assert_true(refused > (4 + 2 + 2 + 4 + 3) * 255); /* magic, version, reserved, flags at least */
}

static void assert_refused(const struct ticket *ticket, status_t status)
{
    uint8_t wire[TICKET_BYTES];
    struct ticket decoded;
    ticket_encode(ticket, wire);
    assert_int_equal(ticket_decode(wire, sizeof wire, &decoded, NULL), status);
}

static void values_that_mean_nothing_are_refused(void **state)
{
    struct ticket good = full_ticket(), bad = good;
    bad.kind = 0;
    assert_refused(&bad, STATUS_CORRUPT);
    bad.kind = TICKET_FETCH - 1;
    assert_refused(&bad, STATUS_CORRUPT);
    bad.kind = TICKET_STOP + 1;
    assert_refused(&bad, STATUS_CORRUPT);
    bad.kind = TICKET_TURN + 1;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.dtype = TICKET_RAW + 1;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.dtype = TICKET_NO_DATA;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.flags = 16;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.flags = TICKET_ON_DEVICE | TICKET_YIELDS;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.timestep = NAN;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.timestep = -INFINITY;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.row_count++;
    assert_refused(&bad, STATUS_CORRUPT);
    bad = good, bad.text_bytes = 5, bad.bytes = 4;
    assert_refused(&bad, STATUS_CORRUPT);
}

static void another_version_is_unsupported_and_named(void **state)
{
    struct ticket ticket = full_ticket();
    uint8_t wire[TICKET_BYTES];
    ticket_encode(&ticket, wire);
    wire[4] = 9;
    struct error error;
    assert_int_equal(ticket_decode(wire, sizeof wire, &ticket, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "version 9"));
}

static void any_other_length_is_refused(void **state)
{
    struct ticket ticket = full_ticket();
    uint8_t wire[TICKET_BYTES + 1] = {0};
    ticket_encode(&ticket, wire);
    for (size_t length = 0; length <= sizeof wire; length++)
        assert_int_equal(ticket_decode(wire, length, &ticket, NULL),
                         length == TICKET_BYTES ? STATUS_OK : STATUS_CORRUPT);
}

static void an_envelope_survives_the_wire_and_nothing_else_is_one(void **state)
{
    struct envelope sent = {
        .kind = ENVELOPE_CHUNK, .from = 1023, .number = 64, .epoch = UINT64_MAX - 1, .place = 1ULL << 50};
    uint8_t wire[ENVELOPE_BYTES];
    envelope_encode(&sent, wire);
    struct envelope received;
    assert_true(envelope_decode(wire, sizeof wire, &received));
    assert_true(received.kind == sent.kind && received.from == sent.from && received.number == sent.number);
    assert_true(received.epoch == sent.epoch && received.place == sent.place);
    for (size_t length = 0; length < ENVELOPE_BYTES; length++)
        assert_false(envelope_decode(wire, length, &received));
    for (int at = 0; at < 8; at++) {
        uint8_t bad[ENVELOPE_BYTES];
        memcpy(bad, wire, sizeof bad);
        bad[at] = 0xee;
        assert_false(envelope_decode(bad, sizeof bad, &received));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_survives_the_wire),
        cmocka_unit_test(the_bytes_are_little_endian_at_fixed_places),
        cmocka_unit_test(random_tickets_survive_the_wire),
        cmocka_unit_test(a_changed_byte_gives_the_same_bytes_again_or_is_refused),
        cmocka_unit_test(values_that_mean_nothing_are_refused),
        cmocka_unit_test(another_version_is_unsupported_and_named),
        cmocka_unit_test(any_other_length_is_refused),
        cmocka_unit_test(an_envelope_survives_the_wire_and_nothing_else_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
