/*
 * calibration.h - what a model is calibrated with when nothing else is said: the same for everybody, so that what was
 * measured depends on the model and on numbers, and on nobody's words (docs/tier.md).
 *
 *     for (int i = 0; calibration_prompts[i]; i++) ...
 *
 * Pure values; client and worker use the same.
 */
#ifndef REFRAIN_CACHE_CALIBRATION_H
#define REFRAIN_CACHE_CALIBRATION_H

#include <stdbool.h>
#include <stdint.h>

/* Still and moving, one thing and many, plain and detailed; enough for averages that hold for other prompts. NULL at the
 * end. */
extern const char *const calibration_prompts[];

/* Is it one of these, with nothing to be avoided, from the noise that is the default? */
bool calibration_is_standard(const char *prompt, const char *negative, uint64_t seed);

#endif
