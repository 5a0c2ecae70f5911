/*
 * pace.h - how long a block takes on a rank, for each size of video that it has computed.
 *
 *     paces_hear(&member->paces, heartbeat, now_ns);          what the rank says with its heartbeats
 *     double ns = paces_block(&member->paces, tokens, flops); 0: it computed nothing yet
 *
 * A rank's word is a mean of its last blocks, which another process on the machine may have disturbed: here it is smoothed over
 * seconds. A size that is not known takes as long as the nearest that is, in proportion to the operations: these grow with tokens and, for attention, with
 * their square.
 *
 * A plain value; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_PACE_H
#define REFRAIN_COORDINATOR_FORESIGHT_PACE_H

#include <stdbool.h>
#include <stdint.h>
#include "proto/refrain.pb-c.h"

enum { PACES_KEPT = 16, PACE_TERMS = 3 };

struct paces {
    struct pace {
        uint32_t tokens, times;   /* tokens 0: free; times it was told */
        double block_ns, told_ns; /* told_ns: what was told last */
        int64_t heard_ns;
    } kept[PACES_KEPT];
};

/* Numbers from outside: what makes no sense is left out. */
void paces_hear(struct paces *paces, const Refrain__Heartbeat *heartbeat, int64_t now_ns);
/* flops: of a block over n tokens, flops[0] + flops[1] n + flops[2] n^2. Nanoseconds; 0: nothing is known. */
double paces_block(const struct paces *paces, double tokens, const double flops[PACE_TERMS]);

static inline double pace_flops(const double flops[PACE_TERMS], double tokens)
{
    return flops[0] + (flops[1] + flops[2] * tokens) * tokens;
}

#endif
