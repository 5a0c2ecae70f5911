/*
 * outbox.c - see outbox.h. Runs on the coordinator's loop thread; holds no locks.
 */
#include "coordinator/outbox.h"

#include <stdlib.h>
#include "base/log.h"

enum { LATE_BYTES = 64 << 20, MAX_BLOCKED = 64 };

struct letter {
    struct letter *next;
    struct wire_peer peer;
    bool to_worker;
    uint64_t request; /* id of the request it answers */
    zmq_msg_t frame;  /* stays where it is: ZeroMQ messages must not be moved by memcpy */
};

struct queue {
    struct letter *first, **end;
    size_t bytes; /* of the frames */
};

struct outbox {
    outbox_send_fn *send;
    void *argument;
    struct queue fresh; /* of this turn */
    struct queue late;  /* committed, but their receivers did not keep up */
};

static void queue_clear(struct queue *queue)
{
    *queue = (struct queue){.end = &queue->first};
}

static void queue_append(struct queue *queue, struct letter *letter)
{
    letter->next = NULL;
    *queue->end = letter;
    queue->end = &letter->next;
    queue->bytes += zmq_msg_size(&letter->frame);
}

/* Takes all letters out. */
static struct letter *queue_take(struct queue *queue)
{
    struct letter *first = queue->first;
    queue_clear(queue);
    return first;
}

status_t outbox_open(outbox_send_fn *send, void *argument, struct outbox **outbox, struct error *error)
{
    struct outbox *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the outbox");
    made->send = send;
    made->argument = argument;
    queue_clear(&made->fresh);
    queue_clear(&made->late);
    *outbox = made;
    return STATUS_OK;
}

/* Frees a letter (and its frame, where that was not sent) and returns the one after it. */
static struct letter *discard(struct letter *letter)
{
    struct letter *next = letter->next;
    zmq_msg_close(&letter->frame);
    free(letter);
    return next;
}

void outbox_close(struct outbox *outbox)
{
    if (!outbox) return;
    for (struct letter *letter = queue_take(&outbox->late); letter;) letter = discard(letter);
    for (struct letter *letter = queue_take(&outbox->fresh); letter;) letter = discard(letter);
    free(outbox);
}

/* Packed at once: the message may borrow from what changes before the commit. */
static status_t put(struct outbox *outbox, const struct wire_peer *peer, bool to_worker, uint64_t request,
                    const ProtobufCMessage *message, struct error *error)
{
    struct letter *letter = malloc(sizeof *letter);
    if (!letter) return error_set(error, STATUS_NO_MEMORY, "no memory for an answer");
    status_t status = wire_pack(message, &letter->frame, error);
    if (status != STATUS_OK) {
        free(letter);
        return status;
    }
    letter->peer = *peer;
    letter->to_worker = to_worker;
    letter->request = request;
    queue_append(&outbox->fresh, letter);
    return STATUS_OK;
}

void outbox_reply(struct outbox *outbox, const struct wire_peer *peer, Refrain__Reply *reply)
{
    struct error error;
    wire_stamp(*reply);
    if (put(outbox, peer, false, reply->id, &reply->base, &error) == STATUS_OK) return;
    log_line(LOG_ERROR, "answer to request %lu: %s", (unsigned long)reply->id, error.text);
    if (reply->body_case != REFRAIN__REPLY__BODY_ERROR) outbox_error(outbox, peer, reply->id, &error, NULL);
}

void outbox_order(struct outbox *outbox, const struct wire_peer *peer, Refrain__WorkerOrder *order)
{
    struct error error;
    wire_stamp(*order);
    if (put(outbox, peer, true, 0, &order->base, &error) != STATUS_OK)
        log_line(LOG_ERROR, "order to a worker: %s", error.text);
}

void outbox_error(struct outbox *outbox, const struct wire_peer *peer, uint64_t id, const struct error *error,
                  const char *field)
{
    Refrain__Error body = REFRAIN__ERROR__INIT;
    Refrain__Reply reply = REFRAIN__REPLY__INIT;
    body.has_status = 1;
    body.status = (uint32_t)error->status;
    body.message = (char *)error->text;
    body.field = (char *)field;
    reply.has_id = 1;
    reply.id = id;
    reply.body_case = REFRAIN__REPLY__BODY_ERROR;
    reply.error = &body;
    outbox_reply(outbox, peer, &reply);
}

status_t outbox_reply_now(struct outbox *outbox, const struct wire_peer *peer, Refrain__Reply *reply)
{
    zmq_msg_t frame;
    wire_stamp(*reply);
    status_t status = wire_pack(&reply->base, &frame, NULL);
    if (status != STATUS_OK) return status;
    status = outbox->send(outbox->argument, false, peer, &frame, NULL);
    if (status != STATUS_OK) zmq_msg_close(&frame);
    return status;
}

/* Who does not keep up in this flush: what else is for them must wait as well, or it would overtake. */
struct blocked {
    const struct wire_peer *peers[MAX_BLOCKED]; /* [count], in letters that are in `late` by now */
    size_t count;
};

/* Linear over a few: slow receivers are rare, and a full table only delays. */
static bool is_blocked(const struct blocked *blocked, const struct letter *letter)
{
    for (size_t i = 0; i < blocked->count; i++)
        if (wire_peer_equal(blocked->peers[i], &letter->peer)) return true;
    return blocked->count == MAX_BLOCKED; /* so many slow ones: everybody waits a turn */
}

/* Sends one letter, or puts it aside; owns it. */
static void deliver(struct outbox *outbox, struct letter *letter, struct blocked *blocked)
{
    struct error error;
    status_t status = STATUS_AGAIN;
    bool waits = is_blocked(blocked, letter);
    if (!waits)
        status = outbox->send(outbox->argument, letter->to_worker, &letter->peer, &letter->frame, &error);
    if (status == STATUS_AGAIN && outbox->late.bytes < LATE_BYTES) {
        queue_append(&outbox->late, letter);
        if (!waits) blocked->peers[blocked->count++] = &letter->peer;
        return;
    }
    /* A client that left is no event. A worker that left is noticed by its silence. */
    if (status == STATUS_AGAIN)
        log_line(LOG_WARN, "an answer was dropped: its receiver does not keep up");
    else if (status != STATUS_OK && letter->to_worker)
        log_line(LOG_WARN, "order to a worker: %s", error.text);
    discard(letter);
}

static void deliver_all(struct outbox *outbox, struct letter *letter, struct blocked *blocked)
{
    for (struct letter *next; letter; letter = next) {
        next = letter->next;
        deliver(outbox, letter, blocked);
    }
}

/* What is late goes first, so that order is kept for each receiver. */
void outbox_flush(struct outbox *outbox)
{
    struct blocked blocked = {.count = 0};
    deliver_all(outbox, queue_take(&outbox->late), &blocked);
    deliver_all(outbox, queue_take(&outbox->fresh), &blocked);
}

bool outbox_behind(const struct outbox *outbox)
{
    return outbox->late.first != NULL;
}

/* Late letters belong to earlier commits and are still true: they go out unchanged. */
void outbox_refuse(struct outbox *outbox, const struct error *error)
{
    for (struct letter *letter = queue_take(&outbox->fresh); letter; letter = discard(letter))
        if (!letter->to_worker) outbox_error(outbox, &letter->peer, letter->request, error, NULL);
    outbox_flush(outbox);
}
