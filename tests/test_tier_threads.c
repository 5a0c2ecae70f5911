/*
 * test_tier_threads.c - many threads on one store, with its own thread copying and removing files behind them: no reader
 * ever sees other bytes than its key's. Meant for `make tsan` too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/tier_rig.h"

enum { THREADS = 6, KEYS = 150, ROUNDS = 3000, KB = 1024 };

struct worker {
    struct tier_rig *rig;
    pthread_t thread;
    uint64_t chance;
    int wrong, hits, published;
};

static uint64_t chance(struct worker *worker, uint64_t below)
{
    worker->chance = worker->chance * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (worker->chance >> 33) % below;
}

static void publish(struct worker *worker, const struct key *key)
{
    struct store *store = worker->rig->store;
    struct draft draft;
    struct item item = {.bytes = 200 + key->low % (12 * KB), .seconds = 0.1 + (double)(key->high % 100)};
    if (store_reserve(store, key, &item, LEVEL_HOST, &draft, NULL) != STATUS_OK) return;
    tier_rig_fill(key, draft.bytes, draft.size);
    if (chance(worker, 10) == 0)
        store_abort(store, &draft);
    else
        worker->published += store_commit(store, &draft, NULL, NULL) == STATUS_OK;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct store *store = worker->rig->store;
    for (int round = 0; round < ROUNDS; round++) {
        struct key key = tier_rig_key(chance(worker, KEYS), ITEM_TEXT, 1 + chance(worker, 3));
        struct view view;
        struct store_stats stats;
        struct store_entry changes[16];
        bool lost;
        if (store_get(store, &key, LEVEL_HOST, &view, NULL) == STATUS_OK) {
            worker->hits++;
            worker->wrong += !tier_rig_fits(&key, view.bytes, view.size);
            store_release(store, &view);
        } else {
            publish(worker, &key);
        }
        switch (chance(worker, 40)) {
        case 0:
            store_forget(store, &(struct store_match){.key = &key});
            break;
        case 1:
            store_stats(store, NULL, &stats);
            break;
        case 2:
            store_list(store, &(struct store_match){.by_tenant = true, .tenant = 1}, NULL, NULL);
            break;
        case 3:
            store_pin(store, &key, chance(worker, 2), NULL);
            break;
        case 4:
            store_changes(store, changes, 16, &lost);
            break;
        case 5:
            store_settle(store);
            break;
        default:
            break;
        }
        tier_rig_sleep(worker->rig, 0.01);
    }
    return NULL;
}

static void no_thread_reads_what_is_not_its_key_s(void **state)
{
    struct tier_rig rig = {
        .config = {.limit_bytes = {[LEVEL_HOST] = 400 * KB, [LEVEL_DISK] = 900 * KB}, .thread = true}};
    struct worker workers[THREADS];
    int hits = 0, published = 0;
    tier_rig_open(&rig);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.rig = &rig, .chance = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].wrong, 0);
        hits += workers[i].hits, published += workers[i].published;
    }
    struct tally sum = tier_rig_sum(&rig);
    assert_true(hits > ROUNDS && published > KEYS);
    assert_int_equal(sum.hits[LEVEL_HOST] + sum.hits[LEVEL_DISK], hits);
    assert_int_equal(sum.published, published);
    assert_true(sum.hits[LEVEL_DISK] > 0);
    assert_int_equal(sum.misses[MISS_DAMAGED], 0);
    store_settle(rig.store);
    assert_int_equal(tier_rig_sum(&rig).bytes[LEVEL_DISK] > 0, tier_rig_files(&rig) > 0);
    tier_rig_close(&rig);
}

struct reader {
    struct tier_rig *rig;
    struct key key;
    pthread_t thread;
    bool hit;
};

static void *read_once(void *argument)
{
    struct reader *reader = argument;
    struct view view;
    reader->hit = store_get(reader->rig->store, &reader->key, LEVEL_HOST, &view, NULL) == STATUS_OK;
    if (reader->hit) store_release(reader->rig->store, &view);
    return NULL;
}

static void an_item_that_many_want_is_read_from_disk_once(void **state)
{
    enum { READERS = 8, LARGE = 8 << 20 };
    struct tier_rig rig = {.config = {.limit_bytes = {[LEVEL_HOST] = 16 << 20, [LEVEL_DISK] = 64 << 20}}};
    struct reader readers[READERS];
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_CHECKPOINT, 1);
    assert_int_equal(tier_rig_put(&rig, &key, LARGE, 10), STATUS_OK);
    tier_rig_reopen(&rig);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.rig = &rig, .key = key};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_once, &readers[i]), 0);
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_true(readers[i].hit);
    }
    struct tally sum = tier_rig_sum(&rig);
    assert_int_equal(sum.hits[LEVEL_DISK], 1);
    assert_int_equal(sum.hits[LEVEL_HOST], READERS - 1);
    tier_rig_close(&rig);
}

static void the_store_s_own_thread_brings_items_to_disk(void **state)
{
    struct tier_rig rig = {
        .config = {.limit_bytes = {[LEVEL_HOST] = 400 * KB, [LEVEL_DISK] = 900 * KB}, .thread = true}};
    tier_rig_open(&rig);
    struct key key = tier_rig_key(1, ITEM_CHECKPOINT, 1);
    assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 10), STATUS_OK);
    int64_t until = clock_now_ns() + 10 * SECOND_NS;
    while (tier_rig_copies(&rig, &key) != (1 << LEVEL_HOST | 1 << LEVEL_DISK) && clock_now_ns() < until)
        usleep(1000);
    assert_int_equal(tier_rig_copies(&rig, &key), 1 << LEVEL_HOST | 1 << LEVEL_DISK);
    store_forget(rig.store, &(struct store_match){.key = &key});
    while (tier_rig_files(&rig) && clock_now_ns() < until) usleep(1000);
    assert_int_equal(tier_rig_files(&rig), 0);
    tier_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_thread_reads_what_is_not_its_key_s),
        cmocka_unit_test(an_item_that_many_want_is_read_from_disk_once),
        cmocka_unit_test(the_store_s_own_thread_brings_items_to_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
