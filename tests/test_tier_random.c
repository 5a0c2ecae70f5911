/*
 * test_tier_random.c - a store against a simple model, over random operations: what it says is there has the right bytes,
 * bytes add up exactly, limits hold, and nothing is left at the end.
 *
 * The model knows what was published and not forgotten, and what is being written and read. The store may have lost any
 * item of it (it is a cache), but may have nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cache/tier/disk.h"
#include "cache/tier/extents.h"
#include "tests/tier_rig.h"

enum { KEYS = 200, HELD = 12, ROUNDS = 20000, KB = 1024 };

struct model {
    struct tier_rig rig;
    uint64_t chance;
    struct key key[KEYS];
    uint64_t bytes[KEYS]; /* published and not forgotten: its size; 0: not */
    struct draft draft[HELD];
    int draft_of[HELD]; /* -1: none */
    struct view view[HELD];
    struct key view_of[HELD];
    bool viewed[HELD];
    uint64_t hits, misses, published;
};

static uint64_t chance(struct model *model, uint64_t below)
{
    model->chance = model->chance * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (model->chance >> 33) % below;
}

static bool drafted(const struct model *model, int number)
{
    for (int i = 0; i < HELD; i++)
        if (model->draft_of[i] == number) return true;
    return false;
}

static void *touchable(struct model *model, enum level level, const void *bytes)
{
    if (level != LEVEL_DEVICE) return (void *)(uintptr_t)bytes;
    return (char *)model->rig.device.shadow + ((const char *)bytes - (const char *)model->rig.device.arena);
}

static void reserve(struct model *model)
{
    int place = (int)chance(model, HELD), number = (int)chance(model, KEYS);
    if (model->draft_of[place] >= 0) return;
    struct item item = {.bytes = 1 + chance(model, chance(model, 4) ? 4 * KB : 40 * KB),
                        .seconds = 0.01 * (double)(1 + chance(model, 10000))};
    enum level level = chance(model, 4) ? LEVEL_HOST : LEVEL_DEVICE;
    status_t status =
        store_reserve(model->rig.store, &model->key[number], &item, level, &model->draft[place], NULL);
    if (drafted(model, number)) assert_int_equal(status, STATUS_CONFLICT);
    if (!model->bytes[number] && !drafted(model, number)) assert_int_not_equal(status, STATUS_CONFLICT);
    if (status != STATUS_OK) return;
    model->draft_of[place] = number;
    model->bytes[number] = 0; /* what was there has been evicted */
    tier_rig_fill(&model->key[number], touchable(model, model->draft[place].level, model->draft[place].bytes),
                  item.bytes);
}

static void commit(struct model *model)
{
    int place = (int)chance(model, HELD), number = model->draft_of[place];
    if (number < 0) return;
    uint64_t bytes = model->draft[place].size, wrong = 12345;
    model->draft_of[place] = -1;
    switch (chance(model, 6)) {
    case 0:
        store_abort(model->rig.store, &model->draft[place]);
        return;
    case 1:
        assert_int_equal(store_commit(model->rig.store, &model->draft[place], &wrong, NULL), STATUS_CORRUPT);
        return;
    default:
        assert_int_equal(store_commit(model->rig.store, &model->draft[place], NULL, NULL), STATUS_OK);
        model->bytes[number] = bytes;
        model->published++;
    }
}

static void get(struct model *model)
{
    int place = (int)chance(model, HELD), number = (int)chance(model, KEYS);
    enum miss reason;
    if (model->viewed[place]) return;
    status_t status = store_get(model->rig.store, &model->key[number],
                                chance(model, 3) ? LEVEL_HOST : LEVEL_DEVICE, &model->view[place], &reason);
    if (status != STATUS_OK) {
        model->misses++;
        assert_true(reason == MISS_ABSENT || reason == MISS_UNFINISHED || reason == MISS_NO_ROOM);
        assert_int_equal(reason == MISS_UNFINISHED, drafted(model, number));
        return;
    }
    model->hits++;
    assert_true(model->bytes[number] == model->view[place].size);
    model->viewed[place] = true;
    model->view_of[place] = model->key[number];
}

static void check_view(struct model *model, int place)
{
    const struct view *view = &model->view[place];
    assert_true(
        tier_rig_fits(&model->view_of[place], touchable(model, view->level, view->bytes), view->size));
}

static void release(struct model *model)
{
    int place = (int)chance(model, HELD);
    if (!model->viewed[place]) return;
    check_view(model, place);
    store_release(model->rig.store, &model->view[place]);
    model->viewed[place] = false;
}

static void forget(struct model *model)
{
    int number = (int)chance(model, KEYS);
    struct store_match match = {.key = &model->key[number]};
    if (chance(model, 200) == 0) {
        match = (struct store_match){.by_kind = true, .kind = (enum item_kind)chance(model, ITEM_KINDS)};
        store_forget(model->rig.store, &match);
        for (int i = 0; i < KEYS; i++)
            if (model->key[i].kind == match.kind) model->bytes[i] = 0;
    } else if (chance(model, 4) == 0) {
        size_t count = store_forget(model->rig.store, &match);
        assert_true(count <= 1 && (!count || model->bytes[number]));
        model->bytes[number] = 0;
    }
}

struct account {
    struct model *model;
    uint64_t items, bytes[LEVELS];
    struct store_entry entry[KEYS];
};

static void add_up(void *context, const struct store_entry *entry)
{
    struct account *account = context;
    assert_true(account->items < KEYS && entry->copies);
    account->entry[account->items++] = *entry;
    for (int level = 0; level < LEVELS; level++)
        if (entry->copies >> level & 1)
            account->bytes[level] +=
                level == LEVEL_DISK ? disk_bytes(entry->bytes) : extents_rounded(entry->bytes);
}

/* Figures, lists and the model agree. */
static void audit(struct model *model)
{
    struct account account = {.model = model};
    struct store_stats stats;
    struct tally sum = tier_rig_sum(&model->rig);
    uint64_t drafts[LEVELS] = {0}, held[LEVELS] = {0};
    store_stats(model->rig.store, NULL, &stats);
    store_list(model->rig.store, &(struct store_match){0}, add_up, &account);
    assert_int_equal(account.items, store_list(model->rig.store, &(struct store_match){0}, NULL, NULL));
    for (uint64_t i = 0; i < account.items; i++) {
        int number = 0;
        while (number < KEYS && !key_equal(&model->key[number], &account.entry[i].key)) number++;
        assert_true(number < KEYS && model->bytes[number] == account.entry[i].bytes);
    }
    for (int i = 0; i < HELD; i++)
        if (model->draft_of[i] >= 0) drafts[model->draft[i].level] += extents_rounded(model->draft[i].size);
    for (int level = 0; level < LEVELS; level++) {
        assert_true(stats.used_bytes[level] <= stats.limit_bytes[level]);
        held[level] = stats.used_bytes[level] - drafts[level];
        assert_true(sum.bytes[level] == held[level]);
        assert_true(account.bytes[level] <= held[level]); /* forgotten ones that are read are not listed */
    }
    bool any_view = false;
    for (int i = 0; i < HELD; i++) any_view |= model->viewed[i];
    if (!any_view)
        for (int level = 0; level < LEVELS; level++) assert_true(account.bytes[level] == held[level]);
}

static void run(uint64_t seed, enum eviction eviction, bool disk)
{
    static struct model model;
    memset(&model, 0, sizeof model);
    model.chance = seed;
    model.rig.config = (struct store_config){
        .limit_bytes =
            {[LEVEL_DEVICE] = 100 * KB, [LEVEL_HOST] = 300 * KB, [LEVEL_DISK] = disk ? 500 * KB : 0},
        .items = seed % 2 ? 0 : 100,
        .eviction = eviction};
    tier_rig_open(&model.rig);
    for (int i = 0; i < KEYS; i++)
        model.key[i] = tier_rig_key((uint64_t)i, i % ITEM_KINDS, 1 + (uint64_t)i % 5);
    for (int i = 0; i < HELD; i++) model.draft_of[i] = -1;
    for (int round = 0; round < ROUNDS; round++) {
        switch (chance(&model, 8)) {
        case 0:
        case 1:
            reserve(&model);
            break;
        case 2:
        case 3:
            commit(&model);
            break;
        case 4:
            get(&model);
            break;
        case 5:
            release(&model);
            break;
        case 6:
            forget(&model);
            break;
        default:
            tier_rig_sleep(&model.rig, (double)chance(&model, 100) / 10);
        }
        if (chance(&model, 3) == 0) store_settle(model.rig.store);
        if (round % 50 == 0) audit(&model);
        if (disk && chance(&model, 4000) == 0) { /* a restart; nothing may be held */
            for (int i = 0; i < HELD; i++) {
                if (model.draft_of[i] >= 0)
                    store_abort(model.rig.store, &model.draft[i]), model.draft_of[i] = -1;
                if (model.viewed[i]) store_release(model.rig.store, &model.view[i]), model.viewed[i] = false;
            }
            tier_rig_reopen(&model.rig);
            audit(&model);
        }
    }
    for (int i = 0; i < HELD; i++) {
        if (model.draft_of[i] >= 0) store_abort(model.rig.store, &model.draft[i]);
        if (model.viewed[i]) check_view(&model, i), store_release(model.rig.store, &model.view[i]);
        model.draft_of[i] = -1, model.viewed[i] = false;
    }
    audit(&model);
    if (model.hits < 200 || model.misses < 200 || model.published < 200)
        fail_msg("%d hits, %d misses, %d published", (int)model.hits, (int)model.misses,
                 (int)model.published);
    store_forget(model.rig.store, &(struct store_match){0});
    store_settle(model.rig.store);
    struct store_stats stats;
    store_stats(model.rig.store, NULL, &stats);
    for (int level = 0; level < LEVELS; level++) assert_true(stats.used_bytes[level] == 0);
    assert_true(stats.largest_hole[LEVEL_HOST] == 300 * KB &&
                stats.largest_hole[LEVEL_DEVICE] == 99 * KB + KB);
    if (disk) assert_int_equal(tier_rig_files(&model.rig), 0);
    tier_rig_close(&model.rig);
}

static void in_memory_a_store_agrees_with_the_model(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) run(seed, seed % 3 ? EVICT_LEAST_WORTH : EVICT_OLDEST, false);
}

static void with_a_disk_a_store_agrees_with_the_model(void **state)
{
    for (uint64_t seed = 11; seed <= 16; seed++) run(seed, seed % 3 ? EVICT_LEAST_WORTH : EVICT_OLDEST, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_memory_a_store_agrees_with_the_model),
        cmocka_unit_test(with_a_disk_a_store_agrees_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
