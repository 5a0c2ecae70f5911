/*
 * requests.c - what clients ask for: one function per request, each ending in one reply.
 *
 * A request is unpacked, its caller named by the key of its connection, every field checked, and only then
 * looked at. Jobs of other tenants do not exist here: every read of the store carries the tenant. Replies
 * wait in the outbox for the commit. Runs on the coordinator's loop thread.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/jobs/branch.h"
#include "coordinator/ranks/drain.h"
#include "coordinator/foresight/foresight.h"
#include "coordinator/jobs/waiting.h"
#include "coordinator/server.h"
#include "coordinator/ranks/survey.h"
#include "coordinator/tier/tierview.h"
#include "proto/caching.h"
#include "proto/validate.h"

enum { LIST_DEFAULT = 100, LIST_BYTES = 1 << 20 /* of one answer */ };

/* One request on its way. */
struct call {
    struct server *server;
    const struct wire_peer *peer;
    const Refrain__Request *request;
    uint64_t id;
    struct caller caller;
    const char *field; /* to blame; NULL: none */
};

/* ------------------------------------------------------------------------------------------------ replies */

#define REPLY(call, kind, member, body_pointer)                                                              \
    do {                                                                                                     \
        Refrain__Reply reply_ = REFRAIN__REPLY__INIT;                                                        \
        reply_.has_id = 1;                                                                                   \
        reply_.id = (call)->id;                                                                              \
        reply_.body_case = REFRAIN__REPLY__BODY_##kind;                                                      \
        reply_.member = (body_pointer);                                                                      \
        outbox_reply((call)->server->outbox, (call)->peer, &reply_);                                         \
    } while (0)

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

static void say_waits(const struct server *server, Refrain__Job *job)
{
    char text[WAITING_BYTES];
    const struct job *live = jobs_find(server->jobs, job->job);
    if (live && live->sequence == job->sequence && waiting_for(server, live, text)) job->waits = strdup(text);
}

/* The job as it is now. warning: "" or what its client should know. */
static status_t reply_job_with(struct call *call, uint64_t id, char *warning, struct error *error)
{
    Refrain__Job *job;
    foresight_look(call->server, true);
    status_t status = jobs_describe(call->server->jobs, call->caller.tenant, id, &job, error);
    if (status != STATUS_OK) return status;
    say_waits(call->server, job);
    if (*warning) job->warning = warning;
    REPLY(call, JOB, job, job);
    job->warning = NULL; /* not the message's own */
    refrain__job__free_unpacked(job, NULL);
    return STATUS_OK;
}

static status_t reply_job(struct call *call, uint64_t id, struct error *error)
{
    return reply_job_with(call, id, (char[]){""}, error);
}

static status_t reply_ack(struct call *call)
{
    Refrain__Ack ack = REFRAIN__ACK__INIT;
    REPLY(call, ACK, ack, &ack);
    return STATUS_OK;
}

/* An unfinished job of the caller, or NULL. */
static struct job *own_job(const struct call *call, uint64_t id)
{
    struct job *job = jobs_find(call->server->jobs, id);
    return job && strcmp(job->tenant, call->caller.tenant) == 0 ? job : NULL;
}

/* A finished job of the caller: STATUS_NOT_FOUND, or STATUS_CONFLICT while it is not finished. The caller
 * frees it. */
static status_t finished_job(const struct call *call, uint64_t id, const char *advice, Refrain__Job **job,
                             struct error *error)
{
    Refrain__Job *found;
    status_t status = jobstore_get(call->server->store, call->caller.tenant, id, &found, error);
    if (status != STATUS_OK) return status;
    if (found->state < REFRAIN__JOB_STATE__JOB_COMPLETED) {
        refrain__job__free_unpacked(found, NULL);
        return error_set(error, STATUS_CONFLICT, "job %" PRIu64 ": is not finished; %s", id, advice);
    }
    *job = found;
    return STATUS_OK;
}

/* --------------------------------------------------------------------------------------------------- jobs */

/* Fills in the model's defaults and checks what only the model can say. */
static status_t complete_spec(struct call *call, Refrain__JobSpec *spec, struct error *error)
{
    const struct model *model;
    call->field = "model";
    status_t status = models_find(call->server->models, spec->model, &model, error);
    if (status != STATUS_OK) return status;
    call->field = NULL;
    status = validate_fill(spec, model->card, error);
    if (status == STATUS_OK)
        status = validate_spec(spec, &call->field, error); /* with the defaults in place */
    if (status == STATUS_OK) status = validate_spec_for_model(spec, model->card, &call->field, error);
    if (status == STATUS_OK)
        status = caching_check_bytes(spec, model->card, (uint64_t)call->server->settings->cache_memory,
                                     &call->field, error);
    if (status == STATUS_OK) status = server_check_room(call->server, model->card, spec, error);
    return status;
}

/* Will it be done in time, as far as one can know? If not, and it says so strictly, it is refused: nothing is stored. */
static status_t check_deadline(struct call *call, const Refrain__JobSpec *spec,
                               char warning[ERROR_TEXT_BYTES], struct error *error)
{
    const struct model *model;
    char clock[16];
    struct tm local;
    if (!spec->deadline_ms || models_find(call->server->models, spec->model, &model, NULL) != STATUS_OK)
        return STATUS_OK;
    double seconds = foresight_ask(call->server, call->caller.tenant, spec, model->card);
    char ranks[WAITING_BYTES];
    if (seconds < 0 &&
        waiting_for_ranks(call->server,
                          ranks)) /* taken, strictly or not: nobody can say that it will be late */
        snprintf(warning, ERROR_TEXT_BYTES,
                 "deadline_ms %" PRIu64 ": nobody can say yet whether it will be met: the job waits for %s",
                 spec->deadline_ms, ranks);
    if (seconds <= (double)spec->deadline_ms / 1000) return STATUS_OK; /* also if it is unknown */
    time_t then = (time_t)(call->server->now_ms / 1000 + (int64_t)seconds);
    strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&then, &local));
    snprintf(warning, ERROR_TEXT_BYTES,
             "deadline_ms %" PRIu64
             ": the job is expected to be done in %.1f s, at %s by this coordinator's clock",
             spec->deadline_ms, seconds, clock);
    if (!spec->deadline_strict) return STATUS_OK;
    call->field = "deadline_ms";
    return error_set(error, STATUS_CONFLICT, "%s", warning);
}

/* The key is looked up before the model: a repeated submit is answered even when the model has gone
 * since. */
static status_t take_submit(struct call *call, struct error *error)
{
    Refrain__Submit *submit = call->request->submit;
    struct submission submission = {
        .tenant = call->caller.tenant, .idempotency_key = submit->idempotency_key, .spec = submit->spec};
    struct server *server = call->server;
    char warning[ERROR_TEXT_BYTES] = "";
    uint64_t id;
    status_t status = jobs_hash_spec(submit->spec, submission.hash, error); /* before anything is filled in */
    if (status != STATUS_OK) return status;
    if (submit->idempotency_key) {
        call->field = "idempotency_key";
        status = jobs_find_same(server->jobs, submission.tenant, submission.idempotency_key, submission.hash,
                                &id, error);
        if (status == STATUS_OK) return reply_job(call, id, error);
        if (status != STATUS_NOT_FOUND) return status;
        call->field = NULL;
    }
    status = branch_fill(server, submission.tenant, submit->spec, &call->field, error);
    if (status == STATUS_OK) status = complete_spec(call, submit->spec, error);
    if (status == STATUS_OK) status = check_deadline(call, submit->spec, warning, error);
    if (status == STATUS_OK) status = jobs_submit(server->jobs, &submission, server->now_ms, &id, error);
    if (status == STATUS_OK) stream_note(&server->stream, server->now_ns);
    if (status == STATUS_OK) status = branch_lend(server, id, submit->spec, error);
    return status == STATUS_OK ? reply_job_with(call, id, warning, error) : status;
}

static status_t take_status(struct call *call, struct error *error)
{
    return reply_job(call, call->request->status->job, error);
}

/* The reply is the events themselves, sent after the commit (watches.c). */
static status_t take_watch(struct call *call, struct error *error)
{
    const Refrain__Watch *watch = call->request->watch;
    Refrain__Job *job;
    status_t status = jobstore_get(call->server->store, call->caller.tenant, watch->job, &job, error);
    if (status != STATUS_OK) return status;
    refrain__job__free_unpacked(job, NULL);
    return watches_add(call->server->watches, call->peer, call->id, watch->job, watch->from_sequence, error);
}

/* Unfinished jobs are in memory; only for others is the store asked. */
static status_t take_cancel(struct call *call, struct error *error)
{
    uint64_t id = call->request->cancel->job;
    struct job *job = own_job(call, id);
    Refrain__Job *finished;
    status_t status;
    if (job) {
        status = jobs_cancel(call->server->jobs, job, call->server->now_ms, error);
        return status == STATUS_OK ? reply_job(call, id, error) : status;
    }
    if ((status = finished_job(call, id, "", &finished, error)) != STATUS_OK) return status;
    bool cancelled = finished->state == REFRAIN__JOB_STATE__JOB_CANCELLED;
    refrain__job__free_unpacked(finished, NULL);
    if (cancelled) return reply_job(call, id, error); /* asked twice */
    return error_set(error, STATUS_CONFLICT, "job %" PRIu64 ": has ended already, there is nothing to cancel",
                     id);
}

/* Gathers jobs for one answer, as many as were asked for and as fit. */
struct listing {
    Refrain__Job **jobs; /* [limit + 1] */
    size_t count, limit, bytes;
    bool more;
};

static bool list_job(void *context, Refrain__Job *job)
{
    struct listing *listing = context;
    jobs_drop_tables(job);
    size_t bytes = refrain__job__get_packed_size(job);
    if (listing->count == listing->limit || (listing->count > 0 && listing->bytes + bytes > LIST_BYTES)) {
        listing->more = true;
        refrain__job__free_unpacked(job, NULL);
        return false;
    }
    listing->jobs[listing->count++] = job;
    listing->bytes += bytes;
    return true;
}

/* An array of limit + 1 pointers is the only memory taken before the store is read. */
static status_t take_list(struct call *call, struct error *error)
{
    const Refrain__List *list = call->request->list;
    struct listing listing = {.limit = list->has_limit ? list->limit : LIST_DEFAULT};
    if (!(listing.jobs = calloc(listing.limit + 1, sizeof(Refrain__Job *))))
        return error_set(error, STATUS_NO_MEMORY, "no memory for a list of %zu jobs", listing.limit);
    status_t status = jobstore_list(call->server->store, call->caller.tenant, list->before_job,
                                    list->active_only, list_job, &listing, error);
    if (status == STATUS_OK) {
        Refrain__JobList answer = REFRAIN__JOB_LIST__INIT;
        foresight_look(call->server, true);
        for (size_t i = 0; i < listing.count; i++) {
            jobs_decorate(call->server->jobs, listing.jobs[i]);
            say_waits(call->server, listing.jobs[i]);
        }
        answer.n_jobs = listing.count;
        answer.jobs = listing.jobs;
        SET(answer, more, listing.more);
        REPLY(call, JOBS, jobs, &answer);
    }
    for (size_t i = 0; i < listing.count; i++) refrain__job__free_unpacked(listing.jobs[i], NULL);
    free(listing.jobs);
    return status;
}

/* Rows now, files after the commit: the other way round a crash could leave a job without its files. */
static status_t take_delete(struct call *call, struct error *error)
{
    struct server *server = call->server;
    uint64_t id = call->request->delete_->job;
    Refrain__Job *job;
    status_t status = finished_job(call, id, "cancel it first", &job, error);
    if (status != STATUS_OK) return status;
    refrain__job__free_unpacked(job, NULL);
    if (server->deleted_count == server->deleted_capacity) {
        size_t capacity = 2 * server->deleted_capacity + 16;
        uint64_t *deleted = realloc(server->deleted, capacity * sizeof *deleted);
        if (!deleted)
            return error_set(error, STATUS_NO_MEMORY, "job %" PRIu64 ": no memory to delete it", id);
        server->deleted = deleted;
        server->deleted_capacity = capacity;
    }
    if ((status = jobstore_delete(server->store, id, error)) != STATUS_OK) return status;
    server->deleted[server->deleted_count++] = id; /* its files go after the commit */
    watches_drop_job(server->watches, id);
    return reply_ack(call);
}

/* -------------------------------------------------------------------------------------------------- files */

/* Stateless: any offset, any size, any number of clients; a restart is not noticed. */
static status_t take_fetch(struct call *call, struct error *error)
{
    const Refrain__Fetch *fetch = call->request->fetch;
    uint64_t total, hash;
    size_t got, wanted = fetch->has_bytes ? fetch->bytes : WIRE_CHUNK_BYTES;
    Refrain__Job *job;
    status_t status = finished_job(call, fetch->job, "its files come with its end", &job, error);
    if (status != STATUS_OK) return status;
    refrain__job__free_unpacked(job, NULL);
    call->field = "file";
    status = jobstore_find_file(call->server->store, fetch->job, 0, fetch->file, &total, &hash, error);
    if (status != STATUS_OK) return status;
    if (fetch->offset > total) {
        call->field = "offset";
        return error_set(error, STATUS_INVALID, "offset %" PRIu64 ": %s has %" PRIu64 " bytes", fetch->offset,
                         fetch->file, total);
    }
    uint8_t *data = malloc(wanted);
    if (!data)
        return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of %s", wanted, fetch->file);
    status = results_read(call->server->results, fetch->job, fetch->file, fetch->offset, wanted, data, &got,
                          error);
    if (status == STATUS_OK && got == 0 && fetch->offset < total)
        status = error_set(error, STATUS_IO, "file %s: is shorter on disk than it was", fetch->file);
    if (status == STATUS_OK) {
        Refrain__FileChunk chunk = REFRAIN__FILE_CHUNK__INIT;
        SET(chunk, job, fetch->job);
        SET(chunk, offset, fetch->offset);
        SET(chunk, total, total);
        SET(chunk, data, ((ProtobufCBinaryData){got, data}));
        chunk.file = fetch->file;
        REPLY(call, CHUNK, chunk, &chunk);
    }
    free(data);
    return status;
}

/* -------------------------------------------------------------------------------------------------- stats */

static status_t take_stats(struct call *call, struct error *error)
{
    struct survey *survey;
    status_t status = survey_make(call->server, call->caller.tenant, &survey, error);
    if (status != STATUS_OK) return status;
    REPLY(call, STATS, stats, survey_stats(survey));
    survey_free(survey);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------- the cache tier */

static status_t take_cache(struct call *call, struct error *error)
{
    struct tierview *view;
    struct tierview_caller who = {.tenant = call->caller.tenant, .admin = call->caller.admin};
    status_t status = tierview_make(call->server, &who, call->request->cache, &view, &call->field, error);
    if (status != STATUS_OK) return status;
    REPLY(call, CACHE, cache, tierview_reply(view));
    tierview_free(view);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- models */

static status_t need_admin(const struct call *call, const char *what, struct error *error)
{
    if (call->caller.admin) return STATUS_OK;
    return error_set(error, STATUS_DENIED, "%s with an admin key, %s is none", what, call->caller.tenant);
}

static status_t take_model_add(struct call *call, struct error *error)
{
    const Refrain__ModelAdd *add = call->request->model_add;
    status_t status = need_admin(call, "models are added", error);
    if (status != STATUS_OK) return status;
    call->field = "name";
    return models_add(call->server->models, call->peer, call->id, add->name, add->directory, error);
}

void server_inspected(struct server *server, const struct inspected *inspected)
{
    struct call call = {.server = server, .peer = &inspected->peer, .id = inspected->request};
    if (inspected->model)
        REPLY(&call, MODEL, model, inspected->model->shown);
    else
        outbox_error(server->outbox, &inspected->peer, inspected->request, &inspected->error, "directory");
}

static status_t take_model_remove(struct call *call, struct error *error)
{
    const char *name = call->request->model_remove->name;
    status_t status = need_admin(call, "models are removed", error);
    if (status != STATUS_OK) return status;
    call->field = "name";
    if (jobs_use_model(call->server->jobs, name))
        return error_set(error, STATUS_CONFLICT, "name %s: jobs are waiting for this model", name);
    status = models_remove(call->server->models, name, error);
    return status == STATUS_OK ? reply_ack(call) : status;
}

static status_t take_model_list(struct call *call, struct error *error)
{
    Refrain__ModelListReply list = REFRAIN__MODEL_LIST_REPLY__INIT;
    size_t count = 0;
    while (models_at(call->server->models, count)) count++;
    Refrain__ModelCard **cards = calloc(count + 1, sizeof *cards);
    if (!cards) return error_set(error, STATUS_NO_MEMORY, "no memory for a list of %zu models", count);
    for (size_t i = 0; i < count; i++) cards[i] = models_at(call->server->models, i)->shown;
    list.n_models = count;
    list.models = cards;
    REPLY(call, MODELS, models, &list);
    free(cards);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- ranks */

static status_t take_drain(struct call *call, struct error *error)
{
    const Refrain__Drain *drain = call->request->drain;
    Refrain__Ack ack = REFRAIN__ACK__INIT;
    char text[ERROR_TEXT_BYTES];
    status_t status = need_admin(call, "ranks are drained", error);
    if (status != STATUS_OK) return status;
    call->field = "who";
    status = drain->back ? drain_undo(call->server, drain->who, text, sizeof text, error)
                         : drain_ranks(call->server, drain->who, text, sizeof text, error);
    if (status != STATUS_OK) return status;
    ack.message = text;
    REPLY(call, ACK, ack, &ack);
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------------- dispatch */

static status_t dispatch(struct call *call, struct error *error)
{
    switch (call->request->body_case) {
    case REFRAIN__REQUEST__BODY_SUBMIT:
        return take_submit(call, error);
    case REFRAIN__REQUEST__BODY_STATUS:
        return take_status(call, error);
    case REFRAIN__REQUEST__BODY_WATCH:
        return take_watch(call, error);
    case REFRAIN__REQUEST__BODY_CANCEL:
        return take_cancel(call, error);
    case REFRAIN__REQUEST__BODY_LIST:
        return take_list(call, error);
    case REFRAIN__REQUEST__BODY_FETCH:
        return take_fetch(call, error);
    case REFRAIN__REQUEST__BODY_DELETE:
        return take_delete(call, error);
    case REFRAIN__REQUEST__BODY_STATS:
        return take_stats(call, error);
    case REFRAIN__REQUEST__BODY_CACHE:
        return take_cache(call, error);
    case REFRAIN__REQUEST__BODY_MODEL_ADD:
        return take_model_add(call, error);
    case REFRAIN__REQUEST__BODY_MODEL_REMOVE:
        return take_model_remove(call, error);
    case REFRAIN__REQUEST__BODY_MODEL_LIST:
        return take_model_list(call, error);
    case REFRAIN__REQUEST__BODY_DRAIN:
        return take_drain(call, error);
    default:
        return error_set(error, STATUS_UNSUPPORTED, "the request asks for nothing this version knows");
    }
}

/* The order is the defence: bytes, version and texts; then who it is; then every field; then what it
 * asks. */
void server_request(struct server *server, const struct wire_peer *peer, zmq_msg_t *frame)
{
    struct call call = {.server = server, .peer = peer};
    struct error error;
    Refrain__Request *request = NULL;
    status_t status =
        wire_unpack_request(zmq_msg_data(frame), zmq_msg_size(frame), &request, &call.id, &error);
    if (status == STATUS_OK) {
        call.request = request;
        status = curve_caller(server->curve, frame, peer, &call.caller, &error);
    }
    if (status == STATUS_OK) status = validate_request(request, &call.field, &error);
    if (status != STATUS_OK) {
        server->refused++;
        log_line(LOG_DEBUG, "a client's message was refused: %s", error.text);
    } else {
        status = dispatch(&call, &error);
    }
    /* Without an id there is nobody to answer: it was no message of ours. */
    if (status != STATUS_OK && (request || call.id))
        outbox_error(server->outbox, peer, call.id, &error, call.field);
    if (request) refrain__request__free_unpacked(request, NULL);
}
