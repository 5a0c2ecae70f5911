/* scratch.c - see scratch.h. Main thread, before and after everything else. */
#include "base/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* Only directories of our own user whose process is gone. */
static void sweep(const char *parent, const char *program)
{
    size_t length = strlen(program);
    DIR *directory = opendir(parent);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char path[SCRATCH_PATH_BYTES + 300], *end;
        struct stat status;
        if (strncmp(entry->d_name, program, length) != 0 || entry->d_name[length] != '-') continue;
        long pid = strtol(entry->d_name + length + 1, &end, 10);
        if (*end || pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH) continue;
        snprintf(path, sizeof path, "%s/%s", parent, entry->d_name);
        if (lstat(path, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid())
            scratch_remove(path);
    }
    if (directory) closedir(directory);
}

status_t scratch_open(const char *parent, const char *program, struct scratch *scratch, struct error *error)
{
    struct scratch s;
    sweep(parent, program);
    int length = snprintf(s.path, sizeof s.path, "%s/%s-%ld", parent, program, (long)getpid());
    if (length < 0 || (size_t)length >= sizeof s.path)
        return error_set(error, STATUS_INVALID, "scratch directory: the path is longer than %d bytes",
                         SCRATCH_PATH_BYTES);
    if (mkdir(s.path, 0700) != 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", s.path);
    *scratch = s;
    return STATUS_OK;
}

void scratch_close(struct scratch *scratch)
{
    if (scratch->path[0]) scratch_remove(scratch->path);
    scratch->path[0] = 0;
}
