/* message_maker.c - see message_maker.h. */
#include "tests/message_maker.h"

#include <math.h>
#include <string.h>

enum { FIELDS = 24, DEPTH = 4 };

uint8_t message_byte(struct message_source *s)
{
    return s->at < s->end ? *s->at++ : 0;
}

static uint64_t take_number(struct message_source *s)
{
    static const uint64_t special[] = {0,   1,         2,          16,        64,        480,
                                       832, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    uint8_t kind = message_byte(s);
    if (kind < 64 && s->knows) return s->known[kind % s->knows];
    if (kind < 128) return special[kind % (sizeof special / sizeof *special)];
    uint64_t number = 0;
    for (int i = 0; i <= kind % 8; i++) number = number << 8 | message_byte(s);
    return number;
}

static uint64_t take_real(struct message_source *s)
{
    static const double special[] = {0, 1, -1, 0.5, 3, 1e-300, 1e300, INFINITY, -INFINITY, NAN};
    uint8_t kind = message_byte(s);
    double real =
        kind < 128 ? special[kind % (sizeof special / sizeof *special)] : (double)take_number(s) / 256;
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    return bits;
}

struct frame {
    uint8_t bytes[MESSAGE_FRAME_BYTES];
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

static void make(struct message_source *s, const ProtobufCMessageDescriptor *descriptor, int depth,
                 struct frame *f);

static void put_text(struct message_source *s, struct frame *f)
{
    size_t length = message_byte(s) % 40;
    put_varint(f, length);
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = message_byte(s);
        put(f, &(uint8_t){byte < 240 ? (uint8_t)(' ' + byte % 95) : byte}, 1); /* mostly a text */
    }
}

static void put_field(struct message_source *s, const ProtobufCFieldDescriptor *field, int depth,
                      struct frame *f)
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

static void make(struct message_source *s, const ProtobufCMessageDescriptor *descriptor, int depth,
                 struct frame *f)
{
    int count = message_byte(s) % FIELDS;
    for (int i = 0; i < count && descriptor->n_fields && f->size < MESSAGE_FRAME_BYTES / 2; i++)
        put_field(s, &descriptor->fields[message_byte(s) % descriptor->n_fields], depth, f);
}

/* With the version (field 1), which counts where it stands last. */
size_t message_make(struct message_source *s, const ProtobufCMessageDescriptor *descriptor,
                    uint8_t frame[MESSAGE_FRAME_BYTES])
{
    struct frame f = {.size = 0};
    make(s, descriptor, DEPTH, &f);
    if (f.size > MESSAGE_FRAME_BYTES - 16) f.size = 0;
    put_varint(&f, 1 << 3);
    put_varint(&f, PROTOCOL_VERSION);
    memcpy(frame, f.bytes, f.size);
    return f.size;
}
