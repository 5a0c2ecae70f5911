/*
 * keeper.c - see keeper.h. One thread.
 *
 * Couriers live until keeper_close: parcels on their way may still name one that was closed.
 */
#include "tools/sim/keeper.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tools/sim/world.h"

enum { MOST_JOBS = 4096 };

/* A checkpoint, kept or on its way. */
struct parcel {
    struct parcel *next;
    struct courier *courier;
    struct checkpoint_name name;
    int64_t sent_ns;
    struct error error; /* of an answer: why there are no bytes */
    size_t size;        /* of the buffer */
    unsigned char *bytes;
};

struct courier {
    struct courier *next; /* of all there ever were */
    bool connected, over;
    int64_t since_ns;                   /* over */
    struct parcel *under_way, *waiting; /* under_way: one of each job; waiting: the newest of each */
    struct parcel *arrivals, **arrivals_end;
    struct courier_counts counts;
    void (*wake)(void *context);
    void *context;
};

struct vault {
    struct vault_config config;
    struct parcel *saved, **saved_end; /* names only, for vault_saved */
    struct vault_stats stats;
};

static struct keeper {
    struct keeper_config config;
    struct vault *vault; /* NULL: the coordinator is not there */
    struct parcel *kept; /* newest first */
    struct courier *couriers;
    uint32_t allowed[MOST_JOBS]; /* by job: the attempt that may save; 0: none */
} keeper;

static void free_parcel(struct parcel *parcel)
{
    if (!parcel) return;
    free(parcel->bytes);
    free(parcel);
}

static void free_list(struct parcel *list)
{
    for (struct parcel *next; list; list = next) {
        next = list->next;
        free_parcel(list);
    }
}

static struct parcel *make_parcel(size_t size)
{
    struct parcel *parcel = calloc(1, sizeof *parcel);
    if (!parcel || (size && !(parcel->bytes = malloc(size)))) abort();
    parcel->size = size;
    return parcel;
}

status_t keeper_open(const struct keeper_config *config, struct error *error)
{
    keeper = (struct keeper){.config = *config};
    return STATUS_OK;
}

void keeper_close(void)
{
    for (struct courier *c = keeper.couriers, *next; c; c = next) {
        next = c->next;
        free_list(c->under_way);
        free_list(c->waiting);
        free_list(c->arrivals);
        free(c);
    }
    free_list(keeper.kept);
    keeper = (struct keeper){0};
}

static int64_t travel_ns(uint64_t bytes)
{
    double seconds = keeper.config.bytes_per_second > 0 ? (double)bytes / keeper.config.bytes_per_second : 0;
    return keeper.config.delay_ns + (int64_t)(seconds * (double)SECOND_NS);
}

/* ------------------------------------------------------------------------------------------------ courier */

status_t courier_open(const struct courier_config *config, struct courier **courier, struct error *error)
{
    struct courier *c = calloc(1, sizeof *c);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual courier");
    c->arrivals_end = &c->arrivals;
    c->next = keeper.couriers;
    keeper.couriers = c;
    *courier = c;
    return STATUS_OK;
}

void courier_close(struct courier *c)
{
    if (c) keeper_kill(c);
}

void keeper_kill(struct courier *c)
{
    if (!c->over) c->since_ns = world_now_ns();
    c->over = true;
    c->wake = NULL;
}

void keeper_notify(struct courier *c, void (*wake)(void *context), void *context)
{
    c->wake = wake;
    c->context = context;
}

void courier_connect(struct courier *c, const char *endpoint)
{
    c->connected = endpoint && *endpoint;
}

/* The place in a list where a job's parcel is, or the list's end. */
static struct parcel **of_job(struct parcel **list, uint64_t job)
{
    while (*list && (*list)->name.job != job) list = &(*list)->next;
    return list;
}

static struct parcel *take_out(struct parcel **place)
{
    struct parcel *parcel = *place;
    if (parcel) *place = parcel->next;
    return parcel;
}

static void drop_waiting(struct courier *c, uint64_t job)
{
    for (struct parcel *parcel; (parcel = take_out(of_job(&c->waiting, job)));) {
        c->counts.dropped += parcel->sent_ns != CLOCK_NEVER;
        free_parcel(parcel);
    }
}

void *courier_buffer(struct courier *c, uint64_t job, size_t bytes, bool mark)
{
    if (!c->connected) return NULL;
    drop_waiting(c, job);
    struct parcel *parcel = make_parcel(bytes);
    parcel->name.job = job;
    parcel->sent_ns = CLOCK_NEVER; /* being filled */
    parcel->next = c->waiting;
    c->waiting = parcel;
    return parcel->bytes;
}

static void save_arrives(void *parcel, uint64_t unused);

static void send_parcel(struct courier *c, struct parcel *parcel)
{
    parcel->courier = c;
    parcel->sent_ns = clock_now_ns();
    parcel->next = c->under_way;
    c->under_way = parcel;
    world_at(parcel->sent_ns + travel_ns(parcel->name.bytes), WORLD_ARRIVES, save_arrives, parcel, 0);
}

void courier_send(struct courier *c, void *buffer, const struct checkpoint_name *name)
{
    struct parcel **place = &c->waiting;
    while (*place && (*place)->bytes != buffer) place = &(*place)->next;
    struct parcel *parcel = take_out(place);
    if (!parcel) abort(); /* not a buffer of courier_buffer */
    parcel->name = *name;
    parcel->name.xxh64 = XXH64(parcel->bytes, name->bytes, 0);
    if (!*of_job(&c->under_way, name->job)) {
        send_parcel(c, parcel);
        return;
    }
    parcel->next = c->waiting;
    parcel->sent_ns = 0; /* waits */
    c->waiting = parcel;
}

bool courier_has_marks(const struct courier *c, uint64_t job)
{
    return false;
}

void courier_forget(struct courier *c, uint64_t job)
{
    drop_waiting(c, job);
}

static void answer(struct courier *c, struct parcel *parcel)
{
    parcel->next = NULL;
    *c->arrivals_end = parcel;
    c->arrivals_end = &parcel->next;
    if (c->wake) c->wake(c->context);
}

static void fetch_arrives(void *context, uint64_t unused)
{
    struct parcel *wanted = context;
    const struct parcel *found = keeper.kept;
    while (found && (found->name.job != wanted->name.job || found->name.attempt != wanted->name.attempt ||
                     found->name.step != wanted->name.step))
        found = found->next;
    if (!found || !keeper.vault) {
        error_set(&wanted->error, STATUS_NOT_FOUND, "the vault does not have it");
    } else {
        wanted->bytes = malloc(found->name.bytes);
        if (!wanted->bytes) abort();
        memcpy(wanted->bytes, found->bytes, found->name.bytes);
        keeper.vault->stats.loaded++;
    }
    answer(wanted->courier, wanted);
}

void courier_fetch(struct courier *c, const struct checkpoint_name *name)
{
    struct parcel *parcel = make_parcel(0);
    parcel->courier = c;
    parcel->name = *name;
    world_at(clock_now_ns() + travel_ns(name->bytes), WORLD_ARRIVES, fetch_arrives, parcel, 0);
}

bool courier_take(struct courier *c, struct courier_arrival *arrival)
{
    struct parcel *parcel = take_out(&c->arrivals);
    if (!parcel) return false;
    if (!c->arrivals) c->arrivals_end = &c->arrivals;
    *arrival = (struct courier_arrival){.name = parcel->name, .bytes = parcel->bytes, .error = parcel->error};
    free(parcel);
    return true;
}

void courier_free(struct courier_arrival *arrival)
{
    free(arrival->bytes);
    arrival->bytes = NULL;
}

/* Nobody sleeps on the virtual clock. */
int courier_descriptor(const struct courier *c)
{
    return -1;
}

void courier_counts(const struct courier *c, struct courier_counts *counts)
{
    *counts = c->counts;
}

/* -------------------------------------------------------------------------------------------------- vault */

static uint32_t *allowed(uint64_t job)
{
    return &keeper.allowed[job % MOST_JOBS];
}

static void keep(struct parcel *parcel)
{
    parcel->next = keeper.kept;
    keeper.kept = parcel;
    int count = 0;
    for (struct parcel **place = &keeper.kept; *place;) {
        bool same = (*place)->name.job == parcel->name.job;
        if (same && ++count > keeper.vault->config.keep)
            free_parcel(take_out(place));
        else
            place = &(*place)->next;
    }
    struct parcel *note = make_parcel(0);
    note->name = parcel->name;
    *keeper.vault->saved_end = note;
    keeper.vault->saved_end = &note->next;
    keeper.vault->stats.saved++;
}

/* The rank hears of it at once: a message less matters to nobody. */
static void save_arrives(void *context, uint64_t unused)
{
    struct parcel *parcel = context;
    struct courier *c = parcel->courier;
    struct parcel **place = &c->under_way;
    while (*place != parcel) place = &(*place)->next;
    take_out(place);
    bool never_sent = c->over && parcel->sent_ns > c->since_ns;
    bool counts = keeper.vault && *allowed(parcel->name.job) == parcel->name.attempt;
    uint64_t job = parcel->name.job;
    if (keeper.vault && !counts) keeper.vault->stats.refused++;
    if (counts && !never_sent) {
        c->counts.saved++;
        c->counts.bytes += parcel->name.bytes;
        keep(parcel);
    } else {
        c->counts.dropped++;
        free_parcel(parcel);
    }
    struct parcel **next = of_job(&c->waiting, job);
    if (*next && (*next)->sent_ns != CLOCK_NEVER && !c->over) send_parcel(c, take_out(next));
}

status_t vault_open(const struct vault_config *config, struct vault **vault, struct error *error)
{
    struct vault *v = calloc(1, sizeof *v);
    if (!v) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual vault");
    v->config = *config;
    v->saved_end = &v->saved;
    memset(keeper.allowed, 0, sizeof keeper.allowed);
    keeper.vault = v;
    *vault = v;
    return STATUS_OK;
}

void vault_close(struct vault *v)
{
    if (!v) return;
    free_list(v->saved);
    keeper.vault = NULL;
    free(v);
}

const char *vault_endpoint(const struct vault *v)
{
    return "virtual";
}

void vault_allow(struct vault *v, uint64_t job, uint32_t attempt)
{
    *allowed(job) = attempt;
}

void vault_forbid(struct vault *v, uint64_t job)
{
    *allowed(job) = 0;
}

void vault_drop(struct vault *v, uint64_t job)
{
    *allowed(job) = 0;
    for (struct parcel *parcel; (parcel = take_out(of_job(&keeper.kept, job)));) free_parcel(parcel);
}

/* Nobody goes on from another's checkpoints here: of a job that is over nothing stays. */
void vault_retire(struct vault *v, uint64_t job)
{
    vault_drop(v, job);
}

void vault_mark(struct vault *v, uint64_t job, uint32_t stride) {}

size_t vault_steps(const struct vault *v, uint64_t job, uint32_t *steps, size_t room)
{
    return 0;
}

status_t vault_lend(struct vault *v, uint64_t job, uint32_t step, uint64_t borrower, struct error *error)
{
    return error_set(error, STATUS_NOT_FOUND, "a virtual vault lends nothing");
}

bool vault_origin(const struct vault *v, uint64_t job, struct checkpoint *checkpoint)
{
    return false;
}

void vault_sweep(struct vault *v, bool (*wanted)(void *context, uint64_t job), void *context)
{
    for (struct parcel **place = &keeper.kept; *place;)
        if (wanted(context, (*place)->name.job))
            place = &(*place)->next;
        else
            free_parcel(take_out(place));
}

static struct checkpoint as_checkpoint(const struct checkpoint_name *name)
{
    return (struct checkpoint){.job = name->job,
                               .attempt = name->attempt,
                               .step = name->step,
                               .bytes = name->bytes,
                               .xxh64 = name->xxh64};
}

/* Ranks have no cache tier here, so nobody asks. */
bool vault_find_run(struct vault *v, const struct key *run, uint32_t after, struct checkpoint *checkpoint,
                    struct run_point *point)
{
    return false;
}

bool vault_latest(const struct vault *v, uint64_t job, struct checkpoint *checkpoint)
{
    const struct parcel *best = NULL;
    for (const struct parcel *p = keeper.kept; p; p = p->next) {
        if (p->name.job != job) continue;
        bool more = !best || p->name.step > best->name.step ||
                    (p->name.step == best->name.step && p->name.attempt > best->name.attempt);
        if (more) best = p;
    }
    if (best) *checkpoint = as_checkpoint(&best->name);
    return best != NULL;
}

void vault_spoil(struct vault *v, const struct checkpoint *checkpoint)
{
    for (struct parcel **place = &keeper.kept; *place; place = &(*place)->next)
        if ((*place)->name.job == checkpoint->job && (*place)->name.attempt == checkpoint->attempt &&
            (*place)->name.step == checkpoint->step) {
            free_parcel(take_out(place));
            return;
        }
}

int vault_descriptor(const struct vault *v)
{
    return -1;
}

bool vault_saved(struct vault *v, struct checkpoint *checkpoint)
{
    struct parcel *note = take_out(&v->saved);
    if (!note) return false;
    if (!v->saved) v->saved_end = &v->saved;
    *checkpoint = as_checkpoint(&note->name);
    free_parcel(note);
    return true;
}

void vault_stats(const struct vault *v, struct vault_stats *stats)
{
    *stats = v->stats;
    stats->bytes = 0;
    for (const struct parcel *p = keeper.kept; p; p = p->next) stats->bytes += p->name.bytes;
}
