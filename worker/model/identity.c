/* identity.c - see identity.h. */
#include "worker/model/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PIECE_BYTES = 64 << 10, HEAD_MAX = 100 << 20 /* as safetensors limits it */ };

static void put(XXH3_state_t *hash, const void *bytes, size_t count)
{
    XXH3_64bits_update(hash, bytes, count);
}

/* The file's first `bytes`, or all of it if it is shorter. */
static bool put_content(XXH3_state_t *hash, int file, uint64_t bytes)
{
    uint8_t piece[PIECE_BYTES];
    ssize_t got = 1;
    for (uint64_t at = 0; at < bytes && got > 0; at += (uint64_t)got) {
        size_t want = bytes - at < sizeof piece ? (size_t)(bytes - at) : sizeof piece;
        got = pread(file, piece, want, (off_t)at);
        if (got > 0) put(hash, piece, (size_t)got);
    }
    return got >= 0;
}

/* A safetensors file begins with the length of its head, little-endian; see safetensors.h. */
static bool put_weights(XXH3_state_t *hash, int file, const struct stat *about)
{
    uint8_t length[8];
    uint64_t head = 0;
    const int64_t facts[] = {about->st_size, about->st_mtim.tv_sec, about->st_mtim.tv_nsec};
    put(hash, facts, sizeof facts);
    if (pread(file, length, sizeof length, 0) != (ssize_t)sizeof length) return false;
    for (int i = 0; i < 8; i++) head |= (uint64_t)length[i] << (8 * i);
    return head <= HEAD_MAX && put_content(hash, file, sizeof length + head);
}

static bool put_file(XXH3_state_t *hash, int directory, const char *name)
{
    static const char weights[] = ".safetensors";
    struct stat about;
    size_t length = strlen(name);
    bool ends = length > strlen(weights) && strcmp(name + length - strlen(weights), weights) == 0,
         fine = false;
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    if (fstat(file, &about) == 0) {
        put(hash, name, length + 1);
        fine = S_ISDIR(about.st_mode) || /* nothing is read from deeper folders */
               (ends ? put_weights(hash, file, &about) : put_content(hash, file, UINT64_MAX));
    }
    close(file);
    return fine;
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static bool put_part(XXH3_state_t *hash, const char *path)
{
    struct dirent **names;
    int count = scandir(path, &names, is_visible, alphasort);
    if (count < 0) return true; /* it is not there */
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool fine = directory >= 0;
    for (int i = 0; i < count; i++) {
        fine = fine && put_file(hash, directory, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    if (directory >= 0) close(directory);
    return fine;
}

uint64_t identity_of(const char *directory, const char *const *parts)
{
    char path[PATH_MAX];
    bool fine = true;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return 0;
    XXH3_64bits_reset(hash);
    for (; *parts && fine; parts++) {
        fine = (size_t)snprintf(path, sizeof path, "%s/%s", directory, *parts) < sizeof path;
        put(hash, *parts, strlen(*parts) + 1);
        fine = fine && put_part(hash, path);
    }
    uint64_t identity = fine ? XXH3_64bits_digest(hash) | 1 : 0;
    XXH3_freeState(hash);
    return identity;
}
