/*
 * vault_rig.c - see vault_rig.h.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "tests/vault_rig.h"

void vault_rig_open(struct vault_rig *rig)
{
    struct error error;
    struct vault_config config = {.context = rig->context,
                                  .bind = rig->endpoint,
                                  .directory = rig->directory,
                                  .limit_bytes = rig->limit_bytes,
                                  .job_bytes = rig->job_bytes,
                                  .mark_bytes = rig->mark_bytes,
                                  .keep = rig->keep,
                                  .secure = rig->secure,
                                  .secure_argument = rig->secure_argument};
    /* The port was free a moment ago, and is once the closed socket's thread let go of it. */
    status_t status = STATUS_IO;
    for (int tries = 0; tries < 500 && status == STATUS_IO; tries++) {
        status = vault_open(&config, &rig->vault, &error);
        if (status == STATUS_IO) usleep(10000);
    }
    if (status != STATUS_OK) fail_msg("%s", error.text);
    snprintf(rig->endpoint, sizeof rig->endpoint, "%s", vault_endpoint(rig->vault));
}

void vault_rig_start(struct vault_rig *rig)
{
    const char *tmp = getenv("TMPDIR");
    if (!rig->directory[0]) {
        snprintf(rig->directory, sizeof rig->directory, "%.40s/refrain-vault.XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(rig->directory));
    }
    if (!rig->context) assert_non_null(rig->context = zmq_ctx_new());
    if (!rig->limit_bytes) rig->limit_bytes = UINT64_C(1) << 30;
    if (!rig->job_bytes) rig->job_bytes = UINT64_C(64) << 20;
    if (!rig->keep) rig->keep = 2;
    strcpy(rig->endpoint, "tcp://127.0.0.1:*");
    vault_rig_open(rig);
}

void vault_rig_shut(struct vault_rig *rig)
{
    vault_close(rig->vault);
    rig->vault = NULL;
}

void vault_rig_restart(struct vault_rig *rig)
{
    vault_rig_shut(rig);
    vault_rig_open(rig);
}

void vault_rig_stop(struct vault_rig *rig)
{
    char command[128];
    vault_close(rig->vault);
    zmq_ctx_term(rig->context);
    snprintf(command, sizeof command, "rm -rf '%s'", rig->directory);
    assert_int_equal(system(command), 0);
    *rig = (struct vault_rig){0};
}

void *vault_rig_rank(struct vault_rig *rig)
{
    int no_linger = 0, backlog = 0;
    void *rank = zmq_socket(rig->context, ZMQ_DEALER);
    assert_non_null(rank);
    zmq_setsockopt(rank, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(rank, ZMQ_SNDHWM, &backlog, sizeof backlog);
    zmq_setsockopt(rank, ZMQ_RCVHWM, &backlog, sizeof backlog);
    assert_int_equal(zmq_connect(rank, rig->endpoint), 0);
    return rank;
}

uint8_t *vault_rig_bytes(const struct checkpoint *checkpoint)
{
    uint8_t *bytes = malloc(checkpoint->bytes + sizeof(uint64_t));
    uint64_t number = checkpoint->job * 1000003 + checkpoint->attempt * 10007 + checkpoint->step + 1;
    assert_non_null(bytes);
    for (uint64_t at = 0; at < checkpoint->bytes; at += sizeof number) {
        number = number * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        memcpy(bytes + at, &number, sizeof number);
    }
    return bytes;
}

struct checkpoint vault_rig_checkpoint(uint64_t job, uint32_t attempt, uint32_t step, uint64_t size)
{
    struct checkpoint checkpoint = {.job = job, .attempt = attempt, .step = step, .bytes = size};
    uint8_t *bytes = vault_rig_bytes(&checkpoint);
    checkpoint.xxh64 = XXH64(bytes, size, 0);
    free(bytes);
    return checkpoint;
}

static void send_request(void *rank, Refrain__VaultRequest *request)
{
    struct error error;
    wire_stamp(*request);
    if (wire_send(rank, NULL, &request->base, &error) != STATUS_OK) fail_msg("%s", error.text);
}

static const struct run_point *sent_point;

void vault_rig_name_run(const struct run_point *point)
{
    sent_point = point;
}

void vault_rig_send(void *rank, const struct checkpoint *checkpoint, const uint8_t *data, uint64_t offset,
                    size_t bytes)
{
    Refrain__VaultRequest request = REFRAIN__VAULT_REQUEST__INIT;
    Refrain__SaveChunk chunk = REFRAIN__SAVE_CHUNK__INIT;
    chunk.has_job = chunk.has_attempt = chunk.has_step = chunk.has_offset = chunk.has_total = 1;
    chunk.job = checkpoint->job;
    chunk.attempt = checkpoint->attempt;
    chunk.step = checkpoint->step;
    chunk.offset = offset;
    chunk.total = checkpoint->bytes;
    chunk.has_data = 1;
    chunk.data.data = (uint8_t *)(uintptr_t)data + offset;
    chunk.data.len = bytes;
    uint8_t run[KEY_BYTES];
    if (sent_point && offset == 0) {
        key_encode(&sent_point->run, run);
        chunk.has_run = chunk.has_run_step = chunk.has_run_seconds = 1;
        chunk.run = (ProtobufCBinaryData){KEY_BYTES, run};
        chunk.run_step = sent_point->step;
        chunk.run_seconds = sent_point->seconds;
    }
    chunk.has_xxh64 = offset + bytes == checkpoint->bytes;
    chunk.xxh64 = checkpoint->xxh64;
    request.body_case = REFRAIN__VAULT_REQUEST__BODY_SAVE;
    request.save = &chunk;
    send_request(rank, &request);
}

Refrain__VaultReply *vault_rig_answer(void *rank, int timeout_ms)
{
    zmq_pollitem_t item = {.socket = rank, .events = ZMQ_POLLIN};
    struct error error;
    zmq_msg_t frame;
    Refrain__VaultReply *reply = NULL;
    if (zmq_poll(&item, 1, timeout_ms) <= 0) return NULL;
    assert_int_equal(wire_receive(rank, NULL, &frame, &error), STATUS_OK);
    if (wire_unpack_vault_reply(zmq_msg_data(&frame), zmq_msg_size(&frame), &reply, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    zmq_msg_close(&frame);
    return reply;
}

status_t vault_rig_save(void *rank, const struct checkpoint *checkpoint)
{
    uint8_t *bytes = vault_rig_bytes(checkpoint);
    for (uint64_t at = 0; at < checkpoint->bytes; at += WIRE_CHUNK_MAX) {
        uint64_t left = checkpoint->bytes - at;
        vault_rig_send(rank, checkpoint, bytes, at, left < WIRE_CHUNK_MAX ? left : WIRE_CHUNK_MAX);
    }
    free(bytes);
    Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
    assert_non_null(reply);
    assert_int_equal(reply->body_case, REFRAIN__VAULT_REPLY__BODY_SAVED);
    assert_int_equal(reply->saved->job, checkpoint->job);
    assert_int_equal(reply->saved->attempt, checkpoint->attempt);
    assert_int_equal(reply->saved->step, checkpoint->step);
    assert_true((reply->saved->message != NULL) == (reply->saved->status != STATUS_OK));
    status_t status = (status_t)reply->saved->status;
    refrain__vault_reply__free_unpacked(reply, NULL);
    return status;
}

static status_t load_piece(void *rank, const struct checkpoint *checkpoint, uint64_t offset, uint8_t *into)
{
    Refrain__VaultRequest request = REFRAIN__VAULT_REQUEST__INIT;
    Refrain__LoadChunk load = REFRAIN__LOAD_CHUNK__INIT;
    Refrain__Checkpoint name = REFRAIN__CHECKPOINT__INIT;
    name.has_job = name.has_attempt = name.has_step = name.has_bytes = name.has_xxh64 = 1;
    name.job = checkpoint->job;
    name.attempt = checkpoint->attempt;
    name.step = checkpoint->step;
    name.bytes = checkpoint->bytes;
    name.xxh64 = checkpoint->xxh64;
    load.checkpoint = &name;
    load.has_offset = load.has_bytes = 1;
    load.offset = offset;
    load.bytes = WIRE_CHUNK_MAX;
    request.body_case = REFRAIN__VAULT_REQUEST__BODY_LOAD;
    request.load = &load;
    send_request(rank, &request);
    Refrain__VaultReply *reply = vault_rig_answer(rank, VAULT_RIG_ANSWER_MS);
    assert_non_null(reply);
    assert_int_equal(reply->body_case, REFRAIN__VAULT_REPLY__BODY_LOADED);
    assert_int_equal(reply->loaded->offset, offset);
    status_t status = (status_t)reply->loaded->status;
    if (status == STATUS_OK) {
        uint64_t left = checkpoint->bytes - offset;
        assert_int_equal(reply->loaded->data.len, left < WIRE_CHUNK_MAX ? left : WIRE_CHUNK_MAX);
        memcpy(into + offset, reply->loaded->data.data, reply->loaded->data.len);
    }
    refrain__vault_reply__free_unpacked(reply, NULL);
    return status;
}

status_t vault_rig_load(void *rank, const struct checkpoint *checkpoint)
{
    status_t status = STATUS_OK;
    uint8_t *loaded = malloc(checkpoint->bytes);
    assert_non_null(loaded);
    for (uint64_t at = 0; at < checkpoint->bytes && status == STATUS_OK; at += WIRE_CHUNK_MAX)
        status = load_piece(rank, checkpoint, at, loaded);
    if (status == STATUS_OK) assert_true(XXH64(loaded, checkpoint->bytes, 0) == checkpoint->xxh64);
    free(loaded);
    return status;
}

bool vault_rig_same(const struct checkpoint *a, const struct checkpoint *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

void vault_rig_assert_latest(const struct vault_rig *rig, const struct checkpoint *expected)
{
    struct checkpoint latest;
    assert_true(vault_latest(rig->vault, expected->job, &latest));
    assert_int_equal(latest.step, expected->step);
    assert_true(vault_rig_same(&latest, expected));
}

void vault_rig_path(const struct vault_rig *rig, const char *name, char path[VAULT_RIG_PATH])
{
    snprintf(path, VAULT_RIG_PATH, "%s/%s", rig->directory, name);
}

bool vault_rig_exists(const struct vault_rig *rig, const char *name)
{
    char path[VAULT_RIG_PATH];
    vault_rig_path(rig, name, path);
    return access(path, F_OK) == 0;
}

int vault_rig_files(const struct vault_rig *rig, uint64_t job)
{
    char path[128];
    int count = 0;
    snprintf(path, sizeof path, "%s/%" PRIu64, rig->directory, job);
    DIR *directory = opendir(path);
    if (!directory) return -1;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

void vault_rig_await_files(const struct vault_rig *rig, uint64_t job, int count)
{
    for (int waited_ms = 0; waited_ms < VAULT_RIG_ANSWER_MS; waited_ms += 5) {
        if (vault_rig_files(rig, job) == count) return;
        usleep(5000);
    }
    fail_msg("job %" PRIu64 " has %d files, not %d", job, vault_rig_files(rig, job), count);
}
