/*
 * matmul.h - the stand-in for cuBLASLt from the inside: what a descriptor and a layout hold, and a checked
 * product.
 */
#ifndef REFRAIN_FAKEGPU_MATMUL_H
#define REFRAIN_FAKEGPU_MATMUL_H

#include "tests/fakegpu/include/cublasLt.h"

struct matmul_desc {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t pointer_mode, transpose_a, transpose_b, transpose_c;
    uint32_t epilogue;
    const void *bias;
    int32_t bias_type; /* -1: that of D */
};

struct matrix_layout {
    uint32_t type;
    int32_t order;
    uint64_t rows, columns;
    int64_t ld;
    int32_t batches;
    int64_t batch_stride;
};

struct matmul_preference {
    uint64_t workspace_bytes;
    uint32_t reduction_schemes;
};

/* An operand as the product sees it: element (i, k) is at data[i * row + k * column], float32 or bf16. */
struct operand {
    const void *data;
    cudaDataType_t type;
    int64_t row, column;
};

/* D [m, n], column-major as C; sums over k in `splits` parts, added in order. */
struct product {
    int64_t m, n, k;
    struct operand a, b; /* b: element (j, k) */
    const void *c, *bias;
    void *d;
    int64_t c_ld, d_ld;
    cudaDataType_t c_type, d_type, bias_type;
    float alpha, beta;
    const float *device_alpha, *device_beta; /* read when it runs, if not NULL */
    uint32_t epilogue;
    int tf32, splits;
};

/* product.c: on a stream's thread. */
void product_run(void *product);

#endif
