/*
 * results.h - the files of finished jobs: uploads from workers, reading for clients. <directory>/<job>/<name>
 *
 *     struct results *results;
 *     results_open("<data>/results", limit_bytes, &results, &error);
 *     results_chunk(results, chunk, &held, &error);            bytes held so far go back in an UploadAck
 *     ... poll(results_descriptor(results)) ...
 *     while (results_finished(results, &finished)) ...         durable under its final name, or failed
 *     results_read(results, job, "video.mp4", offset, bytes, buffer, &got, &error);
 *
 * A file grows under a hidden name, is checked against its hash, synced and only then renamed: nobody ever
 * sees half a file. Syncing and renaming happen on a thread of this module, because a large file takes longer
 * than the loop may block; everything else is called by one thread (the loop) and holds no lock while it
 * touches the disk.
 */
#ifndef REFRAIN_COORDINATOR_JOBS_RESULTS_H
#define REFRAIN_COORDINATOR_JOBS_RESULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "proto/refrain.pb-c.h"

struct results;

/* Makes the directory. limit_bytes: of one file. */
status_t results_open(const char *directory, uint64_t limit_bytes, struct results **results,
                      struct error *error);
void results_close(struct results *results); /* NULL is fine; waits for syncs that are under way */

/* Takes a chunk. STATUS_OK: *held bytes of the file are here (a chunk that does not follow on them is
 * ignored; the worker goes on from there). STATUS_AGAIN: the file is complete and being synced, no answer is
 * due. Otherwise the upload is over and its bytes are gone: STATUS_INVALID (name, sizes, offsets),
 * STATUS_CORRUPT (hash), STATUS_IO (disk full, ...). */
status_t results_chunk(struct results *results, const Refrain__UploadChunk *chunk, uint64_t *held,
                       struct error *error);

struct finished_file {
    uint64_t job, bytes, xxh64;
    uint32_t attempt;
    char name[65];
    struct error error; /* error.status STATUS_OK: the file is there to stay */
};
int results_descriptor(const struct results *results); /* readable when results_finished has something */
bool results_finished(struct results *results, struct finished_file *finished);

/* Drops the half-done uploads of a job: its attempt is over. */
void results_drop(struct results *results, uint64_t job);

/* Up to `bytes` from `offset`; *got is 0 at the end. STATUS_NOT_FOUND, STATUS_IO. */
status_t results_read(const struct results *results, uint64_t job, const char *name, uint64_t offset,
                      size_t bytes, void *buffer, size_t *got, struct error *error);

/* Removes everything of a job. */
void results_delete(struct results *results, uint64_t job);

/* At start: removes what no job stands for and what was half done. keep says whether a job's finished files
 * stay. */
status_t results_sweep(struct results *results, bool (*keep)(void *context, uint64_t job), void *context,
                       struct error *error);

#endif
