/*
 * fabric_lane_end.c - how an epoch's communicators are made room for, and given up.
 *
 * lane_begin and lane_end are called by the fabric's I/O thread. Giving up is the work of a thread of its own
 * (give_up), and each ncclCommAbort that of another (abort_one): an abort may hang.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/fabric_lane_core.h"

enum { PARK_MS = 1000 }; /* what a call that is under way may take to come back before aborts begin */

struct abort {
    struct lane *lane;
    void *comm;
    int *left; /* lane->lock: aborts that are not done */
};

/* ------------------------------------------------------------------------------------------------- begin */

static status_t fit_scratch(struct lane *lane, int count, struct error *error)
{
    if (count <= lane->scratch_count) return STATUS_OK;
    if (lane->scratch) lane->nccl.release(lane->scratch);
    lane->scratch = NULL;
    lane->scratch_count = 0;
    int result = lane->nccl.set_device(lane->config.device);
    if (result == CUDA_SUCCESS)
        result = lane->nccl.allocate(&lane->scratch, (size_t)2 * (size_t)count * LANE_SCRATCH_BYTES);
    if (result != CUDA_SUCCESS)
        return error_set(error, STATUS_NO_MEMORY, "fabric nccl: no memory on GPU %d: %s", lane->config.device,
                         lane->nccl.cuda_error_string(result));
    lane->scratch_count = count;
    return STATUS_OK;
}

status_t fabric_lane_begin(struct lane *lane, uint64_t epoch, int self, int count, struct error *error)
{
    struct channel *channels = calloc((size_t)count, 2 * sizeof *channels);
    if (!channels) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %d members", count);
    status_t status = fit_scratch(lane, count, error);
    if (status != STATUS_OK) {
        free(channels);
        return status;
    }
    pthread_mutex_lock(&lane->lock);
    free(lane->channels);
    lane->channels = channels;
    lane->epoch = epoch;
    lane->self = self;
    lane->count = count;
    lane->failed = false;
    lane->live = true;
    pthread_mutex_unlock(&lane->lock);
    return STATUS_OK;
}

/* --------------------------------------------------------------------------------------------------- end */

static void *abort_one(void *argument)
{
    struct abort *abort = argument;
    struct lane *lane = abort->lane;
    lane->nccl.set_device(lane->config.device);
    lane->nccl.comm_abort(abort->comm); /* whatever it answers, the communicator is gone */
    pthread_mutex_lock(&lane->lock);
    --*abort->left;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock);
    return NULL;
}

static bool start_detached(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return failed == 0;
}

/* Waits until *left is 0, or for `parked`; false: not in time. Lock held. */
static bool await(struct lane *lane, const int *left, const bool *parked, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / SECOND_NS, .tv_nsec = until_ns % SECOND_NS};
    while (left ? *left > 0 : !*parked)
        if (pthread_cond_timedwait(&lane->changed, &lane->lock, &until) != 0) break;
    return left ? *left == 0 : *parked;
}

static void quit(const struct lane *lane, const char *what) __attribute__((noreturn));

static void quit(const struct lane *lane, const char *what)
{
    log_line(LOG_ERROR,
             "fabric nccl: epoch %" PRIu64 ": %s within %" PRId64
             " ms: this process ends, so that another can take its place",
             lane->epoch, what, lane->config.abort_ns / MILLISECOND_NS);
    _exit(LANE_EXIT);
}

/* Aborts all communicators at the same time. Lock held on entry and exit. */
static void abort_all(struct lane *lane, int64_t until_ns)
{
    struct abort *aborts = calloc((size_t)lane->count, 2 * sizeof *aborts);
    int left = 0;
    if (!aborts) quit(lane, "there is no memory to give up communicators");
    for (int i = 0; i < 2 * lane->count; i++)
        if (lane->channels[i].comm)
            aborts[left++] = (struct abort){.lane = lane, .comm = lane->channels[i].comm, .left = &left};
    int count = left;
    pthread_mutex_unlock(&lane->lock);
    for (int i = 0; i < count; i++)
        if (!start_detached(abort_one, &aborts[i])) abort_one(&aborts[i]);
    pthread_mutex_lock(&lane->lock);
    if (!await(lane, &left, NULL, until_ns)) quit(lane, "communicators could not be given up");
    free(aborts);
}

/* Their kernels are gone with the communicators. */
static void destroy_streams(struct lane *lane)
{
    for (int i = 0; i < 2 * lane->count; i++) {
        if (lane->channels[i].stream) lane->nccl.stream_destroy(lane->channels[i].stream);
        lane->channels[i] = (struct channel){0};
    }
}

/* Nobody asks any more whether a transfer is done. */
static void drop_marks(struct lane *lane)
{
    for (struct lane_job *job = lane->working.first; job; job = job->next) {
        if (job->kind == LANE_WATCH) continue;
        fabric_lane_unmark(lane, job->event);
        job->event = NULL;
    }
}

/* Everything that is not done, and belongs to the epoch, is failed; what concerns memory alone stays. Lock
 * held. */
static void return_jobs(struct lane *lane)
{
    struct lane_queue kept;
    fabric_lane_queue_init(&kept);
    for (int i = 0; i < 2; i++) {
        struct lane_queue *queue = i == 0 ? &lane->working : &lane->given;
        for (struct lane_job *job; (job = fabric_lane_queue_take(queue)) != NULL;) {
            if (job->kind == LANE_ALLOCATE || job->kind == LANE_FREE) {
                fabric_lane_queue_add(&kept, job);
                continue;
            }
            job->failed = true;
            fabric_lane_queue_add(&lane->finished, job);
        }
    }
    for (struct lane_job *job; (job = fabric_lane_queue_take(&kept)) != NULL;)
        fabric_lane_queue_add(&lane->given, job);
}

static void *give_up(void *argument)
{
    struct lane *lane = argument;
    int64_t until_ns = clock_now_ns() + lane->config.abort_ns;
    lane->nccl.set_device(lane->config.device);
    pthread_mutex_lock(&lane->lock);
    int64_t park_ns = clock_now_ns() + PARK_MS * MILLISECOND_NS;
    await(lane, NULL, &lane->parked, park_ns < until_ns ? park_ns : until_ns);
    abort_all(lane, until_ns);
    /* A call that hung comes back once its communicator is aborted. */
    if (!await(lane, NULL, &lane->parked, until_ns)) quit(lane, "a call of NCCL did not come back");
    pthread_mutex_unlock(&lane->lock);
    destroy_streams(lane);
    drop_marks(lane);
    pthread_mutex_lock(&lane->lock);
    return_jobs(lane);
    lane->live = lane->ending = lane->parked = false;
    fabric_lane_ring(lane);
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock); /* the lane may be closed from here on */
    return NULL;
}

void fabric_lane_end(struct lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    bool begins = lane->live && !lane->ending;
    if (begins) lane->ending = true;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock);
    if (begins && !start_detached(give_up, lane))
        quit(lane, "communicators could not be given up: no thread:");
}

void fabric_lane_await_end(struct lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    while (lane->live) pthread_cond_wait(&lane->changed, &lane->lock);
    pthread_mutex_unlock(&lane->lock);
}
