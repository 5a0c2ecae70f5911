/* litter.c - see litter.h. Main thread. */
#include "cluster/launcher/litter.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/scratch.h"

enum { YOUNG_SECONDS = 60, NAME_BYTES = 600 };

static const char shared[] = "/dev/shm";

static bool maps_name(const char *pid, const char *path)
{
    char file[300], line[4096 + 256];
    bool found = false;
    snprintf(file, sizeof file, "/proc/%s/maps", pid);
    FILE *maps = fopen(file, "re");
    while (maps && !found && fgets(line, sizeof line, maps)) found = strstr(line, path) != NULL;
    if (maps) fclose(maps);
    return found;
}

/* Yes also when it cannot be known. */
static bool is_mapped(const char *path)
{
    bool found = false;
    DIR *processes = opendir("/proc");
    if (!processes) return true;
    for (struct dirent *entry; !found && (entry = readdir(processes));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') found = maps_name(entry->d_name, path);
    closedir(processes);
    return found;
}

static bool is_old_and_ours(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
           time(NULL) - status.st_mtime > YOUNG_SECONDS;
}

static void sweep_shared_memory(void)
{
    char host[256] = "", prefix[NAME_BYTES], path[NAME_BYTES + 64];
    gethostname(host, sizeof host - 1);
    snprintf(prefix, sizeof prefix, "vader_segment.%s.%u.", host, (unsigned)geteuid());
    DIR *directory = opendir(shared);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", shared, entry->d_name);
        if (is_old_and_ours(path) && !is_mapped(path)) unlink(path);
    }
    closedir(directory);
}

/* Where mpirun keeps its sessions unless it is told otherwise. False: the path does not fit. */
static bool name_sessions(char path[NAME_BYTES])
{
    static const char *const names[] = {"TMPDIR", "TEMP", "TMP"}; /* the order Open MPI asks in */
    const char *parent = NULL;
    char host[256] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names && !parent; i++) parent = getenv(names[i]);
    gethostname(host, sizeof host - 1);
    host[strcspn(host, ".")] = '\0'; /* Open MPI leaves the domain away */
    int length =
        snprintf(path, NAME_BYTES, "%s/ompi.%s.%u", parent ? parent : "/tmp", host, (unsigned)geteuid());
    return length > 0 && length < NAME_BYTES;
}

void litter_session(pid_t pid)
{
    char sessions[NAME_BYTES], path[NAME_BYTES + 64];
    if (!name_sessions(sessions)) return;
    snprintf(path, sizeof path, "%s/pid.%ld", sessions, (long)pid);
    scratch_remove(path);
    rmdir(sessions); /* fails while somebody else's is in it */
}

static void sweep_sessions(void)
{
    char sessions[NAME_BYTES];
    DIR *directory = name_sessions(sessions) ? opendir(sessions) : NULL;
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        if (strncmp(entry->d_name, "pid.", 4) != 0) continue;
        long pid = strtol(entry->d_name + 4, &end, 10);
        if (!*end && pid > 1 && kill((pid_t)pid, 0) != 0 && errno == ESRCH) litter_session((pid_t)pid);
    }
    closedir(directory);
}

void litter_sweep(void)
{
    sweep_shared_memory();
    sweep_sessions();
}
