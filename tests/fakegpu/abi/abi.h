/*
 * abi.h - the facts of CUDA's binary interface that our headers in tests/fakegpu/include state, as a table:
 * compiled once against ours and once against the real headers, where there are any; tests/test_cuda_abi.c
 * compares.
 */
#ifndef REFRAIN_FAKEGPU_ABI_H
#define REFRAIN_FAKEGPU_ABI_H

struct abi_fact {
    const char *name;
    long value;
};

/* Both end with a name of NULL; abi_real has no entries where CUDA's headers are not installed. */
extern const struct abi_fact abi_ours[], abi_real[];

/* The same of cuDNN (cudnn_table.c). */
extern const struct abi_fact cudnn_ours[], cudnn_real[];

#endif
