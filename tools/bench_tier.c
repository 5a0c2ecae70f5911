/*
 * bench_tier.c - a rank's store beside memcpy and beside plain files: latency, bandwidth, and behaviour up to a million
 * items.
 *
 *     bench_tier [directory]          a new one in $TMPDIR or /tmp
 *
 * put: reserve, copy into the draft, commit (which hashes). get: pin, copy out, release; pin alone: without the copy.
 * All ratios are to what was measured in the same run.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/scratch.h"
#include "cache/tier/store.h"

enum { KB = 1024, MB = 1 << 20, SIZES = 5, FILES = 200, FILE_MB = 4, SCANNED = 20000 };
static const size_t sizes[SIZES] = {4 * KB, 64 * KB, MB, 16 * MB, 77 * MB};

static void stop(const char *what, const struct error *error)
{
    fprintf(stderr, "bench_tier: %s: %s\n", what, error->text);
    exit(1);
}

static double seconds_since(int64_t began_ns)
{
    return (double)(clock_now_ns() - began_ns) * 1e-9;
}

static struct key key_number(uint64_t number)
{
    return (struct key){.tenant = 1,
                        .low = XXH3_64bits_withSeed(&number, sizeof number, 1),
                        .high = XXH3_64bits_withSeed(&number, sizeof number, 2),
                        .kind = ITEM_TEXT,
                        .format = KEY_FORMAT};
}

static struct store *open_store(uint64_t host, uint64_t disk, uint32_t items, const char *directory)
{
    struct store *store;
    struct error error;
    struct store_config config = {
        .limit_bytes = {[LEVEL_HOST] = host, [LEVEL_DISK] = disk}, .items = items, .directory = directory};
    if (store_open(&config, &store, &error) != STATUS_OK) stop("store_open", &error);
    return store;
}

static bool put(struct store *store, uint64_t number, const void *bytes, size_t size, double seconds)
{
    struct draft draft;
    struct key key = key_number(number);
    if (store_reserve(store, &key, &(struct item){.bytes = size, .seconds = seconds}, LEVEL_HOST, &draft,
                      NULL) != STATUS_OK)
        return false;
    memcpy(draft.bytes, bytes, size);
    return store_commit(store, &draft, NULL, NULL) == STATUS_OK;
}

/* out NULL: pinned and released, not copied. */
static bool get(struct store *store, uint64_t number, void *out)
{
    struct view view;
    struct key key = key_number(number);
    if (store_get(store, &key, LEVEL_HOST, &view, NULL) != STATUS_OK) return false;
    if (out) memcpy(out, view.bytes, view.size);
    store_release(store, &view);
    return true;
}

static void line(const char *what, double seconds, size_t size, double rival, const char *rival_name)
{
    printf("  %-26s %10.2f us %8.2f GB/s   %.2f of %s\n", what, seconds * 1e6, (double)size / seconds * 1e-9,
           rival / seconds, rival_name);
}

static void beside_memcpy(void)
{
    uint8_t *from = malloc(sizes[SIZES - 1]), *to = malloc(sizes[SIZES - 1]);
    if (!from || !to) abort();
    memset(from, 1, sizes[SIZES - 1]);
    memset(to, 2, sizes[SIZES - 1]);
    for (int i = 0; i < SIZES; i++) {
        size_t size = sizes[i];
        int rounds = size < MB ? 20000 : (int)(2e9 / (double)size), kept = size < MB ? 256 : 4;
        struct store *store = open_store((uint64_t)(kept + 1) * (size + 4 * KB), 0, 0, NULL);
        printf("%zu KB\n", size / KB);
        for (int n = 0; n < 2 * kept; n++) put(store, (uint64_t)n, from, size, 10); /* all pages are there */
        int64_t began = clock_now_ns();
        for (int n = 0; n < rounds; n++) {
            memcpy(to, from, size);
            __asm__ volatile("" ::: "memory"); /* each of them is to be made */
        }
        double copy = seconds_since(began) / rounds;
        began = clock_now_ns();
        uint64_t sum = 0;
        for (int n = 0; n < rounds; n++) sum += XXH3_64bits(from, size);
        double hash = seconds_since(began) / rounds;
        __asm__ volatile("" ::"r"(sum));
        int done = 0;
        began = clock_now_ns();
        for (int n = 0; n < rounds; n++) done += put(store, 1000 + (uint64_t)n, from, size, 10 * (n + 1));
        double putting = seconds_since(began) / rounds;
        began = clock_now_ns();
        int hits = 0;
        for (int n = 0; n < rounds; n++)
            hits += get(store, 1000 + (uint64_t)(rounds - 1 - n % (kept / 2)), to);
        double getting = seconds_since(began) / rounds;
        began = clock_now_ns();
        for (int n = 0; n < 20000; n++)
            hits += get(store, 1000 + (uint64_t)(rounds - 1 - n % (kept / 2)), NULL);
        double pinning = seconds_since(began) / 20000;
        line("memcpy", copy, size, copy, "memcpy");
        line("memcpy and XXH3", copy + hash, size, copy, "memcpy");
        line("put (evicting)", putting, size, copy + hash, "memcpy and XXH3");
        line("get", getting, size, copy, "memcpy");
        printf("  %-26s %10.2f us\n", "pin alone", pinning * 1e6);
        if (done != rounds || hits != rounds + 20000)
            printf("  (%d of %d put, %d hits)\n", done, rounds, hits);
        store_close(store);
    }
    free(from);
    free(to);
}

static long resident_kb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / KB);
}

static void by_number_of_items(void)
{
    enum { SIZE = 256, LOOKED_UP = 200000 };
    uint8_t bytes[SIZE] = {1};
    printf("items of %d bytes\n  %9s %12s %12s %12s %14s %18s\n", SIZE, "items", "put us", "hit us",
           "miss us", "evicting us", "index bytes/item");
    for (uint64_t items = 1000; items <= 1000000; items *= 10) {
        long before = resident_kb();
        struct store *store = open_store(items * SIZE, 0, (uint32_t)items + 16, NULL);
        int64_t began = clock_now_ns();
        for (uint64_t n = 0; n < items; n++) put(store, n, bytes, SIZE, 1 + (double)(n % 100));
        double putting = seconds_since(began) / (double)items;
        double index = ((double)(resident_kb() - before) * KB - (double)items * SIZE) / (double)items;
        uint64_t chance = 1, hits = 0;
        began = clock_now_ns();
        for (int n = 0; n < LOOKED_UP; n++) {
            chance = chance * UINT64_C(6364136223846793005) + 1442695040888963407;
            hits += get(store, (chance >> 33) % items, NULL);
        }
        double hit = seconds_since(began) / LOOKED_UP;
        began = clock_now_ns();
        for (int n = 0; n < LOOKED_UP; n++) get(store, items + (uint64_t)n, NULL);
        double miss = seconds_since(began) / LOOKED_UP;
        began = clock_now_ns();
        uint64_t let_in = 0;
        for (uint64_t n = 0; n < 50000; n++) let_in += put(store, 2 * items + 1000000 + n, bytes, SIZE, 1000);
        double evicting = seconds_since(began) / 50000;
        struct store_stats stats;
        store_stats(store, NULL, &stats);
        printf("  %9" PRIu64 " %12.3f %12.3f %12.3f %14.3f %18.0f%s\n", items, putting * 1e6, hit * 1e6,
               miss * 1e6, evicting * 1e6, index,
               hits == LOOKED_UP && let_in > 0 ? "" : "  (not all were let in)");
        store_close(store);
    }
}

static void beside_files(const char *directory)
{
    size_t size = (size_t)FILE_MB * MB;
    uint8_t *bytes = malloc(size);
    char path[SCRATCH_PATH_BYTES + 32];
    if (!bytes) abort();
    memset(bytes, 3, size);
    int64_t began = clock_now_ns();
    for (int n = 0; n < FILES; n++) {
        snprintf(path, sizeof path, "%s/plain%d", directory, n);
        int file = open(path, O_WRONLY | O_CREAT, 0600);
        if (file < 0 || pwrite(file, bytes, size, 0) != (ssize_t)size) abort();
        close(file);
    }
    double writing = seconds_since(began) / FILES;
    began = clock_now_ns();
    for (int n = 0; n < FILES; n++) {
        snprintf(path, sizeof path, "%s/plain%d", directory, n);
        int file = open(path, O_RDONLY);
        if (file < 0 || pread(file, bytes, size, 0) != (ssize_t)size) abort();
        close(file);
        unlink(path);
    }
    double reading = seconds_since(began) / FILES;
    snprintf(path, sizeof path, "%s/items", directory);
    struct store *store = open_store((uint64_t)(FILES + 1) * size, (uint64_t)(FILES + 1) * 2 * size, 0, path);
    for (uint64_t n = 0; n < FILES; n++) put(store, n, bytes, size, 10);
    began = clock_now_ns();
    store_settle(store);
    double settling = seconds_since(began) / FILES;
    store_close(store);
    store = open_store((uint64_t)(FILES + 1) * size, (uint64_t)(FILES + 1) * 2 * size, 0, path);
    began = clock_now_ns();
    int hits = 0;
    for (uint64_t n = 0; n < FILES; n++) hits += get(store, n, NULL);
    double fetching = seconds_since(began) / FILES;
    printf("files of %d MB, in the system's cache\n", FILE_MB);
    line("pwrite", writing, size, writing, "pwrite");
    line("to disk (store_settle)", settling, size, writing, "pwrite");
    line("pread", reading, size, reading, "pread");
    line("get from disk", fetching, size, reading, "pread");
    if (hits != FILES) printf("  (%d hits of %d)\n", hits, FILES);
    store_forget(store, &(struct store_match){0});
    store_close(store);
    store = open_store(256 * MB, UINT64_C(4) << 30, SCANNED, path);
    for (uint64_t n = 0; n < SCANNED; n++) put(store, n, bytes, 1000, 10);
    store_settle(store);
    store_close(store);
    began = clock_now_ns();
    store = open_store(256 * MB, UINT64_C(4) << 30, SCANNED, path);
    double opening = seconds_since(began);
    printf("  %-26s %10.2f us each: %d were found again in %.2f s\n", "opening", opening / SCANNED * 1e6,
           (int)store_list(store, &(struct store_match){0}, NULL, NULL), opening);
    store_close(store);
    free(bytes);
}

int main(int count, char **words)
{
    struct scratch scratch;
    struct error error;
    const char *parent = count > 1 ? words[1] : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    beside_memcpy();
    by_number_of_items();
    if (scratch_open(parent, "refrain-bench-tier", &scratch, &error) != STATUS_OK) stop(parent, &error);
    beside_files(scratch.path);
    scratch_close(&scratch);
    return 0;
}
