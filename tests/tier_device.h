/*
 * tier_device.h - whole jobs with a level of the cache tier on a backend's device, for tests.
 *
 *     tier_device_check(guarded_ops(DTYPE_F32));
 *
 * Whatever fails, fails the test with a sentence.
 */
#ifndef REFRAIN_TESTS_TIER_DEVICE_H
#define REFRAIN_TESTS_TIER_DEVICE_H

#include "kernels/ops.h"

/* That jobs have the bits of one without a tier; that what they make is born on the device and copied to the host; that it
 * is found on the device, and there again after it had to go; and that the level takes its limit of the device, to the byte. */
void tier_device_check(const struct ops *ops);

#endif
