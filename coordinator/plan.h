/*
 * plan.h - which blocks of a model each rank of a group gets.
 *
 *     struct plan plan;
 *     plan_make(40, 4, NULL, &plan, &error);           40 blocks, 4 ranks: 10+10+10+10
 *     plan_describe(&plan, "cpu-avx512", text, sizeof text);
 *
 * Home (member 0) runs `head` blocks before the ring and `tail` after it, the others hold contiguous runs
 * between. Plain values, pure functions.
 */
#ifndef REFRAIN_COORDINATOR_PLAN_H
#define REFRAIN_COORDINATOR_PLAN_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum { PLAN_MAX_RANKS = 1024 };

struct fold {
    uint32_t head, tail;
};

struct plan {
    uint32_t head, tail;
    uint32_t middle[PLAN_MAX_RANKS - 1]; /* [ranks - 1], in ring order; members without blocks stand last */
    uint32_t ranks, layers;
};

/* layers >= 1, 1 <= ranks <= PLAN_MAX_RANKS, otherwise STATUS_INVALID. fold NULL: an even split with
 * everything of home's before the ring; otherwise home gets what the fold says, as far as the model has it.
 */
status_t plan_make(uint32_t layers, uint32_t ranks, const struct fold *fold, struct plan *plan,
                   struct error *error);

/* "HEAD,TAIL" of the command line. */
status_t plan_read_fold(const char *text, struct fold *fold, struct error *error);

/* "2 ranks, blocks 4+4, cpu-avx512"; with a tail "blocks 1+12+12(+2)". */
void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes);

#endif
