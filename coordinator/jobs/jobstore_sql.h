/*
 * jobstore_sql.h - what jobstore.c and jobstore_read.c share: the statements and how to run them. Nobody else
 * includes it.
 */
#ifndef REFRAIN_COORDINATOR_JOBS_JOBSTORE_SQL_H
#define REFRAIN_COORDINATOR_JOBS_JOBSTORE_SQL_H

#include <sqlite3.h>
#include "coordinator/jobs/jobstore.h"

enum statement {
    S_BEGIN,
    S_COMMIT,
    S_ROLLBACK,
    S_JOB_INSERT,
    S_JOB_BY_KEY,
    S_JOB_UPDATE,
    S_JOB_GET,
    S_JOB_LIST,
    S_JOB_LIST_ACTIVE,
    S_JOB_DELETE,
    S_JOB_ACTIVE,
    S_JOB_COUNT,
    S_EVENT_INSERT,
    S_EVENT_AFTER,
    S_EVENT_DELETE,
    S_FILE_PUT,
    S_FILE_FIND,
    S_FILE_LIST,
    S_FILE_DROP,
    S_FILE_BYTES,
    S_MODEL_PUT,
    S_MODEL_DROP,
    S_MODEL_LIST,
    S_SEAT_DRAIN,
    S_SEAT_SERVE,
    S_SEAT_LIST,
    S_EPOCH_NEXT,
    STATEMENTS
};

struct jobstore {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    char *path;
    /* A write failed since the last commit. SQLite may have undone the whole transaction by itself then, so
     * nothing of the batch may be committed. */
    bool broken;
    struct error broken_by;
};

/* The status and sentence of what SQLite last refused. */
status_t store_failed(const struct jobstore *store, struct error *error);
status_t store_no_memory(struct error *error);

/* A statement ready for binding; given back by store_finish, which forgets its bindings, so that no borrowed
 * pointer outlives its call. */
sqlite3_stmt *store_use(struct jobstore *store, enum statement which);
void store_finish(sqlite3_stmt *statement);

void store_bind_text(sqlite3_stmt *statement, int index, const char *text); /* borrowed; NULL binds NULL */
/* A column as an unpacked message; NULL when it is none. The caller frees it. */
ProtobufCMessage *store_column_message(sqlite3_stmt *row, int column,
                                       const ProtobufCMessageDescriptor *descriptor);
/* A malloc'ed copy, or NULL for NULL; *fine turns false without memory. */
char *store_column_copy(sqlite3_stmt *row, int column, bool *fine);

#endif
