/*
 * fabric_send.c - the way out: what the fabric's I/O thread sends to each member, and how payloads come back.
 *
 * Runs on the I/O thread, except fabric_io_chunk_done (any thread, with none of the core's locks held).
 */
#include <string.h>

#include "cluster/fabric_core.h"

/* One holder less; the last one ends the loan of the payload. Any thread. */
void fabric_io_let_go(struct outgoing *outgoing)
{
    if (atomic_fetch_sub(&outgoing->holders, 1) != 1) return;
    struct fabric *fabric = outgoing->fabric;
    pthread_mutex_lock(&fabric->lock);
    if (fabric->phase == PHASE_IDLE) { /* the epoch was left: nobody waits for the event */
        outgoing->next = fabric->spare;
        fabric->spare = outgoing;
    } else {
        fabric_push_event(fabric, &outgoing->note);
    }
    if (--fabric->in_transit == 0) pthread_cond_broadcast(&fabric->changed);
    pthread_mutex_unlock(&fabric->lock);
}

void fabric_io_chunk_done(void *chunk, void *argument)
{
    (void)chunk;
    struct outgoing *outgoing = argument;
    /* Read first: it orders what the I/O thread wrote into the record before what this thread reads of it. */
    (void)atomic_load(&outgoing->holders);
    struct fabric *fabric = outgoing->fabric;
    /* Before letting go: when nothing is in transit any more the peers may be freed. */
    atomic_fetch_sub(&fabric->peers[outgoing->peer].borrowed, 1);
    if (outgoing->yields && atomic_fetch_sub(&fabric->yielding, 1) - 1 <= YIELDING_CHUNKS / 2 &&
        atomic_load(&fabric->yielding_waits))
        fabric_wake_io(fabric);
    fabric_io_let_go(outgoing);
}

status_t fabric_io_send_head(struct fabric *fabric, int peer, const uint8_t *head, size_t bytes)
{
    status_t status = fabric->transport->send(fabric->link, peer, head, bytes, NULL, 0, NULL);
    if (status == STATUS_OK) {
        fabric->peers[peer].beat_ns = clock_now_ns() + BEAT_MS * MILLISECOND_NS;
        fabric->peers[peer].owes_beat = false;
    }
    return status;
}

status_t fabric_io_send_signal(struct fabric *fabric, int peer, enum envelope_kind kind, int number,
                               uint64_t place)
{
    uint8_t head[ENVELOPE_BYTES];
    envelope_encode(&(struct envelope){.kind = (uint8_t)kind,
                                       .from = (uint32_t)fabric->self,
                                       .number = (uint32_t)number,
                                       .epoch = fabric->epoch,
                                       .place = place},
                    head);
    return fabric_io_send_head(fabric, peer, head, sizeof head);
}

static status_t send_hello(struct fabric *fabric, int peer)
{
    uint8_t head[ENVELOPE_BYTES + FABRIC_TOKEN_BYTES];
    envelope_encode(&(struct envelope){.kind = ENVELOPE_HELLO,
                                       .from = (uint32_t)fabric->self,
                                       .number = (uint32_t)fabric->credits,
                                       .epoch = fabric->epoch,
                                       .place = (uint64_t)fabric->count},
                    head);
    memcpy(head + ENVELOPE_BYTES, fabric->token, FABRIC_TOKEN_BYTES);
    return fabric_io_send_head(fabric, peer, head, sizeof head);
}

bool fabric_io_owes_word(const struct peer *peer)
{
    int used = atomic_load(&peer->used);
    return used > FABRIC_UNTOLD || 2 * used >= peer->window;
}

/* The peer has back, or will have, what it was owed. */
static void credits_told(struct peer *peer)
{
    atomic_fetch_sub(&peer->used, peer->owed);
    peer->owed = 0;
}

/* Writes the head of the message's next piece; returns its length, and how many bytes go beside it. */
static size_t write_head(const struct fabric *fabric, const struct outgoing *outgoing, uint8_t *head,
                         size_t *beside)
{
    uint64_t left = outgoing->bytes - outgoing->handed;
    uint64_t most = outgoing->yields ? YIELDING_CHUNK : fabric->transport->chunk_bytes;
    struct envelope envelope = {
        .kind = outgoing->handed == 0 ? ENVELOPE_DATA
                : outgoing->yields    ? ENVELOPE_YIELDS
                                      : ENVELOPE_CHUNK,
        .from = (uint32_t)fabric->self,
        .number = outgoing->handed == 0 ? (uint32_t)fabric->peers[outgoing->peer].owed : 0,
        .epoch = fabric->epoch,
        .place = outgoing->handed,
    };
    envelope_encode(&envelope, head);
    *beside = left < most ? (size_t)left : (size_t)most;
    if (envelope.kind != ENVELOPE_DATA) return ENVELOPE_BYTES;
    memcpy(head + ENVELOPE_BYTES, outgoing->ticket, TICKET_BYTES);
    if (outgoing->on_device) *beside = 0;
    if (outgoing->on_device || left > INLINE_BYTES) return ENVELOPE_BYTES + TICKET_BYTES;
    if (left > 0) memcpy(head + ENVELOPE_BYTES + TICKET_BYTES, outgoing->payload, left);
    *beside = 0;
    return ENVELOPE_BYTES + TICKET_BYTES + left;
}

/* Hands the next piece to the transport. STATUS_AGAIN: it takes no more now. */
status_t fabric_io_send_piece(struct fabric *fabric, struct peer *to, struct outgoing *outgoing)
{
    uint8_t head[HEAD_BYTES];
    size_t beside, head_bytes = write_head(fabric, outgoing, head, &beside);
    if (beside > 0) {
        /* Before sending: the transport may be done with the chunk before send returns. */
        atomic_fetch_add(&outgoing->holders, 1);
        atomic_fetch_add(&to->borrowed, 1);
        if (outgoing->yields) atomic_fetch_add(&fabric->yielding, 1);
    }
    status_t status = fabric->transport->send(fabric->link, outgoing->peer, head, head_bytes,
                                              outgoing->payload + outgoing->handed, beside, outgoing);
    if (status == STATUS_OK) {
        if (outgoing->handed == 0) credits_told(to);
        outgoing->handed = beside > 0 ? outgoing->handed + beside : outgoing->bytes;
        to->beat_ns = clock_now_ns() + BEAT_MS * MILLISECOND_NS;
    } else if (beside > 0) {
        atomic_fetch_sub(&to->borrowed, 1);
        if (outgoing->yields) atomic_fetch_sub(&fabric->yielding, 1);
        atomic_fetch_sub(&outgoing->holders, 1); /* not the last one: the queue holds the record */
    }
    return status;
}

/* Hands over a piece of the first message there. */
static status_t push_piece(struct fabric *fabric, struct peer *to, struct outbox *box)
{
    struct outgoing *outgoing = box->first;
    status_t status = outgoing->on_device ? fabric_nccl_announce(fabric, outgoing)
                                          : fabric_io_send_piece(fabric, to, outgoing);
    if (status != STATUS_OK || outgoing->handed < outgoing->bytes) return status;
    box->first = outgoing->next;
    if (!box->first) box->end = &box->first;
    atomic_fetch_add_explicit(&fabric->messages_sent, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&fabric->bytes_sent, outgoing->bytes, memory_order_relaxed);
    if (!outgoing->on_device) fabric_io_let_go(outgoing);
    return STATUS_OK;
}

/* Hands over what is queued for the peer and does not yield, as much as the transport takes. */
static status_t push_queue(struct fabric *fabric, struct peer *to)
{
    status_t status = STATUS_OK;
    while (to->out[ORDERLY].first && status == STATUS_OK) status = push_piece(fabric, to, &to->out[ORDERLY]);
    return status;
}

/* One piece of a message that yields, of the next peer that has one; false: there is none that can go now. */
static bool push_yielding_piece(struct fabric *fabric)
{
    for (int i = 0; i < fabric->count; i++) {
        int index = (fabric->yielding_peer + i) % fabric->count;
        struct peer *to = &fabric->peers[index];
        const struct outgoing *before = to->out[ORDERLY].first;
        /* What waits to go from GPU to GPU does not take this way. */
        if (!to->out[YIELDING].first || to->lost || (before && !before->on_device)) continue;
        status_t status = push_piece(fabric, to, &to->out[YIELDING]);
        if (status == STATUS_PEER_LOST) fabric_io_lose(fabric, index, "its connection takes no more");
        if (status != STATUS_OK) continue;
        fabric->yielding_peer = (index + 1) % fabric->count;
        return true;
    }
    return false;
}

/* As many of these as may be under way. Once there are, more go when half of them are done: one wake-up for two. */
static void push_yielding(struct fabric *fabric)
{
    atomic_store(&fabric->yielding_waits, false);
    do
        while (atomic_load(&fabric->yielding) < YIELDING_CHUNKS)
            if (!push_yielding_piece(fabric)) return;
    while (!atomic_exchange(&fabric->yielding_waits, true) &&
           atomic_load(&fabric->yielding) <= YIELDING_CHUNKS / 2);
}

/* Everything due to one peer: signals first, they are what keeps the others moving. */
static status_t push_peer(struct fabric *fabric, int index, int64_t now)
{
    struct peer *to = &fabric->peers[index];
    status_t status = STATUS_OK;
    if (fabric->phase == PHASE_JOINING && !to->welcomed && now >= to->hello_ns) {
        if ((status = send_hello(fabric, index)) != STATUS_OK) return status;
        to->hello_ns = now + HELLO_MS * MILLISECOND_NS;
    }
    if (to->owes_welcome) {
        if ((status = fabric_io_send_signal(fabric, index, ENVELOPE_WELCOME, 0, 0)) != STATUS_OK)
            return status;
        to->owes_welcome = false;
    }
    if (to->owed > 0 && fabric_io_owes_word(to)) {
        if ((status = fabric_io_send_signal(fabric, index, ENVELOPE_CREDIT, to->owed, 0)) != STATUS_OK)
            return status;
        credits_told(to);
    }
    if (to->owes_beat && (status = fabric_io_send_signal(fabric, index, ENVELOPE_BEAT, 0, 0)) != STATUS_OK)
        return status;
    if (fabric->nccl && (status = fabric_nccl_push(fabric, index)) != STATUS_OK) return status;
    return fabric->phase == PHASE_READY ? push_queue(fabric, to) : STATUS_OK;
}

void fabric_io_push(struct fabric *fabric, int64_t now)
{
    for (int i = 0; i < fabric->count; i++) {
        if (i == fabric->self || fabric->peers[i].lost) continue;
        status_t status = push_peer(fabric, i, now);
        if (status == STATUS_PEER_LOST) fabric_io_lose(fabric, i, "its connection takes no more");
    }
    if (fabric->phase == PHASE_READY) push_yielding(fabric);
}
