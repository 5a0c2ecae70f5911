/* litter.c - see litter.h. Main thread, before anything is started. */
#include "cluster/launcher/litter.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

void litter_sweep(void)
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
