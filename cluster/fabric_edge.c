/*
 * fabric_edge.c - how the way for payloads from one member to another comes to stand, and the signals that go
 * there; see fabric_nccl.c for the picture. Runs on the fabric's I/O thread.
 */
#include <string.h>

#include "cluster/fabric_nccl_core.h"

/* -------------------------------------------------------------------------------------------------- edges */

struct edge *edge_of(struct nccl_side *n, const struct lane_job *job)
{
    struct side *side = &n->sides[job->peer];
    return job->outward ? &side->out : &side->in;
}

/* Both ends have joined: the first exchange makes NCCL connect them, which can take its time. */
static void warm_up(struct nccl_side *n, int peer)
{
    struct side *side = &n->sides[peer];
    struct edge *out = &side->out;
    if (n->over || out->state != EDGE_JOINED || !out->joined_there) return;
    out->state = EDGE_WARMING;
    out->warm.job = crossing_job(peer, true, NULL, 0);
    crossing_queue_add(&side->announced, &out->warm);
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
    fabric_lane_give(n->lane, &edge->connect);
}

static void named(struct lane_job *job, void *owner)
{
    struct nccl_side *n = ((struct fabric *)owner)->nccl;
    if (job->failed || n->over) return;
    n->sides[job->peer].owes_edge = true;
    connect(n, edge_of(n, job));
}

void edge_open(struct nccl_side *n, int peer)
{
    struct edge *edge = &n->sides[peer].out;
    if (n->over || edge->state != EDGE_NONE) return;
    edge->state = EDGE_NAMED;
    edge->connect = (struct lane_job){
        .kind = LANE_NAME, .peer = peer, .outward = true, .id = &edge->id, .finished = named};
    fabric_lane_give(n->lane, &edge->connect);
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
    in->warm.job = crossing_job(peer, false, NULL, 0);
    crossing_propose(n, peer, &in->warm);
    return NULL;
}

static const char *take_ready(struct fabric *fabric, int peer, uint64_t proposal)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[peer];
    struct crossing *crossing = crossing_queue_take(&side->announced);
    if (!crossing) return "it is ready for what was not announced";
    if (!order_accept(&n->order, &crossing->place, fabric->self, proposal))
        return "it proposed a stamp that cannot be";
    stamps_add(&side->go, crossing->place.stamp);
    crossing_issue(n);
    return NULL;
}

static const char *take_go(struct nccl_side *n, int peer, uint64_t stamp)
{
    struct crossing *crossing = crossing_queue_take(&n->sides[peer].proposed);
    if (!crossing) return "it answered what was not proposed";
    if (!order_settle(&n->order, &crossing->place, stamp)) return "it answered with a stamp that cannot be";
    crossing_issue(n);
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
