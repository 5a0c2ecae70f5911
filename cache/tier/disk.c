/* disk.c - see disk.h. */
#include "cache/tier/disk.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/file.h"
#include "base/log.h"

enum { NAME_BYTES = KEY_LETTERS + 16, PATH_BYTES = NAME_BYTES + 8, FACTS_BYTES = 88, DIRECTORIES = 256 };

static const char magic[8] = "refitem\x1a"; /* the last byte: no text file begins like that */

/* In front of the item's bytes; little-endian. */
struct head {
    char magic[8];
    uint32_t version, serial;
    uint8_t key[KEY_BYTES];
    uint64_t bytes, xxh3; /* of what follows */
    uint64_t seconds;     /* the bits of a double */
    uint64_t made_ms, spare;
    uint64_t own; /* XXH3 of the FACTS_BYTES above */
};
_Static_assert(sizeof(struct head) == DISK_HEAD_BYTES, "the head has no gaps");
_Static_assert(offsetof(struct head, own) == FACTS_BYTES, "all but the last is hashed");

/* --------------------------------------------------------------------------------------------------- names */

/* "<xx>/": one of 256 directories, by the key. */
static unsigned directory_of(const struct key *key)
{
    return (unsigned)(key->high >> 56);
}

static void write_name(const struct disk_item *item, char name[NAME_BYTES])
{
    char key[KEY_LETTERS];
    key_write(&item->key, key);
    snprintf(name, NAME_BYTES, "%s.%08" PRIx32, key, item->serial);
}

static void write_path(const struct disk_item *item, bool hidden, char path[PATH_BYTES])
{
    char name[NAME_BYTES];
    write_name(item, name);
    snprintf(path, PATH_BYTES, "%02x/%s%s", directory_of(&item->key), hidden ? "." : "", name);
}

/* KIND-TENANT-DIGEST.SERIAL, without the dot before it: a file of ours, whatever its version. */
static bool ours(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz-", digits[] = "0123456789abcdef";
    if (*name == '.') name++;
    const char *serial = strrchr(name, '.');
    if (!serial || serial - name < 51 || serial - name >= KEY_LETTERS || strspn(serial + 1, digits) != 8 ||
        serial[9])
        return false;
    const char *digest = serial - 32, *tenant = digest - 17;
    return strspn(digest, digits) == 32 && digest[-1] == '-' && strspn(tenant, digits) == 16 &&
           tenant[-1] == '-' && strspn(name, letters) >= (size_t)(tenant - name);
}

/* --------------------------------------------------------------------------------------------------- heads */

static struct head make_head(const struct disk_item *item)
{
    struct head head = {.version = htole32(DISK_VERSION),
                        .serial = htole32(item->serial),
                        .bytes = htole64(item->bytes),
                        .xxh3 = htole64(item->xxh3),
                        .made_ms = htole64((uint64_t)item->made_ms)};
    uint64_t seconds;
    memcpy(&seconds, &item->seconds, sizeof seconds);
    memcpy(head.magic, magic, sizeof magic);
    key_encode(&item->key, head.key);
    head.seconds = htole64(seconds);
    head.own = htole64(XXH3_64bits(&head, FACTS_BYTES));
    return head;
}

/* STATUS_UNSUPPORTED: of another version. */
static status_t read_head(int file, struct disk_item *item, struct error *error)
{
    struct head head;
    struct stat about;
    status_t status = file_read(file, 0, &head, sizeof head, error);
    if (status != STATUS_OK) return status;
    if (memcmp(head.magic, magic, sizeof magic) != 0)
        return error_set(error, STATUS_CORRUPT, "the file is damaged: it does not begin as ours do");
    if (le32toh(head.version) != DISK_VERSION)
        return error_set(error, STATUS_UNSUPPORTED,
                         "the file is of version %" PRIu32 ", this program's is %d", le32toh(head.version),
                         DISK_VERSION);
    if (le64toh(head.own) != XXH3_64bits(&head, FACTS_BYTES))
        return error_set(error, STATUS_CORRUPT, "the file is damaged: its head does not fit itself");
    uint64_t seconds = le64toh(head.seconds);
    struct disk_item found = {.serial = le32toh(head.serial),
                              .bytes = le64toh(head.bytes),
                              .xxh3 = le64toh(head.xxh3),
                              .made_ms = (int64_t)le64toh(head.made_ms)};
    memcpy(&found.seconds, &seconds, sizeof seconds);
    if (key_decode(head.key, &found.key, error) != STATUS_OK)
        return error_set(error, STATUS_UNSUPPORTED,
                         "the file is of another version: its key is none of ours");
    if (fstat(file, &about) != 0 || (uint64_t)about.st_size != DISK_HEAD_BYTES + found.bytes)
        return error_set(error, STATUS_CORRUPT, "the file is damaged: it is cut off");
    *item = found;
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------- opening and closing */

status_t disk_open(const char *directory, struct disk *disk, struct error *error)
{
    if (mkdir(directory, 0700) != 0 && errno != EEXIST)
        return error_set(error, STATUS_IO, "%s: the directory for the cache cannot be made: %m", directory);
    int root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return error_set(error, STATUS_IO, "%s: the directory for the cache cannot be opened: %m", directory);
    if (flock(root, LOCK_EX | LOCK_NB) != 0) {
        close(root);
        return error_set(error, STATUS_CONFLICT, "%s: another process keeps its cache there", directory);
    }
    disk->root = root;
    return STATUS_OK;
}

void disk_close(struct disk *disk)
{
    if (disk->root >= 0) close(disk->root);
    disk->root = -1;
}

/* ----------------------------------------------------------------------------------------- one item's file */

static int create(const struct disk *disk, const struct disk_item *item, const char *path)
{
    char directory[8];
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, file = openat(disk->root, path, flags, 0600);
    if (file >= 0 || errno != ENOENT) return file;
    snprintf(directory, sizeof directory, "%02x", directory_of(&item->key));
    if (mkdirat(disk->root, directory, 0700) != 0 && errno != EEXIST) return -1;
    return openat(disk->root, path, flags, 0600);
}

status_t disk_write(const struct disk *disk, const struct disk_item *item, const void *bytes,
                    struct error *error)
{
    char hidden[PATH_BYTES], path[PATH_BYTES];
    struct head head = make_head(item);
    struct iovec parts[] = {{&head, sizeof head}, {(void *)(uintptr_t)bytes, item->bytes}};
    write_path(item, true, hidden);
    write_path(item, false, path);
    int file = create(disk, item, hidden);
    if (file < 0)
        return error_set(error, STATUS_IO,
                         errno == ENOSPC ? "the disk is full" : "the file cannot be made: %m");
    status_t status = file_write(file, parts, 2, 0, error);
    if (close(file) != 0 && status == STATUS_OK)
        status = error_set(error, STATUS_IO, "the file cannot be written: %m");
    if (status == STATUS_OK && renameat(disk->root, hidden, disk->root, path) != 0)
        status = error_set(error, STATUS_IO, "the file cannot be given its name: %m");
    if (status != STATUS_OK) unlinkat(disk->root, hidden, 0);
    return status;
}

static bool same_item(const struct disk_item *a, const struct disk_item *b)
{
    return key_equal(&a->key, &b->key) && a->bytes == b->bytes && a->xxh3 == b->xxh3 &&
           a->serial == b->serial;
}

status_t disk_read(const struct disk *disk, const struct disk_item *item, void *bytes, struct error *error)
{
    char path[PATH_BYTES];
    struct disk_item found = {0};
    write_path(item, false, path);
    int file = openat(disk->root, path, O_RDONLY | O_CLOEXEC);
    if (file < 0 && errno == ENOENT) return error_set(error, STATUS_NOT_FOUND, "the file is gone");
    if (file < 0) return error_set(error, STATUS_IO, "the file cannot be opened: %m");
    status_t status = read_head(file, &found, error);
    if (status == STATUS_UNSUPPORTED) status = STATUS_CORRUPT; /* it was written by this program */
    if (status == STATUS_OK && !same_item(&found, item))
        status = error_set(error, STATUS_CORRUPT, "the file is damaged: it is another item's");
    if (status == STATUS_OK) status = file_read(file, DISK_HEAD_BYTES, bytes, item->bytes, error);
    if (status == STATUS_OK && XXH3_64bits(bytes, item->bytes) != item->xxh3)
        status = error_set(error, STATUS_CORRUPT, "the file is damaged: its hash is another");
    close(file);
    return status;
}

void disk_remove(const struct disk *disk, const struct disk_item *item)
{
    char path[PATH_BYTES];
    write_path(item, false, path);
    if (unlinkat(disk->root, path, 0) != 0 && errno != ENOENT)
        log_line(LOG_WARN, "cache file %s cannot be removed: %m", path);
}

/* ------------------------------------------------------------------------------------------------ scanning */

static status_t scan_file(int directory, unsigned number, const char *name, struct disk_item *item)
{
    char expected[NAME_BYTES];
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) return STATUS_CORRUPT;
    status_t status = read_head(file, item, NULL);
    close(file);
    if (status != STATUS_OK) return status;
    write_name(item, expected);
    return strcmp(name, expected) == 0 && directory_of(&item->key) == number ? STATUS_OK : STATUS_CORRUPT;
}

static status_t scan_directory(DIR *directory, unsigned number,
                               status_t (*found)(void *context, const struct disk_item *item), void *context,
                               struct disk_swept *swept)
{
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct disk_item item;
        if (!ours(entry->d_name)) continue;
        status_t status = *entry->d_name == '.' ? STATUS_ABORTED
                                                : scan_file(dirfd(directory), number, entry->d_name, &item);
        if (status == STATUS_OK) {
            if ((status = found(context, &item)) != STATUS_OK) return status;
            continue;
        }
        *(status == STATUS_ABORTED       ? &swept->unfinished
          : status == STATUS_UNSUPPORTED ? &swept->other_version
                                         : &swept->damaged) += 1;
        unlinkat(dirfd(directory), entry->d_name, 0);
    }
    return STATUS_OK;
}

status_t disk_scan(const struct disk *disk, status_t (*found)(void *context, const struct disk_item *item),
                   void *context, struct disk_swept *swept, struct error *error)
{
    *swept = (struct disk_swept){0};
    for (unsigned number = 0; number < DIRECTORIES; number++) {
        char name[8];
        snprintf(name, sizeof name, "%02x", number);
        int opened = openat(disk->root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        DIR *directory = opened >= 0 ? fdopendir(opened) : NULL;
        if (!directory) {
            if (opened >= 0) close(opened);
            continue; /* nothing was ever kept there, or it is not ours */
        }
        status_t status = scan_directory(directory, number, found, context, swept);
        closedir(directory);
        if (status != STATUS_OK)
            return error_set(error, status, "the cache's directory: no memory for what is in it");
    }
    return STATUS_OK;
}
