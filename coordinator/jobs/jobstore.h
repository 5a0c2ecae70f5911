/*
 * jobstore.h - what must survive: jobs, their history, their files, models, counters. SQLite in WAL mode.
 *
 *     struct jobstore *store;
 *     jobstore_open("<data>/jobs.db", &store, &error);
 *     jobstore_submit(store, &new_job, &id, &error);       many of these ...
 *     jobstore_commit(store, &error);                      ... then one fsync; only now may anybody be told
 *
 * Group commit: every write joins the transaction that is open, or opens one; nothing is durable before
 * jobstore_commit. Reads see what was written, committed or not, so whoever answers a read from the same
 * batch must wait for the commit as well. When a commit fails everything since the last one is undone.
 *
 * One thread (the coordinator's loop) uses it. Messages handed out are unpacked protobuf: free them with
 * refrain__..._free_unpacked(message, NULL).
 */
#ifndef REFRAIN_COORDINATOR_JOBS_JOBSTORE_H
#define REFRAIN_COORDINATOR_JOBS_JOBSTORE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "proto/refrain.pb-c.h"

struct jobstore;

enum { REQUEST_HASH_BYTES = 16, JOB_STATES = REFRAIN__JOB_STATE__JOB_EXPIRED + 1 };

/* Opens or makes the file; checks that it is ours, of a schema this build knows (older ones are migrated) and
 * intact. */
status_t jobstore_open(const char *path, struct jobstore **store, struct error *error);
void jobstore_close(struct jobstore *store); /* NULL is fine; an open transaction is undone */

/* Makes everything written so far durable; STATUS_OK when there is nothing. */
status_t jobstore_commit(struct jobstore *store, struct error *error);
void jobstore_rollback(struct jobstore *store);

/* --------------------------------------------------------------------------------------------------- jobs */

struct new_job {
    const char *tenant;
    const char *idempotency_key;      /* NULL: none */
    uint8_t hash[REQUEST_HASH_BYTES]; /* of the spec as the client sent it */
    const Refrain__JobSpec *spec;     /* complete */
    int64_t submitted_ms;             /* wall clock */
    int64_t deadline_at_ms;           /* wall clock; 0: none */
};
/* Steps times pixels, of every video the job makes: what it costs, relative to others. */
double jobstore_work(const Refrain__JobSpec *spec);
/* Stores the job as accepted (sequence 1). */
status_t jobstore_submit(struct jobstore *store, const struct new_job *job, uint64_t *id,
                         struct error *error);

/* The job an idempotency key stands for; STATUS_NOT_FOUND when it is new. */
status_t jobstore_find_key(struct jobstore *store, const char *tenant, const char *key, uint64_t *id,
                           uint8_t hash[REQUEST_HASH_BYTES], struct error *error);

/* One state change: the job's row and a line of its history. sequence must be the stored one plus 1. */
struct job_change {
    uint64_t job;
    Refrain__JobState state;
    uint64_t sequence;
    uint32_t attempt, losses;
    int64_t at_ms, started_ms, finished_ms; /* wall clock, 0: not yet */
    const char *message;                    /* NULL: none */
    const char *plan;                       /* NULL: keep what is stored */
    const Refrain__JobTimes *times;         /* NULL: keep what is stored */
    const Refrain__CacheReport *cache;      /* NULL: keep what is stored */
};
status_t jobstore_change(struct jobstore *store, const struct job_change *change, struct error *error);

/* tenant NULL: anybody's. A job of another tenant is STATUS_NOT_FOUND, like one that never was. */
status_t jobstore_get(struct jobstore *store, const char *tenant, uint64_t id, Refrain__Job **job,
                      struct error *error);
/* Newest first, jobs below `before` (0: from the newest). `take` owns the job; it returns false to stop
 * early. */
status_t jobstore_list(struct jobstore *store, const char *tenant, uint64_t before, bool active_only,
                       bool (*take)(void *context, Refrain__Job *job), void *context, struct error *error);
/* History above a sequence number, oldest first; each job as it was at that moment. `take` owns it. */
status_t jobstore_history(struct jobstore *store, uint64_t id, uint64_t after,
                          bool (*take)(void *context, Refrain__Job *job), void *context, struct error *error);
/* Removes the row, the history and the files' names. */
status_t jobstore_delete(struct jobstore *store, uint64_t id, struct error *error);

/* What the loop keeps in memory of a job that is not in a final state. Pointers are valid during the call. */
struct stored_job {
    uint64_t id, sequence;
    const char *tenant;
    const char *model;
    Refrain__JobState state;
    Refrain__Priority priority;
    uint32_t attempt, losses;
    int64_t submitted_ms, started_ms, deadline_at_ms;
    double work; /* jobstore_work, for estimates */
};
status_t jobstore_active(struct jobstore *store,
                         status_t (*take)(void *context, const struct stored_job *job), void *context,
                         struct error *error);

/* counts[JOB_STATES], result_bytes: of a tenant; NULL: of all. */
status_t jobstore_count(struct jobstore *store, const char *tenant, uint64_t *counts, uint64_t *result_bytes,
                        struct error *error);
uint64_t jobstore_bytes(const struct jobstore *store); /* on disk */

/* -------------------------------------------------------------------------------------------------- files */

/* Notes that a file of this attempt is complete and durable. */
status_t jobstore_add_file(struct jobstore *store, uint64_t job, uint32_t attempt, const char *name,
                           uint64_t bytes, uint64_t xxh64, struct error *error);
/* STATUS_NOT_FOUND when this attempt has no such file. attempt 0: whichever it has. */
status_t jobstore_find_file(struct jobstore *store, uint64_t job, uint32_t attempt, const char *name,
                            uint64_t *bytes, uint64_t *xxh64, struct error *error);
/* Forgets the files of all attempts: the job starts over or failed. */
status_t jobstore_drop_files(struct jobstore *store, uint64_t job, struct error *error);

/* --------------------------------------------------------------------------------------- models, counters */

status_t jobstore_put_model(struct jobstore *store, const Refrain__ModelCard *card, const char *directory,
                            struct error *error);
status_t jobstore_drop_model(struct jobstore *store, const char *name, struct error *error);
/* `take` owns the card; directory is borrowed. */
status_t jobstore_models(struct jobstore *store,
                         status_t (*take)(void *context, Refrain__ModelCard *card, const char *directory),
                         void *context, struct error *error);

/* Seats of groups of ranks that serve no more (drain.h). */
status_t jobstore_drain_seat(struct jobstore *store, const char *group, uint32_t seat, const char *host,
                             struct error *error);
status_t jobstore_serve_seat(struct jobstore *store, const char *group, uint32_t seat, struct error *error);
status_t jobstore_serve_seats(struct jobstore *store, const char *group, struct error *error); /* all of them */
/* The texts are borrowed. */
status_t jobstore_drained(struct jobstore *store,
                          status_t (*take)(void *context, const char *group, uint32_t seat, const char *host),
                          void *context, struct error *error);

/* A number larger than any this store gave before and larger than `above`. */
status_t jobstore_next_epoch(struct jobstore *store, uint64_t above, uint64_t *epoch, struct error *error);

#endif
