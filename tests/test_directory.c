/* test_directory.c - who has what, leases, losses, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "coordinator/tier/directory.h"
#include "tests/tier_rig.h"

enum { RANKS = 8, ITEMS = 1 << 10, ANN = 1, BOB = 2 };

static int setup(void **state)
{
    struct directory *directory;
    assert_int_equal(directory_open(RANKS, ITEMS, &directory, NULL), STATUS_OK);
    *state = directory;
    return 0;
}

static int teardown(void **state)
{
    directory_close(*state);
    return 0;
}

static struct directory_item item_of(uint64_t number)
{
    return (struct directory_item){.key = tier_rig_key(number, ITEM_TEXT, ANN),
                                   .bytes = 1000 + number,
                                   .xxh3 = 77 * number,
                                   .seconds = 2};
}

static void note(struct directory *d, uint32_t rank, uint64_t number)
{
    struct directory_item item = item_of(number);
    directory_note(d, rank, &item);
}

static int holders(const struct directory *d, uint64_t number)
{
    struct key key = item_of(number).key;
    uint32_t ranks[DIRECTORY_HOLDERS];
    return directory_holders(d, &key, ranks, DIRECTORY_HOLDERS, NULL);
}

static bool lease_of(struct directory *d, uint64_t number, uint32_t asker, int64_t now_ns,
                     struct directory_lease *lease)
{
    struct key key = item_of(number).key;
    return directory_lease(d, &key, asker, now_ns, SECOND_NS, lease);
}

static struct directory_stats stats_of(const struct directory *d)
{
    struct directory_stats stats;
    directory_stats(d, &stats);
    return stats;
}

static void a_lease_names_a_holder_and_what_it_has(void **state)
{
    struct directory *d = *state;
    struct directory_lease lease;
    note(d, 3, 1);
    assert_true(lease_of(d, 1, 0, 0, &lease));
    assert_int_equal(lease.holder, 3);
    assert_int_equal(lease.item.bytes, 1001);
    assert_int_equal(lease.item.xxh3, 77);
    struct key key = item_of(1).key;
    assert_true(key_equal(&lease.item.key, &key));
    assert_false(lease_of(d, 1, 3, 0, &lease)); /* nobody but the asker has it */
    assert_false(lease_of(d, 2, 0, 0, &lease));
    assert_int_equal(stats_of(d).asked, 3);
    assert_int_equal(stats_of(d).answered, 1);
}

static void of_several_holders_the_one_with_the_fewest_leases_is_named(void **state)
{
    struct directory *d = *state;
    struct directory_lease lease[4];
    int named[RANKS] = {0};
    for (uint32_t rank = 1; rank <= 4; rank++) note(d, rank, 1);
    for (int i = 0; i < 4; i++) {
        assert_true(lease_of(d, 1, 0, 0, &lease[i]));
        named[lease[i].holder]++;
    }
    for (int rank = 1; rank <= 4; rank++) assert_int_equal(named[rank], 1);
    directory_end(d, lease[2].number, false);
    uint32_t free_again = lease[2].holder;
    assert_true(lease_of(d, 1, 0, 0, &lease[2]));
    assert_int_equal(lease[2].holder, free_again);
}

static void a_holder_that_is_stale_is_struck_out_and_the_others_stay(void **state)
{
    struct directory *d = *state;
    struct directory_lease lease;
    note(d, 1, 1);
    note(d, 2, 1);
    assert_true(lease_of(d, 1, 0, 0, &lease));
    directory_end(d, lease.number, true);
    assert_int_equal(holders(d, 1), 1);
    uint32_t gone = lease.holder;
    assert_true(lease_of(d, 1, 0, 0, &lease));
    assert_int_not_equal(lease.holder, gone);
    directory_end(d, lease.number, true);
    directory_end(d, lease.number, true); /* twice, and one that never was */
    directory_end(d, 123456789, true);
    directory_end(d, 0, true);
    assert_int_equal(stats_of(d).items, 0);
    assert_int_equal(stats_of(d).leases, 0);
}

static void leases_end_by_themselves_and_there_is_a_bound_on_them(void **state)
{
    struct directory *d = *state;
    struct directory_lease lease;
    note(d, 1, 1);
    for (int i = 0; i < DIRECTORY_LEASES; i++) assert_true(lease_of(d, 1, 0, 5, &lease));
    assert_false(lease_of(d, 1, 0, 5, &lease));
    assert_int_equal(stats_of(d).leases, DIRECTORY_LEASES);
    assert_true(lease_of(d, 1, 0, 5 + SECOND_NS, &lease));
    assert_true(stats_of(d).leases <= DIRECTORY_LEASES);
}

static void what_a_lost_rank_had_is_gone_and_only_that(void **state)
{
    struct directory *d = *state;
    struct key key = item_of(5).key;
    for (uint64_t i = 0; i < 100; i++) {
        note(d, 1, i);
        if (i % 2) note(d, 2, i);
    }
    directory_drop(d, 1);
    for (uint64_t i = 0; i < 100; i++) assert_int_equal(holders(d, i), i % 2);
    assert_int_equal(stats_of(d).items, 50);
    assert_int_equal(stats_of(d).copies, 50);
    directory_gone(d, 2, &key);
    directory_gone(d, 2, &key);
    key = item_of(7).key;
    directory_gone(d, 7, &key);
    assert_int_equal(stats_of(d).items, 49);
    directory_drop(d, 2);
    assert_int_equal(stats_of(d).items, 0);
    assert_int_equal(stats_of(d).copies, 0);
}

static void another_hash_or_size_makes_the_earlier_copies_count_no_more(void **state)
{
    struct directory *d = *state;
    struct directory_item other = item_of(1);
    note(d, 1, 1);
    note(d, 2, 1);
    other.xxh3++;
    directory_note(d, 3, &other);
    assert_int_equal(holders(d, 1), 1);
    struct directory_lease lease;
    assert_true(lease_of(d, 1, 0, 0, &lease));
    assert_int_equal(lease.holder, 3);
    assert_int_equal(lease.item.xxh3, other.xxh3);
}

static void more_holders_than_are_kept_and_ranks_that_are_not_do_no_harm(void **state)
{
    struct directory *d = *state;
    for (uint32_t rank = 0; rank < RANKS; rank++) note(d, rank, 1);
    note(d, RANKS, 1);
    note(d, UINT32_MAX, 2);
    assert_int_equal(holders(d, 1), DIRECTORY_HOLDERS);
    assert_int_equal(holders(d, 2), 0);
    for (uint32_t rank = 0; rank < RANKS; rank++) directory_drop(d, rank);
    assert_int_equal(stats_of(d).items, 0);
}

static void when_it_is_full_the_oldest_makes_room(void **state)
{
    struct directory *d = *state;
    for (uint64_t i = 0; i < ITEMS + 10; i++) note(d, 1, i);
    assert_int_equal(stats_of(d).items, ITEMS);
    assert_int_equal(stats_of(d).overwritten, 10);
    for (uint64_t i = 0; i < ITEMS + 10; i++) assert_int_equal(holders(d, i), i >= 10);
}

static void keys_of_two_tenants_or_kinds_are_two_items(void **state)
{
    struct directory *d = *state;
    struct directory_lease lease;
    struct key bobs = tier_rig_key(1, ITEM_TEXT, BOB), other_kind = tier_rig_key(1, ITEM_LATENT, ANN);
    note(d, 1, 1);
    assert_false(directory_lease(d, &bobs, 0, 0, SECOND_NS, &lease));
    assert_false(directory_lease(d, &other_kind, 0, 0, SECOND_NS, &lease));
    directory_gone(d, 1, &bobs);
    assert_int_equal(holders(d, 1), 1);
}

/* Against an array of sets. */
static void it_agrees_with_a_table_over_random_changes(void **state)
{
    enum { KEYS = 200 };
    struct directory *d = *state;
    static bool has[KEYS][DIRECTORY_HOLDERS];
    srand(7);
    for (int i = 0; i < 50000; i++) {
        uint64_t number = (uint64_t)rand() % KEYS;
        uint32_t rank = (uint32_t)rand() % DIRECTORY_HOLDERS;
        struct key key = item_of(number).key;
        if (i % 5000 == 4999) {
            directory_drop(d, rank);
            for (int k = 0; k < KEYS; k++) has[k][rank] = false;
        } else if (rand() % 2) {
            note(d, rank, number);
            has[number][rank] = true;
        } else {
            directory_gone(d, rank, &key);
            has[number][rank] = false;
        }
        int expected = 0;
        for (int r = 0; r < DIRECTORY_HOLDERS; r++) expected += has[number][r];
        assert_int_equal(holders(d, number), expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_lease_names_a_holder_and_what_it_has, setup, teardown),
        cmocka_unit_test_setup_teardown(of_several_holders_the_one_with_the_fewest_leases_is_named, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_holder_that_is_stale_is_struck_out_and_the_others_stay, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(leases_end_by_themselves_and_there_is_a_bound_on_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_a_lost_rank_had_is_gone_and_only_that, setup, teardown),
        cmocka_unit_test_setup_teardown(another_hash_or_size_makes_the_earlier_copies_count_no_more, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(more_holders_than_are_kept_and_ranks_that_are_not_do_no_harm, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(when_it_is_full_the_oldest_makes_room, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_of_two_tenants_or_kinds_are_two_items, setup, teardown),
        cmocka_unit_test_setup_teardown(it_agrees_with_a_table_over_random_changes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
