/* test_copies.c - second copies: which rank is told to fetch which item, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include "coordinator/tier/copies.h"

enum { RANKS = 4, MB = 1000000 };

static struct key key_of(uint64_t number)
{
    return (struct key){.low = number, .tenant = 5, .kind = ITEM_TEXT, .format = KEY_FORMAT};
}

struct here {
    struct directory *directory;
    struct copies copies;
    struct copies_rank ranks[RANKS];
};

static int setup(void **state)
{
    static struct here here;
    here = (struct here){0};
    assert_int_equal(directory_open(RANKS, 1 << 10, &here.directory, NULL), STATUS_OK);
    for (uint32_t i = 0; i < RANKS; i++)
        here.ranks[i] = (struct copies_rank){
            .seat = i, .host = "one", .limit_bytes = 100 * MB, .used_bytes = (RANKS - i) * 10 * MB};
    *state = &here;
    return 0;
}

static int teardown(void **state)
{
    directory_close(((struct here *)*state)->directory);
    return 0;
}

static void note(struct here *here, uint32_t rank, uint64_t number, uint64_t bytes)
{
    struct directory_item item = {.key = key_of(number), .bytes = bytes, .xxh3 = 1, .seconds = 1};
    directory_note(here->directory, rank, &item);
}

static void want(struct here *here, uint32_t rank, uint64_t number, uint64_t bytes)
{
    struct key key = key_of(number);
    note(here, rank, number, bytes);
    copies_want(&here->copies, &key);
}

/* The rank that is told, and of which item; -1: nothing is to be done. */
static int next(struct here *here, int64_t now_ns, uint64_t *number)
{
    struct copies_order order;
    if (!copies_next(&here->copies, here->directory, here->ranks, RANKS, now_ns, &order)) return -1;
    *number = order.key.low;
    return (int)order.rank;
}

static void the_rank_with_the_most_room_is_told_and_one_item_at_a_time(void **state)
{
    struct here *here = *state;
    uint64_t number;
    want(here, 0, 1, MB);
    want(here, 3, 2, MB);
    assert_int_equal(next(here, 0, &number), 3);
    assert_int_equal(number, 1);
    assert_int_equal(next(here, SECOND_NS, &number), -1); /* it has not come */
    note(here, 3, 1, MB);
    assert_int_equal(next(here, SECOND_NS, &number), 2);
    assert_int_equal(number, 2);
    assert_int_equal(next(here, SECOND_NS + COPIES_PATIENCE_NS, &number), -1); /* given up, nothing else */
    want(here, 1, 3, MB);
    assert_int_equal(next(here, SECOND_NS + COPIES_PATIENCE_NS, &number), 3);
}

static void no_more_than_so_many_bytes_a_second_are_copied(void **state)
{
    struct here *here = *state;
    uint64_t number;
    int64_t second = (int64_t)(1e9 * 40 * MB / COPIES_BYTES_PER_SECOND);
    want(here, 0, 1, 40 * MB);
    want(here, 0, 2, MB);
    assert_int_equal(next(here, 0, &number), 3);
    note(here, 3, 1, 40 * MB);
    assert_int_equal(next(here, second - 1, &number), -1);
    assert_int_equal(next(here, second, &number), 3);
}

static void another_host_goes_before_more_room(void **state)
{
    struct here *here = *state;
    uint64_t number;
    here->ranks[1].host = "other";
    want(here, 0, 1, MB);
    assert_int_equal(next(here, 0, &number), 1);
}

static void what_two_have_or_nobody_is_not_copied_and_what_fits_nowhere_waits(void **state)
{
    struct here *here = *state;
    uint64_t number;
    struct key none = key_of(9);
    want(here, 0, 1, MB);
    note(here, 2, 1, MB);
    copies_want(&here->copies, &none);
    want(here, 0, 2, 51 * MB);
    assert_int_equal(next(here, 0, &number), -1);
    for (int i = 0; i < RANKS; i++) here->ranks[i].limit_bytes = 0; /* their tiers are off */
    want(here, 0, 3, MB);
    assert_int_equal(next(here, 0, &number), -1);
    assert_int_equal(here->copies.count, 2);
    here->ranks[1].limit_bytes = 10 * MB; /* one has said what it may keep */
    assert_int_equal(next(here, 0, &number), 1);
    assert_int_equal(number, 3);
}

/* Holder and target may go at any time. */
static void ranks_that_go_do_not_hold_up_others_items(void **state)
{
    struct here *here = *state;
    uint64_t number;
    want(here, 0, 1, MB);
    want(here, 1, 2, MB);
    assert_int_equal(next(here, 0, &number), 3);
    directory_drop(here->directory, 0); /* the item is lost */
    assert_int_equal(next(here, SECOND_NS, &number), 3);
    assert_int_equal(number, 2);
    want(here, 1, 3, MB);
    directory_drop(here->directory, 3); /* it will not come */
    assert_int_equal(next(here, 2 * SECOND_NS, &number), -1);
    assert_true(next(here, 2 * SECOND_NS + COPIES_PATIENCE_NS, &number) >= 0);
}

static void more_than_are_remembered_drop_the_oldest_and_none_stands_twice(void **state)
{
    struct here *here = *state;
    uint64_t number;
    for (int i = 0; i < 3; i++) want(here, 0, 1, MB);
    assert_int_equal(here->copies.count, 1);
    for (uint64_t i = 2; i < COPIES_WANTED + 2; i++) want(here, 0, i, MB);
    assert_int_equal(here->copies.count, COPIES_WANTED);
    assert_int_equal(next(here, 0, &number), 3);
    assert_int_equal(number, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_rank_with_the_most_room_is_told_and_one_item_at_a_time),
        TEST(no_more_than_so_many_bytes_a_second_are_copied),
        TEST(another_host_goes_before_more_room),
        TEST(what_two_have_or_nobody_is_not_copied_and_what_fits_nowhere_waits),
        TEST(ranks_that_go_do_not_hold_up_others_items),
        TEST(more_than_are_remembered_drop_the_oldest_and_none_stands_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
