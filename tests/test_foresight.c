/*
 * test_foresight.c - what predictions are made from: the time of a block by size (pace.h), and jobs that are still to come (stream.h).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "coordinator/foresight/pace.h"
#include "coordinator/foresight/stream.h"

static void hear(struct paces *paces, int64_t now_ns, uint32_t tokens, double block_ns)
{
    Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
    Refrain__BlockPace pace = REFRAIN__BLOCK_PACE__INIT, *list[] = {&pace};
    pace.has_tokens = pace.has_block_ns = 1;
    pace.tokens = tokens;
    pace.block_ns = block_ns;
    beat.n_paces = 1;
    beat.paces = list;
    paces_hear(paces, &beat, now_ns);
}

static const double linear[PACE_TERMS] = {0, 1, 0}, square[PACE_TERMS] = {0, 1, 0.01};

static void a_size_that_was_computed_takes_what_it_took(void **state)
{
    struct paces paces = {0};
    assert_true(paces_block(&paces, 80, linear) == 0);
    hear(&paces, SECOND_NS, 80, 1700);
    hear(&paces, SECOND_NS, 48, 1300);
    assert_true(paces_block(&paces, 80, linear) == 1700);
    assert_true(paces_block(&paces, 48, linear) == 1300);
}

static void another_size_follows_the_operations_of_the_nearest(void **state)
{
    struct paces paces = {0};
    hear(&paces, SECOND_NS, 100, 2000);
    assert_true(fabs(paces_block(&paces, 200, linear) - 4000) < 1e-6);
    assert_true(fabs(paces_block(&paces, 200, square) - 2000 * 600.0 / 200) < 1e-6);
    hear(&paces, SECOND_NS, 400, 9000);
    assert_true(fabs(paces_block(&paces, 300, linear) - 9000 * 3.0 / 4) < 1e-6);
}

/* The first words are averaged; later a disturbance of a moment changes little, and lasting change counts after some seconds. */
static void a_moment_of_disturbance_is_smoothed(void **state)
{
    struct paces paces = {0};
    int64_t now_ns = SECOND_NS;
    for (int i = 0; i < 60; i++, now_ns += SECOND_NS / 2) hear(&paces, now_ns, 80, 1000 + i % 2);
    hear(&paces, now_ns, 80, 2000);
    assert_true(paces_block(&paces, 80, linear) < 1060);
    for (int i = 0; i < 80; i++, now_ns += SECOND_NS / 2) hear(&paces, now_ns, 80, 2000 + i % 2);
    assert_true(paces_block(&paces, 80, linear) > 1950);
}

static void what_makes_no_sense_is_left_out(void **state)
{
    struct paces paces = {0};
    hear(&paces, SECOND_NS, 0, 1000);
    hear(&paces, SECOND_NS, 80, -1);
    hear(&paces, SECOND_NS, 80, NAN);
    hear(&paces, SECOND_NS, 80, INFINITY);
    assert_true(paces_block(&paces, 80, linear) == 0);
    for (uint32_t i = 1; i <= 3 * PACES_KEPT; i++)
        hear(&paces, i * SECOND_NS, i, 1000.0 * i); /* the oldest make room */
    assert_true(fabs(paces_block(&paces, 3 * PACES_KEPT, linear) - 3000.0 * PACES_KEPT) < 1e-6);
}

static void of_a_stream_as_many_again_are_expected(void **state)
{
    struct stream stream = {0};
    int64_t gap_ns, now_ns = 5 * SECOND_NS;
    assert_int_equal(stream_expected(&stream, now_ns, &gap_ns), 0);
    for (uint32_t i = 1; i <= 12; i++, now_ns += SECOND_NS / 10) {
        stream_note(&stream, now_ns);
        assert_int_equal(stream_expected(&stream, now_ns, &gap_ns), i - 1);
    }
    assert_int_equal(gap_ns, SECOND_NS / 10);
    assert_int_equal(stream_expected(&stream, now_ns + SECOND_NS / 5, &gap_ns), 11);
    assert_int_equal(stream_expected(&stream, now_ns + SECOND_NS, &gap_ns), 0); /* it is over */
}

static void the_next_stream_is_expected_to_be_as_long_as_the_last_ones(void **state)
{
    struct stream stream = {0};
    int64_t gap_ns, now_ns = SECOND_NS;
    for (int i = 0; i < 8; i++, now_ns += SECOND_NS / 100) stream_note(&stream, now_ns);
    now_ns += 60 * SECOND_NS;
    stream_note(&stream, now_ns);
    assert_int_equal(stream_expected(&stream, now_ns, &gap_ns), 7);
    assert_int_equal(stream_expected(&stream, now_ns + SECOND_NS, &gap_ns), 0); /* it was one job alone */
    for (int i = 0; i < 5; i++) stream_note(&stream, now_ns += 60 * SECOND_NS);
    assert_int_equal(stream_expected(&stream, now_ns, &gap_ns), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_that_was_computed_takes_what_it_took),
        cmocka_unit_test(another_size_follows_the_operations_of_the_nearest),
        cmocka_unit_test(a_moment_of_disturbance_is_smoothed),
        cmocka_unit_test(what_makes_no_sense_is_left_out),
        cmocka_unit_test(of_a_stream_as_many_again_are_expected),
        cmocka_unit_test(the_next_stream_is_expected_to_be_as_long_as_the_last_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
