/*
 * test_vault_damage.c - what damaged files, a kill at any moment and a full disk leave of the vault.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "coordinator/vault/vaultfile.h"
#include "tests/vault_rig.h"

enum { SMALL = 150000, LARGE = (5 << 20) + 4321 };

static void write_file(const struct vault_rig *rig, const char *name, const void *bytes, size_t size)
{
    char path[VAULT_RIG_PATH];
    vault_rig_path(rig, name, path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void flip_byte(const struct vault_rig *rig, const char *name, off_t at)
{
    char path[VAULT_RIG_PATH];
    uint8_t byte;
    vault_rig_path(rig, name, path);
    int file = open(path, O_RDWR);
    assert_true(file >= 0);
    assert_int_equal(pread(file, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(file, &byte, 1, at), 1);
    close(file);
}

static void a_spoiled_checkpoint_gives_way_to_the_one_before(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint latest, before = vault_rig_checkpoint(7, 1, 5, SMALL),
                              after = vault_rig_checkpoint(7, 1, 6, SMALL);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    assert_int_equal(vault_rig_save(rank, &before), STATUS_OK);
    assert_int_equal(vault_rig_save(rank, &after), STATUS_OK);
    vault_spoil(rig.vault, &after);
    vault_rig_assert_latest(&rig, &before);
    assert_int_equal(vault_rig_load(rank, &after), STATUS_NOT_FOUND);
    vault_rig_await_files(&rig, 7, 1);
    vault_spoil(rig.vault, &after);
    vault_spoil(rig.vault, &before);
    assert_false(vault_latest(rig.vault, 7, &latest));
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void a_file_whose_bytes_changed_is_not_handed_out(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint before = vault_rig_checkpoint(7, 1, 5, SMALL),
                      after = vault_rig_checkpoint(7, 1, 6, LARGE);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    assert_int_equal(vault_rig_save(rank, &before), STATUS_OK);
    assert_int_equal(vault_rig_save(rank, &after), STATUS_OK);
    flip_byte(&rig, "7/6-1", VAULTFILE_HEAD_BYTES + LARGE - 1);
    assert_int_equal(vault_rig_load(rank, &after), STATUS_CORRUPT);
    vault_rig_assert_latest(&rig, &before);
    assert_int_equal(vault_rig_load(rank, &before), STATUS_OK);
    vault_rig_await_files(&rig, 7, 1);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void at_start_what_is_not_whole_goes_and_what_is_not_ours_stays(void **state)
{
    struct vault_rig rig = {.keep = 9};
    char path[VAULT_RIG_PATH];
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    for (uint32_t step = 1; step <= 6; step++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, step, SMALL);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
    zmq_close(rank);
    vault_rig_shut(&rig);
    flip_byte(&rig, "7/6-1", 0);  /* not ours any more */
    flip_byte(&rig, "7/5-1", 24); /* says it is of another step */
    vault_rig_path(&rig, "7/4-1", path);
    assert_int_equal(truncate(path, VAULTFILE_HEAD_BYTES + SMALL - 1), 0);
    char name[VAULT_RIG_PATH];
    vault_rig_path(&rig, "7/3-1", path);
    vault_rig_path(&rig, "7/8-1", name);
    assert_int_equal(rename(path, name), 0);
    write_file(&rig, "7/.9-1", "half of it", 10);
    write_file(&rig, "7/9-1", "", 0);
    write_file(&rig, "7/notes", "mine", 4);
    write_file(&rig, "readme", "mine", 4);
    vault_rig_path(&rig, "8", path);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file(&rig, "8/.1-1", "half of it", 10);
    vault_rig_path(&rig, "9x", path);
    assert_int_equal(mkdir(path, 0700), 0);
    vault_rig_open(&rig);
    struct checkpoint second = vault_rig_checkpoint(7, 1, 2, SMALL);
    vault_rig_assert_latest(&rig, &second);
    assert_int_equal(vault_rig_files(&rig, 7), 3); /* 1-1, 2-1 and the notes */
    assert_true(vault_rig_exists(&rig, "7/notes") && vault_rig_exists(&rig, "readme") &&
                vault_rig_exists(&rig, "9x"));
    assert_false(vault_rig_exists(&rig, "8"));
    vault_rig_stop(&rig);
}

/* Saves without end, checkpoints of one and of many pieces, until it is killed; a byte on `told` for each. */
static void save_for_ever(const struct vault_rig *parent, int told)
{
    struct vault_rig rig = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    strcpy(rig.directory, parent->directory);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    uint32_t first[3] = {0};
    for (uint64_t job = 1; job <= 3; job++) {
        struct checkpoint latest;
        if (vault_latest(rig.vault, job, &latest)) first[job - 1] = latest.step;
        vault_allow(rig.vault, job, 1);
    }
    for (uint32_t step = 1;; step++)
        for (uint64_t job = 1; job <= 3; job++) {
            struct checkpoint checkpoint =
                vault_rig_checkpoint(job, 1, first[job - 1] + step, job == 3 ? LARGE / 3 : 20000 * job);
            vault_rig_save(rank, &checkpoint);
            if (write(told, "", 1) != 1) _exit(1);
        }
}

static void after_a_kill_at_any_moment_every_file_is_whole(void **state)
{
    enum { KILLS = 25 };
    struct vault_rig rig = {0};
    uint32_t steps[4] = {0};
    unsigned seed = 12345;
    strcpy(rig.directory, "/tmp/refrain-vault.XXXXXX");
    assert_non_null(mkdtemp(rig.directory));
    for (int i = 0; i < KILLS; i++) {
        int told[2];
        char byte;
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) save_for_ever(&rig, told[1]);
        close(told[1]);
        for (int saves = rand_r(&seed) % 20; saves > 0; saves--) assert_int_equal(read(told[0], &byte, 1), 1);
        usleep((useconds_t)rand_r(&seed) % 5000);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        close(told[0]);
        vault_rig_start(&rig);
        void *rank = vault_rig_rank(&rig);
        for (uint64_t job = 1; job <= 3; job++) {
            struct checkpoint latest;
            if (!vault_latest(rig.vault, job, &latest)) {
                assert_int_equal(steps[job], 0); /* never less than there was */
                continue;
            }
            assert_true(latest.step >= steps[job]);
            steps[job] = latest.step;
            assert_int_equal(vault_rig_load(rank, &latest), STATUS_OK);
            assert_in_range(vault_rig_files(&rig, job), 1, 2);
        }
        zmq_close(rank);
        vault_rig_shut(&rig);
        zmq_ctx_term(rig.context);
        rig.context = NULL;
    }
    assert_true(steps[1] > 0 && steps[2] > 0 && steps[3] > 0);
    rig.context = zmq_ctx_new();
    vault_rig_stop(&rig);
}

/* Its line tells the parent what did not hold. */
#define HOLDS(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) _exit(__LINE__ % 251 + 1);                                                              \
    } while (0)

/* The rest of the disk, all of it. */
static void fill(const char *path)
{
    static const char zeros[1 << 16];
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(file, zeros, sizeof zeros) > 0) continue;
    close(file);
}

/* In a process of its own, on a file system of 40 MiB, 32 of which are kept for the job store. */
static void fill_the_disk(struct vault_rig *rig)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", rig->directory, "tmpfs", 0, "size=40m") != 0)
        _exit(255);
    if (!freopen("/dev/null", "w", stderr)) _exit(254);
    vault_rig_start(rig);
    void *rank = vault_rig_rank(rig);
    struct checkpoint first = vault_rig_checkpoint(1, 1, 1, 3 << 20),
                      second = vault_rig_checkpoint(1, 1, 2, 3 << 20),
                      third = vault_rig_checkpoint(1, 1, 3, 3 << 20),
                      other = vault_rig_checkpoint(2, 1, 1, 3 << 20),
                      small = vault_rig_checkpoint(3, 1, 1, SMALL);
    for (uint64_t job = 1; job <= 3; job++) vault_allow(rig->vault, job, 1);
    HOLDS(vault_rig_save(rank, &first) == STATUS_OK);
    HOLDS(vault_rig_save(rank, &second) == STATUS_OK);
    HOLDS(vault_rig_save(rank, &other) == STATUS_OK);
    HOLDS(vault_rig_files(rig, 1) == 1); /* the first made way */
    HOLDS(vault_rig_save(rank, &third) == STATUS_IO);
    HOLDS(vault_rig_files(rig, 1) == 1);
    HOLDS(vault_rig_load(rank, &second) == STATUS_OK);
    HOLDS(vault_rig_save(rank, &small) == STATUS_OK);
    /* And when the room goes while a checkpoint arrives: nothing of it is left, and the next one may be kept.
     */
    char path[VAULT_RIG_PATH];
    uint8_t *bytes = vault_rig_bytes(&third);
    vault_rig_path(rig, "filler", path);
    vault_drop(rig->vault, 2);
    vault_rig_await_files(rig, 2, -1);
    vault_rig_send(rank, &third, bytes, 0, WIRE_CHUNK_MAX);
    vault_rig_await_files(rig, 1, 2);
    fill(path);
    for (uint64_t at = WIRE_CHUNK_MAX; at < third.bytes; at += WIRE_CHUNK_MAX)
        vault_rig_send(rank, &third, bytes, at, WIRE_CHUNK_MAX);
    Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
    HOLDS(reply && reply->saved->status == STATUS_IO && strstr(reply->saved->message, "disk is full"));
    HOLDS(vault_rig_files(rig, 1) == 1);
    unlink(path);
    HOLDS(vault_rig_save(rank, &third) == STATUS_OK);
    _exit(0);
}

static void on_a_full_disk_a_checkpoint_is_refused_and_leaves_nothing(void **state)
{
    struct vault_rig rig = {0};
    int status;
    strcpy(rig.directory, "/tmp/refrain-vault.XXXXXX");
    assert_non_null(mkdtemp(rig.directory));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) fill_the_disk(&rig);
    assert_int_equal(waitpid(child, &status, 0), child);
    rmdir(rig.directory);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 255) skip(); /* needs the right to mount */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_spoiled_checkpoint_gives_way_to_the_one_before),
        cmocka_unit_test(a_file_whose_bytes_changed_is_not_handed_out),
        cmocka_unit_test(at_start_what_is_not_whole_goes_and_what_is_not_ours_stays),
        cmocka_unit_test(after_a_kill_at_any_moment_every_file_is_whole),
        cmocka_unit_test(on_a_full_disk_a_checkpoint_is_refused_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
