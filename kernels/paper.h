/*
 * paper.h - a backend on paper: counts the memory that the cuda backend would take, and computes nothing.
 *
 *     struct ledger ledger = {0};
 *     paper_enter(&ledger);                    from here on this thread allocates for that rank
 *     ... model_load, job_create, job_advance with paper_ops() ...
 *     ledger.most_device                       what the rank will take, as the same code ran
 *
 * Memory of the device is addresses that nobody may touch; shared memory is real, and free until it is written. Weights are
 * neither read nor held: a checkpoint may be heads of files without data. What ops would have written is not.
 * Any thread; a ledger is one thread's at a time, and outlives what was allocated for it.
 */
#ifndef REFRAIN_KERNELS_PAPER_H
#define REFRAIN_KERNELS_PAPER_H

#include "kernels/ledger.h"

const struct ops *paper_ops(void);
void paper_enter(struct ledger *ledger);
/* What the cuda backend takes for itself in a rank: a team's workspace, pinned buffers. */
size_t paper_own_bytes(enum memory kind);

#endif
