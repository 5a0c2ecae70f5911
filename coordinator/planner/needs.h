/*
 * needs.h - what a job takes of the memory of ranks, before anything is allocated. Plain values, pure functions.
 *
 *     struct needs needs;
 *     needs_of(card, spec, &(struct needs_rank){.gpu = true, .decode_memory = bytes}, &needs);
 *     needs_at(&job, 1, NULL, 0, blocks) + needs.home + blocks * needs.block <= memory ?
 *
 * The numbers come from the model's card (need_*), where the worker has put what it measured on paper (worker/needs.h). On a
 * CPU, where the ranks' memory is the host's, operands are twice as wide, weights as wide as they are stored, and frames
 * count. Rather too much than too little: constants of small videos are rounded up.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_NEEDS_H
#define REFRAIN_COORDINATOR_PLANNER_NEEDS_H

#include <stdbool.h>
#include <stdint.h>
#include "proto/refrain.pb-c.h"

struct needs_rank {
    bool gpu;
    uint64_t decode_memory; /* the most its decoder takes; 0: no limit */
};

/* Bytes. */
struct needs {
    bool sized; /* the card says what jobs take; otherwise only weights, frames and features are known */
    uint32_t experts;
    uint32_t operand_bytes; /* of an element inside a block */
    uint64_t block, home;   /* weights of a block, of one expert; of what only a home holds */
    uint64_t backend;       /* of any rank, for itself */
    uint64_t work;          /* of any rank with blocks: a pass */
    uint64_t job;           /* at home while steps are made: hops, latents, features */
    uint64_t text;          /* keys and values, for each block that a rank holds */
    uint64_t hop;           /* a stage's buffer */
    uint32_t branches;      /* hops that may be with a stage at once, for this job */
    uint64_t finish; /* at home after the steps, in place of `job` and `text`: the decoder, or the encoders */
    uint64_t film;   /* at home, all the time: frames, where they lie in the same memory */
};

/* spec NULL: no job, only weights. */
void needs_of(const Refrain__ModelCard *card, const Refrain__JobSpec *spec, const struct needs_rank *rank,
              struct needs *needs);
/* Of a job on stages so wide, as `refrain-worker --plan-memory --stage-width` has it: every rank exchanges heads, and a home deals
 * rows. elements: of a hidden state. */
void needs_widen(struct needs *needs, uint64_t elements, uint32_t width);
/* On one rank with so many blocks, beside weights: of jobs whose home it is and of those whose hops it takes. Of the former one
 * decodes while the others are at their steps, or all are. */
uint64_t needs_at(const struct needs *const homes[], uint32_t home_count, const struct needs *const stages[],
                  uint32_t stage_count, uint32_t blocks);

#endif
