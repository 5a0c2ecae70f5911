/*
 * fetch.c - refrain_fetch and refrain_output_check: a result file from the coordinator to the caller's disk.
 *
 * The bytes go to a hidden file beside the target, named after job, file name and hash, so that a later fetch
 * of the same thing finds what an earlier one left. It is locked while somebody writes it. Only a file with
 * the right hash is renamed to the target. Several chunks are asked for ahead, so that the round trip is not
 * waited for each time.
 */
#include "client/connection.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { CHUNK_BYTES = 512 * 1024, CHUNKS_AHEAD = 4 };

/* --------------------------------------------------------------------------------- the target */

struct target {
    char path[PATH_MAX];      /* where it goes; symbolic links resolved, so that a link is written through */
    char directory[PATH_MAX]; /* of `path` */
};

static status_t target_of(const char *path, struct target *target, struct error *error)
{
    if (!path || !*path) return error_set(error, STATUS_INVALID, "an empty file name");
    struct stat stat_now;
    bool exists = stat(path, &stat_now) == 0;
    if (exists && S_ISDIR(stat_now.st_mode))
        return error_set(error, STATUS_INVALID, "%s: is a directory", path);
    if (exists && !S_ISREG(stat_now.st_mode))
        return error_set(error, STATUS_INVALID, "%s: is not a plain file", path);
    if (!exists && errno != ENOENT) return error_set(error, STATUS_IO, "%s: %m", path);
    if (exists ? !realpath(path, target->path) : strlen(path) >= sizeof target->path)
        return error_set(error, STATUS_IO, "%s: %m", path);
    if (!exists) snprintf(target->path, sizeof target->path, "%s", path);
    const char *slash = strrchr(target->path, '/');
    if (slash && !slash[1]) return error_set(error, STATUS_INVALID, "%s: is a directory's name", path);
    if (strlen(slash ? slash + 1 : target->path) > NAME_MAX)
        return error_set(error, STATUS_INVALID, "%s: the name is longer than %d bytes", path, NAME_MAX);
    if (!slash)
        strcpy(target->directory, ".");
    else
        snprintf(target->directory, sizeof target->directory, "%.*s",
                 (int)(slash == target->path ? 1 : slash - target->path), target->path);
    return STATUS_OK;
}

/* Whether files can really be made there: asking permissions is not enough (read-only mounts, quotas, root).
 */
static status_t probe_directory(const struct target *target, struct error *error)
{
    int fd = open(target->directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char probe[PATH_MAX];
        if ((size_t)snprintf(probe, sizeof probe, "%s/.refrain-XXXXXX", target->directory) >= sizeof probe)
            errno = ENAMETOOLONG;
        else if ((fd = mkostemp(probe, O_CLOEXEC)) >= 0)
            unlink(probe);
    }
    if (fd >= 0) {
        close(fd);
        return STATUS_OK;
    }
    if (errno == ENOENT)
        return error_set(error, STATUS_INVALID, "%s: there is no directory %s", target->path,
                         target->directory);
    if (errno == ENOTDIR)
        return error_set(error, STATUS_INVALID, "%s: %s is not a directory", target->path, target->directory);
    return error_set(error, STATUS_IO, "%s: cannot be written: %m", target->path);
}

status_t refrain_output_check(const char *path, struct error *error)
{
    struct target target;
    status_t status = target_of(path, &target, error);
    return status ? status : probe_directory(&target, error);
}

/* ------------------------------------------------------------------------------- the download */

struct download {
    struct refrain *refrain;
    uint64_t job;
    const struct refrain_file *file;
    const char *path;    /* the target, for sentences */
    char part[PATH_MAX]; /* the hidden file */
    int fd;              /* of it; locked. -1: not open */
    uint64_t received;   /* bytes in it, all hashed */
    uint64_t asked;      /* end of what was asked for */
    uint32_t chunk_bytes;
    XXH64_state_t *hash;
};

static void part_name(struct download *download, const struct target *target)
{
    const char *slash = strrchr(target->path, '/');
    const char *base = slash ? slash + 1 : target->path;
    uint64_t name = XXH64(base, strlen(base), download->file->xxh64 ^ download->job);
    if ((size_t)snprintf(download->part, sizeof download->part, "%s/.refrain-%016" PRIx64 ".part",
                         target->directory, name) >= sizeof download->part)
        download->part[0] = 0; /* open will refuse it */
}

/* Opens and locks the hidden file. Whoever held the lock before may have renamed or removed the file we
 * opened. */
static status_t open_part(struct download *download, struct error *error)
{
    for (;;) {
        download->fd = open(download->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (download->fd < 0) return error_set(error, STATUS_IO, "%s: cannot be written: %m", download->path);
        struct stat opened;
        if (flock(download->fd, LOCK_EX | LOCK_NB)) {
            status_t status =
                errno == EWOULDBLOCK
                    ? error_set(error, STATUS_CONFLICT, "another process is fetching the same file")
                    : error_set(error, STATUS_IO, "%s: cannot be written: %m", download->path);
            close(download->fd);
            download->fd = -1;
            return status;
        }
        if (fstat(download->fd, &opened) == 0 && opened.st_nlink > 0) return STATUS_OK;
        close(download->fd);
    }
}

static status_t start_over(struct download *download, struct error *error)
{
    XXH64_reset(download->hash, 0);
    download->received = download->asked = 0;
    if (ftruncate(download->fd, 0) || lseek(download->fd, 0, SEEK_SET) < 0)
        return error_set(error, STATUS_IO, "%s: cannot be written: %m", download->path);
    return STATUS_OK;
}

/* Takes over what an earlier fetch left: hashes it, and stands at its end. */
static status_t take_over(struct download *download, struct error *error)
{
    unsigned char *buffer = malloc(CHUNK_BYTES);
    if (!buffer) return error_set(error, STATUS_NO_MEMORY, "no memory for a download");
    XXH64_reset(download->hash, 0);
    ssize_t got;
    while ((got = read(download->fd, buffer, CHUNK_BYTES)) > 0) {
        XXH64_update(download->hash, buffer, (size_t)got);
        download->received += (uint64_t)got;
    }
    free(buffer);
    download->asked = download->received;
    return got < 0 || download->received > download->file->bytes ? start_over(download, error) : STATUS_OK;
}

/* Asks for chunks until CHUNKS_AHEAD are on their way. */
static status_t ask_ahead(struct download *download, struct error *error)
{
    struct refrain *refrain = download->refrain;
    while (download->asked < download->file->bytes &&
           download->asked - download->received < (uint64_t)CHUNKS_AHEAD * download->chunk_bytes) {
        uint64_t left = download->file->bytes - download->asked;
        Refrain__Fetch body = REFRAIN__FETCH__INIT;
        body.has_job = body.has_offset = body.has_bytes = 1;
        body.job = download->job;
        body.file = (char *)(uintptr_t)download->file->name;
        body.offset = download->asked;
        body.bytes = left < download->chunk_bytes ? (uint32_t)left : download->chunk_bytes;
        Refrain__Request request = REFRAIN__REQUEST__INIT;
        request.body_case = REFRAIN__REQUEST__BODY_FETCH;
        request.fetch = &body;
        status_t status = connection_send(refrain, &request, error);
        if (status) return status;
        if (download->asked == download->received) refrain->awaited_first = request.id;
        refrain->awaited_last = request.id;
        download->asked += body.bytes;
    }
    return STATUS_OK;
}

static status_t write_all(int fd, const unsigned char *bytes, size_t count)
{
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return STATUS_IO;
        bytes += written;
        count -= (size_t)written;
    }
    return STATUS_OK;
}

/* Puts one chunk in its place, if it is the next one; a chunk from elsewhere is left over from an earlier
 * try. */
static status_t accept_chunk(struct download *download, const Refrain__FileChunk *chunk, struct error *error)
{
    if (chunk->offset != download->received) return STATUS_OK;
    uint64_t left = download->file->bytes - download->received;
    if (chunk->total != download->file->bytes || chunk->data.len == 0 || chunk->data.len > left)
        return error_set(error, STATUS_CORRUPT,
                         "%s of job %" PRIu64 ": %zu bytes at %" PRIu64 " of %" PRIu64
                         ", but it has %" PRIu64,
                         download->file->name, download->job, chunk->data.len, chunk->offset, chunk->total,
                         download->file->bytes);
    if (write_all(download->fd, chunk->data.data, chunk->data.len))
        return error_set(error, STATUS_IO, "%s: cannot be written: %m", download->path);
    XXH64_update(download->hash, chunk->data.data, chunk->data.len);
    download->received += chunk->data.len;
    if (chunk->data.len < download->chunk_bytes && chunk->data.len < left) {
        /* The coordinator gives smaller pieces than we ask for: there are gaps between those on their way. */
        download->chunk_bytes = (uint32_t)chunk->data.len;
        download->asked = download->received;
    }
    return STATUS_OK;
}

/* Waits for one happening and deals with it. `deadline_ns` moves on with every chunk. */
static status_t advance(struct download *download, int timeout_ms, int64_t *deadline_ns, struct error *error)
{
    struct refrain *refrain = download->refrain;
    uint64_t generation = refrain->generation;
    status_t status = ask_ahead(download, error);
    if (!status) status = connection_pump(refrain, *deadline_ns, error);
    if (status == STATUS_DEADLINE) return connection_timed_out(refrain, timeout_ms, error);
    if (status) return status;
    if (refrain->generation != generation)
        download->asked = download->received; /* those on their way are lost */
    Refrain__Reply *reply = refrain->answer;
    if (!reply) return STATUS_OK;
    refrain->answer = NULL;
    *deadline_ns = connection_deadline(timeout_ms);
    status = connection_judge(refrain, reply, REFRAIN__REPLY__BODY_CHUNK, error);
    if (!status) status = accept_chunk(download, reply->chunk, error);
    refrain__reply__free_unpacked(reply, NULL);
    return status;
}

/* The whole file with the right hash in the hidden file; a wrong hash gets a second try from the first byte.
 */
static status_t receive_file(struct download *download, int timeout_ms, struct error *error)
{
    struct refrain *refrain = download->refrain;
    status_t status = take_over(download, error);
    for (int attempt = 0; !status; attempt++) {
        int64_t deadline_ns = connection_deadline(timeout_ms);
        while (!status && download->received < download->file->bytes)
            status = advance(download, timeout_ms, &deadline_ns, error);
        if (status || XXH64_digest(download->hash) == download->file->xxh64) break;
        if (attempt == 1)
            status = error_set(error, STATUS_CORRUPT,
                               "%s of job %" PRIu64 ": what came twice does not match its hash",
                               download->file->name, download->job);
        else
            status = start_over(download, error);
    }
    refrain->awaited_first = refrain->awaited_last = 0;
    return status;
}

/* Gives the finished file its name, durably. */
static status_t publish(struct download *download, const struct target *target, unsigned flags,
                        struct error *error)
{
    if (fsync(download->fd)) return error_set(error, STATUS_IO, "%s: cannot be written: %m", download->path);
    unsigned how = flags & REFRAIN_FETCH_NEW ? RENAME_NOREPLACE : 0;
    int failed = renameat2(AT_FDCWD, download->part, AT_FDCWD, target->path, how);
    if (failed && errno == EINVAL && how) {
        /* A file system without the flag: link refuses to replace as well. */
        failed = link(download->part, target->path);
        if (!failed) unlink(download->part);
    }
    if (failed)
        return error_set(error, errno == EEXIST ? STATUS_CONFLICT : STATUS_IO, "%s: cannot be written: %m",
                         target->path);
    int directory = open(target->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        fsync(directory);
        close(directory);
    }
    return STATUS_OK;
}

static const struct refrain_file *find_file(const struct refrain_job *job, const char *name,
                                            struct error *error)
{
    for (size_t i = 0; i < job->file_count; i++)
        if (strcmp(job->files[i].name, name) == 0) return &job->files[i];
    error_set(error, STATUS_NOT_FOUND, "job %" PRIu64 " (%s) has no file %s", job->number,
              refrain_state_name(job->state), name);
    return NULL;
}

status_t refrain_fetch(struct refrain *refrain, const struct refrain_job *job, const char *file,
                       const char *path, unsigned flags, int timeout_ms, struct error *error)
{
    struct download download = {.refrain = refrain, .job = job->number, .fd = -1, .chunk_bytes = CHUNK_BYTES};
    struct target target;
    refrain->field[0] = 0;
    download.file = find_file(job, file, error);
    if (!download.file) return STATUS_NOT_FOUND;
    status_t status = target_of(path, &target, error);
    if (!status) status = probe_directory(&target, error);
    if (status) return status;
    download.hash = XXH64_createState();
    if (!download.hash) return error_set(error, STATUS_NO_MEMORY, "no memory for a download");
    download.path = target.path;
    part_name(&download, &target);
    status = open_part(&download, error);
    if (status) goto done;
    status = receive_file(&download, timeout_ms, error);
    if (!status) status = publish(&download, &target, flags, error);
    /* A wait that ended early can be taken up again; anything else would fail the same way. */
    bool resumable = status == STATUS_DEADLINE || status == STATUS_PEER_LOST || status == STATUS_ABORTED;
    if (status && !(resumable && flags & REFRAIN_FETCH_KEEP_PARTIAL)) unlink(download.part);
    close(download.fd);
done:
    XXH64_freeState(download.hash);
    return status;
}
