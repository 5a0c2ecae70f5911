/*
 * wide.h - the geometry of a wide stage, whose U members share the tokens of a hop (worker/ulysses.h): the member at place p has
 * the tokens' rows [S p / U, S (p + 1) / U) and, during attention, heads [H p / U, H (p + 1) / U).
 */
#ifndef REFRAIN_RULES_WIDE_H
#define REFRAIN_RULES_WIDE_H

#include <stdint.h>

enum { ULYSSES_GROUPS = 2 }; /* of heads that are exchanged one after the other, at most */

/* The first of a place's rows; of place `width`: how many rows there are. */
static inline int shard_row(int tokens, int width, int place)
{
    return (int)((int64_t)tokens * place / width);
}

#endif
