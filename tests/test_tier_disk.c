/*
 * test_tier_disk.c - what restarts, flipped bits, cut, foreign and outdated files, and a full disk do to a store's items:
 * they are found again, or missed with a reason, and never wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>
#include "cache/tier/disk.h"
#include "tests/tier_rig.h"

enum { KB = 1024, MB = 1 << 20, ITEM = 5000 };

#define WITH_DISK                                                                                            \
    {                                                                                                        \
        .config.limit_bytes = { [LEVEL_HOST] = 100 * KB, [LEVEL_DISK] = 10 * MB }                            \
    }

/* One item, on disk alone. */
static struct key put_on_disk(struct tier_rig *rig)
{
    struct key key = tier_rig_key(7, ITEM_LATENT, 1);
    assert_int_equal(tier_rig_put(rig, &key, ITEM, 10), STATUS_OK);
    tier_rig_reopen(rig);
    assert_int_equal(tier_rig_copies(rig, &key), 1 << LEVEL_DISK);
    return key;
}

static void flip(const char *path, off_t at)
{
    uint8_t byte;
    int file = open(path, O_RDWR);
    assert_true(file >= 0);
    assert_int_equal(pread(file, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(file, &byte, 1, at), 1);
    close(file);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void items_are_found_again_after_a_restart(void **state)
{
    struct tier_rig rig = WITH_DISK;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 40; i++) {
        struct key key = tier_rig_key(i, i % ITEM_KINDS, 1 + i % 3);
        assert_int_equal(tier_rig_put(&rig, &key, 1 + i * 250, 1 + (double)i), STATUS_OK);
        store_settle(rig.store);
    }
    for (int restart = 0; restart < 3; restart++) {
        tier_rig_reopen(&rig);
        assert_int_equal(tier_rig_sum(&rig).items, 40);
        for (uint64_t i = 0; i < 40; i++) {
            struct key key = tier_rig_key(i, i % ITEM_KINDS, 1 + i % 3);
            assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
        }
        double saved = tier_rig_sum(&rig).seconds_saved;
        assert_true(saved > 819 && saved < 821); /* what a hit saves is kept too */
    }
    tier_rig_close(&rig);
}

static void what_was_forgotten_is_not_found_after_a_restart(void **state)
{
    struct tier_rig rig = WITH_DISK;
    tier_rig_open(&rig);
    struct key key = put_on_disk(&rig);
    assert_int_equal(store_forget(rig.store, &(struct store_match){.key = &key}), 1);
    store_settle(rig.store);
    assert_int_equal(tier_rig_files(&rig), 0);
    tier_rig_reopen(&rig);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    tier_rig_close(&rig);
}

static void any_flipped_bit_makes_a_miss(void **state)
{
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH];
    tier_rig_open(&rig);
    for (off_t at = 0; at < DISK_HEAD_BYTES + ITEM; at += at < DISK_HEAD_BYTES ? 1 : 409) {
        struct key key = put_on_disk(&rig);
        tier_rig_file(&rig, path);
        flip(path, at);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_DAMAGED);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
        store_settle(rig.store);
        assert_int_equal(tier_rig_files(&rig), 0);
    }
    tier_rig_close(&rig);
}

static void any_flipped_bit_before_a_restart_makes_a_miss(void **state)
{
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH];
    tier_rig_open(&rig);
    for (off_t at = 0; at < DISK_HEAD_BYTES + ITEM; at += at < DISK_HEAD_BYTES ? 1 : 409) {
        struct key key = put_on_disk(&rig);
        tier_rig_file(&rig, path);
        flip(path, at);
        tier_rig_reopen(&rig);
        enum miss miss = tier_rig_get(&rig, &key, LEVEL_HOST);
        assert_int_equal(miss, at < DISK_HEAD_BYTES ? MISS_ABSENT : MISS_DAMAGED);
        store_settle(rig.store);
        assert_int_equal(tier_rig_files(&rig), 0);
    }
    tier_rig_close(&rig);
}

static void a_file_that_was_cut_or_has_grown_is_a_miss(void **state)
{
    static const off_t sizes[] = {0,
                                  1,
                                  DISK_HEAD_BYTES - 1,
                                  DISK_HEAD_BYTES,
                                  DISK_HEAD_BYTES + 1,
                                  DISK_HEAD_BYTES + ITEM - 1,
                                  DISK_HEAD_BYTES + ITEM + 1};
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH];
    tier_rig_open(&rig);
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        struct key key = put_on_disk(&rig);
        tier_rig_file(&rig, path);
        assert_int_equal(truncate(path, sizes[i / 2]), 0);
        if (i % 2) tier_rig_reopen(&rig);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), i % 2 ? MISS_ABSENT : MISS_DAMAGED);
        store_settle(rig.store);
        assert_int_equal(tier_rig_files(&rig), 0);
    }
    tier_rig_close(&rig);
}

static void a_file_that_went_away_is_a_miss(void **state)
{
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH];
    tier_rig_open(&rig);
    struct key key = put_on_disk(&rig);
    tier_rig_file(&rig, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_UNREADABLE);
    assert_int_equal(tier_rig_put(&rig, &key, ITEM, 10), STATUS_OK);
    tier_rig_close(&rig);
}

static void an_item_under_another_s_name_is_a_miss(void **state)
{
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH], kept[TIER_PATH], bytes[DISK_HEAD_BYTES + ITEM];
    tier_rig_open(&rig);
    struct key other = tier_rig_key(8, ITEM_LATENT, 2);
    assert_int_equal(tier_rig_put(&rig, &other, ITEM, 10), STATUS_OK);
    store_settle(rig.store);
    tier_rig_file(&rig, kept);
    FILE *file = fopen(kept, "r");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
    fclose(file);
    store_forget(rig.store, &(struct store_match){.key = &other});
    store_settle(rig.store);
    for (int restart = 0; restart < 2; restart++) {
        struct key key = put_on_disk(&rig);
        tier_rig_file(&rig, path);
        write_file(path, bytes, sizeof bytes); /* whole, and its hash fits; but it is another tenant's */
        if (restart) tier_rig_reopen(&rig);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), restart ? MISS_ABSENT : MISS_DAMAGED);
        assert_int_equal(tier_rig_get(&rig, &other, LEVEL_HOST), MISS_ABSENT);
        store_settle(rig.store);
    }
    tier_rig_close(&rig);
}

/* The head's own hash is put right again. */
static void set_version(const char *path, uint32_t version)
{
    uint8_t head[DISK_HEAD_BYTES];
    int file = open(path, O_RDWR);
    assert_true(file >= 0);
    assert_int_equal(pread(file, head, sizeof head, 0), sizeof head);
    memcpy(head + 8, &version, sizeof version);
    uint64_t own = XXH3_64bits(head, DISK_HEAD_BYTES - 8);
    memcpy(head + DISK_HEAD_BYTES - 8, &own, sizeof own);
    assert_int_equal(pwrite(file, head, sizeof head, 0), sizeof head);
    close(file);
}

static void files_of_another_version_are_swept_and_what_is_not_ours_stays(void **state)
{
    struct tier_rig rig = WITH_DISK;
    char path[TIER_PATH], name[TIER_PATH + 64];
    tier_rig_open(&rig);
    struct key key = put_on_disk(&rig);
    tier_rig_file(&rig, path);
    set_version(path, DISK_VERSION + 1);
    char *slash = strrchr(path, '/');
    snprintf(name, sizeof name, "%.*s/.%s", (int)(slash - path), path, slash + 1);
    write_file(name, "half of it", 10); /* a crash in the middle of writing */
    snprintf(name, sizeof name, "%.*s/notes", (int)(slash - path), path);
    write_file(name, "mine", 4);
    snprintf(name, sizeof name, "%s/readme", rig.items);
    write_file(name, "mine", 4);
    assert_int_equal(tier_rig_files(&rig), 4);
    tier_rig_reopen(&rig);
    assert_int_equal(tier_rig_files(&rig), 2);
    assert_int_equal(access(name, F_OK), 0);
    assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISS_ABSENT);
    tier_rig_close(&rig);
}

static void a_smaller_limit_after_a_restart_keeps_the_newest(void **state)
{
    struct tier_rig rig = WITH_DISK;
    struct store_stats stats;
    tier_rig_open(&rig);
    for (uint64_t i = 0; i < 20; i++) {
        struct key key = tier_rig_key(i, ITEM_LATENT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 5000, 10), STATUS_OK);
        store_settle(rig.store);
        tier_rig_sleep(&rig, 1);
    }
    rig.config.limit_bytes[LEVEL_DISK] = 50 * KB; /* six files of 8 KB */
    tier_rig_reopen(&rig);
    store_stats(rig.store, NULL, &stats);
    assert_int_equal(stats.used_bytes[LEVEL_DISK], 48 * KB);
    assert_int_equal(tier_rig_files(&rig), 6);
    for (uint64_t i = 0; i < 20; i++) {
        struct key key = tier_rig_key(i, ITEM_LATENT, 1);
        assert_int_equal(tier_rig_copies(&rig, &key) != 0, i >= 14);
    }
    tier_rig_close(&rig);
}

static void two_stores_do_not_share_a_directory(void **state)
{
    struct tier_rig rig = WITH_DISK;
    struct store *second;
    struct error error;
    tier_rig_open(&rig);
    assert_int_equal(store_open(&rig.config, &second, &error), STATUS_CONFLICT);
    assert_non_null(strstr(error.text, "another process keeps its cache there"));
    struct store_config config = rig.config;
    config.directory = "/proc/nowhere";
    assert_int_equal(store_open(&config, &second, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "/proc/nowhere: the directory"));
    tier_rig_close(&rig);
}

/* A file system of 256 KB below rig->items; false: this user may not mount one. */
static bool mount_small(struct tier_rig *rig)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", rig->items, "tmpfs", 0, "size=256k") == 0;
}

static void on_a_full_disk_items_stay_in_memory_and_there_are_no_half_files(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_HOST] = 4 * MB, [LEVEL_DISK] = 10 * MB}};
    struct store_stats stats;
    tier_rig_open(&rig);
    store_close(rig.store);
    if (!mount_small(&rig)) {
        assert_int_equal(store_open(&rig.config, &rig.store, NULL), STATUS_OK);
        tier_rig_close(&rig);
        skip();
    }
    assert_int_equal(store_open(&rig.config, &rig.store, NULL), STATUS_OK);
    for (uint64_t i = 0; i < 60; i++) {
        struct key key = tier_rig_key(i, ITEM_LATENT, 1);
        assert_int_equal(tier_rig_put(&rig, &key, 10 * KB, 10 + (double)i), STATUS_OK);
        store_settle(rig.store);
        tier_rig_sleep(&rig, 0.1);
    }
    store_stats(rig.store, NULL, &stats);
    assert_true(stats.write_failures > 0);
    assert_true(stats.used_bytes[LEVEL_DISK] <= 256 * KB);
    assert_int_equal(stats.kinds[ITEM_LATENT].items, 60);
    for (uint64_t i = 0; i < 60; i++) {
        struct key key = tier_rig_key(i, ITEM_LATENT, 1);
        assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), MISSES);
    }
    uint64_t files = stats.kinds[ITEM_LATENT].bytes[LEVEL_DISK] / disk_bytes(10 * KB);
    assert_true(files >= 10);
    assert_int_equal(tier_rig_files(&rig), files);
    tier_rig_reopen(&rig);
    assert_int_equal(tier_rig_sum(&rig).items, files);
    tier_rig_close(&rig);
}

/* Publishes for ever; is killed. */
static void publish_for_ever(const struct store_config *from)
{
    struct store_config config = *from;
    struct tier_rig rig = {.config = config};
    config.clock = &rig;
    if (store_open(&config, &rig.store, NULL) != STATUS_OK) _exit(1);
    for (uint64_t i = 0;; i++) {
        struct key key = tier_rig_key(i % 64, ITEM_LATENT, 1);
        tier_rig_put(&rig, &key, 300 * KB, 10);
        store_settle(rig.store);
        if (i % 3 == 0) store_forget(rig.store, &(struct store_match){.key = &key});
    }
}

static void a_kill_at_any_moment_leaves_whole_items_or_none(void **state)
{
    struct tier_rig rig = {.config.limit_bytes = {[LEVEL_HOST] = 2 * MB, [LEVEL_DISK] = 10 * MB}};
    uint64_t found = 0;
    tier_rig_open(&rig);
    store_close(rig.store);
    /* Longer where the machine is so busy that nothing was written yet. */
    for (int kill_us = 3000; kill_us < 60000 || (!found && kill_us < 5000000); kill_us += 3001) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) publish_for_ever(&rig.config);
        usleep((useconds_t)kill_us);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(store_open(&rig.config, &rig.store, NULL), STATUS_OK);
        for (uint64_t i = 0; i < 64; i++) {
            struct key key = tier_rig_key(i, ITEM_LATENT, 1);
            bool here = tier_rig_copies(&rig, &key) != 0;
            assert_int_equal(tier_rig_get(&rig, &key, LEVEL_HOST), here ? MISSES : MISS_ABSENT);
            found += here;
        }
        store_close(rig.store);
    }
    assert_true(found > 0);
    assert_int_equal(store_open(&rig.config, &rig.store, NULL), STATUS_OK);
    tier_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_are_found_again_after_a_restart),
        cmocka_unit_test(what_was_forgotten_is_not_found_after_a_restart),
        cmocka_unit_test(any_flipped_bit_makes_a_miss),
        cmocka_unit_test(any_flipped_bit_before_a_restart_makes_a_miss),
        cmocka_unit_test(a_file_that_was_cut_or_has_grown_is_a_miss),
        cmocka_unit_test(a_file_that_went_away_is_a_miss),
        cmocka_unit_test(an_item_under_another_s_name_is_a_miss),
        cmocka_unit_test(files_of_another_version_are_swept_and_what_is_not_ours_stays),
        cmocka_unit_test(a_smaller_limit_after_a_restart_keeps_the_newest),
        cmocka_unit_test(two_stores_do_not_share_a_directory),
        cmocka_unit_test(a_kill_at_any_moment_leaves_whole_items_or_none),
        cmocka_unit_test(
            on_a_full_disk_items_stay_in_memory_and_there_are_no_half_files), /* last: it mounts */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
