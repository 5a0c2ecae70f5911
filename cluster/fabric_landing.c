/*
 * fabric_landing.c - device memory for payloads that arrive. Runs on the fabric's I/O thread; the lane allocates.
 *
 * A piece belongs to one message from its header until the owner has released it and nothing on its stream reads it
 * any more; then it is kept and given to another. Credits bound how many are out.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "cluster/fabric_nccl_core.h"

void landing_keep(struct nccl_side *n, struct parcel *parcel)
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
        landing_keep(fabric->nccl, parcel);
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
        fabric_lane_give(n->lane, &parcel->crossing.job);
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
        landing_keep(fabric->nccl, parcel);
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
    fabric_lane_give(n->lane, &parcel->crossing.job);
}

/* The owner has released it, and nothing reads it any more. */
static void landing_free(struct fabric *fabric, struct parcel *parcel)
{
    /* A message that outlived its epoch has nobody left to tell. */
    if (!fabric->nccl->closed && fabric->phase != PHASE_IDLE && parcel->epoch == fabric->epoch)
        fabric->peers[parcel->note.event.peer].owed++;
    landing_keep(fabric->nccl, parcel);
}

static void watch_reading(struct nccl_side *n, struct parcel *parcel);

static void was_read(struct lane_job *job, void *owner)
{
    struct fabric *fabric = owner;
    struct parcel *parcel = CONTAINER(job, struct parcel, crossing.job);
    if (job->failed && !fabric->nccl->closed)
        watch_reading(fabric->nccl, parcel); /* an epoch ended, which does not end reading */
    else {
        fabric_lane_unmark(fabric->nccl->lane, job->event);
        landing_free(fabric, parcel);
    }
}

static void watch_reading(struct nccl_side *n, struct parcel *parcel)
{
    void *event = parcel->crossing.job.event;
    parcel->crossing.job = (struct lane_job){.kind = LANE_WATCH, .event = event, .finished = was_read};
    fabric_lane_give(n->lane, &parcel->crossing.job);
}

void landing_take_back(struct fabric *fabric)
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

void landing_close(struct lane *lane, struct parcel *parcel)
{
    while (parcel) {
        struct parcel *next = parcel->next;
        if (parcel->bytes) fabric_lane_release(lane, parcel->bytes);
        free(parcel);
        parcel = next;
    }
}

/* Goes on with headers in the order in which they came, as far as there is memory: the payloads will come in that
 * order. What the sender sees as sent may not be received yet, so its count of what is outstanding is not this one's. */
static void land_some(struct fabric *fabric, int peer)
{
    struct nccl_side *n = fabric->nccl;
    struct side *side = &n->sides[peer];
    while (!n->over && side->landing.first && side->incoming < OUTSTANDING) {
        struct parcel *parcel = CONTAINER(side->landing.first, struct parcel, crossing);
        if (!parcel->bytes) return;
        struct crossing *crossing = crossing_queue_take(&side->landing);
        parcel->note.event.payload = parcel->bytes;
        crossing->job = crossing_job(peer, false, parcel->bytes, parcel->note.event.ticket.bytes);
        crossing_propose(n, peer, crossing);
    }
}

void landing_go_on(struct fabric *fabric, int peer)
{
    fabric->nccl->sides[peer].incoming--;
    land_some(fabric, peer);
}

bool fabric_nccl_land(struct fabric *fabric, int peer, const struct ticket *ticket)
{
    struct nccl_side *n = fabric->nccl;
    struct inbox *in = &fabric->peers[peer].in[ORDERLY];
    struct parcel *parcel = take_kept(n, ticket->bytes);
    if (!parcel) parcel = calloc(1, sizeof *parcel);
    if (!parcel) return false;
    *parcel = (struct parcel){.capacity = parcel->capacity, .bytes = parcel->bytes, .on_device = true};
    parcel->epoch = fabric->epoch;
    parcel->pending = 1;
    parcel->placed = ticket->bytes;
    parcel->note.event =
        (struct fabric_event){.kind = FABRIC_RECEIVED, .peer = peer, .ticket = *ticket, .hold = parcel};
    *in->end = parcel;
    in->end = &parcel->next;
    crossing_queue_add(&n->sides[peer].landing, &parcel->crossing);
    if (parcel->bytes)
        land_some(fabric, peer);
    else
        allocate(n, parcel, peer, ticket->bytes);
    return true;
}
