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

static struct costs costs;

__typeof__(denoiser_blocks) __real_denoiser_blocks, __wrap_denoiser_blocks;
__typeof__(denoiser_embed) __real_denoiser_embed, __wrap_denoiser_embed;
__typeof__(denoiser_output) __real_denoiser_output, __wrap_denoiser_output;
__typeof__(text_encoder_layer) __real_text_encoder_layer, __wrap_text_encoder_layer;
__typeof__(vae_decode) __real_vae_decode, __wrap_vae_decode;

void costs_set(const struct costs *wanted)
{
    costs = *wanted;
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

void __wrap_denoiser_blocks(const struct denoiser *denoiser, struct team *team,
                            const struct denoiser_work *work, const struct denoiser_context *context,
                            const float *modulation, float *x, int first, int count,
                            _Atomic uint64_t *progress)
{
    world_charge((for_rows(costs.block_ns, work) + attention_ns(work)) * count);
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
