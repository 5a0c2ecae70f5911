/*
 * vault.c - see vault.h. The index, opening and closing; the files are vaultfile.c's, the thread that serves
 * ranks and touches the disk is vault_serve.c's.
 *
 * What the loop wants removed is taken out of the index here and left for the thread, so that no function of
 * the header waits for a disk.
 */
#include "coordinator/vault/vault_core.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/vault/vaultfile.h"

#define LEAST_MARK   (UINT64_C(64) << 10) /* what a mark counts for at least */
#define LAST_SAVE_NS (60 * SECOND_NS)     /* what a job sent before it ended is waited for */

enum {
    QUEUED_REQUESTS = 4, /* taken in per rank by ZeroMQ ahead of the thread: of 1 MiB, at most */
    QUEUED_REPLIES = 64,
};

/* ------------------------------------------------------------------------------------------ slots, by job */

/* Where the job's slot is or belongs. */
static size_t slot_place(const struct vault *vault, uint64_t job)
{
    size_t low = 0, high = vault->slot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (vault->slots[middle]->job < job)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct slot *vault_find(const struct vault *vault, uint64_t job)
{
    size_t at = slot_place(vault, job);
    return at < vault->slot_count && vault->slots[at]->job == job ? vault->slots[at] : NULL;
}

/* Found or made; NULL: no memory. */
static struct slot *get_slot(struct vault *vault, uint64_t job)
{
    size_t at = slot_place(vault, job);
    if (at < vault->slot_count && vault->slots[at]->job == job) return vault->slots[at];
    if (vault->slot_count == vault->slot_room) {
        size_t room = vault->slot_room ? 2 * vault->slot_room : 64;
        struct slot **grown = realloc(vault->slots, room * sizeof(struct slot *));
        if (!grown) return NULL;
        vault->slots = grown;
        vault->slot_room = room;
    }
    struct slot *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->job = job;
    made->directory = -1;
    made->stride = STRIDE_UNKNOWN;
    memmove(vault->slots + at + 1, vault->slots + at, (vault->slot_count - at) * sizeof(struct slot *));
    vault->slots[at] = made;
    vault->slot_count++;
    return made;
}

/* ---------------------------------------------------------------------------------------------- the index */

/* a goes on from further than b; of two at the same step the later attempt's. */
static bool better(const struct checkpoint *a, const struct checkpoint *b)
{
    return a->step != b->step ? a->step > b->step : a->attempt > b->attempt;
}

static uint64_t weight(const struct held *entry)
{
    uint64_t bytes = VAULTFILE_HEAD_BYTES + entry->checkpoint.bytes;
    return bytes > LEAST_MARK ? bytes : LEAST_MARK;
}

static void set_mark(struct vault *vault, struct held *entry, bool mark)
{
    if (entry->mark == mark) return;
    vault->marked += mark ? weight(entry) : -weight(entry);
    vault->stats.marks += mark ? entry->checkpoint.bytes : -entry->checkpoint.bytes;
    entry->mark = mark;
}

/* Unlinks *link from its slot. The file's end is the caller's business. */
static struct held *take_out(struct vault *vault, struct held **link)
{
    struct held *entry = *link;
    set_mark(vault, entry, false);
    *link = entry->next;
    vault->stats.bytes -= VAULTFILE_HEAD_BYTES + entry->checkpoint.bytes;
    return entry;
}

static void give_up(struct vault *vault, struct held **link)
{
    struct held *entry = take_out(vault, link);
    entry->next = vault->surplus;
    vault->surplus = entry;
}

static bool same_name(const struct checkpoint *a, const struct checkpoint *b)
{
    return a->job == b->job && a->step == b->step && a->attempt == b->attempt;
}

/* A file that was to be removed and has been replaced meanwhile: it stays. */
static void reprieve(struct vault *vault, const struct checkpoint *checkpoint)
{
    for (struct held **link = &vault->surplus; *link;) {
        struct held *entry = *link;
        if (same_name(&entry->checkpoint, checkpoint)) {
            *link = entry->next;
            free(entry);
        } else {
            link = &entry->next;
        }
    }
}

static void forget_news(struct vault *vault, const struct slot *slot)
{
    if (!slot->has_news) return;
    struct slot **link = &vault->news;
    while (*link != slot) link = &(*link)->next;
    if (!(*link = slot->next)) vault->news_end = link;
}

/* Takes a slot out, with all that is in it: the thread removes the files and frees it. */
static void bury(struct vault *vault, struct slot *slot)
{
    size_t at = slot_place(vault, slot->job);
    memmove(vault->slots + at, vault->slots + at + 1, (--vault->slot_count - at) * sizeof(struct slot *));
    forget_news(vault, slot);
    for (struct held *held = slot->held; held; held = held->next) {
        set_mark(vault, held, false);
        vault->stats.bytes -= VAULTFILE_HEAD_BYTES + held->checkpoint.bytes;
    }
    slot->attempt = 0;
    slot->has_news = false;
    slot->next = vault->gone;
    vault->gone = slot;
}

static void bury_if_empty(struct vault *vault, struct slot *slot)
{
    if (slot->over && !slot->held && clock_now_ns() - slot->over_ns > LAST_SAVE_NS) bury(vault, slot);
}

/* Unlinks the oldest of those that may go: marks; else those that are neither their job's best nor were lent to it. */
static bool evict(struct vault *vault, bool marks)
{
    struct held **oldest = NULL;
    struct slot *owner = NULL;
    for (size_t i = 0; i < vault->slot_count; i++) {
        struct held *best = vault->slots[i]->held;
        for (struct held **link = &vault->slots[i]->held; *link; link = &(*link)->next) {
            const struct held *held = *link;
            bool may = marks ? held->mark : held != best && held->checkpoint.attempt > 0;
            if (!may || (oldest && held->age >= (*oldest)->age)) continue;
            oldest = link;
            owner = vault->slots[i];
        }
    }
    if (!oldest) return false;
    give_up(vault, oldest);
    bury_if_empty(vault, owner);
    return true;
}

/* After any change of a slot: what the job needs, what stays as a mark, what goes; then what all marks may take. */
static void sort_out(struct vault *vault, struct slot *slot)
{
    int rank = 0;
    uint32_t above = UINT32_MAX; /* the step before it in the list: of two attempts at a step one is enough */
    for (struct held **link = &slot->held; *link;) {
        struct held *held = *link;
        bool lent = !held->checkpoint.attempt;
        bool needed = !slot->over && (lent || rank < vault->keep);
        bool marks = vault->mark_bytes && slot->stride && !lent && held->checkpoint.step != above;
        bool mark = marks && (held->checkpoint.step % slot->stride == 0 || slot->stride == STRIDE_UNKNOWN ||
                              (slot->over && rank == 0));
        rank += !lent;
        above = held->checkpoint.step;
        if (needed || mark) {
            set_mark(vault, held, !needed);
            link = &held->next;
        } else {
            give_up(vault, link);
        }
    }
    while (vault->marked > vault->mark_bytes && evict(vault, true)) {
    }
}

void vault_index(struct vault *vault, struct slot *slot, struct held *entry)
{
    struct held **link = &slot->held;
    entry->mark = false;
    reprieve(vault, &entry->checkpoint);
    while (*link && better(&(*link)->checkpoint, &entry->checkpoint)) link = &(*link)->next;
    /* The same one came twice: the file was replaced, only the entry is left over. */
    if (*link && same_name(&entry->checkpoint, &(*link)->checkpoint)) free(take_out(vault, link));
    entry->next = *link;
    *link = entry;
    vault->stats.bytes += VAULTFILE_HEAD_BYTES + entry->checkpoint.bytes;
    if (entry->age > vault->newest) vault->newest = entry->age;
    sort_out(vault, slot);
}

bool vault_unindex(struct vault *vault, struct slot *slot, const struct checkpoint *checkpoint)
{
    struct held **link = &slot->held;
    while (*link && memcmp(&(*link)->checkpoint, checkpoint, sizeof *checkpoint) != 0) link = &(*link)->next;
    if (!*link) return false;
    give_up(vault, link);
    sort_out(vault, slot);
    return true;
}

bool vault_evict(struct vault *vault)
{
    return evict(vault, true) || evict(vault, false);
}

bool vault_superfluous(const struct vault *vault, const struct slot *slot,
                       const struct checkpoint *checkpoint)
{
    int count = 0;
    bool mark = slot->stride && slot->stride != STRIDE_UNKNOWN && checkpoint->step % slot->stride == 0;
    for (const struct held *held = slot->held; held; held = held->next) {
        count += better(&held->checkpoint, checkpoint);
        mark = mark && held->checkpoint.step != checkpoint->step;
    }
    return count >= vault->keep && !mark;
}

/* Of several saves of a job that nobody asked about yet only the last is told of. */
void vault_announce(struct vault *vault, struct slot *slot, const struct checkpoint *checkpoint)
{
    slot->news = *checkpoint;
    if (slot->has_news) return;
    slot->has_news = true;
    slot->next = NULL;
    *vault->news_end = slot;
    vault->news_end = &slot->next;
    eventfd_write(vault->saved, 1);
}

/* ------------------------------------------------------------------------------------------ for the loop */

/* The lock is no part of what a const vault promises. */
static void lock(const struct vault *vault)
{
    pthread_mutex_lock(&((struct vault *)(uintptr_t)vault)->lock);
}

static void unlock(const struct vault *vault)
{
    pthread_mutex_unlock(&((struct vault *)(uintptr_t)vault)->lock);
}

void vault_allow(struct vault *vault, uint64_t job, uint32_t attempt)
{
    lock(vault);
    struct slot *slot = get_slot(vault, job);
    if (slot) {
        slot->attempt = attempt;
        slot->over = false;
    }
    unlock(vault);
    if (!slot) log_line(LOG_ERROR, "job %" PRIu64 ": no memory to keep checkpoints of it", job);
}

void vault_forbid(struct vault *vault, uint64_t job)
{
    lock(vault);
    struct slot *slot = vault_find(vault, job);
    if (slot) slot->attempt = 0;
    unlock(vault);
}

void vault_mark(struct vault *vault, uint64_t job, uint32_t stride)
{
    lock(vault);
    struct slot *slot = get_slot(vault, job);
    if (slot) {
        slot->stride = stride;
        sort_out(vault, slot);
    }
    unlock(vault);
    eventfd_write(vault->wake, 1);
}

void vault_retire(struct vault *vault, uint64_t job)
{
    lock(vault);
    struct slot *slot = vault_find(vault, job);
    if (slot) {
        slot->over = true;
        slot->over_ns = clock_now_ns();
        sort_out(vault, slot);
        if (!slot->stride || !vault->mark_bytes) slot->over_ns = 0; /* nothing more is wanted */
    }
    for (size_t i = vault->slot_count; i-- > 0;) bury_if_empty(vault, vault->slots[i]);
    unlock(vault);
    if (slot) eventfd_write(vault->wake, 1);
}

static bool can_be_lent(const struct held *held, uint32_t step)
{
    return held->checkpoint.attempt > 0 && held->checkpoint.step == step;
}

size_t vault_steps(const struct vault *vault, uint64_t job, uint32_t *steps, size_t room)
{
    size_t count = 0;
    lock(vault);
    const struct slot *slot = vault_find(vault, job);
    for (int pass = 0; pass < 2; pass++) { /* counted first: those with the most steps are first */
        uint32_t last = UINT32_MAX;
        size_t at = count;
        for (const struct held *held = slot ? slot->held : NULL; held; held = held->next) {
            if (!held->checkpoint.attempt || held->checkpoint.step == last) continue;
            last = held->checkpoint.step;
            if (pass == 0)
                count++;
            else if (--at < room)
                steps[at] = last;
        }
    }
    unlock(vault);
    return count;
}

/* Called by the loop, which alone makes jobs: the borrower's slot is nobody's yet. */
status_t vault_lend(struct vault *vault, uint64_t job, uint32_t step, uint64_t borrower, struct error *error)
{
    struct checkpoint from = {0};
    struct run_point point = {0};
    struct held *entry = malloc(sizeof *entry);
    if (!entry) return error_set(error, STATUS_NO_MEMORY, "no memory for a checkpoint");
    lock(vault);
    struct slot *slot = vault_find(vault, job);
    struct held *held = slot ? slot->held : NULL;
    while (held && !can_be_lent(held, step)) held = held->next;
    if (held) {
        held->age = ++vault->newest; /* it was of use */
        from = held->checkpoint;
        point = held->point;
    }
    unlock(vault);
    *entry = (struct held){.checkpoint = from, .point = point};
    entry->checkpoint.job = borrower;
    entry->checkpoint.attempt = 0;
    status_t status = held ? vaultfile_link(vault->root, &from, &entry->checkpoint, error)
                           : error_set(error, STATUS_NOT_FOUND,
                                       "job %" PRIu64 ": no checkpoint of step %" PRIu32, job, step);
    if (status != STATUS_OK) {
        free(entry);
        return status;
    }
    lock(vault);
    if ((slot = get_slot(vault, borrower))) {
        for (struct held **link = &slot->held;
             *link;) /* of a job of that number that was not to be after all */
            if ((*link)->checkpoint.attempt)
                link = &(*link)->next;
            else
                give_up(vault, link);
        slot->over = false;
        entry->age = vault->newest;
        vault_index(vault, slot, entry);
    }
    unlock(vault);
    if (slot) return STATUS_OK;
    free(entry);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a checkpoint");
}

void vault_drop(struct vault *vault, uint64_t job)
{
    lock(vault);
    struct slot *slot = vault_find(vault, job);
    if (slot) bury(vault, slot);
    unlock(vault);
    if (slot) eventfd_write(vault->wake, 1);
}

/* keep() is asked without the lock: it may look into the job store. */
void vault_sweep(struct vault *vault, bool (*keep)(void *context, uint64_t job), void *context)
{
    uint64_t job = 0;
    for (bool more = true; more;) {
        lock(vault);
        size_t at = slot_place(vault, job + 1);
        more = at < vault->slot_count;
        if (more) job = vault->slots[at]->job;
        unlock(vault);
        if (more && !keep(context, job)) vault_drop(vault, job);
    }
}

/* The best of those that were lent to the job, or of its own. */
static bool find_best(const struct vault *vault, uint64_t job, bool lent, struct checkpoint *checkpoint)
{
    lock(vault);
    const struct slot *slot = vault_find(vault, job);
    const struct held *held = slot ? slot->held : NULL;
    while (held && (held->checkpoint.attempt == 0) != lent) held = held->next;
    if (held) *checkpoint = held->checkpoint;
    unlock(vault);
    return held != NULL;
}

bool vault_latest(const struct vault *vault, uint64_t job, struct checkpoint *checkpoint)
{
    return find_best(vault, job, false, checkpoint);
}

bool vault_origin(const struct vault *vault, uint64_t job, struct checkpoint *checkpoint)
{
    return find_best(vault, job, true, checkpoint);
}

bool vault_find_run(struct vault *vault, const struct key *run, uint32_t after, struct checkpoint *checkpoint,
                    struct run_point *point)
{
    struct held *best = NULL;
    lock(vault);
    for (size_t i = 0; i < vault->slot_count; i++)
        for (struct held *held = vault->slots[i]->held; held; held = held->next)
            if (held->point.step > (best ? best->point.step : after) && key_equal(&held->point.run, run))
                best = held;
    if (best) {
        best->age = ++vault->newest;
        *checkpoint = best->checkpoint;
        *point = best->point;
    }
    unlock(vault);
    return best != NULL;
}

void vault_spoil(struct vault *vault, const struct checkpoint *checkpoint)
{
    lock(vault);
    struct slot *slot = vault_find(vault, checkpoint->job);
    bool found = slot && vault_unindex(vault, slot, checkpoint);
    unlock(vault);
    if (found) eventfd_write(vault->wake, 1);
}

int vault_descriptor(const struct vault *vault)
{
    return vault->saved;
}

bool vault_saved(struct vault *vault, struct checkpoint *checkpoint)
{
    lock(vault);
    struct slot *slot = vault->news;
    if (slot) {
        *checkpoint = slot->news;
        forget_news(vault, slot);
        slot->has_news = false;
    }
    if (!vault->news) {
        /* Emptied under the lock: news after this make the descriptor readable again. */
        eventfd_t ignored;
        eventfd_read(vault->saved, &ignored);
    }
    unlock(vault);
    return slot != NULL;
}

void vault_stats(const struct vault *vault, struct vault_stats *stats)
{
    lock(vault);
    *stats = vault->stats;
    unlock(vault);
}

const char *vault_endpoint(const struct vault *vault)
{
    return vault->endpoint;
}

/* --------------------------------------------------------------------------------------- opening, closing */

static status_t open_directory(struct vault *vault, const char *directory, struct error *error)
{
    bool made = mkdir(directory, 0700) == 0;
    if (!made && errno != EEXIST) return error_set(error, STATUS_IO, "%s: cannot be made: %m", directory);
    vault->root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (vault->root < 0) return error_set(error, STATUS_IO, "%s: cannot be opened: %m", directory);
    if (!made) return STATUS_OK;
    int parent = openat(vault->root, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    status_t status = parent >= 0 && fsync(parent) == 0
                          ? STATUS_OK
                          : error_set(error, STATUS_IO, "%s: cannot be made durable: %m", directory);
    if (parent >= 0) close(parent);
    return status;
}

/* A file that was there at start. Nobody else knows of the vault yet: no lock. */
static status_t found_file(void *context, const struct checkpoint *checkpoint, const struct run_point *point,
                           int64_t made_ns)
{
    struct vault *vault = context;
    struct slot *slot = get_slot(vault, checkpoint->job);
    struct held *entry = slot ? malloc(sizeof *entry) : NULL;
    if (!entry) return STATUS_NO_MEMORY;
    *entry = (struct held){.checkpoint = *checkpoint, .point = *point, .age = made_ns};
    vault_index(vault, slot, entry);
    return STATUS_OK;
}

/* Limits are set before binding, as libzmq takes them over at that moment. */
static status_t open_socket(struct vault *vault, const struct vault_config *config, struct error *error)
{
    int no_linger = 0, requests = QUEUED_REQUESTS, replies = QUEUED_REPLIES, yes = 1;
    int ipv6 = strchr(config->bind, '[') != NULL;
    int64_t largest = WIRE_MAX_BYTES;
    size_t length = sizeof vault->endpoint;
    if (!(vault->socket = zmq_socket(config->context, ZMQ_ROUTER)))
        return error_set(error, STATUS_IO, "socket for checkpoints: %s", zmq_strerror(errno));
    zmq_setsockopt(vault->socket, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(vault->socket, ZMQ_RCVHWM, &requests, sizeof requests);
    zmq_setsockopt(vault->socket, ZMQ_SNDHWM, &replies, sizeof replies);
    zmq_setsockopt(vault->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
    zmq_setsockopt(vault->socket, ZMQ_ROUTER_MANDATORY, &yes, sizeof yes);
    zmq_setsockopt(vault->socket, ZMQ_IPV6, &ipv6, sizeof ipv6);
    status_t status =
        config->secure ? config->secure(config->secure_argument, vault->socket, error) : STATUS_OK;
    if (status != STATUS_OK) return status;
    if (zmq_bind(vault->socket, config->bind) != 0 ||
        zmq_getsockopt(vault->socket, ZMQ_LAST_ENDPOINT, vault->endpoint, &length) != 0)
        return error_set(error, STATUS_IO, "checkpoints: %s cannot be bound: %s", config->bind,
                         zmq_strerror(errno));
    return STATUS_OK;
}

static status_t open_parts(struct vault *vault, const struct vault_config *config, struct error *error)
{
    vault->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vault->saved = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vault->wake < 0 || vault->saved < 0) return error_set(error, STATUS_IO, "eventfd: %m");
    if (!(vault->buffer = malloc(WIRE_CHUNK_MAX)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for checkpoints");
    status_t status = open_directory(vault, config->directory, error);
    if (status == STATUS_OK) status = vaultfile_scan(vault->root, found_file, vault, error);
    return status == STATUS_OK ? open_socket(vault, config, error) : status;
}

status_t vault_open(const struct vault_config *config, struct vault **vault, struct error *error)
{
    struct vault *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for checkpoints");
    pthread_mutex_init(&made->lock, NULL);
    made->limit_bytes = config->limit_bytes;
    made->job_bytes = config->job_bytes;
    made->mark_bytes = config->mark_bytes;
    made->keep = config->keep > 1 ? config->keep : 1;
    made->root = made->wake = made->saved = -1;
    made->news_end = &made->news;
    status_t status = open_parts(made, config, error);
    if (status == STATUS_OK && (errno = pthread_create(&made->thread, NULL, vault_serve, made)) != 0)
        status = error_set(error, STATUS_IO, "the thread for checkpoints cannot be started: %m");
    made->thread_runs = status == STATUS_OK;
    if (status != STATUS_OK)
        vault_close(made);
    else
        *vault = made;
    return status;
}

static void free_held(struct held *held)
{
    for (struct held *next; held; held = next) {
        next = held->next;
        free(held);
    }
}

static void free_slot(struct slot *slot)
{
    if (slot->directory >= 0) close(slot->directory);
    free_held(slot->held);
    free(slot);
}

void vault_close(struct vault *vault)
{
    if (!vault) return;
    if (vault->thread_runs) {
        lock(vault);
        vault->stop = true;
        unlock(vault);
        eventfd_write(vault->wake, 1);
        pthread_join(vault->thread, NULL);
    }
    for (size_t i = 0; i < vault->slot_count; i++) free_slot(vault->slots[i]);
    for (struct slot *gone = vault->gone, *next; gone; gone = next) {
        next = gone->next; /* dropped after the thread ended with its context: the next start sweeps them */
        free_slot(gone);
    }
    free(vault->slots);
    free_held(vault->surplus);
    if (vault->socket) zmq_close(vault->socket);
    if (vault->root >= 0) close(vault->root);
    if (vault->wake >= 0) close(vault->wake);
    if (vault->saved >= 0) close(vault->saved);
    pthread_mutex_destroy(&vault->lock);
    free(vault->buffer);
    free(vault);
}
