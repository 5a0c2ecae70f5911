/*
 * envelope.h - the fabric's own header: what precedes every message between two members of an epoch.
 *
 *     uint8_t head[ENVELOPE_BYTES];
 *     envelope_encode(&(struct envelope){.kind = ENVELOPE_BEAT, .from = self, .epoch = epoch}, head);
 *     if (!envelope_decode(bytes, length, &envelope)) drop it
 *
 * What follows the envelope in the same message, by kind:
 *
 *     HELLO              token [FABRIC_TOKEN_BYTES]; the only message believed from a source that did not
 *                        prove itself yet
 *     WELCOME            nothing; the answer to a HELLO
 *     DATA               ticket [TICKET_BYTES], then the payload if it is small (INLINE_BYTES), else its
 *                        first chunk beside it
 *     CHUNK              nothing; a further chunk of the latest DATA's payload beside it
 *     CREDIT, BEAT, BYE  nothing
 *     EDGE               id of a communicator [NCCL_ID_BYTES]
 *     STANDS, WARM,      nothing
 *     READY, GO          nothing
 */
#ifndef REFRAIN_CLUSTER_ENVELOPE_H
#define REFRAIN_CLUSTER_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENVELOPE_VERSION = 1, ENVELOPE_BYTES = 32 };

enum envelope_kind {
    ENVELOPE_HELLO = 1, /* number: messages I take before I release one; place: members of the epoch */
    ENVELOPE_WELCOME,
    ENVELOPE_DATA,   /* number: credits returned on the way */
    ENVELOPE_CHUNK,  /* place: offset in the payload, bytes */
    ENVELOPE_CREDIT, /* number: credits returned: messages that were released */
    ENVELOPE_BEAT,
    ENVELOPE_BYE, /* I leave the epoch */
    /* fabric nccl: of the way for device memory from one member to another */
    ENVELOPE_EDGE,   /* its sender: join this communicator */
    ENVELOPE_STANDS, /* its receiver: I did */
    ENVELOPE_WARM,   /* its sender: announces a first exchange, as DATA does a payload */
    ENVELOPE_READY,  /* its receiver: there is a place for the next one announced; place: a stamp proposed */
    ENVELOPE_GO,     /* its sender: the answer; place: the stamp that holds */
    ENVELOPE_YIELDS, /* as CHUNK, of a message that yields */
};

struct envelope {
    uint8_t kind;    /* enum envelope_kind */
    uint32_t from;   /* the sender's index among the members */
    uint32_t number; /* by kind */
    uint64_t epoch;
    uint64_t place; /* by kind */
};

void envelope_encode(const struct envelope *envelope, uint8_t wire[ENVELOPE_BYTES]);

/* False for anything that is not an envelope of this version; then *envelope is untouched. `length` may be
 * more than ENVELOPE_BYTES. */
bool envelope_decode(const uint8_t *wire, size_t length, struct envelope *envelope);

#endif
