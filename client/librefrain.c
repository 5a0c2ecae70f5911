/*
 * librefrain.c - the calls of librefrain.h that are one request and one reply, and keys. The caller's thread;
 * no locks.
 *
 * What each sends and which body it expects back is proto/refrain.proto; waiting, repeating and errors are
 * connection.c's; what comes back becomes plain structs in records.c.
 */
#include "client/librefrain.h"

#include "base/clock.h"
#include "client/connection.h"
#include "client/records.h"
#include "proto/keyfile.h"
#include "proto/validate.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------------- jobs */

/* 32 hexadecimal digits nobody else uses: makes it safe to send a submission again. */
static void random_key(char key[33])
{
    unsigned char bytes[16] = {0};
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        int64_t now = clock_now_ns() ^ ((int64_t)getpid() << 40); /* an early boot without entropy */
        memcpy(bytes, &now, sizeof now);
    }
    for (int i = 0; i < 16; i++) snprintf(key + 2 * i, 3, "%02x", bytes[i]);
}

status_t refrain_spec_check(const struct refrain_spec *spec, const char **field, struct error *error)
{
    Refrain__JobSpec wire;
    if (field) *field = "";
    status_t status = record_spec_to_wire(spec, &wire, error);
    if (!status) status = validate_spec(&wire, field, error);
    record_wire_free(&wire);
    return status;
}

status_t refrain_submit(struct refrain *refrain, const struct refrain_spec *spec, const char *idempotency_key,
                        int timeout_ms, struct refrain_job **job, struct error *error)
{
    char key[33];
    Refrain__JobSpec wire;
    status_t status = record_spec_to_wire(spec, &wire, error);
    if (status) return status;
    Refrain__Submit body = REFRAIN__SUBMIT__INIT;
    body.spec = &wire;
    if (idempotency_key) {
        body.idempotency_key = (char *)(uintptr_t)idempotency_key;
    } else {
        random_key(key);
        body.idempotency_key = key;
    }
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    Refrain__Reply *reply;
    status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_JOB, timeout_ms, &reply, error);
    record_wire_free(&wire);
    return status ? status : record_job(reply, job, error);
}

status_t refrain_status(struct refrain *refrain, uint64_t number, int timeout_ms, struct refrain_job **job,
                        struct error *error)
{
    Refrain__Status body = REFRAIN__STATUS__INIT;
    body.has_job = 1, body.job = number;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATUS;
    request.status = &body;
    Refrain__Reply *reply;
    status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_JOB, timeout_ms, &reply, error);
    return status ? status : record_job(reply, job, error);
}

/* Events until the last one, each with what is left of the time. */
static status_t wait_for_last(struct refrain_watch *watch, int64_t deadline_ns, struct error *error)
{
    for (bool last = false; !last;) {
        struct refrain_event *event;
        status_t status = refrain_watch_next(watch, clock_poll_ms(deadline_ns), &event, error);
        if (status) return status;
        last = event->last || refrain_state_is_final(event->job.state);
        refrain_free(event);
    }
    return STATUS_OK;
}

status_t refrain_wait(struct refrain *refrain, struct refrain_job **job, int timeout_ms, struct error *error)
{
    if (refrain_state_is_final((*job)->state)) return STATUS_OK;
    int64_t deadline_ns = connection_deadline(timeout_ms);
    struct refrain_watch *watch;
    status_t status = refrain_watch_open(refrain, (*job)->number, (*job)->sequence, &watch, error);
    if (status) return status;
    status = wait_for_last(watch, deadline_ns, error);
    refrain_watch_close(watch);
    if (status) return status;
    struct refrain_job *finished;
    status = refrain_status(refrain, (*job)->number, clock_poll_ms(deadline_ns), &finished, error);
    if (status) return status;
    refrain_free(*job);
    *job = finished;
    return STATUS_OK;
}

status_t refrain_cancel(struct refrain *refrain, uint64_t number, int timeout_ms, struct refrain_job **job,
                        struct error *error)
{
    Refrain__Cancel body = REFRAIN__CANCEL__INIT;
    body.has_job = 1, body.job = number;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_CANCEL;
    request.cancel = &body;
    Refrain__Reply *reply;
    status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_JOB, timeout_ms, &reply, error);
    if (status) return status;
    if (job) return record_job(reply, job, error);
    refrain__reply__free_unpacked(reply, NULL);
    return STATUS_OK;
}

status_t refrain_delete(struct refrain *refrain, uint64_t number, int timeout_ms, struct error *error)
{
    Refrain__Delete body = REFRAIN__DELETE__INIT;
    body.has_job = 1, body.job = number;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_DELETE;
    request.delete_ = &body;
    uint64_t generation = refrain->generation;
    status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_ACK, timeout_ms, NULL, error);
    /* It was asked twice because the connection broke: the first one did it. */
    return status == STATUS_NOT_FOUND && refrain->generation != generation ? STATUS_OK : status;
}

status_t refrain_list(struct refrain *refrain, unsigned limit, uint64_t before_job, bool active_only,
                      int timeout_ms, struct refrain_job_list **list, struct error *error)
{
    Refrain__List body = REFRAIN__LIST__INIT;
    body.limit = limit, body.has_limit = limit != 0;
    body.before_job = before_job, body.has_before_job = before_job != 0;
    body.active_only = active_only, body.has_active_only = 1;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_LIST;
    request.list = &body;
    Refrain__Reply *reply;
    status_t status =
        connection_call(refrain, &request, REFRAIN__REPLY__BODY_JOBS, timeout_ms, &reply, error);
    return status ? status : record_job_list(reply, list, error);
}

/* ------------------------------------------------------------------------------------ service */

status_t refrain_stats(struct refrain *refrain, int timeout_ms, struct refrain_stats **stats,
                       struct error *error)
{
    Refrain__Stats body = REFRAIN__STATS__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &body;
    Refrain__Reply *reply;
    status_t status =
        connection_call(refrain, &request, REFRAIN__REPLY__BODY_STATS, timeout_ms, &reply, error);
    return status ? status : record_stats(reply, stats, error);
}

status_t refrain_cache(struct refrain *refrain, const struct refrain_cache_query *query, int timeout_ms,
                       struct refrain_cache **cache, struct error *error)
{
    Refrain__CacheQuery body = REFRAIN__CACHE_QUERY__INIT;
    body.has_verb = body.has_all = 1;
    body.verb = (Refrain__CacheVerb)query->verb;
    body.all = query->all;
    body.item = (char *)(uintptr_t)query->key;
    body.kind = (char *)(uintptr_t)query->kind;
    body.has_limit = query->limit != 0;
    body.limit = query->limit;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_CACHE;
    request.cache = &body;
    Refrain__Reply *reply;
    status_t status =
        connection_call(refrain, &request, REFRAIN__REPLY__BODY_CACHE, timeout_ms, &reply, error);
    return status ? status : record_cache(reply, cache, error);
}

status_t refrain_models(struct refrain *refrain, int timeout_ms, struct refrain_model_list **models,
                        struct error *error)
{
    Refrain__ModelList body = REFRAIN__MODEL_LIST__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_LIST;
    request.model_list = &body;
    Refrain__Reply *reply;
    status_t status =
        connection_call(refrain, &request, REFRAIN__REPLY__BODY_MODELS, timeout_ms, &reply, error);
    return status ? status : record_model_list(reply, models, error);
}

status_t refrain_model_add(struct refrain *refrain, const char *name, const char *directory, int timeout_ms,
                           struct refrain_model_list **models, struct error *error)
{
    Refrain__ModelAdd body = REFRAIN__MODEL_ADD__INIT;
    body.name = (char *)(uintptr_t)name;
    body.directory = (char *)(uintptr_t)directory;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_ADD;
    request.model_add = &body;
    Refrain__Reply *reply;
    status_t status =
        connection_call(refrain, &request, REFRAIN__REPLY__BODY_MODEL, timeout_ms, &reply, error);
    return status ? status : record_model_list(reply, models, error);
}

status_t refrain_model_remove(struct refrain *refrain, const char *name, int timeout_ms, struct error *error)
{
    Refrain__ModelRemove body = REFRAIN__MODEL_REMOVE__INIT;
    body.name = (char *)(uintptr_t)name;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_REMOVE;
    request.model_remove = &body;
    uint64_t generation = refrain->generation;
    status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_ACK, timeout_ms, NULL, error);
    return status == STATUS_NOT_FOUND && refrain->generation != generation ? STATUS_OK : status;
}

status_t refrain_drain(struct refrain *refrain, const char *who, bool back, int timeout_ms, char *done, size_t bytes,
                       struct error *error)
{
    Refrain__Drain body = REFRAIN__DRAIN__INIT;
    body.who = (char *)(uintptr_t)who;
    body.has_back = 1, body.back = back;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_DRAIN;
    request.drain = &body;
    Refrain__Reply *reply;
    status_t status = connection_call(refrain, &request, REFRAIN__REPLY__BODY_ACK, timeout_ms, &reply, error);
    if (status) return status;
    snprintf(done, bytes, "%s", reply->ack->message ? reply->ack->message : "done");
    refrain__reply__free_unpacked(reply, NULL);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------- keys */

status_t refrain_keys_load(const char *key_file, const char *server_key_file, struct refrain_keys *keys,
                           struct error *error)
{
    struct keyfile mine, theirs = {0};
    status_t status = keyfile_read(key_file, &mine, error);
    if (!status && server_key_file) status = keyfile_read(server_key_file, &theirs, error);
    if (!status && !*mine.secret_key)
        status = error_set(error, STATUS_INVALID,
                           "%s: has no secret-key; the public half alone opens nothing", key_file);
    const char *server_key = server_key_file ? theirs.public_key : mine.server_key;
    if (!status && !*server_key)
        status = error_set(error, STATUS_INVALID,
                           "%s: has no server-key; the coordinator's public key is needed (--server-key)",
                           key_file);
    if (!status) {
        memcpy(keys->public_key, mine.public_key, sizeof keys->public_key);
        memcpy(keys->secret_key, mine.secret_key, sizeof keys->secret_key);
        memcpy(keys->server_key, server_key, sizeof keys->server_key);
    }
    explicit_bzero(&mine, sizeof mine);
    return status;
}

status_t refrain_keys_make(const char *path, char public_key[41], struct error *error)
{
    char public_path[PATH_MAX];
    struct keyfile key = {.role = ROLE_CLIENT};
    if ((size_t)snprintf(public_path, sizeof public_path, "%s.pub", path) >= sizeof public_path)
        return error_set(error, STATUS_INVALID, "%s: the name is too long", path);
    status_t status = keyfile_generate(&key, error);
    if (!status) status = keyfile_write(path, &key, error);
    explicit_bzero(key.secret_key, sizeof key.secret_key);
    if (status) return status;
    status = keyfile_write(public_path, &key, error);
    if (status)
        unlink(path);
    else
        memcpy(public_key, key.public_key, sizeof key.public_key);
    return status;
}
