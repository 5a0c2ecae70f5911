/*
 * fabric_io.c - the fabric's I/O thread: its loop, the owner's wishes, heartbeats and silence, how an epoch
 * ends.
 *
 * One thread per fabric runs fabric_io_main. It takes fabric->lock for moments only: to fetch what the owner
 * left, and to queue an event. So heartbeats and transfers go on whatever the owner computes.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/fabric_core.h"

enum {
    TICK_MS = 50,          /* how often the loop comes round when nothing happens in an epoch */
    OWN_SLEEP_MS = 400,    /* a longer pause of this loop was the machine's doing, not the peers' */
    TIMER_SLACK_NS = 1000, /* transports sleep tens of microseconds; the default slack is as long */
};

/* -------------------------------------------------------------------------------------- how an epoch ends */

/* Ends the epoch because of `peer`, with one LOST event per lost peer. */
static void lose(struct fabric *fabric, int peer, const char *why)
{
    struct peer *lost = &fabric->peers[peer];
    if (lost->lost || fabric->phase == PHASE_IDLE) return;
    lost->lost = true;
    /* Leaving is how every epoch ends; anything else a person wants to know. */
    log_line(lost->left ? LOG_DEBUG : LOG_WARN, "fabric: epoch %" PRIu64 ": member %d was lost: %s",
             fabric->epoch, peer, why);
    pthread_mutex_lock(&fabric->lock);
    enum phase before = fabric->phase;
    if (before != PHASE_OVER) {
        error_set(&fabric->failure, STATUS_PEER_LOST, "fabric: epoch %" PRIu64 ": member %d was lost: %s",
                  fabric->epoch, peer, why);
        fabric->phase = PHASE_OVER;
        pthread_cond_broadcast(&fabric->changed);
    }
    if (!fabric->aborted) {
        lost->lost_note.event = (struct fabric_event){.kind = FABRIC_LOST, .peer = peer};
        fabric_push_event(fabric, &lost->lost_note);
    }
    pthread_mutex_unlock(&fabric->lock);
}

void fabric_io_lose(struct fabric *fabric, int peer, const char *why, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, why);
    vsnprintf(text, sizeof text, why, arguments);
    va_end(arguments);
    lose(fabric, peer, text);
}

void fabric_io_disconnected(struct fabric *fabric, int peer)
{
    struct peer *from = &fabric->peers[peer];
    /* Before the handshake it may still be starting up, and the transport connects again. */
    if (fabric->phase == PHASE_JOINING && !from->welcomed) return;
    if (!from->ended_ns) from->ended_ns = clock_now_ns();
}

/* ------------------------------------------------------------------------------------- the owner's wishes */

/* Takes over what the owner posted and released since the last time. */
static void fetch_posts(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
    struct outgoing *outgoing = fabric->posted;
    fabric->posted = NULL;
    fabric->posted_end = &fabric->posted;
    for (const struct outgoing *at = outgoing; at; at = at->next) fabric->in_transit++;
    for (int i = 0; fabric->releases && i < fabric->count; i++) {
        struct peer *peer = &fabric->peers[i];
        peer->owed += peer->released;
        peer->released = 0;
    }
    fabric->releases = false;
    pthread_mutex_unlock(&fabric->lock);
    while (outgoing) {
        struct outgoing *next = outgoing->next;
        struct outbox *box = &fabric->peers[outgoing->peer].out[outgoing->yields ? YIELDING : ORDERLY];
        outgoing->next = NULL;
        atomic_store(&outgoing->holders, 1);
        *box->end = outgoing;
        box->end = &outgoing->next;
        if (outgoing->making) fabric_nccl_watch(fabric, outgoing);
        outgoing = next;
    }
}

/* Only here does the phase leave IDLE: before, this thread must not touch what the owner is setting up. */
static void begin_epoch(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
    fabric->phase = fabric->aborted ? PHASE_OVER : PHASE_JOINING;
    pthread_mutex_unlock(&fabric->lock);
    fabric->stood = fabric->at_fault = false;
    int64_t now = clock_now_ns();
    for (int i = 0; i < fabric->count; i++) fabric->peers[i].beat_ns = now + BEAT_MS * MILLISECOND_NS;
    struct error error;
    status_t status = fabric->transport->join(fabric->link, fabric->membership, &error);
    if (status == STATUS_OK && fabric->nccl) status = fabric_nccl_join(fabric, &error);
    if (status == STATUS_OK) {
        fabric_io_check_ready(fabric); /* an epoch of one member stands at once */
        return;
    }
    pthread_mutex_lock(&fabric->lock);
    fabric->failure = error;
    fabric->phase = PHASE_OVER;
    pthread_cond_broadcast(&fabric->changed);
    pthread_mutex_unlock(&fabric->lock);
}

/* Says goodbye where that needs no waiting, and closes the ways to all peers. */
static void part_all(struct fabric *fabric)
{
    uint8_t bye[ENVELOPE_BYTES];
    envelope_encode(
        &(struct envelope){.kind = ENVELOPE_BYE, .from = (uint32_t)fabric->self, .epoch = fabric->epoch},
        bye);
    for (int i = 0; i < fabric->count; i++) {
        if (i == fabric->self) continue;
        struct peer *peer = &fabric->peers[i];
        /* A join that failed here is about to fail there, and then names who is really missing. */
        bool polite =
            (fabric->stood || fabric->at_fault) && !peer->silent && atomic_load(&peer->borrowed) == 0;
        fabric->transport->part(fabric->link, i, polite ? bye : NULL, polite ? sizeof bye : 0);
    }
    fabric->transport->leave(fabric->link);
}

/* Messages that were not handed over, or not arrived, completely. */
static void drop_unfinished(struct fabric *fabric, struct outbox *out, struct inbox *in)
{
    while (out->first) {
        struct outgoing *outgoing = out->first;
        out->first = outgoing->next;
        fabric_io_let_go(outgoing);
    }
    while (in->first) {
        struct parcel *parcel = in->first;
        in->first = parcel->next;
        parcel->orphan = true; /* a transport may still write into it; fabric_io_filled then gives it back */
        if (parcel->pending == 0) fabric_give_parcel(fabric, parcel);
    }
}

static void end_epoch(struct fabric *fabric)
{
    fetch_posts(fabric);
    pthread_mutex_lock(&fabric->lock);
    fabric->phase = PHASE_IDLE;
    fabric_drop_events(fabric);
    pthread_mutex_unlock(&fabric->lock);
    for (int i = 0; i < ORDERS * fabric->count; i++) {
        struct peer *peer = &fabric->peers[i / ORDERS];
        drop_unfinished(fabric, &peer->out[i % ORDERS], &peer->in[i % ORDERS]);
    }
    part_all(fabric);
    if (fabric->nccl) fabric_nccl_leave(fabric);
    /* The transport lets go on threads of its own, within milliseconds of closing. */
    pthread_mutex_lock(&fabric->lock);
    while (fabric->in_transit > 0) pthread_cond_wait(&fabric->changed, &fabric->lock);
    pthread_mutex_unlock(&fabric->lock);
}

static void silence_bell(struct fabric *fabric)
{
    uint64_t count;
    ssize_t taken = read(fabric->wake_fd, &count, sizeof count); /* non-blocking */
    (void)taken;
    /* After reading, before looking: who rings from here on wakes the next sleep. */
    atomic_exchange(&fabric->awakened, false);
}

/* False when the fabric is to be closed. */
static bool obey(struct fabric *fabric)
{
    silence_bell(fabric);
    pthread_mutex_lock(&fabric->lock);
    enum wish wish = fabric->wish;
    pthread_mutex_unlock(&fabric->lock);
    if (wish == WISH_JOIN) begin_epoch(fabric);
    if (wish == WISH_LEAVE) end_epoch(fabric);
    if (wish != WISH_NONE) {
        pthread_mutex_lock(&fabric->lock);
        fabric->wish = WISH_NONE;
        pthread_cond_broadcast(&fabric->changed);
        pthread_mutex_unlock(&fabric->lock);
    }
    return wish != WISH_CLOSE;
}

/* ----------------------------------------------------------------------------------------------- the loop */

/* Heartbeats that are due and peers that have been silent too long. */
static void watch_peers(struct fabric *fabric, int64_t now)
{
    /* When the whole process was stopped or starved, what the peers said meanwhile lies unread: they get that
     * time. */
    int64_t pause = now - fabric->turned_ns;
    int64_t forgiven = pause > OWN_SLEEP_MS * MILLISECOND_NS ? pause : 0;
    fabric->turned_ns = now;
    fabric->hurry = false;
    for (int i = 0; i < fabric->count; i++) {
        struct peer *peer = &fabric->peers[i];
        if (i == fabric->self || peer->lost) continue;
        peer->heard_ns = peer->heard_ns + forgiven < now ? peer->heard_ns + forgiven : now;
        if (now >= peer->beat_ns) peer->owes_beat = true;
        if (peer->ended_ns) {
            fabric->hurry = true;
            if (now - peer->ended_ns >= ENDED_MS * MILLISECOND_NS)
                fabric_io_lose(fabric, i, "its connection ended");
            continue;
        }
        int64_t silent_ns = now - peer->heard_ns;
        if (fabric->phase != PHASE_READY || silent_ns <= SILENCE_MS * MILLISECOND_NS) continue;
        peer->silent = true;
        fabric_io_lose(fabric, i, "it was silent for %" PRId64 " ms", silent_ns / MILLISECOND_NS);
    }
}

static int64_t next_turn(const struct fabric *fabric, int64_t now)
{
    switch ((enum phase)fabric->phase) {
    case PHASE_IDLE:
        return CLOCK_NEVER;
    case PHASE_JOINING:
        return now + HELLO_MS * MILLISECOND_NS;
    case PHASE_READY:
    case PHASE_OVER:
        break;
    }
    return now + (fabric->hurry ? 1 : TICK_MS) * MILLISECOND_NS;
}

void *fabric_io_main(void *argument)
{
    struct fabric *fabric = argument;
    pthread_setname_np(pthread_self(), "fabric");
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    while (obey(fabric)) {
        int64_t now = clock_now_ns();
        if (fabric->nccl) fabric_nccl_turn(fabric); /* first: what it has to say is pushed below */
        if (fabric->phase != PHASE_IDLE) {
            watch_peers(fabric, now);
            fetch_posts(fabric);
            fabric_io_push(fabric, now);
        }
        fabric->transport->progress(fabric->link, next_turn(fabric, now));
    }
    fabric->transport->close(fabric->link);
    return NULL;
}
