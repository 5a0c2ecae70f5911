/*
 * counting.h - any backend, with what it allocates counted by the thread that asks for it.
 *
 *     const struct ops *ops = counting_ops(guarded_ops(DTYPE_BF16));
 *     counting_enter(&ledger);                     this thread's from here on
 *
 * What is released is given back to the ledger it was taken from, whoever releases it. One backend at a time.
 */
#ifndef REFRAIN_TESTS_COUNTING_H
#define REFRAIN_TESTS_COUNTING_H

#include "kernels/ledger.h"

const struct ops *counting_ops(const struct ops *inner);
void counting_enter(struct ledger *ledger);

#endif
