/* vaultfile.c - see vaultfile.h. The vault's thread, and vault_open before that thread is there. */
#include "coordinator/vault/vaultfile.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/file.h"
#include "base/log.h"

enum { FORMAT = 2, NAME_BYTES = 64, FACTS_BYTES = 88 };

static const char magic[8] = "refrain\x1a"; /* the last byte: no text file begins like that */

/* In front of the worker's bytes; little-endian. */
struct head {
    char magic[8];
    uint32_t format, attempt;
    uint64_t job;
    uint32_t step, run_step;
    uint64_t bytes, xxh64; /* of what follows */
    uint8_t run[KEY_BYTES];
    uint64_t run_seconds; /* the bits of a double */
    uint64_t own;         /* XXH64 of the FACTS_BYTES above */
};
_Static_assert(sizeof(struct head) == VAULTFILE_HEAD_BYTES, "the head has no gaps");
_Static_assert(offsetof(struct head, own) == FACTS_BYTES, "all but the last is hashed");

/* ------------------------------------------------------------------------------------------- names, heads */

static void hidden_name(const struct checkpoint *checkpoint, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, ".%" PRIu32 "-%" PRIu32, checkpoint->step, checkpoint->attempt);
}

static void path_below_root(const struct checkpoint *checkpoint, char path[NAME_BYTES])
{
    snprintf(path, NAME_BYTES, "%" PRIu64 "/%" PRIu32 "-%" PRIu32, checkpoint->job, checkpoint->step,
             checkpoint->attempt);
}

static struct head make_head(const struct checkpoint *checkpoint, const struct run_point *point)
{
    uint64_t seconds;
    memcpy(&seconds, &point->seconds, sizeof seconds);
    struct head head = {.format = htole32(FORMAT),
                        .attempt = htole32(checkpoint->attempt),
                        .job = htole64(checkpoint->job),
                        .step = htole32(checkpoint->step),
                        .run_step = htole32(point->step),
                        .run_seconds = htole64(seconds),
                        .bytes = htole64(checkpoint->bytes),
                        .xxh64 = htole64(checkpoint->xxh64)};
    memcpy(head.magic, magic, sizeof magic);
    if (key_is_run(&point->run)) key_encode(&point->run, head.run);
    head.own = htole64(XXH64(&head, FACTS_BYTES, 0));
    return head;
}

/* What a file says about itself; false when that cannot be believed, or when the file is not as long as it
 * says. */
static bool read_head(int file, struct checkpoint *checkpoint, struct run_point *point, struct stat *about)
{
    struct head head;
    if (pread(file, &head, sizeof head, 0) != sizeof head || fstat(file, about) != 0) return false;
    if (memcmp(head.magic, magic, sizeof magic) != 0 || le32toh(head.format) != FORMAT ||
        le64toh(head.own) != XXH64(&head, FACTS_BYTES, 0))
        return false;
    *checkpoint = (struct checkpoint){.job = le64toh(head.job),
                                      .attempt = le32toh(head.attempt),
                                      .step = le32toh(head.step),
                                      .bytes = le64toh(head.bytes),
                                      .xxh64 = le64toh(head.xxh64)};
    uint64_t seconds = le64toh(head.run_seconds);
    *point = (struct run_point){.step = le32toh(head.run_step)};
    memcpy(&point->seconds, &seconds, sizeof seconds);
    if (key_decode(head.run, &point->run, NULL) != STATUS_OK) *point = (struct run_point){.step = 0};
    return (uint64_t)about->st_size == VAULTFILE_HEAD_BYTES + checkpoint->bytes;
}

/* What a file that was linked from another job's is called here. */
static void as_borrowed(struct checkpoint *checkpoint, uint64_t job)
{
    checkpoint->job = job;
    checkpoint->attempt = 0;
}

/* ------------------------------------------------------------------------------------------------ writing */

status_t vaultfile_directory(int root, uint64_t job, int *directory, struct error *error)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%" PRIu64, job);
    bool made = mkdirat(root, name, 0700) == 0;
    if (!made && errno != EEXIST)
        return error_set(error, STATUS_IO, "checkpoints of job %s: their directory cannot be made: %m", name);
    int opened = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0)
        return error_set(error, STATUS_IO, "checkpoints of job %s: their directory cannot be opened: %m",
                         name);
    status_t status = made ? file_sync_directory(root, error) : STATUS_OK;
    if (status == STATUS_OK)
        *directory = opened;
    else
        close(opened);
    return status;
}

status_t vaultfile_create(int directory, const struct checkpoint *checkpoint, int *file, struct error *error)
{
    char name[NAME_BYTES];
    hidden_name(checkpoint, name);
    int made = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (made < 0) return error_set(error, STATUS_IO, "the file cannot be made: %m");
    *file = made;
    return STATUS_OK;
}

/* A checkpoint that came in one piece, as most do, is written by one call. */
status_t vaultfile_append(int file, const struct checkpoint *checkpoint, const struct run_point *point,
                          uint64_t offset, const void *data, size_t bytes, struct error *error)
{
    struct head head;
    struct iovec parts[] = {{&head, sizeof head}, {(void *)(uintptr_t)data, bytes}};
    bool last = offset + bytes == checkpoint->bytes;
    if (last) head = make_head(checkpoint, point);
    if (last && offset == 0) return file_write(file, parts, 2, 0, error);
    status_t status = file_write(file, parts + 1, 1, VAULTFILE_HEAD_BYTES + offset, error);
    return status == STATUS_OK && last ? file_write(file, parts, 1, 0, error) : status;
}

status_t vaultfile_reveal(int directory, const struct checkpoint *checkpoint, struct error *error)
{
    char name[NAME_BYTES];
    hidden_name(checkpoint, name);
    if (renameat(directory, name, directory, name + 1) == 0) return STATUS_OK;
    return error_set(error, STATUS_IO, "the file cannot be given its name: %m");
}

/* Under a hidden name first, so that one which an earlier job of this number left is replaced. */
status_t vaultfile_link(int root, const struct checkpoint *from, const struct checkpoint *checkpoint,
                        struct error *error)
{
    char path[NAME_BYTES], name[NAME_BYTES];
    int directory = -1;
    status_t status = vaultfile_directory(root, checkpoint->job, &directory, error);
    if (status != STATUS_OK) return status;
    path_below_root(from, path);
    hidden_name(checkpoint, name);
    unlinkat(directory, name, 0);
    if (linkat(root, path, directory, name, 0) != 0)
        status = error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO,
                           "the checkpoint %s cannot be linked: %m", path);
    if (status == STATUS_OK) status = vaultfile_reveal(directory, checkpoint, error);
    if (status == STATUS_OK) status = file_sync_directory(directory, error);
    close(directory);
    return status;
}

void vaultfile_discard(int directory, const struct checkpoint *checkpoint)
{
    char name[NAME_BYTES];
    hidden_name(checkpoint, name);
    unlinkat(directory, name, 0);
}

/* ------------------------------------------------------------------------------------------------ reading */

static status_t open_checkpoint(int root, const struct checkpoint *checkpoint, int *file, struct error *error)
{
    char path[NAME_BYTES];
    struct checkpoint found;
    struct run_point ignored;
    struct stat about;
    path_below_root(checkpoint, path);
    int opened = openat(root, path, O_RDONLY | O_CLOEXEC);
    if (opened < 0 && errno == ENOENT) return error_set(error, STATUS_NOT_FOUND, "it is gone");
    if (opened < 0) return error_set(error, STATUS_IO, "the file cannot be opened: %m");
    bool whole = read_head(opened, &found, &ignored, &about);
    if (whole && !checkpoint->attempt) as_borrowed(&found, checkpoint->job);
    if (!whole || memcmp(&found, checkpoint, sizeof found) != 0) {
        close(opened);
        return error_set(error, STATUS_CORRUPT, "the file is damaged: its head does not fit");
    }
    *file = opened;
    return STATUS_OK;
}

status_t vaultfile_read(int root, const struct checkpoint *checkpoint, uint64_t offset, void *data,
                        size_t bytes, struct error *error)
{
    int file = -1;
    status_t status = open_checkpoint(root, checkpoint, &file, error);
    if (status != STATUS_OK) return status;
    status = file_read(file, VAULTFILE_HEAD_BYTES + offset, data, bytes, error);
    close(file);
    return status;
}

status_t vaultfile_verify(int root, const struct checkpoint *checkpoint, void *buffer, size_t bytes,
                          struct error *error)
{
    int file = -1;
    status_t status = open_checkpoint(root, checkpoint, &file, error);
    if (status != STATUS_OK) return status;
    XXH64_state_t *hash = XXH64_createState();
    if (!hash) status = error_set(error, STATUS_NO_MEMORY, "no memory to read the file");
    if (hash) XXH64_reset(hash, 0);
    for (uint64_t at = 0; status == STATUS_OK && at < checkpoint->bytes; at += bytes) {
        size_t piece = checkpoint->bytes - at < bytes ? (size_t)(checkpoint->bytes - at) : bytes;
        status = file_read(file, VAULTFILE_HEAD_BYTES + at, buffer, piece, error);
        if (status == STATUS_OK) XXH64_update(hash, buffer, piece);
    }
    if (status == STATUS_OK && XXH64_digest(hash) != checkpoint->xxh64)
        status = error_set(error, STATUS_CORRUPT, "the file is damaged: its hash is another");
    XXH64_freeState(hash);
    close(file);
    return status;
}

/* ----------------------------------------------------------------------------------------------- removing */

void vaultfile_remove(int root, const struct checkpoint *checkpoint)
{
    char path[NAME_BYTES];
    path_below_root(checkpoint, path);
    if (unlinkat(root, path, 0) != 0 && errno != ENOENT)
        log_line(LOG_WARN, "checkpoint %s cannot be removed: %m", path);
}

/* STEP-ATTEMPT, with or without a dot before it: a file of ours. */
static bool ours(const char *name)
{
    if (*name == '.') name++;
    size_t step = strspn(name, "0123456789");
    if (step == 0 || name[step] != '-') return false;
    size_t attempt = strspn(name + step + 1, "0123456789");
    return attempt > 0 && name[step + 1 + attempt] == '\0';
}

/* The job that a directory below root is for; 0: for none. */
static uint64_t job_of(const char *name)
{
    char again[NAME_BYTES];
    uint64_t job = strtoull(name, NULL, 10);
    snprintf(again, sizeof again, "%" PRIu64, job);
    return job <= INT64_MAX && strcmp(name, again) == 0 ? job : 0;
}

static DIR *open_job(int root, const char *name)
{
    int descriptor = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = descriptor >= 0 ? fdopendir(descriptor) : NULL;
    if (descriptor >= 0 && !directory) close(descriptor);
    return directory;
}

void vaultfile_remove_job(int root, uint64_t job)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%" PRIu64, job);
    DIR *directory = open_job(root, name);
    if (!directory) return; /* it never had any */
    for (struct dirent *entry; (entry = readdir(directory));)
        if (ours(entry->d_name)) unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
    unlinkat(root, name, AT_REMOVEDIR); /* unless something else is in it */
}

/* ----------------------------------------------------------------------------------------------- scanning */

/* True: `name` in the job's directory is whole and says so itself. */
static bool check_file(int directory, uint64_t job, const char *name, struct checkpoint *checkpoint,
                       struct run_point *point, int64_t *made_ns)
{
    char expected[NAME_BYTES];
    struct stat about;
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    bool fits = read_head(file, checkpoint, point, &about);
    close(file);
    if (!fits) return false;
    if (checkpoint->job != job) as_borrowed(checkpoint, job);
    hidden_name(checkpoint, expected);
    if (strcmp(name, expected + 1) != 0) return false;
    *made_ns = (int64_t)about.st_mtim.tv_sec * 1000000000 + about.st_mtim.tv_nsec;
    return true;
}

static status_t scan_job(int root, const char *name, uint64_t job,
                         status_t (*found)(void *context, const struct checkpoint *checkpoint,
                                           const struct run_point *point, int64_t made_ns),
                         void *context)
{
    status_t status = STATUS_OK;
    DIR *directory = open_job(root, name);
    if (!directory) return STATUS_OK; /* a file by that name: not ours */
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(directory));) {
        struct checkpoint checkpoint;
        struct run_point point;
        int64_t made_ns;
        if (!ours(entry->d_name)) continue;
        if (*entry->d_name != '.' &&
            check_file(dirfd(directory), job, entry->d_name, &checkpoint, &point, &made_ns)) {
            status = found(context, &checkpoint, &point, made_ns);
            continue;
        }
        if (*entry->d_name != '.')
            log_line(LOG_WARN, "checkpoint %s/%s is damaged and removed", name, entry->d_name);
        unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
    unlinkat(root, name, AT_REMOVEDIR); /* if it is empty */
    return status;
}

status_t vaultfile_scan(int root,
                        status_t (*found)(void *context, const struct checkpoint *checkpoint,
                                          const struct run_point *point, int64_t made_ns),
                        void *context, struct error *error)
{
    status_t status = STATUS_OK;
    DIR *directory = open_job(root, ".");
    if (!directory) return error_set(error, STATUS_IO, "checkpoints: their directory cannot be read: %m");
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(directory));) {
        uint64_t job = job_of(entry->d_name);
        if (job && (status = scan_job(root, entry->d_name, job, found, context)) != STATUS_OK)
            error_set(error, status, "checkpoints: no memory for what is in their directory");
    }
    closedir(directory);
    return status;
}
