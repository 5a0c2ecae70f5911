/*
 * costs.c - see costs.h.
 *
 * Declared by the types of what they stand for: when one of those changes, this does not compile. A name that is not
 * called any more would be wrapped in vain; tests/test_sim_pipeline.c notices, as the time is then missing.
 */
#include "tools/sim/costs.h"

#include "tools/sim/world.h"
#include "worker/model/denoiser.h"
#include "worker/model/text_encoder.h"
#include "worker/model/vae.h"
#include "worker/ulysses.h"

/* What a block takes of a stage's member with a part of the rows. A rank that was lost leaves one behind. */
struct shard {
    const struct ulysses *of;
    int64_t block_ns, left_ns; /* of the block at work, what is not charged yet */
};

enum { SHARDS = 1024 };

static struct costs costs;
static struct shard shards[SHARDS];
static int shard_count;

__typeof__(denoiser_blocks) __real_denoiser_blocks, __wrap_denoiser_blocks;
__typeof__(denoiser_embed) __real_denoiser_embed, __wrap_denoiser_embed;
__typeof__(denoiser_output) __real_denoiser_output, __wrap_denoiser_output;
__typeof__(text_encoder_layer) __real_text_encoder_layer, __wrap_text_encoder_layer;
__typeof__(vae_decode) __real_vae_decode, __wrap_vae_decode;
__typeof__(ulysses_give) __real_ulysses_give, __wrap_ulysses_give;
__typeof__(ulysses_heads) __real_ulysses_heads, __wrap_ulysses_heads;
__typeof__(ulysses_rows) __real_ulysses_rows, __wrap_ulysses_rows;

void costs_set(const struct costs *wanted)
{
    costs = *wanted;
    shard_count = 0;
}

void costs_charge_film(void)
{
    world_charge(costs.film_ns);
}

static int64_t for_rows(int64_t ns, const struct denoiser_work *work)
{
    return costs.rows ? ns * work->rows / costs.rows : ns;
}

/* Each row looks at all tokens. */
static int64_t attention_ns(const struct denoiser_work *work)
{
    int64_t tokens = (int64_t)work->grid.frames * work->grid.height * work->grid.width;
    return costs.rows ? for_rows(costs.square_ns, work) * tokens / costs.rows : costs.square_ns;
}

static struct shard *shard_of(const struct ulysses *ulysses)
{
    for (int i = 0; i < shard_count; i++)
        if (shards[i].of == ulysses) return &shards[i];
    struct shard *shard = &shards[shard_count < SHARDS ? shard_count++ : SHARDS - 1];
    *shard = (struct shard){.of = ulysses};
    return shard;
}

/* share: of the piece. */
static void charge_piece(struct shard *shard, int piece, double share)
{
    int64_t ns = (int64_t)((double)shard->block_ns * costs.piece[piece] * share);
    world_charge(ns);
    shard->left_ns -= ns;
}

void __wrap_ulysses_give(struct ulysses *ulysses, struct team *team, enum ulysses_kind kind, const void *rows,
                         int64_t stride)
{
    struct shard *shard = shard_of(ulysses);
    if (kind == ULYSSES_V) shard->left_ns = shard->block_ns;
    charge_piece(shard, kind == ULYSSES_V ? COST_GIVE_V : kind == ULYSSES_Q ? COST_GIVE_Q : COST_GIVE_K, 1);
    __real_ulysses_give(ulysses, team, kind, rows, stride);
}

/* The attention for a group of the own heads is between this and the group's way back. */
void __wrap_ulysses_heads(struct ulysses *ulysses, struct team *team, int group, struct attention *attention)
{
    __real_ulysses_heads(ulysses, team, group, attention);
    double width = (double)attention->heads * attention->head_dim;
    charge_piece(shard_of(ulysses), COST_HEADS, width / (double)attention->q_stride);
}

void __wrap_ulysses_rows(struct ulysses *ulysses, struct team *team, void *rows, int64_t stride)
{
    __real_ulysses_rows(ulysses, team, rows, stride);
    world_charge(shard_of(ulysses)->left_ns);
}

void __wrap_denoiser_blocks(const struct denoiser *denoiser, struct team *team,
                            const struct denoiser_work *work, const struct denoiser_context *context,
                            const float *modulation, float *x, int first, int count,
                            _Atomic uint64_t *progress)
{
    int64_t block_ns = for_rows(costs.block_ns, work) + attention_ns(work);
    if (work->ulysses)
        shard_of(work->ulysses)->block_ns = block_ns;
    else
        world_charge(block_ns * count);
    __real_denoiser_blocks(denoiser, team, work, context, modulation, x, first, count, progress);
}

void __wrap_denoiser_embed(const struct denoiser *denoiser, struct team *team,
                           const struct denoiser_work *work, const float *latent, float *x)
{
    world_charge(for_rows(costs.embed_ns, work));
    __real_denoiser_embed(denoiser, team, work, latent, x);
}

void __wrap_denoiser_output(const struct denoiser *denoiser, struct team *team,
                            const struct denoiser_work *work, const float *modulation, const float *x,
                            float *velocity)
{
    world_charge(for_rows(costs.output_ns, work));
    __real_denoiser_output(denoiser, team, work, modulation, x, velocity);
}

bool __wrap_text_encoder_layer(struct text_run *run, struct team *team)
{
    world_charge(costs.text_ns);
    return __real_text_encoder_layer(run, team);
}

status_t __wrap_vae_decode(struct vae_stream *stream, struct team *team, const float *latents,
                           int latent_frames, int t, float *frames, struct error *error)
{
    world_charge(costs.frame_ns);
    return __real_vae_decode(stream, team, latents, latent_frames, t, frames, error);
}
