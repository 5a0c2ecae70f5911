/*
 * message_maker.h - messages of any fields, for fuzzers: most bytes are no message, and what lies behind the decoder would
 * hardly be seen.
 *
 *     struct message_source source = {data, data + size, .known = {epoch, job}, .knows = 2};
 *     uint8_t frame[MESSAGE_FRAME_BYTES];
 *     size_t bytes = message_make(&source, &refrain__worker_report__descriptor, frame);
 *
 * The input says which fields there are and what is in them: numbers of its own, some that are often limits, and those that are
 * known. It is used up from the front; zeros are behind it. Pure functions.
 */
#ifndef REFRAIN_TESTS_MESSAGE_MAKER_H
#define REFRAIN_TESTS_MESSAGE_MAKER_H

#include <stddef.h>
#include <stdint.h>
#include "proto/wire.h"

enum { MESSAGE_FRAME_BYTES = 8192, MESSAGE_KNOWN = 8 };

struct message_source {
    const uint8_t *at, *end;
    uint64_t known[MESSAGE_KNOWN];
    int knows;
};

uint8_t message_byte(struct message_source *source);
/* Of the version that is spoken. Returns its bytes. */
size_t message_make(struct message_source *source, const ProtobufCMessageDescriptor *descriptor,
                    uint8_t frame[MESSAGE_FRAME_BYTES]);

#endif
