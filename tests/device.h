/*
 * device.h - tensors of a test where any backend may read them, and back.
 *
 *     float *x = device_floats(ops, team, values, count);
 *     ... ops ...
 *     float *result = device_fetch(ops, team, x, count);          malloc'ed, after a wait
 *     device_free(ops, team, x);
 *
 * Whatever fails, fails the running test with a sentence.
 */
#ifndef REFRAIN_TESTS_DEVICE_H
#define REFRAIN_TESTS_DEVICE_H

#include "kernels/ops.h"

/* A team that was opened. */
struct team *device_team(const struct ops *ops, int threads);
void device_team_free(const struct ops *ops, struct team *team);

/* values: NULL for zeros. */
float *device_floats(const struct ops *ops, struct team *team, const float *values, int64_t count);
float *device_fetch(const struct ops *ops, struct team *team, const float *x, int64_t count);
void device_free(const struct ops *ops, struct team *team, void *memory); /* waits */
float *device_shared(const struct ops *ops, int64_t count);
void device_free_shared(const struct ops *ops, struct team *team, void *memory); /* waits */
void device_wait(const struct ops *ops, struct team *team);

#endif
