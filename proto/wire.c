/*
 * wire.c - see wire.h. Stateless; the thread that owns the socket calls.
 *
 * protobuf-c checks neither the version, nor UTF-8, nor how much memory a message unfolds into, and it cuts
 * texts at a zero byte without a word. So the bytes are walked once with the message's descriptor before they
 * are unpacked.
 */
#include "proto/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/validate.h"

enum {
    WIRETYPE_VARINT = 0,
    WIRETYPE_64BIT = 1,
    WIRETYPE_BYTES = 2,
    WIRETYPE_32BIT = 5,
    /* A repeated empty message takes 2 bytes on the wire and some 60 unpacked, a sparse job 11 and 800.
     * Honest messages stay far below this; a frame full of empty ones does not get to unfold into hundreds of
     * megabytes. */
    UNPACK_FIXED_BYTES = 4 << 20,
    UNPACK_FACTOR = 16,
};

/* -------------------------------------------------------------------------------------- walking the bytes */

struct walker {
    const uint8_t *at, *end;
};

struct field {
    uint32_t number, type;
    uint64_t value;       /* varint, or the length of `bytes` */
    const uint8_t *bytes; /* WIRETYPE_BYTES */
};

/* At most ten bytes; what would not fit 64 bits is cut, as protobuf does. */
static bool walk_varint(struct walker *walker, uint64_t *value)
{
    uint64_t sum = 0;
    for (int shift = 0; shift < 64 && walker->at < walker->end; shift += 7) {
        uint8_t byte = *walker->at++;
        sum |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *value = sum;
            return true;
        }
    }
    return false;
}

/* The next field; false at the end and at anything malformed (walker->at tells which). */
static bool walk_field(struct walker *walker, struct field *field)
{
    uint64_t key;
    if (walker->at == walker->end) return false;
    const uint8_t *start = walker->at;
    if (!walk_varint(walker, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX) goto malformed;
    field->number = (uint32_t)(key >> 3);
    field->type = key & 7;
    field->bytes = NULL;
    size_t skip = 0;
    switch (field->type) {
    case WIRETYPE_64BIT:
        skip = 8;
        break;
    case WIRETYPE_32BIT:
        skip = 4;
        break;
    case WIRETYPE_VARINT:
        if (!walk_varint(walker, &field->value)) goto malformed;
        break;
    case WIRETYPE_BYTES:
        if (!walk_varint(walker, &field->value) || field->value > (uint64_t)(walker->end - walker->at))
            goto malformed;
        field->bytes = walker->at;
        skip = (size_t)field->value;
        break;
    default:
        goto malformed; /* groups: never ours */
    }
    if (skip > (size_t)(walker->end - walker->at)) goto malformed;
    walker->at += skip;
    return true;
malformed:
    walker->at = start;
    return false;
}

/* Every text in the message and in those within it is UTF-8 without zero bytes. The recursion is as deep as
 * our own schema, which has no cycles. */
static status_t check_texts(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes, size_t length,
                            struct error *error)
{
    struct walker walker = {bytes, bytes + length};
    struct field field;
    while (walk_field(&walker, &field)) {
        if (field.type != WIRETYPE_BYTES) continue;
        const ProtobufCFieldDescriptor *known =
            protobuf_c_message_descriptor_get_field(descriptor, field.number);
        if (!known) continue; /* of a newer peer: skipped, as protobuf does */
        status_t status = STATUS_OK;
        if (known->type == PROTOBUF_C_TYPE_STRING)
            status = validate_text(known->name, (const char *)field.bytes, (size_t)field.value, error);
        else if (known->type == PROTOBUF_C_TYPE_MESSAGE)
            status = check_texts(known->descriptor, field.bytes, (size_t)field.value, error);
        if (status != STATUS_OK) return status;
    }
    if (walker.at != walker.end)
        return error_set(error, STATUS_CORRUPT, "not a message: byte %zu of its %s fits no field",
                         (size_t)(walker.at - bytes), descriptor->short_name);
    return STATUS_OK;
}

/* Reads fields 1 (version) and 2 (id, in a Request) wherever they stand, as far as the bytes make sense. */
static void peek_head(const void *data, size_t bytes, uint64_t *version, uint64_t *id)
{
    struct walker walker = {data, (const uint8_t *)data + bytes};
    struct field field;
    while (walk_field(&walker, &field)) {
        if (field.type != WIRETYPE_VARINT) continue;
        if (field.number == 1) *version = field.value;
        if (field.number == 2 && id) *id = field.value;
    }
}

/* ---------------------------------------------------------------------------------------------- unpacking */

/* Counts what one message allocates; plain malloc and free behind it, so that free_unpacked(message, NULL)
 * fits. */
struct allowance {
    size_t left; /* bytes */
};

static void *allowance_alloc(void *data, size_t size)
{
    struct allowance *allowance = data;
    if (size > allowance->left) return NULL;
    allowance->left -= size;
    return malloc(size ? size : 1);
}

static void allowance_free(void *data, void *pointer)
{
    (void)data;
    free(pointer);
}

/* Version, then texts, then the message itself: each step may believe what the one before has checked. */
static status_t unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t bytes,
                       uint64_t *id, ProtobufCMessage **message, struct error *error)
{
    uint64_t version = 0;
    peek_head(data, bytes, &version, id);
    if (bytes > WIRE_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "message of %zu bytes: at most %d are taken", bytes,
                         WIRE_MAX_BYTES);
    if (version == 0) return error_set(error, STATUS_CORRUPT, "not a message of refrain: it has no version");
    if (version != PROTOCOL_VERSION)
        return error_set(error, STATUS_UNSUPPORTED, "version %llu: this side speaks protocol version %d",
                         (unsigned long long)version, PROTOCOL_VERSION);
    status_t status = check_texts(descriptor, data, bytes, error);
    if (status != STATUS_OK) return status;

    struct allowance allowance = {UNPACK_FIXED_BYTES + UNPACK_FACTOR * bytes};
    ProtobufCAllocator allocator = {allowance_alloc, allowance_free, &allowance};
    ProtobufCMessage *made = protobuf_c_message_unpack(descriptor, &allocator, bytes, data);
    if (!made)
        return error_set(error, STATUS_CORRUPT, "not a message: its %s cannot be read",
                         descriptor->short_name);
    *message = made;
    return STATUS_OK;
}

status_t wire_unpack_request(const void *data, size_t bytes, Refrain__Request **request, uint64_t *id,
                             struct error *error)
{
    return unpack(&refrain__request__descriptor, data, bytes, id, (ProtobufCMessage **)request, error);
}

status_t wire_unpack_reply(const void *data, size_t bytes, Refrain__Reply **reply, struct error *error)
{
    return unpack(&refrain__reply__descriptor, data, bytes, NULL, (ProtobufCMessage **)reply, error);
}

status_t wire_unpack_report(const void *data, size_t bytes, Refrain__WorkerReport **report,
                            struct error *error)
{
    return unpack(&refrain__worker_report__descriptor, data, bytes, NULL, (ProtobufCMessage **)report, error);
}

status_t wire_unpack_order(const void *data, size_t bytes, Refrain__WorkerOrder **order, struct error *error)
{
    return unpack(&refrain__worker_order__descriptor, data, bytes, NULL, (ProtobufCMessage **)order, error);
}

status_t wire_unpack_vault_request(const void *data, size_t bytes, Refrain__VaultRequest **request,
                                   struct error *error)
{
    return unpack(&refrain__vault_request__descriptor, data, bytes, NULL, (ProtobufCMessage **)request,
                  error);
}

status_t wire_unpack_vault_reply(const void *data, size_t bytes, Refrain__VaultReply **reply,
                                 struct error *error)
{
    return unpack(&refrain__vault_reply__descriptor, data, bytes, NULL, (ProtobufCMessage **)reply, error);
}

/* ------------------------------------------------------------------------------------- sending, receiving */

bool wire_peer_equal(const struct wire_peer *a, const struct wire_peer *b)
{
    return a->length == b->length && memcmp(a->identity, b->identity, a->length) == 0;
}

status_t wire_pack(const ProtobufCMessage *message, zmq_msg_t *frame, struct error *error)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > WIRE_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "message of %zu bytes: at most %d can be sent", bytes,
                         WIRE_MAX_BYTES);
    if (zmq_msg_init_size(frame, bytes) != 0)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a message of %zu bytes", bytes);
    protobuf_c_message_pack(message, zmq_msg_data(frame));
    return STATUS_OK;
}

static status_t send_failed(struct error *error)
{
    if (errno == EAGAIN) return error_set(error, STATUS_AGAIN, "the other side does not keep up");
    if (errno == EHOSTUNREACH) return error_set(error, STATUS_PEER_LOST, "the other side is gone");
    if (errno == ETERM) return error_set(error, STATUS_ABORTED, "the socket is closed");
    return error_set(error, STATUS_IO, "message could not be sent: %s", zmq_strerror(errno));
}

status_t wire_post(void *socket, const struct wire_peer *peer, zmq_msg_t *frame, struct error *error)
{
    /* Only the first frame can be refused: ZeroMQ takes a message as a whole or not at all. */
    if (peer && zmq_send(socket, peer->identity, peer->length, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return send_failed(error);
    if (peer && peer->delimited && zmq_send(socket, "", 0, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return send_failed(error);
    if (zmq_msg_send(frame, socket, ZMQ_DONTWAIT) < 0) return send_failed(error);
    return STATUS_OK;
}

status_t wire_send(void *socket, const struct wire_peer *peer, const ProtobufCMessage *message,
                   struct error *error)
{
    zmq_msg_t frame;
    status_t status = wire_pack(message, &frame, error);
    if (status != STATUS_OK) return status;
    status = wire_post(socket, peer, &frame, error);
    if (status != STATUS_OK) zmq_msg_close(&frame);
    return status;
}

/* Empties `frame` and takes what is left of a message that is being dropped. */
static void drop_rest(void *socket, zmq_msg_t *frame)
{
    while (zmq_msg_more(frame)) {
        zmq_msg_close(frame);
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0) break;
    }
    zmq_msg_close(frame);
}

static status_t receive_failed(zmq_msg_t *frame, struct error *error)
{
    int code = errno;
    zmq_msg_close(frame);
    if (code == EAGAIN || code == EINTR) return STATUS_AGAIN;
    if (code == ETERM) return error_set(error, STATUS_ABORTED, "the socket is closed");
    return error_set(error, STATUS_IO, "message could not be received: %s", zmq_strerror(code));
}

/* Takes a message whole: after STATUS_CORRUPT the socket stands at the next one. */
status_t wire_receive(void *socket, struct wire_peer *peer, zmq_msg_t *frame, struct error *error)
{
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) return receive_failed(&part, error);
    if (peer) { /* a ROUTER puts the identity first; it is always there and 1..255 bytes long */
        size_t length = zmq_msg_size(&part) < WIRE_IDENTITY_BYTES ? zmq_msg_size(&part) : WIRE_IDENTITY_BYTES;
        memcpy(peer->identity, zmq_msg_data(&part), length);
        peer->length = (uint8_t)length;
        peer->delimited = false;
        if (!zmq_msg_more(&part)) goto wrong;
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) return receive_failed(&part, error);
    }
    if (zmq_msg_size(&part) == 0 && zmq_msg_more(&part)) {
        if (peer) peer->delimited = true;
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) return receive_failed(&part, error);
    }
    if (zmq_msg_more(&part)) goto wrong;
    zmq_msg_init(frame);
    zmq_msg_move(frame, &part);
    zmq_msg_close(&part);
    return STATUS_OK;
wrong:
    drop_rest(socket, &part);
    return error_set(error, STATUS_CORRUPT, "a message must be one frame");
}
