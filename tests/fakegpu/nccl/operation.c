/*
 * operation.c - a group's sends and receives as one piece of work of a stream. Runs on the stream's thread.
 *
 * Of the messages to (or from) the same peer one moves at a time, in the order in which they were called;
 * all others progress together. Each message begins with a header, by which the receiver finds out whether it
 * expects what the sender sends.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fakegpu/nccl/api.h"

struct header {
    uint64_t bytes, sequence;
    int32_t type, spare;
};

/* Operations issued and ended by this process, for REFRAIN_FAKENCCL_SERIAL and REFRAIN_FAKENCCL_DIE_AT. */
static atomic_ullong issued, ended;
static atomic_int begun;
static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t early[4096 / 64]; /* those that ended before their turn, because they were aborted */

/* ------------------------------------------------------------------------------------------------ serial */

static void await_turn(struct operation *o)
{
    while (world()->serial && atomic_load(&ended) != o->turn && !atomic_load(&o->comm->aborted))
        fault_nap_us(20);
}

static void end_turn(struct operation *o)
{
    pthread_mutex_lock(&turn_lock);
    early[o->turn / 64 % 64] |= UINT64_C(1) << o->turn % 64;
    for (uint64_t next = atomic_load(&ended); early[next / 64 % 64] >> next % 64 & 1; next++) {
        early[next / 64 % 64] &= ~(UINT64_C(1) << next % 64);
        atomic_store(&ended, next + 1);
    }
    pthread_mutex_unlock(&turn_lock);
}

/* ----------------------------------------------------------------------------------------------- progress */

static struct ring *ring_of(struct operation *o, const struct message *m)
{
    int self = o->comm->rank;
    return m->send ? comm_ring(o->comm, self, m->peer) : comm_ring(o->comm, m->peer, self);
}

/* True when the header has passed. */
static bool begin_message(struct operation *o, struct message *m)
{
    struct comm *c = o->comm;
    struct ring *ring = ring_of(o, m);
    struct header header;
    if (m->send) {
        if (ring_room(ring) < sizeof header) return false;
        if (!m->moved_ns) m->moved_ns = fault_now_ns() + world()->link_delay_ns;
        if (fault_now_ns() < m->moved_ns) return false;
        header = (struct header){.bytes = m->bytes, .sequence = c->sent[m->peer]++, .type = m->type};
        ring_put(ring, &header, sizeof header);
        return true;
    }
    if (ring_filled(ring) < sizeof header) return false;
    ring_get(ring, &header, sizeof header);
    uint64_t sequence = c->received[m->peer]++;
    if (header.bytes == m->bytes && header.type == m->type && header.sequence == sequence) return true;
    comm_fail(c, INVALID_USAGE,
              "MISMATCH with rank %d: here a receive of %zu bytes of type %d, number %lu; there a send of "
              "%lu bytes of "
              "type %d, number %lu",
              m->peer, m->bytes, m->type, (unsigned long)sequence, (unsigned long)header.bytes, header.type,
              (unsigned long)header.sequence);
    return false;
}

/* How many bytes the link lets pass until now. */
static size_t link_allows(const struct message *m)
{
    double rate = world()->link_bytes_per_ns;
    if (rate <= 0 || !m->send) return m->bytes;
    double bytes = (double)(fault_now_ns() - m->moved_ns) * rate;
    return bytes >= (double)m->bytes ? m->bytes : (size_t)bytes;
}

static bool move_message(struct operation *o, struct message *m)
{
    size_t allowed = link_allows(m), before = m->done;
    if (m->send && allowed > m->done)
        m->done += ring_put(ring_of(o, m), m->memory + m->done, allowed - m->done);
    else if (!m->send)
        m->done += ring_get(ring_of(o, m), m->memory + m->done, m->bytes - m->done);
    if (m->done == m->bytes) m->state = MESSAGE_DONE;
    return m->done > before || m->state == MESSAGE_DONE;
}

/* One round over all messages; *moved: something did. False: all are done. */
static bool progress(struct operation *o, bool *moved)
{
    bool busy[2][RANKS_MAX] = {0}, left = false;
    *moved = false;
    for (int i = 0; i < o->count; i++) {
        struct message *m = &o->messages[i];
        if (m->state == MESSAGE_DONE) continue;
        left = true;
        if (busy[m->send][m->peer]) continue;
        busy[m->send][m->peer] = true;
        if (m->state == MESSAGE_WAITS && begin_message(o, m)) {
            m->state = MESSAGE_MOVES;
            *moved = true;
        }
        if (m->state == MESSAGE_MOVES && move_message(o, m)) *moved = true;
    }
    return left;
}

static void look_for_death(struct operation *o)
{
    for (int i = 0; world()->death_is_error && i < o->count; i++) {
        const struct message *m = &o->messages[i];
        int pid = atomic_load(&o->comm->shared->pids[m->peer]);
        if (m->state != MESSAGE_DONE && kill(pid, 0) != 0 && errno == ESRCH)
            comm_fail(o->comm, REMOTE_ERROR, "rank %d died", m->peer);
    }
}

static void report_stuck(struct operation *o, int64_t *since_ns)
{
    if (!world()->stuck_ns || fault_now_ns() - *since_ns < world()->stuck_ns) return;
    *since_ns = INT64_MAX;
    for (int i = 0; i < o->count; i++) {
        const struct message *m = &o->messages[i];
        if (m->state == MESSAGE_DONE) continue;
        fprintf(stderr, "fakenccl[%d] rank %d STUCK: %s %d, %zu of %zu bytes\n", (int)getpid(), o->comm->rank,
                m->send ? "send to" : "receive from", m->peer, m->done, m->bytes);
    }
}

static void run(struct operation *o)
{
    struct comm *c = o->comm;
    int64_t since_ns = fault_now_ns();
    unsigned idle = 0;
    bool moved, dies = atomic_fetch_add(&begun, 1) + 1 == world()->die_at;
    enum fault fault = fault_due("operation");
    if (fault == FAULT_FAIL) comm_fail(c, SYSTEM_ERROR, "the operation was to fail");
    while (fault == FAULT_HANG && !atomic_load(&c->aborted)) fault_nap_us(100);
    while (!atomic_load(&c->aborted) && atomic_load(&c->state) == NCCL_SUCCESS && progress(o, &moved)) {
        if (dies && moved) kill(getpid(), SIGKILL);
        idle = moved ? 0 : idle + 1;
        if (idle < 100) continue;
        fault_nap_us(50);
        look_for_death(o);
        report_stuck(o, &since_ns);
    }
    /* What failed never ends by itself. */
    while (atomic_load(&c->state) != NCCL_SUCCESS && !atomic_load(&c->aborted)) fault_nap_us(100);
}

static void run_on_stream(void *argument)
{
    struct operation *o = argument;
    struct comm *comm = o->comm;
    await_turn(o);
    run(o);
    end_turn(o);
    free(o);
    atomic_fetch_sub(&comm->operations, 1); /* an abort may free it from here on */
}

static void run_submitted(void *argument)
{
    run_on_stream(*(struct operation **)argument);
}

static int put_on_stream(struct operation *o, void *stream)
{
    if (fakegpu_submit) return fakegpu_submit(stream, "nccl", run_submitted, &o, sizeof o);
    return cudaLaunchHostFunc(stream, run_on_stream, o);
}

int operation_enqueue(struct operation *o, void *stream)
{
    bool late = world()->late_ns && !o->comm->blocking;
    o->turn = atomic_fetch_add(&issued, 1);
    int before = atomic_fetch_add(&o->comm->operations, 1);
    if (world()->outstanding && before >= world()->outstanding)
        fault_lint("a communicator has %d operations that did not end, %d are allowed", before + 1,
                   world()->outstanding);
    if (late) atomic_store(&o->comm->late_ns, fault_now_ns() + world()->late_ns);
    if (put_on_stream(o, stream) == CUDA_SUCCESS) return late ? NCCL_IN_PROGRESS : NCCL_SUCCESS;
    end_turn(o);
    atomic_fetch_sub(&o->comm->operations, 1);
    free(o);
    return UNHANDLED_CUDA_ERROR;
}
