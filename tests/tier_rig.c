/* tier_rig.c - see tier_rig.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "tests/tier_rig.h"

/* -------------------------------------------------------------------------------------------------- device */

static status_t device_allocate(void *context, size_t bytes, void **arena, struct error *error)
{
    struct tier_device *device = context;
    int file = memfd_create("device", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(ftruncate(file, (off_t)bytes), 0);
    device->shadow = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    device->arena = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, file, 0);
    assert_true(device->shadow != MAP_FAILED && device->arena != MAP_FAILED);
    close(file);
    *arena = device->arena;
    return STATUS_OK;
}

static void device_release(void *context, void *arena, size_t bytes)
{
    struct tier_device *device = context;
    assert_ptr_equal(arena, device->arena);
    munmap(device->shadow, bytes);
    munmap(device->arena, bytes);
}

static char *shadow_of(const struct tier_device *device, const void *arena_bytes)
{
    return (char *)device->shadow + ((const char *)arena_bytes - (const char *)device->arena);
}

static status_t device_from_host(void *context, void *arena_bytes, const void *host, size_t bytes,
                                 struct error *error)
{
    struct tier_device *device = context;
    device->copies++;
    if (device->fails) return error_set(error, STATUS_IO, "the device does not answer");
    memcpy(shadow_of(device, arena_bytes), host, bytes);
    return STATUS_OK;
}

static status_t device_to_host(void *context, void *host, const void *arena_bytes, size_t bytes,
                               struct error *error)
{
    struct tier_device *device = context;
    device->copies++;
    if (device->fails) return error_set(error, STATUS_IO, "the device does not answer");
    memcpy(host, shadow_of(device, arena_bytes), bytes);
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------------- store */

static int64_t rig_now(void *clock)
{
    return __atomic_load_n(&((struct tier_rig *)clock)->now_ns, __ATOMIC_RELAXED);
}

static void open_store(struct tier_rig *rig)
{
    struct error error = {0};
    status_t status = store_open(&rig->config, &rig->store, &error);
    if (status != STATUS_OK) fail_msg("store_open: %s", error.text);
}

void tier_rig_open(struct tier_rig *rig)
{
    struct error error = {0};
    rig->memory = (struct level_memory){.context = &rig->device,
                                        .allocate = device_allocate,
                                        .release = device_release,
                                        .from_host = device_from_host,
                                        .to_host = device_to_host};
    rig->config.device = &rig->memory;
    rig->config.now_ns = rig_now;
    rig->config.clock = rig;
    if (!rig->config.limit_bytes[LEVEL_HOST]) rig->config.limit_bytes[LEVEL_HOST] = 1 << 20;
    if (scratch_open("/tmp", "refrain-test-tier", &rig->scratch, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    snprintf(rig->items, sizeof rig->items, "%s/items", rig->scratch.path);
    rig->config.directory = rig->items;
    open_store(rig);
}

void tier_rig_reopen(struct tier_rig *rig)
{
    store_close(rig->store);
    open_store(rig);
}

void tier_rig_close(struct tier_rig *rig)
{
    struct store_stats stats;
    store_stats(rig->store, NULL, &stats);
    assert_int_equal(stats.drafts, 0);
    assert_int_equal(stats.views, 0);
    store_close(rig->store);
    scratch_close(&rig->scratch);
}

void tier_rig_sleep(struct tier_rig *rig, double seconds)
{
    __atomic_fetch_add(&rig->now_ns, (int64_t)(seconds * 1e9), __ATOMIC_RELAXED);
}

/* --------------------------------------------------------------------------------------------------- items */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ x >> 27) * UINT64_C(0x81dadef4bc2dd44d);
    return x ^ x >> 33;
}

struct key tier_rig_key(uint64_t number, enum item_kind kind, uint64_t tenant)
{
    return (struct key){.tenant = tenant,
                        .low = mix(number + 1),
                        .high = mix(number + 1000003),
                        .kind = kind,
                        .format = KEY_FORMAT};
}

void tier_rig_fill(const struct key *key, void *bytes, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(mix(key->low + i / 8) >> (i % 8 * 8));
}

bool tier_rig_fits(const struct key *key, const void *bytes, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        if (((const uint8_t *)bytes)[i] != (uint8_t)(mix(key->low + i / 8) >> (i % 8 * 8))) return false;
    return true;
}

status_t tier_rig_put_at(struct tier_rig *rig, const struct key *key, uint64_t bytes, double seconds,
                         enum level level)
{
    struct draft draft;
    struct item item = {.bytes = bytes, .seconds = seconds};
    status_t status = store_reserve(rig->store, key, &item, level, &draft, NULL);
    if (status != STATUS_OK) return status;
    assert_int_equal(draft.size, bytes);
    assert_int_equal((uintptr_t)draft.bytes % 256, 0);
    tier_rig_fill(key, draft.level == LEVEL_DEVICE ? shadow_of(&rig->device, draft.bytes) : draft.bytes,
                  bytes);
    return store_commit(rig->store, &draft, NULL, NULL);
}

status_t tier_rig_put(struct tier_rig *rig, const struct key *key, uint64_t bytes, double seconds)
{
    return tier_rig_put_at(rig, key, bytes, seconds, LEVEL_HOST);
}

enum miss tier_rig_get(struct tier_rig *rig, const struct key *key, enum level level)
{
    struct view view;
    enum miss reason = MISSES;
    if (store_get(rig->store, key, level, &view, &reason) != STATUS_OK) return reason;
    const void *bytes = view.level == LEVEL_DEVICE ? shadow_of(&rig->device, view.bytes) : view.bytes;
    assert_true(tier_rig_fits(key, bytes, view.size));
    store_release(rig->store, &view);
    return MISSES;
}

static void note_copies(void *context, const struct store_entry *entry)
{
    *(int *)context = entry->copies;
}

int tier_rig_copies(struct tier_rig *rig, const struct key *key)
{
    int copies = 0;
    store_list(rig->store, &(struct store_match){.key = key}, note_copies, &copies);
    return copies;
}

struct tally tier_rig_sum(struct tier_rig *rig)
{
    struct store_stats stats;
    struct tally sum = {0};
    store_stats(rig->store, NULL, &stats);
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        const struct tally *one = &stats.kinds[kind];
        sum.items += one->items, sum.published += one->published, sum.refused += one->refused;
        sum.spoiled += one->spoiled, sum.copied += one->copied, sum.seconds_saved += one->seconds_saved;
        for (int i = 0; i < LEVELS; i++) {
            sum.bytes[i] += one->bytes[i], sum.hits[i] += one->hits[i];
            sum.evictions[i] += one->evictions[i];
        }
        for (int i = 0; i < MISSES; i++) sum.misses[i] += one->misses[i];
    }
    return sum;
}

/* --------------------------------------------------------------------------------------------------- files */

static char last_file[TIER_PATH];
static int file_count;

static int note_file(const char *path, const struct stat *about, int type, struct FTW *walk)
{
    if (type != FTW_F) return 0;
    snprintf(last_file, sizeof last_file, "%s", path);
    file_count++;
    return 0;
}

int tier_rig_files(const struct tier_rig *rig)
{
    file_count = 0;
    nftw(rig->items, note_file, 16, FTW_PHYS);
    return file_count;
}

void tier_rig_file(const struct tier_rig *rig, char path[TIER_PATH])
{
    assert_int_equal(tier_rig_files(rig), 1);
    snprintf(path, TIER_PATH, "%s", last_file);
}
