/*
 * ulysses.h - self-attention over tokens that lie on several ranks: rows for heads, and back.
 *
 *     ulysses_fit(u, &config, tokens, &error)                       room for that many tokens
 *     ulysses_begin(u, tokens);                                     a hop: this rank has rows shard_row(tokens, U, place) ...
 *     ulysses_give(u, team, ULYSSES_V, v, stride);                  and in each block: own rows of all heads leave,
 *     ... compute q meanwhile, give it, then k ...
 *     for (int group = 0; group < ulysses_groups(u); group++) {
 *         ulysses_heads(u, team, group, &attention);                all rows of some own heads are there
 *         ops->attention(team, &attention);
 *         ulysses_back(u, group);                                   ... and travel while the next ones are attended for
 *     }
 *     ulysses_rows(u, team, attended, stride);                      own rows of all heads again
 *     ulysses_join(u, sums, bytes, all)                             what the host has of own rows, of all rows
 *     ulysses_end(u, &error)                                        did all of it work?
 *
 * DeepSpeed-Ulysses (Jacobs et al., 2023). The U members of a wide stage (worker/model/model.h) form a circle; the member
 * at place p has the tokens' rows [S p / U, S (p + 1) / U) and, during attention, heads [H p / U, H (p + 1) / U): U divides
 * H, it need not divide S. Everything but attention over the tokens works row by row, and no head's result depends on
 * another, so where a row's bits depend on nothing beside it (kernels/ops.h) they are those of one rank.
 *
 * Four all-to-alls a block, and what of them is not hidden by computing: v travels while q is computed, q while k is, and where
 * two or more own heads make parts of engine->part_bytes or more, k and what was attended to are exchanged in two groups of
 * heads, so that the second group's k travels while the first is attended for, and the first's results while the second is
 * (docs/decisions.md, 80). What waits is the last group's.
 *
 * What is given leaves at once; a later call waits for it only when its memory is needed again. A failure (a lost member,
 * a deadline) is kept until ulysses_end, and nothing more is sent or waited for; what was computed is then worth nothing.
 * Belongs to an engine; compute thread.
 */
#ifndef REFRAIN_WORKER_ULYSSES_H
#define REFRAIN_WORKER_ULYSSES_H

#include "cluster/circle.h"
#include "kernels/ops.h"
#include "rules/wide.h"
#include "worker/model/config.h"

struct engine;
struct ulysses;

/* In the order in which they are given. */
enum ulysses_kind { ULYSSES_V, ULYSSES_Q, ULYSSES_K };

/* circle: of the stage's members, in the order of their rows; it must outlive this. */
status_t ulysses_create(struct engine *engine, struct circle *circle, struct ulysses **ulysses,
                        struct error *error);
void ulysses_destroy(struct ulysses *ulysses);       /* after wait; NULL is fine */
size_t ulysses_bytes(const struct ulysses *ulysses); /* of the device, that it has taken; NULL is fine */

/* Waits, and allocates, only for more tokens than ever before. */
status_t ulysses_fit(struct ulysses *ulysses, const struct denoiser_config *config, int tokens,
                     struct error *error);
void ulysses_begin(struct ulysses *ulysses, int tokens);

/* The own heads' groups, for the tokens at work. */
int ulysses_groups(const struct ulysses *ulysses);

/* rows: operands, a view [own rows, hidden] with a stride in elements; it may be written again after this. */
void ulysses_give(struct ulysses *ulysses, struct team *team, enum ulysses_kind kind, const void *rows,
                  int64_t stride);
/* Waits for what the others gave, and makes a->q, k, v and out, their strides, rows and heads those of all tokens and the
 * group's heads. The groups in their order. */
void ulysses_heads(struct ulysses *ulysses, struct team *team, int group, struct attention *a);
/* After that attention: its results leave. */
void ulysses_back(struct ulysses *ulysses, int group);
/* After all of them: waits for what the others attended to, and puts it into a view [own rows, hidden]. */
void ulysses_rows(struct ulysses *ulysses, struct team *team, void *rows, int64_t stride);

/* own: `bytes` for each own row, all: for each of all rows, in their order; memory of the host. Waits; false: it failed. */
bool ulysses_join(struct ulysses *ulysses, const void *own, size_t bytes, void *all);

bool ulysses_failed(const struct ulysses *ulysses);
/* After the last block; the memory is free again. Not STATUS_OK: the epoch is over for this rank. */
status_t ulysses_end(struct ulysses *ulysses, struct error *error);

#endif
