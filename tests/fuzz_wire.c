/*
 * fuzz_wire.c - libFuzzer over the wire decoder: any bytes are refused or become a message that can be used.
 *
 * The first byte chooses the message. The rest is the frame, or says which fields the message has and what is in them: most
 * bytes are no message, and what lies behind the decoder would hardly be seen. What unpacks is validated, packed again, and must
 * then be read back to the same bytes.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "proto/caching.h"
#include "proto/validate.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ------------------------------------------------------------------------------------------ messages of any fields */

enum { FRAME_BYTES = 8192, FIELDS = 24, DEPTH = 4 };

/* What is left of the input; zeros behind it. */
struct source {
    const uint8_t *at, *end;
};

static uint8_t take(struct source *s)
{
    return s->at < s->end ? *s->at++ : 0;
}

static uint64_t take_number(struct source *s)
{
    static const uint64_t special[] = {0,   1,         2,          16,        64,        480,
                                       832, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    uint8_t kind = take(s);
    if (kind < 128) return special[kind % (sizeof special / sizeof *special)];
    uint64_t number = 0;
    for (int i = 0; i <= kind % 8; i++) number = number << 8 | take(s);
    return number;
}

static uint64_t take_real(struct source *s)
{
    static const double special[] = {0, 1, -1, 0.5, 3, 1e-300, 1e300, INFINITY, -INFINITY, NAN};
    uint8_t kind = take(s);
    double real =
        kind < 128 ? special[kind % (sizeof special / sizeof *special)] : (double)take_number(s) / 256;
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    return bits;
}

struct frame {
    uint8_t bytes[FRAME_BYTES];
    size_t size;
};

static void put(struct frame *f, const void *bytes, size_t count)
{
    if (count > sizeof f->bytes - f->size) return;
    memcpy(f->bytes + f->size, bytes, count);
    f->size += count;
}

static void put_varint(struct frame *f, uint64_t value)
{
    uint8_t bytes[10];
    size_t count = 0;
    do bytes[count++] = (uint8_t)(value & 0x7f) | (value > 0x7f ? 0x80 : 0);
    while (value >>= 7);
    put(f, bytes, count);
}

static void make(struct source *s, const ProtobufCMessageDescriptor *descriptor, int depth, struct frame *f);

static void put_text(struct source *s, struct frame *f)
{
    size_t length = take(s) % 40;
    put_varint(f, length);
    for (size_t i = 0; i < length; i++) put(f, &(uint8_t){take(s)}, 1);
}

static void put_field(struct source *s, const ProtobufCFieldDescriptor *field, int depth, struct frame *f)
{
    struct frame inner = {.size = 0};
    uint64_t real;
    switch (field->type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        real = take_real(s);
        put_varint(f, (uint64_t)field->id << 3 | 1);
        put(f, &real, sizeof real);
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        real = take_real(s);
        put_varint(f, (uint64_t)field->id << 3 | 5);
        put(f, (const uint8_t *)&real + 4, 4); /* any float */
        break;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
        put_varint(f, (uint64_t)field->id << 3 | 2);
        put_text(s, f);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        if (depth == 0) return;
        make(s, field->descriptor, depth - 1, &inner);
        put_varint(f, (uint64_t)field->id << 3 | 2);
        put_varint(f, inner.size);
        put(f, inner.bytes, inner.size);
        break;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
        real = take_number(s);
        put_varint(f, (uint64_t)field->id << 3 | 1);
        put(f, &real, sizeof real);
        break;
    default: /* our schema has no integers of fixed 32 bits */
        put_varint(f, (uint64_t)field->id << 3);
        put_varint(f, take_number(s));
    }
}

static void make(struct source *s, const ProtobufCMessageDescriptor *descriptor, int depth, struct frame *f)
{
    int count = take(s) % FIELDS;
    for (int i = 0; i < count && descriptor->n_fields && f->size < FRAME_BYTES / 2; i++)
        put_field(s, &descriptor->fields[take(s) % descriptor->n_fields], depth, f);
}

/* With the version that is spoken (field 1), which counts where it stands last. */
static void make_frame(const uint8_t *data, size_t size, const ProtobufCMessageDescriptor *descriptor,
                       struct frame *f)
{
    struct source s = {data, data + size};
    f->size = 0;
    make(&s, descriptor, DEPTH, f);
    if (f->size > FRAME_BYTES - 16) f->size = 0;
    put_varint(f, 1 << 3);
    put_varint(f, PROTOCOL_VERSION);
}

/* --------------------------------------------------------------------------------------------------- what it is for */

/* A message that was believed survives a round trip. */
static void check_round_trip(const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *first = malloc(bytes + 1), *second = malloc(bytes + 1);
    if (!first || !second) abort();
    if (protobuf_c_message_pack(message, first) != bytes) abort();
    ProtobufCMessage *again = protobuf_c_message_unpack(message->descriptor, NULL, bytes, first);
    if (!again || protobuf_c_message_get_packed_size(again) != bytes) abort();
    protobuf_c_message_pack(again, second);
    if (memcmp(first, second, bytes) != 0) abort();
    protobuf_c_message_free_unpacked(again, NULL);
    free(first);
    free(second);
}

static void check_request(const uint8_t *data, size_t size)
{
    Refrain__Request *request;
    struct error error;
    uint64_t id;
    if (wire_unpack_request(data, size, &request, &id, &error) != STATUS_OK) return;
    const char *field;
    if (validate_request(request, &field, &error) == STATUS_OK &&
        request->body_case == REFRAIN__REQUEST__BODY_SUBMIT) {
        /* A spec that was accepted can be completed, whatever the model allows. */
        Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
        card.name = (char *)"small";
        card.size_multiple = card.default_width = card.default_height = 16;
        card.frame_multiple = 4;
        card.default_frames = card.vae_scale = card.patch = 1;
        card.max_position = 64;
        card.layers = 8;
        card.heads = 3;
        card.head_dim = 40;
        card.latent_channels = 16;
        card.shift = 3;
        card.solver = REFRAIN__SOLVER__SOLVER_UNIPC;
        Refrain__JobSpec *spec = request->submit->spec;
        if (validate_fill(spec, &card, &error) != STATUS_OK) abort();
        if (validate_spec_for_model(spec, &card, &field, &error) == STATUS_OK)
            caching_check_bytes(spec, &card, UINT64_C(1) << 33, &field, &error);
    }
    check_round_trip(&request->base);
    refrain__request__free_unpacked(request, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const descriptors[] = {
        &refrain__request__descriptor,       &refrain__reply__descriptor,
        &refrain__worker_report__descriptor, &refrain__worker_order__descriptor,
        &refrain__vault_request__descriptor, &refrain__vault_reply__descriptor};
    static struct frame made;
    struct error error;
    ProtobufCMessage *message = NULL;
    status_t status = STATUS_CORRUPT;
    if (size-- == 0) return 0;
    int kind = *data % 6;
    bool makes = *data++ & 128;
    if (makes) {
        make_frame(data, size, descriptors[kind], &made);
        data = made.bytes;
        size = made.size;
    }
    switch (kind) {
    case 0:
        check_request(data, size);
        return 0;
    case 1:
        status = wire_unpack_reply(data, size, (Refrain__Reply **)&message, &error);
        break;
    case 2:
        status = wire_unpack_report(data, size, (Refrain__WorkerReport **)&message, &error);
        break;
    case 3:
        status = wire_unpack_order(data, size, (Refrain__WorkerOrder **)&message, &error);
        break;
    case 4:
        status = wire_unpack_vault_request(data, size, (Refrain__VaultRequest **)&message, &error);
        break;
    case 5:
        status = wire_unpack_vault_reply(data, size, (Refrain__VaultReply **)&message, &error);
        break;
    }
    if (status != STATUS_OK) return 0;
    check_round_trip(message);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}
