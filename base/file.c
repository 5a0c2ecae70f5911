/* file.c - see file.h. Stateless; any thread. */
#include "base/file.h"

#include <errno.h>
#include <unistd.h>

status_t file_write(int file, struct iovec *parts, int count, uint64_t offset, struct error *error)
{
    while (count > 0) {
        ssize_t written = pwritev(file, parts, count, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0 && errno == ENOSPC) return error_set(error, STATUS_IO, "the disk is full");
        if (written < 0) return error_set(error, STATUS_IO, "the file cannot be written: %m");
        offset += (uint64_t)written;
        for (size_t left = (size_t)written; count > 0;) {
            size_t taken = left < parts->iov_len ? left : parts->iov_len;
            parts->iov_base = (char *)parts->iov_base + taken;
            parts->iov_len -= taken;
            left -= taken;
            if (parts->iov_len) break;
            parts++, count--;
        }
    }
    return STATUS_OK;
}

status_t file_read(int file, uint64_t offset, void *data, size_t bytes, struct error *error)
{
    for (size_t got = 0; got < bytes;) {
        ssize_t part = pread(file, (char *)data + got, bytes - got, (off_t)(offset + got));
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return error_set(error, STATUS_IO, "the file cannot be read: %m");
        if (part == 0) return error_set(error, STATUS_CORRUPT, "the file is damaged: it is cut off");
        got += (size_t)part;
    }
    return STATUS_OK;
}

static status_t synced(int result, struct error *error)
{
    if (result == 0) return STATUS_OK;
    if (errno == ENOSPC) return error_set(error, STATUS_IO, "the disk is full");
    return error_set(error, STATUS_IO, "the file cannot be made durable: %m");
}

/* Of a file, its times do not matter. */
status_t file_sync(int file, struct error *error)
{
    return synced(fdatasync(file), error);
}

/* Not fdatasync: a name that changed is no data of the directory (ext4 would leave it for later). */
status_t file_sync_directory(int directory, struct error *error)
{
    return synced(fsync(directory), error);
}
