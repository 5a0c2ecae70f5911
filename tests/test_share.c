/*
 * test_share.c - whether home or stage goes first on a rank that is both (rules/share.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/clock.h"
#include "rules/share.h"

enum { LOW, NORMAL, HIGH, NO_HOP = -1 };

#define HOP_NS (7 * MILLISECOND_NS)

static void whoever_alone_has_something_goes_first(void **state)
{
    const struct share busy = {.steps_ns = SECOND_NS, .beside_ns = SECOND_NS};
    assert_true(share_home_first(&busy, PIECE_LIGHT, NORMAL, NO_HOP));
    assert_true(share_home_first(&busy, PIECE_DECODE, LOW, NO_HOP));
    assert_false(share_home_first(&(struct share){0}, PIECE_NONE, NORMAL, NORMAL));
    assert_false(share_home_first(&(struct share){0}, PIECE_NONE, NORMAL, NO_HOP));
}

static void what_is_sent_goes_before_any_hop(void **state)
{
    const struct share busy = {.steps_ns = SECOND_NS, .beside_ns = SECOND_NS};
    assert_true(share_home_first(&busy, PIECE_SEND, LOW, HIGH));
}

static void the_higher_priority_goes_first_whatever_was_served(void **state)
{
    const struct share busy = {.steps_ns = SECOND_NS, .beside_ns = SECOND_NS},
                       idle = {.steps_ns = -SECOND_NS};
    assert_true(share_home_first(&busy, PIECE_DECODE, HIGH, NORMAL));
    assert_true(share_home_first(&busy, PIECE_LIGHT, NORMAL, LOW));
    assert_false(share_home_first(&idle, PIECE_DECODE, NORMAL, HIGH));
    assert_false(share_home_first(&idle, PIECE_LIGHT, LOW, NORMAL));
}

/* Time of each when all have something all the time, `piece` being home's. */
static double measure_share(enum job_piece piece, int64_t piece_ns)
{
    struct share share = {0};
    int64_t home_ns = 0, stage_ns = 0;
    while (stage_ns < 100 * SECOND_NS) {
        if (share_home_first(&share, piece, NORMAL, NORMAL)) {
            share_charge_home(&share, piece, piece_ns);
            home_ns += piece_ns;
        } else {
            share_charge_stage(&share, HOP_NS);
            stage_ns += HOP_NS;
        }
    }
    return (double)home_ns / (double)(home_ns + stage_ns);
}

static void steps_of_home_come_to_a_fifth_of_the_time_beside_hops(void **state)
{
    for (int64_t ns = MILLISECOND_NS / 10; ns < SECOND_NS; ns *= 3) {
        double found = measure_share(PIECE_LIGHT, ns);
        if (found < 0.19 || found > 0.21)
            fail_msg("pieces of %.1f ms: %.3f of the time", (double)ns / 1e6, found);
    }
}

static void a_decoded_frame_waits_for_no_more_than_24_times_as_long_as_the_last_one(void **state)
{
    static const enum job_piece pieces[] = {PIECE_TEXT, PIECE_DECODE, PIECE_FILES};
    for (int i = 0; i < 3; i++) {
        double found = measure_share(pieces[i], 22 * MILLISECOND_NS);
        if (found < 0.039 || found > 0.041) fail_msg("%.3f of the time", found);
    }
}

static void steps_of_home_count_as_well_as_hops_before_the_next_frame(void **state)
{
    struct share share = {0};
    share_charge_home(&share, PIECE_DECODE, MILLISECOND_NS);
    share_charge_stage(&share, 8 * MILLISECOND_NS);
    share_charge_home(&share, PIECE_LIGHT, 7 * MILLISECOND_NS);
    assert_false(share_home_first(&share, PIECE_DECODE, NORMAL, NORMAL));
    share_charge_home(&share, PIECE_LIGHT, 10 * MILLISECOND_NS);
    assert_true(share_home_first(&share, PIECE_DECODE, NORMAL, NORMAL));
}

static void frames_that_were_decoded_when_there_was_nothing_else_are_not_paid_for_one_by_one(void **state)
{
    struct share share = {0};
    for (int i = 0; i < 1000; i++) share_charge_home(&share, PIECE_DECODE, MILLISECOND_NS);
    share_charge_stage(&share, 24 * MILLISECOND_NS);
    assert_true(share_home_first(&share, PIECE_DECODE, NORMAL, NORMAL));
}

static void time_without_work_is_not_saved_up(void **state)
{
    struct share share = {0};
    for (int i = 0; i < 1000; i++) {
        share_charge_stage(&share, SECOND_NS);
        share_settle(&share);
    }
    assert_false(share_home_first(&share, PIECE_LIGHT, NORMAL, NORMAL));
    share_charge_home(&share, PIECE_DECODE, MILLISECOND_NS);
    assert_false(share_home_first(&share, PIECE_DECODE, NORMAL, NORMAL));
}

static void jobs_that_began_one_after_the_other_share_alike_and_older_ones_go_first(void **state)
{
    for (uint64_t first = 0; first < 64; first += 4)
        for (uint64_t a = first; a < first + 4; a++) {
            for (uint64_t b = first; b < first + 4; b++) assert_false(share_elder(a, b, 4));
            assert_true(share_elder(a, first + 4, 4));
            assert_false(share_elder(first + 4, a, 4));
        }
    assert_true(share_elder(7, 8, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_alone_has_something_goes_first),
        cmocka_unit_test(what_is_sent_goes_before_any_hop),
        cmocka_unit_test(the_higher_priority_goes_first_whatever_was_served),
        cmocka_unit_test(steps_of_home_come_to_a_fifth_of_the_time_beside_hops),
        cmocka_unit_test(a_decoded_frame_waits_for_no_more_than_24_times_as_long_as_the_last_one),
        cmocka_unit_test(jobs_that_began_one_after_the_other_share_alike_and_older_ones_go_first),
        cmocka_unit_test(steps_of_home_count_as_well_as_hops_before_the_next_frame),
        cmocka_unit_test(frames_that_were_decoded_when_there_was_nothing_else_are_not_paid_for_one_by_one),
        cmocka_unit_test(time_without_work_is_not_saved_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
