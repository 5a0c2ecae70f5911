/*
 * fuzz_stored.c - libFuzzer over what lies on disk between two runs of a program, and over the names of it that travel: an
 * item's file of the cache tier's disk level, a checkpoint's of the vault, keys, the fabric's envelopes.
 *
 * The lowest bits of the first byte choose, the rest is the file. Bit 2 gives its head the hash that it should have, so that
 * mutations reach what lies beyond that check.
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "cache/tier/disk.h"
#include "cache/tier/store.h"
#include "cluster/envelope.h"
#include "coordinator/vault/vaultfile.h"

#include <fcntl.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_BYTES = 96, HASHED_BYTES = 88, SERIAL_AT = 12, KEY_AT = 16, PATH_BYTES = 256, PIECE = 100 };
_Static_assert((int)HEAD_BYTES == (int)DISK_HEAD_BYTES && (int)HEAD_BYTES == (int)VAULTFILE_HEAD_BYTES, "");

static char directory[] = "/tmp/refrain-fuzz-XXXXXX";

static void clean_up(void)
{
    rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    return mkdtemp(directory) ? atexit(clean_up) : -1;
}

static void put(const char *folder, const char *path, const uint8_t *data, size_t size)
{
    FILE *file = mkdir(folder, 0700) == 0 ? fopen(path, "w") : NULL;
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

/* ------------------------------------------------------------------------------------------------- an item */

static struct key found;

static void note(void *context, const struct store_entry *entry)
{
    if (!isfinite(entry->seconds) || entry->seconds < 0) abort(); /* what goes first is decided by it */
    found = entry->key;
    ++*(int *)context;
}

/* An item that the store believes in can be had, or is found out when its bytes are read. */
static void use_store(void)
{
    struct store_config config = {
        .limit_bytes = {[LEVEL_HOST] = 1 << 17, [LEVEL_DISK] = 1 << 20}, .items = 16, .directory = directory};
    struct store *store;
    struct error error = {0};
    struct view view;
    int count = 0;
    if (store_open(&config, &store, &error) != STATUS_OK) abort();
    store_list(store, &(struct store_match){0}, note, &count);
    if (count && store_get(store, &found, LEVEL_HOST, &view, NULL) == STATUS_OK) {
        if (XXH3_64bits(view.bytes, view.size) != view.xxh3) abort();
        store_release(store, &view);
    }
    store_forget(store, &(struct store_match){0});
    store_close(store);
}

static void try_item(uint8_t *file, size_t size, bool forge)
{
    struct key key = {.tenant = 1, .format = KEY_FORMAT};
    uint32_t serial = 0;
    char name[KEY_LETTERS], folder[PATH_BYTES], path[2 * PATH_BYTES];
    if (size >= HEAD_BYTES) {
        memcpy(&serial, file + SERIAL_AT, sizeof serial);
        if (key_decode(file + KEY_AT, &key, NULL) != STATUS_OK) serial = 0;
    }
    if (forge) {
        uint64_t hash = XXH3_64bits(file, HASHED_BYTES);
        memcpy(file + HASHED_BYTES, &hash, sizeof hash);
    }
    key_write(&key, name);
    snprintf(folder, sizeof folder, "%s/%02x", directory, (unsigned)(key.high >> 56));
    snprintf(path, sizeof path, "%s/%s.%08" PRIx32, folder, name, serial);
    put(folder, path, file, size);
    use_store();
    unlink(path);
    if (rmdir(folder) != 0) abort(); /* nothing else is left */
}

/* ------------------------------------------------------------------------------------------- a checkpoint */

static struct checkpoint kept;

static status_t keep(void *context, const struct checkpoint *checkpoint, const struct run_point *point,
                     int64_t made_ns)
{
    kept = *checkpoint;
    ++*(int *)context;
    return STATUS_OK;
}

static void try_checkpoint(uint8_t *file, size_t size, bool forge)
{
    static uint8_t buffer[PIECE];
    struct error error = {0};
    char folder[PATH_BYTES], path[2 * PATH_BYTES];
    int count = 0, root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (forge) {
        uint64_t hash = XXH64(file, HASHED_BYTES, 0);
        memcpy(file + HASHED_BYTES, &hash, sizeof hash);
    }
    snprintf(folder, sizeof folder, "%s/7", directory);
    snprintf(path, sizeof path, "%s/3-1", folder);
    put(folder, path, file, size);
    if (root < 0 || vaultfile_scan(root, keep, &count, &error) != STATUS_OK) abort();
    if (count) {
        if (kept.job != 7 || kept.step != 3 || kept.attempt != 1 || kept.bytes != size - HEAD_BYTES) abort();
        vaultfile_verify(root, &kept, buffer, sizeof buffer, &error);
        vaultfile_remove(root, &kept);
        rmdir(folder);
    }
    if (access(folder, F_OK) == 0) abort(); /* nothing is left of one that is no use */
    close(root);
}

/* --------------------------------------------------------------------------------------------------- names */

static void try_text(const uint8_t *data, size_t size)
{
    char text[PATH_BYTES], again[KEY_LETTERS];
    struct key key;
    if (size >= sizeof text) return;
    memcpy(text, data, size);
    text[size] = 0;
    if (key_read(text, &key, NULL) != STATUS_OK) return;
    key_write(&key, again);
    if (strcasecmp(again, text) != 0) abort();
}

static void try_wire(const uint8_t *data, size_t size)
{
    struct envelope envelope;
    struct key key;
    uint8_t again[ENVELOPE_BYTES];
    if (envelope_decode(data, size, &envelope)) {
        envelope_encode(&envelope, again);
        if (memcmp(again, data, sizeof again) != 0) abort();
    }
    if (size < KEY_BYTES || key_decode(data, &key, NULL) != STATUS_OK) return;
    key_encode(&key, again);
    if (memcmp(again, data, KEY_BYTES) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    uint8_t *file = malloc(size);
    if (!file) abort();
    memcpy(file, data + 1, --size);
    bool forge = (data[0] & 4) && size >= HEAD_BYTES;
    switch (data[0] & 3) {
    case 0:
        try_item(file, size, forge);
        break;
    case 1:
        try_checkpoint(file, size, forge);
        break;
    case 2:
        try_text(file, size);
        break;
    default:
        try_wire(file, size);
    }
    free(file);
    return 0;
}
