/*
 * test_tier_parts.c - what a store is made of: extents never overlap and join again, the index finds what is in it,
 * worth learns who is asked for again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cache/tier/extents.h"
#include "cache/tier/worth.h"
#include "tests/tier_rig.h"

static uint64_t chance_state;

static uint64_t chance(uint64_t below)
{
    chance_state = chance_state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (chance_state >> 33) % below;
}

/* ------------------------------------------------------------------------------------------------- extents */

enum { UNITS = 4096, MOST = 512 };

/* Every unit belongs to one taken extent or to one hole, and two holes never touch. */
static void check_extents(const struct extents *extents, const uint32_t *taken, int count)
{
    static uint8_t used[UNITS];
    struct extents_stats stats;
    uint32_t holes = 0, free_units = 0, largest = 0, run = 0;
    memset(used, 0, sizeof used);
    for (int i = 0; i < count; i++)
        for (uint32_t unit = 0; unit < extents->extent[taken[i]].size; unit++) {
            uint32_t at = extents->extent[taken[i]].start + unit;
            assert_true(at < UNITS);
            assert_int_equal(used[at]++, 0);
        }
    for (uint32_t at = 0; at <= UNITS; at++) {
        if (at < UNITS && !used[at]) {
            run++;
            continue;
        }
        holes += run > 0;
        free_units += run;
        if (run > largest) largest = run;
        run = 0;
    }
    extents_stats(extents, &stats);
    assert_int_equal(stats.free_bytes, free_units * EXTENT_UNIT);
    assert_int_equal(stats.holes, holes);
    assert_int_equal(stats.largest_hole, largest * EXTENT_UNIT);
}

static void extents_never_overlap_and_holes_join(void **state)
{
    struct extents extents;
    uint32_t taken[MOST];
    int count = 0, refused = 0;
    chance_state = 1;
    assert_int_equal(extents_open(&extents, UNITS * EXTENT_UNIT, MOST, NULL), STATUS_OK);
    for (int round = 0; round < 20000; round++) {
        if (count < MOST && chance(100) < 55) {
            uint64_t bytes = 1 + chance(chance(10) ? 20 * EXTENT_UNIT : 400 * EXTENT_UNIT);
            uint32_t extent = extents_take(&extents, bytes, 7);
            struct extents_stats stats;
            extents_stats(&extents, &stats);
            if (extent == EXTENT_NONE) {
                assert_true(stats.largest_hole < extents_rounded(bytes)); /* no hole was missed */
                refused++;
            } else {
                assert_int_equal(extents_bytes(&extents, extent), extents_rounded(bytes));
                taken[count++] = extent;
            }
        } else if (count) {
            int which = (int)chance((uint64_t)count);
            extents_give(&extents, taken[which]);
            taken[which] = taken[--count];
        }
        if (round % 16 == 0) check_extents(&extents, taken, count);
    }
    assert_true(refused > 100);
    while (count) extents_give(&extents, taken[--count]);
    check_extents(&extents, taken, 0);
    struct extents_stats stats;
    extents_stats(&extents, &stats);
    assert_int_equal(stats.largest_hole, UNITS * EXTENT_UNIT);
    extents_close(&extents);
}

static void little_is_lost_to_holes_when_sizes_differ(void **state)
{
    /* The kinds' sizes for 480p, with a thousandth of the bytes, let go at random from a full arena of 16 MB. */
    static const uint64_t sizes[] = {4096, 8192, 32768, 4096, 131072};
    enum { ARENA = 16 << 20, ITEMS = 8192 };
    struct extents extents;
    struct extents_stats stats;
    static uint32_t taken[ITEMS];
    int count = 0;
    double full = 0;
    int measured = 0;
    chance_state = 2;
    assert_int_equal(extents_open(&extents, ARENA, ITEMS, NULL), STATUS_OK);
    for (int round = 0; round < 20000; round++) {
        uint64_t bytes = sizes[chance(5)] + chance(16) * 256;
        uint32_t extent;
        while ((extent = extents_take(&extents, bytes, 7)) == EXTENT_NONE) {
            extents_stats(&extents, &stats);
            if (round > 5000) full += 1 - (double)stats.free_bytes / ARENA, measured++;
            int which = (int)chance((uint64_t)count);
            extents_give(&extents, taken[which]);
            taken[which] = taken[--count];
        }
        taken[count++] = extent;
    }
    print_message("             an item did not fit while %.1f %% of the arena was taken\n",
                  100 * full / measured);
    assert_true(full / measured > 0.8);
    extents_close(&extents);
}

static void an_arena_has_its_limits(void **state)
{
    struct extents extents;
    struct error error;
    assert_int_equal(extents_open(&extents, 100, 16, &error), STATUS_INVALID);
    assert_int_equal(extents_open(&extents, UINT64_MAX, 16, &error), STATUS_INVALID);
    assert_int_equal(extents_open(&extents, 4 * EXTENT_UNIT, 16, &error), STATUS_OK);
    assert_int_equal(extents_take(&extents, 0, 7), EXTENT_NONE);
    assert_int_equal(extents_take(&extents, UINT64_MAX - 5, 7), EXTENT_NONE);
    assert_int_equal(extents_take(&extents, 4 * EXTENT_UNIT + 1, 7), EXTENT_NONE);
    uint32_t all = extents_take(&extents, 4 * EXTENT_UNIT, 7);
    assert_int_not_equal(all, EXTENT_NONE);
    assert_int_equal(extents_take(&extents, 1, 7), EXTENT_NONE);
    extents_give(&extents, all);
    extents_close(&extents);
}

/* --------------------------------------------------------------------------------------------------- index */

static void a_hundred_thousand_items_are_found_and_others_are_not(void **state)
{
    enum { ITEMS = 100000 };
    struct tier_rig rig = {.config = {.items = ITEMS, .limit_bytes[LEVEL_HOST] = 64 << 20}};
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 1 + i % 512, 1), STATUS_OK);
    }
    for (uint64_t i = 0; i < ITEMS; i += 2) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(store_forget(rig.store, &(struct store_match){.key = &key}), 1);
    }
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1), other = tier_rig_key(i, ITEM_TEXT, 2);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), i % 2 ? MISSES : MISS_ABSENT);
        if (i % 100 == 0) assert_int_equal(tier_rig_get(&rig, &other, LEVEL_HOST), MISS_ABSENT);
    }
    assert_int_equal(store_list(rig.store, &(struct store_match){0}, NULL, NULL), ITEMS / 2);
    tier_rig_close(&rig);
}

/* --------------------------------------------------------------------------------------------------- worth */

static struct habit habit(enum item_kind kind, uint16_t tenant, uint32_t uses)
{
    return (struct habit){.kind = (uint8_t)kind, .tenant = tenant, .uses = uses};
}

static void nothing_seen_yet_the_younger_is_worth_more(void **state)
{
    struct worth worth;
    assert_int_equal(worth_open(&worth, 16, NULL), STATUS_OK);
    double before = worth_rate(&worth, habit(ITEM_TEXT, 0, 0), 0);
    for (double age = 1; age < 1e8; age *= 1.5) {
        double rate = worth_rate(&worth, habit(ITEM_TEXT, 0, 0), age);
        assert_true(rate > 0 && rate <= before);
        assert_true(rate == worth_rate(&worth, habit(ITEM_LATENT, 3, 0), age));
        before = rate;
    }
    worth_close(&worth);
}

static void a_kind_that_comes_back_is_worth_more_than_one_that_does_not(void **state)
{
    struct worth worth;
    assert_int_equal(worth_open(&worth, 16, NULL), STATUS_OK);
    for (int i = 0; i < 500; i++) {
        uint8_t counted = 0;
        worth_reused(&worth, habit(ITEM_TEXT, 0, 0), 100, &counted);
        assert_int_equal(counted, 0);
        worth_waited(&worth, habit(ITEM_LATENT, 0, 0), 100000, &counted);
        assert_true(counted > 0);
    }
    assert_true(worth_rate(&worth, habit(ITEM_TEXT, 0, 0), 10) >
                1000 * worth_rate(&worth, habit(ITEM_LATENT, 0, 0), 10));
    worth_close(&worth);
}

static void what_comes_back_after_an_hour_is_still_worth_keeping_before_that(void **state)
{
    struct worth worth;
    assert_int_equal(worth_open(&worth, 16, NULL), STATUS_OK);
    for (int i = 0; i < 1000; i++) {
        uint8_t counted = 0;
        if (i % 10)
            worth_reused(&worth, habit(ITEM_TEXT, 0, 0), 3600, &counted);
        else
            worth_waited(&worth, habit(ITEM_TEXT, 0, 0), 1e6, &counted);
    }
    /* One use within about an hour is expected, also while nothing has come back for half of it. */
    for (double age = 0; age < 2000; age += 100) {
        double rate = worth_rate(&worth, habit(ITEM_TEXT, 0, 0), age);
        if (rate < 0.5 / 3600 || rate > 4.0 / 3600) fail_msg("at %g s: %g an hour", age, rate * 3600);
    }
    double late = worth_rate(&worth, habit(ITEM_TEXT, 0, 0), 20000);
    if (late > 0.1 / 3600) fail_msg("at 20000 s: %g an hour", late * 3600);
    worth_close(&worth);
}

static void a_tenant_who_never_comes_back_is_told_from_one_who_does(void **state)
{
    struct worth worth;
    assert_int_equal(worth_open(&worth, 16, NULL), STATUS_OK);
    for (int i = 0; i < 500; i++) {
        uint8_t counted = 0;
        worth_reused(&worth, habit(ITEM_LATENT, 1, 0), 1000, &counted);
        worth_waited(&worth, habit(ITEM_LATENT, 2, 0), 3000, &counted);
        worth_rate(&worth, habit(ITEM_LATENT, 1, 0), 0);
    }
    assert_true(worth_factor(&worth, habit(ITEM_LATENT, 1, 0)) >
                10 * worth_factor(&worth, habit(ITEM_LATENT, 2, 0)));
    worth_close(&worth);
}

static void a_ghost_remembers_uses_and_teaches(void **state)
{
    struct worth worth;
    assert_int_equal(worth_open(&worth, 1024, NULL), STATUS_OK);
    struct key key = tier_rig_key(1, ITEM_TEXT, 1), other = tier_rig_key(2, ITEM_TEXT, 1);
    worth_remember(&worth, &key, 3, 0, 10, 0);
    worth_missed(&worth, &other, 20);
    double before = worth.used[ITEM_TEXT][worth_class(3)][6];
    worth_missed(&worth, &key, 100); /* 2^6 - 1 .. 2^7 - 1 */
    assert_true(worth.used[ITEM_TEXT][worth_class(3)][6] == before + 1);
    assert_int_equal(worth_recall(&worth, &other), 0);
    assert_int_equal(worth_recall(&worth, &key), 4);
    assert_int_equal(worth_recall(&worth, &key), 0);
    worth_close(&worth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extents_never_overlap_and_holes_join),
        cmocka_unit_test(little_is_lost_to_holes_when_sizes_differ),
        cmocka_unit_test(an_arena_has_its_limits),
        cmocka_unit_test(a_hundred_thousand_items_are_found_and_others_are_not),
        cmocka_unit_test(nothing_seen_yet_the_younger_is_worth_more),
        cmocka_unit_test(a_kind_that_comes_back_is_worth_more_than_one_that_does_not),
        cmocka_unit_test(what_comes_back_after_an_hour_is_still_worth_keeping_before_that),
        cmocka_unit_test(a_tenant_who_never_comes_back_is_told_from_one_who_does),
        cmocka_unit_test(a_ghost_remembers_uses_and_teaches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
