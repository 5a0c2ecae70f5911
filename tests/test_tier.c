/*
 * test_tier.c - a rank's tier as its jobs see it: hits, waiting, misses with their reasons, and what it is opened with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/scratch.h"
#include "tests/tier_rig.h"
#include "worker/tier_core.h"

enum { MB = 1 << 20, ANN = 1, BOB = 2 };

struct here {
    struct scratch scratch;
    char directory[TIER_PATH];
    struct tier *tier;
};

static const struct ops *ops_ref(void)
{
    const struct ops *ops;
    assert_int_equal(ops_choose("ref", &ops, NULL), STATUS_OK);
    return ops;
}

static struct tier *open_tier(const char *directory, uint64_t memory, uint64_t disk)
{
    struct tier *tier;
    struct error error;
    struct tier_config config = {
        .memory_bytes = memory, .directory = directory, .disk_bytes = disk, .ops = ops_ref()};
    if (tier_open(&config, &tier, &error) != STATUS_OK) fail_msg("%s", error.text);
    return tier;
}

static int setup(void **state)
{
    static struct here here;
    struct error error;
    if (scratch_open("/tmp", "refrain-test-tier", &here.scratch, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    snprintf(here.directory, sizeof here.directory, "%s/rank-0", here.scratch.path);
    here.tier = open_tier(here.directory, 4 * MB, 64 * MB);
    *state = &here;
    return 0;
}

static int teardown(void **state)
{
    struct here *here = *state;
    struct store_stats stats;
    if (here->tier) {
        store_stats(tier_store(here->tier), NULL, &stats);
        assert_int_equal(stats.drafts, 0);
    }
    tier_close(here->tier);
    scratch_close(&here->scratch);
    return 0;
}

static void publish_dear(struct tier *tier, const struct key *key, uint64_t bytes, double seconds)
{
    struct draft draft;
    struct error error;
    if (tier_reserve(tier, key->tenant, key, bytes, seconds, &draft, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    tier_rig_fill(key, draft.bytes, bytes);
    tier_commit(tier, &draft);
    assert_null(draft.bytes);
}

static void publish(struct tier *tier, const struct key *key, uint64_t bytes)
{
    publish_dear(tier, key, bytes, 10);
}

static struct tier_query query_of(const struct key *key, int64_t ms)
{
    return (struct tier_query){
        .key = *key, .tenant = key->tenant, .deadline_ns = clock_now_ns() + ms * MILLISECOND_NS};
}

/* As a job does: asks, waits, asks again. */
static status_t ask(struct tier *tier, struct tier_query *query, struct view *view)
{
    status_t status;
    while ((status = tier_ask(tier, query, view)) == STATUS_AGAIN) {
        int64_t deadline_ns = query->deadline_ns;
        struct pollfd wait = {.fd = tier_descriptor(tier), .events = POLLIN};
        poll(&wait, 1, clock_poll_ms(deadline_ns));
        tier_tend(tier, &deadline_ns);
    }
    return status;
}

static void expect(struct tier *tier, const struct key *key, uint64_t bytes)
{
    struct view view;
    struct tier_query query = query_of(key, 20000);
    assert_int_equal(ask(tier, &query, &view), STATUS_OK);
    assert_int_equal(view.size, bytes);
    assert_true(tier_rig_fits(key, view.bytes, bytes));
    tier_release(tier, &view);
}

static struct tally sum_of(struct tier *tier, uint64_t tenant, enum item_kind kind)
{
    struct store_stats stats;
    store_stats(tier_store(tier), &tenant, &stats);
    return stats.kinds[kind];
}

/* Until the store's own thread has copied what is new to disk. */
static void await_files(struct here *here)
{
    store_settle(tier_store(here->tier));
}

static void note_copies(void *context, const struct store_entry *entry)
{
    *(int *)context = entry->copies;
}

static int copies(struct tier *tier, const struct key *key)
{
    int found = 0;
    store_list(tier_store(tier), &(struct store_match){.key = key}, note_copies, &found);
    return found;
}

/* Pushes everything that is on disk out of memory: something dear takes nearly all of it. */
static void crowd(struct here *here)
{
    struct key key = tier_rig_key(1000, ITEM_LATENT, BOB);
    await_files(here);
    publish_dear(here->tier, &key, 4 * MB - 200000, 1000);
    await_files(here);
}

static void what_was_published_is_found_small_and_large(void **state)
{
    struct here *here = *state;
    struct key small = tier_rig_key(1, ITEM_TEXT, ANN), large = tier_rig_key(2, ITEM_CHECKPOINT, ANN);
    publish(here->tier, &small, 1000);
    publish(here->tier, &large, 2 * MB);
    expect(here->tier, &small, 1000);
    expect(here->tier, &large, 2 * MB);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_TEXT).hits[LEVEL_HOST], 1);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_CHECKPOINT).hits[LEVEL_HOST], 1);
}

static void what_nobody_made_is_a_miss_at_once_and_counted_once(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct tier_query query = query_of(&key, 20000);
    struct view view;
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(query.reason, MISS_ABSENT);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_TEXT).misses[MISS_ABSENT], 1);
}

static void an_item_on_disk_is_read_by_the_tier_s_thread_and_never_by_the_asker(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct view view;
    publish(here->tier, &key, 500000);
    expect(here->tier, &key, 500000);
    crowd(here);
    assert_int_equal(copies(here->tier, &key), 1 << LEVEL_DISK);
    struct tier_query query = query_of(&key, 20000);
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_AGAIN);
    expect(here->tier, &key, 500000);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_TEXT).hits[LEVEL_DISK], 1);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_TEXT).misses[MISS_ABSENT], 0);
}

static void who_asks_for_one_item_at_the_same_time_has_it_read_once(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct view views[3];
    struct tier_query queries[3];
    publish(here->tier, &key, 500000);
    expect(here->tier, &key, 500000);
    crowd(here);
    for (int i = 0; i < 3; i++) queries[i] = query_of(&key, 20000);
    assert_int_equal(tier_ask(here->tier, &queries[0], &views[0]), STATUS_AGAIN);
    for (int i = 2; i >= 0; i--) assert_int_equal(ask(here->tier, &queries[i], &views[i]), STATUS_OK);
    for (int i = 0; i < 3; i++) assert_true(tier_rig_fits(&key, views[i].bytes, 500000));
    for (int i = 0; i < 3; i++) tier_release(here->tier, &views[i]);
    struct tally tally = sum_of(here->tier, ANN, ITEM_TEXT);
    assert_int_equal(tally.hits[LEVEL_DISK], 1);
    assert_int_equal(tally.hits[LEVEL_HOST], 1 + 2);
}

static void waiting_ends_by_the_deadline(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct draft draft;
    struct view view;
    assert_int_equal(tier_reserve(here->tier, ANN, &key, 1000, 10.0, &draft, NULL), STATUS_OK);
    struct tier_query query = query_of(&key, 30);
    int64_t began_ns = clock_now_ns();
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_AGAIN);
    assert_int_equal(ask(here->tier, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(query.reason, MISS_UNFINISHED);
    assert_true(clock_now_ns() - began_ns >= 30 * MILLISECOND_NS);
    tier_abort(here->tier, &draft);
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(query.reason, MISS_ABSENT);
}

static void what_another_job_is_making_is_waited_for(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct draft draft;
    struct view view;
    assert_int_equal(tier_reserve(here->tier, ANN, &key, 1000, 10.0, &draft, NULL), STATUS_OK);
    struct tier_query query = query_of(&key, 20000);
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_AGAIN);
    tier_rig_fill(&key, draft.bytes, 1000);
    tier_commit(here->tier, &draft);
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_OK);
    tier_release(here->tier, &view);
}

static void what_is_fetched_for_nobody_is_let_go(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct view view;
    struct store_stats stats;
    publish(here->tier, &key, 500000);
    expect(here->tier, &key, 500000);
    crowd(here);
    struct tier_query query = query_of(&key, 20000);
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_AGAIN);
    int64_t until = clock_now_ns() + 10 * SECOND_NS, deadline_ns;
    do {
        usleep(20000);
        deadline_ns = CLOCK_NEVER;
        tier_tend(here->tier, &deadline_ns);
        store_stats(tier_store(here->tier), NULL, &stats);
    } while ((stats.views > 0 || here->tier->fetches[0].state != FETCH_FREE) && clock_now_ns() < until);
    assert_int_equal(stats.views, 0);
}

static void a_file_whose_bits_were_flipped_is_a_miss_and_then_forgotten(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    char command[TIER_PATH + 200], name[KEY_LETTERS];
    struct view view;
    publish(here->tier, &key, 500000);
    expect(here->tier, &key, 500000);
    crowd(here);
    key_write(&key, name);
    snprintf(command, sizeof command,
             "printf X | dd of=$(find %s -name '%s*') bs=1 seek=4321 conv=notrunc 2>/dev/null",
             here->directory, name);
    assert_int_equal(system(command), 0);
    struct tier_query query = query_of(&key, 20000);
    assert_int_equal(ask(here->tier, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(query.reason, MISS_DAMAGED);
    assert_int_equal(sum_of(here->tier, ANN, ITEM_TEXT).misses[MISS_DAMAGED], 1);
    publish(here->tier, &key, 500000);
    expect(here->tier, &key, 500000);
}

static void
items_on_disk_are_there_after_a_restart_and_another_process_s_directory_is_left_alone(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    publish(here->tier, &key, 500000);
    struct tier *second = open_tier(here->directory, 4 * MB, 64 * MB); /* goes on without files */
    struct store_stats stats;
    store_stats(tier_store(second), NULL, &stats);
    assert_int_equal(stats.limit_bytes[LEVEL_DISK], 0);
    tier_close(second);
    tier_close(here->tier);
    here->tier = open_tier(here->directory, 4 * MB, 64 * MB);
    assert_int_equal(copies(here->tier, &key), 1 << LEVEL_DISK);
    expect(here->tier, &key, 500000);
}

static void one_tenant_s_key_is_no_other_s_to_ask_for_or_to_publish(void **state)
{
    struct here *here = *state;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN), open = tier_rig_key(2, ITEM_TABLE, KEY_PUBLIC);
    struct view view;
    struct draft draft;
    struct error error;
    publish(here->tier, &key, 1000);
    publish(here->tier, &open, 1000);
    struct tier_query query = query_of(&key, 0);
    query.tenant = BOB;
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(query.reason, MISS_FOREIGN);
    assert_int_equal(tier_reserve(here->tier, BOB, &key, 1000, 1.0, &draft, &error), STATUS_DENIED);
    struct tally ann = sum_of(here->tier, ANN, ITEM_TEXT), bob = sum_of(here->tier, BOB, ITEM_TEXT);
    for (int i = 0; i < MISSES; i++) assert_true(ann.misses[i] == 0 && bob.misses[i] == 0);
    query = query_of(&open, 0);
    query.tenant = BOB;
    assert_int_equal(tier_ask(here->tier, &query, &view), STATUS_OK);
    tier_release(here->tier, &view);
}

static void limits_that_make_no_sense_get_a_sentence_and_none_means_off(void **state)
{
    struct here *here = *state;
    struct tier *tier = here->tier;
    struct error error;
    struct key key = tier_rig_key(1, ITEM_TEXT, ANN);
    struct tier_config config = {.ops = ops_ref()};
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_OK);
    assert_null(tier);
    struct tier_query query = query_of(&key, 1000);
    struct view view;
    struct draft draft;
    int64_t deadline_ns = CLOCK_NEVER;
    assert_int_equal(tier_ask(NULL, &query, &view), STATUS_NOT_FOUND);
    assert_int_equal(tier_reserve(NULL, ANN, &key, 10, 1, &draft, &error), STATUS_UNSUPPORTED);
    assert_false(tier_tend(NULL, &deadline_ns));
    assert_int_equal(tier_numerics(NULL), 0);
    config.directory = "/tmp/x";
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "--tier-memory 0"));
    config.memory_bytes = 1000;
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "--tier-memory 1000: must be 0"));
    config.memory_bytes = MB;
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "--tier-disk-bytes 0"));
    config.disk_bytes = MB;
    config.directory = "/proc/nowhere/at/all";
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "/proc/nowhere"));
}

static void numerics_are_those_of_the_backend_and_equal_for_all_of_the_cpu_s(void **state)
{
    struct here *here = *state;
    uint64_t ref = tier_numerics(here->tier), cpu = 0;
    assert_true(ref != 0);
    for (const struct ops *const *ops = ops_available(); *ops; ops++) {
        struct tier *tier;
        struct tier_config config = {.memory_bytes = MB, .ops = *ops};
        if (strncmp((*ops)->name, "cpu-", 4) != 0) continue;
        assert_int_equal(tier_open(&config, &tier, NULL), STATUS_OK);
        assert_true(tier_numerics(tier) != ref);
        assert_true(cpu == 0 || cpu == tier_numerics(tier));
        cpu = tier_numerics(tier);
        tier_close(tier);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_published_is_found_small_and_large, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_made_is_a_miss_at_once_and_counted_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_item_on_disk_is_read_by_the_tier_s_thread_and_never_by_the_asker,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(who_asks_for_one_item_at_the_same_time_has_it_read_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(waiting_ends_by_the_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(what_another_job_is_making_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_fetched_for_nobody_is_let_go, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_whose_bits_were_flipped_is_a_miss_and_then_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            items_on_disk_are_there_after_a_restart_and_another_process_s_directory_is_left_alone, setup,
            teardown),
        cmocka_unit_test_setup_teardown(one_tenant_s_key_is_no_other_s_to_ask_for_or_to_publish, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(limits_that_make_no_sense_get_a_sentence_and_none_means_off, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(numerics_are_those_of_the_backend_and_equal_for_all_of_the_cpu_s,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
