/*
 * guarded.h - a backend for tests that is as unlike the host as a device can be: it proves that nobody counts on
 * more than kernels/ops.h promises.
 *
 *     const struct ops *ops = guarded_ops(DTYPE_F32);       the fastest backend of the host, in disguise
 *
 * Addresses of MEMORY_DEVICE lie in pages that nobody may touch; what they stand for is elsewhere. Ops run on a
 * thread of its own, in order, as late as they can: at `wait`, or when too many are waiting. MEMORY_SHARED is
 * kept twice: what ops are going to write is NaN on the host's side until `wait`. A program that
 *   - touches memory of the device,
 *   - gives an op memory of the host, or more of a buffer than was allocated,
 *   - changes shared memory, or the host's own that is being copied, before `wait`,
 *   - gives memory back that ops may still use,
 *   - names a type that is neither float32 nor bf16
 * dies with a sentence, and one that reads too early reads NaN.
 *
 * With DTYPE_F32 results have the bits of the backend inside. With DTYPE_BF16 operands are 2 bytes wide, rounded to
 * nearest at every store.
 */
#ifndef REFRAIN_TESTS_GUARDED_H
#define REFRAIN_TESTS_GUARDED_H

#include "kernels/ops.h"

const struct ops *guarded_ops(dtype_t operand);

/* The backend that a test of all the worker computes with: the one of that name (NULL: auto); or, where
 * REFRAIN_GUARDED is set in the environment, this one (bf16 if it says so). */
const struct ops *guarded_or(const char *name);
/* ops_available, or that one alone. */
const struct ops *const *guarded_or_all(void);

/* The device fails after so many more ops and copies, of all teams together: none is done any more, and wait says
 * guarded_sentence. Memory is refused after so many more allocations. Negative: never, as at the beginning. */
void guarded_fail_after(int ops);
void guarded_refuse_after(int allocations);
extern const char guarded_sentence[];
/* Waits so far that found something to wait for, of all teams together. */
long guarded_waits(void);

#endif
