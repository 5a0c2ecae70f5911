/*
 * watches.c - see watches.h. Runs on the coordinator's loop thread; holds no locks.
 */
#include "coordinator/watches.h"

#include <stdlib.h>
#include "base/log.h"

enum { BUCKETS = 1024, MAX_WATCHES = 65536 };

struct watch {
    struct watch *next;
    struct wire_peer peer;
    uint64_t request, job;
    uint64_t sent; /* sequence of the last event sent */
    bool behind;   /* there may be more to send */
};

struct watches {
    struct watch *buckets[BUCKETS]; /* by job number */
    size_t count, behind;
};

status_t watches_open(struct watches **watches, struct error *error)
{
    struct watches *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for watches");
    *watches = made;
    return STATUS_OK;
}

/* Keeps the count of those behind, which decides how soon the loop comes back. */
static void set_behind(struct watches *watches, struct watch *watch, bool behind)
{
    watches->behind += behind;
    watches->behind -= watch->behind;
    watch->behind = behind;
}

/* Takes out the watch `*link` points to. */
static void drop(struct watches *watches, struct watch **link)
{
    struct watch *watch = *link;
    *link = watch->next;
    set_behind(watches, watch, false);
    watches->count--;
    free(watch);
}

void watches_close(struct watches *watches)
{
    if (!watches) return;
    for (size_t i = 0; i < BUCKETS; i++)
        while (watches->buckets[i]) drop(watches, &watches->buckets[i]);
    free(watches);
}

/* A client that watches again after a reconnect has another connection: its old watch ends with the old
 * one. */
status_t watches_add(struct watches *watches, const struct wire_peer *peer, uint64_t request, uint64_t job,
                     uint64_t from_sequence, struct error *error)
{
    struct watch **bucket = &watches->buckets[job % BUCKETS], *watch = *bucket;
    while (watch && (watch->job != job || !wire_peer_equal(&watch->peer, peer))) watch = watch->next;
    if (!watch) {
        if (watches->count >= MAX_WATCHES || !(watch = calloc(1, sizeof *watch)))
            return error_set(error, STATUS_NO_MEMORY, "%zu jobs are being watched, no more can be",
                             watches->count);
        watch->next = *bucket;
        *bucket = watch;
        watches->count++;
    }
    watch->peer = *peer;
    watch->request = request;
    watch->job = job;
    watch->sent = from_sequence;
    set_behind(watches, watch, true);
    return STATUS_OK;
}

void watches_wake(struct watches *watches, uint64_t job)
{
    for (struct watch *watch = watches->buckets[job % BUCKETS]; watch; watch = watch->next)
        if (watch->job == job) set_behind(watches, watch, true);
}

bool watches_any(const struct watches *watches, uint64_t job)
{
    for (const struct watch *watch = watches->buckets[job % BUCKETS]; watch; watch = watch->next)
        if (watch->job == job) return true;
    return false;
}

void watches_drop_job(struct watches *watches, uint64_t job)
{
    for (struct watch **link = &watches->buckets[job % BUCKETS]; *link;)
        if ((*link)->job == job)
            drop(watches, link);
        else
            link = &(*link)->next;
}

bool watches_behind(const struct watches *watches)
{
    return watches->behind > 0;
}

/* ------------------------------------------------------------------------------------------------ sending */

static bool is_final(const Refrain__Job *job)
{
    return job->state >= REFRAIN__JOB_STATE__JOB_COMPLETED;
}

/* Not through the outbox: events are read back from what is committed. */
static status_t send_event(struct outbox *outbox, const struct watch *watch, Refrain__Job *job, bool progress_only)
{
    Refrain__Event event = REFRAIN__EVENT__INIT;
    Refrain__Reply reply = REFRAIN__REPLY__INIT;
    event.has_sequence = event.has_progress_only = event.has_last = 1;
    event.sequence = job->sequence;
    event.progress_only = progress_only;
    event.last = is_final(job);
    event.job = job;
    reply.has_id = 1;
    reply.id = watch->request;
    reply.body_case = REFRAIN__REPLY__BODY_EVENT;
    reply.event = &event;
    return outbox_reply_now(outbox, &watch->peer, &reply);
}

struct pump {
    struct outbox *outbox;
    struct jobs *jobs;
    struct watch *watch;
    status_t status; /* of the last sending */
    bool last;       /* the final event was sent */
};

/* Moves the position only when ZeroMQ took the message, so nothing is skipped. */
static bool pump_event(void *context, Refrain__Job *job)
{
    struct pump *pump = context;
    jobs_decorate(pump->jobs, job);
    pump->status = send_event(pump->outbox, pump->watch, job, false);
    if (pump->status == STATUS_OK) {
        pump->watch->sent = job->sequence;
        pump->last = is_final(job);
    }
    refrain__job__free_unpacked(job, NULL);
    return pump->status == STATUS_OK && !pump->last;
}

/* Sends what one watch lacks; says whether the watch is over. */
static bool pump_watch(struct watches *watches, struct pump *pump, struct jobstore *store)
{
    struct watch *watch = pump->watch;
    struct error error;
    status_t status = jobstore_history(store, watch->job, watch->sent, pump_event, pump, &error);
    if (status == STATUS_OK && pump->status == STATUS_OK && !pump->last &&
        !jobs_find(pump->jobs, watch->job)) {
        /* Finished, and the client has seen it all: repeat the last event, so that it does not wait for ever.
         */
        Refrain__Job *job;
        status = jobstore_get(store, NULL, watch->job, &job, &error);
        if (status == STATUS_OK) pump_event(pump, job);
    }
    if (status != STATUS_OK)
        log_line(LOG_ERROR, "watch of job %lu: %s", (unsigned long)watch->job, error.text);
    if (status != STATUS_OK || pump->last) return true;
    set_behind(watches, watch, pump->status == STATUS_AGAIN);
    return pump->status != STATUS_OK && pump->status != STATUS_AGAIN;
}

/* Walks the buckets only while somebody is behind. */
void watches_pump(struct watches *watches, struct jobs *jobs, struct jobstore *store,
                  struct outbox *outbox)
{
    for (size_t i = 0; i < BUCKETS && watches->behind > 0; i++)
        for (struct watch **link = &watches->buckets[i]; *link;) {
            struct pump pump = {.outbox = outbox, .jobs = jobs, .watch = *link};
            if ((*link)->behind && pump_watch(watches, &pump, store))
                drop(watches, link);
            else
                link = &(*link)->next;
        }
}

/* Who has stored events to catch up on gets those first; progress comes again soon. */
void watches_progress(struct watches *watches, struct outbox *outbox, Refrain__Job *job)
{
    for (struct watch **link = &watches->buckets[job->job % BUCKETS]; *link;) {
        struct watch *watch = *link;
        bool wanted = watch->job == job->job && !watch->behind; /* first things first */
        if (wanted && send_event(outbox, watch, job, true) == STATUS_PEER_LOST)
            drop(watches, link);
        else
            link = &watch->next;
    }
}
