/*
 * denoiser.h - WanTransformer3DModel, cut into the pieces a pipeline of ranks needs.
 *
 *     home:   denoiser_text(d, team, rows, n, text)                 prompt rows -> what cross-attention sees
 *     all:    denoiser_context_create(d, team, text, n, &context)   keys and values of the text, once per job
 *     home:   denoiser_time(d, team, t, &modulation)                once per step
 *     home:   denoiser_embed(d, team, work, latent, x)
 *     any:    denoiser_blocks(d, team, work, context, modulation.blocks, x, first, count)
 *     home:   denoiser_output(d, team, work, modulation.output, x, velocity)
 *
 * Names: `hidden` is heads * head_dim; S the number of tokens of a video; token (t, y, x) is row (t * gy + y)
 * * gx + x. Tensors are memory of the backend, and what is said here is under way when a function returns
 * (kernels/ops.h). All are float32, but for what a block's layers hand to each other: that is of
 * the backend's type `operand`. Formulas: diffusers' transformer_wan.py (Wan 2.1), read from the
 * checkpoint's config.json. A denoiser holds weights only and is shared by all jobs of a rank; a workspace is
 * used by one call at a time.
 */
#ifndef REFRAIN_WORKER_MODEL_DENOISER_H
#define REFRAIN_WORKER_MODEL_DENOISER_H

#include "base/arena.h"
#include "kernels/ops.h"
#include "worker/model/config.h"

struct denoiser;
struct denoiser_context;
struct ulysses;

/* Which weights to hold: any set of blocks (one bit of `wanted` per block), and the ends only home needs
 * (embeddings, output layer). */
struct denoiser_part {
    const bool *wanted; /* [layers] */
    bool ends;
};

/* Token lattice of one video size. */
struct token_grid {
    int frames, height, width; /* in tokens */
};

static inline int token_count(const struct token_grid *grid)
{
    return grid->frames * grid->height * grid->width;
}

static inline bool token_grid_equal(const struct token_grid *a, const struct token_grid *b)
{
    return a->frames == b->frames && a->height == b->height && a->width == b->width;
}

/* What one forward works with: a grid with its tables, and buffers inside an arena of the caller that are large
 * enough for it. */
struct denoiser_work {
    struct token_grid grid;
    const float *cosines, *sines; /* [S, head_dim / 2] rotary tables of this grid (worker/model/rotary.h) */
    /* Blocks work on rows [first_row, first_row + rows) of the grid, and x has those alone: all of them, or a shard,
     * whose other rows are where `ulysses` finds them (worker/ulysses.h); NULL: x has all. */
    int first_row, rows;
    struct ulysses *ulysses;
    /* operands */
    void *norm;     /* [S, hidden] */
    void *qkv;      /* [S, 3 hidden] */
    void *attended; /* [S, hidden] */
    void *middle;   /* [ffn_rows, ffn_dim] */
    /* float32 */
    float *input;      /* [S, hidden], see denoiser_first_input; in the memory of qkv */
    float *modulation; /* [6, hidden] of the block at work */
    float *patches;    /* [S, max(in, out) channels * patch] */
    int ffn_rows;
};

/* What a step's timestep makes. */
struct denoiser_modulation {
    float *wave;   /* [freq_dim], MEMORY_SHARED: written at once and read until the next wait */
    float *output; /* [hidden]: for the output layer */
    float *blocks; /* [6, hidden]: shift, scale, gate before attention; shift, scale, gate before the
                      feed-forward */
};

/* directory: the component's own ("…/transformer"). Touches only the tensors of `part`. */
status_t denoiser_load(const char *directory, const struct denoiser_config *config, const struct ops *ops,
                       struct team *team, const struct denoiser_part *part, struct denoiser **denoiser,
                       struct error *error);
void denoiser_destroy(struct denoiser *denoiser);       /* after wait; NULL is fine */
size_t denoiser_bytes(const struct denoiser *denoiser); /* of weights held */
/* Checks name, shape and type of every tensor of the whole model; reads no data. */
status_t denoiser_inspect(const char *directory, const struct denoiser_config *config, struct error *error);

/* Takes buffers for any grid of at most `rows` tokens from `arena` (see arena.h: call once to measure, once for
 * real). Grid and tables are the caller's to set. */
void denoiser_work_lay_out(struct arena *arena, const struct denoiser_config *config, dtype_t operand,
                           int rows, struct denoiser_work *work);

/* Rows of text a branch attends to: the prompt's n rows and, when n < text_length, one row that stands for
 * all padding. */
int denoiser_text_rows(int n, int text_length);

/* rows: [n, text_dim] of the text encoder. out: [denoiser_text_rows(n), hidden]; it is there on return. Needs
 * the ends. */
status_t denoiser_text(const struct denoiser *denoiser, struct team *team, const float *rows, int n,
                       int text_length, float *out, struct error *error);

/* text: as made by denoiser_text for a prompt of n rows; made into keys and values of the blocks held, to stay
 * until wait. */
status_t denoiser_context_create(const struct denoiser *denoiser, struct team *team, const float *text, int n,
                                 int text_length, struct denoiser_context **context, struct error *error);
/* The same for some of the blocks, as far as they are held. wanted: [layers] */
status_t denoiser_context_create_of(const struct denoiser *denoiser, struct team *team, const float *text,
                                    int n, int text_length, const bool *wanted,
                                    struct denoiser_context **context, struct error *error);
void denoiser_context_destroy(struct denoiser_context *context); /* after wait; NULL is fine */
/* Whose weights they were made with, and whose blocks alone they are for: a model may have several denoisers. */
const struct denoiser *denoiser_of(const struct denoiser_context *context);

/* timestep in 0..1000. output [hidden], blocks [6, hidden]. Needs the ends. */
void denoiser_time(const struct denoiser *denoiser, struct team *team, float timestep,
                   const struct denoiser_modulation *out);

/* latent: [in_channels, frames * pt, height * py, width * px]; x: [S, hidden]. */
void denoiser_embed(const struct denoiser *denoiser, struct team *team, const struct denoiser_work *work,
                    const float *latent, float *x);

/* What block 0's self-attention sees: its normalised, modulated input [S, hidden], into work->input; the signal
 * of several caching policies. Needs the ends; x is not changed. */
void denoiser_first_input(const struct denoiser *denoiser, struct team *team,
                          const struct denoiser_work *work, const float *modulation, const float *x);

/* Runs blocks first .. first + count - 1, all of them held, on x [work->rows, hidden] in place. `progress` (may be
 * NULL) is increased after each block was called, for heartbeats. With work->ulysses it waits for the other members of
 * the stage, and stops early if that fails: ulysses_end tells. */
void denoiser_blocks(const struct denoiser *denoiser, struct team *team, const struct denoiser_work *work,
                     const struct denoiser_context *context, const float *modulation, float *x, int first,
                     int count, _Atomic uint64_t *progress);

/* velocity: [out_channels, frames * pt, height * py, width * px]. */
void denoiser_output(const struct denoiser *denoiser, struct team *team, const struct denoiser_work *work,
                     const float *modulation, const float *x, float *velocity);

#endif
