/*
 * vaultfile.h - one checkpoint as a file: <root>/<job>/<step>-<attempt>, a head and the worker's bytes. Attempt 0 is a
 * link to a file of another job, and has that one's head.
 *
 *     vaultfile_create(directory, &checkpoint, &file, &error);            under a hidden name
 *     vaultfile_append(file, &checkpoint, offset, data, bytes, &error);   in order; the end brings the head
 *     file_sync(file, &error); vaultfile_reveal(directory, &checkpoint, &error);
 *     file_sync_directory(directory, &error);                             only now is it durable
 *
 * The hidden name is there until everything else is on disk: whatever has another name is whole. `directory`
 * is a descriptor of the job's directory, `root` of the one above. No state, no locks; the caller owns
 * descriptors.
 */
#ifndef REFRAIN_COORDINATOR_VAULT_VAULTFILE_H
#define REFRAIN_COORDINATOR_VAULT_VAULTFILE_H

#include <stddef.h>
#include <stdint.h>
#include "coordinator/vault/vault.h"

enum { VAULTFILE_HEAD_BYTES = 96 };

/* The job's directory, made (and made durable) if it is not there. */
status_t vaultfile_directory(int root, uint64_t job, int *directory, struct error *error);

status_t vaultfile_create(int directory, const struct checkpoint *checkpoint, int *file, struct error *error);
/* The piece that ends at checkpoint->bytes completes the file; checkpoint->xxh64 must be known by then. */
status_t vaultfile_append(int file, const struct checkpoint *checkpoint, const struct run_point *point,
                          uint64_t offset, const void *data, size_t bytes, struct error *error);
status_t vaultfile_reveal(int directory, const struct checkpoint *checkpoint, struct error *error);
/* The same file also as checkpoint->attempt 0 of checkpoint->job, durably. */
status_t vaultfile_link(int root, const struct checkpoint *from, const struct checkpoint *checkpoint,
                        struct error *error);
void vaultfile_discard(int directory, const struct checkpoint *checkpoint); /* the hidden one */

/* STATUS_CORRUPT: it does not begin with what was written there, or is shorter. */
status_t vaultfile_read(int root, const struct checkpoint *checkpoint, uint64_t offset, void *data,
                        size_t bytes, struct error *error);
/* Reads it all, `bytes` at a time into buffer: STATUS_CORRUPT when the hash is another. */
status_t vaultfile_verify(int root, const struct checkpoint *checkpoint, void *buffer, size_t bytes,
                          struct error *error);
void vaultfile_remove(int root, const struct checkpoint *checkpoint);
void vaultfile_remove_job(int root, uint64_t job);

/* Calls found() for every whole file below root, with the time it was made; removes files and directories of
 * ours that are no use, and leaves alone what is not ours. What found() does not return STATUS_OK for ends
 * it. */
status_t vaultfile_scan(int root,
                        status_t (*found)(void *context, const struct checkpoint *checkpoint,
                                          const struct run_point *point, int64_t made_ns),
                        void *context, struct error *error);

#endif
