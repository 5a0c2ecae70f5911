/* needs.c - see needs.h. */
#include "coordinator/planner/needs.h"

#include <math.h>
#include <string.h>
#include "proto/caching.h"
#include "rules/piece.h"

/* HEADS: shares of a hidden state that a rank of a wide stage has for its exchanges (worker/ulysses.h). */
enum { CPU_OPERANDS = 2, GPU_OPERAND_BYTES = 2, HEADS = 7 };

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* As they are stored: what a GPU would make of them is not asked on a CPU, nor where the card does not say. */
static void weights_as_stored(const Refrain__ModelCard *card, struct needs *n)
{
    double hidden = (double)card->heads * card->head_dim;
    double parameter = card->parameter_count ? (double)card->weight_bytes / (double)card->parameter_count : 0;
    double block = (8 * hidden * hidden + 2 * hidden * card->ffn_dim) * parameter;
    n->block = (uint64_t)block;
    n->home = (uint64_t)fmax(0, (double)card->weight_bytes - card->layers * block * n->experts);
}

/* Of one that compares: the encoder's weights, and two streams of it within the limit. */
static uint64_t encode_of(const Refrain__ModelCard *card, uint64_t pixels, const struct needs_rank *rank)
{
    uint64_t streams = card->need_encode_pixel * pixels;
    return card->need_encode + (rank->decode_memory ? smaller(streams, rank->decode_memory) : streams);
}

static void job_of(const Refrain__ModelCard *card, const Refrain__JobSpec *spec,
                   const struct needs_rank *rank, struct needs *n)
{
    uint64_t tokens = (uint64_t)caching_tokens(spec, card), pixels = (uint64_t)spec->width * spec->height;
    uint64_t operands = rank->gpu ? 1 : CPU_OPERANDS,
             decode = card->need_decode + card->need_decode_pixel * pixels;
    n->branches = spec->guidance > 1 ? 2 : 1;
    n->work = operands * (card->need_work + card->need_work_token * tokens);
    n->job = n->branches * (card->need_branch + card->need_branch_token * tokens);
    n->text = operands * n->branches * card->need_text;
    n->hop = card->need_hop_token * tokens;
    n->finish = rank->decode_memory ? smaller(decode, rank->decode_memory) : decode;
    if (spec->compare) n->finish = larger(n->finish, encode_of(card, pixels, rank));
}

void needs_of(const Refrain__ModelCard *card, const Refrain__JobSpec *spec, const struct needs_rank *rank,
              struct needs *n)
{
    *n = (struct needs){.sized = card->has_need_block,
                        .experts = card->experts > 1 ? 2 : 1,
                        .operand_bytes = GPU_OPERAND_BYTES * (rank->gpu ? 1 : CPU_OPERANDS)};
    weights_as_stored(card, n);
    if (n->sized && rank->gpu) {
        n->block = card->need_block;
        n->home = card->need_home;
        n->backend = card->need_backend;
    }
    if (!spec) return;
    if (n->sized) job_of(card, spec, rank, n);
    n->job += caching_bytes(spec, card);
    if (!rank->gpu)
        n->film =
            3 * sizeof(float) * spec->frames * (uint64_t)spec->width * spec->height * (spec->compare ? 2 : 1);
}

void needs_widen(struct needs *n, uint64_t elements, uint32_t width)
{
    if (width < 2) return;
    n->work += HEADS * elements / width * n->operand_bytes;
    n->job += (n->branches * elements + elements / width) * sizeof(float);
}

/* While all make steps, or one is at its end. */
static uint64_t at_home(const struct needs *const jobs[], uint32_t count, uint32_t blocks)
{
    uint64_t films = 0, steps = 0, most;
    for (uint32_t i = 0; i < count; i++) {
        films += jobs[i]->film;
        steps += jobs[i]->job + blocks * jobs[i]->text;
    }
    most = steps;
    for (uint32_t i = 0; i < count; i++)
        most = larger(most, steps - jobs[i]->job - blocks * jobs[i]->text + jobs[i]->finish);
    return films + most;
}

static uint64_t at_stage(const struct needs *const jobs[], uint32_t count, uint32_t blocks)
{
    uint64_t text = 0, hop = 0;
    uint32_t hops = 0;
    for (uint32_t i = 0; i < count; i++) {
        hop = larger(hop, jobs[i]->hop);
        text += jobs[i]->text;
        hops += jobs[i]->branches;
    }
    return blocks * text + hop * smaller(hops, STAGE_BUFFERS);
}

uint64_t needs_at(const struct needs *const homes[], uint32_t home_count, const struct needs *const stages[],
                  uint32_t stage_count, uint32_t blocks)
{
    uint64_t work = 0, backend = 0;
    for (uint32_t i = 0; i < home_count + stage_count; i++) {
        const struct needs *job = i < home_count ? homes[i] : stages[i - home_count];
        work = larger(work, job->work);
        backend = job->backend;
    }
    return backend + work + at_home(homes, home_count, blocks) + at_stage(stages, stage_count, blocks);
}
