/*
 * vault_serve.c - the vault's thread: takes checkpoints from ranks, makes them durable, hands them out again,
 * and removes files. It owns the ROUTER socket and everything on disk; the index it shares with the loop
 * (vault.c).
 *
 * One turn: what the loop left (files to remove), then messages, each complete checkpoint written at once;
 * then all that were completed in this turn become durable together, because the syncs after the first find
 * little left to do. Only then are the ranks told. A checkpoint's way: begin (fence, room) -> take pieces ->
 * batch -> settle.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "coordinator/vault/vault_core.h"
#include "coordinator/vault/vaultfile.h"

enum {
    TURN_MESSAGES = 64,    /* before what is complete is made durable */
    OPEN_DIRECTORIES = 64, /* kept open from one checkpoint of a job to the next */
    IDLE_MS = 5000,
};

#define INCOMING_NS   (60 * SECOND_NS)     /* without a piece: the rest will not come */
#define RESERVE_BYTES (UINT64_C(32) << 20) /* left on the disk for the job store, as results.c does */

/* ---------------------------------------------------------------------------------------------- answering */

/* A rank that is gone, or takes no answers, asks again when it wants to know. */
static void answer(struct vault *vault, const struct wire_peer *peer, Refrain__VaultReply *reply)
{
    struct error error;
    wire_stamp(*reply);
    if (wire_send(vault->socket, peer, &reply->base, &error) != STATUS_OK)
        log_line(LOG_DEBUG, "an answer about a checkpoint was not sent: %s", error.text);
}

static void answer_save(struct vault *vault, const struct wire_peer *peer,
                        const struct checkpoint *checkpoint, status_t status, struct error *error)
{
    Refrain__VaultReply reply = REFRAIN__VAULT_REPLY__INIT;
    Refrain__Saved saved = REFRAIN__SAVED__INIT;
    saved.has_job = saved.has_attempt = saved.has_step = saved.has_status = 1;
    saved.job = checkpoint->job;
    saved.attempt = checkpoint->attempt;
    saved.step = checkpoint->step;
    saved.status = (uint32_t)status;
    saved.message = status == STATUS_OK ? NULL : error->text;
    reply.body_case = REFRAIN__VAULT_REPLY__BODY_SAVED;
    reply.saved = &saved;
    answer(vault, peer, &reply);
}

static void count_refusal(struct vault *vault)
{
    pthread_mutex_lock(&vault->lock);
    vault->stats.refused++;
    pthread_mutex_unlock(&vault->lock);
}

static void refuse_save(struct vault *vault, const struct wire_peer *peer,
                        const struct checkpoint *checkpoint, status_t status, struct error *error)
{
    count_refusal(vault);
    /* An attempt that is over is no event, and what a rank does wrong is the rank's to log. */
    if (status == STATUS_IO || status == STATUS_NO_MEMORY)
        log_line(LOG_WARN, "job %" PRIu64 ": its checkpoint of step %" PRIu32 " is not kept: %s",
                 checkpoint->job, checkpoint->step, error->text);
    answer_save(vault, peer, checkpoint, status, error);
}

/* ----------------------------------------------------------------------------------------------- arriving */

/* The slot's checkpoint is no longer arriving; its entry stays the caller's. */
static void close_incoming(struct vault *vault, struct slot *slot)
{
    struct incoming *incoming = slot->incoming;
    close(incoming->file);
    XXH64_freeState(incoming->hash);
    pthread_mutex_lock(&vault->lock);
    vault->arriving -= VAULTFILE_HEAD_BYTES + incoming->entry->checkpoint.bytes;
    pthread_mutex_unlock(&vault->lock);
    free(incoming);
    slot->incoming = NULL;
    vault->incoming_count--;
}

static void abandon(struct vault *vault, struct slot *slot)
{
    struct held *entry = slot->incoming->entry;
    vaultfile_discard(slot->directory, &entry->checkpoint);
    close_incoming(vault, slot);
    free(entry);
}

static status_t check_save(const struct vault *vault, const Refrain__SaveChunk *chunk, struct error *error)
{
    if (!chunk->job || chunk->job > INT64_MAX || !chunk->attempt)
        return error_set(error, STATUS_INVALID, "checkpoint: job and attempt must be given");
    if (!chunk->total || chunk->total > vault->job_bytes)
        return error_set(error, STATUS_INVALID,
                         "checkpoint of %" PRIu64 " bytes: must be 1 to %" PRIu64 " bytes", chunk->total,
                         vault->job_bytes);
    if (!chunk->data.len || chunk->data.len > WIRE_CHUNK_MAX || chunk->offset > chunk->total ||
        chunk->data.len > chunk->total - chunk->offset)
        return error_set(error, STATUS_INVALID,
                         "checkpoint: a piece of %zu bytes at %" PRIu64 " does not fit into %" PRIu64,
                         chunk->data.len, chunk->offset, chunk->total);
    return STATUS_OK;
}

static status_t check_disk(const struct vault *vault, uint64_t bytes, struct error *error)
{
    struct statvfs disk;
    if (fstatvfs(vault->root, &disk) != 0) return error_set(error, STATUS_IO, "the disk: %m");
    uint64_t left = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (left >= RESERVE_BYTES && left - RESERVE_BYTES >= bytes) return STATUS_OK;
    return error_set(error, STATUS_IO,
                     "the disk is full: it needs %" PRIu64 " bytes, %" PRIu64 " are free and %" PRIu64
                     " of them are kept for the job store",
                     bytes, left, RESERVE_BYTES);
}

static void remove_surplus(struct vault *vault)
{
    pthread_mutex_lock(&vault->lock);
    struct held *surplus = vault->surplus;
    vault->surplus = NULL;
    pthread_mutex_unlock(&vault->lock);
    for (struct held *next; surplus; surplus = next) {
        next = surplus->next;
        vaultfile_remove(vault->root, &surplus->checkpoint);
        free(surplus);
    }
}

/* Takes room for a file of so many bytes; files that a better one of their job has superseded make way. */
static status_t take_room(struct vault *vault, uint64_t bytes, struct error *error)
{
    status_t status = STATUS_OK;
    pthread_mutex_lock(&vault->lock);
    while (bytes > vault->limit_bytes || vault->stats.bytes + vault->arriving > vault->limit_bytes - bytes) {
        if (bytes <= vault->limit_bytes && vault_evict(vault)) continue;
        status = error_set(error, STATUS_NO_MEMORY,
                           "checkpoints may take %" PRIu64 " bytes: %" PRIu64 " are taken, it needs %" PRIu64,
                           vault->limit_bytes, vault->stats.bytes + vault->arriving, bytes);
        break;
    }
    if (status == STATUS_OK) vault->arriving += bytes;
    pthread_mutex_unlock(&vault->lock);
    remove_surplus(vault);
    if (status != STATUS_OK) return status;
    while ((status = check_disk(vault, bytes, error)) == STATUS_IO) {
        pthread_mutex_lock(&vault->lock);
        bool evicted = vault_evict(vault);
        pthread_mutex_unlock(&vault->lock);
        if (!evicted) break;
        remove_surplus(vault);
    }
    if (status == STATUS_OK) return STATUS_OK;
    pthread_mutex_lock(&vault->lock);
    vault->arriving -= bytes;
    pthread_mutex_unlock(&vault->lock);
    return status;
}

static bool is_busy(const struct slot *slot)
{
    return slot->incoming || slot->in_batch;
}

/* Descriptors of directories are kept, a bounded number of them: closes those nothing arrives in. */
static void close_directories(struct vault *vault)
{
    pthread_mutex_lock(&vault->lock);
    for (size_t i = 0; i < vault->slot_count; i++) {
        struct slot *slot = vault->slots[i];
        if (slot->directory < 0 || is_busy(slot)) continue;
        close(slot->directory);
        slot->directory = -1;
        vault->open_directories--;
    }
    pthread_mutex_unlock(&vault->lock);
}

static status_t open_directory(struct vault *vault, struct slot *slot, struct error *error)
{
    if (slot->directory >= 0) return STATUS_OK;
    if (vault->open_directories >= OPEN_DIRECTORIES) close_directories(vault);
    status_t status = vaultfile_directory(vault->root, slot->job, &slot->directory, error);
    if (status == STATUS_OK) vault->open_directories++;
    return status;
}

/* What cannot be a run's is no run. */
static struct run_point read_point(const Refrain__SaveChunk *chunk)
{
    struct run_point point = {.step = chunk->run_step, .seconds = chunk->run_seconds};
    bool named = chunk->run.len == KEY_BYTES && key_decode(chunk->run.data, &point.run, NULL) == STATUS_OK &&
                 key_is_run(&point.run) && point.step > 0 && isfinite(point.seconds) && point.seconds >= 0;
    return named ? point : (struct run_point){.step = 0};
}

static status_t begin(struct vault *vault, struct slot *slot, const struct checkpoint *checkpoint,
                      const struct run_point *point, const struct wire_peer *peer, struct error *error)
{
    uint64_t room = VAULTFILE_HEAD_BYTES + checkpoint->bytes;
    struct incoming *incoming = NULL;
    struct held *entry = NULL;
    XXH64_state_t *hash = NULL;
    status_t status = take_room(vault, room, error);
    if (status != STATUS_OK) return status;
    incoming = calloc(1, sizeof *incoming);
    entry = malloc(sizeof *entry);
    hash = XXH64_createState();
    if (!incoming || !entry || !hash) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory to take it in");
        goto fail;
    }
    if ((status = open_directory(vault, slot, error)) != STATUS_OK) goto fail;
    if ((status = vaultfile_create(slot->directory, checkpoint, &incoming->file, error)) != STATUS_OK)
        goto fail;
    XXH64_reset(hash, 0);
    *entry = (struct held){.checkpoint = *checkpoint, .point = *point};
    incoming->peer = *peer;
    incoming->entry = entry;
    incoming->hash = hash;
    slot->incoming = incoming;
    vault->incoming_count++;
    return STATUS_OK;
fail:
    XXH64_freeState(hash);
    free(entry);
    free(incoming);
    pthread_mutex_lock(&vault->lock);
    vault->arriving -= room;
    pthread_mutex_unlock(&vault->lock);
    return status;
}

/* The next piece of what is arriving. */
static status_t add_piece(struct incoming *incoming, const Refrain__SaveChunk *chunk, struct error *error)
{
    struct checkpoint *checkpoint = &incoming->entry->checkpoint;
    const struct run_point *point = &incoming->entry->point;
    XXH64_update(incoming->hash, chunk->data.data, chunk->data.len);
    if (chunk->offset + chunk->data.len == chunk->total) {
        checkpoint->xxh64 = XXH64_digest(incoming->hash);
        if (!chunk->has_xxh64 || chunk->xxh64 != checkpoint->xxh64)
            return error_set(error, STATUS_CORRUPT,
                             "checkpoint: arrived with hash %016" PRIx64 ", the rank says %016" PRIx64,
                             checkpoint->xxh64, chunk->xxh64);
    }
    status_t status = vaultfile_append(incoming->file, checkpoint, point, chunk->offset, chunk->data.data,
                                       chunk->data.len, error);
    if (status == STATUS_OK) incoming->got += chunk->data.len;
    incoming->touched_ns = clock_now_ns();
    return status;
}

/* ----------------------------------------------------------------------------------------- making durable */

static int64_t next_age(const struct vault *vault)
{
    int64_t now_ns = clock_wall_ms() * MILLISECOND_NS;
    return now_ns > vault->newest ? now_ns : vault->newest + 1;
}

/* Its file has its name. Only now does it count, if its attempt still does. */
static status_t publish(struct vault *vault, struct slot *slot, struct held *entry, struct error *error)
{
    struct checkpoint checkpoint = entry->checkpoint;
    pthread_mutex_lock(&vault->lock);
    bool counts = slot->attempt == checkpoint.attempt;
    if (counts) {
        entry->age = next_age(vault);
        vault_index(vault, slot, entry);
        if (slot->attempt)
            vault_announce(vault, slot, &checkpoint); /* otherwise marks may take nothing, and it went */
        vault->stats.saved++;
    }
    pthread_mutex_unlock(&vault->lock);
    if (counts) return STATUS_OK;
    vaultfile_remove(vault->root, &checkpoint);
    free(entry);
    return error_set(error, STATUS_ABORTED, "checkpoint: its attempt %" PRIu32 " is over",
                     checkpoint.attempt);
}

/* Syncs each file, names them, syncs their directories: in this order, for all of the batch. */
static void settle(struct vault *vault)
{
    status_t status[VAULT_BATCH] = {STATUS_OK};
    struct error errors[VAULT_BATCH];
    int count = vault->batch_count;
    for (int i = 0; count > 1 && i < count;
         i++) /* so that the disk gets all at once; a failure shows below */
        (void)sync_file_range(vault->batch[i]->incoming->file, 0, 0, SYNC_FILE_RANGE_WRITE);
    for (int i = 0; i < count; i++) status[i] = file_sync(vault->batch[i]->incoming->file, &errors[i]);
    for (int i = 0; i < count; i++)
        if (status[i] == STATUS_OK)
            status[i] = vaultfile_reveal(vault->batch[i]->directory,
                                         &vault->batch[i]->incoming->entry->checkpoint, &errors[i]);
    for (int i = 0; i < count; i++)
        if (status[i] == STATUS_OK) status[i] = file_sync_directory(vault->batch[i]->directory, &errors[i]);
    for (int i = 0; i < count; i++) {
        struct slot *slot = vault->batch[i];
        struct wire_peer peer = slot->incoming->peer;
        struct checkpoint checkpoint = slot->incoming->entry->checkpoint;
        slot->in_batch = false;
        if (status[i] == STATUS_OK) {
            struct held *entry = slot->incoming->entry;
            close_incoming(vault, slot);
            status[i] = publish(vault, slot, entry, &errors[i]);
        } else {
            abandon(vault, slot);
        }
        if (status[i] == STATUS_OK)
            answer_save(vault, &peer, &checkpoint, STATUS_OK, NULL);
        else
            refuse_save(vault, &peer, &checkpoint, status[i], &errors[i]);
    }
    vault->batch_count = 0;
    remove_surplus(vault);
}

/* ------------------------------------------------------------------------------------- what the loop left */

/* Files of jobs that were dropped, then files the index gave up. */
static void tidy(struct vault *vault)
{
    pthread_mutex_lock(&vault->lock);
    struct slot *gone = vault->gone;
    vault->gone = NULL;
    pthread_mutex_unlock(&vault->lock);
    if (gone && vault->batch_count) settle(vault); /* they may be in it */
    for (struct slot *next; gone; gone = next) {
        next = gone->next;
        if (gone->incoming) abandon(vault, gone);
        if (gone->directory >= 0) close(gone->directory), vault->open_directories--;
        vaultfile_remove_job(vault->root, gone->job);
        for (struct held *held = gone->held, *after; held; held = after) {
            after = held->next;
            free(held);
        }
        free(gone);
    }
    remove_surplus(vault);
}

/* Abandons what got no piece since then. */
static void abandon_before(struct vault *vault, int64_t since_ns)
{
    for (bool found = true; found;) {
        struct slot *cut_off = NULL;
        pthread_mutex_lock(&vault->lock);
        for (size_t i = 0; i < vault->slot_count && !cut_off; i++) {
            struct slot *slot = vault->slots[i];
            if (slot->incoming && !slot->in_batch && slot->incoming->touched_ns < since_ns) cut_off = slot;
        }
        pthread_mutex_unlock(&vault->lock);
        if ((found = cut_off != NULL)) abandon(vault, cut_off);
    }
}

/* Every few seconds: what did not get a piece for long is not waited for. */
static void look_for_cut_off(struct vault *vault)
{
    int64_t now_ns = clock_now_ns();
    if (!vault->incoming_count || now_ns < vault->next_look_ns) return;
    vault->next_look_ns = now_ns + IDLE_MS * MILLISECOND_NS;
    abandon_before(vault, now_ns - INCOMING_NS);
}

/* ----------------------------------------------------------------------------------------------- messages */

/* The slot whose attempt may save this; NULL: none. A job that was dropped and allowed again must not lose
 * its new files with the old ones, so those go first. */
static struct slot *fenced_slot(struct vault *vault, const struct checkpoint *checkpoint, bool *superfluous)
{
    struct slot *slot;
    for (bool again = true; again;) {
        pthread_mutex_lock(&vault->lock);
        again = vault->gone != NULL;
        slot = vault_find(vault, checkpoint->job);
        if (slot && slot->attempt != checkpoint->attempt) slot = NULL;
        *superfluous = slot && vault_superfluous(vault, slot, checkpoint);
        pthread_mutex_unlock(&vault->lock);
        if (again) tidy(vault);
    }
    return slot;
}

static bool follows(const struct slot *slot, const Refrain__SaveChunk *chunk, const struct wire_peer *peer)
{
    const struct incoming *incoming = slot->incoming;
    if (!incoming || slot->in_batch) return false;
    const struct checkpoint *checkpoint = &incoming->entry->checkpoint;
    return incoming->got == chunk->offset && checkpoint->bytes == chunk->total &&
           checkpoint->step == chunk->step && checkpoint->attempt == chunk->attempt &&
           wire_peer_equal(&incoming->peer, peer);
}

/* The piece that completes a checkpoint brings it into the batch. */
static status_t take_piece(struct vault *vault, struct slot *slot, const Refrain__SaveChunk *chunk,
                           struct error *error)
{
    struct incoming *incoming = slot->incoming;
    if (!incoming) return error_set(error, STATUS_INTERNAL, "checkpoint: nothing is arriving");
    status_t status = add_piece(incoming, chunk, error);
    if (status != STATUS_OK) {
        abandon(vault, slot);
    } else if (incoming->got == chunk->total) {
        slot->in_batch = true;
        vault->batch[vault->batch_count++] = slot;
        if (vault->batch_count == VAULT_BATCH) settle(vault);
    }
    return status;
}

static void take_save(struct vault *vault, const struct wire_peer *peer, const Refrain__SaveChunk *chunk)
{
    struct error error;
    struct checkpoint checkpoint = {
        .job = chunk->job, .attempt = chunk->attempt, .step = chunk->step, .bytes = chunk->total};
    struct slot *slot = NULL;
    bool superfluous = false;
    status_t status = check_save(vault, chunk, &error);
    if (status == STATUS_OK && !(slot = fenced_slot(vault, &checkpoint, &superfluous)))
        status =
            error_set(&error, STATUS_ABORTED, "checkpoint: attempt %" PRIu32 " may not save", chunk->attempt);
    if (status == STATUS_OK && chunk->offset == 0) {
        if (slot->in_batch) settle(vault);
        if (slot->incoming) abandon(vault, slot); /* begun anew, or given up for a newer one */
        if (superfluous) {
            answer_save(vault, peer, &checkpoint, STATUS_OK, NULL); /* the job can go on from further */
            return;
        }
        struct run_point point = read_point(chunk);
        status = begin(vault, slot, &checkpoint, &point, peer, &error);
    } else if (status == STATUS_OK && !follows(slot, chunk, peer)) {
        count_refusal(vault); /* the rest of one that was answered already */
        return;
    }
    if (status == STATUS_OK) status = take_piece(vault, slot, chunk, &error);
    if (status != STATUS_OK) refuse_save(vault, peer, &checkpoint, status, &error);
}

/* The first piece of a checkpoint is handed out only after all of it was compared with its hash. */
static status_t read_piece(struct vault *vault, const struct checkpoint *checkpoint,
                           const Refrain__LoadChunk *load, size_t bytes, struct error *error)
{
    status_t status = STATUS_OK;
    if (load->offset == 0)
        status = vaultfile_verify(vault->root, checkpoint, vault->buffer, WIRE_CHUNK_MAX, error);
    if (status == STATUS_OK)
        status = vaultfile_read(vault->root, checkpoint, load->offset, vault->buffer, bytes, error);
    if (status != STATUS_CORRUPT) return status;
    log_line(LOG_ERROR, "job %" PRIu64 ": its checkpoint of step %" PRIu32 " cannot be used: %s",
             checkpoint->job, checkpoint->step, error->text);
    pthread_mutex_lock(&vault->lock);
    struct slot *slot = vault_find(vault, checkpoint->job);
    if (slot) vault_unindex(vault, slot, checkpoint); /* from now on the one before it counts */
    pthread_mutex_unlock(&vault->lock);
    return status;
}

static status_t check_load(struct vault *vault, const Refrain__LoadChunk *load, struct checkpoint *checkpoint,
                           struct error *error)
{
    const Refrain__Checkpoint *asked = load->checkpoint;
    if (!asked || !asked->job || asked->job > INT64_MAX)
        return error_set(error, STATUS_INVALID, "checkpoint: must be named");
    *checkpoint = (struct checkpoint){asked->job, asked->attempt, asked->step, asked->bytes, asked->xxh64};
    if (!load->bytes || load->bytes > WIRE_CHUNK_MAX || load->offset >= asked->bytes)
        return error_set(error, STATUS_INVALID,
                         "checkpoint: a piece of %" PRIu32 " bytes at %" PRIu64 " of %" PRIu64
                         " cannot be asked for",
                         load->bytes, load->offset, asked->bytes);
    pthread_mutex_lock(&vault->lock);
    const struct slot *slot = vault_find(vault, asked->job);
    const struct held *held = slot ? slot->held : NULL;
    while (held && memcmp(&held->checkpoint, checkpoint, sizeof *checkpoint) != 0) held = held->next;
    pthread_mutex_unlock(&vault->lock);
    if (held) return STATUS_OK;
    return error_set(error, STATUS_NOT_FOUND,
                     "job %" PRIu64 ": there is no such checkpoint of step %" PRIu32 ", attempt %" PRIu32,
                     asked->job, asked->step, asked->attempt);
}

static void take_load(struct vault *vault, const struct wire_peer *peer, Refrain__LoadChunk *load)
{
    struct error error;
    struct checkpoint checkpoint = {0};
    Refrain__VaultReply reply = REFRAIN__VAULT_REPLY__INIT;
    Refrain__VaultChunk piece = REFRAIN__VAULT_CHUNK__INIT;
    status_t status = check_load(vault, load, &checkpoint, &error);
    if (status == STATUS_OK) {
        uint64_t left = checkpoint.bytes - load->offset;
        piece.data.len = left < load->bytes ? (size_t)left : load->bytes;
        piece.data.data = vault->buffer;
        status = read_piece(vault, &checkpoint, load, piece.data.len, &error);
        if (status == STATUS_OK && piece.data.len == left) {
            pthread_mutex_lock(&vault->lock);
            vault->stats.loaded++;
            pthread_mutex_unlock(&vault->lock);
        }
    }
    piece.checkpoint = load->checkpoint;
    piece.has_offset = piece.has_status = 1;
    piece.offset = load->offset;
    piece.status = (uint32_t)status;
    piece.has_data = status == STATUS_OK;
    piece.message = status == STATUS_OK ? NULL : error.text;
    reply.body_case = REFRAIN__VAULT_REPLY__BODY_LOADED;
    reply.loaded = &piece;
    answer(vault, peer, &reply);
}

static void take_frame(struct vault *vault, const struct wire_peer *peer, zmq_msg_t *frame)
{
    Refrain__VaultRequest *request;
    if (wire_unpack_vault_request(zmq_msg_data(frame), zmq_msg_size(frame), &request, NULL) != STATUS_OK) {
        count_refusal(vault);
        return;
    }
    if (request->body_case == REFRAIN__VAULT_REQUEST__BODY_SAVE)
        take_save(vault, peer, request->save);
    else if (request->body_case == REFRAIN__VAULT_REQUEST__BODY_LOAD)
        take_load(vault, peer, request->load);
    refrain__vault_request__free_unpacked(request, NULL);
}

/* False: the context ended. */
static bool take_messages(struct vault *vault)
{
    for (int i = 0; i < TURN_MESSAGES; i++) {
        struct wire_peer peer;
        struct error error;
        zmq_msg_t frame;
        status_t status = wire_receive(vault->socket, &peer, &frame, &error);
        if (status == STATUS_AGAIN) return true;
        if (status == STATUS_ABORTED) return false;
        if (status != STATUS_OK) {
            count_refusal(vault);
            continue;
        }
        take_frame(vault, &peer, &frame);
        zmq_msg_close(&frame);
    }
    return true;
}

/* --------------------------------------------------------------------------------------------- the thread */

static bool stopped(struct vault *vault)
{
    pthread_mutex_lock(&vault->lock);
    bool stop = vault->stop;
    pthread_mutex_unlock(&vault->lock);
    return stop;
}

void *vault_serve(void *argument)
{
    struct vault *vault = argument;
    zmq_pollitem_t items[] = {{.socket = vault->socket, .events = ZMQ_POLLIN},
                              {.fd = vault->wake, .events = ZMQ_POLLIN}};
    bool served = true;
    while (served && !stopped(vault)) {
        eventfd_t ignored;
        tidy(vault);
        look_for_cut_off(vault);
        if (zmq_poll(items, 2, IDLE_MS) < 0 && errno == ETERM) break;
        eventfd_read(vault->wake, &ignored);
        served = take_messages(vault);
        if (vault->batch_count) settle(vault);
    }
    tidy(vault);
    abandon_before(vault, CLOCK_NEVER); /* what has not arrived whole is not kept */
    return NULL;
}
