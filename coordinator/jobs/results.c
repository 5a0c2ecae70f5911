/*
 * results.c - see results.h.
 *
 * The loop thread owns the uploads and touches files up to the last byte; the sync thread owns a file from
 * there to its rename. They meet in two queues under one mutex, and an eventfd wakes the loop. The sync
 * thread works in order, so a late file of an earlier attempt is always overwritten by the current one.
 */
#include "coordinator/jobs/results.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>
#include "proto/validate.h"
#include "proto/wire.h"

enum { PATH_BYTES = 4096 + 256, MAX_UPLOADS = 64 };

/* Left free for the job store, so that a full disk can still be written down as a job's failure. */
#define RESERVE_BYTES (UINT64_C(32) << 20)

struct upload {
    struct upload *next;
    struct finished_file file; /* what it will be; bytes is the announced total */
    uint64_t held;
    int fd; /* -1 once handed to the sync thread */
    bool syncing, dropped;
    XXH64_state_t *hash;
    char partial[PATH_BYTES], final[PATH_BYTES], directory[PATH_BYTES];
};

struct results {
    char directory[PATH_BYTES - 256];
    uint64_t limit_bytes;
    struct upload *uploads; /* the loop's, also those being synced */
    size_t upload_count;

    int wake; /* eventfd */
    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock; /* guards what follows; held for pointer moves only */
    pthread_cond_t work;
    struct {
        struct upload *upload;
        int fd;
    } queue[MAX_UPLOADS],
        done[MAX_UPLOADS]; /* rings; no upload is in either twice, so they cannot overflow */
    size_t queue_head, queue_count, done_head, done_count;
    bool stop;
};

/* -------------------------------------------------------------------------------------------- sync thread */

/* Makes the file durable under its final name; runs on the sync thread, owns fd. */
static void sync_file(struct upload *upload, int fd)
{
    struct error *error = &upload->file.error;
    int directory = -1;
    error->status = STATUS_OK;
    if (fsync(fd) != 0) {
        error_set(error, STATUS_IO, "%s: cannot be written: %m", upload->file.name);
    } else if (rename(upload->partial, upload->final) != 0) {
        error_set(error, STATUS_IO, "%s: cannot be named: %m", upload->file.name);
    } else if ((directory = open(upload->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
               fsync(directory) != 0) {
        error_set(error, STATUS_IO, "%s: its directory cannot be written: %m", upload->file.name);
    }
    if (directory >= 0) close(directory);
    close(fd);
    if (error->status != STATUS_OK) unlink(upload->partial);
}

/* Stops only when the queue is empty: a file that was received completely is not thrown away at the end. */
static void *sync_thread(void *argument)
{
    struct results *results = argument;
    pthread_mutex_lock(&results->lock);
    for (;;) {
        while (results->queue_count == 0 && !results->stop) pthread_cond_wait(&results->work, &results->lock);
        if (results->queue_count == 0) break; /* stopped, and everything is done */
        struct upload *upload = results->queue[results->queue_head].upload;
        int fd = results->queue[results->queue_head].fd;
        results->queue_head = (results->queue_head + 1) % MAX_UPLOADS;
        results->queue_count--;
        pthread_mutex_unlock(&results->lock);
        sync_file(upload, fd);
        pthread_mutex_lock(&results->lock);
        results->done[(results->done_head + results->done_count++) % MAX_UPLOADS].upload = upload;
        if (eventfd_write(results->wake, 1) != 0) continue; /* only at 2^64 pending wake-ups */
    }
    pthread_mutex_unlock(&results->lock);
    return NULL;
}

/* From here to results_finished the upload belongs to the sync thread; the loop only marks it. */
static void hand_over(struct results *results, struct upload *upload)
{
    pthread_mutex_lock(&results->lock);
    size_t at = (results->queue_head + results->queue_count++) % MAX_UPLOADS;
    results->queue[at].upload = upload;
    results->queue[at].fd = upload->fd;
    pthread_cond_signal(&results->work);
    pthread_mutex_unlock(&results->lock);
    upload->fd = -1;
    upload->syncing = true;
}

/* --------------------------------------------------------------------------------------- opening, closing */

static status_t make_directory(const char *path, struct error *error)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return STATUS_OK;
    return error_set(error, STATUS_IO, "%s: cannot be made: %m", path);
}

status_t results_open(const char *directory, uint64_t limit_bytes, struct results **results,
                      struct error *error)
{
    status_t status;
    struct results *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for results");
    made->wake = -1;
    made->limit_bytes = limit_bytes;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->work, NULL);
    if (strlen(directory) >= sizeof made->directory) {
        status = error_set(error, STATUS_INVALID, "%s: is too long a path", directory);
        goto fail;
    }
    strcpy(made->directory, directory);
    if ((status = make_directory(directory, error)) != STATUS_OK) goto fail;
    if ((made->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        status = error_set(error, STATUS_IO, "eventfd: %m");
        goto fail;
    }
    if ((errno = pthread_create(&made->thread, NULL, sync_thread, made)) != 0) {
        status = error_set(error, STATUS_IO, "the thread for results cannot be started: %m");
        goto fail;
    }
    made->thread_runs = true;
    *results = made;
    return STATUS_OK;
fail:
    results_close(made);
    return status;
}

/* Takes an upload out of the list and frees it; it must not be with the sync thread. */
static void upload_free(struct results *results, struct upload *upload)
{
    struct upload **link = &results->uploads;
    while (*link != upload) link = &(*link)->next;
    *link = upload->next;
    results->upload_count--;
    if (upload->fd >= 0) {
        close(upload->fd);
        unlink(upload->partial);
    }
    XXH64_freeState(upload->hash);
    free(upload);
}

void results_close(struct results *results)
{
    if (!results) return;
    if (results->thread_runs) {
        pthread_mutex_lock(&results->lock);
        results->stop = true;
        pthread_cond_signal(&results->work);
        pthread_mutex_unlock(&results->lock);
        pthread_join(results->thread, NULL);
    }
    while (results->uploads) upload_free(results, results->uploads);
    if (results->wake >= 0) close(results->wake);
    pthread_cond_destroy(&results->work);
    pthread_mutex_destroy(&results->lock);
    free(results);
}

int results_descriptor(const struct results *results)
{
    return results->wake;
}

/* Files of an attempt that is over are dropped silently: their job has moved on. */
bool results_finished(struct results *results, struct finished_file *finished)
{
    struct upload *upload = NULL;
    pthread_mutex_lock(&results->lock);
    if (results->done_count > 0) {
        upload = results->done[results->done_head].upload;
        results->done_head = (results->done_head + 1) % MAX_UPLOADS;
        results->done_count--;
    }
    pthread_mutex_unlock(&results->lock);
    eventfd_t ignored;
    if (!upload) return eventfd_read(results->wake, &ignored), false;
    *finished = upload->file;
    bool dropped = upload->dropped;
    upload_free(results, upload);
    return dropped ? results_finished(results, finished) : true;
}

/* ---------------------------------------------------------------------------------------------- uploading */

static struct upload *find_upload(struct results *results, const Refrain__UploadChunk *chunk)
{
    struct upload *upload = results->uploads;
    while (upload && (upload->dropped || upload->file.job != chunk->job ||
                      upload->file.attempt != chunk->attempt || strcmp(upload->file.name, chunk->file) != 0))
        upload = upload->next;
    return upload;
}

/* Names become paths and sizes become disk space: both are checked before anything is opened. */
static status_t check_chunk(const struct results *results, const Refrain__UploadChunk *chunk,
                            struct error *error)
{
    status_t status = validate_name("file", chunk->file, error);
    if (status != STATUS_OK) return status;
    if (chunk->total == 0 || chunk->total > results->limit_bytes)
        return error_set(error, STATUS_INVALID, "%s of %" PRIu64 " bytes: must be 1 to %" PRIu64, chunk->file,
                         chunk->total, results->limit_bytes);
    if (chunk->data.len == 0 || chunk->data.len > WIRE_CHUNK_MAX || chunk->offset > chunk->total ||
        chunk->data.len > chunk->total - chunk->offset)
        return error_set(error, STATUS_INVALID,
                         "%s: a chunk of %zu bytes at %" PRIu64 " does not fit into %" PRIu64, chunk->file,
                         chunk->data.len, chunk->offset, chunk->total);
    return STATUS_OK;
}

/* Asked before the first byte, so that a video of an hour does not fill the disk to find out. */
static status_t check_room(const struct results *results, const Refrain__UploadChunk *chunk,
                           struct error *error)
{
    struct statvfs disk;
    if (statvfs(results->directory, &disk) != 0)
        return error_set(error, STATUS_IO, "%s: %m", results->directory);
    uint64_t left = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (left >= RESERVE_BYTES && left - RESERVE_BYTES >= chunk->total) return STATUS_OK;
    return error_set(error, STATUS_IO,
                     "%s: the disk is full: it needs %" PRIu64 " bytes, %" PRIu64 " are free and %" PRIu64
                     " of them are kept for the job store",
                     chunk->file, chunk->total, left, RESERVE_BYTES);
}

/* Truncates what an earlier coordinator left of the same attempt: its hash state died with it. */
static status_t open_upload(struct results *results, const Refrain__UploadChunk *chunk,
                            struct upload **upload, struct error *error)
{
    status_t status = check_room(results, chunk, error);
    if (status != STATUS_OK) return status;
    if (results->upload_count >= MAX_UPLOADS)
        return error_set(error, STATUS_NO_MEMORY, "%s: %d files are being written already", chunk->file,
                         MAX_UPLOADS);
    struct upload *made = calloc(1, sizeof *made);
    XXH64_state_t *hash = XXH64_createState();
    if (!made || !hash) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory for the upload", chunk->file);
        goto fail;
    }
    made->hash = hash;
    made->file.job = chunk->job;
    made->file.attempt = chunk->attempt;
    made->file.bytes = chunk->total;
    snprintf(made->file.name, sizeof made->file.name, "%s", chunk->file);
    snprintf(made->directory, sizeof made->directory, "%s/%" PRIu64, results->directory, chunk->job);
    snprintf(made->final, sizeof made->final, "%s/%" PRIu64 "/%s", results->directory, chunk->job,
             chunk->file);
    snprintf(made->partial, sizeof made->partial, "%s/%" PRIu64 "/.%u.%s", results->directory, chunk->job,
             chunk->attempt, chunk->file);
    if ((status = make_directory(made->directory, error)) != STATUS_OK) goto fail;
    if ((made->fd = open(made->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0) {
        status = error_set(error, STATUS_IO, "%s: cannot be made: %m", chunk->file);
        goto fail;
    }
    XXH64_reset(hash, 0);
    made->next = results->uploads;
    results->uploads = made;
    results->upload_count++;
    *upload = made;
    return STATUS_OK;
fail:
    XXH64_freeState(hash);
    free(made);
    return status;
}

static status_t write_at(int fd, const char *name, const uint8_t *data, size_t bytes, uint64_t offset,
                         struct error *error)
{
    while (bytes > 0) {
        ssize_t written = pwrite(fd, data, bytes, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0 && errno == ENOSPC) return error_set(error, STATUS_IO, "%s: the disk is full", name);
        if (written < 0) return error_set(error, STATUS_IO, "%s: cannot be written: %m", name);
        data += written;
        offset += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return STATUS_OK;
}

/* Chunks must follow each other, because the hash runs along with them; anything else is answered with
 * where to go on. */
status_t results_chunk(struct results *results, const Refrain__UploadChunk *chunk, uint64_t *held,
                       struct error *error)
{
    status_t status = check_chunk(results, chunk, error);
    if (status != STATUS_OK) return status;
    struct upload *upload = find_upload(results, chunk);
    if (upload && upload->syncing) return STATUS_AGAIN;
    if (!upload && chunk->offset > 0) { /* the coordinator restarted: from the beginning, please */
        *held = 0;
        return STATUS_OK;
    }
    if (!upload && (status = open_upload(results, chunk, &upload, error)) != STATUS_OK) return status;
    if (chunk->offset != upload->held || chunk->total != upload->file.bytes) {
        *held = upload->held;
        return STATUS_OK;
    }
    status = write_at(upload->fd, chunk->file, chunk->data.data, chunk->data.len, chunk->offset, error);
    if (status != STATUS_OK) goto fail;
    XXH64_update(upload->hash, chunk->data.data, chunk->data.len);
    upload->held += chunk->data.len;
    if (upload->held < upload->file.bytes) {
        /* Start writing back now, so that the fsync at the end finds little left. A failure shows there. */
        (void)sync_file_range(upload->fd, (off_t)chunk->offset, (off_t)chunk->data.len,
                              SYNC_FILE_RANGE_WRITE);
        *held = upload->held;
        return STATUS_OK;
    }
    upload->file.xxh64 = XXH64_digest(upload->hash);
    if (chunk->has_xxh64 && chunk->xxh64 == upload->file.xxh64) {
        hand_over(results, upload);
        return STATUS_AGAIN;
    }
    status =
        error_set(error, STATUS_CORRUPT, "%s: arrived with hash %016" PRIx64 ", the worker says %016" PRIx64,
                  chunk->file, upload->file.xxh64, chunk->xxh64);
fail:
    upload_free(results, upload);
    return status;
}

/* Memory and open files go at once, except what the sync thread holds. */
void results_drop(struct results *results, uint64_t job)
{
    for (struct upload *upload = results->uploads, *next; upload; upload = next) {
        next = upload->next;
        if (upload->file.job != job) continue;
        if (upload->syncing)
            upload->dropped = true; /* freed when the sync thread gives it back */
        else
            upload_free(results, upload);
    }
}

/* -------------------------------------------------------------------------------------- reading, removing */

/* Opened anew for each chunk: a client that stops in the middle leaves nothing behind. */
status_t results_read(const struct results *results, uint64_t job, const char *name, uint64_t offset,
                      size_t bytes, void *buffer, size_t *got, struct error *error)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%" PRIu64 "/%s", results->directory, job, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO,
                         "file %s: cannot be opened: %m", name);
    size_t sum = 0;
    status_t status = STATUS_OK;
    while (sum < bytes) {
        ssize_t length = pread(fd, (char *)buffer + sum, bytes - sum, (off_t)(offset + sum));
        if (length < 0 && errno == EINTR) continue;
        if (length < 0) status = error_set(error, STATUS_IO, "file %s: cannot be read: %m", name);
        if (length <= 0) break;
        sum += (size_t)length;
    }
    close(fd);
    if (status == STATUS_OK) *got = sum;
    return status;
}

/* Removes the files of one job's directory (only_partial: the hidden ones) and the directory when it is empty
 * then. */
static void clear_directory(const struct results *results, const char *name, bool only_partial)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", results->directory, name);
    DIR *directory = opendir(path);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (!only_partial || entry->d_name[0] == '.') unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
    rmdir(path); /* fails where something stays: as it should */
}

void results_delete(struct results *results, uint64_t job)
{
    char name[32];
    results_drop(results, job);
    snprintf(name, sizeof name, "%" PRIu64, job);
    clear_directory(results, name, false);
}

/* Removing while reading a directory is allowed; entries may be skipped, and the next start finds them. */
status_t results_sweep(struct results *results, bool (*keep)(void *context, uint64_t job), void *context,
                       struct error *error)
{
    DIR *directory = opendir(results->directory);
    if (!directory) return error_set(error, STATUS_IO, "%s: cannot be read: %m", results->directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        uint64_t job = strtoull(entry->d_name, &end, 10);
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || *end) continue; /* not ours: left alone */
        clear_directory(results, entry->d_name, keep(context, job));
    }
    closedir(directory);
    return STATUS_OK;
}
