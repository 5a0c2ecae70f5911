/*
 * fabric_nccl.c - payloads in device memory: what the fabric's I/O thread says and hears about them.
 *
 *     sender                                            receiver
 *     EDGE, a communicator's id  -------------------->   joins it
 *     joins it          <------------------------------  STANDS
 *     WARM              ------------------------------>  (a first exchange of a few bytes)
 *     DATA, a ticket    ------------------------------>  finds memory for the payload
 *                       <------------------------------  READY, a stamp
 *     GO, the stamp that holds  ---------------------->
 *     ncclSend                 ~~~~~~~~~~~~~~~~~~~~~~>   ncclRecv
 *
 * An edge is the way from one member to another, with a communicator of its own. Those of the ring are made by
 * every join; any other when the first payload is to go there. All messages but the payload go through the zmq
 * transport with everything that is in front of it: credits, heartbeats, secrets. Nothing here calls CUDA or
 * NCCL but the two marks, which the owner makes: cluster/fabric_lane.c does, told so by lane_give in the order
 * of cluster/order.h, the same on all members.
 *
 * Memory for payloads that arrive is kept and used again, as host memory is by parcel.h. Where a message finds
 * none that is large enough, all smaller that is free is given back first: sizes grow, and rarely shrink.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cluster/fabric_core.h"

enum {
    OUTSTANDING = 2, /* payloads announced and not sent, per edge: one moves, one waits */
    STAMPS = FABRIC_MAX_CREDITS + 1,
    LANDING_BYTES = 65536, /* the smallest piece of memory: many small payloads then fit the same ones */
};

enum edge_state {
    EDGE_NONE,
    EDGE_NAMED,   /* outward: the id is being made, or was */
    EDGE_JOINING, /* the communicator is being made */
    EDGE_JOINED,  /* here; a first exchange has yet to pass */
    EDGE_WARMING, /* it was announced */
    EDGE_STANDS,
};

/* One direction between this member and a peer. */
struct edge {
    enum edge_state state;
    bool joined_there; /* outward: the peer said STANDS */
    struct nccl_id id;
    struct lane_job connect; /* NAME, then CONNECT */
    struct crossing warm;
};

/* A ring of stamps that are to be sent. */
struct stamps {
    uint64_t stamp[STAMPS];
    int first, count;
};

struct side {
    struct edge out, in;
    bool owes_edge, owes_stands, owes_warm; /* signals to be sent as soon as the transport takes them */
    struct stamps ready, go;                /* likewise */
    struct crossing_queue announced;        /* outward: READY has not come */
    int outstanding;                        /* announced, not sent; the first exchange does not count */
    struct crossing_queue landing;          /* inward: announced; the first lacks memory */
    struct crossing_queue proposed;         /* inward: GO has not come */
};

struct nccl_side {
    struct lane *lane;
    struct order order;
    struct side *sides; /* [count]; NULL: no epoch */
    int count;
    bool over;           /* communicators are being given up, or there are none */
    bool closed;         /* the I/O thread has ended */
    struct parcel *kept; /* free device memory */
    int missing;         /* see fabric_nccl_missing */
};

#define CONTAINER(pointer, type, member) ((type *)(void *)((uint8_t *)(pointer)-offsetof(type, member)))

/* ------------------------------------------------------------------------------------------ open and close */

status_t fabric_nccl_open(struct fabric *fabric, const struct fabric_config *config, struct error *error)
{
    struct nccl_side *n = calloc(1, sizeof *n);
    if (!n) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory");
    int64_t transfer_ms = config->transfer_ms ? config->transfer_ms : FABRIC_TRANSFER_MS;
    int64_t abort_ms = config->abort_ms ? config->abort_ms : FABRIC_ABORT_MS;
    struct lane_config lane = {
        .device = config->device,
        .stream = config->stream,
        .wake_fd = fabric->wake_fd,
        .transfer_ns = transfer_ms * MILLISECOND_NS,
        .abort_ns = abort_ms * MILLISECOND_NS,
    };
    status_t status = lane_open(&lane, &n->lane, error);
    if (status != STATUS_OK) {
        free(n);
        return status;
    }
    n->over = true;
    n->missing = -1;
    fabric->nccl = n;
    return STATUS_OK;
}

static void take_finished(struct fabric *fabric)
{
    for (struct lane_job *job; (job = lane_take(fabric->nccl->lane)) != NULL;) job->finished(job, fabric);
}

static void free_parcels(struct lane *lane, struct parcel *parcel)
{
    while (parcel) {
        struct parcel *next = parcel->next;
        if (parcel->bytes) lane_release(lane, parcel->bytes);
        free(parcel);
        parcel = next;
    }
}

void fabric_nccl_close(struct fabric *fabric)
{
    struct nccl_side *n = fabric->nccl;
    if (!n) return;
    n->closed = true;
    lane_stop(n->lane);
    take_finished(fabric);
    for (struct parcel *parcel = fabric->landed; parcel; parcel = parcel->next)
        lane_unmark(n->lane, parcel->crossing.job.event);
    free_parcels(n->lane, n->kept);
    free_parcels(n->lane, fabric->landed);
    lane_close(n->lane);
    free(n);
    fabric->nccl = NULL;
}

/* -------------------------------------------------------------------------------------- the owner's marks */

status_t fabric_nccl_mark(struct fabric *fabric, struct outgoing *outgoing, struct error *error)
{
    status_t status = lane_mark(fabric->nccl->lane, &outgoing->made, error);
    outgoing->making = outgoing->made != NULL;
    return status;
}

void fabric_nccl_unmark(struct fabric *fabric, struct outgoing *outgoing)
{
    lane_unmark(fabric->nccl->lane, outgoing->made);
}

void fabric_nccl_mark_read(struct fabric *fabric, struct parcel *parcel)
{
    struct error error;
    /* A stream that cannot be marked has failed: nothing on it reads any more. */
    if (lane_mark(fabric->nccl->lane, &parcel->crossing.job.event, &error) != STATUS_OK)
        log_line(LOG_WARN, "%s", error.text);
}

/* ------------------------------------------------------------------------------------------------- queues */

static void queue_init(struct crossing_queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static void queue_add(struct crossing_queue *queue, struct crossing *crossing)
{
    crossing->next = NULL;
    *queue->end = crossing;
    queue->end = &crossing->next;
}

static struct crossing *queue_take(struct crossing_queue *queue)
{
    struct crossing *crossing = queue->first;
    if (!crossing) return NULL;
    queue->first = crossing->next;
    if (!queue->first) queue->end = &queue->first;
    return crossing;
}

/* -------------------------------------------------------------------------------------- memory to land in */

static void keep(struct nccl_side *n, struct parcel *parcel)
{
    parcel->next = n->kept;
    n->kept = parcel;
}

/* The smallest free piece that fits, or NULL. */
static struct parcel *take_kept(struct nccl_side *n, uint64_t bytes)
{
    struct parcel **best = NULL;
    for (struct parcel **at = &n->kept; *at; at = &(*at)->next)
        if ((*at)->capacity >= bytes && (!best || (*at)->capacity < (*best)->capacity)) best = at;
    if (!best) return NULL;
    struct parcel *parcel = *best;
    *best = parcel->next;
    return parcel;
}

static void freed(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct parcel *parcel = CONTAINER(job, struct parcel, crossing.job);
    if (job->failed)
        keep(fabric->nccl, parcel);
    else
        free(parcel);
}

/* Everything free is smaller than what is needed now. */
static void free_kept(struct nccl_side *n)
{
    while (n->kept) {
        struct parcel *parcel = n->kept;
        n->kept = parcel->next;
        parcel->crossing.job =
            (struct lane_job){.kind = LANE_FREE, .memory = parcel->bytes, .finished = freed};
        lane_give(n->lane, &parcel->crossing.job);
    }
}

static void land_some(struct fabric *fabric, int peer);

static void allocated(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct parcel *parcel = CONTAINER(job, struct parcel, crossing.job);
    parcel->crossing.busy = false;
    parcel->bytes = job->failed ? NULL : job->memory;
    if (parcel->orphan && parcel->bytes)
        keep(fabric->nccl, parcel);
    else if (parcel->orphan)
        free(parcel);
    else if (parcel->bytes)
        land_some(fabric, job->peer);
    else
        fabric_io_lose(fabric, job->peer, "no memory is left on this GPU for a payload of %" PRIu64 " bytes",
                       job->bytes);
}

static void allocate(struct nccl_side *n, struct parcel *parcel, int peer, uint64_t bytes)
{
    free_kept(n);
    parcel->capacity = (bytes + LANDING_BYTES - 1) / LANDING_BYTES * LANDING_BYTES;
    parcel->crossing.busy = true;
    parcel->crossing.job = (struct lane_job){
        .kind = LANE_ALLOCATE, .peer = peer, .bytes = parcel->capacity, .finished = allocated};
    lane_give(n->lane, &parcel->crossing.job);
}

/* The owner has released it, and nothing reads it any more. */
static void landing_free(struct fabric *fabric, struct parcel *parcel)
{
    /* A message that outlived its epoch has nobody left to tell. */
    if (!fabric->nccl->closed && fabric->phase != PHASE_IDLE && parcel->epoch == fabric->epoch)
        fabric->peers[parcel->note.event.peer].owed++;
    keep(fabric->nccl, parcel);
}

static void watch_reading(struct nccl_side *n, struct parcel *parcel);

static void was_read(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct parcel *parcel = CONTAINER(job, struct parcel, crossing.job);
    if (job->failed && !fabric->nccl->closed)
        watch_reading(fabric->nccl, parcel); /* an epoch ended, which does not end reading */
    else {
        lane_unmark(fabric->nccl->lane, job->event);
        landing_free(fabric, parcel);
    }
}

static void watch_reading(struct nccl_side *n, struct parcel *parcel)
{
    void *event = parcel->crossing.job.event;
    parcel->crossing.job = (struct lane_job){.kind = LANE_WATCH, .event = event, .finished = was_read};
    lane_give(n->lane, &parcel->crossing.job);
}

static void take_landed(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
    struct parcel *parcel = fabric->landed;
    fabric->landed = NULL;
    pthread_mutex_unlock(&fabric->lock);
    while (parcel) {
        struct parcel *next = parcel->next;
        if (parcel->crossing.job.event)
            watch_reading(fabric->nccl, parcel);
        else
            landing_free(fabric, parcel);
        parcel = next;
    }
}

/* -------------------------------------------------------------------------------------------------- edges */

static struct edge *edge_of(struct nccl_side *n, const struct lane_job *job)
{
    struct side *side = &n->sides[job->peer];
    return job->outward ? &side->out : &side->in;
}

/* Gives the lane what nothing can come before any more. */
static void issue(struct nccl_side *n)
{
    if (n->over) return;
    for (struct order_place *place; (place = order_next(&n->order)) != NULL;) {
        struct crossing *crossing = (struct crossing *)place;
        crossing->busy = true;
        crossing->job.stamp = place->stamp;
        lane_give(n->lane, &crossing->job);
    }
}

static void stamps_add(struct stamps *stamps, uint64_t stamp)
{
    stamps->stamp[(stamps->first + stamps->count++) % STAMPS] = stamp;
}

/* There is a place for what was announced. */
static void propose(struct nccl_side *n, int peer, struct crossing *crossing)
{
    struct side *side = &n->sides[peer];
    order_propose(&n->order, &crossing->place, peer);
    queue_add(&side->proposed, crossing);
    stamps_add(&side->ready, crossing->place.stamp);
}

static void crossed(struct lane_job *job, void *owner);

static struct lane_job transfer_job(int peer, bool outward, void *memory, uint64_t bytes)
{
    return (struct lane_job){.kind = outward ? LANE_SEND : LANE_RECEIVE,
                             .peer = peer,
                             .outward = outward,
                             .memory = memory,
                             .bytes = bytes,
                             .finished = crossed};
}

/* Both ends have joined: the first exchange makes NCCL connect them, which can take its time. */
static void warm_up(struct nccl_side *n, int peer)
{
    struct side *side = &n->sides[peer];
    struct edge *out = &side->out;
    if (n->over || out->state != EDGE_JOINED || !out->joined_there) return;
    out->state = EDGE_WARMING;
    out->warm.job = transfer_job(peer, true, NULL, 0);
    queue_add(&side->announced, &out->warm);
    side->owes_warm = true;
}

static void connected(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct nccl_side *n = fabric->nccl;
    struct edge *edge = edge_of(n, job);
    if (job->failed || n->over) return;
    edge->state = EDGE_JOINED;
    if (job->outward)
        warm_up(n, job->peer);
    else
        n->sides[job->peer].owes_stands = true;
}

static void connect(struct nccl_side *n, struct edge *edge)
{
    edge->state = EDGE_JOINING;
    edge->connect.kind = LANE_CONNECT;
    edge->connect.finished = connected;
    lane_give(n->lane, &edge->connect);
}

static void named(struct lane_job *job, void *owner)
{
    struct nccl_side *n = ((struct fabric *)owner)->nccl;
    if (job->failed || n->over) return;
    n->sides[job->peer].owes_edge = true;
    connect(n, edge_of(n, job));
}

static void open_edge(struct nccl_side *n, int peer)
{
    struct edge *edge = &n->sides[peer].out;
    if (n->over || edge->state != EDGE_NONE) return;
    edge->state = EDGE_NAMED;
    edge->connect = (struct lane_job){
        .kind = LANE_NAME, .peer = peer, .outward = true, .id = &edge->id, .finished = named};
    lane_give(n->lane, &edge->connect);
}

/* ---------------------------------------------------------------------------------------------- crossings */

static void sent(struct fabric *fabric, struct lane_job *job)
{
    fabric->nccl->sides[job->peer].outstanding--;
    fabric_io_let_go(CONTAINER(job, struct outgoing, crossing.job));
}

static void received(struct fabric *fabric, struct lane_job *job)
{
    struct parcel *parcel = CONTAINER(job, struct parcel, crossing.job);
    if (!job->failed && !fabric->nccl->over)
        fabric_io_filled(fabric, job->peer, parcel, job->bytes);
    else if (parcel->orphan)
        keep(fabric->nccl, parcel);
    else
        parcel->pending = 0; /* nobody writes to it any more; leaving gives it back */
}

static void crossed(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct edge *edge = edge_of(fabric->nccl, job);
    CONTAINER(job, struct crossing, job)->busy = false;
    if (job == &edge->warm.job) {
        if (!job->failed) edge->state = EDGE_STANDS;
        fabric_io_check_ready(fabric);
    } else if (job->outward) {
        sent(fabric, job);
    } else {
        received(fabric, job);
    }
}

static void made(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct outgoing *outgoing = CONTAINER(job, struct outgoing, crossing.job);
    if (job->failed) lane_unmark(fabric->nccl->lane, job->event);
    outgoing->making = false;
    fabric_io_let_go(outgoing);
}

void fabric_nccl_watch(struct fabric *fabric, struct outgoing *outgoing)
{
    if (fabric->nccl->over) { /* it will not be sent */
        lane_unmark(fabric->nccl->lane, outgoing->made);
        outgoing->making = false;
        return;
    }
    atomic_fetch_add(&outgoing->holders, 1);
    outgoing->crossing.job = (struct lane_job){.kind = LANE_WATCH, .event = outgoing->made, .finished = made};
    lane_give(fabric->nccl->lane, &outgoing->crossing.job);
}

status_t fabric_nccl_announce(struct fabric *fabric, struct outgoing *outgoing)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[outgoing->peer];
    if (side->out.state == EDGE_NONE) open_edge(n, outgoing->peer);
    if (n->over || outgoing->making || side->out.state != EDGE_STANDS || side->outstanding == OUTSTANDING)
        return STATUS_AGAIN;
    struct crossing *crossing = &outgoing->crossing;
    /* NCCL only reads it; the job just has no const. */
    crossing->job = transfer_job(outgoing->peer, true, (void *)(uintptr_t)outgoing->payload, outgoing->bytes);
    status_t status = fabric_io_send_piece(fabric, &fabric->peers[outgoing->peer], outgoing);
    if (status != STATUS_OK) return status;
    queue_add(&side->announced, crossing);
    side->outstanding++;
    return STATUS_OK;
}

/* Goes on with headers in the order in which they came, as far as there is memory: the payloads will come in that
 * order. */
static void land_some(struct fabric *fabric, int peer)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[peer];
    while (!n->over && side->landing.first) {
        struct parcel *parcel = CONTAINER(side->landing.first, struct parcel, crossing);
        if (!parcel->bytes) return;
        struct crossing *crossing = queue_take(&side->landing);
        parcel->note.event.payload = parcel->bytes;
        crossing->job = transfer_job(peer, false, parcel->bytes, parcel->note.event.ticket.bytes);
        propose(n, peer, crossing);
    }
}

bool fabric_nccl_land(struct fabric *fabric, int peer, const struct ticket *ticket)
{
    struct nccl_side *n = fabric->nccl;
    struct peer *from = &fabric->peers[peer];
    struct parcel *parcel = take_kept(n, ticket->bytes);
    if (!parcel) parcel = calloc(1, sizeof *parcel);
    if (!parcel) return false;
    *parcel = (struct parcel){.capacity = parcel->capacity, .bytes = parcel->bytes, .on_device = true};
    parcel->epoch = fabric->epoch;
    parcel->pending = 1;
    parcel->placed = ticket->bytes;
    parcel->note.event =
        (struct fabric_event){.kind = FABRIC_RECEIVED, .peer = peer, .ticket = *ticket, .hold = parcel};
    *from->arriving_end = parcel;
    from->arriving_end = &parcel->next;
    queue_add(&n->sides[peer].landing, &parcel->crossing);
    if (parcel->bytes)
        land_some(fabric, peer);
    else
        allocate(n, parcel, peer, ticket->bytes);
    return true;
}

/* --------------------------------------------------------------------------------------- signals, both ways */

static status_t send_edge(struct fabric *fabric, int peer, const struct nccl_id *id)
{
    uint8_t head[ENVELOPE_BYTES + NCCL_ID_BYTES];
    envelope_encode(
        &(struct envelope){.kind = ENVELOPE_EDGE, .from = (uint32_t)fabric->self, .epoch = fabric->epoch},
        head);
    memcpy(head + ENVELOPE_BYTES, id->internal, NCCL_ID_BYTES);
    return fabric_io_send_head(fabric, peer, head, sizeof head);
}

static status_t send_stamps(struct fabric *fabric, int peer, enum envelope_kind kind, struct stamps *stamps)
{
    while (stamps->count > 0) {
        status_t status = fabric_io_send_signal(fabric, peer, kind, 0, stamps->stamp[stamps->first]);
        if (status != STATUS_OK) return status;
        stamps->first = (stamps->first + 1) % STAMPS;
        stamps->count--;
    }
    return STATUS_OK;
}

status_t fabric_nccl_push(struct fabric *fabric, int peer)
{
    status_t status = STATUS_OK;
    /* Before, this member is a stranger there. */
    if (!fabric->peers[peer].welcomed) return STATUS_OK;
    struct side *side = &fabric->nccl->sides[peer];
    if (side->owes_edge) {
        if ((status = send_edge(fabric, peer, &side->out.id)) != STATUS_OK) return status;
        side->owes_edge = false;
    }
    if (side->owes_stands) {
        if ((status = fabric_io_send_signal(fabric, peer, ENVELOPE_STANDS, 0, 0)) != STATUS_OK) return status;
        side->owes_stands = false;
    }
    if (side->owes_warm) {
        if ((status = fabric_io_send_signal(fabric, peer, ENVELOPE_WARM, 0, 0)) != STATUS_OK) return status;
        side->owes_warm = false;
    }
    status = send_stamps(fabric, peer, ENVELOPE_READY, &side->ready);
    return status == STATUS_OK ? send_stamps(fabric, peer, ENVELOPE_GO, &side->go) : status;
}

/* What is wrong with a signal, or NULL. */
static const char *take_edge(struct nccl_side *n, int peer, const uint8_t *head, size_t bytes)
{
    struct edge *in = &n->sides[peer].in;
    if (bytes != ENVELOPE_BYTES + NCCL_ID_BYTES) return "its communicator's id is malformed";
    if (in->state != EDGE_NONE) return "it named a second communicator for the same edge";
    memcpy(in->id.internal, head + ENVELOPE_BYTES, NCCL_ID_BYTES);
    in->connect = (struct lane_job){.peer = peer, .id = &in->id};
    connect(n, in);
    return NULL;
}

static const char *take_stands(struct nccl_side *n, int peer)
{
    struct edge *out = &n->sides[peer].out;
    if (out->joined_there || out->state < EDGE_JOINING)
        return "it joined a communicator that it was not told of";
    out->joined_there = true;
    warm_up(n, peer);
    return NULL;
}

static const char *take_warm(struct nccl_side *n, int peer)
{
    struct edge *in = &n->sides[peer].in;
    if (in->state != EDGE_JOINED) return "it uses an edge that does not stand";
    in->state = EDGE_WARMING;
    in->warm.job = transfer_job(peer, false, NULL, 0);
    propose(n, peer, &in->warm);
    return NULL;
}

static const char *take_ready(struct fabric *fabric, int peer, uint64_t proposal)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[peer];
    struct crossing *crossing = queue_take(&side->announced);
    if (!crossing) return "it is ready for what was not announced";
    if (!order_accept(&n->order, &crossing->place, fabric->self, proposal))
        return "it proposed a stamp that cannot be";
    stamps_add(&side->go, crossing->place.stamp);
    issue(n);
    return NULL;
}

static const char *take_go(struct nccl_side *n, int peer, uint64_t stamp)
{
    struct crossing *crossing = queue_take(&n->sides[peer].proposed);
    if (!crossing) return "it answered what was not proposed";
    if (!order_settle(&n->order, &crossing->place, stamp)) return "it answered with a stamp that cannot be";
    issue(n);
    return NULL;
}

void fabric_nccl_hear(struct fabric *fabric, int peer, const struct envelope *envelope, const uint8_t *head,
                      size_t bytes)
{
    struct nccl_side *n = fabric->nccl;
    const char *wrong = NULL;
    if (n->over) return;
    switch ((enum envelope_kind)envelope->kind) {
    case ENVELOPE_EDGE:
        wrong = take_edge(n, peer, head, bytes);
        break;
    case ENVELOPE_STANDS:
        wrong = take_stands(n, peer);
        break;
    case ENVELOPE_WARM:
        wrong = take_warm(n, peer);
        break;
    case ENVELOPE_READY:
        wrong = take_ready(fabric, peer, envelope->place);
        break;
    case ENVELOPE_GO:
        wrong = take_go(n, peer, envelope->place);
        break;
    default:
        break;
    }
    if (wrong) fabric_io_lose(fabric, peer, "%s", wrong);
}

/* --------------------------------------------------------------------------------------- join, turn, leave */

static int next_of(const struct fabric *fabric)
{
    return (fabric->self + 1) % fabric->count;
}

static int previous_of(const struct fabric *fabric)
{
    return (fabric->self + fabric->count - 1) % fabric->count;
}

status_t fabric_nccl_join(struct fabric *fabric, struct error *error)
{
    struct nccl_side *n = fabric->nccl;
    n->sides = calloc((size_t)fabric->count, sizeof *n->sides);
    if (!n->sides)
        return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %d members", fabric->count);
    n->count = fabric->count;
    n->order = (struct order){0};
    for (int i = 0; i < n->count; i++) {
        queue_init(&n->sides[i].announced);
        queue_init(&n->sides[i].proposed);
        queue_init(&n->sides[i].landing);
    }
    status_t status = lane_begin(n->lane, fabric->epoch, fabric->self, fabric->count, error);
    if (status != STATUS_OK) return status;
    n->over = false;
    if (n->count > 1) open_edge(n, next_of(fabric));
    return STATUS_OK;
}

bool fabric_nccl_ready(const struct fabric *fabric)
{
    const struct nccl_side *n = fabric->nccl;
    return n->count == 1 || (n->sides[next_of(fabric)].out.state == EDGE_STANDS &&
                             n->sides[previous_of(fabric)].in.state == EDGE_STANDS);
}

int fabric_nccl_missing(const struct fabric *fabric)
{
    return fabric->nccl->missing;
}

void fabric_nccl_turn(struct fabric *fabric)
{
    struct nccl_side *n = fabric->nccl;
    int peer;
    char why[LANE_WHY_BYTES];
    take_finished(fabric);
    take_landed(fabric);
    if (n->over) return;
    if (lane_failed(n->lane, &peer, why)) {
        fabric->at_fault = true;
        fabric_io_lose(fabric, peer, "%s", why);
    }
    if (fabric->phase != PHASE_OVER) return;
    /* At once, not when the owner leaves: the others' aborts may need this one's. */
    n->over = true;
    lane_end(n->lane);
}

static void drop(struct fabric *fabric, struct crossing *crossing)
{
    struct edge *edge = edge_of(fabric->nccl, &crossing->job);
    crossing->job.failed = true;
    if (crossing != &edge->warm) crossed(&crossing->job, fabric);
}

/* What was never given to the lane. */
static void drop_waiting(struct fabric *fabric)
{
    struct nccl_side *n = fabric->nccl;
    while (n->order.first) {
        struct order_place *place = n->order.first;
        order_withdraw(&n->order, place);
        drop(fabric, (struct crossing *)place);
    }
    for (int i = 0; i < n->count; i++) {
        for (struct crossing *c; (c = queue_take(&n->sides[i].announced)) != NULL;) drop(fabric, c);
        for (struct crossing *c; (c = queue_take(&n->sides[i].landing)) != NULL;) {
            struct parcel *parcel = CONTAINER(c, struct parcel, crossing);
            if (c->busy) continue; /* memory is being made for it, and then kept */
            if (parcel->bytes)
                keep(n, parcel);
            else
                free(parcel);
        }
    }
}

void fabric_nccl_leave(struct fabric *fabric)
{
    struct nccl_side *n = fabric->nccl;
    if (!n->sides) return;
    n->missing = fabric->stood || fabric_nccl_ready(fabric)           ? -1
                 : n->sides[next_of(fabric)].out.state != EDGE_STANDS ? next_of(fabric)
                                                                      : previous_of(fabric);
    n->over = true;
    lane_end(n->lane);
    lane_await_end(n->lane);
    drop_waiting(fabric);
    take_finished(fabric);
    free(n->sides);
    n->sides = NULL;
}
