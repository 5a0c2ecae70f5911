/*
 * bound.h - what a policy that knows the future would save: how much is left to be won on a trace.
 *
 *     struct bound *bound = bound_open();
 *     bound_made(bound, &key, t, bytes, seconds);                   it would be made then, if it is not kept
 *     bound_asked(bound, &key, t, request, whole);                  and is asked for
 *     bound_at(bound, limit_bytes, &least, &most);
 *     bound_close(bound);
 *
 * Between one time that an item is there and the next time that it is asked for lies a chance: so many bytes for so long, for so
 * many seconds saved. `least` takes chances by seconds per byte and second, as long as they fit into the limit at every moment: a
 * policy that knew the future could do that. `most` takes them where only the bytes on average over a part of the time have to
 * fit, and parts of chances as well: no policy can do better (PFOO of Berger, Beckmann and Harchol-Balter 2018; the time is cut
 * into 96 parts, and a chance's seconds are spread evenly over its time). Neither is more than everything that was ever made and
 * is kept would save.
 *
 * `whole`: the item is all of the request's work, and whatever else was kept for it saves nothing more then. One thread; no memory:
 * the program ends.
 */
#ifndef REFRAIN_TOOLS_TIER_BOUND_H
#define REFRAIN_TOOLS_TIER_BOUND_H

#include <stdbool.h>
#include <stddef.h>
#include "cache/tier/key.h"

struct bound;

struct bound *bound_open(void);
void bound_close(struct bound *bound);
void bound_made(struct bound *bound, const struct key *key, double t, uint64_t bytes, double seconds);
/* By time. False: it cannot be there. */
bool bound_asked(struct bound *bound, const struct key *key, double t, size_t request, bool whole);
/* Seconds. May be called for several limits. */
void bound_at(struct bound *bound, double limit_bytes, double *least, double *most);

#endif
