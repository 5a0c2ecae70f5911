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
 * NCCL but the two marks, which the owner makes: cluster/fabric_lane.c does, told so by fabric_lane_give in the order
 * of cluster/order.h, the same on all members.
 *
 * Memory for payloads that arrive is kept and used again, as host memory is by parcel.h. Where a message finds
 * none that is large enough, all smaller that is free is given back first: sizes grow, and rarely shrink.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cluster/fabric_nccl_core.h"

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
    status_t status = fabric_lane_open(&lane, &n->lane, error);
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
    for (struct lane_job *job; (job = fabric_lane_take(fabric->nccl->lane)) != NULL;)
        job->finished(job, fabric);
}

void fabric_nccl_close(struct fabric *fabric)
{
    struct nccl_side *n = fabric->nccl;
    if (!n) return;
    n->closed = true;
    fabric_lane_stop(n->lane);
    take_finished(fabric);
    for (struct parcel *parcel = fabric->landed; parcel; parcel = parcel->next)
        fabric_lane_unmark(n->lane, parcel->crossing.job.event);
    landing_close(n->lane, n->kept);
    landing_close(n->lane, fabric->landed);
    fabric_lane_close(n->lane);
    free(n);
    fabric->nccl = NULL;
}

/* -------------------------------------------------------------------------------------- the owner's marks */

status_t fabric_nccl_mark(struct fabric *fabric, struct outgoing *outgoing, struct error *error)
{
    status_t status = fabric_lane_mark(fabric->nccl->lane, &outgoing->made, error);
    outgoing->making = outgoing->made != NULL;
    return status;
}

void fabric_nccl_unmark(struct fabric *fabric, struct outgoing *outgoing)
{
    fabric_lane_unmark(fabric->nccl->lane, outgoing->made);
}

void fabric_nccl_mark_read(struct fabric *fabric, struct parcel *parcel)
{
    struct error error;
    /* A stream that cannot be marked has failed: nothing on it reads any more. */
    if (fabric_lane_mark(fabric->nccl->lane, &parcel->crossing.job.event, &error) != STATUS_OK)
        log_line(LOG_WARN, "%s", error.text);
}

/* ---------------------------------------------------------------------------------------------- crossings */

void crossing_issue(struct nccl_side *n)
{
    if (n->over) return;
    for (struct order_place *place; (place = order_next(&n->order)) != NULL;) {
        struct crossing *crossing = (struct crossing *)place;
        crossing->busy = true;
        crossing->job.stamp = place->stamp;
        fabric_lane_give(n->lane, &crossing->job);
    }
}

void crossing_propose(struct nccl_side *n, int peer, struct crossing *crossing)
{
    struct side *side = &n->sides[peer];
    side->incoming++;
    order_propose(&n->order, &crossing->place, peer);
    crossing_queue_add(&side->proposed, crossing);
    stamps_add(&side->ready, crossing->place.stamp);
}

static void crossing_done(struct lane_job *job, void *owner);

struct lane_job crossing_job(int peer, bool outward, void *memory, uint64_t bytes)
{
    return (struct lane_job){.kind = outward ? LANE_SEND : LANE_RECEIVE,
                             .peer = peer,
                             .outward = outward,
                             .memory = memory,
                             .bytes = bytes,
                             .finished = crossing_done};
}

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
        landing_keep(fabric->nccl, parcel);
    else
        parcel->pending = 0; /* nobody writes to it any more; leaving gives it back */
}

static void crossing_done(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct edge *edge = edge_of(fabric->nccl, job);
    CONTAINER(job, struct crossing, job)->busy = false;
    if (!job->outward && !job->failed) landing_go_on(fabric, job->peer);
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
    if (job->failed) fabric_lane_unmark(fabric->nccl->lane, job->event);
    outgoing->making = false;
    fabric_io_let_go(outgoing);
}

void fabric_nccl_watch(struct fabric *fabric, struct outgoing *outgoing)
{
    if (fabric->nccl->over) { /* it will not be sent */
        fabric_lane_unmark(fabric->nccl->lane, outgoing->made);
        outgoing->making = false;
        return;
    }
    atomic_fetch_add(&outgoing->holders, 1);
    outgoing->crossing.job = (struct lane_job){.kind = LANE_WATCH, .event = outgoing->made, .finished = made};
    fabric_lane_give(fabric->nccl->lane, &outgoing->crossing.job);
}

status_t fabric_nccl_announce(struct fabric *fabric, struct outgoing *outgoing)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[outgoing->peer];
    if (side->out.state == EDGE_NONE) edge_open(n, outgoing->peer);
    if (n->over || outgoing->making || side->out.state != EDGE_STANDS || side->outstanding == OUTSTANDING)
        return STATUS_AGAIN;
    struct crossing *crossing = &outgoing->crossing;
    /* NCCL only reads it; the job just has no const. */
    crossing->job = crossing_job(outgoing->peer, true, (void *)(uintptr_t)outgoing->payload, outgoing->bytes);
    status_t status = fabric_io_send_piece(fabric, &fabric->peers[outgoing->peer], outgoing);
    if (status != STATUS_OK) return status;
    crossing_queue_add(&side->announced, crossing);
    side->outstanding++;
    return STATUS_OK;
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
        crossing_queue_init(&n->sides[i].announced);
        crossing_queue_init(&n->sides[i].proposed);
        crossing_queue_init(&n->sides[i].landing);
    }
    status_t status = fabric_lane_begin(n->lane, fabric->epoch, fabric->self, fabric->count, error);
    if (status != STATUS_OK) return status;
    n->over = false;
    if (n->count > 1) edge_open(n, next_of(fabric));
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
    landing_take_back(fabric);
    if (n->over) return;
    if (fabric_lane_failed(n->lane, &peer, why)) {
        fabric->at_fault = true;
        fabric_io_lose(fabric, peer, "%s", why);
    }
    if (fabric->phase != PHASE_OVER) return;
    /* At once, not when the owner leaves: the others' aborts may need this one's. */
    n->over = true;
    fabric_lane_end(n->lane);
}

static void drop(struct fabric *fabric, struct crossing *crossing)
{
    struct edge *edge = edge_of(fabric->nccl, &crossing->job);
    crossing->job.failed = true;
    if (crossing != &edge->warm) crossing_done(&crossing->job, fabric);
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
        for (struct crossing *c; (c = crossing_queue_take(&n->sides[i].announced)) != NULL;) drop(fabric, c);
        for (struct crossing *c; (c = crossing_queue_take(&n->sides[i].landing)) != NULL;) {
            struct parcel *parcel = CONTAINER(c, struct parcel, crossing);
            if (c->busy) continue; /* memory is being made for it, and then kept */
            if (parcel->bytes)
                landing_keep(n, parcel);
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
    fabric_lane_end(n->lane);
    fabric_lane_await_end(n->lane);
    drop_waiting(fabric);
    take_finished(fabric);
    free(n->sides);
    n->sides = NULL;
}
