/*
 * fabric_receive.c - the way in: what the fabric believes of what arrives. Runs on the fabric's I/O thread.
 *
 * Nothing is believed from a source before its HELLO carried the epoch's secret; from a proven member every
 * length, order and count is checked, and what does not fit loses that member.
 */
#include <string.h>

#include "base/log.h"
#include "cluster/fabric_core.h"

/* The time must not tell a stranger how many bytes were right. */
static bool same_token(const uint8_t *a, const uint8_t *b)
{
    uint8_t difference = 0;
    for (int i = 0; i < FABRIC_TOKEN_BYTES; i++) difference |= a[i] ^ b[i];
    return difference == 0;
}

/* Is this a HELLO of this epoch, with its secret? */
static bool proves_member(const struct fabric *fabric, const uint8_t *head, size_t bytes,
                          const struct envelope *envelope)
{
    return envelope->kind == ENVELOPE_HELLO && bytes == ENVELOPE_BYTES + FABRIC_TOKEN_BYTES &&
           same_token(head + ENVELOPE_BYTES, fabric->token) && envelope->from < (uint32_t)fabric->count &&
           envelope->from != (uint32_t)fabric->self && envelope->place == (uint64_t)fabric->count &&
           envelope->number >= 1 && envelope->number <= FABRIC_MAX_CREDITS;
}

/* Said at the 1st, 2nd, 4th, 8th, ... time, so that a flood of strangers does not become a flood of lines. */
static void note_stranger(struct fabric *fabric)
{
    unsigned count = ++fabric->strangers;
    if ((count & (count - 1)) == 0)
        log_line(LOG_WARN, "fabric: ignored %u messages from sources that are not members", count);
}

int fabric_io_hello(struct fabric *fabric, const uint8_t *head, size_t bytes)
{
    struct envelope envelope;
    if (!envelope_decode(head, bytes, &envelope)) {
        note_stranger(fabric);
        return -1;
    }
    /* A member of an epoch that is past or that the owner has not joined yet: nothing wrong with it. */
    if (fabric->phase == PHASE_IDLE || envelope.epoch != fabric->epoch) return -1;
    if (!proves_member(fabric, head, bytes, &envelope)) {
        /* Before its HELLO is due again a new member may already have sent a heartbeat. */
        if (envelope.kind == ENVELOPE_HELLO) note_stranger(fabric);
        return -1;
    }
    int index = (int)envelope.from;
    if (fabric->peers[index].spoke) {
        fabric_io_lose(fabric, index, "it connected a second time");
        return -1;
    }
    return index;
}

void fabric_io_check_ready(struct fabric *fabric)
{
    if (fabric->phase != PHASE_JOINING) return;
    for (int i = 0; i < fabric->count; i++)
        if (i != fabric->self && !(fabric->peers[i].greeted && fabric->peers[i].welcomed)) return;
    if (fabric->nccl && !fabric_nccl_ready(fabric)) return;
    int64_t now = clock_now_ns();
    for (int i = 0; i < fabric->count; i++) fabric->peers[i].heard_ns = now;
    fabric->stood = true;
    pthread_mutex_lock(&fabric->lock);
    if (fabric->phase == PHASE_JOINING) fabric->phase = PHASE_READY; /* unless it was aborted this moment */
    pthread_cond_broadcast(&fabric->changed);
    pthread_mutex_unlock(&fabric->lock);
}

static void take_hello(struct fabric *fabric, int index, const uint8_t *head, size_t bytes,
                       const struct envelope *envelope)
{
    struct peer *from = &fabric->peers[index];
    if (!proves_member(fabric, head, bytes, envelope)) {
        fabric_io_lose(fabric, index, "it sent a HELLO that does not fit the epoch");
        return;
    }
    from->owes_welcome = true; /* also when it was welcomed before: that answer may have been dropped */
    if (from->greeted) return;
    from->greeted = true;
    pthread_mutex_lock(&fabric->lock);
    int theirs = (int)envelope->number;
    from->window = theirs < fabric->credits ? theirs : fabric->credits;
    from->credits = from->window;
    pthread_mutex_unlock(&fabric->lock);
}

static void take_credit(struct fabric *fabric, int index, uint32_t number)
{
    struct peer *from = &fabric->peers[index];
    from->spoke = true;
    pthread_mutex_lock(&fabric->lock);
    bool sane = number <= (uint32_t)(from->window - from->credits);
    if (sane) from->credits += (int)number;
    if (sane && from->starved) {
        from->starved = false;
        fabric->nudge = true;
        fabric_signal_owner(fabric);
    }
    pthread_mutex_unlock(&fabric->lock);
    if (!sane) fabric_io_lose(fabric, index, "it returned %u credits nobody gave it", number);
}

/* Tells the owner about messages that are complete, and listeners of what lands in their places, in the order in which it was
 * sent: MPI may complete what is under way in any other. */
static void deliver(struct fabric *fabric, struct inbox *in)
{
    while (in->first) {
        struct parcel *parcel = in->first;
        fabric_place_tell(parcel);
        if (parcel->filled < parcel->note.event.ticket.bytes) return;
        in->first = parcel->next;
        if (!in->first) in->end = &in->first;
        atomic_fetch_add_explicit(&fabric->messages_received, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&fabric->bytes_received, parcel->filled, memory_order_relaxed);
        pthread_mutex_lock(&fabric->lock);
        fabric_place_done(parcel);
        fabric_push_event(fabric, &parcel->note);
        pthread_mutex_unlock(&fabric->lock);
    }
}

static int order_of(const struct ticket *ticket)
{
    return ticket->flags & TICKET_YIELDS ? YIELDING : ORDERLY;
}

/* What is wrong with a DATA head, or NULL. Writes the ticket. */
static const char *check_data(const struct fabric *fabric, const struct peer *from, const uint8_t *head,
                              size_t bytes, size_t chunk_bytes, struct ticket *ticket)
{
    if (bytes < ENVELOPE_BYTES + TICKET_BYTES) return "its message is too short for a ticket";
    if (ticket_decode(head + ENVELOPE_BYTES, TICKET_BYTES, ticket, NULL) != STATUS_OK)
        return "its ticket is malformed";
    uint64_t inlined = bytes - ENVELOPE_BYTES - TICKET_BYTES;
    bool on_device = ticket->flags & TICKET_ON_DEVICE;
    if (ticket->epoch != fabric->epoch) return "its ticket names another epoch";
    if (ticket->bytes > fabric->max_bytes) return "it announced a payload above the limit";
    if (from->in[order_of(ticket)].open) return "it began a message before the last one was complete";
    if (from->used >= from->window) return "it sent more messages than it has credits";
    if (on_device && !fabric->nccl) return "its payload lies in device memory, and this member has none";
    if (on_device && (inlined > 0 || chunk_bytes > 0)) return "its payload lies in two places";
    if (on_device) return NULL;
    if (inlined > 0 ? inlined != ticket->bytes || chunk_bytes > 0 : (ticket->bytes > 0) != (chunk_bytes > 0))
        return "its payload does not fit its ticket";
    if (chunk_bytes > ticket->bytes) return "its payload is longer than announced";
    return NULL;
}

/* Gives the next `chunk_bytes` of the open message a place. */
static bool place_chunk(struct inbox *in, size_t chunk_bytes, struct parcel **parcel, uint8_t **place)
{
    struct parcel *open = in->open;
    *parcel = open;
    *place = open->target + open->placed;
    open->placed += chunk_bytes;
    open->pending++;
    if (open->placed == open->note.event.ticket.bytes) in->open = NULL;
    return true;
}

/* Memory for a message: in a place of the owner's, or the fabric's own. NULL: there is none. */
static struct parcel *find_memory(struct fabric *fabric, int peer, const struct ticket *ticket)
{
    struct fabric_place *place = NULL;
    uint8_t *bytes = NULL;
    bool placed = fabric_place_take(fabric, peer, ticket, &place, &bytes);
    struct parcel *parcel = parcel_take(&fabric->shelf, placed ? 0 : ticket->bytes);
    if (parcel && placed) {
        parcel->place = place;
        parcel->target = bytes;
    } else if (placed) {
        pthread_mutex_lock(&fabric->lock);
        place->landing--;
        pthread_mutex_unlock(&fabric->lock);
    }
    return parcel;
}

static bool take_data(struct fabric *fabric, int index, const uint8_t *head, size_t bytes, size_t chunk_bytes,
                      struct parcel **out, uint8_t **place)
{
    struct peer *from = &fabric->peers[index];
    struct ticket ticket;
    from->spoke = true;
    const char *wrong = check_data(fabric, from, head, bytes, chunk_bytes, &ticket);
    if (!wrong && (ticket.flags & TICKET_ON_DEVICE)) {
        atomic_fetch_add(&from->used, 1);
        if (!fabric_nccl_land(fabric, index, &ticket))
            fabric_io_lose(fabric, index, "there is no memory for its message");
        return false;
    }
    struct parcel *parcel = wrong ? NULL : find_memory(fabric, index, &ticket);
    if (!wrong && !parcel) wrong = "there is no memory for its payload";
    if (wrong) {
        fabric_io_lose(fabric, index, "%s", wrong);
        return false;
    }
    parcel->epoch = fabric->epoch;
    parcel->note.event = (struct fabric_event){
        .kind = FABRIC_RECEIVED, .peer = index, .ticket = ticket, .payload = parcel->target, .hold = parcel};
    atomic_fetch_add(&from->used, 1);
    struct inbox *in = &from->in[order_of(&ticket)];
    *in->end = parcel;
    in->end = &parcel->next;
    if (chunk_bytes > 0) {
        in->open = parcel;
        return place_chunk(in, chunk_bytes, out, place);
    }
    memcpy(parcel->target, head + ENVELOPE_BYTES + TICKET_BYTES, ticket.bytes);
    parcel->placed = parcel->filled = ticket.bytes;
    deliver(fabric, in);
    return false;
}

static bool take_chunk(struct fabric *fabric, int index, int order, uint64_t offset, size_t chunk_bytes,
                       struct parcel **parcel, uint8_t **place)
{
    struct inbox *in = &fabric->peers[index].in[order];
    const struct parcel *open = in->open;
    if (!open || offset != open->placed || chunk_bytes == 0 ||
        chunk_bytes > open->note.event.ticket.bytes - open->placed) {
        fabric_io_lose(fabric, index, "it sent a chunk that belongs nowhere");
        return false;
    }
    return place_chunk(in, chunk_bytes, parcel, place);
}

bool fabric_io_head(struct fabric *fabric, int peer, const uint8_t *head, size_t bytes, size_t chunk_bytes,
                    struct parcel **parcel, uint8_t **place)
{
    struct envelope envelope;
    struct peer *from = &fabric->peers[peer];
    /* Idle: the epoch is being left, and the transport drains what is under way. */
    if (from->lost || fabric->phase == PHASE_IDLE) return false;
    bool ours = envelope_decode(head, bytes, &envelope);
    /* From an epoch that was left, or not joined here yet; its sender may have another index there. */
    if (ours && envelope.epoch != fabric->epoch) return false;
    if (!ours || envelope.from != (uint32_t)peer) {
        fabric_io_lose(fabric, peer, "it sent a message that is not of this fabric");
        return false;
    }
    from->heard_ns = clock_now_ns();
    switch ((enum envelope_kind)envelope.kind) {
    case ENVELOPE_HELLO:
        take_hello(fabric, peer, head, bytes, &envelope);
        break;
    case ENVELOPE_WELCOME:
        from->welcomed = true;
        break;
    case ENVELOPE_CREDIT:
        take_credit(fabric, peer, envelope.number);
        break;
    case ENVELOPE_BYE:
        from->left = true;
        fabric_io_lose(fabric, peer, "it left the epoch");
        break;
    case ENVELOPE_BEAT:
        break;
    case ENVELOPE_DATA:
        if (fabric->phase == PHASE_OVER) return false; /* nobody wants it any more */
        if (envelope.number > 0) take_credit(fabric, peer, envelope.number);
        return take_data(fabric, peer, head, bytes, chunk_bytes, parcel, place);
    case ENVELOPE_CHUNK:
        if (fabric->phase == PHASE_OVER) return false;
        return take_chunk(fabric, peer, ORDERLY, envelope.place, chunk_bytes, parcel, place);
    case ENVELOPE_YIELDS:
        if (fabric->phase == PHASE_OVER) return false;
        return take_chunk(fabric, peer, YIELDING, envelope.place, chunk_bytes, parcel, place);
    case ENVELOPE_EDGE:
    case ENVELOPE_STANDS:
    case ENVELOPE_WARM:
    case ENVELOPE_READY:
    case ENVELOPE_GO:
        if (fabric->phase == PHASE_OVER) return false;
        from->spoke = true;
        if (fabric->nccl)
            fabric_nccl_hear(fabric, peer, &envelope, head, bytes);
        else
            fabric_io_lose(fabric, peer, "its fabric is nccl, this one is not");
        return false;
    }
    fabric_io_check_ready(fabric);
    return false;
}

void fabric_io_filled(struct fabric *fabric, int peer, struct parcel *parcel, size_t chunk_bytes)
{
    parcel->pending--;
    parcel->filled += chunk_bytes;
    if (!parcel->orphan) {
        struct peer *from = &fabric->peers[peer];
        from->heard_ns = clock_now_ns();
        deliver(fabric, &from->in[order_of(&parcel->note.event.ticket)]);
    } else if (parcel->pending == 0) {
        fabric_give_parcel(fabric, parcel);
    }
}
