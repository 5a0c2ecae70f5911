/* scratch.c - see scratch.h. Main thread, before and after everything else. */
#include "base/scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    remove(path);
    return 0;
}

void scratch_remove(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

enum { MOST_TRIES = 10 };

/* The lock a living owner holds on its directory; -1: somebody else has it, or it is no directory. */
static int take(const char *path)
{
    int lock = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) return lock;
    if (lock >= 0) close(lock);
    return -1;
}

/* Only directories of our own user that nobody holds. A process number would not do to tell: numbers come again, and
 * containers that share the parent each have their own. */
static void sweep(const char *parent, const char *program)
{
    size_t length = strlen(program);
    DIR *directory = opendir(parent);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char path[SCRATCH_PATH_BYTES + 300];
        struct stat status;
        if (strncmp(entry->d_name, program, length) != 0 || entry->d_name[length] != '-') continue;
        snprintf(path, sizeof path, "%s/%s", parent, entry->d_name);
        if (lstat(path, &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != geteuid()) continue;
        int lock = take(path);
        if (lock < 0) continue;
        scratch_remove(path);
        close(lock);
    }
    if (directory) closedir(directory);
}

/* Between making and locking it another program's sweep may have taken it for an old one. */
static status_t make(struct scratch *scratch, struct error *error)
{
    struct stat held, named;
    if (!mkdtemp(scratch->path)) return error_set(error, STATUS_IO, "%s: cannot be made: %m", scratch->path);
    scratch->lock = take(scratch->path);
    if (scratch->lock < 0) return STATUS_AGAIN;
    if (fstat(scratch->lock, &held) == 0 && stat(scratch->path, &named) == 0 && held.st_ino == named.st_ino)
        return STATUS_OK;
    close(scratch->lock);
    return STATUS_AGAIN;
}

status_t scratch_open(const char *parent, const char *program, struct scratch *scratch, struct error *error)
{
    struct scratch made;
    status_t status = STATUS_AGAIN;
    sweep(parent, program);
    for (int tries = 0; status == STATUS_AGAIN && tries < MOST_TRIES; tries++) {
        int length =
            snprintf(made.path, sizeof made.path, "%s/%s-%ld-XXXXXX", parent, program, (long)getpid());
        if (length < 0 || (size_t)length >= sizeof made.path)
            return error_set(error, STATUS_INVALID, "scratch directory: the path is longer than %d bytes",
                             SCRATCH_PATH_BYTES);
        status = make(&made, error);
    }
    if (status == STATUS_AGAIN) error_set(error, STATUS_IO, "%s: nothing in it can be locked", parent);
    if (status == STATUS_OK) *scratch = made;
    return status == STATUS_AGAIN ? STATUS_IO : status;
}

void scratch_close(struct scratch *scratch)
{
    if (!scratch->path[0]) return;
    scratch_remove(scratch->path);
    close(scratch->lock);
    scratch->path[0] = 0;
}
