/*
 * upload.h - a finished job's files on their way to the coordinator, in chunks with a window.
 *
 *     upload_create(job, attempt, directory, &upload, &error);       lists and hashes the files
 *     while (upload_next(upload, &chunk, &error) == STATUS_OK)       STATUS_AGAIN: window full or all sent
 *         send(chunk);
 *     upload_ack(upload, file, received);                            the coordinator holds this much
 *     upload_complete(upload)                                        everything is held there
 *
 * Never blocks on the network: the compute thread sends a chunk when the window allows and goes on with other
 * jobs.
 */
#ifndef REFRAIN_WORKER_UPLOAD_H
#define REFRAIN_WORKER_UPLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

struct upload;

enum { UPLOAD_CHUNK_BYTES = 512 << 10, UPLOAD_WINDOW_BYTES = 8 * UPLOAD_CHUNK_BYTES, UPLOAD_MAX_FILES = 7 };

/* The files a job can have, by name. */
extern const char *const upload_names[UPLOAD_MAX_FILES];

struct upload_chunk {
    const char *file; /* name without directory */
    uint64_t offset, total;
    const uint8_t *data; /* the upload's, until the next call */
    uint32_t bytes;
    uint64_t xxh64; /* of the whole file */
};

struct upload_file {
    const char *name;
    uint64_t bytes, xxh64;
};

/* Takes whichever of upload_names are in the directory. */
status_t upload_create(const char *directory, struct upload **upload, struct error *error);
void upload_destroy(struct upload *upload); /* NULL is fine */

status_t upload_next(struct upload *upload, struct upload_chunk *chunk, struct error *error);
void upload_ack(struct upload *upload, const char *file, uint64_t received);
/* The coordinator restarted: offer everything again; its acknowledgements say what it still has. */
void upload_restart(struct upload *upload);
bool upload_complete(const struct upload *upload);
int upload_files(const struct upload *upload, struct upload_file files[UPLOAD_MAX_FILES]);

#endif
