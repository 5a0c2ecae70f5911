/* stream.c - see stream.h. Pure functions. */
#include "coordinator/foresight/stream.h"

#include <stdbool.h>
#include "base/clock.h"

/* MISSED: gaps without a job, and it is over; but what is sent in one go may be held up on its way. LONGEST: further apart, jobs have
 * nothing to do with each other. */
enum { MISSED = 4, NEWEST = 4 };
#define HELD_UP_NS (20 * MILLISECOND_NS)
#define LONGEST_NS (5 * SECOND_NS)

static int64_t patience(const struct stream *s)
{
    return MISSED * s->gap_ns + HELD_UP_NS;
}

void stream_note(struct stream *s, int64_t now_ns)
{
    int64_t gap_ns = now_ns - s->last_ns;
    bool goes_on = s->count > 0 && gap_ns <= LONGEST_NS && (s->count == 1 || gap_ns <= patience(s));
    if (!goes_on) {
        if (s->count) s->usual = s->usual > 0 ? (s->usual + s->count) / 2 : s->count;
        s->count = 1;
    } else {
        s->gap_ns = s->count == 1 ? gap_ns : s->gap_ns + (gap_ns - s->gap_ns) / NEWEST;
        s->count++;
    }
    s->last_ns = now_ns;
}

uint32_t stream_expected(const struct stream *s, int64_t now_ns, int64_t *gap_ns)
{
    *gap_ns = s->gap_ns;
    if (s->count == 0 || now_ns - s->last_ns > patience(s)) return 0;
    double usual = s->usual - s->count;
    return usual > s->count - 1 ? (uint32_t)usual : s->count - 1;
}
