/* tier.c - see tier.h: opening, asking, publishing. Compute thread. */
#include "worker/tier.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/log.h"
#include "worker/tier_core.h"

/* ---------------------------------------------------------------------------------------------- fingerprint */

static status_t hash_file(XXH3_state_t *hash, const char *path, struct error *error)
{
    struct stat about;
    void *bytes = MAP_FAILED;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && fstat(file, &about) == 0 && about.st_size > 0)
        bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    status_t status =
        bytes != MAP_FAILED
            ? STATUS_OK
            : error_set(error, STATUS_IO, "cache tier: %s cannot be read for its fingerprint: %m", path);
    if (file >= 0) close(file);
    if (status != STATUS_OK) return status;
    XXH3_64bits_update(hash, bytes, (size_t)about.st_size);
    munmap(bytes, (size_t)about.st_size);
    return STATUS_OK;
}

/* The program itself stands for its kernels: another build may make other bits, and nobody has to remember to say so.
 * All vector units of the CPU make the same ones. */
static status_t fingerprint(const struct tier_config *config, uint64_t *numerics, struct error *error)
{
    const struct ops *ops = config->ops;
    struct location location = {.kind = ""};
    Dl_info module;
    const char *name = strncmp(ops->name, "cpu-", 4) == 0 ? "cpu" : ops->name;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return error_set(error, STATUS_NO_MEMORY, "cache tier: no memory for its fingerprint");
    XXH3_64bits_reset(hash);
    status_t status = hash_file(hash, "/proc/self/exe", error);
    if (status == STATUS_OK && ops->locate) { /* a device's ops are in a plug-in */
        ops->locate(config->team, &location);
        if (dladdr((const void *)ops, &module) != 0 && module.dli_fname)
            status = hash_file(hash, module.dli_fname, error);
    }
    XXH3_64bits_update(hash, name, strlen(name) + 1);
    XXH3_64bits_update(hash, location.kind, strlen(location.kind) + 1);
    if (status == STATUS_OK) *numerics = XXH3_64bits_digest(hash) | 1;
    XXH3_freeState(hash);
    return status;
}

/* -------------------------------------------------------------------------------------------------- opening */

static status_t open_store(struct tier *tier, const struct tier_config *config, struct error *error)
{
    struct store_config store = {.limit_bytes[LEVEL_HOST] = config->memory_bytes,
                                 .limit_bytes[LEVEL_DEVICE] = config->device_bytes,
                                 .thread = true};
    if (config->device_bytes) {
        tier->device = memory_of_backend(config->ops);
        store.device = &tier->device;
    }
    if (config->directory) {
        store.directory = config->directory;
        store.limit_bytes[LEVEL_DISK] = config->disk_bytes;
    }
    status_t status = store_open(&store, &tier->store, error);
    if (status == STATUS_NO_MEMORY) error_prefix(error, "the cache tier (--tier-device, --tier-memory)");
    if (status != STATUS_CONFLICT || !config->directory) return status;
    /* Of a process that hangs, say, whose seat this one takes. */
    log_line(LOG_WARN, "%s; items are kept in memory only", error->text);
    store.directory = NULL;
    store.limit_bytes[LEVEL_DISK] = 0;
    return store_open(&store, &tier->store, error);
}

static status_t check_config(const struct tier_config *config, struct error *error)
{
    if (config->memory_bytes < TIER_MEMORY_LEAST)
        return error_set(error, STATUS_INVALID,
                         "--tier-memory %" PRIu64 ": must be 0 (no cache tier) or at least %d bytes",
                         config->memory_bytes, TIER_MEMORY_LEAST);
    if (config->device_bytes && config->ops->local)
        return error_set(error, STATUS_INVALID,
                         "--tier-device %" PRIu64 ": %s computes in the host's memory; say --tier-memory",
                         config->device_bytes, config->ops->name);
    if (config->device_bytes && config->device_bytes < TIER_MEMORY_LEAST)
        return error_set(error, STATUS_INVALID,
                         "--tier-device %" PRIu64 ": must be 0 (no level on the device) or at least %d bytes",
                         config->device_bytes, TIER_MEMORY_LEAST);
    if (config->directory && config->disk_bytes == 0)
        return error_set(error, STATUS_INVALID, "--tier-disk-bytes 0: must be above 0 with --tier-disk %s",
                         config->directory);
    return STATUS_OK;
}

status_t tier_open(const struct tier_config *config, struct tier **tier, struct error *error)
{
    struct tier *made = NULL;
    if (config->memory_bytes == 0 && config->device_bytes)
        return error_set(error, STATUS_INVALID,
                         "--tier-memory 0: a level on the device (--tier-device %" PRIu64
                         ") needs memory to copy items to",
                         config->device_bytes);
    if (config->memory_bytes == 0 && config->directory)
        return error_set(error, STATUS_INVALID,
                         "--tier-memory 0: a disk level (--tier-disk %s) needs memory to read items into",
                         config->directory);
    if (config->memory_bytes == 0) {
        *tier = NULL;
        return STATUS_OK;
    }
    status_t status = check_config(config, error);
    if (status != STATUS_OK) return status;
    if (!(made = calloc(1, sizeof *made)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for the cache tier");
    pthread_mutex_init(&made->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&made->work, &monotonic);
    pthread_cond_init(&made->quiet, NULL);
    pthread_condattr_destroy(&monotonic);
    made->arrived = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (made->arrived < 0) status = error_set(error, STATUS_IO, "eventfd: %m");
    if (status == STATUS_OK) status = fingerprint(config, &made->numerics, error);
    if (status == STATUS_OK && !(made->told = calloc(STORE_TALLIES, sizeof *made->told)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for the cache tier's figures");
    if (status == STATUS_OK) status = open_store(made, config, error);
    if (status == STATUS_OK) status = tier_thread_start(made, error);
    if (status != STATUS_OK) {
        tier_close(made);
        return status;
    }
    *tier = made;
    return STATUS_OK;
}

void tier_close(struct tier *tier)
{
    if (!tier) return;
    int64_t deadline_ns = CLOCK_NEVER;
    tier_leave(tier);
    tier_thread_stop(tier);
    if (tier->store) tier_tend(tier, &deadline_ns);
    for (int i = 0; i < TIER_FETCHES; i++)
        if (tier->fetches[i].state == FETCH_HERE) store_release(tier->store, &tier->fetches[i].view);
    /* What MPI may still write into is left to the process's end, which is near. */
    if (tier_settle_landings(tier)) store_close(tier->store);
    if (tier->arrived >= 0) close(tier->arrived);
    free(tier->told);
    pthread_cond_destroy(&tier->work);
    pthread_cond_destroy(&tier->quiet);
    pthread_mutex_destroy(&tier->lock);
    free(tier);
}

uint64_t tier_numerics(const struct tier *tier)
{
    return tier ? tier->numerics : 0;
}

struct store *tier_store(struct tier *tier)
{
    return tier ? tier->store : NULL;
}

int tier_descriptor(const struct tier *tier)
{
    return tier ? tier->arrived : -1;
}

/* -------------------------------------------------------------------------------------------------- fetches */

static struct tier_fetch *find_fetch(struct tier *tier, const struct key *key)
{
    for (int i = 0; i < TIER_FETCHES; i++)
        if (tier->fetches[i].state != FETCH_FREE && key_equal(&tier->fetches[i].key, key))
            return &tier->fetches[i];
    return NULL;
}

struct tier_fetch *tier_fetch_new(struct tier *tier, const struct key *key)
{
    struct tier_fetch *found = NULL;
    for (int i = 0; i < TIER_FETCHES; i++) {
        struct tier_fetch *one = &tier->fetches[i];
        if (one->state == FETCH_FREE || (one->state == FETCH_MISSED && !found)) found = one;
        if (one->state == FETCH_FREE) break;
    }
    if (found) *found = (struct tier_fetch){.key = *key};
    return found;
}

void tier_fetch_miss(struct tier *tier, struct tier_fetch *fetch, enum miss reason)
{
    fetch->state = fetch->spare ? FETCH_FREE : FETCH_MISSED;
    fetch->reason = reason;
    fetch->until_ns = clock_now_ns() + TIER_ABSENT_MS * MILLISECOND_NS;
}

void tier_fetch_here(struct tier_fetch *fetch, const struct view *view)
{
    fetch->state = FETCH_HERE;
    fetch->view = *view;
    fetch->until_ns = clock_now_ns() + TIER_KEPT_MS * MILLISECOND_NS;
}

static bool take_done(struct tier *tier)
{
    struct tier_task task;
    bool some = false;
    for (; tier_take(tier, &task); some = true) {
        if (task.kind == TASK_LEND) {
            tier_lent(tier, &task);
        } else if (task.kind == TASK_READ && task.reason == MISSES) {
            tier_fetch_here(&tier->fetches[task.place], &task.view);
        } else if (task.kind == TASK_READ) {
            tier_fetch_miss(tier, &tier->fetches[task.place], task.reason);
            tier->fetches[task.place].counted = true;
        }
    }
    return some;
}

/* What nobody came for; when the next one is due. */
static void forget_old(struct tier *tier, int64_t *deadline_ns)
{
    int64_t now = clock_now_ns();
    for (int i = 0; i < TIER_FETCHES; i++) {
        struct tier_fetch *fetch = &tier->fetches[i];
        if (fetch->state != FETCH_HERE && fetch->state != FETCH_MISSED) continue;
        if (now < fetch->until_ns) {
            if (fetch->state == FETCH_HERE && fetch->until_ns < *deadline_ns) *deadline_ns = fetch->until_ns;
            continue;
        }
        if (fetch->state == FETCH_HERE) store_release(tier->store, &fetch->view);
        fetch->state = FETCH_FREE;
    }
}

bool tier_tend(struct tier *tier, int64_t *deadline_ns)
{
    uint64_t count;
    if (!tier) return false;
    ssize_t got = read(tier->arrived, &count, sizeof count);
    (void)got; /* before taking: what is done after this makes it readable again */
    bool some = take_done(tier);
    forget_old(tier, deadline_ns);
    tier_move(tier, clock_now_ns(), deadline_ns);
    return some;
}

/* --------------------------------------------------------------------------------------------------- asking */

static status_t miss(struct tier *tier, struct tier_query *query, enum miss reason, bool counted)
{
    query->reason = reason;
    if (!counted) store_missed(tier->store, &query->key, reason);
    return STATUS_NOT_FOUND;
}

/* It is on disk (or on the device, and wanted on the host), or may be with another rank. */
static status_t begin(struct tier *tier, struct tier_query *query, bool here)
{
    struct tier_fetch *fetch = tier_fetch_new(tier, &query->key);
    if (!fetch) return miss(tier, query, MISS_BUSY, false);
    struct tier_task task = {.kind = TASK_READ, .place = (int)(fetch - tier->fetches), .key = query->key};
    if (here && !tier_give(tier, &task)) return miss(tier, query, MISS_BUSY, false);
    if (here)
        fetch->state = FETCH_READING;
    else
        tier_begin_asking(tier, fetch, query->deadline_ns);
    return STATUS_AGAIN;
}

status_t tier_ask(struct tier *tier, struct tier_query *query, struct view *view)
{
    enum miss reason = MISS_ABSENT;
    query->reason = MISS_ABSENT;
    if (!tier) return STATUS_NOT_FOUND;
    if (query->key.tenant != query->tenant && query->key.tenant != KEY_PUBLIC) {
        query->reason = MISS_FOREIGN; /* and counted for neither of the two */
        return STATUS_NOT_FOUND;
    }
    bool late = clock_now_ns() >= query->deadline_ns;
    struct tier_fetch *fetch = find_fetch(tier, &query->key);
    if (fetch && fetch->state == FETCH_HERE) {
        *view = fetch->view;
        fetch->state = FETCH_FREE;
        return STATUS_OK;
    }
    if (fetch) fetch->spare = false; /* somebody waits for it now */
    if (fetch && fetch->state != FETCH_MISSED)
        return late ? miss(tier, query, MISS_LATE, false) : STATUS_AGAIN;
    status_t status =
        store_try(tier->store, &query->key, query->device ? LEVEL_DEVICE : LEVEL_HOST, view, &reason);
    if (status == STATUS_OK) return STATUS_OK;
    bool given_up = reason == MISS_UNFINISHED && tier_is_abandoned(tier, &query->key); /* nobody makes it */
    if (reason == MISS_UNFINISHED && !late && !given_up) return STATUS_AGAIN;
    if (fetch && (reason != MISS_UNFINISHED || given_up)) {
        bool counted = fetch->counted;
        fetch->counted = false; /* who asks next counts for himself */
        return miss(tier, query, fetch->reason, counted);
    }
    if (late || given_up) return miss(tier, query, status == STATUS_AGAIN ? MISS_LATE : reason, false);
    if (status == STATUS_AGAIN) return begin(tier, query, true);
    return tier_reaches_others(tier) ? begin(tier, query, false) : miss(tier, query, reason, false);
}

void tier_release(struct tier *tier, struct view *view)
{
    if (tier) store_release(tier->store, view);
}

/* ----------------------------------------------------------------------------------------------- publishing */

static status_t reserve(struct tier *tier, uint64_t tenant, const struct key *key, const struct item *item,
                        enum level level, struct draft *draft, struct error *error)
{
    if (!tier) return error_set(error, STATUS_UNSUPPORTED, "the cache tier is off");
    if (key->tenant != tenant && key->tenant != KEY_PUBLIC)
        return error_set(error, STATUS_DENIED, "cache tier: the key is another tenant's");
    return store_reserve(tier->store, key, item, level, draft, error);
}

status_t tier_reserve(struct tier *tier, uint64_t tenant, const struct key *key, uint64_t bytes,
                      double seconds, struct draft *draft, struct error *error)
{
    return reserve(tier, tenant, key, &(struct item){.bytes = bytes, .seconds = seconds}, LEVEL_HOST, draft,
                   error);
}

status_t tier_reserve_device(struct tier *tier, uint64_t tenant, const struct key *key, uint64_t bytes,
                             double seconds, struct draft *draft, struct error *error)
{
    return reserve(tier, tenant, key, &(struct item){.bytes = bytes, .seconds = seconds}, LEVEL_DEVICE, draft,
                   error);
}

void tier_commit(struct tier *tier, struct draft *draft)
{
    struct tier_task task = {.kind = TASK_COMMIT, .draft = *draft};
    struct error error;
    bool small = draft->size <= TIER_SMALL && draft->level == LEVEL_HOST;
    if (small || !tier_give(tier, &task)) {
        if (store_commit(tier->store, draft, NULL, &error) != STATUS_OK) log_line(LOG_WARN, "%s", error.text);
        tier_tell(tier);
    }
    *draft = (struct draft){0};
}

void tier_abort(struct tier *tier, struct draft *draft)
{
    store_abort(tier->store, draft);
    tier_tell(tier); /* what made room for it has gone */
}

/* -------------------------------------------------------------------------------------------------- commands */

/* The coordinator wants a second copy of what another rank has. */
static void copy(struct tier *tier, const struct key *key)
{
    struct store_match match = {.key = key};
    if (!tier_reaches_others(tier) || find_fetch(tier, key) || store_list(tier->store, &match, NULL, NULL))
        return;
    struct tier_fetch *fetch = tier_fetch_new(tier, key);
    if (!fetch) return;
    fetch->spare = true;
    tier_begin_asking(tier, fetch, clock_now_ns() + TIER_COPY_MS * MILLISECOND_NS);
}

void tier_command(struct tier *tier, const Refrain__TierCommand *command)
{
    struct key key;
    struct error error;
    struct store_match match = {.by_tenant = command->has_tenant,
                                .tenant = command->tenant,
                                .by_kind = command->has_kind,
                                .kind = (enum item_kind)command->kind};
    if (!tier || command->kind >= ITEM_KINDS) return;
    if (command->has_key) {
        if (command->key.len != KEY_BYTES || key_decode(command->key.data, &key, &error) != STATUS_OK) return;
        match.key = &key;
    }
    if (command->verb == REFRAIN__TIER_VERB__TIER_FORGET) {
        size_t count = store_forget(tier->store, &match);
        if (count) log_line(LOG_INFO, "cache: %zu items were forgotten, as told", count);
        tier_tell(tier);
    } else if (command->verb == REFRAIN__TIER_VERB__TIER_COPY) {
        if (command->has_key) copy(tier, &key);
    } else if (command->has_key) {
        bool pin = command->verb == REFRAIN__TIER_VERB__TIER_PIN;
        status_t status = store_pin(tier->store, &key, pin, &error);
        if (status != STATUS_OK && status != STATUS_NOT_FOUND) log_line(LOG_WARN, "%s", error.text);
    }
}
