/*
 * share.h - whether home or stage has the next piece, on a rank that is both: values in, an answer out. No tensors, no
 * clock, no allocation.
 *
 *     struct share share = {0};
 *     if (share_home_first(&share, piece, priority, at_stage)) ... home's piece, share_charge_home(&share, piece, ns)
 *     else                                                     ... a hop, share_charge_stage(&share, ns)
 *
 * The rules, first to last:
 *
 * 1. What is given to the fabric: it costs nothing and keeps the other ranks busy.
 * 2. The higher priority. (Deadlines and tenants are home's alone, rules/turn.h: hops do not know theirs.)
 * 3. Hops before home's pieces of steps: other homes wait for what the stage does, and a home whose jobs overtook theirs
 *    on its own rank would make that rank the slowest. But home comes to a fifth of the time if it has pieces of steps,
 *    so that its jobs move at all.
 * 4. Hops before text, decode and files: nobody waits for those but the one job. While a rank decodes a latent frame
 *    the others use up the hops they have, and they do not get them back: from then on all ranks work at one pace. So
 *    what ranks do beside steps has to be done by all of them at about the same time, or when there is nothing else. It
 *    waits until a rank has no hop, which is where others have taken more time than this one; or for as long as hops
 *    and steps take 24 times as long as the last piece of it did.
 *
 * And of two hops at a stage of floating homes: share_elder. Jobs then end in the order in which they began, but for those that began one
 * after the other, as many as there are ranks: each rank is home of one of these, they advance at one pace, and all ranks decode at about the
 * same time (rule 4). With the oldest job alone first each rank decodes by itself, and the others wait for it.
 *
 * The shares were found by simulation (docs/simulation.md, docs/speed.md).
 */
#ifndef REFRAIN_RULES_SHARE_H
#define REFRAIN_RULES_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include "rules/piece.h"

struct share {
    int64_t
        steps_ns; /* what home's pieces of steps took beyond their fifth; less than 0: home may catch up */
    int64_t beside_ns; /* of hops and steps, before the next piece of text, decode or files */
};

/* piece, priority: what home would do next, and its job's; at_stage: the priority of the hop that would be next, -1: there
 * is none. False: the stage goes first, or neither has anything. */
bool share_home_first(const struct share *share, enum job_piece piece, int priority, int at_stage);
void share_charge_home(struct share *share, enum job_piece piece, int64_t ns);
void share_charge_stage(struct share *share, int64_t ns);
/* One of the two had nothing to do: nobody saves up time. */
void share_settle(struct share *share);

/* Does a hop of a job of age a go before one of age b, of the same priority? Ages are what Assign.age says: one more from job to job. */
bool share_elder(uint64_t a, uint64_t b, uint32_t ranks);

#endif
