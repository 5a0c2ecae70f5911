/*
 * backends.h - the op tables this build contains; ops.c decides which of them this machine can run.
 */
#ifndef REFRAIN_KERNELS_BACKENDS_H
#define REFRAIN_KERNELS_BACKENDS_H

#include "kernels/ops.h"

extern const struct ops ops_ref;        /* ref.c */
extern const struct ops ops_cpu_avx2;   /* cpu/table.c, compiled with -mavx2 -mfma -mf16c */
extern const struct ops ops_cpu_avx512; /* cpu/table.c, compiled with -mavx512{f,bw,dq,vl} */

#endif
