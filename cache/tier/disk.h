/*
 * disk.h - items as files: <directory>/<xx>/<key>.<serial>, a head and the item's bytes.
 *
 *     disk_open("/var/cache/refrain/rank0", &disk, &error);               one process at a time
 *     disk_scan(&disk, found, context, &swept, &error);                   what is there
 *     disk_write(&disk, &item, bytes, &error);
 *     if (disk_read(&disk, &item, bytes, &error) == STATUS_CORRUPT) ...   a miss
 *     disk_remove(&disk, &item);
 *
 * An item may be lost here, but never be wrong: files are written under a hidden name and renamed, and what is read
 * is believed only if the head is that of the item asked for and the bytes have the hash that it was published with.
 * That is why nothing is synced: after a crash of the machine a file can be short or empty, and is then found out by
 * its head, its size or its hash. A serial names one writing of a key, so that removing an old file cannot hit a newer
 * one.
 *
 * No state but two descriptors. Reading: any thread, several at once; writing, removing, scanning: one at a time.
 */
#ifndef REFRAIN_CACHE_TIER_DISK_H
#define REFRAIN_CACHE_TIER_DISK_H

#include "cache/tier/key.h"

enum { DISK_VERSION = 1, DISK_HEAD_BYTES = 96, DISK_BLOCK = 4096 };

struct disk {
    int root; /* the directory; -1: not open */
};

struct disk_item {
    struct key key;
    uint64_t bytes, xxh3; /* of the item's bytes */
    double seconds;       /* that a hit saves */
    uint32_t serial;
    int64_t made_ms; /* wall clock */
};

struct disk_swept {
    uint32_t unfinished, damaged, other_version; /* files of ours that were removed */
};

/* What a file takes of the level's limit. */
static inline uint64_t disk_bytes(uint64_t bytes)
{
    return (bytes + DISK_HEAD_BYTES + DISK_BLOCK - 1) / DISK_BLOCK * DISK_BLOCK;
}

/* Makes the directory if it is not there. STATUS_CONFLICT: another process has it. */
status_t disk_open(const char *directory, struct disk *disk, struct error *error);
void disk_close(struct disk *disk);

status_t disk_write(const struct disk *disk, const struct disk_item *item, const void *bytes,
                    struct error *error);
/* Into bytes [item->bytes]. STATUS_NOT_FOUND: it is gone; STATUS_CORRUPT: it is not what was written; STATUS_IO. */
status_t disk_read(const struct disk *disk, const struct disk_item *item, void *bytes, struct error *error);
void disk_remove(const struct disk *disk, const struct disk_item *item);

/* Calls found() for each file that has a head of this version and the size that it says; removes other files of ours and
 * leaves alone what is not ours. Bytes are not read. What found() does not return STATUS_OK for ends it. */
status_t disk_scan(const struct disk *disk, status_t (*found)(void *context, const struct disk_item *item),
                   void *context, struct disk_swept *swept, struct error *error);

#endif
