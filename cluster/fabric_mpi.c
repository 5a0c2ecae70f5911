/*
 * fabric_mpi.c - the fabric over MPI point-to-point, for clusters with networks that MPI drives better than
 * tcp.
 *
 * Members are named by their rank in MPI_COMM_WORLD: the address is "mpi:RANK". A message is a short head,
 * tag TAG_HEAD, received into one of a ring of receives that are always posted; if it announces a chunk, that
 * follows with TAG_CHUNK, straight out of the poster's memory into the receiver's parcel. Both tags keep
 * MPI's order per pair, so the n-th chunk belongs to the n-th head that announced one.
 *
 * Nothing here blocks inside MPI: everything is Isend, Irecv and Test, with short sleeps in between that grow
 * while nothing happens. MPI neither reports a dead peer nor works reliably after one: the core's silence
 * limit finds it, and from then on this process calls MPI no more (`broken`); the group has to be relaunched.
 *
 * After open (owner) all MPI calls of the process come from the fabric's I/O thread: MPI_THREAD_SERIALIZED is
 * enough, as long as the program itself makes none until fabric_close.
 */
#include <inttypes.h>
#include <limits.h>
#include <mpi.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cluster/fabric_core.h"
#include "cluster/wire.h"

enum {
    TAG_HEAD = 21062, /* "RF": out of the way of whatever else the program sends */
    TAG_CHUNK = 21063,
    CHUNK_BYTES = 16 << 20,
    LENGTH_BYTES = 8,    /* precede the head: how long the chunk behind it is */
    RING = 64,           /* heads that can arrive while this thread is busy */
    HEADS_PER_PEER = 32, /* under way to one peer; a stuck one must not take what the others need */
    DRAIN_MS = 1000,     /* without any completion: then sends to peers that live are given up, at leave */
    SETTLE_MS = 500,     /* for what is left when the fabric closes */
    SOON_NS = 1000000,   /* so long after data moved, more is expected at once */
    SPINS = 20,          /* looks without sleeping after something happened */
};

enum transfer_kind { SEND_HEAD, SEND_CHUNK, RECEIVE_CHUNK };

struct head_slot {
    struct head_slot *next; /* free ones */
    int rank;               /* where it is going */
    uint8_t wire[LENGTH_BYTES + HEAD_BYTES];
};

/* What to do when the request beside it completes. */
struct transfer {
    enum transfer_kind kind;
    int peer;                  /* index in the epoch it began in */
    struct head_slot *slot;    /* SEND_HEAD */
    struct outgoing *outgoing; /* SEND_CHUNK */
    struct parcel *parcel;     /* RECEIVE_CHUNK: where it goes; NULL: nobody wants it */
    uint8_t *waste;            /* then it goes here; freed afterwards */
    size_t bytes;
};

struct link {
    struct fabric *fabric;
    int rank, ranks; /* of MPI_COMM_WORLD */
    bool broken;     /* a member was lost or MPI failed: never call MPI again */
    struct head_slot ring[RING];
    MPI_Request ring_requests[RING];
    int oldest; /* of the ring: receives match in the order they were posted, so only this one is looked at */
    struct head_slot *free_slots;
    MPI_Request *requests; /* [transfers] of `capacity`; beside them: */
    struct transfer *transfers;
    int *finished; /* [capacity] MPI_Testsome's answer */
    int count, capacity;
    int chunks;      /* SEND_CHUNKs and RECEIVE_CHUNKs among them */
    int members;     /* of the epoch; 0: none */
    int *member_of;  /* [ranks] index in the epoch, or -1 */
    int *heads_out;  /* [ranks] SEND_HEADs under way; outlives epochs, as they may */
    int *rank_of;    /* [members] */
    bool *proven;    /* [members] its HELLO was right */
    int64_t busy_ns; /* when data last moved; heartbeats do not count */
};

/* ---------------------------------------------------------------------------------------------- transfers */

/* MPI itself failed: nothing that uses it can be trusted any more. */
static void link_break(struct link *link, const char *call, int code)
{
    if (link->broken) return;
    link->broken = true;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, text, &length);
    for (int i = 0; i < link->members; i++)
        if (i != link->fabric->self) fabric_io_lose(link->fabric, i, "%s failed: %s", call, text);
}

/* Room for `more` transfers. */
static bool reserve(struct link *link, int more)
{
    if (link->count + more <= link->capacity) return true;
    size_t capacity = (size_t)link->capacity * 2 + 64;
    MPI_Request *requests = realloc(link->requests, capacity * sizeof *requests);
    if (requests) link->requests = requests;
    struct transfer *transfers = realloc(link->transfers, capacity * sizeof *transfers);
    if (transfers) link->transfers = transfers;
    int *finished = realloc(link->finished, capacity * sizeof *finished);
    if (finished) link->finished = finished;
    if (!requests || !transfers || !finished) return false;
    link->capacity = (int)capacity;
    return true;
}

static void finish(struct link *link, struct transfer *transfer)
{
    switch (transfer->kind) {
    case SEND_HEAD:
        link->heads_out[transfer->slot->rank]--;
        transfer->slot->next = link->free_slots;
        link->free_slots = transfer->slot;
        break;
    case SEND_CHUNK:
        link->chunks--;
        link->busy_ns = clock_now_ns();
        fabric_io_chunk_done(NULL, transfer->outgoing);
        break;
    case RECEIVE_CHUNK:
        link->chunks--;
        link->busy_ns = clock_now_ns();
        if (transfer->parcel)
            fabric_io_filled(link->fabric, transfer->peer, transfer->parcel, transfer->bytes);
        free(transfer->waste);
        break;
    }
}

/* Looks after everything under way; true if something completed. */
static bool test_transfers(struct link *link)
{
    if (link->count == 0) return false;
    int done = 0;
    int code = MPI_Testsome(link->count, link->requests, &done, link->finished, MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS) {
        link_break(link, "MPI_Testsome", code);
        return true;
    }
    if (done == MPI_UNDEFINED || done == 0) return false;
    for (int i = 0; i < done; i++) finish(link, &link->transfers[link->finished[i]]);
    int kept = 0;
    for (int i = 0; i < link->count; i++) {
        if (link->requests[i] == MPI_REQUEST_NULL) continue;
        link->requests[kept] = link->requests[i];
        link->transfers[kept++] = link->transfers[i];
    }
    link->count = kept;
    return true;
}

static struct head_slot *take_slot(struct link *link)
{
    struct head_slot *slot = link->free_slots;
    if (slot) link->free_slots = slot->next;
    return slot ? slot : malloc(sizeof *slot);
}

static status_t link_send(void *argument, int peer, const uint8_t *head, size_t head_bytes,
                          const uint8_t *chunk, size_t chunk_bytes, struct outgoing *outgoing)
{
    struct link *link = argument;
    if (link->broken) return STATUS_PEER_LOST;
    int rank = link->rank_of[peer];
    if (link->heads_out[rank] >= HEADS_PER_PEER || !reserve(link, 2)) return STATUS_AGAIN;
    struct head_slot *slot = take_slot(link);
    if (!slot) return STATUS_AGAIN;
    slot->rank = rank;
    wire_put64(slot->wire, chunk_bytes);
    memcpy(slot->wire + LENGTH_BYTES, head, head_bytes);
    link->transfers[link->count] = (struct transfer){.kind = SEND_HEAD, .peer = peer, .slot = slot};
    int code = MPI_Isend(slot->wire, LENGTH_BYTES + (int)head_bytes, MPI_BYTE, rank, TAG_HEAD, MPI_COMM_WORLD,
                         &link->requests[link->count]);
    if (code != MPI_SUCCESS) {
        slot->next = link->free_slots;
        link->free_slots = slot;
        link_break(link, "MPI_Isend", code);
        return STATUS_PEER_LOST;
    }
    link->count++;
    link->heads_out[rank]++;
    if (chunk_bytes == 0) return STATUS_OK;
    link->transfers[link->count] = (struct transfer){.kind = SEND_CHUNK, .peer = peer, .outgoing = outgoing};
    code = MPI_Isend(chunk, (int)chunk_bytes, MPI_BYTE, rank, TAG_CHUNK, MPI_COMM_WORLD,
                     &link->requests[link->count]);
    if (code != MPI_SUCCESS) { /* its head is out already: taken, and everything ends */
        fabric_io_chunk_done(NULL, outgoing);
        link_break(link, "MPI_Isend", code);
        return STATUS_OK;
    }
    link->count++;
    link->chunks++;
    link->busy_ns = clock_now_ns();
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- receiving */

static void post_head(struct link *link, int index)
{
    struct head_slot *slot = &link->ring[index];
    int code = MPI_Irecv(slot->wire, sizeof slot->wire, MPI_BYTE, MPI_ANY_SOURCE, TAG_HEAD, MPI_COMM_WORLD,
                         &link->ring_requests[index]);
    if (code != MPI_SUCCESS) link_break(link, "MPI_Irecv", code);
}

/* Receives the chunk that follows a head: into `place`, or (NULL) out of the way. It has to be taken in any
 * case, or the next one would be mistaken for it. */
static void receive_chunk(struct link *link, int rank, int peer, struct parcel *parcel, uint8_t *place,
                          size_t bytes)
{
    uint8_t *waste = place ? NULL : malloc(bytes);
    if (!reserve(link, 1) || (!place && !waste)) {
        free(waste);
        link_break(link, "allocating a receive buffer", MPI_ERR_NO_MEM);
        return;
    }
    link->transfers[link->count] = (struct transfer){
        .kind = RECEIVE_CHUNK, .peer = peer, .parcel = parcel, .waste = waste, .bytes = bytes};
    int code = MPI_Irecv(place ? place : waste, (int)bytes, MPI_BYTE, rank, TAG_CHUNK, MPI_COMM_WORLD,
                         &link->requests[link->count]);
    if (code != MPI_SUCCESS) {
        free(waste);
        link_break(link, "MPI_Irecv", code);
        return;
    }
    link->count++;
    link->chunks++;
}

/* Which member of the epoch this came from; -1: none that is believed. */
static int find_member(struct link *link, int rank, const uint8_t *head, size_t bytes)
{
    int peer = link->members > 0 ? link->member_of[rank] : -1;
    if (peer < 0) return -1;
    if (!link->proven[peer]) link->proven[peer] = fabric_io_hello(link->fabric, head, bytes) == peer;
    return link->proven[peer] ? peer : -1;
}

static void take_head(struct link *link, const struct head_slot *slot, int rank, size_t length)
{
    size_t bytes = length - LENGTH_BYTES;
    uint64_t chunk_bytes = wire_get64(slot->wire);
    if (length < LENGTH_BYTES || chunk_bytes > CHUNK_BYTES) {
        link_break(link, "understanding a message", MPI_ERR_OTHER);
        return;
    }
    const uint8_t *head = slot->wire + LENGTH_BYTES;
    if (bytes > ENVELOPE_BYTES) link->busy_ns = clock_now_ns();
    struct parcel *parcel = NULL;
    uint8_t *place = NULL;
    int peer = find_member(link, rank, head, bytes);
    if (peer >= 0 && !fabric_io_head(link->fabric, peer, head, bytes, (size_t)chunk_bytes, &parcel, &place)) {
        parcel = NULL;
        place = NULL;
    }
    if (chunk_bytes > 0 && !link->broken) receive_chunk(link, rank, peer, parcel, place, (size_t)chunk_bytes);
}

/* Takes the heads that have arrived; true if there was one. */
static bool test_heads(struct link *link)
{
    for (int taken = 0; taken < RING && !link->broken; taken++) {
        int arrived = 0, length = 0;
        MPI_Status status;
        int code = MPI_Test(&link->ring_requests[link->oldest], &arrived, &status);
        if (code == MPI_SUCCESS && !arrived) return taken > 0;
        if (code == MPI_SUCCESS) code = MPI_Get_count(&status, MPI_BYTE, &length);
        if (code != MPI_SUCCESS) {
            link_break(link, "MPI_Test", code);
            return true;
        }
        take_head(link, &link->ring[link->oldest], status.MPI_SOURCE, (size_t)length);
        if (!link->broken) post_head(link, link->oldest);
        link->oldest = (link->oldest + 1) % RING;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- the turns */

/* How long to sleep between two looks: short while messages flow, hardly any CPU once they stopped. */
static int64_t nap_ns(const struct link *link, int64_t now)
{
    int64_t quiet = now - link->busy_ns;
    if (link->broken) return SECOND_NS;
    if (link->members == 0 && link->count == 0) return 20 * MILLISECOND_NS;
    if (quiet < 2 * MILLISECOND_NS) return 50000;
    if (quiet < 50 * MILLISECOND_NS) return 200000;
    return 2 * MILLISECOND_NS;
}

static void link_progress(void *argument, int64_t until_ns)
{
    struct link *link = argument;
    for (int looks = 0;; looks++) {
        bool busy = !link->broken && test_heads(link);
        if (!link->broken && test_transfers(link)) busy = true;
        int64_t now = clock_now_ns();
        if (busy || now >= until_ns || atomic_load(&link->fabric->awakened)) return;
        /* A large message takes several turns of both sides; between them others may have the core. */
        bool soon = now - link->busy_ns < SOON_NS;
        if (soon && link->chunks > 0) sched_yield();
        if (soon && (link->chunks > 0 || looks < SPINS)) continue;
        int64_t nap = nap_ns(link, now);
        if (nap > until_ns - now) nap = until_ns - now;
        struct timespec limit = {.tv_sec = nap / SECOND_NS, .tv_nsec = nap % SECOND_NS};
        struct pollfd bell = {.fd = link->fabric->wake_fd, .events = POLLIN};
        if (ppoll(&bell, 1, &limit, NULL) > 0) {
            link->busy_ns = clock_now_ns();
            return;
        }
    }
}

/* ------------------------------------------------------------------------------------------------- epochs */

/* "mpi:RANK" of a rank that exists, and of each rank once. */
static status_t read_address(struct link *link, int index, const char *address, struct error *error)
{
    char *end = NULL;
    long rank = strncmp(address, "mpi:", 4) == 0 ? strtol(address + 4, &end, 10) : -1;
    if (!end || end == address + 4 || *end || rank < 0 || rank >= link->ranks)
        return error_set(error, STATUS_INVALID, "fabric: member %d at \"%s\": expected mpi:0 to mpi:%d",
                         index, address, link->ranks - 1);
    if (link->member_of[rank] >= 0)
        return error_set(error, STATUS_INVALID, "fabric: members %d and %d are both rank %ld",
                         link->member_of[rank], index, rank);
    link->member_of[rank] = index;
    link->rank_of[index] = (int)rank;
    return STATUS_OK;
}

static status_t link_join(void *argument, const struct fabric_membership *membership, struct error *error)
{
    struct link *link = argument;
    if (link->broken)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "fabric: MPI cannot form a new group after a member was lost: relaunch all ranks, or use "
            "the zmq fabric");
    size_t count = (size_t)membership->count;
    link->rank_of = calloc(count, sizeof *link->rank_of);
    link->proven = calloc(count, sizeof *link->proven);
    if (!link->rank_of || !link->proven)
        return error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %zu members", count);
    for (int i = 0; i < link->ranks; i++) link->member_of[i] = -1;
    for (int i = 0; i < membership->count; i++) {
        status_t status = read_address(link, i, membership->addresses[i], error);
        if (status != STATUS_OK) return status;
    }
    if (link->rank_of[membership->self] != link->rank)
        return error_set(error, STATUS_INVALID, "fabric: member %d is rank %d, this is rank %d",
                         membership->self, link->rank_of[membership->self], link->rank);
    link->members = membership->count;
    link->busy_ns = clock_now_ns();
    return STATUS_OK;
}

static void link_part(void *argument, int peer, const uint8_t *farewell, size_t bytes)
{
    struct link *link = argument;
    if (link->members == 0) return; /* the join failed before */
    const struct peer *parting = &link->fabric->peers[peer];
    if (farewell && !link->broken) link_send(link, peer, farewell, bytes, NULL, 0, NULL);
    if (parting->silent) link->broken = true;
}

/* Does MPI write into memory of the owner's for it, which cannot be given back before? */
static bool lands_in_place(const struct transfer *transfer)
{
    return transfer->kind == RECEIVE_CHUNK && transfer->parcel && transfer->parcel->place;
}

/* Chunks that a living member will move: sends, which it takes in, wanted or not, and what it sends into a place. */
static bool chunks_of_living(const struct link *link)
{
    for (int i = 0; i < link->count; i++) {
        const struct transfer *transfer = &link->transfers[i];
        if (transfer->kind != SEND_CHUNK && !lands_in_place(transfer)) continue;
        const struct peer *peer = &link->fabric->peers[transfer->peer];
        if (!peer->silent) return true;
    }
    return false;
}

/* MPI cannot take back a send, or a receive that has begun. One that does not complete in time ends the use of MPI: then nobody here reads
 * the memory any more, and a peer that still might is not of this epoch's concern. */
static void link_leave(void *argument)
{
    struct link *link = argument;
    const struct timespec pause = {.tv_nsec = 50000};
    bool was_broken = link->broken; /* by a lost member: MPI may still serve the others for this last time */
    link->broken = false;
    link->busy_ns = clock_now_ns();
    while (!link->broken && chunks_of_living(link)) {
        /* The others drain, too: what they send has to be taken. */
        if (!test_transfers(link) && !link->broken && !test_heads(link)) nanosleep(&pause, NULL);
        if (clock_now_ns() - link->busy_ns > DRAIN_MS * MILLISECOND_NS) break;
    }
    int kept = 0;
    for (int i = 0; i < link->count; i++) {
        if (link->transfers[i].kind == SEND_CHUNK) {
            finish(link, &link->transfers[i]);
            was_broken = true;
            continue;
        }
        if (lands_in_place(&link->transfers[i])) was_broken = true; /* nothing completes it any more */
        link->requests[kept] = link->requests[i];
        link->transfers[kept++] = link->transfers[i];
    }
    link->count = kept;
    if (was_broken) link->broken = true;
    link->members = 0;
    free(link->rank_of);
    free(link->proven);
    link->rank_of = NULL;
    link->proven = NULL;
}

/* ----------------------------------------------------------------------------------------- open and close */

static status_t check_mpi(struct link *link, struct error *error)
{
    int ready = 0, ended = 0, threads = MPI_THREAD_SINGLE;
    MPI_Initialized(&ready);
    MPI_Finalized(&ended);
    if (!ready || ended)
        return error_set(error, STATUS_CONFLICT,
                         "fabric: MPI is not running in this process (MPI_Init_thread first)");
    MPI_Query_thread(&threads);
    if (threads < MPI_THREAD_SERIALIZED)
        return error_set(error, STATUS_UNSUPPORTED,
                         "fabric: MPI was started without MPI_THREAD_SERIALIZED; the mpi fabric needs it");
    MPI_Comm_rank(MPI_COMM_WORLD, &link->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &link->ranks);
    /* Errors come back as codes; by default MPI would end the process. */
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return STATUS_OK;
}

static void free_link(struct link *link)
{
    while (link->free_slots) {
        struct head_slot *slot = link->free_slots;
        link->free_slots = slot->next;
        free(slot);
    }
    free(link->requests);
    free(link->transfers);
    free(link->finished);
    free(link->member_of);
    free(link->heads_out);
    free(link);
}

static status_t link_open(struct fabric *fabric, const struct fabric_config *config, void **out,
                          char address[FABRIC_ADDRESS_BYTES], struct error *error)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link) return error_set(error, STATUS_NO_MEMORY, "fabric: no memory");
    link->fabric = fabric;
    status_t status = check_mpi(link, error);
    if (status != STATUS_OK) goto fail;
    link->member_of = calloc((size_t)link->ranks, sizeof *link->member_of);
    link->heads_out = calloc((size_t)link->ranks, sizeof *link->heads_out);
    if (!link->member_of || !link->heads_out) {
        status = error_set(error, STATUS_NO_MEMORY, "fabric: no memory for %d ranks", link->ranks);
        goto fail;
    }
    for (int i = 0; i < RING; i++) post_head(link, i);
    if (link->broken) {
        status = error_set(error, STATUS_IO, "fabric: MPI takes no receives");
        goto fail;
    }
    snprintf(address, FABRIC_ADDRESS_BYTES, "mpi:%d", link->rank);
    *out = link;
    return STATUS_OK;

fail:
    free_link(link);
    return status;
}

/* Takes back the posted receives and completes the last sends. False: MPI still holds memory of the link. */
static bool settle(struct link *link)
{
    for (int i = 0; i < RING; i++) MPI_Cancel(&link->ring_requests[i]);
    int64_t limit = clock_now_ns() + SETTLE_MS * MILLISECOND_NS;
    const struct timespec pause = {.tv_nsec = 50000};
    for (;;) {
        int cancelled = 0;
        int code = MPI_Testall(RING, link->ring_requests, &cancelled, MPI_STATUSES_IGNORE);
        test_transfers(link);
        if (code != MPI_SUCCESS || link->broken) return false;
        if (cancelled && link->count == 0) return true;
        if (clock_now_ns() >= limit) return false;
        nanosleep(&pause, NULL);
    }
}

static void link_close(void *argument)
{
    struct link *link = argument;
    /* What MPI may still write into is left to the process's end, which is near. */
    if (link->broken || !settle(link)) return;
    free_link(link);
}

const struct transport fabric_transport_mpi = {
    .chunk_bytes = CHUNK_BYTES,
    .open = link_open,
    .close = link_close,
    .join = link_join,
    .part = link_part,
    .leave = link_leave,
    .send = link_send,
    .progress = link_progress,
};
