/*
 * test_links.c - the links between ranks: who is measured when, what is kept, and a real measurement through the service.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/planner/links.h"

enum { MOST = 40 };

static void begin(struct links *links, uint32_t seats, uint32_t ranks, uint64_t epoch, int64_t now_ns)
{
    struct error error;
    uint32_t seat[MOST];
    for (uint32_t i = 0; i < ranks; i++) seat[i] = i;
    assert_int_equal(links_begin(links, seats, seat, ranks, epoch, now_ns, &error), STATUS_OK);
}

/* Answers all that is asked for in this round, in the time that it takes; how many there were. */
static uint32_t answer(struct links *links, double bytes_per_second)
{
    uint32_t answered = 0, peer;
    bool busy[MOST] = {false};
    for (uint32_t rank = 0; rank < links->ranks; rank++) {
        if (!links_asks(links, rank, &peer)) continue;
        assert_true(peer > rank && peer < links->ranks);
        assert_false(busy[rank] || busy[peer]);
        busy[rank] = busy[peer] = true;
        links_answer(links, rank, peer, bytes_per_second, 2e-5);
        answered++;
    }
    return answered;
}

static void every_pair_meets_once_and_no_rank_has_two_partners(void **state)
{
    for (uint32_t ranks = 2; ranks <= MOST; ranks++) {
        uint8_t met[MOST][MOST] = {{0}};
        assert_int_equal(links_rounds(ranks), ranks % 2 ? ranks : ranks - 1);
        for (uint32_t round = 0; round < links_rounds(ranks); round++)
            for (uint32_t rank = 0; rank < ranks; rank++) {
                uint32_t partner = links_partner(ranks, round, rank);
                if (partner >= ranks) continue;
                assert_int_not_equal(partner, rank);
                assert_int_equal(links_partner(ranks, round, partner), rank);
                met[rank][partner]++;
            }
        for (uint32_t a = 0; a < ranks; a++)
            for (uint32_t b = 0; b < ranks; b++) assert_int_equal(met[a][b], a != b);
    }
}

static void all_pairs_are_measured_once_while_nothing_else_is_done(void **state)
{
    for (uint32_t ranks = 2; ranks <= 9; ranks++) {
        struct links links = {0};
        struct link link;
        uint32_t rounds = 0, pairs = 0;
        begin(&links, ranks, ranks, 1, 1);
        assert_false(links_turn(&links, false, 2));
        while (links_turn(&links, true, 3)) {
            pairs += answer(&links, 1e9);
            assert_true(++rounds <= ranks);
        }
        assert_int_equal(pairs, ranks * (ranks - 1) / 2);
        for (uint32_t a = 0; a < ranks; a++)
            for (uint32_t b = 0; b < ranks; b++) assert_int_equal(links_find(&links, a, b, &link), a != b);
        assert_false(links_turn(&links, true, LINKS_RETRY_NS + 4)); /* soon there is nothing to be done */
        assert_true(links_turn(&links, true, LINKS_AGAIN_NS + 4));
        links_close(&links);
    }
}

static void a_second_measurement_counts_for_half(void **state)
{
    struct links links = {0};
    struct link link;
    begin(&links, 2, 2, 1, 1);
    assert_true(links_turn(&links, true, 1));
    answer(&links, 1e9);
    assert_false(links_turn(&links, true, 2));
    assert_true(links_turn(&links, true, LINKS_AGAIN_NS + 2));
    answer(&links, 3e9);
    assert_true(links_find(&links, 1, 0, &link));
    assert_true(fabs(link.bytes_per_second - 2e9) < 1e4);
    assert_true(fabs(link.latency - 2e-5) < 1e-9);
    links_close(&links);
}

static void work_ends_a_round_and_what_comes_of_it_does_not_count(void **state)
{
    struct links links = {0};
    struct link link;
    begin(&links, 4, 4, 1, 1);
    assert_true(links_turn(&links, true, 1));
    assert_false(links_turn(&links, false, 2));
    assert_int_equal(answer(&links, 1e9), 0);
    links_answer(&links, 0, links_partner(4, 0, 0), 1e9, 1e-5);
    for (uint32_t a = 1; a < 4; a++) assert_false(links_find(&links, 0, a, &link));
    assert_true(links_turn(&links, true, 3)); /* the same round once more */
    assert_int_equal(answer(&links, 1e9), 2);
    links_close(&links);
}

static void a_rank_that_does_not_answer_holds_up_nobody_for_long(void **state)
{
    struct links links = {0};
    struct link link;
    uint32_t peer;
    begin(&links, 3, 3, 1, 1);
    int64_t now_ns = 1;
    for (int round = 0; round < 3; round++) {
        assert_true(links_turn(&links, true, now_ns));
        for (uint32_t rank = 1; rank < 3; rank++) /* rank 0 says nothing */
            if (links_asks(&links, rank, &peer)) links_answer(&links, rank, peer, 1e9, 1e-5);
        if (links.waiting) assert_false(links_turn(&links, true, now_ns + LINKS_ROUND_NS - 1));
        now_ns += LINKS_ROUND_NS;
    }
    assert_false(links_turn(&links, true, now_ns));
    assert_true(links_find(&links, 1, 2, &link));
    assert_false(links_find(&links, 0, 1, &link));
    assert_true(links_turn(&links, true, now_ns + LINKS_RETRY_NS)); /* the others are tried again */
    assert_int_equal(answer(&links, 1e9), 1);
    links_close(&links);
}

static void numbers_that_cannot_be_are_not_kept(void **state)
{
    const double rates[] = {0, -1, NAN, INFINITY, 1e300}, latencies[] = {-1e-9, NAN, INFINITY, 11};
    struct link link;
    for (size_t i = 0; i < sizeof rates / sizeof *rates + sizeof latencies / sizeof *latencies; i++) {
        struct links links = {0};
        size_t rate_count = sizeof rates / sizeof *rates;
        begin(&links, 2, 2, 1, 1);
        assert_true(links_turn(&links, true, 1));
        links_answer(&links, 0, 1, i < rate_count ? rates[i] : 1e9,
                     i < rate_count ? 1e-5 : latencies[i - rate_count]);
        assert_false(links_find(&links, 0, 1, &link));
        links_answer(&links, 0, 7, 1e9, 1e-5); /* not asked for */
        links_answer(&links, 9, 0, 1e9, 1e-5);
        links_answer(&links, 1, 0, 1e9, 1e-5);
        assert_false(links_find(&links, 0, 1, &link));
        links_close(&links);
    }
}

/* A rank is replaced: what is known stays. It comes back on another host: its links are measured, and no others. */
static void links_are_kept_by_seat_until_it_is_on_another_host(void **state)
{
    struct links links = {0};
    struct link link;
    begin(&links, 4, 4, 1, 1);
    while (links_turn(&links, true, 1)) answer(&links, 1e9);
    begin(&links, 4, 3, 2, 1); /* one was drained */
    assert_false(links_turn(&links, true, 1));
    assert_true(links_find(&links, 0, 3, &link));
    begin(&links, 4, 4, 3, 1);
    assert_false(links_turn(&links, true, 1));
    links_forget(&links, 1);
    assert_false(links_find(&links, 1, 3, &link));
    assert_true(links_find(&links, 0, 3, &link));
    begin(&links, 4, 4, 4, 1);
    uint32_t pairs = 0;
    while (links_turn(&links, true, 1)) pairs += answer(&links, 1e9);
    assert_int_equal(pairs, 3);
    links_close(&links);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_meets_once_and_no_rank_has_two_partners),
        cmocka_unit_test(all_pairs_are_measured_once_while_nothing_else_is_done),
        cmocka_unit_test(a_second_measurement_counts_for_half),
        cmocka_unit_test(work_ends_a_round_and_what_comes_of_it_does_not_count),
        cmocka_unit_test(a_rank_that_does_not_answer_holds_up_nobody_for_long),
        cmocka_unit_test(numbers_that_cannot_be_are_not_kept),
        cmocka_unit_test(links_are_kept_by_seat_until_it_is_on_another_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
