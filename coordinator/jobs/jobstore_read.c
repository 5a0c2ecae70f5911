/*
 * jobstore_read.c - jobs out of the store: one, many, their history, the unfinished ones. See jobstore.h.
 *
 * Runs on the coordinator's loop thread. A job is handed out as the message clients get, so that nothing is
 * copied twice.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/jobs/jobstore_sql.h"

static status_t count_files(struct jobstore *store, uint64_t id, size_t *count, struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_FILE_LIST);
    sqlite3_bind_int64(query, 1, (int64_t)id);
    int code;
    size_t rows = 0;
    while ((code = sqlite3_step(query)) == SQLITE_ROW) rows++;
    status_t status = code == SQLITE_DONE ? STATUS_OK : store_failed(store, error);
    store_finish(query);
    if (status == STATUS_OK) *count = rows;
    return status;
}

/* Counted first: the message wants an array, and a job has a handful of files. */
static status_t read_files(struct jobstore *store, Refrain__Job *job, struct error *error)
{
    size_t count = 0;
    status_t status = count_files(store, job->job, &count, error);
    if (status != STATUS_OK || count == 0) return status;
    if (!(job->files = calloc(count, sizeof *job->files))) return store_no_memory(error);
    sqlite3_stmt *query = store_use(store, S_FILE_LIST);
    sqlite3_bind_int64(query, 1, (int64_t)job->job);
    bool fine = true;
    while (fine && job->n_files < count && sqlite3_step(query) == SQLITE_ROW) {
        Refrain__ResultFile *file = malloc(sizeof *file);
        if (!(fine = file != NULL)) break;
        refrain__result_file__init(file);
        job->files[job->n_files++] = file;
        file->name = store_column_copy(query, 0, &fine);
        file->has_bytes = file->has_xxh64 = 1;
        file->bytes = (uint64_t)sqlite3_column_int64(query, 1);
        file->xxh64 = (uint64_t)sqlite3_column_int64(query, 2);
    }
    store_finish(query);
    return fine ? STATUS_OK : store_no_memory(error);
}

static void set_time(protobuf_c_boolean *has, uint64_t *field, int64_t value)
{
    *has = value != 0;
    *field = (uint64_t)value;
}

/* A row of JOB_COLUMNS as a message. */
static status_t read_job(struct jobstore *store, sqlite3_stmt *row, Refrain__Job **out, struct error *error)
{
    bool fine = true;
    status_t status = STATUS_OK;
    Refrain__Job *job = malloc(sizeof *job);
    if (!job) return store_no_memory(error);
    refrain__job__init(job);
    job->has_job = job->has_state = job->has_sequence = job->has_attempt = 1;
    job->job = (uint64_t)sqlite3_column_int64(row, 0);
    job->spec = (Refrain__JobSpec *)store_column_message(row, 1, &refrain__job_spec__descriptor);
    job->state = (Refrain__JobState)sqlite3_column_int(row, 2);
    job->sequence = (uint64_t)sqlite3_column_int64(row, 3);
    job->attempt = (uint32_t)sqlite3_column_int64(row, 4);
    set_time(&job->has_submitted_ms, &job->submitted_ms, sqlite3_column_int64(row, 5));
    set_time(&job->has_started_ms, &job->started_ms, sqlite3_column_int64(row, 6));
    set_time(&job->has_finished_ms, &job->finished_ms, sqlite3_column_int64(row, 7));
    job->message = store_column_copy(row, 8, &fine);
    job->plan = store_column_copy(row, 9, &fine);
    if (sqlite3_column_type(row, 10) != SQLITE_NULL)
        job->times = (Refrain__JobTimes *)store_column_message(row, 10, &refrain__job_times__descriptor);
    if (sqlite3_column_type(row, 11) != SQLITE_NULL)
        job->cache =
            (Refrain__CacheReport *)store_column_message(row, 11, &refrain__cache_report__descriptor);
    if (!fine)
        status = store_no_memory(error);
    else if (!job->spec)
        status = error_set(error, STATUS_CORRUPT, "job store %s: job %" PRIu64 " cannot be read", store->path,
                           job->job);
    else if (job->state == REFRAIN__JOB_STATE__JOB_COMPLETED)
        status = read_files(store, job, error);
    if (status != STATUS_OK) {
        refrain__job__free_unpacked(job, NULL);
        return status;
    }
    *out = job;
    return STATUS_OK;
}

status_t jobstore_get(struct jobstore *store, const char *tenant, uint64_t id, Refrain__Job **job,
                      struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_JOB_GET);
    sqlite3_bind_int64(query, 1, (int64_t)id);
    store_bind_text(query, 2, tenant);
    int code = sqlite3_step(query);
    status_t status;
    if (code == SQLITE_ROW)
        status = read_job(store, query, job, error);
    else if (code == SQLITE_DONE)
        status = error_set(error, STATUS_NOT_FOUND, "job %" PRIu64 ": there is no such job", id);
    else
        status = store_failed(store, error);
    store_finish(query);
    return status;
}

/* LIMIT would have to guess how many fit into an answer; the taker knows and stops the walk. */
status_t jobstore_list(struct jobstore *store, const char *tenant, uint64_t before, bool active_only,
                       bool (*take)(void *context, Refrain__Job *job), void *context, struct error *error)
{
    sqlite3_stmt *query = store_use(store, active_only ? S_JOB_LIST_ACTIVE : S_JOB_LIST);
    store_bind_text(query, 1, tenant);
    sqlite3_bind_int64(query, 2, before && before <= INT64_MAX ? (int64_t)before : INT64_MAX);
    status_t status = STATUS_OK;
    int code;
    while ((code = sqlite3_step(query)) == SQLITE_ROW) {
        Refrain__Job *job;
        if ((status = read_job(store, query, &job, error)) != STATUS_OK || !take(context, job)) break;
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE) status = store_failed(store, error);
    store_finish(query);
    return status;
}

/* Rewinds a job's latest row to the moment of one of its events. */
static status_t rewind_to(Refrain__Job *job, sqlite3_stmt *event, struct error *error)
{
    bool fine = true;
    int64_t at_ms = sqlite3_column_int64(event, 3);
    job->sequence = (uint64_t)sqlite3_column_int64(event, 0);
    job->state = (Refrain__JobState)sqlite3_column_int(event, 1);
    job->attempt = (uint32_t)sqlite3_column_int64(event, 2);
    free(job->message);
    job->message = store_column_copy(event, 4, &fine);
    if (job->has_started_ms && (int64_t)job->started_ms > at_ms) job->has_started_ms = 0;
    if (job->state < REFRAIN__JOB_STATE__JOB_COMPLETED) {
        job->has_finished_ms = 0;
        if (job->cache) refrain__cache_report__free_unpacked(job->cache, NULL);
        job->cache = NULL; /* it had not been made yet */
    }
    return fine ? STATUS_OK : store_no_memory(error);
}

/* The row is read anew for each event: histories are short, and only one copy of a job's shape exists. */
status_t jobstore_history(struct jobstore *store, uint64_t id, uint64_t after,
                          bool (*take)(void *context, Refrain__Job *job), void *context, struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_EVENT_AFTER);
    sqlite3_bind_int64(query, 1, (int64_t)id);
    sqlite3_bind_int64(query, 2, after <= INT64_MAX ? (int64_t)after : INT64_MAX);
    status_t status = STATUS_OK;
    int code;
    while ((code = sqlite3_step(query)) == SQLITE_ROW) {
        Refrain__Job *job;
        if ((status = jobstore_get(store, NULL, id, &job, error)) != STATUS_OK) break;
        if ((status = rewind_to(job, query, error)) != STATUS_OK) {
            refrain__job__free_unpacked(job, NULL);
            break;
        }
        if (!take(context, job)) break;
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE) status = store_failed(store, error);
    store_finish(query);
    return status;
}

status_t jobstore_active(struct jobstore *store,
                         status_t (*take)(void *context, const struct stored_job *job), void *context,
                         struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_JOB_ACTIVE);
    status_t status = STATUS_OK;
    int code;
    while ((code = sqlite3_step(query)) == SQLITE_ROW && status == STATUS_OK) {
        struct stored_job job = {
            .id = (uint64_t)sqlite3_column_int64(query, 0),
            .sequence = (uint64_t)sqlite3_column_int64(query, 1),
            .tenant = (const char *)sqlite3_column_text(query, 2),
            .model = (const char *)sqlite3_column_text(query, 3),
            .state = (Refrain__JobState)sqlite3_column_int(query, 4),
            .priority = (Refrain__Priority)sqlite3_column_int(query, 5),
            .attempt = (uint32_t)sqlite3_column_int64(query, 6),
            .losses = (uint32_t)sqlite3_column_int64(query, 7),
            .submitted_ms = sqlite3_column_int64(query, 8),
            .started_ms = sqlite3_column_int64(query, 9),
            .deadline_at_ms = sqlite3_column_int64(query, 10),
            .work = sqlite3_column_double(query, 11),
        };
        status = take(context, &job);
    }
    if (status == STATUS_OK && code != SQLITE_DONE) status = store_failed(store, error);
    store_finish(query);
    return status;
}

/* Two walks over a tenant's index; asked by people, not in loops. */
status_t jobstore_count(struct jobstore *store, const char *tenant, uint64_t *counts, uint64_t *result_bytes,
                        struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_JOB_COUNT);
    store_bind_text(query, 1, tenant);
    memset(counts, 0, JOB_STATES * sizeof *counts);
    int code;
    while ((code = sqlite3_step(query)) == SQLITE_ROW) {
        int state = sqlite3_column_int(query, 0);
        if (state >= 0 && state < JOB_STATES) counts[state] = (uint64_t)sqlite3_column_int64(query, 1);
    }
    status_t status = code == SQLITE_DONE ? STATUS_OK : store_failed(store, error);
    store_finish(query);
    if (status != STATUS_OK) return status;
    query = store_use(store, S_FILE_BYTES);
    store_bind_text(query, 1, tenant);
    if (sqlite3_step(query) == SQLITE_ROW)
        *result_bytes = (uint64_t)sqlite3_column_int64(query, 0);
    else
        status = store_failed(store, error);
    store_finish(query);
    return status;
}
