/*
 * test_vault.c - what the vault keeps, whom it believes, and what a crash, a full disk or a damaged file
 * leaves.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/curve.h"
#include "coordinator/vault/vaultfile.h"
#include "tests/vault_rig.h"

enum { SMALL = 150000, LARGE = (5 << 20) + 4321 };

/* ------------------------------------------------------------------------------------------------ keeping */

static void what_was_saved_is_there_after_a_restart(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint small = vault_rig_checkpoint(7, 1, 3, SMALL),
                      large = vault_rig_checkpoint(8, 2, 1, LARGE);
    struct checkpoint tiny = vault_rig_checkpoint(9, 1, 1, 1);
    struct checkpoint exact = vault_rig_checkpoint(10, 1, 1, 2 * WIRE_CHUNK_MAX);
    const struct checkpoint *all[] = {&small, &large, &tiny, &exact};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (int i = 0; i < 4; i++) {
        vault_allow(rig.vault, all[i]->job, all[i]->attempt);
        assert_int_equal(vault_rig_save(rank, all[i]), STATUS_OK);
        assert_int_equal(vault_rig_load(rank, all[i]), STATUS_OK);
    }
    zmq_close(rank);
    vault_rig_restart(&rig);
    rank = vault_rig_rank(&rig);
    for (int i = 0; i < 4; i++) {
        vault_rig_assert_latest(&rig, all[i]);
        assert_int_equal(vault_rig_load(rank, all[i]), STATUS_OK);
    }
    struct vault_stats stats;
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.bytes,
                     small.bytes + large.bytes + tiny.bytes + exact.bytes + 4 * VAULTFILE_HEAD_BYTES);
    assert_int_equal(stats.loaded, 4);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void the_loop_is_told_of_what_was_saved(void **state)
{
    struct vault_rig rig = {0};
    vault_rig_start(&rig);
    struct pollfd readable = {.fd = vault_descriptor(rig.vault), .events = POLLIN};
    struct checkpoint told,
        first = vault_rig_checkpoint(1, 1, 1, 100), second = vault_rig_checkpoint(2, 1, 1, 100),
        third = vault_rig_checkpoint(1, 1, 2, 100), fourth = vault_rig_checkpoint(3, 1, 2, 100);
    const struct checkpoint *all[] = {&first, &second, &third, &fourth};
    void *rank = vault_rig_rank(&rig);
    assert_int_equal(poll(&readable, 1, 0), 0);
    assert_false(vault_saved(rig.vault, &told));
    for (int i = 0; i < 4; i++) {
        vault_allow(rig.vault, all[i]->job, 1);
        assert_int_equal(vault_rig_save(rank, all[i]), STATUS_OK);
    }
    vault_drop(rig.vault, 3);
    assert_int_equal(poll(&readable, 1, 0), 1);
    assert_true(vault_saved(rig.vault, &told));
    assert_true(vault_rig_same(&told, &third)); /* the first of that job is old news */
    assert_int_equal(poll(&readable, 1, 0), 1);
    assert_true(vault_saved(rig.vault, &told));
    assert_true(vault_rig_same(&told, &second));
    assert_false(vault_saved(rig.vault, &told));
    assert_int_equal(poll(&readable, 1, 0), 0);
    struct checkpoint again = vault_rig_checkpoint(2, 1, 2, 100);
    assert_int_equal(vault_rig_save(rank, &again), STATUS_OK);
    assert_int_equal(poll(&readable, 1, 0), 1);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void checkpoints_of_many_jobs_that_arrive_together_are_all_kept(void **state)
{
    enum { JOBS = 40 };
    struct vault_rig rig = {0};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (uint32_t step = 1; step <= 3; step++) {
        for (uint64_t job = 1; job <= JOBS; job++) {
            struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, step, 1000 * job);
            uint8_t *bytes = vault_rig_bytes(&checkpoint);
            vault_allow(rig.vault, job, 1);
            vault_rig_send(rank, &checkpoint, bytes, 0, checkpoint.bytes);
            free(bytes);
        }
        for (uint64_t job = 1; job <= JOBS; job++) {
            Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
            assert_non_null(reply);
            assert_int_equal(reply->saved->status, STATUS_OK);
            refrain__vault_reply__free_unpacked(reply, NULL);
        }
    }
    vault_rig_restart(&rig);
    for (uint64_t job = 1; job <= JOBS; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 3, 1000 * job);
        vault_rig_assert_latest(&rig, &checkpoint);
        assert_int_equal(vault_rig_files(&rig, job), 2);
    }
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void the_newest_few_of_a_job_are_kept(void **state)
{
    struct vault_rig rig = {.keep = 3};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    for (uint32_t step = 1; step <= 6; step++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, step, SMALL);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
        vault_rig_assert_latest(&rig, &checkpoint);
    }
    vault_rig_await_files(&rig, 7, 3);
    assert_true(vault_rig_exists(&rig, "7/4-1") && vault_rig_exists(&rig, "7/5-1") &&
                vault_rig_exists(&rig, "7/6-1"));
    rig.keep = 1; /* holds for what is there already, too */
    zmq_close(rank);
    vault_rig_restart(&rig);
    vault_rig_await_files(&rig, 7, 1);
    assert_true(vault_rig_exists(&rig, "7/6-1"));
    vault_rig_stop(&rig);
}

static void the_latest_is_the_one_with_most_steps_and_then_of_the_latest_attempt(void **state)
{
    struct vault_rig rig = {.keep = 2};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    struct checkpoint early = vault_rig_checkpoint(7, 1, 4, 100), late = vault_rig_checkpoint(7, 1, 5, 100),
                      anew = vault_rig_checkpoint(7, 2, 1, 100), again = vault_rig_checkpoint(7, 2, 5, 100);
    vault_allow(rig.vault, 7, 1);
    assert_int_equal(vault_rig_save(rank, &early), STATUS_OK);
    assert_int_equal(vault_rig_save(rank, &late), STATUS_OK);
    vault_allow(rig.vault, 7, 2);
    assert_int_equal(vault_rig_save(rank, &anew), STATUS_OK); /* two are better: not worth a file */
    vault_rig_assert_latest(&rig, &late);
    vault_rig_await_files(&rig, 7, 2);
    assert_false(vault_rig_exists(&rig, "7/1-2"));
    assert_int_equal(vault_rig_save(rank, &again), STATUS_OK);
    vault_rig_assert_latest(&rig, &again);
    vault_rig_await_files(&rig, 7, 2);
    assert_true(vault_rig_exists(&rig, "7/5-1") && vault_rig_exists(&rig, "7/5-2"));
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void the_same_checkpoint_twice_is_one(void **state)
{
    struct vault_rig rig = {0};
    struct vault_stats stats;
    struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 4, SMALL);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    for (int i = 0; i < 3; i++) assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.bytes, SMALL + VAULTFILE_HEAD_BYTES);
    vault_spoil(rig.vault, &checkpoint); /* and what was to be removed comes anew */
    assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    assert_int_equal(vault_rig_load(rank, &checkpoint), STATUS_OK);
    vault_rig_await_files(&rig, 7, 1);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void superseded_checkpoints_make_way_before_a_new_one_is_refused(void **state)
{
    struct vault_rig rig = {.keep = 3, .limit_bytes = 5 * (1000 + VAULTFILE_HEAD_BYTES)};
    struct vault_stats stats;
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 1, 1);
    vault_allow(rig.vault, 2, 1);
    for (uint32_t step = 1; step <= 3; step++) { /* 1/1 is the oldest, then 1/2, 2/1 */
        struct checkpoint checkpoint = vault_rig_checkpoint(1, 1, step, 1000);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
    for (uint32_t step = 1; step <= 3; step++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(2, 1, step, 1000);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
    assert_false(vault_rig_exists(&rig, "1/1-1"));
    assert_true(vault_rig_exists(&rig, "1/2-1") && vault_rig_exists(&rig, "2/1-1"));
    for (uint64_t job = 3; job <= 5; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 1, 1000);
        vault_allow(rig.vault, job, 1);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
    struct checkpoint one_more = vault_rig_checkpoint(6, 1, 1, 1000),
                      next = vault_rig_checkpoint(1, 1, 4, 1000);
    vault_allow(rig.vault, 6, 1);
    assert_int_equal(vault_rig_save(rank, &one_more), STATUS_NO_MEMORY);
    assert_int_equal(vault_rig_save(rank, &next), STATUS_NO_MEMORY); /* the best of a job is not given up */
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.bytes, rig.limit_bytes);
    assert_int_equal(stats.saved, 9);
    assert_int_equal(stats.refused, 2);
    vault_drop(rig.vault, 2);
    assert_int_equal(vault_rig_save(rank, &next), STATUS_OK);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void a_dropped_job_leaves_nothing_and_may_come_back(void **state)
{
    struct vault_rig rig = {0};
    struct vault_stats stats;
    struct checkpoint latest, checkpoint = vault_rig_checkpoint(7, 1, 9, SMALL),
                              large = vault_rig_checkpoint(7, 1, 10, LARGE),
                              anew = vault_rig_checkpoint(7, 2, 1, SMALL);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    uint8_t *bytes = vault_rig_bytes(&large); /* in the middle of one */
    vault_rig_send(rank, &large, bytes, 0, WIRE_CHUNK_MAX);
    vault_rig_await_files(&rig, 7, 2);
    vault_drop(rig.vault, 7);
    assert_false(vault_latest(rig.vault, 7, &latest));
    vault_rig_await_files(&rig, 7, -1);
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.bytes, 0);
    vault_drop(rig.vault, 7);
    vault_allow(rig.vault, 7, 2);
    assert_int_equal(vault_rig_save(rank, &anew), STATUS_OK);
    vault_rig_assert_latest(&rig, &anew);
    free(bytes);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static bool keep_odd(void *context, uint64_t job)
{
    ++*(int *)context;
    return job % 2;
}

static void a_sweep_removes_the_jobs_that_nobody_stands_for(void **state)
{
    struct vault_rig rig = {0};
    int asked = 0;
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (uint64_t job = 1; job <= 6; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 1, 100);
        vault_allow(rig.vault, job, 1);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
    vault_rig_restart(&rig);
    vault_sweep(rig.vault, keep_odd, &asked);
    assert_int_equal(asked, 6);
    for (uint64_t job = 1; job <= 6; job++) {
        struct checkpoint latest;
        assert_int_equal(vault_latest(rig.vault, job, &latest), job % 2);
        vault_rig_await_files(&rig, job, job % 2 ? 1 : -1);
    }
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* ---------------------------------------------------------------------------------------------- believing */

static void only_the_attempt_that_counts_may_save(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint latest, first = vault_rig_checkpoint(7, 1, 5, SMALL),
                              second = vault_rig_checkpoint(7, 2, 6, SMALL),
                              third = vault_rig_checkpoint(7, 2, 7, SMALL);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    assert_int_equal(vault_rig_save(rank, &first), STATUS_ABORTED);
    assert_int_equal(vault_rig_files(&rig, 7), -1);
    vault_allow(rig.vault, 7, 2);
    assert_int_equal(vault_rig_save(rank, &first), STATUS_ABORTED);
    assert_int_equal(vault_rig_save(rank, &second), STATUS_OK);
    vault_forbid(rig.vault, 7);
    assert_int_equal(vault_rig_save(rank, &third), STATUS_ABORTED);
    vault_rig_assert_latest(&rig, &second); /* what it has stays */
    vault_allow(rig.vault, 7, 3);
    assert_int_equal(vault_rig_save(rank, &third), STATUS_ABORTED);
    vault_drop(rig.vault, 7);
    assert_int_equal(vault_rig_save(rank, &second), STATUS_ABORTED);
    assert_false(vault_latest(rig.vault, 7, &latest));
    vault_forbid(rig.vault, 8); /* never heard of */
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void an_attempt_that_ends_between_two_pieces_saves_nothing(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint latest, checkpoint = vault_rig_checkpoint(7, 1, 5, 2 * WIRE_CHUNK_MAX);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    uint8_t *bytes = vault_rig_bytes(&checkpoint);
    vault_allow(rig.vault, 7, 1);
    vault_rig_send(rank, &checkpoint, bytes, 0, WIRE_CHUNK_MAX);
    vault_rig_await_files(&rig, 7, 1);
    vault_allow(rig.vault, 7, 2);
    vault_rig_send(rank, &checkpoint, bytes, WIRE_CHUNK_MAX, WIRE_CHUNK_MAX);
    Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
    assert_non_null(reply);
    assert_int_equal(reply->saved->status, STATUS_ABORTED);
    assert_false(vault_latest(rig.vault, 7, &latest));
    refrain__vault_reply__free_unpacked(reply, NULL);
    struct checkpoint next = vault_rig_checkpoint(7, 2, 1, 100);
    assert_int_equal(vault_rig_save(rank, &next), STATUS_OK);
    vault_rig_await_files(&rig, 7, 1);
    free(bytes);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void a_checkpoint_given_up_for_a_newer_one_leaves_nothing(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint older = vault_rig_checkpoint(7, 1, 5, LARGE),
                      newer = vault_rig_checkpoint(7, 1, 6, LARGE);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig), *other = vault_rig_rank(&rig);
    uint8_t *bytes = vault_rig_bytes(&older);
    vault_allow(rig.vault, 7, 1);
    vault_rig_send(rank, &older, bytes, 0, WIRE_CHUNK_MAX);
    vault_rig_send(rank, &older, bytes, WIRE_CHUNK_MAX, WIRE_CHUNK_MAX);
    assert_int_equal(vault_rig_save(rank, &newer), STATUS_OK);
    vault_rig_assert_latest(&rig, &newer);
    vault_rig_await_files(&rig, 7, 1);
    /* The rest of the older one is an answer to nothing, and another connection cannot finish what this
     * began. */
    vault_rig_send(rank, &older, bytes, 2 * WIRE_CHUNK_MAX, WIRE_CHUNK_MAX);
    vault_rig_send(rank, &older, bytes, 0, WIRE_CHUNK_MAX);
    vault_rig_await_files(&rig, 7, 2);
    vault_rig_send(other, &older, bytes, WIRE_CHUNK_MAX, WIRE_CHUNK_MAX);
    assert_null(vault_rig_answer(rank, 50));
    assert_null(vault_rig_answer(other, 50));
    vault_rig_restart(&rig); /* what had not arrived whole is gone */
    assert_int_equal(vault_rig_files(&rig, 7), 1);
    free(bytes);
    zmq_close(rank);
    zmq_close(other);
    vault_rig_stop(&rig);
}

static void pieces_that_do_not_fit_are_refused_with_a_sentence(void **state)
{
    struct vault_rig rig = {.job_bytes = 4 << 20};
    struct checkpoint good = vault_rig_checkpoint(7, 1, 5, 1000), latest;
    struct {
        struct checkpoint checkpoint;
        uint64_t offset;
        size_t bytes;
        status_t status;
        const char *sentence;
    } bad[] = {
        {{.job = 0, .attempt = 1, .step = 1, .bytes = 10},
         0,
         10,
         STATUS_INVALID,
         "job and attempt must be given"},
        {{.job = 7, .attempt = 0, .step = 1, .bytes = 10},
         0,
         10,
         STATUS_INVALID,
         "job and attempt must be given"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 0}, 0, 10, STATUS_INVALID, "must be 1 to 4194304"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 5 << 20},
         0,
         10,
         STATUS_INVALID,
         "must be 1 to 4194304"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 10}, 0, 11, STATUS_INVALID, "does not fit into 10"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 10}, 11, 1, STATUS_INVALID, "does not fit into 10"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 10}, 10, 0, STATUS_INVALID, "does not fit into 10"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 4 << 20},
         0,
         WIRE_CHUNK_MAX + 1,
         STATUS_INVALID,
         "does not fit"},
        {{.job = 7, .attempt = 1, .step = 1, .bytes = 10, .xxh64 = 5},
         0,
         10,
         STATUS_CORRUPT,
         "0000000000000005"},
    };
    static const uint8_t zeros[WIRE_CHUNK_MAX + 64];
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        vault_rig_send(rank, &bad[i].checkpoint, zeros, bad[i].offset, bad[i].bytes);
        Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
        assert_non_null(reply);
        assert_int_equal(reply->saved->status, bad[i].status);
        assert_non_null(strstr(reply->saved->message, bad[i].sentence));
        refrain__vault_reply__free_unpacked(reply, NULL);
    }
    assert_false(vault_latest(rig.vault, 7, &latest));
    assert_int_equal(vault_rig_save(rank, &good), STATUS_OK);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void garbage_is_counted_and_harms_nobody(void **state)
{
    struct vault_rig rig = {0};
    struct vault_stats stats;
    struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 5, SMALL);
    uint8_t noise[300];
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig), *stranger = vault_rig_rank(&rig);
    vault_allow(rig.vault, 7, 1);
    memset(noise, 0xA5, sizeof noise);
    for (size_t length = 0; length < sizeof noise; length++)
        assert_true(zmq_send(stranger, noise, length, 0) >= 0);
    zmq_send(stranger, "a", 1, ZMQ_SNDMORE);
    zmq_send(stranger, "b", 1, 0);
    Refrain__VaultRequest empty = REFRAIN__VAULT_REQUEST__INIT;
    Refrain__LoadChunk load = REFRAIN__LOAD_CHUNK__INIT;
    wire_stamp(empty);
    assert_int_equal(wire_send(stranger, NULL, &empty.base, NULL), STATUS_OK);
    empty.body_case = REFRAIN__VAULT_REQUEST__BODY_LOAD;
    empty.load = &load;
    assert_int_equal(wire_send(stranger, NULL, &empty.base, NULL), STATUS_OK);
    Refrain__VaultReply *reply = vault_rig_answer(stranger, VAULT_RIG_ANSWER_MS);
    assert_non_null(reply);
    assert_int_equal(reply->loaded->status, STATUS_INVALID);
    refrain__vault_reply__free_unpacked(reply, NULL);
    empty.version = 99;
    assert_int_equal(wire_send(stranger, NULL, &empty.base, NULL), STATUS_OK);
    assert_null(vault_rig_answer(stranger, 50));
    assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.refused, 300 + 1 + 1);
    zmq_close(rank);
    zmq_close(stranger);
    vault_rig_stop(&rig);
}

/* With keys, the coordinator hands curve_protect in like this. */
static status_t protect(void *argument, void *socket, struct error *error)
{
    return curve_protect(argument, socket, "workers", error);
}

static void *rank_with_key(struct vault_rig *rig, const char *name)
{
    char path[160];
    struct keyfile key;
    struct error error;
    snprintf(path, sizeof path, "%s.keys/%s.secret", rig->directory, name);
    if (keyfile_read(path, &key, &error) != STATUS_OK) fail_msg("%s", error.text);
    int no_linger = 0;
    void *rank = zmq_socket(rig->context, ZMQ_DEALER);
    zmq_setsockopt(rank, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(rank, ZMQ_CURVE_SERVERKEY, key.server_key, strlen(key.server_key));
    zmq_setsockopt(rank, ZMQ_CURVE_PUBLICKEY, key.public_key, strlen(key.public_key));
    zmq_setsockopt(rank, ZMQ_CURVE_SECRETKEY, key.secret_key, strlen(key.secret_key));
    assert_int_equal(zmq_connect(rank, rig->endpoint), 0);
    return rank;
}

static void with_keys_only_workers_are_let_in(void **state)
{
    struct vault_rig rig = {0};
    struct curve *curve;
    struct error error;
    char keys[96], command[128];
    struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 5, SMALL);
    const char *const others[] = {"somebody", "root"};
    strcpy(rig.directory, "/tmp/refrain-vault.XXXXXX");
    assert_non_null(mkdtemp(rig.directory));
    snprintf(keys, sizeof keys, "%s.keys", rig.directory);
    assert_int_equal(curve_make_key(keys, "node", ROLE_WORKER, &error), STATUS_OK);
    assert_int_equal(curve_make_key(keys, "somebody", ROLE_CLIENT, &error), STATUS_OK);
    assert_int_equal(curve_make_key(keys, "root", ROLE_ADMIN, &error), STATUS_OK);
    rig.context = zmq_ctx_new();
    assert_int_equal(curve_open(rig.context, keys, &curve, &error), STATUS_OK);
    rig.secure = protect;
    rig.secure_argument = curve;
    vault_rig_start(&rig);
    vault_allow(rig.vault, 7, 1);
    void *rank = rank_with_key(&rig, "node");
    assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    uint8_t *bytes = vault_rig_bytes(&checkpoint);
    for (int i = 0; i < 3; i++) { /* keys of other roles, and none at all */
        void *stranger = i < 2 ? rank_with_key(&rig, others[i]) : vault_rig_rank(&rig);
        vault_rig_send(stranger, &checkpoint, bytes, 0, checkpoint.bytes);
        assert_null(vault_rig_answer(stranger, 200));
        zmq_close(stranger);
    }
    struct vault_stats stats;
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.saved, 1);
    free(bytes);
    zmq_close(rank);
    vault_rig_shut(&rig);
    curve_close(curve);
    snprintf(command, sizeof command, "rm -rf '%s'", keys);
    assert_int_equal(system(command), 0);
    vault_rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_saved_is_there_after_a_restart),
        cmocka_unit_test(the_loop_is_told_of_what_was_saved),
        cmocka_unit_test(checkpoints_of_many_jobs_that_arrive_together_are_all_kept),
        cmocka_unit_test(the_newest_few_of_a_job_are_kept),
        cmocka_unit_test(the_latest_is_the_one_with_most_steps_and_then_of_the_latest_attempt),
        cmocka_unit_test(the_same_checkpoint_twice_is_one),
        cmocka_unit_test(superseded_checkpoints_make_way_before_a_new_one_is_refused),
        cmocka_unit_test(a_dropped_job_leaves_nothing_and_may_come_back),
        cmocka_unit_test(a_sweep_removes_the_jobs_that_nobody_stands_for),
        cmocka_unit_test(only_the_attempt_that_counts_may_save),
        cmocka_unit_test(an_attempt_that_ends_between_two_pieces_saves_nothing),
        cmocka_unit_test(a_checkpoint_given_up_for_a_newer_one_leaves_nothing),
        cmocka_unit_test(pieces_that_do_not_fit_are_refused_with_a_sentence),
        cmocka_unit_test(garbage_is_counted_and_harms_nobody),
        cmocka_unit_test(with_keys_only_workers_are_let_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
