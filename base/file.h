/*
 * file.h - whole reads and writes of files, and making them durable; each failure is a sentence.
 *
 *     struct iovec parts[] = {{&head, sizeof head}, {bytes, size}};
 *     file_write(file, parts, 2, 0, &error);          all of it, or why not ("the disk is full")
 *     file_read(file, sizeof head, bytes, size, &error);
 *
 * Descriptors are the caller's; callers put the file's name before the sentence. Stateless; any thread.
 */
#ifndef REFRAIN_BASE_FILE_H
#define REFRAIN_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/status.h"

/* Everything in `parts`, one after the other from `offset` on; parts are changed. STATUS_IO. */
status_t file_write(int file, struct iovec *parts, int count, uint64_t offset, struct error *error);

/* Exactly `bytes`: STATUS_CORRUPT when the file ends before, STATUS_IO. */
status_t file_read(int file, uint64_t offset, void *data, size_t bytes, struct error *error);

status_t file_sync(int file, struct error *error);
/* Names in it that were made, changed or removed. */
status_t file_sync_directory(int directory, struct error *error);

#endif
