/*
 * ticket.h - the fixed-size header that precedes any data between ranks.
 *
 * It says everything the receiver needs to know before it touches the payload: which incarnation of the
 * group, which job and attempt, what to do, on which rows, how many bytes follow. Little-endian on the wire,
 * TICKET_BYTES long. Anything that does not fit (version, epoch, sizes) is refused before a byte of payload
 * is believed.
 */
#ifndef REFRAIN_CLUSTER_TICKET_H
#define REFRAIN_CLUSTER_TICKET_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum { TICKET_VERSION = 3, TICKET_BYTES = 128 };

enum ticket_kind {
    TICKET_OPEN = 1,  /* home -> stages: a job's context; payload: the text of a branch, for an expert */
    TICKET_HOP = 2,   /* hidden state on its way: payload: modulation [6, hidden], then rows [rows, hidden] */
    TICKET_CLOSE = 3, /* home -> stages: forget the context */
    TICKET_UNKNOWN_CONTEXT = 4, /* stage -> home: OPEN it again and repeat the hop */
    TICKET_FAILED = 5,          /* stage -> home: this hop cannot be computed; payload: the sentence */
    TICKET_PART = 6,   /* between the members of a circle: what one gives another (cluster/circle.h) */
    TICKET_OPENED = 7, /* a wide stage -> home: the OPEN of that branch is done */
    TICKET_TURN = 8, /* the first member of a wide stage -> the others: work on that context's branch next */
    /* Items of the cache tier (worker/tier_move.c). context: the asker's number of the transfer. */
    TICKET_FETCH = 16, /* asker -> holder: payload: key, hash, size, patience */
    TICKET_ITEM = 17,  /* holder -> asker: payload: a part of the item, from byte `trace` on */
    TICKET_GONE =
        18, /* holder -> asker: there will be no (more) parts; step: why, enum miss of cache/tier/store.h */
    TICKET_STOP = 19, /* asker -> holder: no more parts are wanted */
    /* How fast a link is (worker/probe.h). context: of the measurement; step: of the message. */
    TICKET_PROBE = 24,
    TICKET_PROBED = 25, /* the same bytes back; trace: pieces of work the sender has done */
};

enum ticket_dtype { TICKET_NO_DATA = 0, TICKET_F32 = 1, TICKET_BF16 = 2, TICKET_TEXT = 3, TICKET_RAW = 4 };

enum ticket_flag {
    TICKET_BLOCK_RECORDS = 1, /* HOP: after the rows, what was decided for each block: [layers] float32 */
    TICKET_DONE = 2,          /* HOP: all its blocks are done: it is on its way home, without modulation */
    TICKET_ON_DEVICE = 4,     /* the payload lies in device memory, here and there (fabric nccl) */
    TICKET_YIELDS =
        8, /* lets every other message pass, and is in order with its like only (cluster/fabric.h) */
};

struct ticket {
    uint16_t kind;   /* enum ticket_kind */
    uint16_t dtype;  /* enum ticket_dtype of the payload */
    uint16_t branch; /* 0 conditional, 1 unconditional */
    uint16_t expert; /* which of a model's denoisers */
    uint64_t epoch;  /* incarnation of the worker group */
    uint64_t job;
    uint64_t context;  /* names the job's context on the stages */
    uint64_t sequence; /* counts per sender, for logs and order checks */
    uint32_t attempt;  /* of the job: nothing older is believed */
    uint32_t step;
    float timestep;                /* what the model was conditioned on */
    uint32_t flags;                /* enum ticket_flag */
    uint32_t grid[3];              /* tokens in time, height, width */
    uint32_t row_begin, row_count; /* rows of the token sequence in the payload */
    uint64_t bytes;                /* of the payload */
    uint64_t trace;                /* free for tracing: echoed by stages */
    uint32_t block_begin,
        block_end; /* HOP: blocks to run before it comes back home. OPEN: see worker/stage.c */
    uint32_t
        text_bytes; /* OPEN: the caching policy's text at the end of the payload, for block-wise policies */
    uint16_t home;  /* member where the job lives: hops return to it */
    uint16_t priority; /* of the job, 0..2: a stage takes the highest first (worker/stage.h) */
    uint64_t age;      /* of the job: the smaller, the earlier a group took it */
};

void ticket_encode(const struct ticket *ticket, uint8_t wire[TICKET_BYTES]);

/* Refuses another magic or version and unknown kinds or dtypes; `length` must be TICKET_BYTES. Value limits
 * that depend on the model (rows, bytes) are checked by the stage. */
status_t ticket_decode(const uint8_t *wire, size_t length, struct ticket *ticket, struct error *error);

#endif
