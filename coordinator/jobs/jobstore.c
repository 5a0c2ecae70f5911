/*
 * jobstore.c - see jobstore.h. Runs on the coordinator's loop thread; holds no locks.
 *
 * Schema: jobs (one row each; the spec, the times and the cache report as packed messages), events (one row
 * per state change), files, models, counters. The row of a job is what its last event says; both are written
 * in one transaction. Every statement is prepared once at open; SQL texts stand in one table.
 */
#include "coordinator/jobs/jobstore_sql.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCHEMA_VERSION = 3, APPLICATION_ID = 0x72667231 /* "rfr1" */ };

/* migrations[v] leads from schema v to v + 1. */
static const char *const migrations[SCHEMA_VERSION] = {
    "CREATE TABLE jobs ("
    "  job INTEGER PRIMARY KEY AUTOINCREMENT," /* a deleted job's number is never given again */
    "  tenant TEXT NOT NULL, idempotency_key TEXT, hash BLOB NOT NULL, spec BLOB NOT NULL,"
    "  model TEXT NOT NULL, priority INTEGER NOT NULL, work REAL NOT NULL,"
    "  state INTEGER NOT NULL, sequence INTEGER NOT NULL, attempt INTEGER NOT NULL, losses INTEGER NOT NULL,"
    "  submitted_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL,"
    "  deadline_at_ms INTEGER NOT NULL, message TEXT, plan TEXT, times BLOB) STRICT;"
    "CREATE UNIQUE INDEX jobs_key ON jobs(tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;"
    "CREATE INDEX jobs_tenant ON jobs(tenant, job);"
    "CREATE INDEX jobs_active ON jobs(job) WHERE state < 4;"
    "CREATE TABLE events ("
    "  job INTEGER NOT NULL, sequence INTEGER NOT NULL, state INTEGER NOT NULL, attempt INTEGER NOT NULL,"
    "  at_ms INTEGER NOT NULL, message TEXT, PRIMARY KEY (job, sequence)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE files ("
    "  job INTEGER NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    "  xxh64 INTEGER NOT NULL, PRIMARY KEY (job, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE models (name TEXT PRIMARY KEY, directory TEXT NOT NULL, card BLOB NOT NULL) STRICT;"
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;"
    "INSERT INTO counters VALUES ('epoch', 0);",
    "ALTER TABLE jobs ADD COLUMN cache BLOB;", /* CacheReport, once completed */
    "CREATE TABLE drained (" /* seats of groups of ranks that serve no more */
    "  ranks TEXT NOT NULL, seat INTEGER NOT NULL, host TEXT NOT NULL, PRIMARY KEY (ranks, seat)) STRICT, WITHOUT ROWID;",
};

#define JOB_COLUMNS                                                                                          \
    "job, spec, state, sequence, attempt, submitted_ms, started_ms, finished_ms, message, plan, times, "     \
    "cache "

static const char *const sql[STATEMENTS] = {
    [S_BEGIN] = "BEGIN IMMEDIATE",
    [S_COMMIT] = "COMMIT",
    [S_ROLLBACK] = "ROLLBACK",
    [S_JOB_INSERT] =
        "INSERT INTO jobs (tenant, idempotency_key, hash, spec, model, priority, work, state, sequence,"
        " attempt, losses, submitted_ms, started_ms, finished_ms, deadline_at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 1, 0, 0, ?, 0, 0, ?)",
    [S_JOB_BY_KEY] = "SELECT job, hash FROM jobs WHERE tenant = ? AND idempotency_key = ?",
    [S_JOB_UPDATE] = "UPDATE jobs SET state = ?, sequence = ?, attempt = ?, losses = ?, started_ms = ?,"
                     " finished_ms = ?, message = ?, plan = COALESCE(?, plan), times = COALESCE(?, times),"
                     " cache = COALESCE(?, cache) WHERE job = ? AND sequence = ?",
    [S_JOB_GET] = "SELECT " JOB_COLUMNS "FROM jobs WHERE job = ?1 AND (?2 IS NULL OR tenant = ?2)",
    [S_JOB_LIST] = "SELECT " JOB_COLUMNS "FROM jobs WHERE tenant = ? AND job < ? ORDER BY job DESC",
    [S_JOB_LIST_ACTIVE] =
        "SELECT " JOB_COLUMNS "FROM jobs WHERE state < 4 AND tenant = ? AND job < ? ORDER BY job DESC",
    [S_JOB_DELETE] = "DELETE FROM jobs WHERE job = ?",
    [S_JOB_ACTIVE] =
        "SELECT job, sequence, tenant, model, state, priority, attempt, losses, submitted_ms, started_ms,"
        " deadline_at_ms, work FROM jobs WHERE state < 4 ORDER BY job",
    [S_JOB_COUNT] = "SELECT state, count(*) FROM jobs WHERE ?1 IS NULL OR tenant = ?1 GROUP BY state",
    [S_EVENT_INSERT] =
        "INSERT INTO events (job, sequence, state, attempt, at_ms, message) VALUES (?, ?, ?, ?, ?, ?)",
    [S_EVENT_AFTER] =
        "SELECT sequence, state, attempt, at_ms, message FROM events WHERE job = ? AND sequence > ?"
        " ORDER BY sequence",
    [S_EVENT_DELETE] = "DELETE FROM events WHERE job = ?",
    [S_FILE_PUT] = "INSERT OR REPLACE INTO files (job, name, attempt, bytes, xxh64) VALUES (?, ?, ?, ?, ?)",
    [S_FILE_FIND] = "SELECT bytes, xxh64 FROM files WHERE job = ? AND name = ? AND (?3 = 0 OR attempt = ?3)",
    [S_FILE_LIST] = "SELECT name, bytes, xxh64 FROM files WHERE job = ? ORDER BY name",
    [S_FILE_DROP] = "DELETE FROM files WHERE job = ?",
    [S_FILE_BYTES] = "SELECT COALESCE(sum(bytes), 0) FROM files JOIN jobs USING (job)"
                     " WHERE ?1 IS NULL OR tenant = ?1",
    [S_MODEL_PUT] = "INSERT OR REPLACE INTO models (name, directory, card) VALUES (?, ?, ?)",
    [S_MODEL_DROP] = "DELETE FROM models WHERE name = ?",
    [S_MODEL_LIST] = "SELECT directory, card FROM models ORDER BY name",
    [S_SEAT_DRAIN] = "INSERT OR REPLACE INTO drained (ranks, seat, host) VALUES (?, ?, ?)",
    [S_SEAT_SERVE] = "DELETE FROM drained WHERE ranks = ? AND (?2 IS NULL OR seat = ?2)",
    [S_SEAT_LIST] = "SELECT ranks, seat, host FROM drained",
    [S_EPOCH_NEXT] = "UPDATE counters SET value = max(value, ?) + 1 WHERE name = 'epoch' RETURNING value",
};

/* ----------------------------------------------------------------------------------------------- plumbing */

/* A full disk has its own sentence: it is the one failure an operator can end. */
status_t store_failed(const struct jobstore *store, struct error *error)
{
    int code = sqlite3_errcode(store->db) & 0xff;
    if (code == SQLITE_FULL)
        return error_set(error, STATUS_IO, "job store %s: the disk is full", store->path);
    status_t status = code == SQLITE_NOMEM                              ? STATUS_NO_MEMORY
                      : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? STATUS_CORRUPT
                                                                        : STATUS_IO;
    return error_set(error, status, "job store %s: %s", store->path, sqlite3_errmsg(store->db));
}

/* A statement ready for binding; released by store_finish(). */
sqlite3_stmt *store_use(struct jobstore *store, enum statement which)
{
    return store->statements[which];
}

/* Forgets bindings, so that no borrowed pointer outlives its call. */
void store_finish(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

/* Runs a statement that returns no rows. Its failure spoils the batch. */
static status_t run(struct jobstore *store, sqlite3_stmt *statement, struct error *error)
{
    status_t status = STATUS_OK;
    if (sqlite3_step(statement) != SQLITE_DONE) {
        status = store_failed(store, &store->broken_by);
        store->broken = true;
        if (error) *error = store->broken_by;
    }
    store_finish(statement);
    return status;
}

/* Joins the open transaction or opens one: the group of group commit. */
static status_t begin_write(struct jobstore *store, struct error *error)
{
    if (store->broken && error) *error = store->broken_by;
    if (store->broken) return store->broken_by.status;
    if (!sqlite3_get_autocommit(store->db)) return STATUS_OK;
    return run(store, store_use(store, S_BEGIN), error);
}

void store_bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC); /* NULL binds NULL */
}

/* Packs a message into a blob the statement frees. */
static bool bind_message(sqlite3_stmt *statement, int index, const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(bytes ? bytes : 1);
    if (!packed) return false;
    protobuf_c_message_pack(message, packed);
    sqlite3_bind_blob64(statement, index, packed, bytes, free);
    return true;
}

ProtobufCMessage *store_column_message(sqlite3_stmt *row, int column,
                                       const ProtobufCMessageDescriptor *descriptor)
{
    const void *bytes = sqlite3_column_blob(row, column);
    return protobuf_c_message_unpack(descriptor, NULL, (size_t)sqlite3_column_bytes(row, column), bytes);
}

/* A malloc'ed copy, or NULL for NULL; *fine turns false without memory. */
char *store_column_copy(sqlite3_stmt *row, int column, bool *fine)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy) *fine = false;
    return copy;
}

status_t store_no_memory(struct error *error)
{
    return error_set(error, STATUS_NO_MEMORY, "job store: out of memory");
}

/* --------------------------------------------------------------------------------------- opening, closing */

/* For pragmas at open; everything else is prepared once. */
static status_t read_number(struct jobstore *store, const char *text, int64_t *number, struct error *error)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->db, text, -1, &statement, NULL) != SQLITE_OK)
        return store_failed(store, error);
    status_t status = sqlite3_step(statement) == SQLITE_ROW ? STATUS_OK : store_failed(store, error);
    if (status == STATUS_OK) *number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return status;
}

static status_t execute(struct jobstore *store, const char *text, struct error *error)
{
    return sqlite3_exec(store->db, text, NULL, NULL, NULL) == SQLITE_OK ? STATUS_OK
                                                                        : store_failed(store, error);
}

/* Refuses a file of somebody else or of a newer build, and leads older ones forward, one version per
 * transaction. */
static status_t migrate(struct jobstore *store, struct error *error)
{
    int64_t version = 0, application = 0, objects = 0;
    status_t status = read_number(store, "PRAGMA user_version", &version, error);
    if (status == STATUS_OK) status = read_number(store, "PRAGMA application_id", &application, error);
    if (status == STATUS_OK)
        status = read_number(store, "SELECT count(*) FROM sqlite_schema", &objects, error);
    if (status != STATUS_OK) return status;
    if (objects > 0 && application != APPLICATION_ID)
        return error_set(error, STATUS_CORRUPT, "job store %s: is a database of another program",
                         store->path);
    if (version < 0 || version > SCHEMA_VERSION)
        return error_set(error, STATUS_UNSUPPORTED,
                         "job store %s: has schema %" PRId64
                         ", this build knows up to %d; use the newer refrain",
                         store->path, version, SCHEMA_VERSION);
    for (; version < SCHEMA_VERSION; version++) {
        char script[128];
        snprintf(script, sizeof script,
                 "PRAGMA application_id = %d; PRAGMA user_version = %" PRId64 "; COMMIT;", APPLICATION_ID,
                 version + 1);
        if ((status = execute(store, "BEGIN IMMEDIATE", error)) != STATUS_OK ||
            (status = execute(store, migrations[version], error)) != STATUS_OK ||
            (status = execute(store, script, error)) != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* quick_check reads every page but does not compare indices with rows: fast enough for every start. */
static status_t check_integrity(struct jobstore *store, struct error *error)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->db, "PRAGMA quick_check(1)", -1, &statement, NULL) != SQLITE_OK)
        return store_failed(store, error);
    status_t status = STATUS_OK;
    const char *verdict = NULL;
    if (sqlite3_step(statement) == SQLITE_ROW) verdict = (const char *)sqlite3_column_text(statement, 0);
    if (!verdict)
        status = store_failed(store, error);
    else if (strcmp(verdict, "ok") != 0)
        status = error_set(error, STATUS_CORRUPT, "job store %s: is damaged (%s); restore it from a copy",
                           store->path, verdict);
    sqlite3_finalize(statement);
    return status;
}

/* The order matters: WAL before anything is written, the schema before statements are prepared
 * against it. */
status_t jobstore_open(const char *path, struct jobstore **store, struct error *error)
{
    status_t status;
    struct jobstore *made = calloc(1, sizeof *made);
    if (!made || !(made->path = strdup(path))) {
        status = store_no_memory(error);
        goto fail;
    }
    if (sqlite3_open_v2(path, &made->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL)) {
        status = store_failed(made, error);
        goto fail;
    }
    sqlite3_extended_result_codes(made->db, 1);
    sqlite3_busy_timeout(made->db, 2000); /* somebody may look at the file with the sqlite3 shell */
    /* FULL: an acknowledged job survives power loss, not only a crash. */
    if ((status =
             execute(made, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384",
                     error)) != STATUS_OK ||
        (status = migrate(made, error)) != STATUS_OK || (status = check_integrity(made, error)) != STATUS_OK)
        goto fail;
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(made->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &made->statements[i], NULL)) {
            status = store_failed(made, error);
            goto fail;
        }
    *store = made;
    return STATUS_OK;
fail:
    jobstore_close(made);
    return status;
}

void jobstore_close(struct jobstore *store)
{
    if (!store) return;
    for (int i = 0; i < STATEMENTS; i++) sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db); /* rolls back what is open */
    free(store->path);
    free(store);
}

/* A broken batch is rolled back even if SQLite would commit what is left of it: half a batch was
 * acknowledged to nobody. */
status_t jobstore_commit(struct jobstore *store, struct error *error)
{
    if (!store->broken && sqlite3_get_autocommit(store->db)) return STATUS_OK;
    status_t status = store->broken ? store->broken_by.status : run(store, store_use(store, S_COMMIT), NULL);
    if (status == STATUS_OK) return STATUS_OK;
    if (error) *error = store->broken_by;
    jobstore_rollback(store);
    return status;
}

void jobstore_rollback(struct jobstore *store)
{
    if (!sqlite3_get_autocommit(store->db)) run(store, store_use(store, S_ROLLBACK), NULL);
    store->broken = false;
}

uint64_t jobstore_bytes(const struct jobstore *store)
{
    int64_t pages = 0, page_bytes = 0;
    if (read_number((struct jobstore *)store, "PRAGMA page_count", &pages, NULL) != STATUS_OK ||
        read_number((struct jobstore *)store, "PRAGMA page_size", &page_bytes, NULL) != STATUS_OK)
        return 0;
    return (uint64_t)pages * (uint64_t)page_bytes;
}

/* ------------------------------------------------------------------------------------------- writing jobs */

static status_t insert_event(struct jobstore *store, uint64_t job, const struct job_change *change,
                             struct error *error)
{
    sqlite3_stmt *insert = store_use(store, S_EVENT_INSERT);
    sqlite3_bind_int64(insert, 1, (int64_t)job);
    sqlite3_bind_int64(insert, 2, (int64_t)change->sequence);
    sqlite3_bind_int(insert, 3, change->state);
    sqlite3_bind_int64(insert, 4, change->attempt);
    sqlite3_bind_int64(insert, 5, change->at_ms);
    store_bind_text(insert, 6, change->message);
    return run(store, insert, error);
}

/* A comparison makes the video a second time. What caching saves is not known before. */
double jobstore_work(const Refrain__JobSpec *spec)
{
    uint32_t steps = spec->steps > spec->at_step ? spec->steps - spec->at_step : 1;
    double once = (double)steps * spec->width * spec->height * spec->frames;
    return spec->has_compare && spec->compare ? 2 * once : once;
}

/* The job's own number comes from SQLite: AUTOINCREMENT never gives one twice, also after a delete. */
status_t jobstore_submit(struct jobstore *store, const struct new_job *job, uint64_t *id, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *insert = store_use(store, S_JOB_INSERT);
    store_bind_text(insert, 1, job->tenant);
    store_bind_text(insert, 2, job->idempotency_key);
    sqlite3_bind_blob(insert, 3, job->hash, REQUEST_HASH_BYTES, SQLITE_STATIC);
    if (!bind_message(insert, 4, &job->spec->base)) {
        store_finish(insert);
        return store_no_memory(error);
    }
    store_bind_text(insert, 5, job->spec->model);
    sqlite3_bind_int(insert, 6, job->spec->priority);
    sqlite3_bind_double(insert, 7, jobstore_work(job->spec));
    sqlite3_bind_int64(insert, 8, job->submitted_ms);
    sqlite3_bind_int64(insert, 9, job->deadline_at_ms);
    if ((status = run(store, insert, error)) != STATUS_OK) return status;
    uint64_t made = (uint64_t)sqlite3_last_insert_rowid(store->db);
    struct job_change accepted = {
        .state = REFRAIN__JOB_STATE__JOB_ACCEPTED, .sequence = 1, .at_ms = job->submitted_ms};
    if ((status = insert_event(store, made, &accepted, error)) != STATUS_OK) return status;
    *id = made;
    return STATUS_OK;
}

status_t jobstore_find_key(struct jobstore *store, const char *tenant, const char *key, uint64_t *id,
                           uint8_t hash[REQUEST_HASH_BYTES], struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_JOB_BY_KEY);
    store_bind_text(query, 1, tenant);
    store_bind_text(query, 2, key);
    int code = sqlite3_step(query);
    status_t status = code == SQLITE_ROW    ? STATUS_OK
                      : code == SQLITE_DONE ? STATUS_NOT_FOUND
                                            : store_failed(store, error);
    if (status == STATUS_OK) {
        *id = (uint64_t)sqlite3_column_int64(query, 0);
        memset(hash, 0, REQUEST_HASH_BYTES);
        if (sqlite3_column_bytes(query, 1) == REQUEST_HASH_BYTES)
            memcpy(hash, sqlite3_column_blob(query, 1), REQUEST_HASH_BYTES);
    }
    store_finish(query);
    return status;
}

/* The condition on the old sequence number makes a drift between memory and store an error instead of a
 * wrong history. */
status_t jobstore_change(struct jobstore *store, const struct job_change *change, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *update = store_use(store, S_JOB_UPDATE);
    sqlite3_bind_int(update, 1, change->state);
    sqlite3_bind_int64(update, 2, (int64_t)change->sequence);
    sqlite3_bind_int64(update, 3, change->attempt);
    sqlite3_bind_int64(update, 4, change->losses);
    sqlite3_bind_int64(update, 5, change->started_ms);
    sqlite3_bind_int64(update, 6, change->finished_ms);
    store_bind_text(update, 7, change->message);
    store_bind_text(update, 8, change->plan);
    if ((change->times && !bind_message(update, 9, &change->times->base)) ||
        (change->cache && !bind_message(update, 10, &change->cache->base))) {
        store_finish(update);
        return store_no_memory(error);
    }
    sqlite3_bind_int64(update, 11, (int64_t)change->job);
    sqlite3_bind_int64(update, 12, (int64_t)change->sequence - 1);
    if ((status = run(store, update, error)) != STATUS_OK) return status;
    if (sqlite3_changes(store->db) != 1)
        return error_set(error, STATUS_INTERNAL,
                         "job %" PRIu64 ": is not at sequence %" PRIu64 " in the store", change->job,
                         change->sequence - 1);
    return insert_event(store, change->job, change, error);
}

static status_t delete_rows(struct jobstore *store, enum statement which, uint64_t id, struct error *error)
{
    sqlite3_stmt *statement = store_use(store, which);
    sqlite3_bind_int64(statement, 1, (int64_t)id);
    return run(store, statement, error);
}

status_t jobstore_delete(struct jobstore *store, uint64_t id, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status == STATUS_OK) status = delete_rows(store, S_EVENT_DELETE, id, error);
    if (status == STATUS_OK) status = delete_rows(store, S_FILE_DROP, id, error);
    if (status == STATUS_OK) status = delete_rows(store, S_JOB_DELETE, id, error);
    return status;
}

/* -------------------------------------------------------------------------------- files, models, counters */

status_t jobstore_add_file(struct jobstore *store, uint64_t job, uint32_t attempt, const char *name,
                           uint64_t bytes, uint64_t xxh64, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *put = store_use(store, S_FILE_PUT);
    sqlite3_bind_int64(put, 1, (int64_t)job);
    store_bind_text(put, 2, name);
    sqlite3_bind_int64(put, 3, attempt);
    sqlite3_bind_int64(put, 4, (int64_t)bytes);
    sqlite3_bind_int64(put, 5, (int64_t)xxh64);
    return run(store, put, error);
}

status_t jobstore_find_file(struct jobstore *store, uint64_t job, uint32_t attempt, const char *name,
                            uint64_t *bytes, uint64_t *xxh64, struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_FILE_FIND);
    sqlite3_bind_int64(query, 1, (int64_t)job);
    store_bind_text(query, 2, name);
    sqlite3_bind_int64(query, 3, attempt);
    int code = sqlite3_step(query);
    status_t status = STATUS_OK;
    if (code == SQLITE_ROW) {
        *bytes = (uint64_t)sqlite3_column_int64(query, 0);
        *xxh64 = (uint64_t)sqlite3_column_int64(query, 1);
    } else if (code == SQLITE_DONE) {
        status = error_set(error, STATUS_NOT_FOUND, "file %s: job %" PRIu64 " has no such file", name, job);
    } else {
        status = store_failed(store, error);
    }
    store_finish(query);
    return status;
}

status_t jobstore_drop_files(struct jobstore *store, uint64_t job, struct error *error)
{
    status_t status = begin_write(store, error);
    return status == STATUS_OK ? delete_rows(store, S_FILE_DROP, job, error) : status;
}

status_t jobstore_put_model(struct jobstore *store, const Refrain__ModelCard *card, const char *directory,
                            struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *put = store_use(store, S_MODEL_PUT);
    store_bind_text(put, 1, card->name);
    store_bind_text(put, 2, directory);
    if (!bind_message(put, 3, &card->base)) {
        store_finish(put);
        return store_no_memory(error);
    }
    return run(store, put, error);
}

status_t jobstore_drop_model(struct jobstore *store, const char *name, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *drop = store_use(store, S_MODEL_DROP);
    store_bind_text(drop, 1, name);
    return run(store, drop, error);
}

status_t jobstore_models(struct jobstore *store,
                         status_t (*take)(void *context, Refrain__ModelCard *card, const char *directory),
                         void *context, struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_MODEL_LIST);
    status_t status = STATUS_OK;
    int code;
    while (status == STATUS_OK && (code = sqlite3_step(query)) == SQLITE_ROW) {
        const char *directory = (const char *)sqlite3_column_text(query, 0);
        Refrain__ModelCard *card =
            (Refrain__ModelCard *)store_column_message(query, 1, &refrain__model_card__descriptor);
        if (!card || !directory)
            status = error_set(error, STATUS_CORRUPT, "job store %s: bad model card", store->path);
        else
            status = take(context, card, directory);
    }
    if (status == STATUS_OK && code != SQLITE_DONE) status = store_failed(store, error);
    store_finish(query);
    return status;
}

static status_t change_seat(struct jobstore *store, enum statement which, const char *group, const uint32_t *seat,
                            const char *host, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *change = store_use(store, which);
    store_bind_text(change, 1, group);
    if (seat) sqlite3_bind_int64(change, 2, *seat);
    if (host) store_bind_text(change, 3, host);
    return run(store, change, error);
}

status_t jobstore_drain_seat(struct jobstore *store, const char *group, uint32_t seat, const char *host,
                             struct error *error)
{
    return change_seat(store, S_SEAT_DRAIN, group, &seat, host, error);
}

status_t jobstore_serve_seat(struct jobstore *store, const char *group, uint32_t seat, struct error *error)
{
    return change_seat(store, S_SEAT_SERVE, group, &seat, NULL, error);
}

status_t jobstore_serve_seats(struct jobstore *store, const char *group, struct error *error)
{
    return change_seat(store, S_SEAT_SERVE, group, NULL, NULL, error);
}

status_t jobstore_drained(struct jobstore *store,
                          status_t (*take)(void *context, const char *group, uint32_t seat, const char *host),
                          void *context, struct error *error)
{
    sqlite3_stmt *query = store_use(store, S_SEAT_LIST);
    status_t status = STATUS_OK;
    int code;
    while (status == STATUS_OK && (code = sqlite3_step(query)) == SQLITE_ROW) {
        const char *group = (const char *)sqlite3_column_text(query, 0),
                   *host = (const char *)sqlite3_column_text(query, 2);
        status = group && host ? take(context, group, (uint32_t)sqlite3_column_int64(query, 1), host)
                               : store_no_memory(error);
    }
    if (status == STATUS_OK && code != SQLITE_DONE) status = store_failed(store, error);
    store_finish(query);
    return status;
}

/* One statement reads and raises the counter, so the number is used up even if nobody ever sees it. */
status_t jobstore_next_epoch(struct jobstore *store, uint64_t above, uint64_t *epoch, struct error *error)
{
    status_t status = begin_write(store, error);
    if (status != STATUS_OK) return status;
    sqlite3_stmt *next = store_use(store, S_EPOCH_NEXT);
    sqlite3_bind_int64(next, 1, above < INT64_MAX ? (int64_t)above : 0);
    if (sqlite3_step(next) == SQLITE_ROW)
        *epoch = (uint64_t)sqlite3_column_int64(next, 0);
    else
        status = store_failed(store, error);
    store_finish(next);
    return status;
}
