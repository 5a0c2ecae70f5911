/*
 * fabric_lane.c - see fabric_lane.h: the thread itself, and what is called from outside.
 *
 * The thread takes jobs one by one, begins them, and looks again and again at what it has begun. Locks
 * lane->lock for moments only; it is never held during a call of CUDA or NCCL.
 */
#include "cluster/fabric_lane.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/fabric_lane_core.h"

enum {
    CONNECT_MS =
        60000, /* NCCL itself tries as long to reach a rank that refuses; a join has its own deadline */
    /* A look at what is under way every so often, the longer nothing happened the seldomer. */
    NAP_SHORT_US = 20,
    NAP_LONG_US = 500,
    NAP_SHARE = 16, /* of the time since something happened */
};
/* Slower than any link: 100 MB/s. Large payloads get that much more time. */
#define BYTES_PER_NS 0.1

/* ------------------------------------------------------------------------------------------------- queues */

void fabric_lane_queue_init(struct lane_queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

void fabric_lane_queue_add(struct lane_queue *queue, struct lane_job *job)
{
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

struct lane_job *fabric_lane_queue_take(struct lane_queue *queue)
{
    struct lane_job *job = queue->first;
    if (!job) return NULL;
    queue->first = job->next;
    if (!queue->first) queue->end = &queue->first;
    return job;
}

void fabric_lane_ring(struct lane *lane)
{
    uint64_t one = 1;
    ssize_t written = write(lane->config.wake_fd, &one, sizeof one); /* fails only when it is rung already */
    (void)written;
}

void fabric_lane_give(struct lane *lane, struct lane_job *job)
{
    job->failed = false;
    pthread_mutex_lock(&lane->lock);
    fabric_lane_queue_add(&lane->given, job);
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock);
}

struct lane_job *fabric_lane_take(struct lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    struct lane_job *job = fabric_lane_queue_take(&lane->finished);
    pthread_mutex_unlock(&lane->lock);
    return job;
}

static void finish(struct lane *lane, struct lane_job *job)
{
    pthread_mutex_lock(&lane->lock);
    fabric_lane_queue_add(&lane->finished, job);
    pthread_mutex_unlock(&lane->lock);
    fabric_lane_ring(lane);
}

/* ------------------------------------------------------------------------------------------------ failure */

/* The epoch cannot go on. The first sentence counts: the others follow from it. */
static void fail(struct lane *lane, int peer, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void fail(struct lane *lane, int peer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&lane->lock);
    if (!lane->failed && !lane->ending) {
        lane->failed = true;
        lane->failed_peer = peer;
        vsnprintf(lane->why, sizeof lane->why, format, arguments);
    }
    pthread_mutex_unlock(&lane->lock);
    va_end(arguments);
    fabric_lane_ring(lane);
}

bool fabric_lane_failed(struct lane *lane, int *peer, char why[LANE_WHY_BYTES])
{
    pthread_mutex_lock(&lane->lock);
    bool failed = lane->failed;
    if (failed) {
        *peer = lane->failed_peer;
        memcpy(why, lane->why, LANE_WHY_BYTES);
    }
    pthread_mutex_unlock(&lane->lock);
    return failed;
}

/* No NCCL call is made any more. */
static bool is_over(struct lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    bool over = lane->failed || lane->ending || !lane->live;
    pthread_mutex_unlock(&lane->lock);
    return over;
}

/* ------------------------------------------------------------------------------------------------- events */

static int event_take(struct lane *lane, void **event)
{
    pthread_mutex_lock(&lane->lock);
    *event = lane->event_count > 0 ? lane->events[--lane->event_count] : NULL;
    pthread_mutex_unlock(&lane->lock);
    return *event ? CUDA_SUCCESS : lane->nccl.event_create(event, CUDA_EVENT_DISABLE_TIMING);
}

void fabric_lane_unmark(struct lane *lane, void *event)
{
    if (!event) return;
    pthread_mutex_lock(&lane->lock);
    if (lane->event_count == lane->event_room) {
        int room = lane->event_room ? 2 * lane->event_room : 16;
        void **more = realloc(lane->events, (size_t)room * sizeof *more);
        if (more) {
            lane->events = more;
            lane->event_room = room;
        }
    }
    bool kept = lane->event_count < lane->event_room;
    if (kept) lane->events[lane->event_count++] = event;
    pthread_mutex_unlock(&lane->lock);
    if (!kept) lane->nccl.event_destroy(event);
}

status_t fabric_lane_mark(struct lane *lane, void **event, struct error *error)
{
    *event = NULL;
    if (!lane->config.stream) return STATUS_OK;
    int result = lane->nccl.set_device(lane->config.device);
    if (result == CUDA_SUCCESS) result = event_take(lane, event);
    if (result == CUDA_SUCCESS) result = lane->nccl.event_record(*event, lane->config.stream);
    if (result == CUDA_SUCCESS) return STATUS_OK;
    fabric_lane_unmark(lane, *event);
    *event = NULL;
    return error_set(error, STATUS_INTERNAL, "fabric nccl: the payload's stream cannot be marked: %s",
                     lane->nccl.cuda_error_string(result));
}

/* ------------------------------------------------------------------------------------------ communicators */

static struct channel *channel_of(struct lane *lane, const struct lane_job *job)
{
    return &lane->channels[2 * job->peer + (job->outward ? 1 : 0)];
}

static void nap_us(long us)
{
    const struct timespec pause = {.tv_nsec = us * 1000};
    nanosleep(&pause, NULL);
}

/* Calls of a communicator that does not block may return before they are done; nothing else may be given to
 * it, or to its stream, until then. */
static int await_call(struct lane *lane, void *comm, int result, int64_t until_ns)
{
    while (result == NCCL_IN_PROGRESS && !atomic_load(&lane->ending) && clock_now_ns() < until_ns) {
        nap_us(NAP_SHORT_US);
        int asked = lane->nccl.comm_state(comm, &result);
        if (asked != NCCL_SUCCESS) return asked;
    }
    return result;
}

/* A transfer was issued (send, receive), or is done (sent, received). */
static void log_order(struct lane *lane, const struct lane_job *job, const char *verb)
{
    if (!lane->log) return;
    int from = job->outward ? lane->self : job->peer, to = job->outward ? job->peer : lane->self;
    fprintf(lane->log, "%" PRIu64 " %d %s %d %d %" PRIu64 " %" PRIu64 "\n", lane->epoch, lane->self, verb,
            from, to, job->bytes, job->stamp);
}

static const char *say(struct lane *lane, int result)
{
    return result == NCCL_IN_PROGRESS ? "the call did not come back in time"
                                      : lane->nccl.error_string(result);
}

/* False: it failed, and that was said. */
static bool begin_connect(struct lane *lane, struct lane_job *job)
{
    struct channel *channel = channel_of(lane, job);
    struct nccl_config config;
    nccl_config_init(&config);
    int cuda = lane->nccl.stream_create(&channel->stream, CUDA_STREAM_NON_BLOCKING);
    if (cuda != CUDA_SUCCESS) {
        fail(lane, job->peer, "no stream for it on this GPU: %s", lane->nccl.cuda_error_string(cuda));
        return false;
    }
    job->until_ns = clock_now_ns() + CONNECT_MS * MILLISECOND_NS;
    int result = lane->nccl.comm_init(&channel->comm, 2, *job->id, job->outward ? 0 : 1, &config);
    if (result == NCCL_SUCCESS || result == NCCL_IN_PROGRESS) return true;
    channel->comm = NULL;
    fail(lane, job->peer, "no NCCL communicator with it: %s", lane->nccl.error_string(result));
    return false;
}

static bool begin_transfer(struct lane *lane, struct lane_job *job)
{
    struct channel *channel = channel_of(lane, job);
    const char *verb = job->outward ? "send to it" : "receive from it";
    size_t bytes = job->memory ? job->bytes : LANE_SCRATCH_BYTES;
    void *memory = job->memory;
    if (!memory) memory = (uint8_t *)lane->scratch + (size_t)(channel - lane->channels) * LANE_SCRATCH_BYTES;
    job->until_ns = clock_now_ns() + lane->config.transfer_ns + (int64_t)((double)bytes / BYTES_PER_NS);
    log_order(lane, job, job->outward ? "send" : "receive");
    int cuda = event_take(lane, &job->event);
    if (cuda != CUDA_SUCCESS) {
        fail(lane, job->peer, "no event for a transfer: %s", lane->nccl.cuda_error_string(cuda));
        return false;
    }
    int result = job->outward
                     ? lane->nccl.send(memory, bytes, NCCL_UINT8, 1, channel->comm, channel->stream)
                     : lane->nccl.receive(memory, bytes, NCCL_UINT8, 0, channel->comm, channel->stream);
    result = await_call(lane, channel->comm, result, job->until_ns);
    if (result != NCCL_SUCCESS) {
        fail(lane, job->peer, "NCCL could not %s: %s", verb, say(lane, result));
        return false;
    }
    cuda = lane->nccl.event_record(job->event, channel->stream);
    if (cuda != CUDA_SUCCESS)
        fail(lane, job->peer, "NCCL could not %s: %s", verb, lane->nccl.cuda_error_string(cuda));
    return cuda == CUDA_SUCCESS;
}

static void begin_name(struct lane *lane, struct lane_job *job)
{
    int result = lane->nccl.get_unique_id(job->id);
    if (result == NCCL_SUCCESS)
        finish(lane, job);
    else {
        fabric_lane_queue_add(&lane->working, job); /* until the epoch is given up */
        fail(lane, job->peer, "no NCCL id: %s", lane->nccl.error_string(result));
    }
}

static void begin(struct lane *lane, struct lane_job *job)
{
    switch (job->kind) {
    case LANE_ALLOCATE:
        if (lane->nccl.allocate(&job->memory, job->bytes) != CUDA_SUCCESS) job->memory = NULL;
        finish(lane, job);
        return;
    case LANE_FREE:
        lane->nccl.release(job->memory);
        finish(lane, job);
        return;
    case LANE_NAME:
        if (!is_over(lane)) {
            begin_name(lane, job);
            return;
        }
        break;
    case LANE_CONNECT:
        if (!is_over(lane)) begin_connect(lane, job);
        break;
    case LANE_SEND:
    case LANE_RECEIVE:
        if (!is_over(lane)) begin_transfer(lane, job);
        break;
    case LANE_WATCH:
        break;
    }
    /* What failed waits there, too, until the epoch is given up: its memory may be in use. */
    fabric_lane_queue_add(&lane->working, job);
}

/* ------------------------------------------------------------------------------------------------ looking */

/* Is it done? What fails is said once, and then not looked at any more. */
static bool look(struct lane *lane, struct lane_job *job, int64_t now)
{
    if (job->kind == LANE_WATCH) {
        int asked = lane->nccl.event_query(job->event);
        /* After an error of the device nothing runs there any more; its owner learns of it by itself. */
        if (asked == CUDA_NOT_READY) return false;
        fabric_lane_unmark(lane, job->event);
        job->event = NULL;
        return true;
    }
    if (is_over(lane)) return false;
    struct channel *channel = channel_of(lane, job);
    int cuda = job->kind == LANE_CONNECT ? CUDA_NOT_READY : lane->nccl.event_query(job->event);
    if (cuda == CUDA_SUCCESS) {
        log_order(lane, job, job->outward ? "sent" : "received");
        fabric_lane_unmark(lane, job->event);
        job->event = NULL;
        return true;
    }
    int state = NCCL_SUCCESS, asked = lane->nccl.comm_state(channel->comm, &state);
    const char *what = job->kind == LANE_CONNECT ? "connecting to it"
                       : job->outward            ? "sending to it"
                                                 : "receiving from it";
    if (asked != NCCL_SUCCESS || (state != NCCL_SUCCESS && state != NCCL_IN_PROGRESS))
        fail(lane, job->peer, "NCCL failed while %s: %s", what,
             lane->nccl.error_string(asked != NCCL_SUCCESS ? asked : state));
    else if (cuda != CUDA_NOT_READY)
        fail(lane, job->peer, "this GPU failed while %s: %s", what, lane->nccl.cuda_error_string(cuda));
    else if (job->kind == LANE_CONNECT && state == NCCL_SUCCESS)
        return true;
    else if (now > job->until_ns)
        fail(lane, job->peer, "%s over NCCL took longer than it may", what);
    return false;
}

/* Finishes what is done; true if something was. */
static bool look_at_all(struct lane *lane)
{
    int64_t now = clock_now_ns();
    bool moved = false;
    struct lane_queue left;
    fabric_lane_queue_init(&left);
    for (struct lane_job *job; (job = fabric_lane_queue_take(&lane->working)) != NULL;) {
        if (look(lane, job, now)) {
            finish(lane, job);
            moved = true;
        } else {
            fabric_lane_queue_add(&left, job);
        }
    }
    if (left.first) {
        lane->working.first = left.first;
        lane->working.end = left.end;
    }
    return moved;
}

/* Until a job is given, or it is time to look again. */
static void nap(struct lane *lane, int64_t quiet_since_ns)
{
    int64_t us = (clock_now_ns() - quiet_since_ns) / 1000 / NAP_SHARE;
    us = us < NAP_SHORT_US ? NAP_SHORT_US : us > NAP_LONG_US ? NAP_LONG_US : us;
    int64_t until_ns = clock_now_ns() + us * 1000;
    struct timespec until = {.tv_sec = until_ns / SECOND_NS, .tv_nsec = until_ns % SECOND_NS};
    if (!lane->given.first && !lane->ending && !lane->closing)
        pthread_cond_timedwait(&lane->changed, &lane->lock, &until);
}

static void *fabric_lane_main(void *argument)
{
    struct lane *lane = argument;
    pthread_setname_np(pthread_self(), "fabric-nccl");
    lane->nccl.set_device(lane->config.device); /* was tried when the lane was opened */
    int64_t moved_ns = clock_now_ns();
    pthread_mutex_lock(&lane->lock);
    for (;;) {
        if (lane->ending) {
            lane->parked = true;
            pthread_cond_broadcast(&lane->changed);
            pthread_cond_wait(&lane->changed, &lane->lock);
            continue;
        }
        struct lane_job *job = fabric_lane_queue_take(&lane->given);
        if (!job && lane->closing) break;
        if (!job && !lane->working.first) {
            pthread_cond_wait(&lane->changed, &lane->lock);
            continue;
        }
        pthread_mutex_unlock(&lane->lock);
        if (job) begin(lane, job);
        bool moved = look_at_all(lane) || job;
        pthread_mutex_lock(&lane->lock);
        if (moved)
            moved_ns = clock_now_ns();
        else
            nap(lane, moved_ns);
    }
    lane->closed = true;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->lock);
    return NULL;
}

/* ------------------------------------------------------------------------------------------ open and close */

static void free_lane(struct lane *lane)
{
    for (int i = 0; i < lane->event_count; i++) lane->nccl.event_destroy(lane->events[i]);
    free(lane->events);
    free(lane->channels);
    if (lane->scratch) lane->nccl.release(lane->scratch);
    if (lane->log) fclose(lane->log);
    pthread_cond_destroy(&lane->changed);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

static status_t take_device(struct lane *lane, struct error *error)
{
    int count = 0, device = lane->config.device;
    int result = lane->nccl.device_count(&count);
    if (result != CUDA_SUCCESS)
        return error_set(error, STATUS_UNSUPPORTED, "fabric nccl: no GPU can be used: %s",
                         lane->nccl.cuda_error_string(result));
    if (device < 0 || device >= count)
        return error_set(error, STATUS_INVALID, "fabric nccl: GPU %d was asked for, this process sees %d",
                         device, count);
    result = lane->nccl.set_device(device);
    if (result != CUDA_SUCCESS)
        return error_set(error, STATUS_UNSUPPORTED, "fabric nccl: GPU %d cannot be used: %s", device,
                         lane->nccl.cuda_error_string(result));
    return STATUS_OK;
}

/* REFRAIN_NCCL_ORDERS names a directory: one file per process, one line per transfer when it is issued, to be
 * checked by tools/nccl_orders. */
static status_t open_log(struct lane *lane, struct error *error)
{
    char path[4096];
    const char *directory = getenv("REFRAIN_NCCL_ORDERS");
    if (!directory) return STATUS_OK;
    snprintf(path, sizeof path, "%s/orders.%d", directory, (int)getpid());
    lane->log = fopen(path, "ae");
    if (!lane->log)
        return error_set(error, STATUS_IO, "REFRAIN_NCCL_ORDERS: %s: cannot be written: %m", path);
    setvbuf(lane->log, NULL, _IOLBF, 0);
    return STATUS_OK;
}

/* Signals are for the process's own threads, never for this one. */
static int start_thread(struct lane *lane)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&lane->thread, NULL, fabric_lane_main, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

status_t fabric_lane_open(const struct lane_config *config, struct lane **out, struct error *error)
{
    struct nccl nccl;
    /* NCCL then launches its kernels in the order of the calls, also across communicators: the order this
     * whole file is about. Read when NCCL is first used. */
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    status_t status = nccl_load(&nccl, error);
    if (status != STATUS_OK) return status;
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory");
    lane->nccl = nccl;
    lane->config = *config;
    fabric_lane_queue_init(&lane->given);
    fabric_lane_queue_init(&lane->finished);
    fabric_lane_queue_init(&lane->working);
    pthread_mutex_init(&lane->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lane->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    status = take_device(lane, error);
    if (status == STATUS_OK) status = open_log(lane, error);
    if (status == STATUS_OK && (errno = start_thread(lane)) != 0)
        status = error_set(error, STATUS_IO, "fabric nccl: no thread: %m");
    if (status != STATUS_OK) {
        free_lane(lane);
        return status;
    }
    if (nccl.version < NCCL_IMPLICIT_ORDER)
        log_line(LOG_WARN,
                 "fabric nccl: NCCL %d.%d does not keep an order among communicators; 2.26 and newer do",
                 nccl.version / 10000, nccl.version / 100 % 100);
    *out = lane;
    return STATUS_OK;
}

void fabric_lane_stop(struct lane *lane)
{
    int64_t limit_ns = clock_now_ns() + lane->config.abort_ns;
    pthread_mutex_lock(&lane->lock);
    lane->closing = true;
    pthread_cond_broadcast(&lane->changed);
    struct timespec limit = {.tv_sec = limit_ns / SECOND_NS, .tv_nsec = limit_ns % SECOND_NS};
    while (!lane->closed && pthread_cond_timedwait(&lane->changed, &lane->lock, &limit) == 0) continue;
    bool closed = lane->closed;
    pthread_mutex_unlock(&lane->lock);
    if (!closed) {
        log_line(LOG_ERROR, "fabric nccl: GPU %d does not answer any more: this process ends",
                 lane->config.device);
        _exit(LANE_EXIT);
    }
    pthread_join(lane->thread, NULL);
    for (struct lane_job *job; (job = fabric_lane_queue_take(&lane->working)) != NULL;) {
        job->failed = true;
        fabric_lane_queue_add(&lane->finished, job);
    }
}

void fabric_lane_release(struct lane *lane, void *memory)
{
    lane->nccl.set_device(lane->config.device);
    lane->nccl.release(memory);
}

void fabric_lane_close(struct lane *lane)
{
    free_lane(lane);
}
