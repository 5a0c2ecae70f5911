/*
 * test_jobstore_schema.c - a job store of an earlier release, opened by this one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/jobs/jobs.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))
#define STATE(name)                REFRAIN__JOB_STATE__JOB_##name
#define GOOD(call)                                                                                           \
    do {                                                                                                     \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, error.text);                                      \
    } while (0)

enum { STEPS = 3 };

/* Schema 1 as the first release made it: no column for reports. */
static const char schema_1[] =
    "CREATE TABLE jobs ("
    "  job INTEGER PRIMARY KEY AUTOINCREMENT,"
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
    "INSERT INTO counters VALUES ('epoch', 41);"
    "INSERT INTO jobs SELECT 7, 'local', NULL, zeroblob(16), ?1, 'small', 1, 1e6, 1, 2, 0, 0, 1000, 0, 0, 0,"
    "  NULL, NULL, NULL;"
    "INSERT INTO events VALUES (7, 1, 0, 0, 1000, NULL), (7, 2, 1, 0, 1000, NULL);"
    "PRAGMA application_id = 1919316529; PRAGMA user_version = 1;";

/* A complete spec of the first release: nothing about caching. */
static void write_schema_1(const char *path)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    uint8_t packed[512];
    sqlite3 *db;
    spec.model = (char *)"small";
    spec.prompt = (char *)"from before";
    SET(spec, steps, STEPS);
    SET(spec, guidance, 5);
    SET(spec, width, 64);
    SET(spec, height, 64);
    SET(spec, frames, 17);
    SET(spec, priority, REFRAIN__PRIORITY__PRIORITY_NORMAL);
    size_t bytes = refrain__job_spec__pack(&spec, packed);
    assert_true(bytes < sizeof packed);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (const char *rest = schema_1; *rest;) {
        sqlite3_stmt *statement;
        if (sqlite3_prepare_v2(db, rest, -1, &statement, &rest) != SQLITE_OK)
            fail_msg("%s", sqlite3_errmsg(db));
        if (!statement) continue;
        if (sqlite3_bind_parameter_count(statement))
            sqlite3_bind_blob(statement, 1, packed, (int)bytes, SQLITE_STATIC);
        assert_int_equal(sqlite3_step(statement), SQLITE_DONE);
        sqlite3_finalize(statement);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void open_store(const char *path, struct jobstore **store, struct jobs **jobs)
{
    struct error error;
    GOOD(jobstore_open(path, store, &error));
    GOOD(jobs_open(*store, 1000, jobs, &error));
}

static void close_store(struct jobstore *store, struct jobs *jobs)
{
    jobs_close(jobs);
    jobstore_close(store);
}

static void a_store_of_the_first_release_is_brought_forward_with_its_jobs(void **state)
{
    char directory[] = P_tmpdir "/refrain-schema-XXXXXX", path[64], command[128];
    struct error error;
    struct jobstore *store;
    struct jobs *jobs;
    Refrain__Job *described;
    uint64_t epoch;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/jobs.db", directory);
    write_schema_1(path);
    open_store(path, &store, &jobs);
    GOOD(jobs_describe(jobs, NULL, 7, &described, &error));
    assert_string_equal(described->spec->prompt, "from before");
    assert_int_equal(described->state, STATE(QUEUED));
    assert_null(described->spec->cache);
    assert_null(described->cache);
    refrain__job__free_unpacked(described, NULL);
    GOOD(jobstore_next_epoch(store, 0, &epoch, &error));
    assert_int_equal(epoch, 42);

    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    report.policy = (char *)"interval";
    SET(report, reused, 2);
    struct job *job = jobs_find(jobs, 7);
    assert_non_null(job);
    GOOD(jobs_start(jobs, job, NULL, 1001, &error));
    GOOD(jobs_complete(jobs, job, NULL, &report, 1002, &error));
    GOOD(jobstore_commit(store, &error));
    close_store(store, jobs);

    open_store(path, &store, &jobs); /* nothing left to bring forward */
    GOOD(jobs_describe(jobs, NULL, 7, &described, &error));
    assert_int_equal(described->state, STATE(COMPLETED));
    assert_string_equal(described->cache->policy, "interval");
    assert_int_equal(described->cache->reused, 2);
    refrain__job__free_unpacked(described, NULL);
    close_store(store, jobs);
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_of_the_first_release_is_brought_forward_with_its_jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
