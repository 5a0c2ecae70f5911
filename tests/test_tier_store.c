/*
 * test_tier_store.c - publishing in two phases, reading, byte limits, levels, what goes first, pins and figures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

#include "tests/tier_rig.h"

enum { KB = 1024, MB = 1 << 20 };

static void an_item_is_there_when_it_is_committed_and_not_before(void **state)
{
    struct tier_rig rig = {0};
    struct draft draft, second;
    struct error error;
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    struct item item = {.bytes = 10000, .seconds = 1};
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    assert_int_equal(store_reserve(rig.store, &key, &item, LEVEL_HOST, &draft, &error), STATUS_OK);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_UNFINISHED);
    assert_int_equal(tier_rig_copies(&rig, &key), 0);
    assert_int_equal(store_reserve(rig.store, &key, &item, LEVEL_HOST, &second, &error), STATUS_CONFLICT);
    assert_string_equal(error.text, "cache: the item is being published");
    tier_rig_fill(&key, draft.bytes, draft.size);
    assert_int_equal(store_commit(rig.store, &draft, NULL, &error), STATUS_OK);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
    assert_int_equal(store_reserve(rig.store, &key, &item, LEVEL_HOST, &second, &error), STATUS_CONFLICT);
    assert_string_equal(error.text, "cache: the item is here already");
    tier_rig_close(&rig);
}

static void an_aborted_draft_leaves_nothing(void **state)
{
    struct tier_rig rig = {0};
    struct draft draft;
    struct store_stats stats;
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    struct item item = {.bytes = 10000, .seconds = 1};
    assert_int_equal(store_reserve(rig.store, &key, &item, LEVEL_HOST, &draft, NULL), STATUS_OK);
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.used_bytes[LEVEL_HOST], 10240);
    assert_int_equal(stats.drafts, 1);
    store_abort(rig.store, &draft);
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.used_bytes[LEVEL_HOST], 0);
    assert_int_equal(stats.largest_hole[LEVEL_HOST], 1 << 20);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    assert_int_equal(tier_rig_put(&rig, &key, 10000, 1), STATUS_OK);
    tier_rig_close(&rig);
}

static void an_item_that_does_not_fit_the_announced_hash_is_not_published(void **state)
{
    struct tier_rig rig = {0};
    struct draft draft;
    struct error error;
    struct view view;
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_LATENT, 1);
    struct item item = {.bytes = 10000, .seconds = 1};
    uint8_t bytes[10000];
    tier_rig_fill(&key, bytes, sizeof bytes);
    uint64_t hash = XXH3_64bits(bytes, sizeof bytes);
    for (int flipped = 1; flipped >= 0; flipped--) {
        assert_int_equal(store_reserve(rig.store, &key, &item, LEVEL_HOST, &draft, NULL), STATUS_OK);
        memcpy(draft.bytes, bytes, sizeof bytes);
        ((uint8_t *)draft.bytes)[9999] ^= (uint8_t)flipped;
        assert_int_equal(store_commit(rig.store, &draft, &hash, &error),
                         flipped ? STATUS_CORRUPT : STATUS_OK);
        if (flipped) assert_non_null(strstr(error.text, "arrived damaged"));
        if (flipped) assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    }
    assert_int_equal(store_get(rig.store, &key, LEVEL_HOST, &view, NULL), STATUS_OK);
    assert_true(view.xxh3 == hash);
    store_release(rig.store, &view);
    assert_int_equal(tier_rig_sum(&rig).spoiled, 1);
    tier_rig_close(&rig);
}

static void what_cannot_be_is_refused_with_a_sentence(void **state)
{
    struct tier_rig rig = {0};
    struct draft draft;
    struct error error;
    struct store *none;
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    const struct {
        struct item item;
        enum level level;
        const char *says;
    } cases[] = {
        {{.bytes = 0, .seconds = 1}, LEVEL_HOST, "has 0 bytes: 1 to 1048576 are allowed"},
        {{.bytes = MB + 1, .seconds = 1}, LEVEL_HOST, "has 1048577 bytes"},
        {{.bytes = UINT64_MAX, .seconds = 1}, LEVEL_HOST, "bytes: 1 to 1048576"},
        {{.bytes = 100, .seconds = -1}, LEVEL_HOST, "saves -1 seconds"},
        {{.bytes = 100, .seconds = INFINITY}, LEVEL_HOST, "saves inf seconds"},
        {{.bytes = 100, .seconds = 1e300}, LEVEL_HOST, "saves 1e+300 seconds"},
        {{.bytes = 100000, .seconds = 1e-6}, LEVEL_HOST, "sooner computed than copied"},
        {{.bytes = 100, .seconds = 1}, LEVEL_DISK, "where no memory is"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(store_reserve(rig.store, &key, &cases[i].item, cases[i].level, &draft, &error),
                         STATUS_INVALID);
        if (!strstr(error.text, cases[i].says)) fail_msg("'%s' does not say '%s'", error.text, cases[i].says);
    }
    key.kind = 99;
    assert_int_equal(store_reserve(rig.store, &key, &(struct item){.bytes = 100, .seconds = 1}, LEVEL_HOST,
                                   &draft, &error),
                     STATUS_INVALID);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    struct store_config config = rig.config;
    config.limit_bytes[LEVEL_HOST] = 0;
    assert_int_equal(store_open(&config, &none, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "the host level has 0 bytes: at least 65536"));
    config = rig.config;
    config.items = STORE_ITEMS_MAX + 1;
    assert_int_equal(store_open(&config, &none, &error), STATUS_INVALID);
    config = rig.config;
    config.limit_bytes[LEVEL_HOST] = UINT64_C(1) << 41;
    assert_int_equal(store_open(&config, &none, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "1 TiB"));
    config = rig.config;
    config.device = NULL;
    config.limit_bytes[LEVEL_DEVICE] = MB;
    assert_int_equal(store_open(&config, &none, &error), STATUS_INVALID);
    tier_rig_close(&rig);
}

static void the_limit_holds_and_the_least_worth_goes_first(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct store_stats stats;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 10; i++) { /* worth 1, 2, .. 10 s */
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, (double)(i + 1)), STATUS_OK);
    }
    struct key fifth = tier_rig_key(99, ITEM_CHECKPOINT, 1);
    assert_int_equal(tier_rig_put(&rig, &fifth, 20 * KB, 8), STATUS_OK); /* 1 and 2 have to go */
    for (uint64_t i = 0; i < 10; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_int_equal(tier_rig_copies(&rig, &key) != 0, i >= 2);
    }
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.used_bytes[LEVEL_HOST], 100 * KB);
    assert_int_equal(stats.kinds[ITEM_CHECKPOINT].items, 9);
    assert_int_equal(stats.kinds[ITEM_CHECKPOINT].bytes[LEVEL_HOST], 100 * KB);
    assert_int_equal(stats.kinds[ITEM_CHECKPOINT].evictions[LEVEL_HOST], 2);
    tier_rig_close(&rig);
}

static void an_item_worth_less_than_what_would_have_to_go_is_not_let_in(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct error error;
    struct draft draft;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 10; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 10), STATUS_OK);
    }
    struct key late = tier_rig_key(99, ITEM_CHECKPOINT, 1);
    assert_int_equal(store_reserve(rig.store, &late, &(struct item){.bytes = 50 * KB, .seconds = 20},
                                   LEVEL_HOST, &draft, &error),
                     STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "what is worth more would have to go"));
    assert_int_equal(tier_rig_sum(&rig).items, 10);
    assert_int_equal(tier_rig_sum(&rig).refused, 1);
    assert_int_equal(tier_rig_put(&rig, &late, 50 * KB, 60), STATUS_OK);
    assert_int_equal(tier_rig_sum(&rig).items, 6);
    tier_rig_close(&rig);
}

static void oldest_first_goes_by_age_alone(void **state)
{
    struct tier_rig rig = {.config = {.limit_bytes[LEVEL_HOST] = 100 * KB, .eviction = EVICT_OLDEST}};
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 10; i++) {
        struct key key = tier_rig_key(i, i % ITEM_KINDS, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 100 - (double)i), STATUS_OK);
        tier_rig_sleep(&rig, 1);
    }
    struct key first = tier_rig_key(0, 0, 1), second = tier_rig_key(1, 1, 1), late = tier_rig_key(99, 0, 1);
    assert_int_equal(tier_rig_get(&rig, &first, LEVEL_HOST), MISSES);
    tier_rig_sleep(&rig, 1);
    assert_int_equal(tier_rig_put(&rig, &late, 10 * KB, 0.01), STATUS_OK);
    assert_true(tier_rig_copies(&rig, &first) != 0);
    assert_true(tier_rig_copies(&rig, &second) == 0);
    tier_rig_close(&rig);
}

static void a_kind_that_nobody_comes_back_for_makes_room(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 1000 * KB};
    int texts = 0;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 2000; i++) { /* every text is asked for again, dear latents never are */
        struct key text = tier_rig_key(i, ITEM_TEXT, 1), latent = tier_rig_key(i, ITEM_LATENT, 1);
        tier_rig_put(&rig, &text, 10 * KB, 1);
        tier_rig_put(&rig, &latent, 10 * KB, 100);
        tier_rig_sleep(&rig, 10);
        if (i < 40) continue;
        struct key before = tier_rig_key(i - 40, ITEM_TEXT, 1);
        texts += i >= 1000 && tier_rig_get(&rig, &before, LEVEL_HOST) == MISSES;
        if (i < 1000) tier_rig_get(&rig, &before, LEVEL_HOST);
    }
    assert_true(texts >= 990);
    tier_rig_close(&rig);
}

static void a_view_outlives_eviction_and_forgetting(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct view view;
    struct store_stats stats;
    tier_rig_open(&rig);
    struct key cheap = tier_rig_key(0, ITEM_TEXT, 1), again = cheap;
    assert_int_equal(tier_rig_put(&rig, &cheap, 10 * KB, 0.01), STATUS_OK);
    assert_int_equal(store_get(rig.store, &cheap, LEVEL_HOST, &view, NULL), STATUS_OK);
    for (uint64_t i = 1; i <= 20; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        tier_rig_put(&rig, &key, 10 * KB, 10);
    }
    assert_true(tier_rig_copies(&rig, &cheap) != 0); /* in use: it could not go */
    assert_int_equal(store_forget(rig.store, &(struct store_match){.key = &cheap}), 1);
    assert_int_equal(tier_rig_copies(&rig, &cheap), 0);
    assert_int_equal(tier_rig_get(&rig, &cheap, LEVEL_HOST), MISS_ABSENT);
    assert_int_equal(store_forget(rig.store, &(struct store_match){0}), 9);
    assert_int_equal(tier_rig_put(&rig, &again, 20 * KB, 1), STATUS_OK); /* the same key, beside it */
    assert_true(tier_rig_fits(&cheap, view.bytes, view.size));
    store_release(rig.store, &view);
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.used_bytes[LEVEL_HOST], 20 * KB);
    assert_int_equal(tier_rig_get(&rig, &again, LEVEL_HOST), MISSES);
    tier_rig_close(&rig);
}

static void what_is_in_use_is_not_evicted_and_then_there_is_no_room(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct view views[10];
    struct error error;
    struct draft draft;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 10; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 1), STATUS_OK);
        assert_int_equal(store_get(rig.store, &key, LEVEL_HOST, &views[i], NULL), STATUS_OK);
    }
    struct key late = tier_rig_key(99, ITEM_TEXT, 1);
    assert_int_equal(store_reserve(rig.store, &late, &(struct item){.bytes = 10 * KB, .seconds = 1e6},
                                   LEVEL_HOST, &draft, &error),
                     STATUS_NO_MEMORY);
    store_release(rig.store, &views[7]);
    assert_int_equal(tier_rig_put(&rig, &late, 10 * KB, 1e6), STATUS_OK);
    for (uint64_t i = 0; i < 10; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_copies(&rig, &key) != 0, i != 7);
        if (i != 7) store_release(rig.store, &views[i]);
    }
    tier_rig_close(&rig);
}

static void a_pinned_item_stays_and_pins_have_a_limit(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct error error;
    tier_rig_open(&rig);
    struct key pinned = tier_rig_key(0, ITEM_TEXT, 1), other = tier_rig_key(1, ITEM_TEXT, 1);
    assert_int_equal(store_pin(rig.store, &pinned, true, &error), STATUS_NOT_FOUND);
    assert_int_equal(tier_rig_put(&rig, &pinned, 30 * KB, 0.001), STATUS_OK);
    assert_int_equal(tier_rig_put(&rig, &other, 30 * KB, 0.001), STATUS_OK);
    assert_int_equal(store_pin(rig.store, &pinned, true, &error), STATUS_OK);
    assert_int_equal(store_pin(rig.store, &pinned, true, &error), STATUS_OK);
    assert_int_equal(store_pin(rig.store, &other, true, &error), STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "30720 bytes are pinned"));
    for (uint64_t i = 2; i <= 30; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        tier_rig_put(&rig, &key, 10 * KB, 10);
    }
    assert_true(tier_rig_copies(&rig, &pinned) != 0);
    assert_true(tier_rig_copies(&rig, &other) == 0);
    assert_int_equal(store_pin(rig.store, &pinned, false, &error), STATUS_OK);
    struct key late = tier_rig_key(98, ITEM_TEXT, 1);
    assert_int_equal(tier_rig_put(&rig, &late, 10 * KB, 10), STATUS_OK);
    assert_true(tier_rig_copies(&rig, &pinned) == 0);
    struct store_stats stats;
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.pinned_bytes, 0);
    tier_rig_close(&rig);
}

static void items_go_down_to_disk_in_the_background_and_come_back_when_asked_for(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_HOST] = 100 * KB, [LEVEL_DISK] = 10 * MB}};
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 50; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 10), STATUS_OK);
        store_settle(rig.store);
        assert_int_equal(tier_rig_copies(&rig, &key), 1 << LEVEL_HOST | 1 << LEVEL_DISK);
        tier_rig_sleep(&rig, 1);
    }
    assert_int_equal(tier_rig_sum(&rig).items, 50);
    assert_int_equal(tier_rig_files(&rig), 50);
    struct key first = tier_rig_key(0, ITEM_CHECKPOINT, 1);
    assert_int_equal(tier_rig_copies(&rig, &first), 1 << LEVEL_DISK);
    for (uint64_t i = 0; i < 50; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
    }
    struct tally sum = tier_rig_sum(&rig);
    assert_true(sum.hits[LEVEL_DISK] >= 40);
    assert_int_equal(sum.hits[LEVEL_HOST] + sum.hits[LEVEL_DISK], 50);
    assert_true(sum.seconds_saved > 499 && sum.seconds_saved < 501);
    tier_rig_close(&rig);
}

static void the_disk_has_a_limit_too(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_HOST] = 100 * KB, [LEVEL_DISK] = 200 * KB}};
    struct store_stats stats;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 60; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        tier_rig_put(&rig, &key, 8 * KB, (double)(i + 1));
        store_settle(rig.store);
        store_stats(rig.store, NULL, &stats);
        assert_true(stats.used_bytes[LEVEL_DISK] <= 200 * KB);
        assert_true((uint64_t)tier_rig_files(&rig) * 12 * KB == stats.used_bytes[LEVEL_DISK]);
    }
    assert_int_equal(stats.used_bytes[LEVEL_DISK], 16 * 12 * KB); /* 200 / 12 */
    for (uint64_t i = 44; i < 60; i++) {
        struct key key = tier_rig_key(i, ITEM_CHECKPOINT, 1);
        assert_true(tier_rig_copies(&rig, &key) >> LEVEL_DISK & 1);
    }
    tier_rig_close(&rig);
}

/* Another rank has it: it goes before anything else, but what is used again is as good as any. */
static void a_spare_item_is_worth_a_part_until_it_is_used(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct draft draft;
    tier_rig_open(&rig);
    struct key spare = tier_rig_key(0, ITEM_TEXT, 1), used = tier_rig_key(1, ITEM_TEXT, 1);
    const struct item item = {.bytes = 20 * KB, .seconds = 40, .spare = true};
    const struct key *keys[] = {&spare, &used};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_reserve(rig.store, keys[i], &item, LEVEL_HOST, &draft, NULL), STATUS_OK);
        tier_rig_fill(keys[i], draft.bytes, item.bytes);
        assert_int_equal(store_commit(rig.store, &draft, NULL, NULL), STATUS_OK);
    }
    assert_int_equal(tier_rig_sum(&rig).copied, 2);
    assert_int_equal(tier_rig_get(&rig, &used, LEVEL_HOST), MISSES);
    for (uint64_t i = 2; i < 7; i++) { /* each worth a quarter of what that saves */
        struct key other = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_put(&rig, &other, 20 * KB, 10), STATUS_OK);
    }
    assert_int_equal(tier_rig_copies(&rig, &spare), 0);
    assert_int_equal(tier_rig_copies(&rig, &used), 1 << LEVEL_HOST);
    /* ... and is not let in at the cost of something that is worth more */
    struct item cheap = item;
    cheap.seconds = 10;
    assert_int_equal(store_reserve(rig.store, &spare, &cheap, LEVEL_HOST, &draft, NULL), STATUS_NO_MEMORY);
    tier_rig_close(&rig);
}

/* Cheap and dear ones by turns: what would have to go is what lies side by side. */
static void what_goes_is_a_run_of_neighbours_or_nothing(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 100 * KB};
    struct draft draft;
    struct key keys[5];
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 5; i++) {
        keys[i] = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_put(&rig, &keys[i], 20 * KB, i % 2 ? 1 : 1000), STATUS_OK);
    }
    struct key large = tier_rig_key(9, ITEM_TEXT, 1);
    struct item item = {.bytes = 40 * KB, .seconds = 10};
    assert_int_equal(store_reserve(rig.store, &large, &item, LEVEL_HOST, &draft, NULL), STATUS_NO_MEMORY);
    for (int i = 0; i < 5; i++) assert_int_equal(tier_rig_copies(&rig, &keys[i]), 1 << LEVEL_HOST);
    /* Two of the cheap ones and the dear one between them cost less than two dear ones would. */
    item = (struct item){.bytes = 60 * KB, .seconds = 1500};
    assert_int_equal(store_reserve(rig.store, &large, &item, LEVEL_HOST, &draft, NULL), STATUS_OK);
    store_abort(rig.store, &draft);
    static const int left[] = {1, 0, 0, 0, 1};
    for (int i = 0; i < 5; i++) assert_int_equal(tier_rig_copies(&rig, &keys[i]) != 0, left[i]);
    tier_rig_close(&rig);
}

static struct store_entry last_change(struct tier_rig *rig)
{
    struct store_entry changes[16] = {0};
    bool lost;
    size_t count = store_changes(rig->store, changes, 16, &lost);
    return count ? changes[count - 1] : (struct store_entry){0};
}

/* So that the coordinator hears of it once, and again when uses have doubled. */
static void an_item_that_is_used_again_is_dear_if_fetching_it_saves_something(void **state)
{
    struct tier_rig rig = {.config.limit_bytes[LEVEL_HOST] = 1000 * KB};
    tier_rig_open(&rig);
    struct key key = tier_rig_key(0, ITEM_TEXT, 1), cheap = tier_rig_key(1, ITEM_TEXT, 1);
    assert_int_equal(tier_rig_put(&rig, &key, 100 * KB, 1), STATUS_OK);
    assert_false(last_change(&rig).dear);
    static const bool told[] = {true, true, false, true, false}; /* 1, 2, 3, 4, 5 uses */
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
        assert_int_equal(last_change(&rig).dear, told[i]);
    }
    assert_int_equal(tier_rig_put(&rig, &cheap, 100 * KB, 1e-4), STATUS_OK);
    assert_int_equal(tier_rig_get(&rig, &cheap, LEVEL_HOST), MISSES);
    assert_false(last_change(&rig).dear);
    assert_int_equal(store_pin(rig.store, &cheap, true, NULL), STATUS_OK);
    assert_true(last_change(&rig).dear);
    tier_rig_close(&rig);
}

static void a_device_s_item_is_copied_down_and_comes_back_to_the_device(void **state)
{
    struct tier_rig rig = {
        .config.limit_bytes = {[LEVEL_DEVICE] = 40 * KB, [LEVEL_HOST] = 100 * KB, [LEVEL_DISK] = 10 * MB}};
    tier_rig_open(&rig);
    struct key key = tier_rig_key(0, ITEM_RESIDUAL, 1);
    assert_int_equal(tier_rig_put_at(&rig, &key, 20 * KB, 10, LEVEL_DEVICE), STATUS_OK);
    assert_int_equal(tier_rig_copies(&rig, &key), 1 << LEVEL_DEVICE);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES); /* fetched from the device */
    assert_int_equal(tier_rig_copies(&rig, &key), 1 << LEVEL_DEVICE | 1 << LEVEL_HOST);
    store_settle(rig.store);
    assert_int_equal(tier_rig_copies(&rig, &key), 7);
    for (uint64_t i = 1; i <= 4; i++) {
        struct key other = tier_rig_key(i, ITEM_RESIDUAL, 1);
        tier_rig_sleep(&rig, 1);
        assert_int_equal(tier_rig_put_at(&rig, &other, 20 * KB, 10, LEVEL_DEVICE), STATUS_OK);
        store_settle(rig.store);
        assert_int_equal(tier_rig_copies(&rig, &other), 7);
    }
    assert_int_equal(tier_rig_copies(&rig, &key) & 1 << LEVEL_DEVICE, 0);
    for (int i = 0; i < 30 && !(tier_rig_copies(&rig, &key) & 1 << LEVEL_DEVICE); i++) {
        tier_rig_sleep(&rig, 1);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_DEVICE), MISSES);
    }
    assert_true(tier_rig_copies(&rig, &key) & 1 << LEVEL_DEVICE);
    uint64_t before = tier_rig_sum(&rig).hits[LEVEL_DEVICE];
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_DEVICE), MISSES);
    assert_int_equal(tier_rig_sum(&rig).hits[LEVEL_DEVICE], before + 1);
    tier_rig_close(&rig);
}

static enum level level_got(struct tier_rig *rig, const struct key *key, enum level wanted, status_t expected)
{
    struct view view;
    enum miss reason;
    assert_int_equal(store_try(rig->store, key, wanted, &view, &reason), expected);
    if (expected != STATUS_OK) return LEVELS;
    enum level level = view.level;
    store_release(rig->store, &view);
    return level;
}

/* Nothing is copied while somebody who does not wait looks; what he wanted elsewhere is there the next time. */
static void who_does_not_wait_copies_nothing_between_memories(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_DEVICE] = 60 * KB, [LEVEL_HOST] = 100 * KB}};
    tier_rig_open(&rig);
    struct key hosts = tier_rig_key(0, ITEM_TEXT, 1), devices = tier_rig_key(1, ITEM_TEXT, 1);
    assert_int_equal(tier_rig_put(&rig, &hosts, 20 * KB, 10), STATUS_OK);
    assert_int_equal(tier_rig_put_at(&rig, &devices, 20 * KB, 10, LEVEL_DEVICE), STATUS_OK);
    int copies = rig.device.copies;
    assert_int_equal(level_got(&rig, &devices, LEVEL_DEVICE, STATUS_OK), LEVEL_DEVICE);
    level_got(&rig, &devices, LEVEL_HOST, STATUS_AGAIN);
    assert_int_equal(level_got(&rig, &hosts, LEVEL_DEVICE, STATUS_OK), LEVEL_HOST);
    assert_int_equal(level_got(&rig, &hosts, LEVEL_DEVICE, STATUS_OK), LEVEL_HOST);
    assert_int_equal(rig.device.copies, copies);
    store_settle(rig.store);
    assert_int_equal(rig.device.copies, copies + 2);
    assert_int_equal(level_got(&rig, &hosts, LEVEL_DEVICE, STATUS_OK), LEVEL_DEVICE);
    assert_int_equal(level_got(&rig, &devices, LEVEL_HOST, STATUS_OK), LEVEL_HOST);
    tier_rig_close(&rig);
}

/* It is as well on the host; and forgotten, evicted or asked for by one who waits while it is to be lifted. */
static void what_the_device_has_no_room_for_is_born_on_the_host(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_DEVICE] = 30 * KB, [LEVEL_HOST] = 70 * KB}};
    tier_rig_open(&rig);
    struct key large = tier_rig_key(0, ITEM_TEXT, 1), small = tier_rig_key(1, ITEM_TEXT, 1);
    assert_int_equal(tier_rig_put_at(&rig, &large, 40 * KB, 10, LEVEL_DEVICE), STATUS_OK);
    assert_int_equal(tier_rig_copies(&rig, &large), 1 << LEVEL_HOST);
    assert_int_equal(level_got(&rig, &large, LEVEL_DEVICE, STATUS_OK), LEVEL_HOST);
    assert_int_equal(tier_rig_put(&rig, &small, 10 * KB, 10), STATUS_OK);
    assert_int_equal(level_got(&rig, &small, LEVEL_DEVICE, STATUS_OK), LEVEL_HOST);
    assert_int_equal(tier_rig_get(&rig, &small, LEVEL_DEVICE), MISSES); /* sooner than the background */
    assert_int_equal(tier_rig_copies(&rig, &small), 1 << LEVEL_HOST | 1 << LEVEL_DEVICE);
    assert_int_equal(store_forget(rig.store, &(struct store_match){.key = &large}), 1);
    store_settle(rig.store);
    assert_int_equal(tier_rig_copies(&rig, &large), 0);
    tier_rig_close(&rig);
}

static void a_device_that_does_not_answer_costs_a_miss_or_the_way_over_the_host(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_DEVICE] = 40 * KB, [LEVEL_HOST] = 100 * KB}};
    tier_rig_open(&rig);
    struct key hosts = tier_rig_key(0, ITEM_TEXT, 1), devices = tier_rig_key(1, ITEM_TEXT, 1);
    assert_int_equal(tier_rig_put(&rig, &hosts, 20 * KB, 10), STATUS_OK);
    assert_int_equal(tier_rig_put_at(&rig, &devices, 20 * KB, 10, LEVEL_DEVICE), STATUS_OK);
    rig.device.fails = true;
    assert_int_equal(tier_rig_get(&rig, &hosts, LEVEL_DEVICE), MISSES);
    assert_int_equal(tier_rig_copies(&rig, &hosts), 1 << LEVEL_HOST);
    assert_int_equal(tier_rig_get(&rig, &devices, LEVEL_HOST), MISS_UNREADABLE);
    assert_int_equal(tier_rig_copies(&rig, &devices), 0);
    tier_rig_close(&rig);
}

static void nothing_of_one_tenant_is_seen_by_another(void **state)
{
    struct tier_rig rig = {0};
    struct store_stats stats;
    uint64_t ann = 0, bob = 0;
    struct text_facts facts = {.text = "a red star", .bytes = 10, .rows = 512, .element = ELEMENT_F32};
    struct key anns, bobs;
    tier_rig_open(&rig);
    assert_int_equal(key_tenant("ann", &ann, NULL), STATUS_OK);
    assert_int_equal(key_tenant("bob", &bob, NULL), STATUS_OK);
    assert_int_equal(key_of_text("ann", &facts, &anns, NULL), STATUS_OK);
    assert_int_equal(key_of_text("bob", &facts, &bobs, NULL), STATUS_OK);
    assert_int_equal(tier_rig_put(&rig, &anns, 1000, 1), STATUS_OK);
    assert_int_equal(tier_rig_get(&rig, &bobs, LEVEL_HOST), MISS_ABSENT);
    assert_int_equal(tier_rig_get(&rig, &anns, LEVEL_HOST), MISSES);
    store_stats(rig.store, &bob, &stats);
    assert_int_equal(stats.kinds[ITEM_TEXT].items, 0);
    assert_int_equal(stats.kinds[ITEM_TEXT].hits[LEVEL_HOST], 0);
    assert_int_equal(stats.kinds[ITEM_TEXT].misses[MISS_ABSENT], 1);
    assert_int_equal(stats.used_bytes[LEVEL_HOST], 0);
    store_stats(rig.store, &ann, &stats);
    assert_int_equal(stats.kinds[ITEM_TEXT].items, 1);
    assert_int_equal(stats.kinds[ITEM_TEXT].hits[LEVEL_HOST], 1);
    assert_int_equal(stats.kinds[ITEM_TEXT].misses[MISS_ABSENT], 0);
    assert_int_equal(store_forget(rig.store, &(struct store_match){.by_tenant = true, .tenant = bob}), 0);
    assert_int_equal(store_forget(rig.store, &(struct store_match){.by_tenant = true, .tenant = ann}), 1);
    tier_rig_close(&rig);
}

static void what_came_and_went_is_told_once_and_in_order(void **state)
{
    struct tier_rig rig = {0};
    struct store_entry changes[8];
    bool lost;
    tier_rig_open(&rig);
    struct key one = tier_rig_key(1, ITEM_TEXT, 1), two = tier_rig_key(2, ITEM_LATENT, 1);
    tier_rig_put(&rig, &one, 1000, 1);
    tier_rig_put(&rig, &two, 2000, 2);
    store_forget(rig.store, &(struct store_match){.key = &one});
    assert_int_equal(store_changes(rig.store, changes, 8, &lost), 3);
    assert_false(lost);
    assert_true(key_equal(&changes[0].key, &one) && changes[0].copies == 1 << LEVEL_HOST);
    assert_true(key_equal(&changes[1].key, &two) && changes[1].bytes == 2000);
    assert_true(key_equal(&changes[2].key, &one) && changes[2].copies == 0);
    assert_int_equal(store_changes(rig.store, changes, 8, &lost), 0);
    for (uint64_t i = 0; i < 2000; i++) {
        struct key key = tier_rig_key(100 + i, ITEM_TEXT, 1);
        tier_rig_put(&rig, &key, 256, 1);
    }
    assert_int_equal(store_changes(rig.store, changes, 8, &lost), 8);
    assert_true(lost);
    tier_rig_close(&rig);
}

static void kinds_can_be_forgotten_apart(void **state)
{
    struct tier_rig rig = {0};
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 60; i++) {
        struct key key = tier_rig_key(i, i % ITEM_KINDS, 1 + i % 2);
        assert_int_equal(tier_rig_put(&rig, &key, 1000, 1), STATUS_OK);
    }
    struct store_match latents = {.by_kind = true, .kind = ITEM_LATENT};
    assert_int_equal(store_list(rig.store, &latents, NULL, NULL), 10);
    assert_int_equal(store_forget(rig.store, &latents), 10);
    assert_int_equal(store_list(rig.store, &latents, NULL, NULL), 0);
    assert_int_equal(store_list(rig.store, &(struct store_match){0}, NULL, NULL), 50);
    assert_int_equal(store_forget(rig.store, &(struct store_match){.by_tenant = true, .tenant = 1}), 30);
    assert_int_equal(tier_rig_sum(&rig).items, 20);
    tier_rig_close(&rig);
}

static void there_are_never_more_items_than_allowed(void **state)
{
    struct tier_rig rig = {.config.items = 16};
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 100; i++) {
        struct key key = tier_rig_key(i, ITEM_TEXT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 1000, 1 + (double)i), STATUS_OK);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
    }
    assert_int_equal(tier_rig_sum(&rig).items, 16);
    tier_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_item_is_there_when_it_is_committed_and_not_before),
        cmocka_unit_test(an_aborted_draft_leaves_nothing),
        cmocka_unit_test(an_item_that_does_not_fit_the_announced_hash_is_not_published),
        cmocka_unit_test(what_cannot_be_is_refused_with_a_sentence),
        cmocka_unit_test(the_limit_holds_and_the_least_worth_goes_first),
        cmocka_unit_test(an_item_worth_less_than_what_would_have_to_go_is_not_let_in),
        cmocka_unit_test(oldest_first_goes_by_age_alone),
        cmocka_unit_test(a_kind_that_nobody_comes_back_for_makes_room),
        cmocka_unit_test(a_view_outlives_eviction_and_forgetting),
        cmocka_unit_test(what_is_in_use_is_not_evicted_and_then_there_is_no_room),
        cmocka_unit_test(a_pinned_item_stays_and_pins_have_a_limit),
        cmocka_unit_test(items_go_down_to_disk_in_the_background_and_come_back_when_asked_for),
        cmocka_unit_test(the_disk_has_a_limit_too),
        cmocka_unit_test(a_spare_item_is_worth_a_part_until_it_is_used),
        cmocka_unit_test(what_goes_is_a_run_of_neighbours_or_nothing),
        cmocka_unit_test(an_item_that_is_used_again_is_dear_if_fetching_it_saves_something),
        cmocka_unit_test(a_device_s_item_is_copied_down_and_comes_back_to_the_device),
        cmocka_unit_test(who_does_not_wait_copies_nothing_between_memories),
        cmocka_unit_test(what_the_device_has_no_room_for_is_born_on_the_host),
        cmocka_unit_test(a_device_that_does_not_answer_costs_a_miss_or_the_way_over_the_host),
        cmocka_unit_test(nothing_of_one_tenant_is_seen_by_another),
        cmocka_unit_test(what_came_and_went_is_told_once_and_in_order),
        cmocka_unit_test(kinds_can_be_forgotten_apart),
        cmocka_unit_test(there_are_never_more_items_than_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
