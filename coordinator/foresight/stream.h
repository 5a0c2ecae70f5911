/*
 * stream.h - jobs that come one after the other, and how many more are to be expected.
 *
 *     stream_note(&stream, now_ns);                                 a job was submitted
 *     uint32_t more = stream_expected(&stream, now_ns, &gap_ns);    so many more, one each gap_ns from the last one on
 *
 * Who submits twelve jobs in a loop will get them all, and the first should not be told that it will be alone. Nobody knows how many come: as many
 * as the last times; and of what has gone on for longer the best guess is that this is its middle, so as many again. When none
 * came for a few gaps it is over.
 *
 * A plain value; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_STREAM_H
#define REFRAIN_COORDINATOR_FORESIGHT_STREAM_H

#include <stdint.h>

struct stream {
    uint32_t count; /* jobs so far */
    double usual;   /* in a stream, the latest one counting half */
    int64_t last_ns, gap_ns;
};

void stream_note(struct stream *stream, int64_t now_ns);
uint32_t stream_expected(const struct stream *stream, int64_t now_ns, int64_t *gap_ns);

#endif
