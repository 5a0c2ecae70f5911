/*
 * rival.h - other policies of eviction, to compare the store's with: in memory, without bytes, one thread.
 *
 *     struct rival *rival = rival_open("gdsf", limit_bytes);
 *     if (rival_get(rival, &key, &seconds)) ...                            a hit
 *     else rival_put(rival, &key, &item);
 *     rival_close(rival);
 *
 *     gdsf       GreedyDual-Size-Frequency: what goes has the least uses x seconds / bytes, above what the latest to go had
 *                (Cherkasova 1998)
 *     s3-fifo    a small queue for what is new, a large one for what was used, a list of names of what went (Yang et al. 2023)
 *     w-tinylfu  a window of 1 %, and a main part in two segments that lets in what is asked for more often than all that would
 *                have to go for it (Einziger et al. 2017, 2021)
 *
 * The latter two do not ask what an item saves, as caches of equal things need not. No memory: the program ends.
 */
#ifndef REFRAIN_TOOLS_TIER_RIVAL_H
#define REFRAIN_TOOLS_TIER_RIVAL_H

#include <stdbool.h>
#include "cache/tier/store.h"

struct rival;

extern const char *const rival_names[]; /* NULL at the end */

struct rival *rival_open(const char *name, uint64_t limit_bytes); /* NULL: no such name */
void rival_close(struct rival *rival);
/* *seconds: that the hit saves. */
bool rival_get(struct rival *rival, const struct key *key, double *seconds);
void rival_put(struct rival *rival, const struct key *key,
               const struct item *item); /* larger than all: nothing */

#endif
