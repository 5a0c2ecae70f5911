/*
 * courier.c - see courier.h. What the compute thread calls: pointers change hands under one lock, which is
 * never held for longer. The thread that hashes, sends and receives is courier_io.c's.
 */
#include "worker/courier_core.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "proto/uplink.h"

#define PATIENCE_NS  (60 * SECOND_NS)
#define ROUND_BYTES  ((size_t)64 << 10) /* sizes grow a little from step to step */
#define LARGEST_SIZE (SIZE_MAX / 4)

static void wake(struct courier *courier)
{
    eventfd_write(courier->wake, 1);
}

/* ------------------------------------------------------------------------------------------------ buffers */

void courier_recycle(struct courier *courier, struct buffer *buffer)
{
    if (!buffer) return;
    buffer->next = courier->pool;
    courier->pool = buffer;
    courier->pool_count++;
}

/* The smallest that fits; NULL: none does. */
static struct buffer *take_pooled(struct courier *courier, size_t bytes)
{
    struct buffer **best = NULL;
    for (struct buffer **link = &courier->pool; *link; link = &(*link)->next)
        if ((*link)->capacity >= bytes && (!best || (*link)->capacity < (*best)->capacity)) best = link;
    if (!best) return NULL;
    struct buffer *buffer = *best;
    *best = buffer->next;
    courier->pool_count--;
    return buffer;
}

static struct buffer *make_buffer(size_t bytes)
{
    if (bytes > LARGEST_SIZE) return NULL;
    size_t capacity = (bytes + bytes / 8 + ROUND_BYTES - 1) / ROUND_BYTES * ROUND_BYTES;
    struct buffer *buffer = aligned_alloc(_Alignof(struct buffer), sizeof *buffer + capacity);
    if (buffer) buffer->capacity = capacity;
    return buffer;
}

static struct buffer *buffer_of(void *bytes)
{
    return (struct buffer *)((uint8_t *)bytes - offsetof(struct buffer, bytes));
}

/* --------------------------------------------------------------------------------------------------- jobs */

static struct outgoing *find_job(struct courier *courier, uint64_t job)
{
    for (int i = 0; i < COURIER_JOBS; i++)
        if (courier->jobs[i].job == job && !courier->jobs[i].forgotten) return &courier->jobs[i];
    return NULL;
}

/* Found or made; NULL: all are taken. */
static struct outgoing *get_job(struct courier *courier, uint64_t job)
{
    struct outgoing *found = find_job(courier, job);
    if (found) return found;
    for (int i = 0; i < COURIER_JOBS; i++) {
        if (courier->jobs[i].job) continue;
        courier->jobs[i].job = job;
        return &courier->jobs[i];
    }
    return NULL;
}

static int count_jobs(const struct courier *courier)
{
    int count = 0;
    for (int i = 0; i < COURIER_JOBS; i++) count += courier->jobs[i].job && !courier->jobs[i].forgotten;
    return count;
}

/* Nothing of it is filled, waits or is sent any more. */
static void free_job(struct outgoing *job)
{
    job->job = 0;
    job->forgotten = false;
    job->next_ns = 0;
}

void courier_settle(struct courier *courier, struct outgoing *job, bool kept)
{
    courier->counts.saved += kept;
    courier->counts.dropped += !kept;
    if (kept) courier->counts.bytes += job->sending->name.bytes;
    if (job->sending->mark) eventfd_write(courier->arrived, 1); /* somebody may wait for it */
    courier_recycle(courier, job->sending);
    job->sending = NULL;
    if (job->forgotten && !job->waiting) free_job(job);
}

static void drop(struct courier *courier, struct buffer **link)
{
    struct buffer *buffer = *link;
    *link = buffer->next;
    courier->counts.dropped++;
    courier_recycle(courier, buffer);
}

void courier_drop_waiting(struct courier *courier, struct outgoing *job, bool marks)
{
    for (struct buffer **link = &job->waiting; *link;)
        if (marks || !(*link)->mark)
            drop(courier, link);
        else
            link = &(*link)->next;
}

/* Behind what waits already; marks that would be too much make way, the oldest first. */
static void append(struct courier *courier, struct outgoing *job, struct buffer *buffer)
{
    uint64_t bytes = buffer->name.bytes;
    struct buffer **link = &job->waiting;
    for (; *link; link = &(*link)->next) bytes += (*link)->name.bytes;
    *link = buffer;
    buffer->next = NULL;
    while (bytes > COURIER_MARKS && job->waiting != buffer) {
        bytes -= job->waiting->name.bytes;
        drop(courier, &job->waiting);
    }
}

/* What waits is older than what is about to be made: its buffer serves again. */
void *courier_buffer(struct courier *courier, uint64_t job, size_t bytes, bool mark)
{
    struct buffer *buffer = NULL;
    pthread_mutex_lock(&courier->lock);
    struct outgoing *outgoing = courier->endpoint[0] && job && bytes ? get_job(courier, job) : NULL;
    if (outgoing && !mark && courier->pace_ns && clock_now_ns() < outgoing->next_ns) outgoing = NULL;
    if (outgoing) {
        courier_recycle(courier, outgoing->filling);
        outgoing->filling = NULL;
        courier_drop_waiting(courier, outgoing, false);
        buffer = take_pooled(courier, bytes);
        outgoing->filling = buffer;
    }
    pthread_mutex_unlock(&courier->lock);
    if (!outgoing) return NULL;
    if (!buffer) {
        if (!(buffer = make_buffer(bytes))) return NULL;
        /* Only this thread makes and forgets jobs: the entry is still there. */
        pthread_mutex_lock(&courier->lock);
        outgoing->filling = buffer;
        pthread_mutex_unlock(&courier->lock);
    }
    buffer->mark = mark;
    return buffer->bytes;
}

void courier_send(struct courier *courier, void *bytes, const struct checkpoint_name *name)
{
    struct buffer *buffer = buffer_of(bytes);
    pthread_mutex_lock(&courier->lock);
    struct outgoing *job = find_job(courier, name->job);
    bool fits = job && job->filling == buffer && name->bytes && name->bytes <= buffer->capacity;
    if (fits) {
        buffer->name = *name;
        buffer->deadline_ns = clock_now_ns() + courier->patience_ns;
        job->filling = NULL;
        append(courier, job, buffer);
        job->next_ns = clock_now_ns() + courier->pace_ns * count_jobs(courier);
    }
    pthread_mutex_unlock(&courier->lock);
    if (fits)
        wake(courier);
    else
        log_line(LOG_ERROR, "job %" PRIu64 ": a checkpoint of %" PRIu64 " bytes is not in its buffer",
                 name->job, name->bytes);
}

bool courier_has_marks(const struct courier *courier, uint64_t job)
{
    struct courier *c = (struct courier *)(uintptr_t)courier; /* its lock, and find_job, are not const */
    pthread_mutex_lock(&c->lock);
    const struct outgoing *found = find_job(c, job);
    bool has = found && found->sending && found->sending->mark;
    for (const struct buffer *buffer = found ? found->waiting : NULL; buffer; buffer = buffer->next)
        has |= buffer->mark;
    pthread_mutex_unlock(&c->lock);
    return has;
}

void courier_forget(struct courier *courier, uint64_t job)
{
    pthread_mutex_lock(&courier->lock);
    struct outgoing *found = job ? find_job(courier, job) : NULL;
    if (found) {
        courier_recycle(courier, found->filling);
        found->filling = NULL;
        courier_drop_waiting(courier, found, false);
        found->forgotten = true;
        if (!found->sending && !found->waiting) free_job(found);
    }
    pthread_mutex_unlock(&courier->lock);
    if (found) wake(courier); /* it frees what the pool has too much */
}

/* ----------------------------------------------------------------------------------------------- fetching */

void courier_arrive(struct courier *courier, struct fetch *fetch)
{
    fetch->state = FETCH_ARRIVED;
    fetch->order = courier->arrivals++;
    eventfd_write(courier->arrived, 1);
}

void courier_fetch(struct courier *courier, const struct checkpoint_name *name)
{
    struct fetch *fetch = NULL;
    pthread_mutex_lock(&courier->lock);
    for (int i = 0; i < COURIER_JOBS && !fetch; i++)
        if (courier->fetches[i].state == FETCH_FREE) fetch = &courier->fetches[i];
    if (fetch) {
        *fetch = (struct fetch){
            .state = FETCH_UNDERWAY, .name = *name, .deadline_ns = clock_now_ns() + courier->patience_ns};
    }
    if (fetch && !courier->endpoint[0]) {
        error_set(&fetch->error, STATUS_NOT_FOUND, "job %" PRIu64 ": nobody keeps checkpoints", name->job);
        courier_arrive(courier, fetch);
    }
    pthread_mutex_unlock(&courier->lock);
    if (fetch)
        wake(courier);
    else
        log_line(LOG_ERROR, "job %" PRIu64 ": %d checkpoints are being fetched already", name->job,
                 COURIER_JOBS);
}

bool courier_take(struct courier *courier, struct courier_arrival *arrival)
{
    struct fetch *first = NULL;
    int left = 0;
    pthread_mutex_lock(&courier->lock);
    for (int i = 0; i < COURIER_JOBS; i++) {
        struct fetch *fetch = &courier->fetches[i];
        if (fetch->state != FETCH_ARRIVED) continue;
        left++;
        if (!first || fetch->order < first->order) first = fetch;
    }
    if (first) {
        *arrival = (struct courier_arrival){first->name, first->bytes, first->error};
        *first = (struct fetch){.state = FETCH_FREE};
    }
    if (left <= 1) {
        /* Emptied under the lock: an arrival after this makes the descriptor readable again. */
        eventfd_t ignored;
        eventfd_read(courier->arrived, &ignored);
    }
    pthread_mutex_unlock(&courier->lock);
    return first != NULL;
}

void courier_free(struct courier_arrival *arrival)
{
    free(arrival->bytes);
    arrival->bytes = NULL;
}

int courier_descriptor(const struct courier *courier)
{
    return courier->arrived;
}

/* ----------------------------------------------------------------------------------------------- the rest */

void courier_connect(struct courier *courier, const char *endpoint)
{
    char reached[ENDPOINT_BYTES];
    if (!endpoint) endpoint = "";
    if (courier->coordinator && strlen(endpoint) < ENDPOINT_BYTES) {
        uplink_beside(courier->coordinator, endpoint, reached, sizeof reached);
        endpoint = reached;
    }
    if (strlen(endpoint) >= ENDPOINT_BYTES) {
        log_line(LOG_ERROR, "checkpoints: the endpoint of %zu bytes is too long: they are not kept",
                 strlen(endpoint));
        endpoint = "";
    }
    pthread_mutex_lock(&courier->lock);
    bool other = strcmp(courier->endpoint, endpoint) != 0;
    if (other) {
        snprintf(courier->endpoint, sizeof courier->endpoint, "%s", endpoint);
        courier->endpoint_changed = true;
    }
    pthread_mutex_unlock(&courier->lock);
    if (other) wake(courier);
}

void courier_counts(const struct courier *courier, struct courier_counts *counts)
{
    /* The lock is no part of what a const courier promises. */
    pthread_mutex_t *lock = &((struct courier *)(uintptr_t)courier)->lock;
    pthread_mutex_lock(lock);
    *counts = courier->counts;
    pthread_mutex_unlock(lock);
}

static void free_courier(struct courier *courier)
{
    for (int i = 0; i < COURIER_JOBS; i++) {
        struct outgoing *job = &courier->jobs[i];
        free(job->filling);
        for (struct buffer *buffer = job->waiting, *next; buffer; buffer = next) {
            next = buffer->next;
            free(buffer);
        }
        free(job->sending);
        free(courier->fetches[i].bytes);
    }
    for (struct buffer *buffer = courier->pool, *next; buffer; buffer = next) {
        next = buffer->next;
        free(buffer);
    }
    if (courier->wake >= 0) close(courier->wake);
    if (courier->arrived >= 0) close(courier->arrived);
    pthread_mutex_destroy(&courier->lock);
    free(courier);
}

status_t courier_open(const struct courier_config *config, struct courier **courier, struct error *error)
{
    status_t status = STATUS_OK;
    struct courier *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for checkpoints");
    pthread_mutex_init(&made->lock, NULL);
    made->coordinator = config->coordinator;
    made->public_key = config->public_key;
    made->secret_key = config->secret_key;
    made->server_key = config->server_key;
    made->pace_ns = config->pace_ns;
    made->patience_ns = config->patience_ns > 0 ? config->patience_ns : PATIENCE_NS;
    made->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    made->arrived = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made->wake < 0 || made->arrived < 0)
        status = error_set(error, STATUS_IO, "checkpoints: eventfd: %m");
    else if ((errno = pthread_create(&made->thread, NULL, courier_serve, made)) != 0)
        status = error_set(error, STATUS_IO, "the thread for checkpoints cannot be started: %m");
    if (status == STATUS_OK)
        *courier = made;
    else
        free_courier(made);
    return status;
}

void courier_close(struct courier *courier)
{
    if (!courier) return;
    pthread_mutex_lock(&courier->lock);
    courier->stop = true;
    pthread_mutex_unlock(&courier->lock);
    wake(courier);
    pthread_join(courier->thread, NULL);
    free_courier(courier);
}
