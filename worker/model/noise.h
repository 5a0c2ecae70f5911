/*
 * noise.h - the starting noise, bit-equal to torch's CPU generator.
 *
 *     noise_fill(seed, latent, count);  == torch.randn(count, generator=torch.Generator().manual_seed(seed))
 *
 * Pure function of its arguments; any thread.
 */
#ifndef REFRAIN_WORKER_MODEL_NOISE_H
#define REFRAIN_WORKER_MODEL_NOISE_H

#include <stdint.h>

/* This generator's number among the facts that keys are made from (cache/tier/key.h): another one has another. */
enum { NOISE_GENERATOR = 1 };

/* Float32 N(0, 1); only the low 32 bits of the seed matter, as in torch. Sources and recipe: noise.c. */
void noise_fill(uint64_t seed, float *out, int64_t count);

#endif
