/* census.c - see census.h. */
#include "cluster/launcher/census.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_STEP = 16 << 10, READ_LIMIT = 2 << 20 };

/* A file of /proc/PID: texts, each with its zero byte, and one more zero byte at the end. NULL: it cannot be
 * read, as of another user's process, or one that ended. */
static char *read_texts(const char *pid, const char *file)
{
    char path[300], *texts = NULL;
    size_t held = 0, room = 0;
    snprintf(path, sizeof path, "/proc/%s/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    for (;;) {
        if (room - held < READ_STEP) {
            char *grown = held < READ_LIMIT ? realloc(texts, room + 2 * READ_STEP) : NULL;
            if (!grown) break;
            texts = grown;
            room += 2 * READ_STEP;
        }
        ssize_t got = read(fd, texts + held, READ_STEP - 2);
        if (got <= 0) break;
        held += (size_t)got;
    }
    close(fd);
    if (texts) texts[held] = texts[held + 1] = '\0';
    return texts;
}

/* The text after the one that is `name`; NULL without. */
static const char *argument_of(const char *texts, const char *name)
{
    for (const char *at = texts; *at; at += strlen(at) + 1)
        if (strcmp(at, name) == 0) return at[strlen(at) + 1] ? at + strlen(at) + 1 : NULL;
    return NULL;
}

/* The value in "NAME=VALUE"; name with its '='. */
static const char *value_of(const char *texts, const char *name)
{
    for (const char *at = texts; *at; at += strlen(at) + 1)
        if (strncmp(at, name, strlen(name)) == 0) return at + strlen(name);
    return NULL;
}

/* mpirun itself has the same words on its command line, but no rank. */
static bool is_rank(const char *pid, const char *group, int first, int count)
{
    char *arguments = read_texts(pid, "cmdline"), *environment = NULL;
    const char *named = arguments ? argument_of(arguments, "--group") : NULL;
    bool is = named && strcmp(named, group) == 0 && (environment = read_texts(pid, "environ"));
    const char *given = is ? value_of(environment, "OMPI_COMM_WORLD_RANK=") : NULL;
    const char *seat = is ? argument_of(arguments, "--seat") : NULL;
    int rank = given ? atoi(given) + (seat ? atoi(seat) : 0) : -1;
    free(arguments);
    free(environment);
    return rank >= first && rank < first + count;
}

/* Signal 0 only counts. */
static int signal_ranks(const char *group, int first, int count, int number)
{
    int found = 0;
    DIR *processes = opendir("/proc");
    if (!processes) return 0;
    for (struct dirent *entry; (entry = readdir(processes));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !is_rank(entry->d_name, group, first, count))
            continue;
        found += kill((pid_t)atol(entry->d_name), number) == 0;
    }
    closedir(processes);
    return found;
}

int census_kill(const char *group, int first, int count)
{
    return signal_ranks(group, first, count, SIGKILL);
}

int census_count(const char *group, int first, int count)
{
    return signal_ranks(group, first, count, 0);
}
